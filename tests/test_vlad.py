"""Reading whole strips: VLAD's sums by hand, the pen, and a model that learns, is saved and labels.

In: features small enough to add up on paper; generated hands; real scans. Out: sums and labels.
"""

from dataclasses import replace
from pathlib import Path

import cv2
import keras
import numpy as np
import pytest
from keras import backend, ops

from digitlib import Problem, engine, ensemble, folds, model, variants, vlad
from digitlib.dataset import Page
from digitlib.settings import Settings
from digitlib.strips import PAPER, grey_and_ink, network_inputs, on_ink

TENSORFLOW = pytest.mark.skipif(
    backend.backend() != "tensorflow", reason="OpenVINO reads networks of TensorFlow alone"
)


@pytest.fixture(autouse=True)
def drawn_alike() -> None:
    """Keras draws untrained backbones from a state that all tests would share."""
    keras.utils.set_random_seed(1)


@pytest.fixture(scope="module")
def reader(tiny) -> Settings:
    """The smallest recipe that reads whole strips; its backbone is untrained."""
    return replace(
        tiny,
        pooling="vlad",
        split="none",
        views=0,
        head_epochs=0,
        tune_epochs=0,
        codebooks=2,
        clusters=4,
        components=3,
        whitened=30,
        pen_change=0.0,
        size_change=0.0,
        slant_change=0.0,
    )


def normalised(sums: np.ndarray) -> np.ndarray:
    """(centres, d) sums of one codebook as they stand in a vector, from the definition."""
    lengths = np.linalg.norm(sums, axis=-1, keepdims=True)
    roots = np.sqrt(np.abs(sums / np.maximum(lengths, 1e-9))) * np.sign(sums)
    return roots.ravel() / max(np.linalg.norm(roots), 1e-9)


def by_hand(centres: list, whiten=None, mean=None) -> vlad.Vlad:
    """A layer of stride 1 that whitens by ``whiten`` (identity) after taking off ``mean`` (0)."""
    centres = np.array(centres, np.float32)
    layer = vlad.Vlad(1, *centres.shape)
    c = centres.shape[-1] if whiten is None else len(whiten)
    layer.build([(None, None, None, c), (None, None, None)])
    layer.set_weights(
        [np.zeros(c) if mean is None else mean, np.eye(c) if whiten is None else whiten, centres]
    )
    return layer


INK = np.ones((1, 1, 3), np.uint8)
NEAR = [[[1.0, 0.0], [0.0, 3.0]]]  # one codebook of two centres


@pytest.mark.parametrize(
    "squares, ink, sums",
    [
        # sqrt: (2, 0), (0, 4), (1, 1); the third is nearer to (1, 0): distance 1 against sqrt 5
        ([[4, 0], [0, 16], [1, 1]], [1, 1, 1], [[1 + 0, 0 + 1], [0, 1]]),
        ([[4, 0], [0, 16], [1, 1]], [1, 0, 0], [[1, 0], [0, 0]]),  # only the first is on ink
        ([[4, 0], [0, 16], [1, 1]], [0, 0, 0], [[0, 0], [0, 0]]),  # no ink at all
        ([[1, 0], [1, 0], [1, 0]], [1, 1, 1], [[0, 0], [0, 0]]),  # on the centre itself
    ],
)
def test_differences_are_summed_per_centre(squares, ink, sums):
    features = np.array(squares, np.float32).reshape(1, 1, 3, 2)
    writing = np.array(ink, np.uint8).reshape(1, 1, 3)
    layer = by_hand(NEAR)
    vector = normalised(np.array(sums, float))
    np.testing.assert_allclose(np.asarray(layer([features, writing]))[0], vector, atol=1e-6)
    member, whitened, _ = map(np.asarray, layer.local(features, writing))
    differences = member[..., None] * (whitened[:, None, None] - np.array(NEAR))
    np.testing.assert_allclose(differences.sum(axis=0)[0], sums, atol=1e-6)


