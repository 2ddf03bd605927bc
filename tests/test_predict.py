"""Labels without Keras: windows worked by hand, the graph in a model file, a folder through it all.

In: strips and windows small enough to reckon with; generated hands. Out: shares, logits, labels.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from base64 import b64decode
from dataclasses import asdict, replace
from unittest.mock import Mock

import cv2
import numpy as np
import pytest
from bs4 import BeautifulSoup
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from digitlib import Problem, engine, ensemble, model, predict, shipped, vlad
from digitlib.__main__ import main
from digitlib.engine import Engine
from digitlib.evaluate import read_result_csv
from digitlib.patches import cut_all, windows
from digitlib.predict import chosen, ensemble_of, patch_by_patch, predict_files, strip_by_strip
from digitlib.settings import Settings
from digitlib.strips import GRID, WIDE, Strip, enhance, network_inputs

MULTIPLIES = engine.multiplies_bfloat16
# 32 px patches at full scale; a position every 8 px, so 4 x 4 of them on a patch.
PLAIN = Settings(patch_size=32, scale=1.0)


def blank(height: int, width: int) -> Strip:
    return Strip(np.full((height, width), 255, np.uint8), "a", 0)


@pytest.mark.parametrize(
    ("centre", "columns"),
    [
        ((16.0, 16.0), [1, 1, 1, 1, 0, 0]),  # right at the strip's left edge
        ((24.0, 16.0), [0, 1, 1, 1, 1, 0]),  # one position further
        ((18.0, 16.0), [0.75, 1, 1, 1, 0.25, 0]),  # a quarter of a position further
        ((32.0, 16.0), [0, 0, 1, 1, 1, 1]),  # two positions further
    ],
)
def test_windows_by_hand(centre, columns):
    image, shares = windows(blank(32, 64), np.array([centre]), PLAIN)
    assert image.shape == (32, 32 + WIDE, 1) and image.dtype == np.uint8
    np.testing.assert_allclose(shares[0, :, :6] * 16, [columns] * 4, atol=1e-6)
    assert not shares[0, :, 6:].any()


@pytest.mark.parametrize("centre", [(8.5, 12.25), (20.0, 16.0)])  # beyond its left end, and within
def test_at_full_scale_the_network_sees_the_strip_s_own_pixels(centre):
    strip = Strip(np.random.default_rng(1).integers(0, 256, (32, 64), np.uint8), "", 0)
    settings = replace(PLAIN, patch_size=32, scale=1.0)
    image, _ = windows(strip, np.array([centre]), settings)
    left, top = (max(0, -int(np.floor(at - 16))) for at in centre)
    np.testing.assert_array_equal(image[top : top + 32, left : left + 64, 0], strip.image)


def test_windows_beyond_the_strip_see_paper():
    strip = Strip(np.zeros((32, 32), np.uint8), "a", 0)
    image, shares = windows(strip, np.array([[0.0, 16.0]]), PLAIN)
    assert image.shape == (32, 32 + WIDE, 1)  # 16 px to the left, then paper to the right
    assert (image[:, 16:48] == 0).all() and (shares[0].sum(axis=0)[:4] == 0.25).all()


@given(
    st.integers(32, 200),
    st.integers(32, 400),
    st.lists(st.tuples(st.floats(-20, 420), st.floats(-20, 220)), min_size=1, max_size=4),
    st.sampled_from([0.25, 0.5, 1.0]),
    st.sampled_from([(2, 4), (6, 8), (13, 16), (14, 32)]),
)
def test_windows_hold_all_of_a_patch(height, width, centres, scale, block):
    number, stride = block
    layer = f"block_{number}_expand_relu"
    settings = replace(PLAIN, patch_size=round(32 / scale), scale=scale, layer=layer)
    image, shares = windows(blank(height, width), np.array(centres), settings)
    assert all((side - settings.input_size) % GRID == 0 for side in image.shape[:2])
    assert shares.shape[1:] == tuple(side // stride for side in image.shape[:2])
    np.testing.assert_allclose(shares.sum(axis=(1, 2)), 1, atol=1e-5)
    # Two windows are as far apart as their centres.
    middle = (shares.sum(axis=1) * (np.arange(shares.shape[2]) + 0.5)).sum(axis=1) * stride
    apart = (np.array(centres)[:, 0] - centres[0][0]) * scale
    np.testing.assert_allclose(middle - middle[0], apart, atol=1e-2)


@pytest.mark.parametrize("size", [64, 80, 300])
def test_one_pass_sees_what_patches_see_but_at_their_edges(size):
    """Right behind the first convolution, only a patch's outermost positions see other pixels."""
    settings = Settings(
        weights="none", layer="Conv1_relu", width=0.1, patch_size=size, scale=1.0, dropout=0.0
    )
    rng = np.random.default_rng(1)
    strip = Strip(
        cv2.GaussianBlur(rng.integers(0, 256, (size, 3 * size), np.uint8), (0, 0), 3), "a", 0
    )
    centres = np.array([[size / 2 + 32 * i, size / 2] for i in range(3)])
    network = model.build(4, settings).whole
    reader = model.one_pass(network, settings)
    image, shares = windows(strip, centres, settings)
    one = np.asarray(reader.predict_on_batch([image[None], shares[None]]))[0]
    exact = np.asarray(network.predict_on_batch(cut_all(strip, centres, settings)))
    np.testing.assert_allclose(one, exact, atol=np.ptp(exact) * 8 / size)


