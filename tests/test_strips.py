"""Strips: where they begin, which validate, what enhancement does, and what counts as ink.

In: heights and images small enough to work out by hand, and real pages. Out: the same answers.
"""

from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import ruled_lines
from hypothesis import given
from hypothesis import strategies as st

from digitlib import strips
from digitlib.dataset import Page
from digitlib.settings import Settings
from digitlib.strips import (
    RULED_LINE,
    Strip,
    at_scale,
    enhance,
    ink,
    shared_rows,
    split_tops,
    strip_tops,
)

PLAIN = Settings(clahe_clip=0, blur=0)  # strips as they were scanned
SIZES = {
    "height": st.integers(32, 3000),
    "strip": st.integers(32, 400),
    "step": st.integers(1, 500),
}


def page(image: np.ndarray, label: str = "01") -> Page:
    return Page(Path(f"{label}_1.png"), label, image, False)


def letter_on_a_line() -> tuple[np.ndarray, np.ndarray]:
    """(image, where the letter is): an A of 5 px strokes above a 3 px ruled line 300 px long."""
    image = np.full((100, 400), 255, np.uint8)
    for start, end in ((180, 60), (195, 20)), ((195, 20), (210, 60)), ((185, 45), (205, 45)):
        cv2.line(image, start, end, 0, 5)
    letter = image == 0
    image[80:83, 50:350] = 0
    return image, letter


# --- where strips begin -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("height", "tops"),
    [
        (267, [0]),  # lower than a strip: one, as high as the image
        (300, [0]),  # exactly one
        (379, [0]),  # a row short of the second
        (380, [0, 80]),
        (599, [0, 80, 160, 240]),
        (600, [0, 80, 160, 240]),  # 320 would end at 620
        (1070, [0, 80, 160, 240, 320, 400, 480, 560, 640, 720]),  # a reference page
    ],
)
def test_strip_tops(height, tops):
    assert strip_tops(height, 300, 80) == tops


@given(**SIZES)
def test_strips_lie_on_the_page_and_cover_it_but_for_less_than_a_step(height, strip, step):
    tops = strip_tops(height, strip, step)
    assert tops[0] == 0 and all(0 <= top <= max(height - strip, 0) for top in tops)
    assert np.all(np.diff(tops) == step)
    if height >= strip:
        assert height - (tops[-1] + strip) < step


EIGHT = [0, 80, 160, 240, 320, 400, 480, 560]


@pytest.mark.parametrize(
    ("split", "height", "training", "validation", "shared"),
    [
        ("paper", 267, [0], [0], 1.0),  # one strip is both
        ("paper", 300, [0], [0], 1.0),
        ("paper", 380, [0, 80], [0, 80], 1.0),  # two: none would be left to train
        ("paper", 460, [0], [80, 160], (220 + 140) / 600),  # three
        ("paper", 599, [0, 80], [160, 240], (220 + 140) / 600),
        ("paper", 600, [0, 80], [160, 240], (220 + 140) / 600),
        # Training ends at row 860: 220 of the rows from 640 and 140 of those from 720 are seen.
        ("paper", 1070, EIGHT, [640, 720], (220 + 140) / 600),
        ("lines", 267, [0], [0], 1.0),
        ("lines", 300, [0], [0], 1.0),
        ("lines", 599, [0, 80, 160, 240], [0, 80, 160, 240], 1.0),  # a row short of two strips
        ("lines", 600, [0], [300], 0.0),  # exactly two
        ("lines", 601, [0, 1], [301], 0.0),  # row 300 gets a strip too
        # Steps reach 400 to 700; the rows to 770, where validation begins, get one more strip.
        ("lines", 1070, [0, 80, 160, 240, 320, 400, 470], [770], 0.0),
        ("lines", 1080, [0, 80, 160, 240, 320, 400, 480], [780], 0.0),  # the steps fit exactly
        ("none", 267, [0], [0], 1.0),
        ("none", 380, [0, 80], [80], 1.0),
        ("none", 1070, [*EIGHT, 640, 720], [720], 1.0),
    ],
)
def test_split(split, height, training, validation, shared):
    settings = Settings(split=split, strip_height=300, strip_step=80)
    assert split_tops(height, settings) == (training, validation)
    assert shared_rows(training, validation, 300) == pytest.approx(shared, abs=1e-12)


