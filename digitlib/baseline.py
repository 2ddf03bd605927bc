"""Baseline: what a sensible user would pick instead of a network: SIFT, VLAD and a linear SVM.

In: pages. Out: probabilities (n, classes). RootSIFT (Arandjelović and Zisserman 2012) at keypoints
on ink stands in for the backbone's local features; the rest is `vlad`, step by step.
"""

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import keras
import numpy as np
import pandas as pd

from digitlib import Problem, progress_bar, vlad
from digitlib.dataset import Dataset, Page, Shelf
from digitlib.folds import Label
from digitlib.lines import first_lines
from digitlib.results import result_rows, softmax
from digitlib.settings import Settings
from digitlib.strips import enhance, grey_and_ink, strip_tops

LARGEST = 20.0  # px of the page: wider keypoints are gaps between words or lines, not strokes
BORDER = 5  # px of the input: a keypoint in the bend of a stroke lies beside the ink
WORKERS = 2  # threads: at full scale, SIFT holds some 300 MB for a page


def keypoints(image: np.ndarray, settings: Settings) -> tuple[np.ndarray, np.ndarray]:
    """SIFT on and around the ink of an (h, w) uint8 scan, at the network's scale (`scale`).

    Returns x, y, diameter (n, 3) float32, px of the scan, and descriptors (n, 128) float32 that sum
    to 1 each: `vlad.Vlad` takes their square roots, which makes them RootSIFT. SIFT: Lowe 2004.
    """
    scan = enhance(image, replace(settings, fit_height=False))
    grey, writing = grey_and_ink(scan, settings.scale)
    near = cv2.dilate(writing, np.ones((BORDER, BORDER), np.uint8))
    found, descriptors = cv2.SIFT_create().detectAndCompute(grey, near)
    places = np.array([(*point.pt, point.size) for point in found], np.float32).reshape(-1, 3)
    places /= settings.scale
    kept = places[:, 2] <= LARGEST
    descriptors = np.zeros((0, 128), np.float32) if descriptors is None else descriptors
    sums = np.maximum(descriptors.sum(axis=1, keepdims=True), 1e-9)
    return places[kept], (descriptors / sums)[kept]


def _keypoints_of(
    pages: Sequence[Page], settings: Settings, what: str
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """`keypoints` of each page, in order."""
    cv2.setNumThreads(1)  # its threads fight with these over the cores
    with ThreadPoolExecutor(WORKERS) as pool:
        found = pool.map(lambda page: keypoints(page.image, settings), pages)
        yield from progress_bar(found, desc=what, unit="page", total=len(pages))


def _batch(descriptors: np.ndarray) -> list[np.ndarray]:
    """(n, 128) as `vlad.Vlad` takes them: features (1, 1, n, 128), all on ink."""
    return [descriptors[None, None], np.ones((1, 1, len(descriptors)), np.uint8)]


@dataclass(frozen=True)
class Baseline:
    """A fitted baseline: ``network`` takes what `_batch` makes of one image, and gives logits."""

    network: keras.Model
    classes: list[str]
    settings: Settings
    seconds: float  # that fitting took

    def probabilities(self, pages: Sequence[Page]) -> np.ndarray:
        """(n, classes): softmax of the SVM's scores; all alike where there is no keypoint."""
        logits = np.zeros((len(pages), self.network.output_shape[-1]))
        found = _keypoints_of(pages, self.settings, "labelling")
        for row, (_, descriptors) in zip(logits, found, strict=True):
            if len(descriptors):
                row[:] = np.asarray(self.network.predict_on_batch(_batch(descriptors)))[0]
        return softmax(logits)

    def evaluated(self, pages: Sequence[Page]) -> tuple[pd.DataFrame, np.ndarray]:
        """(result table, probabilities (n, classes)) of ``pages``.

        They are labelled side by side, so the table's ``seconds`` are their mean.
        """
        start = time.perf_counter()
        shares = self.probabilities(pages)
        each = (time.perf_counter() - start) / len(pages)
        names, labels = zip(*((page.path.name, page.label) for page in pages), strict=True)
        table = pd.DataFrame(result_rows(names, labels, shares, self.classes))
        return table.assign(seconds=round(each, 4)), shares


def _network(n_classes: int, settings: Settings) -> tuple[keras.Model, keras.Model]:
    """(to logits, to VLAD): `vlad.build` from [features, ink], named as `vlad` asks."""
    inputs = [keras.Input((None, None, 128), batch_size=1), keras.Input((None, None), batch_size=1)]
    shape = settings.codebooks, settings.clusters, settings.components
    sums = vlad.Vlad(1, *shape, name="vlad_sift")(inputs)
    logits = vlad.labelled(sums, "sift", n_classes, settings)
    return keras.Model(inputs, logits), keras.Model(inputs, sums)


def fit(pages: Sequence[Page], classes: list[str], settings: Settings) -> Baseline:
    """Learn codebooks, whitening and SVM from windows of a strip's height down ``pages``.

    Heeds enhancement, scale, strip height and step, text, seed, codebooks to shrinkage, examples,
    svm_c and temperature. What SPLIT holds out trains too; pages are not varied. Raises Problem for
    pages with too few keypoints.
    """
    start = time.perf_counter()
    pages = [first_lines(page, settings.text) for page in pages]
    shelf = Shelf(settings.held)
    found = [(where, shelf.keep(what)) for where, what in _keypoints_of(pages, settings, "SIFT")]
    network, sums = _network(len(classes), settings)
    rng = np.random.default_rng([settings.seed, 600])
    share = -(-vlad.LEARNT_FROM // max(len(pages), 1))
    sampled = [d[rng.permutation(len(d))[:share]] for _, d in found]
    vlad.learn_codebooks(network.get_layer("vlad_sift"), np.concatenate(sampled), settings.seed)

    learner, height = vlad.Labels(network, "sift", settings), settings.strip_height
    number, labels = {label: i for i, label in enumerate(classes)}, set()
    windows = zip(pages, found, strict=True)
    for page, (places, descriptors) in progress_bar(windows, desc="VLAD", unit="page"):
        for top in strip_tops(page.image.shape[0], height, settings.strip_step):
            inside = (top <= places[:, 1]) & (places[:, 1] < top + height)
            if inside.any():
                vectors = sums.predict_on_batch(_batch(descriptors[inside]))
                learner.add(vectors, number[page.label])
                labels.add(page.label)
    if missing := sorted(set(classes) - labels):
        raise Problem(f"class {missing[0]}: its pages have no keypoint on ink; are they blank?")
    learner.learn()
    return Baseline(network, classes, settings, time.perf_counter() - start)


def learn(dataset: Dataset, settings: Settings, folder: Path) -> Label:
    """What labels images, for `folds.cross_validate`; nothing is kept in ``folder``."""
    fitted = fit(dataset.train, dataset.classes, settings)
    return fitted.evaluated