@pytest.mark.parametrize("height, kept", [(2, 128), (128, 256), (1000, 1024)])
def test_positions_without_ink_are_left_out(height, kept):
    """Maps of three columns, the last of which is on ink: numbers are rounded up, never down."""
    features = np.arange(6 * height, dtype=np.float32).reshape(1, height, 3, 2)
    writing = np.zeros((1, height, 3), np.uint8)
    writing[:, :, 2] = 1
    member, whitened, row = map(np.asarray, by_hand(NEAR).local(features, writing))
    if vlad.keras.backend.backend() != "jax":  # it looks at all
        assert len(member) == len(whitened) == len(row) == kept
    written = member.any(axis=(1, 2))
    assert row[written].tolist() == list(range(height))
    np.testing.assert_allclose(whitened[written] ** 2, features[0, :, 2], rtol=1e-5)


@pytest.mark.parametrize(
    "windows, sums",
    [
        ([(0, 20)], [[1, 0, 2, -2]]),  # rows are 10 px high, their middles at 5 and 15
        ([(0, 10), (10, 20)], [[1, 0, 0, 0], [0, 0, 2, -2]]),
        ([(0, 5), (5, 15), (15, 16)], [[0] * 4, [1, 0, 0, 0], [0, 0, 2, -2]]),  # on a border: below
        ([(20, 40)], [[0] * 4]),  # nothing is there
    ],
)
def test_windows_add_up_what_lies_in_them(windows, sums):
    """In the first row one position on ink, (1, 0) from the first centre; in the second two, each
    (1, -1) from the second centre."""
    layer = by_hand(NEAR)
    layer.scale = 0.1
    features = np.array([[[[9, 9], [4, 0]], [[1, 4], [1, 4]]]], np.float32)
    writing = np.array([0, 1, 1, 1], np.uint8).reshape(1, 2, 2)
    found = layer.of_windows(layer.local(features, writing), windows)
    vectors = [normalised(np.array(own, float).reshape(2, 2)) for own in sums]
    np.testing.assert_allclose(found, vectors, atol=1e-6)


def test_whitening_comes_after_the_square_root():
    layer = by_hand([[[0.0], [100.0]]], whiten=np.array([[10.0], [0.0]]), mean=np.array([1.0, 0]))
    features = np.array([[[[9.0, 5.0]]]], np.float32)
    _, whitened, _ = layer.local(features, INK[:, :, :1])
    np.testing.assert_allclose(np.asarray(whitened)[:1], [[(3 - 1) * 10]], rtol=1e-6)


@pytest.mark.parametrize(
    "sums, vector",
    [
        # Of (9, -12), length 15, the shares 0.6 and -0.8; their roots have length sqrt(1.4).
        ([[[9.0, -12.0], [0, 0]]], [(0.6 / 1.4) ** 0.5, -((0.8 / 1.4) ** 0.5), 0, 0]),
        ([[[16.0, 0.0], [0.0, -9.0]]], [0.5**0.5, 0, 0, -(0.5**0.5)]),  # both centres count alike
        ([[[1e-5, 0.0], [0.0, -9.0]]], [0.1 / 1.01**0.5, 0, 0, -1 / 1.01**0.5]),  # but rounding
        ([[[0.0, 0.0], [0.0, 0.0]]], [0, 0, 0, 0]),  # a blank strip: no length, no division by 0
        ([[[4.0, 0.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 25.0]]], [1, 0, 0, 0, 0, 0, 0, 1]),
    ],
)
def test_sums_have_unit_length_per_centre_and_their_roots_per_codebook(sums, vector):
    layer = by_hand(np.zeros((len(sums), 2, 2)))
    found = np.asarray(layer.vectors(np.array([sums], np.float32), np.zeros((1, len(sums), 2))))
    np.testing.assert_allclose(found[0], vector, atol=1e-6)


def test_a_cell_counts_as_ink_from_two_percent():
    writing = np.zeros((10, 20), np.uint8)
    writing[0, :3] = 255  # 3 of the first cell's 100 px, none of the second's
    assert on_ink(writing, 10).tolist() == [[1, 0]]
    writing[0, 2:] = 0  # 2 of 100 is not more than 2 %
    assert on_ink(writing, 10).tolist() == [[0, 0]]


