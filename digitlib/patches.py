"""Patches: where they are placed on a strip, how they are cut, turned and varied.

In: strips and settings. Out: batches (n, size, size, 1) uint8. A patch is cut and augmented in one
resampling, straight from the strip, so that what turns into view is the page's own surroundings.
"""

from collections.abc import Sequence

import cv2
import numpy as np

from digitlib import Problem
from digitlib.settings import Settings, stride
from digitlib.strips import GRID, MOST_INPUT, WIDE, Strip, refuse_large

CROSS = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))


def even_centres(strip: Strip, n: int, settings: Settings) -> np.ndarray:
    """(n, 2) float x, y px: evenly spaced along the strip, or along its ink from left to right."""
    share = (np.arange(n) + 0.5) / n
    if settings.placement == "ink":
        points = strip.ink_points
        return points[(share * len(points)).astype(int)] + 0.5
    ends = np.linspace(0, 1, n) if n > 1 else share  # from the left edge to the right
    return _anywhere(strip, np.stack([ends, np.full(n, 0.5)], axis=1), settings)


def random_centres(
    strips: Sequence[Strip], settings: Settings, rng: np.random.Generator
) -> np.ndarray:
    """(n, 2) float x, y px, one on each of n ``strips``: on its ink, each pixel of it alike, or
    anywhere that the patch fits."""
    share = rng.random((len(strips), 2))
    if settings.placement == "ink":
        points = [strip.ink_points for strip in strips]
        pixels = [own[int(at * len(own))] for own, at in zip(points, share[:, 0], strict=True)]
        return np.reshape(pixels, (-1, 2)) + 0.5
    centres = [_anywhere(*own, settings) for own in zip(strips, share, strict=True)]
    return np.reshape(centres, (-1, 2))


def _anywhere(strip: Strip, share: np.ndarray, settings: Settings) -> np.ndarray:
    """Centres at ``share`` (..., 2) of a patch's way on ``strip``; a small strip's own centre."""
    height, width = strip.image.shape
    room = np.maximum(np.array([width, height]) - settings.patch_size, 0)
    return (np.array([width, height]) - room) / 2 + share * room


def ensemble_centres(strip: Strip, settings: Settings, index: int) -> np.ndarray:
    """(n_patches, 2): the ensemble's places on the ``index``-th strip, even ones first."""
    rng = np.random.default_rng([settings.ensemble_seed, index])
    n_random = settings.n_patches - settings.n_even
    even = [even_centres(strip, settings.n_even, settings)] if settings.n_even else []
    return np.concatenate([*even, random_centres([strip] * n_random, settings, rng)])


def cut_each(
    strips: Sequence[Strip],
    centres: np.ndarray,
    settings: Settings,
    rng: np.random.Generator | None = None,
) -> np.ndarray:
    """A patch of each of ``strips`` around its one of ``centres`` (n, 2) x, y px, augmented if
    ``rng`` is given: (n, size, size, 1) uint8.

    Beyond the strip there is paper. Augmentations as in the original: rotation, translation, zoom
    and contrast, each uniform; and another slant, and the pen about a pixel thinner or thicker.
    """
    n, size = len(strips), settings.input_size
    x, y, turn, zoom, slant, contrast = np.zeros((6, n))
    pens = [None] * n
    if rng is not None:  # all at once: drawn one by one they would take as long as the cutting
        move = settings.translation * settings.patch_size
        most = [move, move, 2 * np.pi * settings.rotation]
        most += [settings.zoom, settings.slant, settings.contrast]
        x, y, turn, zoom, slant, contrast = rng.uniform(-1, 1, (6, n)) * np.array(most)[:, None]
        varied, thicker = rng.random(n) < settings.thickness, rng.random(n) < 0.5
        pens = np.where(varied, np.where(thicker, cv2.erode, cv2.dilate), None)
    centres = np.reshape(centres, (n, 2)) + np.stack([x, y], axis=1)
    zoom = settings.scale * (1 + zoom)
    cosine, sine = zoom * np.cos(turn), zoom * np.sin(turn)
    rows = [[cosine, cosine * slant - sine], [sine, sine * slant + cosine]]
    matrices = np.moveaxis(np.array(rows), -1, 0)
    # OpenCV counts from pixel centres, hence the halves.
    shifts = size / 2 - 0.5 - matrices @ (centres - 0.5)[..., None]
    matrices = np.concatenate([matrices, shifts], axis=2)
    patches = np.empty((n, size, size, 1), np.uint8)
    for strip, matrix, pen, change, patch in zip(
        strips, matrices, pens, contrast, patches[..., 0], strict=True
    ):
        how = {"flags": cv2.INTER_LINEAR, "borderValue": strip.paper}
        cv2.warpAffine(strip.image, matrix, (size, size), dst=patch, **how)
        if pen:
            cv2.addWeighted(patch, 0.5, pen(patch, CROSS), 0.5, 0, dst=patch)
        if change:
            mean = cv2.mean(patch)[0]
            cv2.addWeighted(patch, 1 + change, patch, 0, -mean * change, dst=patch)
    return patches


