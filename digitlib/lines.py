"""Lines of writing: how far apart they are on a page, and where one may be cut between two.

In: pages (h, w) uint8. Out: px, rows, and pages of fewer lines.
"""

from collections.abc import Iterable
from dataclasses import replace

import cv2
import numpy as np

from digitlib.dataset import Page
from digitlib.strips import ink

APART = 100  # px from line to line, what the profiles' settings are for
NEAR = 1.25  # times more or less is near enough
COLUMNS = 8  # that a page is divided into, each narrow enough for a page that is not quite upright
LEAST_PITCH = 16  # px
LEAST_LIKE = 0.2  # correlation of a page with itself, moved by a line: less is no pattern
REACH = 45  # px, half a line's pitch: how far an edge may move to a row between two lines


def line_pitch(image: np.ndarray) -> int | None:
    """px from one line of writing to the next on an (h, w) uint8 page; None where none is seen.

    The least shift down the page by which its rows of ink are nearly as like themselves as by any:
    the first high peak of their autocorrelation, the mean over COLUMNS. It needs three lines.
    """
    height = image.shape[0]
    inked = ink(image).astype(np.float32)
    inked = cv2.resize(inked, (COLUMNS, height), interpolation=cv2.INTER_AREA)
    inked = cv2.GaussianBlur(inked, (1, 9), 2)
    waves = np.fft.rfft(inked - inked.mean(axis=0), 2 * height, axis=0)
    like = np.fft.irfft(np.abs(waves) ** 2, axis=0)[:height].sum(axis=1)
    like /= np.arange(height, 0, -1) * max(like[0] / height, 1e-9)
    before, at, after = like[: height // 2 - 1], like[1 : height // 2], like[2 : height // 2 + 1]
    peaks = 1 + np.flatnonzero((at > before) & (at >= after) & (at >= LEAST_LIKE))
    peaks = peaks[peaks >= LEAST_PITCH]
    return int(peaks[like[peaks] >= 0.7 * like[peaks].max()][0]) if len(peaks) else None


def better_resize(pitch: float, resize: float = 1.0) -> float | None:
    """The RESIZE that brings lines APART which are ``pitch`` px apart with ``resize``; None where
    they are near enough."""
    near = APART / NEAR <= pitch <= APART * NEAR
    return None if near else float(f"{resize * APART / pitch:.2g}")


def usual_pitch(pitches: Iterable[int | None]) -> float | None:
    """The median of `line_pitch` of some pages; None where no lines were seen on any."""
    seen = [pitch for pitch in pitches if pitch]
    return float(np.median(seen)) if seen else None


def about_lines(images: Iterable[np.ndarray], resize: float = 1.0) -> str:
    """A sentence: how far apart lines are on pages read with ``resize`` (the median), and which
    RESIZE would suit the profiles better, if any."""
    pitch = usual_pitch(map(line_pitch, images))
    if pitch is None:
        return f"no lines of writing were seen; the settings are for lines {APART} px apart"
    if better := better_resize(pitch, resize):
        cure = f"but the settings are for {APART}: add -p RESIZE {better:g}"
        return f"lines are about {pitch:.0f} px apart, {cure}"
    return f"lines are about {pitch:.0f} px apart; the settings are for {APART}"


def between_lines(written: np.ndarray, row: int, reach: int) -> int:
    """The row near ``row`` where the least is written; ``written``: pixels of ink in each row."""
    low, high = max(0, row - reach), min(len(written), row + reach + 1)
    smooth = np.convolve(written, np.ones(9) / 9, "same")[low:high]
    near = np.abs(np.arange(low, high) - row)  # of rows alike the nearest
    return low + int(np.lexsort((near, smooth))[0])


def first_lines(page: Page, share: float) -> Page:
    """``page`` without what is written below ``share`` of its height, cut between two lines."""
    rows = page.image.shape[0]
    if share >= 1:
        return page
    wanted = max(1, round(share * rows))
    written = ink(page.image).sum(axis=1).astype(float)
    bottom = between_lines(written, wanted, min(REACH, wanted // 3))
    return replace(page, image=page.image[:bottom])