@pytest.fixture(autouse=True)
def in_float32(monkeypatch) -> None:
    """Also where the processor is faster in bfloat16: logits are compared."""
    monkeypatch.setattr(engine, "multiplies_bfloat16", lambda core: False)


@pytest.fixture(scope="module")
def average(tiny, digits, tmp_path_factory):
    """A network of patches, untrained, as a file: (network, settings, path)."""
    network = model.build(3, tiny).whole
    path = tmp_path_factory.mktemp("average") / "model.keras"
    return network, tiny, model.save(network, digits.classes, tiny, path)


@pytest.fixture(scope="module")
def whole(tiny, hands, tmp_path_factory):
    """A network that reads whole strips and has learnt six hands, as a file."""
    how = {"pooling": "vlad", "split": "none", "views": 0, "whitened": 30}
    small = {"codebooks": 2, "clusters": 8, "components": 8}
    settings = replace(tiny, weights="handwriting", width=1.0, **how, **small)
    network = model.whole_strips(6, settings, model.backbone(settings))
    vlad.fit(network, hands.train, hands.classes, settings)
    path = tmp_path_factory.mktemp("whole") / "model.keras"
    return network, settings, model.save(network, hands.classes, settings, path)


@pytest.mark.parametrize(
    ("most", "large", "compiled"),
    [
        (3, engine.LARGE, 3),  # for each size
        (1, engine.LARGE, 2),  # for the first, and for any
        (0, engine.LARGE, 1),  # for any
        (3, 0, 1),  # all are large: likewise
    ],
)
def test_the_graph_of_whole_strips_gives_the_network_s_logits(
    most, large, compiled, whole, hands, monkeypatch
):
    monkeypatch.setattr(engine, "MOST_SIZES", most)
    monkeypatch.setattr(engine, "LARGE", large)
    network, settings, path = whole
    read = Engine(path)
    image = enhance(hands.test[0].image, settings)
    for width in 200, 400, 600, 200:
        inputs = network_inputs(image[:, :width], settings)
        wanted = np.asarray(network.predict_on_batch(inputs))
        np.testing.assert_allclose(read(*inputs), wanted, atol=1e-3 * np.abs(wanted).max())
    assert len(read.compiled) == compiled


def test_the_graph_of_one_pass_gives_its_logits(average, digits):
    network, settings, path = average
    reader = model.one_pass(network, settings)
    read = Engine(path, engine.ONE_PASS)
    strip = Strip(enhance(digits.test[0].image, settings), "a", 0)
    places = np.array([[100.0, 80.0], [300.5, 150.2]])
    inputs = windows(strip, places, settings)
    inputs = [item[None] for item in inputs]
    np.testing.assert_allclose(read(*inputs), reader.predict_on_batch(inputs), atol=1e-6)


