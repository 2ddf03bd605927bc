"""Folds: lines of the training pages held out as if they were test strips.

In: a data set and a recipe's settings. Out: data sets whose test images are bands of the training
pages, and what the recipe makes of them: evidence before there is any test data.
"""

import hashlib
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.optimize import brentq

from digitlib import Problem, engine, ensemble, evaluate, train, write_json
from digitlib.dataset import Dataset, Page
from digitlib.lines import REACH, between_lines
from digitlib.pages import read_json
from digitlib.parameters import setting_parameters, settled
from digitlib.results import softmax
from digitlib.settings import RANGES, Settings
from digitlib.strips import ink
from digitlib.variants import VARIANTS, Images, in_sixths, part_of, perturbed, whole

LEAST_ROWS = 60  # px: what is left of a page above or below a band is dropped if it is lower
# The files that results come from:
CODE = (
    "settings light dataset strips lines patches batches model vlad engine train predict ensemble "
    "results evaluate variants folds baseline"
)
Label = Callable[[list[Page]], tuple[pd.DataFrame, np.ndarray]]  # `ensemble.evaluated` of images
PARTS = {"whole bands": "whole", "thirds of them": "third"}
STRANGERS = "strangers' bands"

# --- Bands ------------------------------------------------------------------------------------


def held_rows(image: np.ndarray, fold: int, folds: int, height: int) -> tuple[int, int]:
    """(top, bottom): rows that ``fold`` of ``folds`` holds out of a page (h, w) uint8.

    Bands of about ``height`` px, evenly spaced down the page, their edges moved between lines where
    the page allows. Raises Problem for a page that has no room for them, and a rest to learn from.
    """
    rows = image.shape[0]
    if not 0 <= fold < folds or folds > room(rows, height):
        raise Problem(f"a page of {rows} px has no {folds} bands of {height} px: use fewer FOLDS")
    written = ink(image).sum(axis=1).astype(float)
    reach = min(REACH, height // 4)
    top = round(fold * (rows - height) / max(folds - 1, 1))
    top = between_lines(written, top, reach) if fold else 0
    last = fold and fold == folds - 1
    return top, rows if last else between_lines(written, top + height, reach)


def room(rows: int, height: int) -> int:
    """How many bands of ``height`` px a page of ``rows`` px has, with a rest to learn from."""
    return rows // max(height, 2 * LEAST_ROWS) if rows >= 1.25 * height + LEAST_ROWS else 0


def held_out(dataset: Dataset, fold: int, folds: int, height: int = 300) -> Dataset:
    """``dataset``'s training pages without a band each, and the bands as test images.

    Raises Problem, naming the page, if one is too low.
    """
    train, test = [], []
    for page in dataset.train:
        try:
            top, bottom = held_rows(page.image, fold, folds, height)
        except Problem as problem:
            raise Problem(f"{page.path}: {problem}") from None
        test.append(part_of(page, top, bottom))
        for first, last in (0, top), (bottom, page.image.shape[0]):
            if last - first >= LEAST_ROWS:
                train.append(part_of(page, first, last))
    return replace(dataset, train=train, test=test)


# --- Cross-validation -----------------------------------------------------------------------------


def recipe(dataset: Dataset, settings: Settings, folder: Path) -> Label:
    """What labels images by the recipe of ``settings``, trained on ``dataset``'s pages."""
    network = train.train(dataset, settings, folder).network
    if settings.pooling == "vlad":  # it pays: these are thirty images a page
        network = engine.compiled(network)

    def label(pages: list[Page]) -> tuple[pd.DataFrame, np.ndarray]:
        ballots = ensemble.votes(network, pages, settings)
        return ensemble.evaluated(pages, ballots, dataset.classes, settings)

    return label


def cross_validate(
    dataset: Dataset,
    settings: Settings,
    folds: int,
    folder: Path,
    run: int | None = None,
    height: int = 300,
    learn: Callable[[Dataset, Settings, Path], Label] = recipe,
    sixths: bool = False,
) -> tuple[pd.DataFrame, np.ndarray]:
    """(result table with columns fold, variant, part; probabilities (n, classes)), row by row.

    Trains without a band of each page and labels what `perturbed` makes of those bands (with
    ``sixths`` `in_sixths`), in the first ``run`` of ``folds`` (all if None). A finished fold stays
    in ``folder``, and counts as done while settings, pages and code are the same. ``learn``:
    `recipe`, or another that gives what labels images, such as `baseline.learn`. A setting ``text``
    below 1 is a share of each piece that the band leaves of a page. Raises Problem for pages that
    are too low.
    """
    tables, odds = [], [np.zeros((0, len(dataset.classes)), np.float32)]
    images = in_sixths if sixths else perturbed
    for fold in range(folds if run is None else min(run, folds)):
        held, place = held_out(dataset, fold, folds, height), Path(folder) / f"fold{fold}"
        table, shares = _answers(held, settings, place, images, learn)
        tables.append(table.assign(fold=fold))
        odds.append(shares)
    empty = ["filename", "actual", "predicted", "confidence", "variant", "part", "fold"]
    result = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=empty)
    return result, np.concatenate(odds)


