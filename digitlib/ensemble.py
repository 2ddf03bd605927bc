"""The ensemble: many patches of an image, each labelled, their answers combined into one.

In: a trained network and images. Out: a row an image with its label and how sure the model is.
"""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import keras
import numpy as np
import pandas as pd

from digitlib import cores, evaluate, model, patches, predict, progress_bar
from digitlib.dataset import Page, Shelf
from digitlib.results import combine, result_rows
from digitlib.settings import Settings

SHIFT_PAGES = 70  # that `one_pass_shift` looks at, at most
ENOUGH = 35  # of each of them
DRAWS = 20  # of random patches, whose mean `accuracy_by_count` gives


@dataclass(frozen=True)
class Votes:
    """What the patches of one image say, which are those of `predict.ensemble_of`."""

    logits: np.ndarray  # (n_strips, n, classes) float32
    seconds: float  # from image in memory to logits


def vote(network: keras.Model, page: Page, settings: Settings) -> Votes:
    """Run ``network`` on the ensemble's patches from every strip of ``page``."""
    start, items = time.perf_counter(), predict.ensemble_of(page, settings)

    def label(*inputs: np.ndarray) -> np.ndarray:
        return np.asarray(network.predict_on_batch(list(inputs) if len(inputs) > 1 else inputs[0]))

    way = predict.strip_by_strip if settings.pooling == "vlad" else predict.patch_by_patch
    return Votes(way(label, items, settings), time.perf_counter() - start)


def votes(network: keras.Model, pages: Iterable[Page], settings: Settings) -> list[Votes]:
    """`vote` for each of ``pages``; logits beyond ``memory`` MB wait on a `Shelf`."""
    cv2.setNumThreads(1)
    shelf, ballots = Shelf(settings.held), []
    for page in progress_bar(pages, desc="labelling", unit="image"):
        ballot = vote(network, page, settings)
        ballots.append(replace(ballot, logits=shelf.keep(ballot.logits)))
    return ballots