@pytest.mark.parametrize("most", [1, 10_000, 2**19])  # pixels at once: a patch, a few, all
def test_the_graph_of_patches_gives_the_network_s_logits(most, average, digits, monkeypatch):
    monkeypatch.setattr(predict, "MOST_AT_ONCE", most)
    network, settings, path = average
    read = Engine(path, engine.PATCHES)
    tall = max(digits.test, key=lambda page: page.image.shape[0])
    exact = ensemble.vote(network, tall, settings).logits
    assert exact.shape == (2, settings.n_patches, 3) and np.ptp(exact, axis=1).min() > 1e-4
    np.testing.assert_allclose(
        patch_by_patch(read, ensemble_of(tall, settings), settings), exact, atol=1e-6
    )


def test_engines_are_compared_image_by_image(whole, average, digits, hands):
    """Keras and the exact graphs have the same labels; one pass has as many votes."""
    for own, pages, names in (
        (whole, hands.test, ["keras", "openvino"]),
        (average, digits.test[:2], ["keras", "openvino", "one-pass"]),
    ):
        network, settings, path = own
        _, classes, _ = model.load(path)
        ballots = ensemble.votes(network, pages, settings)
        result, _ = ensemble.evaluated(pages, ballots, classes, settings)
        table = ensemble.engines_compared(result, ballots, pages, classes, settings, path)
        assert table.index.tolist() == names and (table["ms"] > 0).all()
        exact = table.loc[["keras", "openvino"]]
        right = sum(result["actual"] == result["predicted"])
        assert exact["same"].tolist() == [len(pages)] * 2 and exact["p"].tolist() == [1, 1]
        assert exact["right"].tolist() == [right] * 2
    fewer = replace(settings, n_patches=4, n_even=4)  # than the file says
    ballots = ensemble.votes(network, pages, fewer)
    exact = predict.reader(path, "openvino", settings=fewer)[0]
    once = predict.reader(path, "one-pass", settings=fewer)[0]
    for ballot, page in zip(ballots, pages, strict=True):
        np.testing.assert_allclose(ballot.logits, exact(page), atol=1e-4)
        assert ballot.logits.shape == once(page).shape == (len(ballot.logits), 4, 3)


def test_a_folder_is_labelled_as_keras_labels_it(whole, hands, hands_folder, tmp_path):
    path = whole[2]
    rows = {}
    for name in "openvino", "keras":
        out = tmp_path / f"{name}.csv"
        rows[name] = predict_files([hands_folder / "test"], path, out, name).rows
        assert out.read_text("utf-8").count("\n") == len(hands.test) + 1
    for one, two in zip(*rows.values(), strict=True):
        assert [one[k] for k in ("filename", "actual", "predicted", "n_patches")] == [
            two[k] for k in ("filename", "actual", "predicted", "n_patches")
        ]
        assert one["confidence"] == pytest.approx(two["confidence"], abs=1e-3)


FIRST_USE = """
import sys, threading
from digitlib.engine import _openvino
openvino, go = _openvino(), False
def use():
    while not go:
        pass
    openvino.Type.u8.to_dtype()  # as for every input of a graph
threads = [threading.Thread(target=use, daemon=True) for _ in range(8)]
for thread in threads:
    thread.start()
sys.setswitchinterval(1e-6)
go = True
for thread in threads:
    thread.join()
"""


def test_threads_that_label_first_at_the_same_time_do_not_wait_for_ever():
    subprocess.run([sys.executable, "-c", FIRST_USE], timeout=100, check=True)


