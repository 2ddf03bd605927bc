"""Measures: what the notebooks on pages and patches count, before any network is involved.

In: scans and strips (h, w) uint8, centres of patches (n, 2) in px. Out: counts, shares, tables.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import cv2
import numpy as np
import pandas as pd

from digitlib.patches import cut, random_centres
from digitlib.settings import Settings
from digitlib.strips import PAPER, Strip, enhance, ink

NOTICEABLE = 8  # grey levels of 255; less, on a screen, is hardly seen
AUGMENTATIONS = ("rotation", "translation", "zoom", "slant", "contrast", "thickness")
LETTER = 100  # px of ink: about one small letter, 20 px high, of a 3 px pen


def inkiest(image: np.ndarray, size: tuple[int, int]) -> tuple[int, int]:
    """(top, left) of the window of ``size`` (height, width) px that holds the most writing."""
    height, width = (min(have, want) for have, want in zip(image.shape, size, strict=True))
    total = cv2.integral(ink(image).astype(np.uint8))
    held = total[height:, width:] - total[:-height, width:]
    held = held - (total[height:, :-width] - total[:-height, :-width])
    top, left = np.unravel_index(held.argmax(), held.shape)
    return int(top), int(left)


def effect(before: np.ndarray, after: np.ndarray) -> dict[str, float]:
    """How far enhancement changed a strip; both (h, w) uint8.

    ``levels``: distinct grey levels of ``after``; ``largest``: of all changes, in levels;
    ``changed``: share of the pixels changed by more than NOTICEABLE levels; ``flipped``: pixels
    that changed between ink and paper, as a share of the ink.
    """
    change = cv2.absdiff(before, after)
    was, now = ink(before), ink(after)
    return {
        "levels": len(np.unique(after)),
        "largest": int(change.max()),
        "changed": float((change > NOTICEABLE).mean()),
        "flipped": float((was != now).sum() / max(was.sum(), 1)),
    }


def effect_table(images: Sequence[np.ndarray], variants: Mapping[str, Settings]) -> pd.DataFrame:
    """A row a variant: the `effect` of its enhancement, its mean over ``images``.

    Of ``largest`` it is the maximum. The first row, "the scans", is the images themselves.
    """
    rows = {"the scans": [effect(image, image) for image in images]}
    for name, settings in variants.items():
        same_size = replace(settings, fit_height=False)
        rows[name] = [effect(image, enhance(image, same_size)) for image in images]
    table = pd.DataFrame({name: pd.DataFrame(row).mean() for name, row in rows.items()}).T
    table["largest"] = [max(one["largest"] for one in row) for row in rows.values()]
    return table


def faded(image: np.ndarray, seed: int = 1) -> np.ndarray:
    """A strip as a poor photograph shows it: faded ink, light falling off to the right, noise."""
    rng = np.random.default_rng([seed, *image.shape])
    height, width = image.shape
    soft = cv2.GaussianBlur(image, (3, 3), 0) / 255  # a lens blurs the edges of a 1-bit scan
    light = np.linspace(0.95, 0.5, width) * np.linspace(1, 0.9, height)[:, None]
    grey = 255 * light * (1 - 0.3 * (1 - soft)) + rng.normal(0, 3, image.shape)
    return np.clip(np.rint(grey), 0, 255).astype(np.uint8)


def recall_and_precision(mask: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """How much of the writing ``truth`` a ``mask`` finds, and how much of the mask is writing.

    Both bool (h, w). Two pixels of doubt about the edge of a stroke are no error.
    """
    near = cv2.dilate(truth.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
    recall = (mask & truth).sum() / max(truth.sum(), 1)
    return float(recall), float((mask & near).sum() / max(mask.sum(), 1))


def _boxes(shape: tuple[int, int], centres: np.ndarray, size: int) -> np.ndarray:
    """(n, 4) int: left, top, right, bottom of the patches around ``centres``, within ``shape``."""
    corner = np.rint(np.asarray(centres, float).reshape(-1, 2) - size / 2).astype(int)
    limits = np.array([shape[1], shape[0]])
    return np.hstack([corner.clip(0, limits), (corner + size).clip(0, limits)])


def coverage(shape: tuple[int, int], centres: np.ndarray, size: int) -> np.ndarray:
    """How many patches of ``size`` px around ``centres`` (n, 2) hold each pixel: int (h, w)."""
    counts = np.zeros(shape, int)
    for left, top, right, bottom in _boxes(shape, centres, size):
        counts[top:bottom, left:right] += 1
    return counts


def epoch_coverage(
    training: Sequence[Strip],
    shape: tuple[int, int],
    settings: Settings,
    n: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """How many of ``n`` random patches of a page's ``training`` strips, which overlap, hold each
    pixel: int, ``shape`` being the page's."""
    counts = np.zeros(shape, int)
    each = np.bincount(rng.integers(len(training), size=n), minlength=len(training))
    for strip, k in zip(training, each, strict=True):
        h, w = strip.image.shape
        centres = random_centres([strip] * k, settings, rng)
        counts[strip.top : strip.top + h, :w] += coverage((h, w), centres, settings.patch_size)
    return counts


def reassembled(strips: Sequence[Strip]) -> np.ndarray:
    """The page that ``strips`` were cut from, enhanced as they are: (h, w) uint8."""
    height = max(strip.top + strip.image.shape[0] for strip in strips)
    page = np.full((height, max(strip.image.shape[1] for strip in strips)), PAPER, np.uint8)
    for strip in strips:
        h, w = strip.image.shape
        page[strip.top : strip.top + h, :w] = strip.image
    return page


def unseen_ink(strip: Strip, centres: np.ndarray, size: int) -> float:
    """Share of a strip's writing that no patch around ``centres`` holds."""
    writing = ink(strip.image)
    seen = coverage(strip.image.shape, centres, size) > 0
    return float((writing & ~seen).sum() / max(writing.sum(), 1))


def ink_under(strip: Strip, centres: np.ndarray, size: int) -> np.ndarray:
    """Pixels of writing in each patch around ``centres`` (n, 2): int (n,)."""
    total = cv2.integral(ink(strip.image).astype(np.uint8))
    left, top, right, bottom = _boxes(strip.image.shape, centres, size).T
    return total[bottom, right] - total[top, right] - total[bottom, left] + total[top, left]


def extreme_patches(
    strip: Strip,
    centre: np.ndarray,
    settings: Settings,
    names: Sequence[str],
    rng: np.random.Generator,
) -> list[list[np.ndarray]]:
    """Two rows of patches (size, size) uint8 around ``centre``: as it is, then by each of the
    AUGMENTATIONS ``names`` alone the two most different of 100 draws."""
    still = replace(settings, **dict.fromkeys(AUGMENTATIONS, 0.0))
    plain = cut(strip, centre, settings)
    rows = [[plain], [plain]]
    for name in names:
        alone = replace(still, **{name: getattr(settings, name)})
        draws = np.array([cut(strip, centre, alone, rng) for _ in range(100)])
        for row, draw in zip(rows, extremes(draws, plain), strict=True):
            row.append(draws[draw])
    return rows


def extremes(variants: np.ndarray, plain: np.ndarray) -> tuple[int, int]:
    """Which of the ``variants`` (n, h, w) differs most from ``plain``, and which most from that."""
    variants = variants.astype(float)
    one = int(np.abs(variants - plain).mean(axis=(1, 2)).argmax())
    return one, int(np.abs(variants - variants[one]).mean(axis=(1, 2)).argmax())
