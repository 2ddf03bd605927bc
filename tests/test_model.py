"""The network: which weights get in, what a saved model gives back, and what is refused.

In: weights files in each of Keras's formats, made here; damaged and hostile model files. Out: equal
numbers, or a Problem that names the file.
"""

import dataclasses
import functools
import io
import json
import subprocess
import sys
import types
import zipfile
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest

from digitlib import Problem, engine, model
from digitlib.settings import CHOICES, Settings, stride

SMALL = Settings(weights="none", width=0.1, patch_size=64, scale=0.5)
WIDE = dataclasses.replace(SMALL, width=0.35, layer="out_relu")  # the smallest Keras distributes
ONCE = functools.cache(model._mobilenet)  # building one takes a second
NAMES = ["01", "02", "ä b"]


def mobilenet(width: float) -> keras.Model:
    """The whole MobileNetV2 without its top, as keras.applications builds it, weights drawn."""
    network = keras.applications.MobileNetV2(
        input_shape=(96, 96, 3), alpha=width, include_top=False, weights=None
    )
    rng = np.random.default_rng(1)
    drawn = []
    for array in network.get_weights():
        if array.ndim == 4:  # a kernel; a depthwise one, whose last axis is 1, sees one channel
            fan_in = np.prod(array.shape[: 3 if array.shape[3] > 1 else 2])
            drawn.append(rng.normal(0, np.sqrt(2 / fan_in), array.shape))
        else:  # of BatchNorm
            drawn.append(rng.uniform(0.5, 1.5, array.shape))
    network.set_weights(drawn)
    return network


def legacy(network: keras.Model, path: Path) -> Path:
    """The HDF5 layout in which keras.applications distributes its weights."""
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [layer.name.encode() for layer in network.layers]
        file.attrs["backend"] = b"tensorflow"
        file.attrs["keras_version"] = b"2.2.0"
        for layer in network.layers:
            group = file.create_group(layer.name)
            variables = layer.trainable_weights + layer.non_trainable_weights
            names = [f"{layer.name}/{variable.name}:0" for variable in variables]
            group.attrs["weight_names"] = [name.encode() for name in names]
            for name, variable in zip(names, variables, strict=True):
                group.create_dataset(name, data=keras.ops.convert_to_numpy(variable))
    return path


@pytest.fixture(scope="module")
def whole() -> keras.Model:
    return mobilenet(0.35)


@pytest.fixture(scope="module")
def weights_files(whole, tmp_path_factory) -> dict[str, Path]:
    """One network's weights in every form that WEIGHTS may name."""
    folder = tmp_path_factory.mktemp("weights")
    paths = {
        "v3": folder / "whole.weights.h5",
        "keras": folder / "whole.keras",
        "legacy": folder / "whole_no_top.h5",
        "trunk": folder / "trunk.weights.h5",
    }
    whole.save_weights(paths["v3"])
    whole.save(paths["keras"])
    legacy(whole, paths["legacy"])
    model.read_at(whole, model.TRUNK_LAYER).save_weights(paths["trunk"])
    return paths


def by_layer(network: keras.Model) -> dict[str, list[np.ndarray]]:
    return {layer.name: layer.get_weights() for layer in network.layers if layer.weights}


# --- backbones --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("form", "layer", "last"),
    [
        ("v3", "out_relu", "Conv_1_bn"),  # all of it
        ("v3", "block_6_expand_relu", "block_6_expand_BN"),  # a part of it
        ("keras", "block_6_expand_relu", "block_6_expand_BN"),
        ("legacy", "out_relu", "Conv_1_bn"),
        ("trunk", "block_6_expand_relu", "block_6_expand_BN"),
        ("trunk", "block_1_expand_relu", "block_1_expand_BN"),  # within the trunk
    ],
)
def test_weights_from_a_file(weights_files, whole, form, layer, last):
    settings = dataclasses.replace(WIDE, weights=str(weights_files[form]), layer=layer)
    got, wanted = by_layer(model.backbone(settings)), by_layer(whole)
    names = list(wanted)
    assert list(got) == names[: names.index(last) + 1]
    for name, arrays in got.items():
        for mine, its in zip(arrays, wanted[name], strict=True):
            assert np.array_equal(mine, its), name