def test_positions_on_ink_stand_where_the_layers_see_it(tiny):
    """A dot of 16 px in the scan is one position at a stride of 8 px and four at 4 px."""
    settings = replace(tiny, scale=0.5, vlad_layers="block_3_expand_relu block_6_expand_relu")
    image = np.full((64, 128), PAPER, np.uint8)
    image[32:48, 64:80] = 0
    grey, fine, coarse = network_inputs(image, settings)
    assert (grey.shape, fine.shape, coarse.shape) == ((1, 32, 64, 1), (1, 8, 16), (1, 4, 8))
    assert np.argwhere(grey[0, ..., 0] == 0).mean(axis=0).tolist() == [19.5, 35.5]
    assert np.argwhere(fine[0]).tolist() == [[4, 8], [4, 9], [5, 8], [5, 9]]
    assert np.argwhere(coarse[0]).tolist() == [[2, 4]]


@pytest.mark.parametrize(
    "shape, scale, expected",
    [
        ((300, 1520), 0.5, (160, 768)),  # 150 x 760 px, padded to multiples of 32 and 64
        ((64, 512), 0.5, (32, 256)),  # fits exactly
        ((10, 10), 0.5, (32, 64)),  # lower than a letter: padded, never enlarged
        ((1, 1), 0.25, (32, 64)),
    ],
)
def test_strips_are_padded_with_paper(shape, scale, expected):
    found = grey_and_ink(np.zeros(shape, np.uint8), scale)
    height, width = (max(1, round(side * scale)) for side in shape)
    for plane, beyond in zip(found, (PAPER, 0), strict=True):
        assert plane.shape == expected and plane.dtype == np.uint8
        assert (plane[:height, :width] == 0).all()
        assert (plane[height:] == beyond).all() and (plane[:, width:] == beyond).all()


@pytest.mark.parametrize("change, width", [(0.0, 8), (2.0, 10), (-2.0, 6), (-20.0, 0)])
def test_a_pen_moves_both_edges_of_a_stroke(change, width):
    image = np.full((40, 60), PAPER, np.uint8)
    image[:, 20:28] = 0
    row = variants.pen(image, change)[20]
    assert (row == 0).sum() == pytest.approx(width, abs=1 if change else 0)
    assert set(np.unique(row)) <= {0, PAPER}


@pytest.mark.parametrize(
    "vectors, truth, shrinkage, expected",
    [
        # two classes, each with (+-2, 0) and (0, +-1) about its mean: variances 2 and 1/2
        ([[2, 0], [-2, 0], [0, 1], [0, -1]], [0, 0, 0, 0], 0, [[2, 0], [0, 0.5]]),
        ([[2, 0], [-2, 0], [0, 1], [0, -1]], [0, 0, 0, 0], 1, [[1.25, 0], [0, 1.25]]),
        ([[2, 0], [-2, 0], [0, 1], [0, -1]], [0, 0, 0, 0], 0.2, [[1.85, 0], [0, 0.65]]),
        # where a class lies makes no difference: the second is the first, 7 further
        ([[2, 0], [-2, 0], [9, 8], [5, 8], [7, 9], [7, 7]], [0, 0, 1, 1, 1, 1], 0, None),
        ([[3, 1], [5, 2]], [0, 1], 0.1, [[1, 0], [0, 1]]),  # nothing is known of one example each
    ],
)
def test_whitening_within_classes(vectors, truth, shrinkage, expected):
    """``expected``: the covariance within classes that is whitened."""
    vectors, truth = np.array(vectors, float), np.array(truth)
    whiten = vlad._within(vectors, truth, shrinkage)
    if expected is None:
        means = np.array([[0, 0], [7, 8]])
        spread = vectors - means[truth]
        expected = spread.T @ spread / len(spread)
    np.testing.assert_allclose(whiten.T @ np.array(expected) @ whiten, np.eye(2), atol=1e-9)


