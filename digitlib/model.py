"""The network: a backbone's features, pooled, and a head that labels them.

In: settings and class names. Out: a Keras model from patches (n, s, s, 1) uint8 to logits
(n, classes), saved as one `.keras` file that holds its settings and class names as JSON too.
"""

import contextlib
import ctypes
import importlib.util
import json
import logging
import os
import shutil
import subprocess
import sys
import warnings
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import keras
import numpy as np

from digitlib import Problem, engine, vlad, whole_file
from digitlib.settings import Settings
from digitlib.shipped import CARD, FOLDER, FORMAT, read_card

# TensorFlow's remarks on a network made anew, as in every fold; in a notebook they are printed.
logging.getLogger("tensorflow").setLevel("ERROR")

TRUNK_LAYER = "block_6_expand_relu"  # where the shipped weights end
SHIPPED = {  # weights of generated handwriting, by width
    1.0: FOLDER / "handwriting.weights.h5",
    0.5: FOLDER / "handwriting-small.weights.h5",
}
IMAGENET_WIDTHS = (0.35, 0.5, 0.75, 1.0, 1.3, 1.4)  # that Keras has weights of


def gpus() -> list[str]:
    """What the backend computes on beside the CPU, such as ``gpu:0``."""
    if keras.backend.backend() == "torch":  # of which Keras lists no devices
        import torch

        return [f"gpu:{i}" for i in range(torch.cuda.device_count())]
    return [name for name in keras.distribution.list_devices() if "cpu" not in name]


def device() -> str:
    """What the backend computes on, such as ``cpu:0`` or ``gpu:0``."""
    return (gpus() or ["cpu:0"])[0]


def jit_pays() -> bool | str:
    """Whether to compile with XLA: its depthwise convolutions are ten times slower on a CPU.

    "auto" leaves it to Keras, which knows the GPUs that XLA does not.
    """
    slow = keras.backend.backend() != "jax" and "cpu" in device()
    return False if slow else "auto"


def build_metrics(network: keras.Model, batches: keras.utils.PyDataset) -> None:
    """Build a compiled ``network``'s metrics by the first of ``batches``, without learning from it.

    Left to `fit`, with JAX or PyTorch, that takes a batch from the first epoch's stream, and those
    that its workers have ready move up: a resumed run would see another order.
    """
    if keras.backend.backend() != "tensorflow":
        network.test_on_batch(*batches[0])


