"""Strips: the horizontal bands of a page that everything else works on, enhanced once each.

In: page images (h, w) uint8. Out: `Strip`s of `strip_height` px, CLAHE and blur applied, split into
training and validation.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property

import cv2
import numpy as np

from digitlib import Problem, progress_bar
from digitlib.dataset import Page, Shelf
from digitlib.light import dark_pixels
from digitlib.settings import Settings

PAPER = 255
MOST_INPUT = 2**25  # px that a network reads at once: A4 at 600 dpi
GRID = 32  # px: MobileNetV2's coarsest stride; inputs are padded to a multiple of it in height,
WIDE = 64  # px: and of this in width, so that strips come in few sizes, each compiled once
LEAST_INK = 0.02  # of what a position of a feature map covers: less is an edge, or dust
RULED_LINE = 45  # px: no stroke of a letter runs level for so long, a ruled line does


@dataclass(frozen=True)
class Strip:
    """A band of a page: ``image`` (h, w) uint8, enhanced; ``top`` px is where it begins."""

    image: np.ndarray
    label: str
    top: int

    @cached_property
    def paper(self) -> float:
        """The grey level of its paper: half of its pixels are as dark or darker (the median)."""
        darker = cv2.calcHist([self.image], [0], None, [256], [0, 256]).cumsum()
        return float(np.searchsorted(darker, self.image.size / 2))

    @cached_property
    def ink_points(self) -> np.ndarray:
        """(n, 2) x, y of its ink from left to right, int16 if that does; of none a middle row."""
        rows, columns = np.nonzero(ink(self.image))
        if len(rows) == 0:
            columns = np.arange(self.image.shape[1])
            rows = np.full_like(columns, self.image.shape[0] // 2)
        order = np.argsort(columns, kind="stable")
        kind = np.int16 if max(self.image.shape) < 2**15 else np.int32
        return np.stack([columns[order], rows[order]], axis=1).astype(kind)


def refuse_large(width: float, height: float) -> None:
    """Raise Problem for more than MOST_INPUT pixels: what a network makes of them fills memory."""
    if width * height > MOST_INPUT:
        raise Problem(
            f"{width:.0f} x {height:.0f} px are too many at once: cut the image into smaller ones, "
            "or scan at 300 dpi"
        )


def enhance(image: np.ndarray, settings: Settings) -> np.ndarray:
    """CLAHE, Gaussian blur and, with `fit_height`, resize of a strip: (h, w) uint8 -> (h', w').

    CLAHE: Zuiderveld 1994, contrast-limited adaptive histogram equalisation, as in OpenCV.
    """
    if settings.clahe_clip:
        rows = settings.clahe_tiles
        if settings.pooling == "vlad":  # on a page as high as on a strip
            rows = max(1, round(rows * image.shape[0] / settings.strip_height))
        tiles = settings.clahe_tiles, rows
        image = cv2.createCLAHE(settings.clahe_clip, tiles).apply(image)
    if settings.blur:
        image = cv2.GaussianBlur(image, (settings.blur, settings.blur), 0)
    if settings.fit_height and image.shape[0] != settings.strip_height:
        width = max(1, round(image.shape[1] * settings.strip_height / image.shape[0]))
        refuse_large(width, settings.strip_height)
        image = cv2.resize(image, (width, settings.strip_height), interpolation=cv2.INTER_AREA)
    return image


def strip_tops(height: int, strip_height: int, step: int) -> list[int]:
    """Rows at which the strips of a page of ``height`` px begin; a low page is one strip."""
    return list(range(0, height - strip_height + 1, step)) or [0]


def split_tops(height: int, settings: Settings) -> tuple[list[int], list[int]]:
    """(training tops, validation tops) of a page of ``height`` px.

    `paper`: the last two strips validate, as in the original; they overlap the training strips.
    `lines`: the page's bottom strip validates, and training strips end above it. A page lower than
    two strips cannot be divided so: its strip is both, and validation says nothing about new text.
    `none`: all strips train, and validation says nothing either. (What is left below the last of
    them, less than a step, does not: with it as many held-out lines were right, or fewer.)
    """
    strip, step = settings.strip_height, settings.strip_step
    tops = strip_tops(height, strip, step)
    if settings.split == "none":
        return tops, tops[-1:]
    if settings.split == "paper" and len(tops) > 2:
        return tops[:-2], tops[-2:]
    if settings.split == "lines" and height >= 2 * strip:
        bottom = height - strip
        training = strip_tops(bottom, strip, step)
        if training[-1] + strip < bottom:  # the rows between the last step and the bottom strip
            training.append(bottom - strip)
        return training, [bottom]
    return tops, tops


def shared_rows(training: list[int], validation: list[int], strip_height: int) -> float:
    """Share of the validation strips' pixel rows that training strips hold too: 0 to 1."""
    seen = {row for top in training for row in range(top, top + strip_height)}
    rows = [row for top in validation for row in range(top, top + strip_height)]
    return sum(row in seen for row in rows) / len(rows)