def check_strangers(parts: int, admitted: float, n_classes: int) -> None:
    """Raise Problem for what `strangers` and `safe_threshold` cannot do, before anything is done.

    One part would leave nobody to learn, more than half of the classes fewer than two a part.
    """
    if parts != 0 and not 2 <= parts <= n_classes // 2:
        raise Problem(f"STRANGERS must be 0, or 2 to half of the {n_classes} classes, not {parts}")
    if not 0 <= admitted <= 1:
        raise Problem(f"ADMITTED must be from 0 to 1, not {admitted}")


def strangers(
    dataset: Dataset, settings: Settings, parts: int, folds: int, folder: Path, height: int = 300
) -> pd.DataFrame:
    """What is said of writing whose class was never learnt: a table as of `cross_validate`.

    Classes are dealt into ``parts``, at random, and each of these is left out once: the recipe
    learns from whole pages of all others, and labels the left out pages' bands, in all VARIANTS.
    None of the answers can be right, so none should be sure. Empty for 0 parts.
    """
    check_strangers(parts, 0, len(dataset.classes))
    if not parts:  # nor need pages then have room for bands
        return pd.DataFrame(columns=["filename", "actual", "predicted", "confidence", "variant"])
    classes, tables = np.array(dataset.classes), []
    dealt = np.random.default_rng([settings.seed, 600]).permutation(len(classes))
    pieces = [piece for k in range(folds) for piece in held_out(dataset, k, folds, height).test]
    for part in range(parts):
        left = set(classes[dealt[part::parts]].tolist())
        known = [page for page in dataset.train if page.label not in left]
        unknown = [piece for piece in pieces if piece.label in left]
        others = replace(dataset, train=known, test=unknown)
        place = Path(folder) / f"strangers{part}of{parts}"
        tables.append(_answers(others, settings, place, whole, recipe)[0])
    return pd.concat(tables, ignore_index=True)


def _answers(
    held: Dataset,
    settings: Settings,
    place: Path,
    images: Callable[[list[Page]], Images],
    learn: Callable[[Dataset, Settings, Path], Label],
) -> tuple[pd.DataFrame, np.ndarray]:
    """(table with variant and part, probabilities) of the ``images`` of ``held``'s test images.

    As they are in ``place``, if that was done with the same settings, pages and code.
    """
    code = b"".join(Path(__file__).with_name(f"{n}.py").read_bytes() for n in CODE.split())
    made_by = {"images": images.__name__, "learn": f"{learn.__module__}.{learn.__name__}"}
    made_by["code"] = hashlib.sha256(code).hexdigest()
    fingerprint = train.fingerprint(held.train + held.test, settings) | made_by
    done = place / "done.json"  # written last
    if read_json(done) != fingerprint:
        done.unlink(missing_ok=True)
        label, parted = learn(held, settings, place / "training"), []
        for (variant, part), pages in images(held.test):
            table, shares = label(pages)
            parted.append((table.assign(variant=variant, part=part), shares))
        evaluate.write_result_csv(pd.concat([t for t, _ in parted]), place / "result.csv")
        evaluate.save_probabilities(np.concatenate([p for _, p in parted]), place)
        write_json(done, fingerprint)
        shutil.rmtree(place / "training", ignore_errors=True)  # the checkpoints
    return evaluate.read_result_csv(place / "result.csv"), evaluate.load_probabilities(place)


