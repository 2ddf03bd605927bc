"""What the notebooks on pages count, on cases that can be counted by hand; odd sizes are drawn."""

from pathlib import Path

import numpy as np
import pytest

from digitlib import measures, pictures_of_pages
from digitlib.dataset import Page
from digitlib.settings import Settings
from digitlib.strips import Strip


def page(height: int, width: int, label: str = "a") -> Page:
    """A white page with a row of short strokes across its middle."""
    image = np.full((height, width), 255, np.uint8)
    image[height // 2 - 5 : height // 2 + 5, 4:-4:12] = 0
    return Page(Path(f"{label}_1.png"), label, image, inverted=False)


def strip() -> Strip:
    """8 x 12 px, blank but for two pixels of ink, at (2, 3) and (9, 5)."""
    image = np.full((8, 12), 255, np.uint8)
    image[3, 2] = image[5, 9] = 0
    return Strip(image, "a", 0)


@pytest.mark.parametrize(
    ("centres", "expected"),
    [
        ([], [[0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]),  # no patch
        ([[1, 1]], [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0]]),  # in a corner
        ([[1, 1], [2, 1]], [[1, 2, 1, 0], [1, 2, 1, 0], [0, 0, 0, 0]]),  # two overlap
        ([[4, 3]], [[0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 1]]),  # partly beyond the strip
        ([[9, 9]], [[0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]),  # wholly beyond it
    ],
)
def test_coverage(centres, expected):
    assert measures.coverage((3, 4), np.array(centres), 2).tolist() == expected


def test_ink_is_counted_within_patches():
    centres = np.array([[2, 3], [9, 5], [6, 4], [6, 0]])
    assert measures.ink_under(strip(), centres, 4).tolist() == [1, 1, 0, 0]
    assert measures.ink_under(strip(), centres[2:3], 20).tolist() == [2]
    assert measures.unseen_ink(strip(), centres[:1], 4) == 0.5
    assert measures.unseen_ink(strip(), centres[:2], 4) == 0


def test_inkiest_window():
    assert measures.inkiest(strip().image, (1, 1)) == (3, 2)  # the first of the best
    assert measures.inkiest(strip().image, (3, 8)) == (3, 2)  # the only ones that hold both
    assert measures.inkiest(strip().image, (99, 99)) == (0, 0)  # larger than the image
    assert measures.inkiest(np.full((5, 5), 255, np.uint8), (2, 2)) == (0, 0)  # blank


def test_effect():
    before = np.array([[0, 255, 255, 255], [0, 255, 255, 255]], np.uint8)
    assert measures.effect(before, before) == dict(levels=2, largest=0, changed=0, flipped=0)
    after = np.array([[0, 0, 255, 255], [8, 255, 255, 247]], np.uint8)
    expected = dict(levels=4, largest=255, changed=1 / 8, flipped=1 / 2)
    assert measures.effect(before, after) == expected


def test_clahe_only_lifts_black_on_a_1_bit_scan():
    image = page(300, 800).image
    clahe = Settings(blur=0)
    table = measures.effect_table([image, image], {"CLAHE": clahe, "blur": Settings(clahe_clip=0)})
    assert table.loc["CLAHE", "largest"] <= 3 and table.loc["CLAHE", "flipped"] == 0
    assert table.loc["blur", "largest"] > 8 and table.loc["the scans", "levels"] == 2


def test_recall_and_precision():
    truth = np.zeros((10, 10), bool)
    truth[4, 4:6] = True
    assert measures.recall_and_precision(truth, truth) == (1, 1)
    assert measures.recall_and_precision(~truth & False, truth) == (0, 0)
    mask = truth.copy()
    mask[4, 4], mask[2, 4], mask[9, 9] = False, True, True  # missed, near, far
    assert measures.recall_and_precision(mask, truth) == (0.5, 2 / 3)


def test_faded_is_darker_to_the_right_and_repeats():
    image = page(100, 400).image
    grey = measures.faded(image, 1)
    assert grey[:, :50].mean() > grey[:, -50:].mean() + 50
    assert (grey == measures.faded(image, 1)).all() and (grey != measures.faded(image, 2)).any()


def test_patches_of_an_epoch_fall_on_training_strips_alone():
    settings = Settings(patch_size=16, scale=2.0, placement="anywhere")
    blank = np.full((40, 60), 255, np.uint8)
    training = [Strip(blank, "a", 0), Strip(blank, "a", 20)]  # rows 20 to 39 are in both
    rng = np.random.default_rng(1)
    counts = measures.epoch_coverage(training, (100, 60), settings, 50, rng)
    assert counts.shape == (100, 60) and counts.sum() == 50 * 16**2  # anywhere that they fit
    assert not counts[60:].any() and counts[:20].any() and counts[40:60].any()


def test_extreme_patches_differ_by_what_is_named_alone():
    own = Strip(page(60, 60).image, "a", 0)
    settings = Settings(patch_size=32, scale=1.0, contrast=0.0, zoom=0.3, thickness=1.0)
    rng, names = np.random.default_rng(1), ("contrast", "zoom")
    one, other = measures.extreme_patches(own, np.array([30.0, 30.0]), settings, names, rng)
    assert np.array_equal(one[0], other[0]) and len(one) == len(other) == 3
    assert np.array_equal(one[1], one[0]) and np.array_equal(other[1], one[0])  # by 0: as it is
    ink = [int((patch < 128).sum()) for patch in (one[2], one[0], other[2])]
    assert len(set(ink)) == 3 and sorted(ink)[1] == ink[1]  # smaller, as it is, larger


def test_extremes():
    variants = np.array([0, 5, -3, -9, 2], float)[:, None, None]
    assert measures.extremes(variants, np.zeros((1, 1))) == (3, 1)


@pytest.mark.parametrize("n", [1, 3, 70, 700])
def test_contact_sheet_shows_at_most_a_hundred(n):
    fig = pictures_of_pages.contact_sheet([page(60, 80, str(i)) for i in range(n)])
    labels = [text.get_text() for text in fig.axes[0].texts]
    assert len(labels) == min(n, 100) and labels[0] == "0" and len(set(labels)) == len(labels)


def test_strips_share_no_lane_where_they_overlap():
    assert pictures_of_pages._lanes([0, 80, 160, 240, 300], 300) == [0, 1, 2, 3, 0]


@pytest.mark.parametrize("shape", [(32, 32), (300, 1500), (2000, 40)])
def test_figures_take_scans_of_any_shape(shape):
    one = page(*shape)
    truth = one.image == 0
    pictures_of_pages.contact_sheet([one])
    pictures_of_pages.pages_beside_tests([one], [])
    pictures_of_pages.enhancement_grid({"a": one.image, "b": one.image}, columns=3)
    pictures_of_pages.ink_found({"a": one.image}, truth)
    pictures_of_pages.strips_on_page(one.image, {"a": ([0], [0])}, 300)
    centres = np.array([[10.0, 10.0]])
    pictures_of_pages.patches_on_strip(one.image, {"a": centres, "b": centres[:0]}, 128)
    counts = measures.coverage(shape, centres, 128)
    fig = pictures_of_pages.coverage_maps({"a": (one.image, counts)})
    fig.canvas.draw()
    pictures_of_pages.ink_histogram({"a": np.zeros(3, int)}, measures.LETTER)