def band(page: Page, settings: Settings, top: int = 0, height: int | None = None) -> Strip:
    """The strip of ``page``, enhanced, that begins at ``top`` px; ``height`` None: all below it."""
    bottom = None if height is None else top + height
    return Strip(enhance(page.image[top:bottom], settings), page.label, top)


def _kept(strip: Strip, shelf: Shelf, settings: Settings) -> Strip:
    """``strip``, its pixels on ``shelf``; where they leave memory so does where their ink is."""
    kept = replace(strip, image=shelf.keep(strip.image))
    if kept.image is not strip.image and settings.placement == "ink":
        vars(kept)["ink_points"] = shelf.keep(strip.ink_points)  # where cached_property looks
    return kept


def _cut(page: Page, tops: Iterable[int], settings: Settings) -> list[Strip]:
    return [band(page, settings, top, settings.strip_height) for top in tops]


def training_strips(
    pages: list[Page], settings: Settings, progress: bool = True
) -> tuple[list[Strip], list[Strip]]:
    """(training strips, validation strips) of ``pages``, each enhanced once.

    What is beyond ``memory`` MB of them waits on a `Shelf`.
    """
    training, validation, shelf = [], [], Shelf(settings.held)
    for page in progress_bar(pages, desc="strips", unit="page") if progress else pages:
        tops = split_tops(page.image.shape[0], settings)
        for strips, own in zip((training, validation), tops, strict=True):
            strips += [_kept(strip, shelf, settings) for strip in _cut(page, own, settings)]
    return training, validation


def test_strips(page: Page, settings: Settings) -> list[Strip]:
    """A test image's strips: top and bottom of one higher than 1.25 strips, else itself."""
    height = page.image.shape[0]
    if height > 1.25 * settings.strip_height:
        return _cut(page, [0, height - settings.strip_height], settings)
    return [band(page, settings)]


def ink(image: np.ndarray, scale: float = 1.0) -> np.ndarray:
    """Where there is writing: bool (h, w); dark pixels that are not part of a ruled line, nor next
    to one. ``scale``: px of ``image`` to a px of the page."""
    dark = dark_pixels(image)
    # Odd, and rounded down: what is a ruled line on the page is one at any scale.
    run = 2 * max(1, int(RULED_LINE * scale - 1) // 2) + 1
    level = cv2.erode(dark, np.ones((1, run), np.uint8))
    ruled = cv2.dilate(level, np.ones((3, run + 2), np.uint8))
    return (dark > ruled).view(bool)


def network_inputs(image: np.ndarray, settings: Settings) -> list[np.ndarray]:
    """What a network of whole strips sees of one, (h, w) uint8, as batches of one.

    At each of VLAD_SCALES its grey, (1, h', w', 1) uint8, then for each stride at which it is read
    which positions are on ink: (1, h' / stride, w' / stride) uint8, 1 or 0.
    """
    found = []
    for scale in settings.scales:
        grey, writing = grey_and_ink(image, scale)
        found += [grey[None, ..., None], *(on_ink(writing, n)[None] for n in settings.strides)]
    return found


def on_ink(writing: np.ndarray, stride: int) -> np.ndarray:
    """Which cells of (h, w) uint8 ``writing`` hold ink, 255: (h / stride, w / stride), 1 or 0.

    A cell's share counts in whole grey levels: 5 of 255 are the most that is not enough.
    """
    size = writing.shape[1] // stride, writing.shape[0] // stride
    share = cv2.resize(writing, size, interpolation=cv2.INTER_AREA)
    return (share > 255 * LEAST_INK).view(np.uint8)


def at_scale(image: np.ndarray, scale: float) -> np.ndarray:
    """(h, w) uint8 at ``scale``: (h', w'). Raises Problem if it were too large for a network."""
    whole = round(1 / scale)
    if whole * scale == 1:  # means of whole pixels: faster
        rest = 0, -image.shape[0] % whole, 0, -image.shape[1] % whole
        image = cv2.copyMakeBorder(image, *rest, cv2.BORDER_REPLICATE)
    width, height = (max(1, round(side * scale)) for side in image.shape[::-1])
    refuse_large(width + -width % WIDE, height + -height % GRID)
    # Means of all that a pixel covers; above a half bilinear sampling sees that too, and faster.
    how = cv2.INTER_AREA if scale <= 0.5 else cv2.INTER_LINEAR
    return cv2.resize(image, (width, height), interpolation=how)


def grey_and_ink(image: np.ndarray, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """(h, w) uint8 strip `at_scale`, and where its ink is, 255 or 0: (h', w') uint8 each, with
    paper on the right and below, to multiples of WIDE and GRID px."""
    grey = at_scale(image, scale)
    writing = 255 * ink(grey, scale).view(np.uint8)
    rest = 0, -grey.shape[0] % GRID, 0, -grey.shape[1] % WIDE

    def padded(plane: np.ndarray, beyond: int) -> np.ndarray:
        return cv2.copyMakeBorder(plane, *rest, cv2.BORDER_CONSTANT, value=beyond)

    return padded(grey, PAPER), padded(writing, 0)