def cut(
    strip: Strip, centre: np.ndarray, settings: Settings, rng: np.random.Generator | None = None
) -> np.ndarray:
    """The patch around ``centre`` (x, y px) as (size, size) uint8, as `cut_each` cuts it."""
    return cut_each([strip], centre, settings, rng)[0, ..., 0]


def cut_all(
    strip: Strip, centres: np.ndarray, settings: Settings, rng: np.random.Generator | None = None
) -> np.ndarray:
    """Patches of one strip around ``centres`` (n, 2) -> (n, size, size, 1) uint8."""
    return cut_each([strip] * len(centres), centres, settings, rng)


def windows(strip: Strip, centres: np.ndarray, settings: Settings) -> tuple[np.ndarray, np.ndarray]:
    """The whole strip for the network, (h, w, 1) uint8, and the patches around ``centres`` on it.

    Those are (n, h', w') float32: how much of a patch's mean each position of the feature map is,
    a box that moves by fractions of one. What patches show beyond the strip is paper.
    """
    size, scale, step = settings.input_size, settings.scale, stride(settings.layer)
    # As in `cut`: where a patch's first pixel lies, in pixels of the scaled strip.
    first = (centres - 0.5) * scale + 0.5 - size / 2
    start = np.minimum(np.floor(first.min(axis=0)), 0)
    end = np.maximum(first.max(axis=0) + size, np.array(strip.image.shape[::-1]) * scale)
    # The network's layers pad by whether their input is odd: as on a patch, if the rest is GRID's.
    steps = np.array([WIDE, GRID])  # in x by more: each size is compiled once
    shape = size + steps * np.ceil((end - start - size) / steps).clip(0).astype(int)
    refuse_large(*shape)
    if len(centres) * shape.prod() / step**2 > MOST_INPUT:
        raise Problem(
            f"{len(centres)} patches on a strip of {shape[0]} x {shape[1]} px are too many for one "
            "pass: lower N_PATCHES, or label patch by patch"
        )
    matrix = np.array([[scale, 0, -start[0]], [0, scale, -start[1]]])
    flags = cv2.INTER_NEAREST if scale == 1 else cv2.INTER_LINEAR  # moved by whole pixels: the same
    how = {"flags": flags, "borderValue": strip.paper}
    image = cv2.warpAffine(strip.image, matrix, shape.tolist(), **how)
    cells = -(-size // step)
    shares = []
    for place, length in zip((first - start).T / step, shape, strict=True):
        cell = np.arange(-(-length // step))
        low = np.maximum(place[:, None], cell)
        high = np.minimum(place[:, None] + cells, cell + 1)
        shares.append((high - low).clip(0) / cells)
    x, y = shares
    return image[..., None], (y[:, :, None] * x[:, None, :]).astype(np.float32)
