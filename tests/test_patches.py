"""Patches: where they are placed, that they are cut where they should be, and how far they vary.

In: strips of known pixels, generated and real pages. Out: slices, paper beyond the edge, ink.
"""

import collections
import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from digitlib import strips
from digitlib.patches import cut, cut_all, ensemble_centres, even_centres, random_centres
from digitlib.settings import Settings
from digitlib.strips import Strip

FULL = Settings(scale=1.0, patch_size=64, placement="anywhere")  # a pixel is a pixel
STILL = {"rotation": 0, "translation": 0, "zoom": 0, "contrast": 0, "thickness": 0}


def noise(height: int = 300, width: int = 400, label: str = "01") -> Strip:
    image = np.random.default_rng(height * width).integers(0, 256, (height, width))
    return Strip(image.astype(np.uint8), label, 0)


def dots(*columns: int, width: int = 100) -> Strip:
    """Paper 60 px high with an ink pixel in row 30 of each of ``columns``."""
    image = np.full((60, width), 255, np.uint8)
    image[30, list(columns)] = 0
    return Strip(image, "01", 0)


# --- places -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("width", "n", "xs"),
    [
        (400, 1, [200]),  # a single one stands in the middle
        (400, 2, [32, 368]),  # flush left, flush right
        (400, 3, [32, 200, 368]),
        (64, 3, [32, 32, 32]),  # no room to move
        (40, 2, [20, 20]),  # a strip narrower than the patch: centred on it
    ],
)
def test_even_centres_anywhere(width, n, xs):
    got = even_centres(noise(300, width), n, FULL)
    assert got.tolist() == [[x, 150] for x in xs]


@pytest.mark.parametrize(
    ("columns", "n", "xs"),
    [
        ([10, 20, 30, 40], 4, [10, 20, 30, 40]),  # a patch for each
        ([10, 20, 30, 40], 2, [20, 40]),  # the middle of each half, rounded up
        ([10, 20, 30, 40], 1, [30]),
        ([50], 3, [50, 50, 50]),  # fewer points than patches
        ([], 2, [25, 75]),  # blank: along the middle
    ],
)
def test_even_centres_on_ink(columns, n, xs):
    got = even_centres(dots(*columns), n, Settings())
    assert got.tolist() == [[x + 0.5, 30.5] for x in xs]


@given(
    width=st.integers(32, 500),
    height=st.integers(32, 400),
    n=st.integers(1, 40),
    size=st.integers(32, 300),
)
def test_even_centres_increase_and_the_patches_fit(width, height, n, size):
    settings = dataclasses.replace(FULL, patch_size=size)
    x, y = even_centres(noise(height, width), n, settings).T
    room = width - size
    assert np.all(np.diff(x) > 0) if room > 0 else np.all(x == width / 2)
    assert np.all(y == height / 2)
    if room >= 0:
        assert x.min() >= size / 2 and x.max() <= width - size / 2


@given(seed=st.integers(0, 2**32), n=st.integers(0, 50), size=st.integers(32, 300))
def test_random_centres_keep_the_patch_on_the_strip(seed, n, size):
    settings = dataclasses.replace(FULL, patch_size=size)
    got = random_centres([noise(300, 310)] * n, settings, np.random.default_rng(seed))
    assert got.shape == (n, 2)
    assert np.all(got >= size / 2) and np.all(got <= np.array([310, 300]) - size / 2)


@given(seed=st.integers(0, 2**32))
def test_random_centres_on_ink_are_the_middles_of_ink_pixels(seed):
    strip = dots(7, 50, 93)
    got = random_centres([strip] * 20, Settings(), np.random.default_rng(seed))
    assert {tuple(centre) for centre in got} <= {(7.5, 30.5), (50.5, 30.5), (93.5, 30.5)}


def test_every_ink_pixel_is_drawn_as_often_as_any_other():
    got = random_centres([dots(7, 8, 93)] * 3000, Settings(), np.random.default_rng(0))
    counts = collections.Counter(got[:, 0].tolist())
    assert sorted(counts) == [7.5, 8.5, 93.5]
    assert all(abs(n - 1000) < 4 * np.sqrt(3000 * 2 / 9) for n in counts.values())  # 4 sigma