# --- What the answers are worth -------------------------------------------------------------------


def log_loss(logits: np.ndarray, truth: np.ndarray) -> float:
    """Mean of -log of the true class's probability; logits (n, classes), truth (n,) numbers."""
    shares = softmax(logits)[np.arange(len(truth)), truth]
    return float(0 - np.log(np.maximum(shares, 1e-12)).mean())  # 0, not -0, where all is sure


def temperature(logits: np.ndarray, truth: np.ndarray) -> float:
    """What logits (n, classes) must be divided by for the least log loss (Guo et al. 2017).

    Logarithms of probabilities will do for logits. The loss is convex in 1 / T: its slope has one
    zero (by Brent's method). It is sought within the RANGES of TEMPERATURE, an end of which comes
    back where all answers are right (no T is small enough) or where guessing would be better. 1
    where T changes nothing.
    """
    logits = np.asarray(logits, float)
    own = logits[np.arange(len(truth)), truth]

    def slope(factor: float) -> float:
        """Of the log loss against 1 / T."""
        return float(((softmax(logits * factor) * logits).sum(-1) - own).mean())

    least, most = RANGES["temperature"]
    if not len(logits) or not np.ptp(logits, axis=-1).any():
        return 1.0
    if slope(1 / least) <= 0 or slope(1 / most) >= 0:
        return least if slope(1 / least) <= 0 else most
    ends = np.log(1 / most), np.log(1 / least)
    return float(np.exp(-brentq(lambda x: slope(np.exp(x)), *ends)))


def safe_threshold(
    confidence: np.ndarray,
    correct: np.ndarray,
    unknown: Sequence[float] = (),
    admitted: float = 0.05,
) -> tuple[float, float]:
    """(threshold, coverage): the lowest confidence from which on no answer is wrong.

    And which at most a share ``admitted`` of ``unknown``, the confidences of answers about
    `strangers`, reaches. ``coverage``: share of the answers that reach it. (inf, 0) where none may.
    """
    confidence, correct = np.asarray(confidence, float), np.asarray(correct, bool)
    limit = confidence[~correct].max(initial=-np.inf)
    below = np.sort(unknown)[::-1][int(admitted * len(unknown)) :]  # those that may not pass
    limit = max(limit, below.max(initial=-np.inf))
    safe = confidence[confidence > limit]
    return float(safe.min(initial=np.inf)), len(safe) / max(len(confidence), 1)


def sure_table(
    answers: Mapping[str, pd.DataFrame], unknown: pd.DataFrame, admitted: float
) -> pd.DataFrame:
    """From when on answers are sure: a row for each of ``answers``, and one for ``unknown``.

    Those are result tables of images of known classes, and of `strangers`. threshold: of
    `safe_threshold`; answered: how many of all reach it; wrong_at_most: were they independent, as
    many of them could be wrong (Wilson, 95 %); sure: how many reach the highest of the thresholds.
    """
    rows = {}
    for name, table in answers.items():
        right = (table["actual"] == table["predicted"]).to_numpy(bool)
        safe, _ = safe_threshold(table["confidence"], right, unknown["confidence"], admitted)
        n = int((table["confidence"] >= safe).sum())
        most = evaluate.wilson_interval(0, n)[1] if n else np.nan
        rows[name] = {"threshold": safe, "answered": n, "of": len(table), "wrong_at_most": most}
    highest = max(row["threshold"] for row in rows.values())
    rows[STRANGERS] = {"of": len(unknown)}
    for name, table in {**answers, STRANGERS: unknown}.items():
        rows[name]["sure"] = int((table["confidence"] >= highest).sum())
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("answers about")
    return table.astype({"answered": "Int64"})