def keep_memory() -> None:
    """Have glibc keep freed blocks: given back and fetched anew, they took half of a step's time.

    All threads share one heap that never shrinks (mallopt(3)); other systems' allocators keep their
    blocks by themselves.
    """
    trim_threshold, mmap_max, arena_max = -1, -4, -8
    with contextlib.suppress(AttributeError, OSError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        for option, value in (trim_threshold, 2**30), (mmap_max, 0), (arena_max, 1):
            mallopt(option, value)


def _mobilenet(
    size: int | None, width: float, weights: str | None = None, channels: int = 3
) -> keras.Model:
    return keras.applications.MobileNetV2(
        input_shape=(size, size, channels), alpha=width, include_top=False, weights=weights
    )


def read_at(network: keras.Model, layer: str) -> keras.Model:
    """``network`` up to ``layer``."""
    return keras.Model(network.input, network.get_layer(layer).output, name="backbone")


def draw(seed: int, *networks: keras.Model) -> None:
    """Draw the kernels of ``networks`` from ``seed`` (uniform: Glorot and Bengio 2010).

    Keras itself would draw them from a state that all code shares.
    """
    kernel_of = keras.initializers.GlorotUniform(keras.random.SeedGenerator(seed))
    for layer in (layer for network in networks for layer in network.layers):
        if hasattr(layer, "kernel"):
            layer.kernel.assign(kernel_of(layer.kernel.shape))


def trunk(size: int, width: float, layer: str = TRUNK_LAYER) -> keras.Model:
    """MobileNetV2 (Sandler et al. 2018) of ``width``, untrained, read at ``layer``.

    (n, size, size, 3) float in [-1, 1] -> (n, size / 8, size / 8, channels) at block_6_expand_relu.
    """
    return read_at(_mobilenet(size, width), layer)


def weights_file(settings: Settings) -> Path:
    """The file that WEIGHTS stands for; none is there if it is imagenet, none, or misspelt."""
    shipped = SHIPPED if settings.weights == "handwriting" else {}
    return shipped.get(settings.width, Path(settings.weights))


def backbone(settings: Settings) -> keras.Model:
    """The backbone with the weights that ``settings`` name; never silently with others."""
    size, width, layer = settings.input_size, settings.width, settings.layer
    if settings.weights == "none":
        return trunk(size, width, layer)
    if settings.weights == "imagenet":
        if width not in IMAGENET_WIDTHS:
            widths = ", ".join(map(str, IMAGENET_WIDTHS))
            raise Problem(f"WEIGHTS imagenet are to be had for WIDTH {widths}, not {width}")
        try:
            return read_at(_mobilenet(size, width, "imagenet"), layer)
        except Exception as error:  # Keras raises bare Exception when a download fails
            raise Problem(
                f"WEIGHTS imagenet could not be had ({error}). Without a network, either set "
                "WEIGHTS to a MobileNetV2 no-top weights file that you have, or use WEIGHTS "
                "handwriting, which ships with digitlib."
            ) from error
    if settings.weights == "handwriting" and width not in SHIPPED:
        widths = " or ".join(map(str, SHIPPED))
        raise Problem(f"WEIGHTS handwriting ships for WIDTH {widths}, not {width}; pretrain it")
    path = weights_file(settings)
    if not path.is_file():
        raise Problem(
            f"WEIGHTS {settings.weights!r} is no file, and none of handwriting, imagenet, none"
        )
    if not path.name.endswith((".h5", ".keras")):
        raise Problem(f"{path}: a weights file's name ends in .weights.h5, .h5 or .keras")
    whole, errors = _mobilenet(size, width), []
    for reach in ("out_relu", TRUNK_LAYER):  # a file of the whole network, or of the trunk
        network = read_at(whole, reach)
        try:
            with warnings.catch_warnings(action="ignore"):  # of layers that are not in a trunk
                network.load_weights(path)
        except Exception as error:  # a damaged file makes zipfile and HDF5 raise anything
            errors.append((str(error) or type(error).__name__).splitlines()[0])
            continue
        if layer not in [item.name for item in network.layers]:
            raise Problem(f"{path} reaches {reach}; LAYER {layer!r} lies beyond it")
        return read_at(network, layer)
    raise Problem(
        f"{path} does not fit MobileNetV2 of WIDTH {width}, neither whole nor up to {TRUNK_LAYER}: "
        f"{errors[-1]}"
    )


def with_input(network: keras.Model) -> tuple[keras.KerasTensor, keras.KerasTensor]:
    """Input (n, size, size, 1) 0..255, and the features (n, h, w, c) of the backbone for it."""
    patches = keras.Input((*network.input_shape[1:3], 1), name="patches")
    scaled = keras.layers.Rescaling(1 / 127.5, offset=-1)(patches)
    return patches, network(keras.layers.Concatenate()([scaled] * 3))


def spread() -> keras.layers.Layer:
    """Standardises pooled features by a mean and a variance that are set, not trained: 0 and 1.

    Averages over a patch differ little from patch to patch: spread out, a head learns them faster.
    """
    how = {"center": False, "scale": False, "epsilon": 1e-6, "trainable": False}
    return keras.layers.BatchNormalization(name="spread", dtype="float32", **how)


class Network:
    """The parts of one model: `backbone`, `features` (patches to pooled), `head`, `whole`."""

    def __init__(self, core: keras.Model, n_classes: int, settings: Settings) -> None:
        self.backbone = core
        patches, features = with_input(core)
        pooled = keras.layers.GlobalAveragePooling2D(dtype="float32")(features)
        self.features = keras.Model(patches, pooled, name="features")
        self.dropout = keras.layers.Dropout(settings.dropout, seed=settings.seed)
        self.spread = spread()
        self.head = keras.Sequential(
            [
                keras.Input((pooled.shape[-1],)),
                self.spread,
                self.dropout,
                keras.layers.Dense(n_classes, dtype="float32", name="logits"),
            ],
            name="head",
        )
        self.whole = keras.Model(patches, self.head(pooled), name="digitlib")


def for_grey(network: keras.Model) -> list[np.ndarray]:
    """The weights of ``network`` for one channel: a scan's red, green and blue are the same, so the
    first kernel is their sum, and a third of the work."""
    kernel, *others = network.get_weights()
    return [kernel.sum(axis=2, keepdims=True), *others]


def whole_strips(
    n_classes: int, settings: Settings, core: keras.Model | None = None
) -> keras.Model:
    """The network that reads whole strips of any size (pooling vlad), its backbone ``core``'s.

    Without ``core`` the backbone is untrained; all else is, until `vlad.fit` has learnt it.
    """
    within = read_at(_mobilenet(None, settings.width, channels=1), settings.layer)
    if core:
        within.set_weights(for_grey(core))
    maps = {name: within.get_layer(name).output for name in settings.vlad_layers.split()}
    reader = keras.Model(within.input, maps, name="trunk")
    return vlad.build(reader, n_classes, settings)


def _reader(
    network: keras.Model,
    settings: Settings,
    size: int | None,
    pool: Callable[[keras.KerasTensor], keras.KerasTensor],
    *others: keras.KerasTensor,
) -> keras.Model:
    """``network``, a `Network.whole`, for its graph: of grey input of ``size``, and of ``others``.

    ``pool``: features (n, h, w, c) -> pooled ones (…, c), which are labelled.
    """
    grey = keras.Input((size, size, 1), dtype="uint8", name="grey")
    patches = trunk(settings.input_size, settings.width, settings.layer)
    # Not built for another size, but copied: its convolutions pad as they do on a patch.
    core = keras.models.clone_model(patches, keras.Input((size, size, 1)))
    pooled = pool(core(keras.layers.Rescaling(1 / 127.5, offset=-1)(grey)))
    logits = keras.layers.Dense(network.output_shape[-1], name="logits")(spread()(pooled))
    reader = keras.Model([grey, *others] if others else grey, logits)
    reader.set_weights(for_grey(network))
    return reader


def one_by_one(network: keras.Model, settings: Settings) -> keras.Model:
    """``network``, a `Network.whole`, for its graph: patches (n, s, s, 1) uint8 -> logits."""
    return _reader(network, settings, settings.input_size, keras.layers.GlobalAveragePooling2D())


def one_pass(network: keras.Model, settings: Settings) -> keras.Model:
    """``network``, a `Network.whole`, for windows of a whole strip, the backbone run once.

    [strips (n, h, w, 1), windows (n, m, h', w')] -> logits (n, m, classes): a window says how much
    each position of the feature map (h', w') counts.
    """
    windows = keras.Input((None, None, None), name="windows")

    def pool(features: keras.KerasTensor) -> keras.KerasTensor:
        return keras.ops.einsum("nmhw,nhwc->nmc", windows, features)

    return _reader(network, settings, None, pool, windows)


def shell(n_classes: int, settings: Settings) -> keras.Model:
    """The network that ``settings`` describe, untrained: what a saved model's weights fit."""
    if settings.pooling == "vlad":
        return whole_strips(n_classes, settings)
    return build(n_classes, replace(settings, weights="none")).whole


def build(n_classes: int, settings: Settings) -> Network:
    """The network for ``n_classes``: weights that there are, and the others drawn from the seed."""
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16" if settings.mixed_precision else "float32")
    try:
        network = Network(backbone(settings), n_classes, settings)
    finally:
        keras.config.set_dtype_policy(policy)
    drawn = [network.head] if settings.weights != "none" else [network.head, network.backbone]
    draw(settings.seed, *drawn)
    return network


def save(
    network: keras.Model,
    classes: list[str],
    settings: Settings,
    path: Path,
    shift: Sequence[float] = (),
) -> Path:
    """Write ``network`` as a `.keras` file with its card inside.

    ``shift``: `ensemble.one_pass_shift`, which one pass over a strip is corrected by.
    Any Keras can load the file; one that reads whole strips (pooling vlad) needs `digitlib.vlad`.
    """
    card = {"format": FORMAT, "classes": classes, "settings": asdict(settings), "about": {}}
    shift = [float(value) for value in shift]  # JSON knows no NumPy
    with whole_file(path) as aside:
        # Built anew, without what training left in it: optimisers, a loss unknown to load_model.
        bare = shell(len(classes), settings)
        bare.set_weights(network.get_weights())
        bare.save(aside)
        _add(aside, {CARD: json.dumps(card)})
        if engine.reads_networks():
            _add_graphs(aside, bare, settings, shift)
        elif all(map(importlib.util.find_spec, ("tensorflow", "openvino"))):
            _have_graphs_added(aside, shift)
    return path


def _add(path: Path, members: Mapping[str, str | bytes]) -> None:
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def _add_graphs(path: Path, bare: keras.Model, settings: Settings, shift: list[float]) -> None:
    """Add to the file of ``bare`` the graphs by which OpenVINO labels."""
    if settings.pooling == "vlad":
        _add(path, engine.export(bare, engine.STRIPS, {}))
        return
    _add(path, engine.export(one_by_one(bare, settings), engine.PATCHES, {}))
    _add(path, engine.export(one_pass(bare, settings), engine.ONE_PASS, {"shift": shift}))


def _have_graphs_added(path: Path, shift: list[float]) -> None:
    """`_add_graphs` by another process, whose Keras has TensorFlow: OpenVINO reads its networks
    alone. If that fails there is a warning, and the file, which `predict` reads with Keras."""
    how = {"KERAS_BACKEND": "tensorflow", "CUDA_VISIBLE_DEVICES": "-1"}  # the GPU is taken
    try:
        with whole_file(path) as copy:  # which it may leave half written
            shutil.copyfile(path, copy)
            subprocess.run(
                [sys.executable, "-m", "digitlib.model", str(copy.resolve())],
                input=json.dumps(shift),
                env=os.environ | how,
                cwd=Path(__file__).resolve().parent.parent,
                capture_output=True,
                text=True,
                check=True,
            )
    except subprocess.CalledProcessError as error:
        reason = (error.stderr.strip() or str(error)).splitlines()[-1]
        warnings.warn(f"the model has no graph for OpenVINO: {reason}", stacklevel=3)


def load(path: Path) -> tuple[keras.Model, list[str], Settings]:
    """(model, class names, settings) of a file that `save` wrote.

    Nothing in the file is deserialised into code: the network is built anew from the settings, and
    only numbers are read into it.
    """
    classes, settings, _ = read_card(path)
    try:
        network = shell(len(classes), settings)
        with warnings.catch_warnings(action="ignore"):
            network.load_weights(path)
    except Exception as error:  # a damaged file makes zipfile and HDF5 raise anything
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise Problem(f"{path}: its weights do not fit its settings ({reason})") from error
    return network, classes, settings


if __name__ == "__main__":  # see `_have_graphs_added`
    file = Path(sys.argv[1])
    network, _, settings = load(file)
    _add_graphs(file, network, settings, json.load(sys.stdin))
