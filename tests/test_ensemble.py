"""The ensemble: how votes are combined, worked by hand, and what becomes of real images.

In: logits of a patch or three; generated and real images. Out: probabilities and result tables.
"""

import dataclasses
import math
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from digitlib import Problem, ensemble, model, patches, strips
from digitlib.dataset import Dataset, Page
from digitlib.predict import predict_files
from digitlib.results import combine, softmax
from digitlib.settings import Settings

HALF, QUARTER = math.log(0.5), math.log(0.25)
SURE, NEVER = 100.0, -100.0  # logits whose probability is 1, or 0, to every digit of a float


@pytest.mark.parametrize(
    ("logits", "probabilities"),
    [
        ([0, 0], [0.5, 0.5]),
        ([7, 7, 7, 7], [0.25] * 4),  # only differences count
        ([HALF, QUARTER, QUARTER], [0.5, 0.25, 0.25]),  # logarithms of probabilities
        ([math.log(3), 0], [0.75, 0.25]),
        ([1000, 0], [1, 0]),  # no overflow
        ([-1000, 0], [0, 1]),
        ([5], [1]),  # one class
    ],
)
def test_softmax(logits, probabilities):
    got = softmax(np.array(logits, np.float32))
    np.testing.assert_allclose(got, probabilities, atol=1e-6)


A, B, EVEN = [SURE, NEVER], [NEVER, SURE], [0.0, 0.0]
THREE_TO_ONE = [math.log(3), 0.0]  # 0.75, 0.25


@pytest.mark.parametrize(
    ("logits", "probabilities", "of_logits", "votes"),
    [
        # One strip, one patch: all three agree on what is likeliest.
        ([[THREE_TO_ONE]], [0.75, 0.25], [0.75, 0.25], [1, 0]),
        ([[EVEN]], [0.5, 0.5], [0.5, 0.5], [1, 0]),  # a tie: the first class has the vote
        # One strip of several patches.
        ([[A, B]], [0.5, 0.5], [0.5, 0.5], [0.5, 0.5]),
        ([[A, A, B]], [2 / 3, 1 / 3], [1, 0], [2 / 3, 1 / 3]),  # mean logit: 33 to -33
        # Two that are slightly for the first, one that is sure of the second.
        (
            [[THREE_TO_ONE, THREE_TO_ONE, [0.0, math.log(99)]]],
            [(0.75 + 0.75 + 0.01) / 3, (0.25 + 0.25 + 0.99) / 3],
            [(3 * 3 / 99) ** (1 / 3) / (1 + (3 * 3 / 99) ** (1 / 3)), None],  # geometric mean odds
            [2 / 3, 1 / 3],
        ),
        # Two strips weigh the same: the patches' mean within each, then the strips'.
        ([[A, A], [A, B]], [0.75, 0.25], [0.75, 0.25], [0.75, 0.25]),
        ([[A], [B]], [0.5, 0.5], [0.5, 0.5], [0.5, 0.5]),
        # Not the mean of all logits, which would be certain of the first class: strips weigh alike.
        ([[[300.0, 0.0]], [[0.0, 100.0]]], [0.5, 0.5], [0.5, 0.5], [0.5, 0.5]),
    ],
)
def test_combine(logits, probabilities, of_logits, votes):
    logits = np.array(logits, np.float32)
    if of_logits[1] is None:
        of_logits = [of_logits[0], 1 - of_logits[0]]
    np.testing.assert_allclose(combine(logits), probabilities, atol=1e-6)  # the default
    np.testing.assert_allclose(combine(logits, "probabilities"), probabilities, atol=1e-6)
    np.testing.assert_allclose(combine(logits, "logits"), of_logits, atol=1e-6)
    np.testing.assert_allclose(combine(logits, "vote"), votes, atol=1e-6)


def test_votes_that_tie_tie_in_single_precision_too():
    """Predictions are made of what is saved: 0 + 30 of 35 votes and 25 + 5 are as many."""
    winners = np.array([[1] * 30 + [2] * 5, [0] * 5 + [1] * 5 + [0] * 25])
    shares = combine(np.eye(3, dtype=np.float32)[winners], "vote")
    assert shares.dtype == np.float32
    tops = np.stack([shares, shares.astype(np.float64)]).argmax(axis=1)
    assert tops[0] == tops[1]


@pytest.mark.parametrize("how", ["mean", "", "Vote"])
def test_another_way_to_combine_is_refused(how):
    with pytest.raises(Problem, match="COMBINE must be probabilities, logits or vote"):
        combine(np.zeros((1, 1, 2)), how)