@pytest.mark.parametrize(
    ("training", "validation", "share"),
    [
        ([0], [10], 0.0),  # they touch
        ([0], [9], 0.1),  # one row of ten
        ([0, 5], [5], 1.0),  # the same strip
        ([0], [5, 10], 0.25),  # 5 of 20
        ([0, 2], [5], 0.7),  # rows 5 to 11, once, though two strips hold 5 to 9
        ([], [0], 0.0),  # nothing to train on
    ],
)
def test_shared_rows(training, validation, share):
    assert shared_rows(training, validation, 10) == pytest.approx(share)


@given(**SIZES)
def test_the_lines_split_shares_no_row_and_loses_none(height, strip, step):
    settings = Settings(strip_height=strip, strip_step=step)
    training, validation = split_tops(height, settings)
    assert all(0 <= top <= max(height - strip, 0) for top in training + validation)
    if height < 2 * strip:
        assert training == validation  # nothing to hold out
        return
    assert shared_rows(training, validation, strip) == 0
    assert training == sorted(set(training))
    if step <= strip:
        rows = {row for top in training + validation for row in range(top, top + strip)}
        assert rows == set(range(height))


def test_training_strips_are_the_rows_that_the_split_names():
    image = np.repeat(np.arange(1070) % 251, 50).reshape(1070, 50).astype(np.uint8)
    training, validation = strips.training_strips([page(image)], PLAIN)
    assert [s.top for s in training] == [0, 80, 160, 240, 320, 400, 470]
    assert [s.top for s in validation] == [770]
    for strip in training + validation:
        assert np.array_equal(strip.image, image[strip.top : strip.top + 300])
        assert strip.label == "01"


@pytest.mark.parametrize(
    ("height", "tops", "heights"),
    [
        (267, [0], [267]),  # the low one of the reference data
        (300, [0], [300]),
        (375, [0], [375]),  # a quarter more: still one strip, all of it
        (376, [0, 76], [300, 300]),  # top and bottom
        (600, [0, 300], [300, 300]),
        (1070, [0, 770], [300, 300]),  # a page: its middle is not read
    ],
)
def test_test_strips(height, tops, heights):
    image = np.repeat(np.arange(height) % 251, 50).reshape(height, 50).astype(np.uint8)
    found = strips.test_strips(page(image), PLAIN)
    assert [s.top for s in found] == tops
    assert [s.image.shape[0] for s in found] == heights
    for strip in found:
        rows = strip.top + np.arange(len(strip.image))
        assert np.array_equal(strip.image, image[rows])


# --- enhancement ------------------------------------------------------------------------------


def noise(height: int = 96, width: int = 160) -> np.ndarray:
    return np.random.default_rng(5).integers(0, 256, (height, width)).astype(np.uint8)


@pytest.mark.parametrize("blur", [0, 1])  # a kernel of one pixel is none
def test_nothing_switched_on_changes_nothing(blur):
    assert np.array_equal(enhance(noise(), Settings(clahe_clip=0, blur=blur)), noise())


def test_enhance_leaves_its_input_alone():
    image = noise()
    enhance(image, Settings(fit_height=True))
    assert np.array_equal(image, noise())


def test_blur_is_the_3_px_gaussian():
    image = np.full((9, 9), 255, np.uint8)
    image[4, 4] = 255 - 16  # OpenCV's kernel for 3 px is (1, 2, 1) / 4 each way
    got = enhance(image, Settings(clahe_clip=0, blur=3))
    dent = 255 - got[3:6, 3:6].astype(int)
    assert dent.tolist() == [[1, 2, 1], [2, 4, 2], [1, 2, 1]]
    assert (got != 255).sum() == 9


def test_clahe_spreads_faint_contrast_and_respects_its_limit():
    faint = np.where(noise() < 128, 120, 136).astype(np.uint8)
    mild = enhance(faint, Settings(clahe_clip=2, blur=0))
    strong = enhance(faint, Settings(clahe_clip=40, blur=0))
    assert np.ptp(faint) == 16 < np.ptp(mild) < np.ptp(strong)