def test_the_first_directions_tell_classes_apart():
    """Means 10 apart in y and 1 in x, the same spread in both: y comes first."""
    square = np.array([[1, 1], [1, -1], [-1, 1], [-1, -1]], float)
    vectors = np.concatenate([square, square + [1, 10]])
    first = vlad._within(vectors, np.repeat([0, 1], 4), 0)[:, 0]
    np.testing.assert_allclose(np.abs(first), np.array([1, 10]) / np.hypot(1, 10), atol=1e-9)


@pytest.mark.parametrize("examples", [1000, 100])  # all of the others, or a part of them
def test_each_class_is_told_from_the_others(examples):
    """Four classes of 40, at the corners of a square of side 20: everyone is on its own side."""
    rng = np.random.default_rng(1)
    truth = np.repeat([2, 0, 3, 1], 40)
    corners = np.array([[0, 0], [0, 20], [20, 0], [20, 20]])
    vectors = corners[truth] + rng.normal(0, 1, (160, 2))
    settings = Settings(examples=examples)
    weights, bias = vlad.one_against_rest(vectors - 10, truth, settings)
    assert weights.shape == (4, 2) and bias.shape == (4,)
    assert (((vectors - 10) @ weights.T + bias).argmax(axis=1) == truth).all()


@pytest.mark.parametrize(
    ("examples", "own", "others"),
    [(20_000, 500, 1000), (1200, 500, 700), (800, 400, 400), (100, 50, 50)],
)
def test_what_one_svm_learns_from_is_bounded(examples, own, others, monkeypatch):
    """Three classes of 500: half of the examples at most are a class's own."""
    seen, fit = set(), vlad.LinearSVC.fit

    def counted(svm, vectors, mine):
        seen.add((int(mine.sum()), int((~mine).sum())))
        return fit(svm, vectors, mine)

    monkeypatch.setattr(vlad.LinearSVC, "fit", counted)
    vectors = np.random.default_rng(1).normal(size=(1500, 2))
    vlad.one_against_rest(vectors, np.repeat([0, 1, 2], 500), Settings(examples=examples))
    assert seen == {(own, others)}


@pytest.mark.parametrize("examples", [100, 150, 20_000])
def test_whitening_is_learnt_from_the_first_vectors_and_used_on_all(examples, reader):
    """Whatever is held at once, vectors of two clear classes end up on their own sides."""
    settings = replace(reader, examples=examples, whitened=8)
    network = model.whole_strips(2, settings, model.backbone(settings))
    learner = vlad.Labels(network, "block_3_expand_relu", settings)
    size = network.get_layer("whiten_block_3_expand_relu").kernel.shape[0]
    rng, away = np.random.default_rng(2), np.zeros(size)
    away[:4] = 6
    for k in range(40):
        learner.add(rng.normal(0, 1, (5, size)) + (k % 2) * away, k % 2)
    learner.learn()
    assert len(learner.truth) == 200 and not learner.first
    whiten, logits = (network.get_layer(f"{n}_block_3_expand_relu") for n in ("whiten", "logits"))
    fresh = (rng.normal(0, 1, (20, size)) + away).astype(np.float32)
    found = ops.convert_to_numpy(logits(vlad.keras.ops.normalize(whiten(fresh))))
    assert (found.argmax(axis=1) == 1).mean() >= 0.9


def test_half_precision_hardly_moves_a_logit():
    rng = np.random.default_rng(1)
    layer = vlad.Projection(8)
    layer.build((None, 1000))
    kernel, vectors = rng.normal(0, 100, (1000, 8)), rng.normal(0, 0.03, (20, 1000))
    layer.set_weights([kernel, np.zeros(8)])
    exact = vectors @ kernel
    found = np.asarray(layer(vectors.astype(np.float32)))
    assert np.abs(found - exact).max() < 1e-3 * exact.std()