@given(
    shape=st.tuples(st.integers(1, 2), st.integers(1, 6), st.integers(1, 5)),
    seed=st.integers(0, 2**32),
    how=st.sampled_from(["probabilities", "logits", "vote"]),
)
def test_combined_are_probabilities_whatever_the_order_of_patches(shape, seed, how):
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 20, shape)
    got = combine(logits, how)
    assert got.shape == shape[2:] and (got >= 0).all() and got.sum() == pytest.approx(1)
    np.testing.assert_allclose(combine(rng.permutation(logits, axis=1), how), got, atol=1e-12)
    np.testing.assert_allclose(combine(logits[::-1], how), got, atol=1e-12)
    np.testing.assert_allclose(combine(logits + 3, how), got, atol=1e-9)  # a constant is nothing


# --- images -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def network(tiny) -> model.Network:
    """Untrained, but with a head so steep that it has opinions."""
    made = model.build(3, tiny)
    kernel, bias = made.head.get_layer("logits").get_weights()
    made.head.get_layer("logits").set_weights([50 * kernel, bias])
    return made


@pytest.fixture(scope="module")
def ballots(network, digits, tiny) -> list[ensemble.Votes]:
    return ensemble.votes(network.whole, digits.test, tiny)


def test_votes_of_low_and_tall_images(ballots, digits, tiny):
    for page, ballot in zip(digits.test, ballots, strict=True):
        n_strips = 2 if page.path.name == "03_2.png" else 1  # the tall one
        assert ballot.logits.shape == (n_strips, 6, 3)
        assert ballot.seconds > 0
    tall = ballots[[page.path.name for page in digits.test].index("03_2.png")]
    assert not np.array_equal(tall.logits[0], tall.logits[1])


def test_votes_are_the_network_s_on_the_ensemble_s_patches(ballots, network, digits, tiny):
    ballot, page = ballots[0], digits.test[0]
    strip = strips.test_strips(page, tiny)[0]
    centres = patches.ensemble_centres(strip, tiny, 0)
    for centre, logits in zip(centres, ballot.logits[0], strict=True):
        alone = network.whole.predict_on_batch(patches.cut_all(strip, centre[None], tiny))
        np.testing.assert_allclose(alone[0], logits, rtol=1e-3, atol=1e-3)


def test_votes_beyond_what_memory_may_hold_are_the_same(ballots, network, digits, tiny):
    settings = dataclasses.replace(tiny, memory=0)
    for one, other in zip(
        ballots, ensemble.votes(network.whole, digits.test, settings), strict=True
    ):
        assert np.array_equal(one.logits, other.logits) and not other.logits.flags.writeable


def test_agreement_of_the_patches():
    """Two strips of three patches: a, b, b and a, c, a, of an image of a, then of b."""
    logits = np.eye(3)[[[0, 1, 1], [0, 2, 0]]]
    pages = [Page(Path(f"{label}_1.png"), label, np.zeros((1, 1)), False) for label in "abd"]
    table = ensemble.agreement(pages, [ensemble.Votes(logits, 0.0)] * 3, ["a", "b", "c"])
    assert table.to_dict("records") == [
        {"right": 3, "wrong": 3, "rival": 2},
        {"right": 2, "wrong": 4, "rival": 3},
        {"right": 0, "wrong": 6, "rival": 3},  # a label that was never learnt
    ]
    sure = ensemble.agreement(pages[:1], [ensemble.Votes(logits[:, :1], 0.0)], ["a", "b", "c"])
    assert sure.to_dict("records") == [{"right": 2, "wrong": 0, "rival": 0}]


def test_votes_do_not_depend_on_what_was_labelled_before(ballots, network, digits, tiny):
    again = ensemble.vote(network.whole, digits.test[-1], tiny)
    assert np.array_equal(again.logits, ballots[-1].logits)


@pytest.mark.parametrize("how", ["probabilities", "logits", "vote"])
def test_the_table_says_what_the_votes_say(ballots, digits, tiny, how):
    settings = dataclasses.replace(tiny, combine=how)
    table, probabilities = ensemble.evaluated(digits.test, ballots, digits.classes, settings)
    assert table["filename"].tolist() == [page.path.name for page in digits.test]
    assert table["actual"].tolist() == [page.label for page in digits.test]
    assert table["n_strips"].tolist() == [len(ballot.logits) for ballot in ballots]
    assert table["n_patches"].tolist() == [6 * len(ballot.logits) for ballot in ballots]
    wanted = np.stack([combine(ballot.logits, how) for ballot in ballots])
    np.testing.assert_array_equal(probabilities, wanted)
    assert table["predicted"].tolist() == [digits.classes[i] for i in wanted.argmax(axis=1)]
    np.testing.assert_allclose(table["confidence"], wanted.max(axis=1), atol=1e-4)


