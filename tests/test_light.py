"""Light: what is photographed in a shadow is read as if it had been scanned.

In: writing in black on white, and the same as a photograph shows it. Out: evidence that the writing
is found again, and that scans in black and white stay as they are.
"""

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from digitlib import light, measures
from digitlib.dataset import read_page
from digitlib.predict import predict_files
from digitlib.shipped import find
from digitlib.strips import ink


def writing(height: int = 120, width: int = 800) -> np.ndarray:
    """(h, w) bool: letters of a kind, upright strokes of 3 px, 40 high, on lines 100 px apart."""
    return (np.arange(width) % 14 < 3) & (np.arange(height)[:, None] % 100 < 40)


def shown(paper: np.ndarray | float, share: float) -> np.ndarray:
    """`writing` on ``paper`` (grey levels), as ink that throws back a ``share`` of its light."""
    return np.rint(np.where(writing(), share, 1) * paper).astype(np.uint8)


COLUMN = np.arange(800)
LIGHTS = {
    "even, pale ink": (np.full(800, 240.0), 0.7),
    "dim": (np.full(800, 90.0), 0.3),
    "from the left": (np.linspace(240, 120, 800), 0.5),
    "in the middle of a shadow": (240 - 100 / (1 + np.exp((COLUMN - 400) / 30)), 0.5),
}


@pytest.mark.parametrize(("paper", "share"), LIGHTS.values(), ids=LIGHTS)
def test_writing_is_black_and_paper_white_in_any_light(paper, share):
    even = light.evened(shown(paper, share))
    assert even[writing()].mean() < 30 and even[~writing()].mean() > 235
    assert np.array_equal(light.dark_pixels(even) > 0, writing())


def test_by_hand():
    """Paper 200 and ink 50, in the shade 100 and 25: 255 and 64 where the paper is divided out, and
    255 and 0 when that is stretched; away from edges, where nothing is to be sharpened."""
    bars = np.zeros((400, 800), np.uint8)
    bars[100:140, 60:700] = np.arange(640) % 150 < 40
    paper = np.where(COLUMN < 400, 200, 100)
    even = light.evened(np.where(bars, paper // 4, paper).astype(np.uint8))
    near = np.ones((17, 17), np.uint8)
    away = np.abs(COLUMN - 400) > 60  # from the edge of the shadow
    inside = (cv2.erode(bars, near) > 0) & away
    outside = (cv2.dilate(bars, near) == 0) & away
    assert inside.any() and even[inside].max() <= 8 and (even[outside] == 255).all()


def test_a_blurred_stroke_is_sharpened():
    """Its edge, from nine tenths to one tenth of the way, takes fewer px than on the photograph."""
    image = np.full((200, 400), 200, np.uint8)
    image[:, 100:300:50] = image[:, 101:301:50] = image[:, 102:302:50] = 60
    soft = cv2.GaussianBlur(image, (0, 0), 1.6)
    row, even = soft[100].astype(float), light.evened(soft)[100].astype(float)
    before = (row - row.min()) / np.ptp(row)
    after = (even - even.min()) / np.ptp(even)
    slope = [((share > 0.1) & (share < 0.9)).sum() for share in (before, after)]
    assert slope[1] < 0.75 * slope[0]


def test_black_and_white_stays():
    scan = shown(255.0, 0.0)
    assert light.evened(scan) is scan
    blank = np.full((40, 40), 255, np.uint8)
    assert light.evened(blank) is blank


def test_two_greys_become_black_and_white():
    even = light.evened(shown(200.0, 0.3))
    assert even.min() == 0 and np.median(even) == 255


@pytest.mark.parametrize("paper", [60, 100, 254])
def test_a_blank_page_is_white_and_its_grain_is_no_writing(paper):
    grain = np.random.default_rng(1).normal(0, 1.5, (200, 300))
    even = light.evened(np.rint(paper - 10 + grain).clip(0, 255).astype(np.uint8))
    assert np.median(even) > 245 and (even < 100).mean() < 0.001
    assert (light.evened(np.full((50, 60), paper, np.uint8)) == 255).all()


@given(height=st.integers(1, 90), width=st.integers(1, 90), seed=st.integers(0, 9))
def test_any_shape(height, width, seed):
    image = np.random.default_rng(seed).integers(0, 256, (height, width), dtype=np.uint8)
    even = light.evened(image)
    assert even.shape == image.shape and even.dtype == np.uint8


def test_real_writing_in_poor_light_is_found_again(hands):
    scan = hands.test[0].image
    poor, truth = measures.faded(scan), ink(scan)
    recall, precision = measures.recall_and_precision(ink(poor), truth)
    assert min(recall, precision) < 0.7
    recall, precision = measures.recall_and_precision(ink(light.evened(poor)), truth)
    assert recall > 0.97 and precision > 0.97


def test_photographs_of_strips_are_labelled_as_their_scans(reference, tmp_path):
    strips = reference.test[::7]
    for i, strip in enumerate(strips):
        Image.fromarray(measures.faded(strip.image, i)).save(tmp_path / strip.path.name)
    rows = predict_files([tmp_path], find("reference-fast")).rows
    scans = predict_files([strip.path for strip in strips], find("reference-fast")).rows
    said = {row["filename"]: row["predicted"] for row in scans}
    same = sum(row["predicted"] == said[row["filename"]] for row in rows)
    assert same >= len(strips) - 1  # without evened, 1 of 10


def test_pages_are_read_in_even_light(tmp_path):
    Image.fromarray(shown(LIGHTS["from the left"][0], 0.5)).save(tmp_path / "a_1.png")
    page = read_page(tmp_path / "a_1.png")
    assert page.evened and np.array_equal(ink(page.image), writing())
    Image.fromarray(shown(255.0, 0.0)).save(tmp_path / "a_2.png")
    assert not read_page(tmp_path / "a_2.png").evened
