"""Variants: what the same lines look like by another pen, size and slant, and without writing.

In: test images. Out: test images of the same hand on another day, and controls that must fail.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import cv2
import numpy as np

from digitlib import Problem
from digitlib.dataset import Page
from digitlib.light import LEAST_CONTRAST, dark_pixels, tones
from digitlib.strips import PAPER, RULED_LINE, ink

HELD_OUT = "as held out"  # the variant of a band in which nothing is changed
CONTROLS = ERASED, OTHER = "writing erased", "other writing"
PEN_SIGMA = 1.0  # px: blur that turns a step of the pen's edge into a slope
LEAST_WRITTEN = 0.1  # of an equal share of the ink: less is no line, but tails of the one above
# Variant; whole, third or sixth; and the images of both.
Images = Iterator[tuple[tuple[str, str], list[Page]]]


def part_of(page: Page, first: int, last: int, axis: int = 0) -> Page:
    """The rows of ``page`` from ``first`` to ``last``, or (``axis`` 1) the columns, so named."""
    name = f"{page.path.stem}_{('rows', 'columns')[axis]}{first}-{last}{page.path.suffix}"
    image = page.image[first:last] if axis == 0 else page.image[:, first:last]
    return replace(page, path=page.path.with_name(name), image=image)


def parts(page: Page, n: int, axis: int = 0) -> list[Page]:
    """``page`` cut into ``n`` equally high bands, whatever is written there: less text each.

    With ``axis`` 1, into equally wide columns.
    """
    size = page.image.shape[axis]
    if not 1 <= n <= size:
        raise Problem(f"{page.path}: {size} px cannot be cut into {n} parts")
    edges = [round(i * size / n) for i in range(n + 1)]
    return [part_of(page, *ends, axis) for ends in zip(edges, edges[1:], strict=False)]


def written(pieces: list[Page]) -> list[Page]:
    """Those of one page's ``pieces`` on which something is written; all, if nothing is anywhere.

    Some pages end with blank lines, and nobody could say whose these are. (On grey paper alone
    there is no ink either, though half of its grain is darker than the other half.)
    """

    def inked(image: np.ndarray) -> int:
        """Pixels of ink (h, w), if it stands out from what is around it."""
        writing = ink(image)
        if not writing.any() or image[~writing].mean() - image[writing].mean() < LEAST_CONTRAST:
            return 0
        return int(writing.sum())

    inks = np.array([inked(piece.image) for piece in pieces])
    least = LEAST_WRITTEN * inks.mean()
    return [piece for piece, n in zip(pieces, inks, strict=True) if n >= least]


def pen(image: np.ndarray, width: float) -> np.ndarray:
    """The (h, w) uint8 scan as a pen ``width`` px wider (or, below 0, narrower) would have made it.

    Each edge of a stroke moves by half of it; the result has two grey levels, the means of what
    Otsu's threshold calls dark and of the rest.
    """
    if not width:
        return image
    black, white = tones(image)
    if black == white:
        return image
    slope = (white - black) / np.sqrt(2 * np.pi) / PEN_SIGMA  # a px, at the edge of a wide stroke
    soft = cv2.GaussianBlur(image, (0, 0), PEN_SIGMA)
    inked = soft < (black + white) / 2 + slope * width / 2
    return np.rint(np.where(inked, black, white)).astype(np.uint8)


def resized(image: np.ndarray, size: float = 1.0, slant: float = 0.0) -> np.ndarray:
    """The (h, w) uint8 scan ``size`` times as large, each row moved ``slant`` px a px further up.

    A scan in two grey levels stays one; what comes into view is paper.
    """
    height, width = image.shape
    matrix = np.array([[size, -slant * size, slant * size * height / 2], [0, size, 0]])
    # OpenCV counts from pixel centres, hence the half.
    matrix[:, 2] += matrix[:, :2] @ [0.5, 0.5] - 0.5
    shape = max(1, round(width * size)), max(1, round(height * size))
    smooth = cv2.GaussianBlur(image, (0, 0), 0.5 / size) if size < 1 else image
    varied = cv2.warpAffine(smooth, matrix, shape, flags=cv2.INTER_LINEAR, borderValue=PAPER)
    levels = np.unique(image)
    return levels[(varied > levels.mean()).astype(int)] if len(levels) == 2 else varied


def without_writing(page: Page) -> Page:
    """The first control: all that is dark becomes paper, but ruled lines and the scan's edges.

    Those are level runs of RULED_LINE px, and upright ones of three times that. Paper is the median
    of 51 px around, so shadows stay; on a grainy grey scan a trace of the letters' shapes may, too.
    """
    dark = 255 * dark_pixels(page.image)
    kept = np.zeros_like(dark)
    for shape in (1, RULED_LINE), (3 * RULED_LINE, 1):
        kept |= cv2.morphologyEx(dark, cv2.MORPH_OPEN, np.ones(shape, np.uint8))
    gone = (cv2.dilate(dark & ~kept, np.ones((5, 5), np.uint8)) & ~kept) > 0
    return replace(page, image=np.where(gone, cv2.medianBlur(page.image, 51), page.image))


def with_other_writing(page: Page, other: Page) -> Page:
    """The second control: ``other``'s ink on ``page`` without its own, at the same place on all.

    For recipes that see nothing where there is no ink. Only paper, lines and edges tell such images
    apart: about one of them in as many as there are classes may be labelled right.
    """
    writing = np.where(ink(other.image), other.image, PAPER).astype(np.uint8)
    (have_h, have_w), (h, w) = writing.shape, page.image.shape
    writing = np.tile(writing, (-(-h // have_h), -(-w // have_w)))[:h, :w]
    return replace(page, image=np.minimum(without_writing(page).image, writing))


VARIANTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {  # of (h, w) uint8 images
    HELD_OUT: lambda image: image,
    "thinner pen": partial(pen, width=-0.7),
    "thicker pen": partial(pen, width=0.7),
    "smaller": partial(resized, size=0.9),
    "larger": partial(resized, size=1.1),
    "leaning left": partial(resized, slant=-0.12),
    "leaning right": partial(resized, slant=0.12),
}


def whole(pages: list[Page]) -> Images:
    """``pages`` in all VARIANTS, one after the other."""
    for name, change in VARIANTS.items():
        yield (name, "whole"), [replace(page, image=change(page.image)) for page in pages]


def perturbed(pages: list[Page]) -> Images:
    """``pages`` in all VARIANTS, each whole and in those of its thirds that are `written`; and the
    two controls, with the first page's writing."""
    for (name, _), changed in whole(pages):
        yield (name, "whole"), changed
        yield (name, "third"), [third for page in changed for third in written(parts(page, 3))]
    yield (ERASED, "whole"), [without_writing(page) for page in pages]
    yield (OTHER, "whole"), [with_other_writing(page, pages[0]) for page in pages]


def in_sixths(pages: list[Page]) -> Images:
    """What `perturbed` makes, and the halves of the thirds: on strips of three lines half a line,
    on which good recipes miss enough to be told apart."""
    for (name, part), images in perturbed(pages):
        yield (name, part), images
        if part == "third":
            halves = [written(parts(third, 2, axis=1)) for third in images]
            yield (name, "sixth"), [half for both in halves for half in both]