def test_a_recipe_learns_hands_and_survives_the_file(reader, hands, tmp_path):
    core = model.build(len(hands.classes), reader).backbone  # drawn from the seed
    network = model.whole_strips(len(hands.classes), reader, core)
    vlad.fit(network, hands.train, hands.classes, reader)
    votes = ensemble.votes(network, hands.test, reader)
    result, probabilities = ensemble.evaluated(hands.test, votes, hands.classes, reader)
    # Chance is 1 of 6; an untrained backbone's features tell these hands apart nonetheless.
    assert (result["actual"] == result["predicted"]).mean() >= 0.5
    path = model.save(network, hands.classes, reader, tmp_path / "model.keras")
    again, classes, settings = model.load(path)
    assert classes == hands.classes and settings.pooling == "vlad"
    votes = ensemble.votes(again, hands.test, settings)
    same = ensemble.evaluated(hands.test, votes, classes, settings)[1]
    np.testing.assert_allclose(same, probabilities, atol=1e-6)


def test_fitting_is_a_function_of_the_seed(reader, hands):
    def weights(seed: int) -> list[np.ndarray]:
        settings = replace(reader, seed=seed)
        core = model.backbone(reader)
        network = model.whole_strips(6, settings, _constant(core))
        vlad.fit(network, hands.train, hands.classes, settings)
        return network.get_weights()

    first, again, other = weights(3), weights(3), weights(4)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(first, other, strict=True))


@TENSORFLOW
def test_nothing_is_compiled_by_xla(reader, hands, monkeypatch):
    """Keras has it compiled where there is a GPU; of positions on ink it gives wrong rows."""
    monkeypatch.setattr(engine, "reads_networks", lambda: False)  # Keras itself reads, as on a GPU

    def weights() -> list[np.ndarray]:
        network = model.whole_strips(6, reader, _constant(model.backbone(reader)))
        vlad.fit(network, hands.train, hands.classes, reader)
        return network.get_weights()

    on_a_cpu = weights()
    monkeypatch.setattr(vlad.keras.Model, "_resolve_auto_jit_compile", lambda network: True)
    assert all(map(np.array_equal, on_a_cpu, weights()))


def test_windows_are_added_up_where_the_backend_computes(monkeypatch):
    """PyTorch's numbers on a GPU and NumPy's cannot be added."""
    layer, seen = by_hand(NEAR), []
    plain = layer.vectors
    monkeypatch.setattr(layer, "vectors", lambda *sums: (seen.extend(sums), plain(*sums))[1])
    layer.of_windows(layer.local(np.ones((1, 1, 3, 2), np.float32), INK), [(0, 1)])
    assert len(seen) == 2 and all(map(ops.is_tensor, seen))


def _constant(core):
    """``core`` with weights that do not depend on when it was built."""
    rng = np.random.default_rng(1)
    core.set_weights([np.abs(rng.normal(0.1, 0.3, w.shape)) for w in core.get_weights()])
    return core


def test_windows_add_up_to_what_one_pass_says(reader, hands):
    """A page that is one window gives the vector that the whole network sees."""
    network = model.whole_strips(6, reader, model.backbone(reader))
    vlad.fit(network, hands.train, hands.classes, reader)
    inputs = network_inputs(hands.test[0].image, reader)
    layer = next(item for item in network.layers if isinstance(item, vlad.Vlad))
    maps = vlad.keras.Model(network.input, layer.input)(inputs)
    whole = vlad.keras.Model(network.input, layer.output)(inputs)
    together = layer.of_windows(layer.local(*maps), [(0, inputs[0].shape[1] / layer.scale)])
    np.testing.assert_allclose(together, ops.convert_to_numpy(whole), atol=1e-5)