def summary(
    result: pd.DataFrame, probabilities: np.ndarray, classes: list[str], seed: int = 1
) -> pd.DataFrame:
    """A row a variant and part of `cross_validate`'s answers, each with all its folds.

    images, right, accuracy, low and high (95 %, over classes), log_loss, temperature, threshold and
    coverage (of `safe_threshold`).
    """
    rows = []
    for (variant, part), group in result.groupby(["variant", "part"], sort=False):
        right, actual = evaluate.is_correct(group), group["actual"]
        logits = np.log(np.maximum(probabilities[group.index], 1e-12))
        truth = np.array([classes.index(label) for label in actual])
        counts = len(group), int(right.sum()), right.mean()
        interval = evaluate.accuracy_interval(right, actual, seed)
        losses = log_loss(logits, truth), temperature(logits, truth)
        safe = safe_threshold(group["confidence"], right)
        rows.append((variant, part, *counts, *interval, *losses, *safe))
    names = "variant part images right accuracy low high log_loss temperature threshold coverage"
    return pd.DataFrame(rows, columns=names.split())


# --- Ablation -------------------------------------------------------------------------------------


def changes(text: str, settings: Settings) -> dict[str, Settings]:
    """``CLUSTERS=32; SEED=2`` -> {"CLUSTERS=32": settings with that, …}; raises Problem.

    What says which pages there are (DATASET, CLASSES, RESIZE) cannot be changed.
    """
    known, changed = setting_parameters(), {}
    del known["DATASET"], known["CLASSES"], known["RESIZE"]
    for entry in filter(None, (part.strip() for part in text.split(";"))):
        name, equals, value = (part.strip() for part in entry.partition("="))
        if not equals:
            raise Problem(f"ABLATIONS: {entry!r}: write NAME=value, and ; between two")
        own = settled({name: value}, known)
        changed[f"{name}={value}"] = replace(settings, **{n.lower(): v for n, v in own.items()})
    return changed


def ablated(
    dataset: Dataset,
    settings: Settings,
    recipes: dict[str, Settings],
    base: tuple[pd.DataFrame, np.ndarray],
    folds: int,
    folder: Path,
    **how,
) -> pd.DataFrame:
    """A row a recipe of `changes`, and before them the one as it is, whose answers are ``base``;
    no row without ``recipes``.

    Of the bands in all VARIANTS: bands, thirds, sixths: the accuracy of whole ones and of their
    parts; log_loss of sixths; and the difference to ``base`` on these, where there is room to see
    one, with its 95 % interval over classes. ``how``: of `cross_validate`, as ``base`` was, with
    sixths.
    """
    if not recipes or not len(base[0]):
        columns = "bands thirds sixths log_loss difference low high"
        return pd.DataFrame(columns=columns.split())
    rows = {}

    def of(result: pd.DataFrame, part: str) -> pd.DataFrame:
        like = result[result["variant"].isin(VARIANTS) & (result["part"] == part)]
        return like.assign(filename=like["variant"] + " " + like["filename"])

    for name, recipe in {"as it is": settings, **recipes}.items():
        place, answers = Path(folder) / re.sub(r"[^A-Za-z0-9._]+", "-", name), base
        if recipe != settings:
            answers = cross_validate(dataset, recipe, folds, place, sixths=True, **how)
        sixths = of(answers[0], "sixth")
        truth = np.array([dataset.classes.index(label) for label in sixths["actual"]])
        gain = evaluate.compare(of(base[0], "sixth"), sixths, settings.seed)
        rows[name] = {
            "bands": evaluate.is_correct(of(answers[0], "whole")).mean(),
            "thirds": evaluate.is_correct(of(answers[0], "third")).mean(),
            "sixths": gain["accuracy_b"],
            "log_loss": log_loss(np.log(np.maximum(answers[1][sixths.index], 1e-12)), truth),
            "difference": gain["difference"],
            "low": gain["difference_low"],
            "high": gain["difference_high"],
        }
    return pd.DataFrame(rows).T
