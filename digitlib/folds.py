"""Folds: lines of the training pages held out as if they were test strips.

In: a data set. Out: data sets whose test images are bands of its own training pages, which share
no pixel row with what is left to learn from: evidence before there is any test data.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np

from digitlib import Problem
from digitlib.dataset import Dataset, Page
from digitlib.strips import ink

LEAST_ROWS = 60  # px: what is left of a page above or below a band is dropped if it is lower
REACH = 45  # px, half a line's pitch: how far an edge may move to a row between two lines


def _between_lines(written: np.ndarray, row: int) -> int:
    """The row near ``row`` where the least is written; ``written``: pixels of ink in each row."""
    low, high = max(0, row - REACH), min(len(written), row + REACH + 1)
    smooth = np.convolve(written, np.ones(9) / 9, "same")[low:high]
    near = np.abs(np.arange(low, high) - row)  # of rows alike the nearest
    return low + int(np.lexsort((near, smooth))[0])


def band(image: np.ndarray, fold: int, folds: int, height: int) -> tuple[int, int]:
    """(top, bottom): rows that ``fold`` of ``folds`` holds out of a page (h, w) uint8.

    Bands of about ``height`` px, evenly spaced down the page, their edges between lines where the
    page allows. Raises Problem for a page on which they would overlap.
    """
    rows = image.shape[0]
    if not 0 <= fold < folds or rows < folds * height:
        raise Problem(f"a page of {rows} px has no {folds} bands of {height} px: use fewer FOLDS")
    written = ink(image).sum(axis=1).astype(float)
    top = round(fold * (rows - height) / max(folds - 1, 1))
    top = _between_lines(written, top) if fold else 0
    bottom = rows if fold and fold == folds - 1 else _between_lines(written, top + height)
    return top, bottom


def _part(page: Page, top: int, bottom: int) -> Page:
    name = f"{page.path.stem}_rows{top}-{bottom}{page.path.suffix}"
    return replace(page, path=Path(page.path.with_name(name)), image=page.image[top:bottom])


def held_out(dataset: Dataset, fold: int, folds: int, height: int = 300) -> Dataset:
    """``dataset``'s training pages without a band each, and the bands as test images.

    Raises Problem, naming the page, if one is too low.
    """
    train, test = [], []
    for page in dataset.train:
        try:
            top, bottom = band(page.image, fold, folds, height)
        except Problem as problem:
            raise Problem(f"{page.path}: {problem}") from None
        test.append(_part(page, top, bottom))
        for first, last in (0, top), (bottom, page.image.shape[0]):
            if last - first >= LEAST_ROWS:
                train.append(_part(page, first, last))
    return replace(dataset, name=f"{dataset.name}-fold{fold}", train=train, test=test)