@pytest.mark.parametrize(
    ("n_patches", "n_even"),
    [
        (35, 15),  # the original's
        (6, 6),  # none random
        (6, 0),  # all random
        (1, 1),
        (1, 0),
    ],
)
@pytest.mark.parametrize("placement", ["ink", "anywhere"])
def test_ensemble_centres(n_patches, n_even, placement):
    settings = Settings(n_patches=n_patches, n_even=n_even, placement=placement)
    strip = noise()
    got = ensemble_centres(strip, settings, 0)
    assert got.shape == (n_patches, 2)
    if n_even:
        assert np.array_equal(got[:n_even], even_centres(strip, n_even, settings))
    assert np.array_equal(got, ensemble_centres(strip, settings, 0))
    others = [
        ensemble_centres(strip, settings, 1),  # the second strip of a tall image
        ensemble_centres(strip, dataclasses.replace(settings, ensemble_seed=124), 0),
    ]
    for other in others:
        assert np.array_equal(got[:n_even], other[:n_even])
        assert n_patches == n_even or not np.array_equal(got[n_even:], other[n_even:])


# --- cutting ----------------------------------------------------------------------------------


@given(left=st.integers(0, 336), top=st.integers(0, 236), size=st.sampled_from([33, 48, 64]))
def test_a_patch_at_full_size_is_a_slice(left, top, size):
    strip = noise()
    settings = dataclasses.replace(FULL, patch_size=size)
    got = cut(strip, np.array([left + size / 2, top + size / 2]), settings)
    assert np.array_equal(got, strip.image[top : top + size, left : left + size])


@given(x=st.integers(-80, 480), y=st.integers(-80, 380))
def test_beyond_the_strip_there_is_its_paper(x, y):
    strip = noise()  # of grey levels from 0 to 255: its median stands for paper
    size = 64
    around = np.pad(strip.image, 200, constant_values=int(np.median(strip.image)))
    top, left = y - size // 2 + 200, x - size // 2 + 200
    got = cut(strip, np.array([x, y]), FULL)
    assert np.array_equal(got, around[top : top + size, left : left + size])


def test_a_patch_at_half_size_is_the_mean_of_two_by_two():
    strip = noise()
    settings = Settings(patch_size=64, scale=0.5)
    got = cut(strip, np.array([132, 82]), settings).astype(float)
    square = strip.image[50:114, 100:164].reshape(32, 2, 32, 2).mean(axis=(1, 3))
    assert np.abs(got - square).max() <= 0.5  # OpenCV rounds


@pytest.mark.parametrize(
    "knob",
    [
        {"rotation": 0.1},
        {"translation": 0.3},
        {"zoom": 0.3},
        {"slant": 0.3},
        {"contrast": 0.9},
        {"thickness": 1.0},
    ],
)
def test_each_augmentation_is_its_own_knob(knob):
    strip = noise()
    centre = np.array([200, 150])
    plain = cut(strip, centre, FULL)
    off = dataclasses.replace(FULL, **STILL)
    for seed in range(5):
        rng = np.random.default_rng(seed)
        assert np.array_equal(cut(strip, centre, off, rng), plain)  # all off is a plain cut
        varied = cut(strip, centre, dataclasses.replace(off, **knob), np.random.default_rng(seed))
        assert not np.array_equal(varied, plain)


def black_square() -> Strip:
    """A black square of 20 px in the middle of paper."""
    image = np.full((200, 200), 255, np.uint8)
    image[90:110, 90:110] = 0
    return Strip(image, "01", 0)