def test_features_are_those_of_the_file_s_network(weights_files, whole):
    """Not only the weights: 32 px patches through digitlib and through Keras's own model agree."""
    settings = dataclasses.replace(WIDE, weights=str(weights_files["legacy"]), patch_size=192)
    patches = np.random.default_rng(2).integers(0, 256, (2, 96, 96, 1)).astype(np.uint8)
    got = model.build(3, settings).features.predict_on_batch(patches)
    scaled = np.repeat(patches.astype(np.float32) / 127.5 - 1, 3, axis=-1)
    wanted = whole.predict_on_batch(scaled).mean(axis=(1, 2))
    assert got.shape == (2, 1280) and np.abs(got[0] - got[1]).max() > 0.01
    np.testing.assert_allclose(got, wanted, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("name", "content", "changes", "complaint"),
    [
        ("gone.weights.h5", None, {}, "no file, and none of handwriting, imagenet, none"),
        ("imagnet", None, {}, "none of handwriting, imagenet, none"),  # a near miss
        ("", None, {}, "is no file"),
        ("w.txt", b"x", {}, r"ends in .weights.h5, .h5 or .keras"),
        ("w.npz", b"x", {}, r"ends in .weights.h5"),
        ("w.weights.h5", b"", {}, "does not fit"),  # zero bytes
        ("w.h5", b"junk", {}, "does not fit"),
        ("w.keras", b"junk", {}, "does not fit"),  # no zip
        ("v3", "cut", {}, "does not fit"),  # half a download
        ("keras", "cut", {}, "does not fit"),
        ("v3", "as it is", {"width": 0.5}, "does not fit MobileNetV2 of WIDTH 0.5"),
        ("legacy", "as it is", {"width": 0.5}, "does not fit MobileNetV2 of WIDTH 0.5"),
        ("keras", "as it is", {"width": 0.5}, "does not fit MobileNetV2 of WIDTH 0.5"),
        ("trunk", "as it is", {"width": 0.5}, "does not fit MobileNetV2 of WIDTH 0.5"),
        ("trunk", "as it is", {"layer": "out_relu"}, "reaches block_6_expand_relu.*lies beyond"),
        ("trunk", "as it is", {"layer": "block_7_expand_relu"}, "lies beyond"),
    ],
)
def test_weights_that_do_not_fit_are_refused(
    weights_files, tmp_path, monkeypatch, name, content, changes, complaint
):
    monkeypatch.setattr(model, "_mobilenet", ONCE)  # nothing gets in, so nothing is mixed up
    path = tmp_path / name
    if name in weights_files:
        path = tmp_path / weights_files[name].name
        data = weights_files[name].read_bytes()
        path.write_bytes(data[: len(data) // 2] if content == "cut" else data)
    elif content is not None:
        path.write_bytes(content)
    settings = dataclasses.replace(WIDE, **({"weights": str(path) if name else ""} | changes))
    with pytest.raises(Problem, match=complaint) as caught:
        model.backbone(settings)
    assert path.name in str(caught.value) or not name
    assert "\n" not in str(caught.value)


def test_an_hdf5_file_without_weights_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(model, "_mobilenet", ONCE)
    for name in "empty.h5", "empty.weights.h5":
        with h5py.File(tmp_path / name, "w") as file:
            file.attrs["title"] = "measurements"
        with pytest.raises(Problem, match=f"{name} does not fit"):
            model.backbone(dataclasses.replace(WIDE, weights=str(tmp_path / name)))


def test_imagenet_without_a_network_names_both_ways_out(monkeypatch):
    def offline(name, origin=None, **_):
        raise Exception(f"URL fetch failure on {origin}: None -- no route to host")

    for module in (keras.utils, keras.src.utils.file_utils):
        monkeypatch.setattr(module, "get_file", offline)
    settings = dataclasses.replace(SMALL, weights="imagenet", width=1.0, patch_size=192)
    with pytest.raises(Problem, match="WEIGHTS imagenet") as caught:
        model.backbone(settings)
    message = str(caught.value)
    assert "URL fetch failure on https://storage.googleapis.com" in message  # why
    assert "MobileNetV2 no-top weights file" in message and "WEIGHTS handwriting" in message


def test_imagenet_of_a_width_that_nobody_trained_is_no_matter_of_the_network():
    settings = dataclasses.replace(SMALL, weights="imagenet", width=0.6, patch_size=192)
    with pytest.raises(Problem, match="for WIDTH 0.35, 0.5, 0.75, 1.0, 1.3, 1.4, not 0.6"):
        model.backbone(settings)


def test_imagenet_reads_what_keras_downloads(monkeypatch, weights_files, whole):
    asked = []

    def download(name, origin, **_):
        asked.append(origin)
        return str(weights_files["legacy"])

    monkeypatch.setattr(keras.src.utils.file_utils, "get_file", download)
    core = model.backbone(dataclasses.replace(WIDE, weights="imagenet", patch_size=192))
    assert len(asked) == 1 and asked[0].endswith("_0.35_96_no_top.h5")
    for name, arrays in by_layer(core).items():
        for mine, its in zip(arrays, by_layer(whole)[name], strict=True):
            assert np.array_equal(mine, its), name


@pytest.mark.parametrize(
    ("size", "layer", "shape"),
    [
        (32, "block_6_expand_relu", (4, 4, 48)),  # width 0.1: 8 channels, expanded by 6
        (64, "block_6_expand_relu", (8, 8, 48)),
        (96, "block_6_expand_relu", (12, 12, 48)),
        (64, "out_relu", (2, 2, 1280)),  # MobileNetV2 never narrows its last layer
        (33, "block_6_expand_relu", (5, 5, 48)),  # an odd size is padded
    ],
)
def test_trunk_shapes(size, layer, shape):
    assert model.trunk(size, 0.1, layer).output_shape == (None, *shape)


# --- the whole network ------------------------------------------------------------------------


def test_strides_are_those_of_mobilenet():
    """Of every layer that can be read, on the map that Keras makes of 64 px a side."""
    network = keras.applications.MobileNetV2((64, 64, 3), 0.35, include_top=False, weights=None)
    for layer in CHOICES["layer"]:
        assert stride(layer) == 64 // network.get_layer(layer).output.shape[1], layer


@pytest.fixture(scope="module")
def network() -> model.Network:
    return model.build(len(NAMES), SMALL)


def patches(n: int = 4) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (n, 32, 32, 1)).astype(np.uint8)


def test_parts_are_parts_of_the_whole(network):
    logits = network.whole.predict_on_batch(patches())
    assert logits.shape == (4, 3) and logits.dtype == np.float32
    features = network.features.predict_on_batch(patches())
    np.testing.assert_allclose(network.head.predict_on_batch(features), logits, atol=1e-6)
    assert network.whole.count_params() == network.features.count_params() + 48 * 2 + 48 * 3 + 3


def test_paper_is_one_and_ink_minus_one(network):
    """Scaling to [-1, 1] is in the model."""
    tones = np.stack([np.full((32, 32, 1), tone, np.uint8) for tone in (0, 255)])
    taken, wanted = (
        network.features.predict_on_batch(tones),
        network.backbone.predict_on_batch(
            np.stack([np.full((32, 32, 3), tone, np.float32) for tone in (-1, 1)])
        ).mean(axis=(1, 2)),
    )
    np.testing.assert_allclose(taken, wanted, atol=1e-6)


def test_what_is_drawn_is_a_function_of_the_seed():
    """Whatever others draw, and from which state; NumPy's is left alone."""

    def built(state: int, seed: int) -> list[np.ndarray]:
        keras.utils.set_random_seed(state)
        before = np.random.get_state()[1].tolist()
        network = model.build(3, dataclasses.replace(SMALL, weights="none", seed=seed)).whole
        assert np.random.get_state()[1].tolist() == before
        return network.get_weights()

    one, again, other = built(7, 1), built(8, 1), built(7, 2)
    assert all(map(np.array_equal, one, again))
    for item, differs in zip(one, other, strict=True):
        constant = item.std() == 0  # biases, and what BatchNorm starts from
        assert np.array_equal(item, differs) == constant
    kernels = [item for item in one if item.ndim == 4]
    assert len(kernels) > 15 and len({item.flat[0].item() for item in kernels}) == len(kernels)
    for item in kernels:  # Glorot and Bengio 2010: uniform, up to the root of 6 / (in + out)
        spots, (n_in, n_out) = item.shape[0] * item.shape[1], item.shape[2:]
        most = np.sqrt(6 / (spots * (n_in + n_out)))
        assert 0.8 * most < np.abs(item).max() <= most


def test_the_head_alone_is_drawn_where_the_backbone_has_weights():
    settings = dataclasses.replace(SMALL, weights="handwriting", width=0.5)
    one, other = (model.build(3, dataclasses.replace(settings, seed=s)).whole for s in (1, 2))
    same = map(np.array_equal, one.get_weights(), other.get_weights())
    drawn = [item.path for item, own in zip(one.weights, same, strict=True) if not own]
    assert len(drawn) == 1 and "logits" in drawn[0] and "kernel" in drawn[0]


def test_features_are_spread_out_by_a_mean_and_a_variance_that_are_set():
    network = model.build(3, SMALL)
    features = network.features.predict_on_batch(patches())
    before = np.asarray(network.head.predict_on_batch(features))  # 0 and 1: as they are
    kernel, bias = network.head.get_layer("logits").get_weights()
    np.testing.assert_allclose(before, features @ kernel + bias, atol=1e-4)
    network.spread.set_weights([np.full(48, 0.5), np.full(48, 4.0)])
    after = network.head.predict_on_batch(features)
    np.testing.assert_allclose(after, (features - 0.5) / 2 @ kernel + bias, atol=1e-4)


def test_mixed_precision_is_this_network_s_alone():
    mixed = model.build(3, dataclasses.replace(SMALL, mixed_precision=True))
    assert {layer.compute_dtype for layer in mixed.backbone.layers} == {"float16"}
    assert mixed.whole.predict_on_batch(patches()).dtype == np.float32  # logits stay exact
    assert keras.config.dtype_policy().name == "float32"


# --- saving and loading -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def saved(network, tmp_path_factory) -> Path:
    settings = dataclasses.replace(SMALL, seed=7, weights="handwriting")
    return model.save(network.whole, NAMES, settings, tmp_path_factory.mktemp("m") / "model.keras")


def test_round_trip(saved, network):
    again, classes, settings = model.load(saved)
    wanted = network.whole.predict_on_batch(patches())
    assert np.array_equal(again.predict_on_batch(patches()), wanted)
    assert classes == NAMES
    assert settings == dataclasses.replace(SMALL, seed=7, weights="handwriting")
    assert [path.name for path in saved.parent.iterdir()] == ["model.keras"]


def test_keras_reads_the_file_too(saved, network):
    again = keras.models.load_model(saved)
    wanted = network.whole.predict_on_batch(patches())
    assert np.array_equal(again.predict_on_batch(patches()), wanted)


@pytest.mark.skipif(not engine.reads_networks(), reason="needs TensorFlow and OpenVINO")
def test_other_backends_have_their_graphs_made_by_tensorflow(network, tmp_path, monkeypatch):
    """By a process of its own: here, too, as if this one's Keras had another backend."""
    monkeypatch.setattr(engine, "reads_networks", lambda: False)
    shift = [1.0, 2.0, 3.5]
    path = model.save(network.whole, NAMES, SMALL, tmp_path / "model.keras", shift)
    wanted = network.whole.predict_on_batch(patches())
    read = engine.Engine(path, engine.PATCHES, precise=True)
    np.testing.assert_allclose(read(patches()), wanted, atol=1e-4)
    once = engine.Engine(path, engine.ONE_PASS)
    assert once.shift.tolist() == shift


def test_a_model_without_graphs_is_kept_and_says_so(network, tmp_path, monkeypatch):
    monkeypatch.setattr(engine, "reads_networks", lambda: False)

    def run(command: list[str], **how) -> None:
        Path(command[-1]).write_bytes(b"half of it")
        raise subprocess.CalledProcessError(1, command, stderr="Traceback\nOSError: disk full\n")

    monkeypatch.setattr(model.importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(model.subprocess, "run", run)
    with pytest.warns(UserWarning, match="no graph for OpenVINO: OSError: disk full"):
        path = model.save(network.whole, NAMES, SMALL, tmp_path / "model.keras")
    assert model.load(path)[1] == NAMES
    assert not engine.has_graph(path, engine.PATCHES)
    assert list(tmp_path.iterdir()) == [path]


def rewritten(path: Path, members: dict[str, bytes | None]) -> bytes:
    """The zip file at ``path`` with ``members`` replaced, or left out (None)."""
    made = io.BytesIO()
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(made, "w") as new:
        for name in old.namelist():
            if name not in members:
                new.writestr(name, old.read(name))
        for name, data in members.items():
            if data is not None:
                new.writestr(name, data)
    return made.getvalue()


def card(**changes) -> bytes:
    """A card like `save` writes, with ``changes``."""
    good = {"format": model.FORMAT, "classes": NAMES, "settings": dataclasses.asdict(SMALL)}
    return json.dumps(good | changes).encode()


def with_settings(**changes) -> bytes:
    return card(settings=dataclasses.asdict(SMALL) | changes)


@pytest.mark.parametrize(
    "members",
    [
        {model.CARD: None},  # a .keras file of somebody else's
        {model.CARD: b""},
        {model.CARD: b"{"},
        {model.CARD: b"\xff\xfe"},  # no UTF-8
        {model.CARD: b"null"},
        {model.CARD: b"[]"},
        {model.CARD: b"[" * 100_000},  # deeper than a parser likes
        {model.CARD: b"{}"},  # no class names
        {model.CARD: card(classes="ab")},  # text is a sequence of short strings too
        {model.CARD: card(classes=3)},
        {model.CARD: card(format=1)},  # of the time before intra-normalisation
        {model.CARD: card(classes=None)},
        {model.CARD: card(classes={"01": 1, "02": 2, "03": 3})},
        {model.CARD: card(classes=[1, 2, 3])},
        {model.CARD: card(classes=["01", "02", ""])},
        {model.CARD: card(classes=["01", "02", "x" * 65])},
        {model.CARD: card(classes=["01", "02", "02"])},  # one name twice
        {model.CARD: card(classes=["01"])},  # nothing to tell apart
        {model.CARD: card(classes=[])},
        {model.CARD: card(classes=["01", "02"])},  # the weights are of three
        {model.CARD: card(settings=None)},
        {model.CARD: card(settings=[])},
        {model.CARD: with_settings(patch_size="64")},
        {model.CARD: with_settings(patch_size=1e9)},
        {model.CARD: with_settings(split="x")},
        {model.CARD: with_settings(scale=10**400)},  # no float holds it
        {model.CARD: with_settings(brightness=1)},  # a setting that there is not
        {model.CARD: with_settings(layer="../../etc/passwd")},
        {model.CARD: with_settings(width=0.35)},  # the weights are of 0.1
        {"model.weights.h5": None},
        {"model.weights.h5": b"junk"},
    ],
    ids=lambda members: str(next(iter(members.items())))[:60],
)
def test_a_model_file_that_digitlib_did_not_save_is_refused(saved, tmp_path, members):
    path = tmp_path / "bad.keras"
    path.write_bytes(rewritten(saved, members))
    with pytest.raises(Problem, match="bad.keras"):
        model.load(path)


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (lambda data: b"", "not a model"),
        (lambda data: b"junk", "not a model"),
        (lambda data: data[: len(data) // 2], "not a model"),  # cut off: the directory is gone
        (lambda data: data[-200:], "not a model"),  # the directory alone
        (lambda data: data.replace(b'"classes"', b'"classen"'), "bad.keras"),
    ],
)
def test_a_damaged_file_is_refused(saved, tmp_path, damage, complaint):
    path = tmp_path / "bad.keras"
    plain = rewritten(saved, {})
    path.write_bytes(damage(plain))
    with pytest.raises(Problem, match=complaint):
        model.load(path)


def test_a_model_that_is_not_there(tmp_path):
    with pytest.raises(Problem, match="gone.keras: no such model; train one with"):
        model.load(tmp_path / "gone.keras")
    with pytest.raises(Problem, match="not a model"):
        model.load(tmp_path)  # a folder


def test_a_bomb_is_refused_unopened(saved, tmp_path, monkeypatch):
    """Two members that claim 600 MiB each, though the file is small."""
    path = tmp_path / "bomb.keras"
    path.write_bytes(saved.read_bytes())
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        for name in "a.bin", "b.bin":
            archive.writestr(name, b"x")
            archive.getinfo(name).file_size = 600 * 2**20  # what the directory will say
    monkeypatch.setattr(zipfile.ZipFile, "read", None)  # nothing may be read
    monkeypatch.setattr(zipfile.ZipFile, "open", None)
    with pytest.raises(Problem, match="bomb.keras.*unpacks to more than 1024 MiB"):
        model.load(path)


def test_nothing_is_deserialised(saved, tmp_path, monkeypatch):
    """A `config.json` that would run code is never looked at: the network is built from numbers."""

    def explode(*_, **__):
        raise AssertionError("deserialised")

    evil = {"module": "builtins", "class_name": "Lambda", "config": {"function": "evil"}}
    path = tmp_path / "evil.keras"
    path.write_bytes(rewritten(saved, {"config.json": json.dumps(evil).encode()}))
    from keras.src.saving import saving_api, saving_lib

    for module, name in [
        (keras.saving, "load_model"),
        (keras.models, "load_model"),
        (keras.saving, "deserialize_keras_object"),
        (saving_api, "load_model"),
        (saving_lib, "load_model"),
        (saving_lib, "deserialize_keras_object"),
    ]:
        monkeypatch.setattr(module, name, explode)
    monkeypatch.setattr("pickle.loads", explode)
    monkeypatch.setattr("pickle.load", explode)
    assert model.load(path)[1] == NAMES


def test_a_failed_save_leaves_the_old_model(saved, network, tmp_path, monkeypatch):
    path = tmp_path / "model.keras"
    path.write_bytes(saved.read_bytes())
    monkeypatch.setattr(zipfile.ZipFile, "writestr", None)  # the card cannot be added
    with pytest.raises(TypeError):
        model.save(network.whole, NAMES, SMALL, path)
    assert path.read_bytes() == saved.read_bytes()
    assert [item.name for item in tmp_path.iterdir()] == ["model.keras"]


@pytest.mark.parametrize(
    ("backend", "cards", "found"),
    [("torch", 0, []), ("torch", 2, ["gpu:0", "gpu:1"]), ("tensorflow", 0, [])],
)
def test_cards_are_found_by_every_backend(backend, cards, found, monkeypatch):
    """Of PyTorch's Keras lists none."""
    cuda = types.SimpleNamespace(device_count=lambda: cards)
    monkeypatch.setitem(sys.modules, "torch", types.SimpleNamespace(cuda=cuda))
    monkeypatch.setattr(keras.backend, "backend", lambda: backend)
    if backend == "torch":
        monkeypatch.setattr(keras, "distribution", None)
    else:
        monkeypatch.setattr(keras.distribution, "list_devices", lambda: ["cpu:0"])
    assert model.gpus() == found
    assert model.device() == (found or ["cpu:0"])[0]