# --- files --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def saved(network, digits, tiny, tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "model.keras"
    return model.save(network.whole, digits.classes, tiny, path)


def labelled(files, path, out=None):
    """`predict_files` patch by patch, which is what all else must agree with."""
    return pd.DataFrame(predict_files(files, path, out, engine="keras").rows)


def test_predict_files_with_a_model_alone(saved, ballots, digits, digits_folder, tiny, tmp_path):
    """No training data, no settings but those in the model: the same labels and probabilities."""
    out = tmp_path / "result.csv"
    given = [digits_folder / "test" / "03_3.png", digits_folder / "test"]
    table = labelled(given, saved, out)
    wanted, _ = ensemble.evaluated(digits.test, ballots, digits.classes, tiny)
    assert table["filename"].tolist() == ["03_3.png", *wanted["filename"]]
    for column in "predicted", "top5", "n_strips", "n_patches":
        assert table[column].tolist()[1:] == wanted[column].tolist()
    np.testing.assert_allclose(table["confidence"][1:], wanted["confidence"], atol=1e-4)
    written = pd.read_csv(out, dtype=str)
    assert list(written)[:3] == ["filename", "actual", "predicted"]
    assert written["predicted"].tolist() == table["predicted"].tolist()


def test_predict_files_takes_an_image_without_a_label(saved, digits, tmp_path):
    cv2.imwrite(str(tmp_path / "scan.png"), digits.test[0].image)
    table = labelled([tmp_path / "scan.png"], saved)
    assert table["actual"].tolist() == [""] and table["predicted"][0] in digits.classes
    assert [path.name for path in tmp_path.iterdir()] == ["scan.png"]  # nothing written unasked


def test_images_of_other_sizes_are_labelled(saved, tmp_path):
    """Narrower than a patch, lower than a strip, blank, a whole page: each gets its label."""
    for name, shape in {"s": (32, 32), "n": (700, 40), "b": (300, 900), "p": (1070, 1545)}.items():
        image = np.full(shape, 255, np.uint8)
        if name != "b":
            cv2.line(image, (5, 5), (shape[1] - 5, 25), 0, 3)
        cv2.imwrite(str(tmp_path / f"{name}.png"), image)
    table = labelled([tmp_path], saved).set_index("filename")
    assert table["n_strips"].to_dict() == {"b.png": 1, "n.png": 2, "p.png": 2, "s.png": 1}
    assert table["confidence"].between(1 / 3 - 1e-6, 1).all()


# --- real scans through the whole pipeline --------------------------------------------------------


def test_real_scans_from_page_to_table(reference, tmp_path):
    """Scans, strips, patches, two phases of training, the file, the ensemble: of three writers."""
    from digitlib.train import train

    low = next(page for page in reference.test if len(page.image) == 267)
    labels = sorted({low.label, "01", "35"})
    chosen = [[p for p in part if p.label in labels] for part in (reference.train, reference.test)]
    three = Dataset(reference.folder, *chosen, 0)
    settings = Settings(
        views=1,
        view_patches=10,
        head_rate=0.1,
        head_epochs=20,
        patience=20,
        tune_epochs=0,
        n_patches=10,
        n_even=5,
    )
    trained = train(three, settings, tmp_path / "checkpoints")
    assert trained.n_patches["phase 1"] == 10 * 7 * len(labels) + 15 * len(labels)
    path = model.save(trained.network, three.classes, settings, tmp_path / "model.keras")
    files = [page.path for page in three.test]
    table = labelled(files, path, tmp_path / "result.csv")
    assert table["actual"].tolist() == table["filename"].str[:2].tolist() == labels
    assert set(table["predicted"]) <= set(labels) and (table["n_patches"] == 10).all()
    votes = ensemble.votes(trained.network, three.test, settings)
    again, probabilities = ensemble.evaluated(three.test, votes, three.classes, settings)
    assert again["predicted"].tolist() == table["predicted"].tolist()
    np.testing.assert_allclose(again["confidence"], table["confidence"], atol=1e-4)
    own = ensemble.votes(trained.network, three.train, settings)
    answers = [three.classes[combine(vote.logits).argmax()] for vote in own]
    assert answers == labels