@pytest.mark.parametrize(
    ("name", "flags", "precision"),
    [
        ("Intel(R) Core(TM) i5", "fpu avx2 fma", "f32"),
        ("Intel(R) Xeon(R)", "fpu avx512f avx512_bf16", "f32"),  # slower in bfloat16
        ("Intel(R) Xeon(R)", "fpu avx512_bf16 amx_bf16 amx_tile", "bf16"),
        ("Intel(R) Xeon(R)", None, "f32"),  # not Linux
        ("AMD EPYC", "fpu avx2 fma", "f32"),
        ("AMD EPYC", "fpu avx512f avx512_bf16", "bf16"),
        ("AMD Ryzen 9", None, "f32"),
    ],
)
def test_half_precision_is_used_where_it_is_faster(
    whole, tmp_path, name, flags, precision, monkeypatch
):
    about, can = tmp_path / "cpuinfo", ["FP32", "INT8"]
    if flags is not None:
        about.write_text(f"processor\t: 0\nflags\t\t: {flags}\n", "utf-8")
        can += ["BF16"] * ("avx512_bf16" in flags)
    core = Mock()
    core.get_property.side_effect = lambda _, which: name if which == "FULL_DEVICE_NAME" else can
    monkeypatch.setattr(engine, "multiplies_bfloat16", lambda _: MULTIPLIES(core, about))
    made = engine.Engine(whole[2])
    assert made.how["INFERENCE_PRECISION_HINT"] == precision
    assert engine.Engine(whole[2], precise=True).how["INFERENCE_PRECISION_HINT"] == "f32"


@pytest.mark.parametrize(
    ("orders", "left"),
    [
        ([[0, 2, 3, 1], [0, 3, 1, 2]], 0),  # there and back
        ([[0, 2, 3, 1], [0, 2, 3, 1]], 2),  # no pair
        ([[0, 2, 3, 1]], 1),
        ([[0, 2, 1, 3], [0, 2, 1, 3], [0, 2, 3, 1]], 1),  # a pair, and one
    ],
)
def test_transpositions_that_undo_each_other_are_left_out(orders, left):
    import openvino
    from openvino import opset13

    values = np.arange(24, dtype=np.float32).reshape(1, 2, 3, 4)
    network_input, wanted = opset13.parameter([1, 2, 3, 4], np.float32), values
    node = opset13.relu(network_input)
    for order in orders:
        node = opset13.transpose(node, order)
        wanted = wanted.transpose(order)
    network = openvino.Model([opset13.relu(node)], [network_input])
    engine._straighten(network)
    kinds = [item.get_type_name() for item in network.get_ordered_ops()]
    assert kinds.count("Transpose") == left
    how = {"INFERENCE_PRECISION_HINT": "f32"}
    found = openvino.Core().compile_model(network, "CPU", how)([values])[0]
    np.testing.assert_array_equal(found, wanted)


def test_an_order_of_axes_that_comes_as_an_input_is_left_alone():
    import openvino
    from openvino import opset13

    values, order = opset13.parameter([2, 3], np.float32), opset13.parameter([2], np.int64)
    node = opset13.transpose(opset13.transpose(values, order), np.array([1, 0]))
    network = openvino.Model([node], [values, order])
    engine._straighten(network)
    kinds = [item.get_type_name() for item in network.get_ordered_ops()]
    assert kinds.count("Transpose") == 2