def one_pass_shift(network: keras.Model, pages: Sequence[Page], settings: Settings) -> list[float]:
    """(classes,) how much higher logits are patch by patch than in one pass, on the average.

    In one pass a window's edges see what lies beyond them, where a patch's see nothing: that moves
    the mean of each feature, and of the logits with them. Measured on the top strip of some
    ``pages`` to train with, by ENOUGH patches. Empty for networks that read whole strips.
    """
    if settings.pooling == "vlad":
        return []
    few = {name: min(getattr(settings, name), ENOUGH) for name in ("n_patches", "n_even")}
    settings = replace(settings, **few)
    reader = model.one_pass(network, settings)
    apart = []
    some = pages[:: -(-len(pages) // SHIFT_PAGES)]
    for page in progress_bar(some, desc="one pass", unit="page"):
        top = replace(page, image=page.image[: settings.strip_height])
        exact, strip = vote(network, top, settings), predict.ensemble_of(top, settings)[0]
        inputs = patches.windows(*strip, settings)
        once = reader.predict_on_batch([item[None] for item in inputs])
        apart.append((exact.logits - np.asarray(once)).mean(axis=(0, 1)))
    return np.mean(apart, axis=0).tolist()


def evaluated(
    pages: Sequence[Page], ballots: Sequence[Votes], classes: list[str], settings: Settings
) -> tuple[pd.DataFrame, np.ndarray]:
    """(result table, probabilities (n_images, classes)) of images and their votes."""
    probabilities = np.stack([combine(ballot.logits, settings.combine) for ballot in ballots])
    rows = result_rows(
        [page.path.name for page in pages],
        [page.label for page in pages],
        probabilities,
        classes,
        n_strips=[len(ballot.logits) for ballot in ballots],
        n_patches=[ballot.logits.shape[0] * ballot.logits.shape[1] for ballot in ballots],
        seconds=[round(ballot.seconds, 4) for ballot in ballots],
    )
    return pd.DataFrame(rows), probabilities


def engines_compared(
    result: pd.DataFrame,
    ballots: Sequence[Votes],
    pages: Sequence[Page],
    classes: list[str],
    settings: Settings,
    file: Path,
) -> pd.DataFrame:
    """``result``, of ``ballots`` by Keras, beside what the graphs of ``file``, their model's, say.

    A row an engine: right; same, how many labels are those of Keras; p, of McNemar's exact test of
    the two (`evaluate.compare`); and ms an image (median, from memory to logits).
    """
    results = {"keras": result}
    cv2.setNumThreads(cores())
    for engine in predict.without_keras(settings):
        read, said = predict.reader(file, engine, settings=settings)[0], []
        shelf = Shelf(settings.held)
        bar = progress_bar(pages, desc=engine, unit="image")
        for ballot, page in zip(ballots, bar, strict=True):
            start = time.perf_counter()
            logits = read(page)
            seconds = time.perf_counter() - start
            said.append(replace(ballot, logits=shelf.keep(logits), seconds=seconds))
        results[engine], _ = evaluated(pages, said, classes, settings)
    rows = {
        engine: {
            "right": evaluate.is_correct(own).sum(),
            "same": (own["predicted"] == result["predicted"]).sum(),
            "p": evaluate.compare(result, own, settings.seed)["mcnemar_p"],
            "ms": 1000 * own["seconds"].median(),
        }
        for engine, own in results.items()
    }
    return pd.DataFrame(rows.values(), index=pd.Index(rows, name="engine"))


def accuracy_by_count(
    pages: Sequence[Page],
    even: Sequence[Votes],
    random: Sequence[Votes],
    classes: list[str],
    counts: Sequence[int],
    settings: Settings,
) -> pd.DataFrame:
    """Accuracy of ensembles of ``counts`` patches a strip, evenly spaced and random.

    ``even`` and ``random`` hold the votes to choose from. A row: placement, n, accuracy and, for
    the even ones, low and high (95 %, over classes); `random` is the mean over DRAWS.
    """
    actual = np.array([page.label for page in pages])
    rows = []

    def correct(ballots: Sequence[Votes], chosen: np.ndarray) -> np.ndarray:
        said = [combine(b.logits[:, chosen], settings.combine).argmax() for b in ballots]
        return np.array(classes)[said] == actual

    most = even[0].logits.shape[1]
    for n in sorted({*counts, most}):
        right = correct(even, ((np.arange(n) + 0.5) / n * most).astype(int))
        low, high = evaluate.accuracy_interval(right, actual, settings.seed, n=2000)
        rows.append(("even", n, right.mean(), low, high))
    for n in counts:
        shares = []
        for draw in range(DRAWS):
            rng = np.random.default_rng([settings.ensemble_seed, 400, draw])
            shares.append(correct(random, rng.permutation(random[0].logits.shape[1])[:n]).mean())
        rows.append(("random", n, np.mean(shares), np.nan, np.nan))
    return pd.DataFrame(rows, columns=["placement", "n", "accuracy", "low", "high"])


def agreement(pages: Sequence[Page], ballots: Sequence[Votes], classes: list[str]) -> pd.DataFrame:
    """A row an image: how many of its patches are right, wrong, and name its commonest wrong class
    (rival)."""
    rows = []
    for page, ballot in zip(pages, ballots, strict=True):
        said = np.array(classes)[ballot.logits.argmax(axis=-1)].ravel()
        wrong = said[said != page.label]
        rival = np.unique(wrong, return_counts=True)[1].max(initial=0)
        rows.append((len(said) - len(wrong), len(wrong), rival))
    return pd.DataFrame(rows, columns=["right", "wrong", "rival"])


def strips_compared(
    pages: Sequence[Page], ballots: Sequence[Votes], classes: list[str], settings: Settings
) -> pd.DataFrame:
    """Of images with two strips: how many, and how many are right by the top, bottom, and both."""
    tall = [(p, b) for p, b in zip(pages, ballots, strict=True) if len(b.logits) == 2]
    rows = {}
    for name, part in ("top", slice(0, 1)), ("bottom", slice(1, 2)), ("both", slice(0, 2)):
        said = [classes[combine(b.logits[part], settings.combine).argmax()] for _, b in tall]
        right = [label == page.label for label, (page, _) in zip(said, tall, strict=True)]
        rows[name] = {"images": len(tall), "right": sum(right)}
    return pd.DataFrame(rows).T.rename_axis("strip")