def test_clahe_tiles_of_a_page_that_is_read_whole_are_a_strip_s():
    """Of two strips alike, one below the other, the upper is enhanced as if it stood alone."""
    image = np.random.default_rng(1).integers(100, 200, (300, 400)).astype(np.uint8)
    whole = Settings(pooling="vlad", split="none", views=0, blur=0, clahe_tiles=4)
    page = enhance(np.vstack([image, image]), whole)
    inner = slice(0, 300 - 300 // 8)  # half a tile further down the next one is seen
    np.testing.assert_array_equal(page[inner], enhance(image, whole)[inner])
    assert (page[:300] != enhance(image, Settings(blur=0, clahe_tiles=2))).any()


def test_clahe_tiles_see_their_surroundings_only():
    image = noise(64, 64)
    other = image.copy()
    other[:, 48:] = 0  # the last of four tiles each way
    one, four = Settings(blur=0, clahe_tiles=1), Settings(blur=0, clahe_tiles=4)
    # Interpolation reaches to the middle of the neighbouring tile, column 40, not beyond.
    assert np.array_equal(enhance(image, four)[:, :40], enhance(other, four)[:, :40])
    assert not np.array_equal(enhance(image, one)[:, :40], enhance(other, one)[:, :40])


@pytest.mark.parametrize(
    ("shape", "fitted"),
    [
        ((300, 1520), (300, 1520)),  # as it is
        ((150, 400), (300, 800)),  # twice
        ((267, 1520), (300, 1708)),  # 1520 * 300 / 267 = 1707.9
        ((600, 301), (300, 150)),  # reduced; 150.5 to the even neighbour
        ((3000, 2), (300, 1)),  # never narrower than a pixel
    ],
)
def test_fit_height_keeps_the_aspect(shape, fitted):
    image = np.full(shape, 200, np.uint8)
    plain = {"clahe_clip": 0, "blur": 0, "strip_height": 300}
    got = enhance(image, Settings(**plain, fit_height=True))
    assert got.shape == fitted and got.dtype == np.uint8 and (got == 200).all()
    assert enhance(image, Settings(**plain, fit_height=False)).shape == shape


@pytest.mark.parametrize("value", [0, 128, 255])  # all ink, all grey, all paper
def test_a_blank_strip_stays_blank(value):
    got = enhance(np.full((300, 400), value, np.uint8), Settings())
    assert np.ptp(got) == 0


# --- ink --------------------------------------------------------------------------------------


def test_ink_is_the_letter_and_not_the_ruled_line():
    image, letter = letter_on_a_line()
    assert np.array_equal(ink(image), letter)


def test_ink_of_an_enhanced_strip_is_the_letter_within_a_pixel():
    image, letter = letter_on_a_line()
    found = ink(enhance(image, Settings())).astype(np.uint8)
    near = cv2.dilate(letter.astype(np.uint8), np.ones((3, 3), np.uint8))
    inside = cv2.erode(letter.astype(np.uint8), np.ones((3, 3), np.uint8))
    assert inside.any() and np.all(found <= near) and np.all(found >= inside)


@pytest.mark.parametrize(
    ("scale", "length", "is_ink"),
    [
        (1, 44, True),  # the bar of a wide T
        (1, 45, False),  # longer than any
        (0.5, 20, True),  # 40 px of the page
        (0.5, 21, False),
        (2, 88, True),
        (2, 89, False),
    ],
)
def test_how_long_a_level_stroke_may_be(scale, length, is_ink):
    image = np.full((30, 200), 255, np.uint8)
    image[10:13, 60 : 60 + length] = 0
    assert ink(image, scale).any() == is_ink


@given(
    height=st.integers(1, 40),
    width=st.integers(16, 150),
    share=st.sampled_from([0.05, 0.5, 0.9, 0.97, 1.0]),
    levels=st.sampled_from([(0, 255), (0, 254), (1, 255), (10, 200)]),
    seed=st.integers(0, 1000),
)
def test_ink_is_all_that_is_dark_and_not_within_a_pixel_of_a_level_run(
    height, width, share, levels, seed
):
    image = np.where(np.random.default_rng(seed).random((height, width)) < share, *levels)
    image = image.astype(np.uint8)
    image[0, 0] = levels[1]  # two levels, or there is nothing to tell apart
    dark = (image == levels[0]).astype(np.uint8)
    level = cv2.morphologyEx(dark, cv2.MORPH_OPEN, np.ones((1, RULED_LINE), np.uint8))
    ruled = cv2.dilate(level, np.ones((3, 3), np.uint8))
    assert np.array_equal(ink(image), (dark > 0) & (ruled == 0))


@pytest.mark.parametrize("at_left", [True, False])
@pytest.mark.parametrize("row", [0, 10, 29])
@pytest.mark.parametrize(
    ("length", "is_ink"),
    [
        (22, True),
        (23, False),  # more than half of a run: the rest lies beyond the edge
    ],
)
def test_how_long_a_level_stroke_may_be_at_the_image_s_edge(length, is_ink, row, at_left):
    image = np.full((30, 203), 255, np.uint8)
    image[row, :length] = 0
    assert ink(image if at_left else image[:, ::-1]).any() == is_ink


@given(
    scale=st.sampled_from([0.4, 0.5, 0.7, 1.0]),
    left=st.integers(20, 60),
    length=st.integers(RULED_LINE + 3, 140),
    high=st.integers(1, 3),
)
def test_a_ruled_line_of_a_page_is_none_of_its_ink_at_any_scale(scale, left, length, high):
    image = np.full((60, 203), 255, np.uint8)
    image[20 : 20 + high, left : left + length] = 0
    assert not ink(at_scale(image, scale), scale).any()
    image[20 : 20 + high, left + 20 : left + length] = 255  # a dash of 20 px is left
    assert ink(at_scale(image, scale), scale).any()


@pytest.mark.parametrize("value", [0, 255])
def test_a_sheet_of_one_tone_has_no_ink(value):
    assert not ink(np.full((40, 60), value, np.uint8)).any()


@pytest.mark.parametrize(
    "pixels, paper",
    [
        ([7], 7),
        ([0, 250, 250], 250),
        ([0, 0, 250], 0),
        ([10, 20, 30, 40], 20),  # of an even number the darker of the middle two
        ([255] * 4, 255),
    ],
)
def test_paper_is_the_middle_grey_level(pixels, paper):
    assert Strip(np.array([pixels], np.uint8), "", 0).paper == paper


def test_ink_points_run_from_left_to_right_and_are_the_ink():
    image, letter = letter_on_a_line()
    points = Strip(image, "01", 0).ink_points
    assert np.all(np.diff(points[:, 0]) >= 0)
    assert len(points) == letter.sum() and letter[points[:, 1], points[:, 0]].all()


def test_a_blank_strip_is_read_along_its_middle():
    points = Strip(np.full((40, 6), 255, np.uint8), "01", 0).ink_points
    assert points.tolist() == [[x, 20] for x in range(6)]


# --- real and generated pages -----------------------------------------------------------------


def check_page(scan: Page, densest: float) -> None:
    """Ruled lines are in the scan and not in its ink; ink is dark, and as much as writing is."""
    found = ink(scan.image)
    assert ruled_lines(scan.image) in (
        10,
        11,
    )  # a real page has them printed, and now and then one cut
    assert ruled_lines(np.where(found, 0, 255)) == 0
    assert not (found & (scan.image >= 128)).any()
    assert 0.01 < found.mean() < densest


def test_ink_of_generated_pages(digits, hands):
    for scan in digits.train + hands.train:
        check_page(scan, densest=0.12)


def test_ink_of_real_pages(reference):
    for scan in reference.train[::7]:
        check_page(scan, densest=0.065)


def test_real_pages_become_strips(reference):
    settings = Settings()
    training, validation = strips.training_strips(reference.train[:3], settings)
    assert (len(training), len(validation)) == (21, 3)
    for strip in training + validation:
        assert strip.image.shape == (300, 1545) and strip.image.dtype == np.uint8
    low = [scan for scan in reference.test if scan.image.shape[0] == 267]
    assert [len(strips.test_strips(scan, settings)) for scan in reference.test] == [1] * 70
    fitted = strips.test_strips(low[0], Settings(fit_height=True))[0].image
    assert fitted.shape == (300, round(low[0].image.shape[1] * 300 / 267))