def test_one_grey_channel_gives_the_features_of_three_alike(reader):
    """The first kernel summed over red, green and blue; a third of the work, the same numbers."""
    colour = model.backbone(reader)
    network = model.whole_strips(6, reader, colour)
    grey = np.random.default_rng(1).integers(0, 256, (1, 32, 32, 1), np.uint8)
    ink = [np.ones((1, 32 // step, 32 // step), np.uint8) for step in reader.strides]
    layer = network.get_layer("vlad_block_6_expand_relu")
    features, _ = vlad.keras.Model(network.input, layer.input)([grey, *ink])
    wanted = colour(np.repeat(grey / 127.5 - 1, 3, axis=-1))
    np.testing.assert_allclose(*map(ops.convert_to_numpy, (features, wanted)), atol=1e-4)


def test_padding_to_the_right_changes_nothing_but_the_edge(reader, hands):
    network = model.whole_strips(6, reader, model.backbone(reader))
    vlad.fit(network, hands.train, hands.classes, reader)
    image = hands.test[0].image
    padded = cv2.copyMakeBorder(image, 0, 0, 0, 400, cv2.BORDER_CONSTANT, value=PAPER)
    inputs = [network_inputs(item, reader) for item in (image, padded)]
    assert inputs[0][0].shape != inputs[1][0].shape
    one, two = (np.asarray(network.predict_on_batch(item))[0] for item in inputs)
    assert one.argmax() == two.argmax()
    np.testing.assert_allclose(one, two, atol=0.2 * np.ptp(one))


def test_a_blank_strip_gets_an_answer_and_no_nan(reader, hands):
    network = model.whole_strips(6, reader, model.backbone(reader))
    vlad.fit(network, hands.train, hands.classes, reader)
    blank = replace(hands.test[0], image=np.full((300, 800), PAPER, np.uint8))
    vote = ensemble.vote(network, blank, reader)
    assert vote.logits.shape == (1, 1, 6) and np.isfinite(vote.logits).all()


def test_several_scales_are_read_and_add_up(reader, hands, tmp_path):
    """A strip goes in at each scale; windows stand where they do on the page."""
    settings = replace(reader, vlad_scales="0.5 0.7", vlad_layers="block_3_expand_relu")
    network = model.whole_strips(6, settings, model.backbone(settings))
    assert len(network.inputs) == 4  # grey and ink at each
    vlad.fit(network, hands.train, hands.classes, settings)
    inputs = network_inputs(hands.test[0].image, settings)
    sizes = [(1, 160, 768, 1), (1, 40, 192), (1, 224, 1088, 1), (1, 56, 272)]
    assert [item.shape for item in inputs] == sizes
    logits = [layer.output for layer in network.layers if layer.name.startswith("logits")]
    each = vlad.keras.Model(network.inputs, logits).predict_on_batch(inputs)
    whole = network.predict_on_batch(inputs)
    np.testing.assert_allclose(np.sum(each, axis=0), whole, atol=1e-3)
    for layer, grey in zip(
        (item for item in network.layers if isinstance(item, vlad.Vlad)), inputs[::2], strict=True
    ):
        features, _ = vlad.keras.Model(network.inputs, layer.input).predict_on_batch(inputs)
        page = features.shape[1] * layer.stride / layer.scale
        assert page == grey.shape[1] / layer.scale >= 300
    path = model.save(network, hands.classes, settings, tmp_path / "model.keras")
    again, _, known = model.load(path)
    np.testing.assert_allclose(again.predict_on_batch(inputs), whole, atol=1e-4)
    assert known.scales == [0.5, 0.7]


def test_windows_are_strips_and_thirds_of_them(hands):
    """Each further down by a step, or half of one; and where the page is larger, they are too."""
    settings = Settings(pooling="vlad", split="none", pen_change=0, size_change=0, slant_change=0)
    page = replace(hands.train[0], image=hands.train[0].image[:380])
    (sheet,) = vlad._Sheets([page], settings)
    assert sheet.windows == [(0, 300), (80, 380)] + [(top, top + 100) for top in range(0, 281, 40)]
    small, own, _ = vlad._Sheets([page], replace(settings, size_change=0.5))
    assert own.windows == sheet.windows
    assert small.windows == [(top / 2, bottom / 2) for top, bottom in sheet.windows]


def test_further_sheets_are_of_other_pens_and_slants():
    """An upright bar of 10 px: of four sheets one has more ink, one less, two lean either way."""
    image = np.full((300, 400), 255, np.uint8)
    image[50:250, 195:205] = 0
    plain = Settings(pooling="vlad", clahe_clip=0, blur=0, scale=1.0)
    settings = replace(plain, pen_change=1.0, size_change=0, slant_change=0.1)
    sheets = list(vlad._Sheets([Page(Path("a_1.png"), "a", image, False)], settings))
    grey = [sheet.inputs[0][0, :300, :400, 0].astype(float) for sheet in sheets]
    ink = [round((255 - own).sum() / 255) for own in grey]

    def lean(own: np.ndarray) -> float:
        """How far the bar's top lies to the right of its foot, px."""
        columns = np.arange(400)
        ends = ((255 - own)[rows].sum(axis=0) for rows in (slice(60, 80), slice(220, 240)))
        top, foot = (columns @ of / of.sum() for of in ends)
        return top - foot

    leans = [lean(own) for own in grey]
    thin, as_it_is, thick = sorted(ink[i] for i in range(5) if abs(leans[i]) < 1)
    assert thin < 0.95 * as_it_is < as_it_is == 2000 < 1.05 * as_it_is < thick
    assert sorted(round(own / 16) for own in leans if abs(own) >= 1) == [-1, 1]  # 0.1 a px of 160


def test_one_layer_alone_is_learnt(reader, hands):
    settings = replace(reader, vlad_layers="block_3_expand_relu")
    network = model.whole_strips(6, settings, model.backbone(settings))
    vlad.fit(network, hands.train, hands.classes, settings)
    vote = ensemble.vote(network, hands.train[0], settings)
    assert hands.classes[int(vote.logits[0, 0].argmax())] == hands.train[0].label


def test_too_little_ink_says_so(reader, hands):
    network = model.whole_strips(6, reader, model.backbone(reader))
    image = np.full((300, 300), PAPER, np.uint8)
    image[150, 150] = 0
    dots = [replace(p, image=image) for p in hands.train]
    with pytest.raises(Problem, match="CLUSTERS"):
        vlad.fit(network, dots, hands.classes, reader)


def test_a_blank_page_among_others_is_named(reader, hands):
    network = model.whole_strips(6, reader, model.backbone(reader))
    blank = replace(hands.train[3], image=np.full((300, 300), PAPER, np.uint8))
    pages = [*hands.train[:3], blank, *hands.train[4:]]
    with pytest.raises(Problem, match=f"{blank.path.name}: no ink is found on it"):
        vlad.fit(network, pages, hands.classes, reader)


def test_vectors_that_vary_in_few_directions_are_learnt_from(reader):
    """Those of a few pages that are half blank: whitened, what is but rounding grew to infinity."""
    settings, vector = replace(reader, whitened=400), keras.Input((600,))
    network = keras.Model(vector, vlad.labelled(vector, "x", 2, settings))
    learner, rng = vlad.Labels(network, "x", settings), np.random.default_rng(1)
    written = rng.normal(0, 0.04, (2, 20, 600)).astype(np.float32)
    for number, some in enumerate(written):
        learner.add(np.concatenate([some, np.zeros((200, 600), np.float32)]), number)
    learner.learn()
    weights = [values.astype(np.float32) for values in network.get_weights()]
    assert all(np.isfinite(values).all() for values in weights)
    for number, some in enumerate(written):
        assert (network.predict_on_batch(some).argmax(axis=1) == number).all()


def test_two_classes_have_two_logits(reader, hands):
    pages = [page for page in hands.train if page.label in hands.classes[:2]]
    network = model.whole_strips(2, reader, model.backbone(reader))
    vlad.fit(network, pages, hands.classes[:2], reader)
    inputs = network_inputs(pages[0].image, reader)
    logits = np.asarray(network.predict_on_batch(inputs))[0]
    assert logits[0] == pytest.approx(-logits[1], abs=1e-4) and logits[0] > 0


def test_real_lines_are_told_apart_without_any_training(reference):
    """Five writers' held-out lines, with the shipped backbone as it is."""
    labels = reference.classes[:5]
    pages = [page for page in reference.train if page.label in labels]
    fold = folds.held_out(replace(reference, train=pages, test=[]), 1, 3)
    settings = Settings(
        dataset="reference", pooling="vlad", split="none", codebooks=1, clusters=16, pen_change=0.0
    )
    network = model.whole_strips(5, settings, model.backbone(settings))
    vlad.fit(network, fold.train, labels, settings)
    votes = ensemble.votes(network, fold.test, settings)
    result, _ = ensemble.evaluated(fold.test, votes, labels, settings)
    assert (result["actual"] == result["predicted"]).sum() >= 4


@pytest.mark.parametrize(
    "size, slant, corners",
    [
        (1.0, 0.0, (40, 60, 20, 40)),  # left, right, top, bottom (first px beyond)
        (0.5, 0.0, (20, 30, 10, 20)),
        (2.0, 0.0, (80, 120, 40, 80)),
    ],
)
def test_resizing_moves_edges_with_the_page(size, slant, corners):
    image = np.full((60, 100), PAPER, np.uint8)
    image[20:40, 40:60] = 0
    varied = variants.resized(image, size, slant)
    assert varied.shape == (60 * size, 100 * size) and set(np.unique(varied)) == {0, PAPER}
    rows, columns = np.nonzero(varied == 0)
    found = (columns.min(), columns.max() + 1, rows.min(), rows.max() + 1)
    np.testing.assert_allclose(found, corners, atol=1)


def test_a_slant_leans_to_the_right_about_the_middle():
    image = np.full((61, 100), PAPER, np.uint8)
    image[:, 48:52] = 0
    varied = variants.resized(image, slant=0.5)
    middle = [np.nonzero(varied[row] == 0)[0].mean() for row in (0, 30, 60)]
    np.testing.assert_allclose(middle, [49.5 + 15, 49.5, 49.5 - 15], atol=1)


@TENSORFLOW
def test_learning_sees_in_openvino_what_keras_gives(reader, hands):
    """Nested outputs in their places, of inputs of one size and another; kept, not overwritten."""
    network = model.whole_strips(6, reader, model.backbone(reader))
    layers = [layer for layer in network.layers if isinstance(layer, vlad.Vlad)]
    rng = np.random.default_rng(1)
    for layer in layers:
        layer.set_weights([rng.normal(0, 0.3, item.shape) for item in layer.weights])
    what = [[vlad._Local(layer)(layer.input), layer.input[0]] for layer in layers]
    part = vlad.keras.Model(network.input, what)
    fast = engine.compiled(part)
    assert fast is not part
    pages = [hands.test[0].image, hands.test[1].image[:120, :500]]
    inputs = [network_inputs(image, reader) for image in pages]
    assert inputs[0][0].shape != inputs[1][0].shape
    found = [fast.predict_on_batch(own) for own in inputs]
    for own, nested in zip(inputs, found, strict=True):
        wanted = part.predict_on_batch(own)
        vlad.keras.tree.assert_same_structure(nested, wanted)
        for one, two in zip(*map(vlad.keras.tree.flatten, (nested, wanted)), strict=True):
            assert one.shape == two.shape
            np.testing.assert_allclose(one, two, atol=1e-3)


@TENSORFLOW
def test_whole_strips_get_the_same_answers_in_openvino(reader, hands):
    network = model.whole_strips(6, reader, model.backbone(reader))
    vlad.fit(network, hands.train, hands.classes, reader)
    fast, some = engine.compiled(network), hands.test[:4]
    assert fast is not network
    exact = ensemble.votes(network, some, reader)
    for one, two in zip(exact, ensemble.votes(fast, some, reader), strict=True):
        assert one.logits.shape == two.logits.shape == (1, 1, 6)
        np.testing.assert_allclose(two.logits, one.logits, atol=1e-3)


def test_on_another_backend_learning_stays_in_keras(monkeypatch):
    monkeypatch.setattr(vlad.keras.backend, "backend", lambda: "jax")
    assert engine.compiled(None) is None


def test_codebooks_are_learnt_whatever_the_seed():
    features = np.random.default_rng(1).random((200, 6), np.float32)
    layer = vlad.Vlad(4, 2, 3, 4)
    layer.build([(1, None, None, 6), (1, None, None)])
    found = []
    for seed in 1, 1, 2**32 - 1:
        vlad.learn_codebooks(layer, features, seed)
        found.append(layer.get_weights()[2])
    np.testing.assert_array_equal(found[0], found[1])
    assert np.abs(found[0] - found[2]).max() > 0.01
