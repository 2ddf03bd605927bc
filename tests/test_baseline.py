"""Baseline: keypoints lie on ink, their descriptors are RootSIFT's, and what is blank is undecided.

In: drawn scans that can be checked by eye, small generated data sets, the real scans. Out: numbers.
"""

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from digitlib import Problem, baseline, variants, vlad
from digitlib.dataset import Page
from digitlib.evaluate import is_correct
from digitlib.folds import cross_validate, held_out
from digitlib.settings import Settings

SMALL = Settings(codebooks=2, clusters=8, components=16, whitened=20, strip_step=150)


def page(image: np.ndarray, label: str = "a") -> Page:
    return Page(Path(f"{label}_1.png"), label, image, inverted=False)


def scan(draw: str = "", height: int = 300, width: int = 600) -> np.ndarray:
    """White (h, w) uint8 paper with a word on it."""
    image = np.full((height, width), 255, np.uint8)
    cv2.putText(image, draw, (60, 180), cv2.FONT_HERSHEY_SIMPLEX, 2, 0, 4)
    return image


def some(dataset, n: int):
    """``dataset`` with its first ``n`` classes."""
    first = set(dataset.classes[:n])
    kept = {
        part: [page for page in getattr(dataset, part) if page.label in first]
        for part in ("train", "test")
    }
    return replace(dataset, **kept)


def right(fitted: baseline.Baseline, pages: list[Page], classes: list[str]) -> int:
    said = fitted.probabilities(pages).argmax(axis=1)
    return sum(classes[i] == page.label for i, page in zip(said, pages, strict=True))


# --- Keypoints ---------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [0.5, 1.0])  # px of the scan either way
def test_keypoints_lie_on_ink_and_are_in_px_of_the_scan(scale):
    places, descriptors = baseline.keypoints(scan("word"), Settings(scale=scale))
    (x, y), (left, top, wide, high) = places[:, :2].T, (60, 130, 160, 60)  # where it is written
    assert len(places) == len(descriptors) > 5
    assert ((left - 10 < x) & (x < left + wide + 10)).all()
    assert ((top - 10 < y) & (y < top + high + 10)).all()
    assert (places[:, 2] <= baseline.LARGEST).all()


def test_descriptors_are_those_of_rootsift():
    # Arandjelović and Zisserman 2012: divide by the sum, take the root; its length is then 1.
    _, descriptors = baseline.keypoints(scan("word"), Settings())
    assert descriptors.dtype == np.float32 and descriptors.shape[1] == 128
    np.testing.assert_allclose(np.linalg.norm(np.sqrt(descriptors), axis=1), 1, rtol=1e-5)


@pytest.mark.parametrize(
    "image",
    [
        scan(),  # blank
        np.full((300, 600), 130, np.uint8),  # blank and grey
        np.zeros((300, 600), np.uint8),  # all black
        np.full((32, 32), 255, np.uint8),  # the smallest that is read
    ],
)
def test_where_there_is_nothing_there_are_no_keypoints(image):
    places, descriptors = baseline.keypoints(image, Settings())
    assert places.shape == (0, 3) and descriptors.shape == (0, 128)


def test_ruled_lines_are_no_writing():
    ruled = scan()
    ruled[100:103] = ruled[200:203] = 0
    assert len(baseline.keypoints(ruled, Settings())[0]) == 0


def test_fit_height_does_not_shrink_a_page():
    high = np.concatenate([scan("word")] * 3)
    places, _ = baseline.keypoints(high, Settings(fit_height=True))
    assert places[:, 1].max() > 2 * 300


# --- From keypoints to VLAD ----------------------------------------------------------------------


def test_vlad_of_keypoints_by_hand():
    # Two descriptors, whitening that keeps the first two roots, centres (0, 0) and (1, 0): the
    # roots (1, 0) and (0.6, 0.8) are both nearest to (1, 0); differences sum to (-0.4, 0.8).
    layer = vlad.Vlad(1, 1, 2, 2)
    layer.build([(None, None, None, 128)])
    centres = np.array([[[0, 0], [1, 0]]], np.float32)
    layer.set_weights([np.zeros(128), np.eye(128, 2), centres])
    descriptors = np.zeros((2, 128), np.float32)
    descriptors[:, :2] = (1, 0), (0.36, 0.64)
    rooted = np.array([0, 0, -np.sqrt(0.4), np.sqrt(0.8)])
    got = np.asarray(layer(baseline._batch(descriptors)))[0]
    np.testing.assert_allclose(got, rooted / np.sqrt(1.2), atol=1e-6)


