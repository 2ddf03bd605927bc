"""Lines: how far apart they are, on pages drawn line by line, and where a page is cut between two.

In: strokes at rows that are known. Out: evidence that these rows are found.
"""

from pathlib import Path

import numpy as np
import pytest

from digitlib import lines
from digitlib.dataset import Page


def written_page(pitch: int, n: int, slope: float = 0.0) -> np.ndarray:
    """(h, w) uint8: ``n`` lines of strokes a third of ``pitch`` px high; of each stroke's place
    ``slope`` px are taken down for each px to the right."""
    image = np.full((n * pitch, 1000), 255, np.uint8)
    for line in range(n):
        for x in range(10, 990, 16):
            top = round(line * pitch + pitch / 3 + slope * (x - 500))
            image[max(0, top) : max(0, top + pitch // 3), x : x + 4] = 0
    return image


@pytest.mark.parametrize("pitch", [40, 100, 247])
@pytest.mark.parametrize("slope", [0.0, 0.04])  # 40 px over the page: as much as a small pitch
def test_line_pitch(pitch, slope):
    assert lines.line_pitch(written_page(pitch, 8, slope)) == pytest.approx(pitch, abs=2)


@pytest.mark.parametrize(
    "image",
    [
        np.full((300, 300), 255, np.uint8),  # blank
        np.zeros((1, 1), np.uint8),
        written_page(100, 1),  # no second line to compare with
        np.random.default_rng(1).choice(np.array([0, 255], np.uint8), (400, 400)),
    ],
)
def test_no_lines_no_pitch(image):
    assert lines.line_pitch(image) is None


@pytest.mark.parametrize(
    ("pitches", "resize", "said"),
    [
        ([100, 100, 110], 1.0, "lines are about 100 px apart; the settings are for 100"),
        ([124], 1.0, "lines are about 124 px apart; the settings are for 100"),  # near enough
        ([250], 1.0, "250 px apart, but the settings are for 100: add -p RESIZE 0.4"),
        ([50], 0.5, "50 px apart, but the settings are for 100: add -p RESIZE 1"),
        ([], 1.0, "no lines of writing were seen"),
    ],
)
def test_what_is_said_about_lines(pitches, resize, said):
    blank = np.full((300, 300), 255, np.uint8)
    pages = [blank, *(written_page(pitch, 8) for pitch in pitches)]
    assert said in lines.about_lines(pages, resize)


@pytest.mark.parametrize(
    ("share", "rows"),
    [
        (1.0, 400),
        # lines at 40 to 60, 130 to 150, 220 to 240 and 310 to 330, smoothed over 9 rows
        (0.5, 200),  # between two lines already
        (0.35, 154),  # 140 is in the second line: below, 14 px off, is nearer than above, 15 px
        (0.25, 100),
        (0.12, 35),  # 48 is in the first line: above is nearer
        (0.01, 4),  # of 400 px, however little is there
    ],
)
def test_less_text_ends_between_lines(share, rows):
    image = np.full((400, 50), 255, np.uint8)
    for top in (40, 130, 220, 310):
        image[top : top + 20, 10:40] = 0
    page = Page(Path("1_a.png"), "1", image, inverted=False)
    np.testing.assert_array_equal(lines.first_lines(page, share).image, image[:rows])