def test_answers_below_a_confidence_are_not_sure(whole, hands_folder, tmp_path, capsys):
    images, file, out = [hands_folder / "test"], tmp_path / "model.keras", tmp_path / "r.csv"
    plain = predict_files(images, whole[2]).rows
    assert "sure" not in plain[0]  # nobody has said from when on
    middle = sorted(row["confidence"] for row in plain)[len(plain) // 2]
    shipped.write_card(whole[2], file, {shipped.SURE: f"{middle - 1e-9} (by hand)"})
    for row in predict_files(images, file).rows:
        assert row["sure"] == ("yes" if row["confidence"] >= middle - 1e-9 else "no")
    assert main(["predict", str(images[0]), "--model", str(file), "--out", str(out)]) == 0
    said = capsys.readouterr()
    assert said.out.count("  not sure") == len(plain) // 2
    assert f"; not sure of {len(plain) // 2}" in said.err
    rows = read_result_csv(out)
    assert (rows["sure"] == "no").sum() == len(plain) // 2
    assert {row["sure"] for row in predict_files(images, file, sure=0.0).rows} == {"yes"}


def test_a_model_reads_images_of_the_size_that_it_learnt(whole, hands, tmp_path):
    """Strips twice as large, by a model whose images were halved: the very same pixels."""
    network, classes, settings = model.load(whole[2])
    half = model.save(network, classes, replace(settings, resize=0.5), tmp_path / "half.keras")
    large = tmp_path / "large"
    large.mkdir()
    for page in hands.test:
        double = np.kron(page.image, np.ones((2, 2), np.uint8))
        Image.fromarray(double).save(large / page.path.name)
    plain = predict_files([page.path for page in hands.test], whole[2])
    wanted = {row["filename"]: row["top5"] for row in plain.rows}
    for found in predict_files([large], half), predict_files([large], whole[2], resize=0.5):
        assert {row["filename"]: row["top5"] for row in found.rows} == wanted


def test_images_of_another_scale_are_told_of(whole, hands, tmp_path, capsys):
    page = hands.train[0]  # ten lines, 101 px apart
    Image.fromarray(np.kron(page.image, np.ones((2, 2), np.uint8))).save(tmp_path / "a_1.png")
    command = ["predict", str(tmp_path), "--model", str(whole[2]), "--out", str(tmp_path / "r.csv")]
    assert main(command) == 0
    said = capsys.readouterr().err
    assert re.search(r"note: lines are about 20\d px apart: .*, add --resize 0\.(49|5)\n", said)
    assert main([*command, "--resize", "0.5"]) == 0
    assert "note:" not in capsys.readouterr().err
    assert main(["predict", str(page.path), *command[2:]]) == 0
    assert "note:" not in capsys.readouterr().err


def test_a_file_in_a_folder_that_is_not_read_is_named(whole, hands, tmp_path, capsys):
    shutil.copy(hands.test[0].path, tmp_path)
    (tmp_path / "IMG_1.HEIC").write_bytes(b"")
    out = tmp_path / "r.csv"
    assert main(["predict", str(tmp_path), "--model", str(whole[2]), "--out", str(out)]) == 2
    assert "IMG_1.HEIC: .heic is not read; export it as JPEG or PNG" in capsys.readouterr().err
    assert len(read_result_csv(out)) == 1  # what could be read is labelled


@pytest.mark.parametrize("text", ["0", "-1", "nan", "21", "half"])
def test_a_size_that_is_none_is_refused(text, capsys):
    with pytest.raises(SystemExit):
        main(["predict", "strip.png", f"--resize={text}"])
    assert f"a number from 0.05 to 20, not {text!r}" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["2", "-0.1", "nan", "much"])
def test_a_confidence_that_is_none_is_refused(text, capsys):
    with pytest.raises(SystemExit):
        main(["predict", "strip.png", f"--sure={text}"])
    assert f"a confidence is a number from 0 to 1, not {text!r}" in capsys.readouterr().err


