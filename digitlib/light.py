"""Light: what a lamp, a shadow and a pale pen do to a photograph of a page, taken back.

In: a page (h, w) uint8, dark on bright. Out: the same with paper 255 and ink 0, on the average, as
from a scanner; what is black and white alone stays as it is.
"""

import cv2
import numpy as np

SIDE = 336  # px of the small picture that paper is looked for on: shadows are wide
LEAST_CELL = 4  # px of the page to one of the small picture
STROKE = 5  # px of it: what is dark and not as wide is ink;
WINDOW = 21  # and of so many px each way more than half are paper, whatever is left of the ink
DARKEST = 16  # grey levels: what is darker is no paper, and its noise is not made larger
# Sharpened: what lies between blurs of these px (standard deviations), finer than letters and
FINE, COARSE, SHARPER = 0.8, 2.0, 1.5  # coarser than a camera's noise, is added so many times
GRAIN = 0.15  # of the contrast between ink and paper: what is as near to paper is its grain
LEAST_CONTRAST = 24  # grey levels between ink and paper, means: paper's own grain has less


def dark_pixels(image: np.ndarray) -> np.ndarray:
    """Which of (h, w) uint8 Otsu's threshold calls dark: uint8, 1 or 0; none where all are alike.

    Otsu 1979, as in OpenCV.
    """
    if image.min() == image.max():
        return np.zeros_like(image)
    return cv2.threshold(image, 0, 1, cv2.THRESH_BINARY_INV | cv2.THRESH_OTSU)[1]


def tones(image: np.ndarray) -> tuple[float, float]:
    """(ink, paper): mean grey levels of the `dark_pixels` of (h, w) uint8 and of the others; the
    same where there are none."""
    dark = dark_pixels(image).view(bool)
    if not dark.any():
        mean = float(image.mean())
        return mean, mean
    return float(image[dark].mean()), float(image[~dark].mean())


def evened(image: np.ndarray) -> np.ndarray:
    """(h, w) uint8 in even light, its ink black: first divided by the brightness of the paper
    around; then, unless nothing stands out from the paper, sharpened and stretched.

    A page's own background divided out: Lu, Su and Tan 2010, by polynomials; here a closing, which
    fills in the strokes, and a median. Sharpened by a difference of Gaussians.
    """
    if not cv2.countNonZero(cv2.inRange(image, 1, 254)):
        return image
    height, width = image.shape
    cell = max(LEAST_CELL, max(height, width) / SIDE)
    small = [max(1, round(side / cell)) for side in (width, height)]
    paper = cv2.resize(image, small, interpolation=cv2.INTER_AREA)
    paper = cv2.morphologyEx(paper, cv2.MORPH_CLOSE, np.ones((STROKE, STROKE), np.uint8))
    paper = cv2.medianBlur(paper, WINDOW)
    paper = cv2.resize(paper, (width, height), interpolation=cv2.INTER_LINEAR)
    flat = cv2.divide(image, np.maximum(paper, DARKEST), scale=255)
    black, white = tones(flat)
    if white - black < LEAST_CONTRAST:
        return flat
    fine, coarse = (cv2.GaussianBlur(flat, (0, 0), sigma) for sigma in (FINE, COARSE))
    sharp = cv2.addWeighted(fine, 1 + SHARPER, coarse, -SHARPER, 0)
    black, white = tones(sharp)
    stretched = (np.arange(256) - black) * 255 / (white - black) / (1 - GRAIN)
    return cv2.LUT(sharp, np.clip(np.rint(stretched), 0, 255).astype(np.uint8))