# --- The whole -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fitted(hands) -> baseline.Baseline:
    return baseline.fit(hands.train, hands.classes, SMALL)


def test_hands_are_told_apart(hands, fitted):
    shares = fitted.probabilities(hands.test)
    assert shares.shape == (12, 6)
    np.testing.assert_allclose(shares.sum(axis=1), 1)
    assert right(fitted, hands.test, hands.classes) >= 10  # by chance 2


def test_an_image_without_keypoints_may_be_anyones(hands, fitted):
    shares = fitted.probabilities([page(scan()), hands.test[0]])
    np.testing.assert_array_equal(shares[0], np.full(6, 1 / 6))
    assert shares[1].max() > 1 / 6  # its neighbour is not touched


def test_one_keypoint_is_enough_for_an_answer(fitted, monkeypatch):
    one = np.zeros((1, 3), np.float32), np.full((1, 128), 1 / 128, np.float32)
    monkeypatch.setattr(baseline, "keypoints", lambda image, settings: one)
    shares = fitted.probabilities([page(scan("i"))])
    assert np.isfinite(shares).all() and shares.max() > 1 / 6


def test_no_pages_no_probabilities(fitted):
    assert fitted.probabilities([]).shape == (0, 6)


def test_fitting_twice_gives_the_same(hands, fitted):
    again = baseline.fit(hands.train, hands.classes, SMALL)
    first, second = (one.probabilities(hands.test[:4]) for one in (fitted, again))
    np.testing.assert_allclose(first, second, atol=1e-6)


def test_temperature_divides_the_scores(hands, fitted):
    warm = baseline.fit(hands.train, hands.classes, replace(SMALL, temperature=2.0))
    cold, warm = (np.log(one.probabilities(hands.test[:1])) for one in (fitted, warm))
    np.testing.assert_allclose(np.ptp(cold), 2 * np.ptp(warm), rtol=1e-3)


def test_two_classes_have_a_probability_each(hands):
    two = some(hands, 2)
    fitted = baseline.fit(two.train, two.classes, SMALL)
    table, shares = fitted.evaluated(two.test)
    assert shares.shape == (4, 2) and is_correct(table).sum() >= 3
    assert list(table["filename"]) == [page.path.name for page in two.test]
    assert fitted.seconds > 0 and (table["seconds"] > 0).all()


def test_it_is_cross_validated_as_recipes_are(hands, tmp_path):
    """On the same images, in the same columns; a recipe's finished folds are not taken for its."""
    two = some(hands, 2)
    how = {"run": 1, "learn": baseline.learn}
    result, shares = cross_validate(two, SMALL, 3, tmp_path, **how)
    bands = held_out(two, 0, 3)
    fitted = baseline.fit(bands.train, two.classes, SMALL)
    images = dict(variants.perturbed(bands.test))
    assert len(result) == len(shares) == sum(map(len, images.values()))
    own, _ = fitted.evaluated(images["larger", "third"])
    like = result[(result["variant"] == "larger") & (result["part"] == "third")]
    assert like["predicted"].tolist() == own["predicted"].tolist()
    made_by = json.loads((tmp_path / "fold0" / "done.json").read_text("utf-8"))
    assert made_by["learn"] == "digitlib.baseline.learn"


def test_a_blank_page_is_named_not_learnt_from(hands):
    pages = [*hands.train, page(scan(), "blank")]
    with pytest.raises(Problem, match="class blank: its pages have no keypoint"):
        baseline.fit(pages, [*hands.classes, "blank"], SMALL)


def test_pages_with_hardly_a_keypoint_ask_for_fewer_clusters():
    pages = [page(scan("i"), "a"), page(scan("o"), "b")]
    with pytest.raises(Problem, match="CLUSTERS"):
        baseline.fit(pages, ["a", "b"], replace(SMALL, clusters=4096))


def test_real_hands_are_told_apart_by_other_lines(reference):
    fold = held_out(some(reference, 5), 1, 3)
    fitted = baseline.fit(fold.train, fold.classes, SMALL)
    assert right(fitted, fold.test, fold.classes) >= 4  # by chance 1