def test_labels_need_neither_keras_nor_tensorflow(whole, hands_folder, tmp_path):
    code = (
        "import sys; from digitlib.__main__ import main; "
        f"assert main(['predict', {str(hands_folder / 'test')!r}, '--model', {str(whole[2])!r}, "
        f"'--out', {str(tmp_path / 'r.csv')!r}]) == 0; "
        "heavy = {'keras', 'tensorflow', 'pandas', 'sklearn', 'openvino.tools.ovc'}; "
        "heavy.add('openvino_telemetry'); "
        "print({name for name in heavy if sys.modules.get(name)})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "set()"


def test_the_command_labels_all_that_can_be_read(whole, hands_folder, tmp_path, capsys):
    shutil.copytree(hands_folder / "test", tmp_path / "scans")
    good = sorted(path.name for path in (tmp_path / "scans").iterdir())
    (tmp_path / "scans" / "00_9.png").write_bytes(b"no image")
    (tmp_path / "scans" / "zz_9.png").write_bytes(b"")
    out = tmp_path / "r.csv"
    command = ["predict", str(tmp_path / "scans"), "--model", str(whole[2]), "--out", str(out)]
    assert main(command) == 2  # a script shall notice
    said = capsys.readouterr()
    assert f"{len(good)} images labelled" in said.err and "not labelled: 2 problems" in said.err
    assert "00_9.png" in said.err and "zz_9.png" in said.err and "_9.png" not in said.out
    assert read_result_csv(out)["filename"].tolist() == good
    rows = predict_files([tmp_path / "scans" / name for name in good], whole[2]).rows
    assert read_result_csv(out)["predicted"].tolist() == [row["predicted"] for row in rows]
    bad = ["predict", str(tmp_path / "scans" / "zz_9.png"), "--out", str(tmp_path / "no.csv")]
    assert main(bad) == 2 and not (tmp_path / "no.csv").exists()


def test_images_of_one_name_are_told_apart_by_their_folders(whole, hands_folder, tmp_path):
    file = next((hands_folder / "test").iterdir())
    twins = [tmp_path / part / file.name for part in "ab"]
    for twin in twins:
        twin.parent.mkdir()
        shutil.copy(file, twin)
    rows = predict_files(twins, whole[2]).rows
    assert [row["filename"] for row in rows] == [str(twin) for twin in twins]


def test_a_folder_as_out_is_refused_before_labelling(whole, hands_folder, tmp_path, capsys):
    with pytest.raises(Problem, match="is a folder; name a file in it"):
        predict_files([hands_folder / "test"], whole[2], tmp_path)
    command = ["predict", str(hands_folder / "test"), "--out", str(tmp_path / "r.csv")]
    assert main([*command, "--page", str(tmp_path)]) == 2
    assert "is a folder" in capsys.readouterr().err and not (tmp_path / "r.csv").exists()


@pytest.mark.parametrize(("most", "shown"), [(2, 2), (500, 3)])
def test_the_page_shows_each_image_the_least_confident_first(
    most, shown, whole, hands, tmp_path, monkeypatch
):
    monkeypatch.setattr("digitlib.pages.MOST_SHOWN", most)
    names = ["01_a.png", "02_&lt;b&gt;.png", "zz.png"]  # the last has no label
    images = [hands.test[0].image, hands.train[1].image, hands.test[2].image]
    for name, image in zip(names, images, strict=True):
        cv2.imwrite(str(tmp_path / name), image)
    (tmp_path / "broken.png").write_bytes(b"no image")  # in between, and on no page
    out, page = tmp_path / "r.csv", tmp_path / "labels.html"
    command = ["predict", str(tmp_path), "--model", str(whole[2]), "--sure", "1"]
    assert main([*command, "--out", str(out), "--page", str(page)]) == 2
    rows = read_result_csv(out).sort_values("confidence", kind="stable")[:shown]
    soup = BeautifulSoup(page.read_text("utf-8"), "html.parser")
    items = soup.find_all("li")
    assert [item.img["alt"] for item in items] == rows["filename"].tolist()
    assert [item.find(class_="label").text for item in items] == rows["predicted"].tolist()
    assert all("not sure" in item.text for item in items)
    for item in items:
        code = item.img["src"].removeprefix("data:image/png;base64,")
        picture = cv2.imdecode(np.frombuffer(b64decode(code), np.uint8), cv2.IMREAD_GRAYSCALE)
        own = images[names.index(item.img["alt"])]
        scale = min(240 / own.shape[0], 900 / own.shape[1])
        small = cv2.resize(own, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        assert np.abs(np.subtract(picture.shape, small.shape)).max() <= 1
        assert abs(picture.mean() - small.mean()) < 17  # it is this image


def test_a_name_that_the_terminal_cannot_show_is_escaped(whole, hands_folder, tmp_path):
    file = next((hands_folder / "test").iterdir())
    shutil.copy(file, tmp_path / "01_\udcff.png")  # a byte that is no UTF-8
    command = [sys.executable, "-m", "digitlib", "predict", "--model", str(whole[2])]
    command += ["--out", str(tmp_path / "r.csv"), str(tmp_path / "01_\udcff.png")]
    how = {"capture_output": True, "text": True, "env": os.environ | {"PYTHONUTF8": "1"}}
    done = subprocess.run(command, **how)
    assert done.returncode == 0 and done.stdout.startswith("01_\\udcff.png")


def test_windows_that_fill_memory_are_refused_by_their_number():
    with pytest.raises(Problem, match="4000 patches on a strip of .* px.*lower N_PATCHES"):
        windows(blank(300, 2400), np.full((4000, 2), 150.0), Settings(layer="Conv1_relu"))


def without(path, out, *left, **changed):
    """A copy of the model file without some members, others changed."""
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(out, "w") as new:
        for name in set(old.namelist()) - set(left):
            new.writestr(name, changed.get(name.replace(".", "_"), old.read(name)))
    return out


def test_a_model_without_a_graph_is_read_by_keras(whole, hands_folder, tmp_path):
    path = without(whole[2], tmp_path / "model.keras", "engine.xml")
    assert chosen("auto", path) == "keras"
    files = [next((hands_folder / "test").iterdir())]
    (row,) = predict_files(files, path).rows
    assert row["predicted"] == predict_files(files, whole[2]).rows[0]["predicted"]
    with pytest.raises(Problem, match="no graph.*--engine keras"):
        predict_files(files, path, engine="openvino")


@pytest.mark.parametrize(
    ("changed", "complaint"),
    [
        ({"engine_xml": b"<net>"}, "graph"),
        ({"engine_json": b"[]"}, "graph"),
        ({"engine_json": b'{"shift": [1, 2]}'}, "does not fit"),  # of six classes
        ({"engine_json": b"{"}, "graph"),
        ({"engine_json": b"[" * 100_000}, "graph"),
        ({"engine_json": b" " * (2**20 + 1)}, "engine.json has more than 1 MiB"),
        ({"engine_bin": b""}, "a constant that does not fit"),
    ],
)
def test_a_damaged_graph_is_a_problem(whole, tmp_path, changed, complaint):
    path = without(whole[2], tmp_path / "model.keras", **changed)
    with pytest.raises(Problem, match=complaint):
        Engine(path)


CONST = b'type="Const"'


@pytest.mark.parametrize(
    ("old", "new"),
    [  # OpenVINO itself reads most of these, and crashes, hangs or reads what is not its own
        (CONST, b'type="MaxPool"'),  # another operation, whose attributes are missing
        (CONST, b'type="AvgPool"'),  # one that is used elsewhere
        (b'<?xml version="1.0"?>', b"\x08\x07"),  # ONNX, which may name files to read
        (b'<?xml version="1.0"?>', b'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b "c">]>'),
        (b'size="8"', b'size="4"'),
        (b'shape="2"', b'shape="4611686018427387906"'),  # eight times that are 16, in 64 bits
        (b'offset="0"', b'offset="-8"'),
        (b'offset="0"', b'offset="99999999"'),
        (
            b"</layers>",
            b'<layer type="Loop"><body><layers><layer/></layers></body></layer></layers>',
        ),
        (b"</layers>", b'<layer type="Abs"/>' * 10_000 + b"</layers>"),
    ],
)
def test_a_graph_that_export_does_not_write_is_refused(old, new, whole, tmp_path):
    graph = zipfile.ZipFile(whole[2]).read("engine.xml")
    assert old in graph
    path = without(whole[2], tmp_path / "model.keras", engine_xml=graph.replace(old, new, 1))
    with pytest.raises(Problem, match="graph cannot be read.*use --engine keras"):
        Engine(path)


@pytest.mark.parametrize("large", [0, engine.LARGE])  # by the graph for any size, or for this one
def test_a_layer_that_fills_memory_is_not_run(large, whole, hands, monkeypatch):
    monkeypatch.setattr(engine, "MOST_VALUES", 1000)
    monkeypatch.setattr(engine, "LARGE", large)
    items = ensemble_of(hands.test[0], whole[1])
    with pytest.raises(Problem, match="fills memory"):
        strip_by_strip(Engine(whole[2]), items, whole[1])


def test_inputs_that_a_graph_has_not_are_a_problem(whole):
    read = Engine(whole[2])
    for inputs in [], [np.zeros((1, 2, 64, 64), np.uint8)] * 2, [np.zeros((3, 3), np.float32)]:
        with pytest.raises(Problem, match="cannot be run"):
            read(*inputs)


@pytest.mark.parametrize("shape", [(3_000_000, 33), (33, 3_000_000), (9_000, 9_000)])
def test_an_image_too_large_for_the_network_is_named(shape, whole, tmp_path):
    """It would take more memory than there is, though its file is small."""
    file = tmp_path / "01_huge.png"
    Image.new("1", shape, 1).save(file)
    _, settings, path = whole
    monster = replace(settings, scale=1.0)
    items = tmp_path / "model.keras"
    card = {"classes": list("abcdef"), "settings": asdict(monster), "format": shipped.FORMAT}
    without(path, items, **{shipped.CARD.replace(".", "_"): json.dumps(card)})
    with pytest.raises(Problem, match="01_huge.png: .* px are too many at once"):
        predict_files([file], items)


def test_a_graph_out_of_all_proportion_is_not_read(whole, monkeypatch):
    monkeypatch.setattr(engine, "MOST_BYTES", (1000, 2**29, 2**20))
    with pytest.raises(Problem, match="engine.xml has more than"):
        Engine(whole[2])


def test_one_pass_is_shifted_to_what_patches_say_on_the_average(average, digits, tmp_path):
    network, settings, path = average
    assert ensemble.one_pass_shift(network, digits.train, replace(settings, pooling="vlad")) == []
    shift = ensemble.one_pass_shift(network, digits.train, settings)
    own = tmp_path / "model.keras"
    model.save(network, digits.classes, settings, own, shift=shift)
    tops = [replace(p, image=p.image[: settings.strip_height]) for p in digits.train]
    exact = ensemble.votes(network, tops, settings)
    apart = []
    for file in path, own:
        once = predict.reader(file, "one-pass", settings=settings)[0]
        both = zip(exact, map(once, tops), strict=True)
        apart.append(np.mean([a.logits - b for a, b in both], axis=(0, 1, 2)))
    most = np.abs(shift).max()
    np.testing.assert_allclose(apart[0], shift, atol=most / 100)
    np.testing.assert_allclose(apart[1], 0, atol=most / 100)


def test_a_shift_is_of_as_many_numbers_as_there_are_classes(average, digits, tmp_path):
    network, settings, _ = average
    path = model.save(network, digits.classes, settings, tmp_path / "a.keras", shift=[1, 2, 3.5])
    assert Engine(path, engine.ONE_PASS).shift.tolist() == [1, 2, 3.5]
    path = model.save(network, digits.classes, settings, tmp_path / "b.keras", shift=[1, 2])
    with pytest.raises(Problem, match="shift"):
        Engine(path, engine.ONE_PASS)


@pytest.mark.parametrize(
    ("file", "asked", "graph"),
    [
        ("whole", "auto", engine.STRIPS),
        ("whole", "openvino", engine.STRIPS),
        ("whole", "one-pass", engine.STRIPS),  # which it is
        ("whole", "keras", "keras"),
        ("average", "auto", engine.PATCHES),  # exact, so never one pass unless it is asked for
        ("average", "openvino", engine.PATCHES),
        ("average", "one-pass", engine.ONE_PASS),
        ("average", "keras", "keras"),
    ],
)
def test_which_graph_an_engine_is(file, asked, graph, request):
    assert chosen(asked, request.getfixturevalue(file)[2]) == graph


def test_an_unknown_engine_is_refused(whole):
    with pytest.raises(Problem, match="openvino, one-pass, keras.*'fast'"):
        chosen("fast", whole[2])


def test_other_weights_give_other_labels(whole, hands, tmp_path):
    """What was compiled for a model is not taken for another of the same shape."""
    network, settings, path = whole
    other = model.whole_strips(6, settings)
    other.set_weights(network.get_weights())
    for layer in other.layers:
        if layer.name.startswith("logits"):
            layer.set_weights([values[..., ::-1] for values in layer.get_weights()])
    turned = model.save(other, hands.classes, settings, tmp_path / "model.keras")
    one, two = (
        strip_by_strip(Engine(p), ensemble_of(hands.test[0], settings), settings)[0, 0]
        for p in (path, turned)
    )
    np.testing.assert_allclose(one, two[::-1], atol=1e-3 * np.ptp(one))
