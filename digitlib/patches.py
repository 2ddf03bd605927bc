"""Patches: where they are placed on a strip, how they are cut, turned and varied.

In: strips and settings. Out: batches (n, size, size, 1) uint8. A patch is cut and augmented in one
resampling, straight from the strip, so that what turns into view is the page's own surroundings.
"""

import cv2
import numpy as np

from digitlib.settings import Settings
from digitlib.strips import GRID, WIDE, Strip

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
    strip: Strip, n: int, settings: Settings, rng: np.random.Generator
) -> np.ndarray:
    """(n, 2) float x, y px: on ink, each ink pixel alike, or anywhere that the patch fits."""
    if settings.placement == "ink":
        return strip.ink_points[rng.integers(len(strip.ink_points), size=n)] + 0.5
    return _anywhere(strip, rng.uniform(0, 1, (n, 2)), settings)


def _anywhere(strip: Strip, share: np.ndarray, settings: Settings) -> np.ndarray:
    """Centres at ``share`` (n, 2) of the way that a patch can move; a small strip's own centre."""
    height, width = strip.image.shape
    room = np.maximum(np.array([width, height]) - settings.patch_size, 0)
    return (np.array([width, height]) - room) / 2 + share * room


def ensemble_centres(strip: Strip, settings: Settings, index: int) -> np.ndarray:
    """(n_patches, 2): the ensemble's places on the ``index``-th strip, even ones first."""
    rng = np.random.default_rng([settings.ensemble_seed, index])
    n_random = settings.n_patches - settings.n_even
    even = [even_centres(strip, settings.n_even, settings)] if settings.n_even else []
    return np.concatenate([*even, random_centres(strip, n_random, settings, rng)])


def cut(
    strip: Strip, centre: np.ndarray, settings: Settings, rng: np.random.Generator | None = None
) -> np.ndarray:
    """The patch around ``centre`` (x, y px) as (size, size) uint8; augmented if ``rng`` is given.

    Beyond the strip there is paper. Augmentations as in the original: rotation, translation, zoom
    and contrast, each uniform; and another slant, and the pen about a pixel thinner or thicker.
    """
    image, size = strip.image, settings.input_size
    turn, zoom, slant, offset = 0.0, settings.scale, 0.0, np.zeros(2)
    if rng is not None:
        turn = 2 * np.pi * rng.uniform(-settings.rotation, settings.rotation)
        zoom = settings.scale * (1 + rng.uniform(-settings.zoom, settings.zoom))
        offset = rng.uniform(-1, 1, 2) * settings.translation * settings.patch_size
        slant = rng.uniform(-settings.slant, settings.slant) if settings.slant else 0.0
    cosine, sine = zoom * np.cos(turn), zoom * np.sin(turn)
    matrix = np.array([[cosine, -sine], [sine, cosine]]) @ [[1, slant], [0, 1]]
    # OpenCV counts from pixel centres, hence the halves.
    shift = size / 2 - 0.5 - matrix @ (np.asarray(centre) + offset - 0.5)
    patch = cv2.warpAffine(
        image, np.c_[matrix, shift], (size, size), flags=cv2.INTER_LINEAR, borderValue=strip.paper
    )
    if rng is not None:
        if rng.random() < settings.thickness:
            spread = cv2.erode if rng.random() < 0.5 else cv2.dilate
            patch = cv2.addWeighted(patch, 0.5, spread(patch, CROSS), 0.5, 0)
        if settings.contrast:
            factor, mean = 1 + rng.uniform(-settings.contrast, settings.contrast), patch.mean()
            patch = np.clip((patch - mean) * factor + mean, 0, 255).astype(np.uint8)
    return patch


def cut_all(
    strip: Strip, centres: np.ndarray, settings: Settings, rng: np.random.Generator | None = None
) -> np.ndarray:
    """Patches around ``centres`` (n, 2) -> (n, size, size, 1) uint8."""
    size = settings.input_size
    patches = [cut(strip, centre, settings, rng) for centre in centres]
    return np.array(patches, np.uint8).reshape(len(centres), size, size, 1)


def windows(
    strip: Strip, centres: np.ndarray, settings: Settings, stride: int
) -> tuple[np.ndarray, np.ndarray]:
    """The whole strip for the network, (h, w, 1) uint8, and the patches around ``centres`` on it.

    Those are (n, h', w') float32: how much of a patch's mean each position of the feature map is,
    a box that moves by fractions of one. ``stride``: px of the network's input from one position to
    the next. What patches show beyond the strip is paper.
    """
    size, scale = settings.input_size, settings.scale
    # As in `cut`: where a patch's first pixel lies, in pixels of the scaled strip.
    first = (centres - 0.5) * scale + 0.5 - size / 2
    start = np.minimum(np.floor(first.min(axis=0)), 0)
    end = np.maximum(first.max(axis=0) + size, np.array(strip.image.shape[::-1]) * scale)
    # The network's layers pad by whether their input is odd: as on a patch, if the rest is GRID's.
    steps = np.array([WIDE, GRID])  # in x by more: each size is compiled once
    shape = size + steps * np.ceil((end - start - size) / steps).clip(0).astype(int)
    matrix = np.array([[scale, 0, -start[0]], [0, scale, -start[1]]])
    how = {"flags": cv2.INTER_LINEAR, "borderValue": strip.paper}
    image = cv2.warpAffine(strip.image, matrix, shape.tolist(), **how)
    cells = -(-size // stride)
    shares = []
    for place, length in zip((first - start).T / stride, shape, strict=True):
        cell = np.arange(-(-length // stride))
        low = np.maximum(place[:, None], cell)
        high = np.minimum(place[:, None] + cells, cell + 1)
        shares.append((high - low).clip(0) / cells)
    x, y = shares
    return image[..., None], (y[:, :, None] * x[:, None, :]).astype(np.float32)