@pytest.mark.parametrize(
    ("knob", "low", "high"),
    [
        ({"zoom": 0.5}, 10**2, 30**2),  # half as large to one and a half times
        # Half of what a pixel more or less on each side makes: 20 by 20 and 4 sides, or 18 by 18.
        ({"thickness": 1.0}, (20**2 + 18**2) / 2, 20**2 + 4 * 20 / 2),
        ({"translation": 0.3}, 20**2, 20**2),  # moved by at most 19 px: wholly inside the 64
        ({"rotation": 0.5}, 20**2, 20**2),
        ({"slant": 0.5}, 20**2, 20**2),  # pushed to the side: as large as before
    ],
)
def test_how_far_an_augmentation_goes(knob, low, high):
    settings = dataclasses.replace(FULL, **(STILL | knob))
    areas = []
    for seed in range(30):
        got = cut(black_square(), np.array([100, 100]), settings, np.random.default_rng(seed))
        areas.append((255 - got.astype(float)).sum() / 255)
    # Bilinear sampling of a turned or scaled edge is off by less than half a pixel of its length.
    assert min(areas) >= low - 15 and max(areas) <= high + 15
    assert knob.keys() & {"translation", "rotation", "slant"} or np.ptp(areas) > 0.5 * (high - low)


def test_a_slant_moves_rows_and_keeps_their_height():
    settings = dataclasses.replace(FULL, **(STILL | {"slant": 0.5}))
    shifts = []
    for seed in range(30):
        got = cut(black_square(), np.array([100, 100]), settings, np.random.default_rng(seed)) < 128
        rows = np.nonzero(got.any(axis=1))[0]
        assert rows.tolist() == list(range(rows[0], rows[0] + 20))
        middles = [np.nonzero(got[row])[0].mean() for row in rows[[0, -1]]]
        shifts.append((middles[1] - middles[0]) / 19)
    assert max(np.abs(shifts)) <= 0.5 + 0.05 and np.ptp(shifts) > 0.5


def test_contrast_keeps_the_mean_and_stays_in_its_range():
    image = np.tile(np.array([100, 150], np.uint8), (100, 50))
    strip = Strip(image, "01", 0)
    settings = dataclasses.replace(FULL, **(STILL | {"contrast": 0.4}))
    for seed in range(20):
        got = cut(strip, np.array([50, 50]), settings, np.random.default_rng(seed))
        spread = np.ptp(got.astype(float))
        assert 50 * 0.6 - 1 <= spread <= 50 * 1.4 + 1
        assert got.mean() == pytest.approx(125, abs=1)


def test_what_turns_into_view_is_the_page():
    strip = Strip(np.full((200, 200), 77, np.uint8), "01", 0)
    settings = dataclasses.replace(FULL, **(STILL | {"rotation": 0.125}))
    got = cut(strip, np.array([100, 100]), settings, np.random.default_rng(3))
    assert (got == 77).all()  # no paper in the corners: the strip reaches beyond the patch


@pytest.mark.parametrize("n", [0, 1, 3])
def test_cut_all_stacks(n):
    strip, settings = noise(), Settings(patch_size=64, scale=0.5)
    centres = np.array([[100, 100], [200, 150], [300, 200]])[:n]
    got = cut_all(strip, centres, settings)
    assert got.shape == (n, 32, 32, 1) and got.dtype == np.uint8
    for patch, centre in zip(got, centres, strict=True):
        assert np.array_equal(patch[..., 0], cut(strip, centre, settings))


# --- real and generated pages -----------------------------------------------------------------


def dark_share(patches: np.ndarray) -> np.ndarray:
    return (patches < 128).mean(axis=(1, 2, 3))


def check_ink_placement(pages) -> None:
    """Every patch that is centred on ink holds some, at its very centre."""
    settings = Settings()
    for strip in strips.training_strips(pages, settings)[1]:
        centres = even_centres(strip, 15, settings)
        assert np.all(np.diff(centres[:, 0]) >= 0)
        patches = cut_all(strip, centres, settings)
        assert dark_share(patches).min() > 0.005
        assert np.all(patches[:, 30:34, 30:34].min(axis=(1, 2, 3)) < 160)
        # From left to right: the ink is halved by the middle patch.
        left = (strip.ink_points[:, 0] + 0.5 < centres[7, 0]).mean()
        assert left == pytest.approx(0.5, abs=0.02)


def test_patches_of_generated_pages_hold_ink(digits, hands):
    check_ink_placement(digits.train + hands.train[:2])


def test_patches_of_real_pages_hold_ink(reference):
    check_ink_placement(reference.train[::10])
