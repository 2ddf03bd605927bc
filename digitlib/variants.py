"""Variants: what the same lines look like by another pen, size and slant, and without writing.

In: test images. Out: test images of the same hand on another day, and controls that must fail.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from digitlib import Problem, vlad
from digitlib.dataset import Page
from digitlib.strips import PAPER, RULED_LINE, ink

HELD_OUT = "as held out"  # the variant of a band in which nothing is changed
CONTROLS = ERASED, OTHER = "writing erased", "other writing"
LEAST_WRITTEN = 0.1  # of an equal share of the ink: less is no line, but tails of the one above
Images = dict[tuple[str, str], list[Page]]  # (variant, whole or third): what is labelled


def part_of(page: Page, top: int, bottom: int) -> Page:
    """The rows of ``page`` from ``top`` to ``bottom``, named after it and them."""
    name = f"{page.path.stem}_rows{top}-{bottom}{page.path.suffix}"
    return replace(page, path=Path(page.path.with_name(name)), image=page.image[top:bottom])


def parts(page: Page, n: int) -> list[Page]:
    """``page`` cut into ``n`` bands of equal height, whatever is written there: less text each."""
    rows = page.image.shape[0]
    if not 1 <= n <= rows:
        raise Problem(f"{page.path}: {rows} px cannot be cut into {n} bands")
    edges = [round(i * rows / n) for i in range(n + 1)]
    return [part_of(page, top, bottom) for top, bottom in zip(edges, edges[1:], strict=False)]


def written(pieces: list[Page]) -> list[Page]:
    """Those of one page's ``pieces`` on which something is written; all, if nothing is anywhere.

    Some pages end with blank lines, and nobody could say whose these are.
    """
    inks = np.array([ink(piece.image).sum() for piece in pieces])
    least = LEAST_WRITTEN * inks.mean()
    return [piece for piece, n in zip(pieces, inks, strict=True) if n >= least]


def as_by_another_pen(page: Page, width: float) -> Page:
    """``page`` as a pen ``width`` px wider (below 0: narrower) would have written it."""
    return replace(page, image=vlad.pen(page.image, width))


def resized(page: Page, factor: float = 1.0, slant: float = 0.0) -> Page:
    """``page``, ``factor`` times as large, and each row moved ``slant`` px a px further up."""
    return replace(page, image=vlad.resized(page.image, factor, slant))


def without_writing(page: Page) -> Page:
    """The first control: all that is dark becomes paper, but ruled lines and the scan's edges.

    Those are level runs of RULED_LINE px, and upright ones of three times that. Paper is the median
    of 51 px around, so shadows stay; on a grainy grey scan a trace of the letters' shapes may, too.
    """
    _, dark = cv2.threshold(page.image, 0, 255, cv2.THRESH_BINARY_INV | cv2.THRESH_OTSU)
    if page.image.min() == page.image.max():
        return page
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


VARIANTS: dict[str, Callable[[Page], Page]] = {
    HELD_OUT: lambda page: page,
    "thinner pen": partial(as_by_another_pen, width=-0.7),
    "thicker pen": partial(as_by_another_pen, width=0.7),
    "smaller": partial(resized, factor=0.9),
    "larger": partial(resized, factor=1.1),
    "leaning left": partial(resized, slant=-0.12),
    "leaning right": partial(resized, slant=0.12),
}


def whole_and_thirds(pages: list[Page], changes: Sequence[str] = (HELD_OUT,)) -> Images:
    """``pages`` as they are, or in the ``changes`` of VARIANTS, and each in three bands.

    Of the three, those that are `written`.
    """
    images = {}
    for name in changes:
        changed = [VARIANTS[name](page) for page in pages]
        images[name, "whole"] = changed
        images[name, "third"] = [third for page in changed for third in written(parts(page, 3))]
    return images


def perturbed(pages: list[Page]) -> Images:
    """`whole_and_thirds` of all VARIANTS, and the two controls, with the first page's writing."""
    return whole_and_thirds(pages, tuple(VARIANTS)) | {
        (ERASED, "whole"): [without_writing(page) for page in pages],
        (OTHER, "whole"): [with_other_writing(page, pages[0]) for page in pages],
    }
