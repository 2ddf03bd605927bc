"""Evaluate: how good are the predictions, how sure may one be of that, and where do they fail?

In: a result table (one row a test image) and probabilities. Out: numbers, intervals, tables.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.metrics import f1_score, precision_recall_fscore_support
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.proportion import proportion_confint

from digitlib import Problem, whole_file
from digitlib.results import FORMULA, NUMBERS, write_rows


def write_result_csv(result: pd.DataFrame, path: Path) -> None:
    """`results.write_rows` of a result table."""
    write_rows(result.to_dict("records"), path)


def read_result_csv(path: Path) -> pd.DataFrame:
    """Read a result table; labels stay text ("01", "NA"). Raises Problem if it is not one."""
    try:
        table = pd.read_csv(
            path, dtype=str, keep_default_na=False, encoding_errors="surrogateescape"
        )
        for name in table.columns.intersection(NUMBERS):
            table[name] = pd.to_numeric(table[name])
            if table[name].isna().any():
                raise ValueError(f"a gap in {name}")
    except (OSError, ValueError) as error:  # pandas' parser errors are ValueErrors
        raise Problem(f"{path}: not a readable result table ({error}); evaluate again") from error
    if missing := {"filename", "actual"} - set(table.columns):
        raise Problem(f"{path}: no column {', '.join(sorted(missing))}; is it a result.csv?")
    for name in table.columns.difference(NUMBERS):
        marked = table[name].str.startswith("'") & table[name].str[1:].str.contains(FORMULA)
        table[name] = table[name].mask(marked, table[name].str[1:])
    return table


def save_probabilities(probabilities: np.ndarray, folder: Path) -> None:
    """Write (n_images, classes) probabilities to ``folder``, beside result.csv, as float32."""
    with whole_file(folder / "probabilities.npy") as aside:
        np.save(aside, probabilities.astype(np.float32))


def load_probabilities(folder: Path) -> np.ndarray:
    """What `save_probabilities` wrote: (n_images, classes) float32."""
    return np.load(folder / "probabilities.npy", allow_pickle=False)


def is_correct(result: pd.DataFrame) -> np.ndarray:
    """(n,) bool: which images are right. Raises Problem if there are none, or one has no label."""
    if result.empty:
        raise Problem("no images to evaluate: give at least one test image")
    if (unlabelled := result["actual"] == "").any():
        name = result.loc[unlabelled, "filename"].iloc[0]
        raise Problem(f"{name}: its label is not known; leave such rows out before scoring")
    return (result["actual"] == result["predicted"]).to_numpy(bool)


def wilson_interval(n_correct: int, n: int) -> tuple[float, float]:
    """Wilson's score interval; takes the n images for independent, arrays for many intervals."""
    return proportion_confint(n_correct, n, method="wilson")


def accuracy_interval(
    correct: np.ndarray, groups: Sequence[str], seed: int, n: int = 10_000
) -> tuple[float, float]:
    """Percentile interval of a mean, by a bootstrap over classes: each brings all its strips.

    The strips of one class share a hand and a training page, so they fail together; drawing strips
    singly would promise too much. ``correct``: (n_images,) bool, or values from 0 to 1;
    ``groups``: their classes. A single class shows no spread between classes: (0, 1), nothing is
    known. All right or all wrong, resampling would show no doubt at all: Wilson's interval, with as
    many trials as there are classes.
    """
    names, group = np.unique(np.asarray(groups, dtype=object), return_inverse=True)
    if len(names) < 2:
        return 0.0, 1.0
    if (mean := float(np.mean(correct))) in (0, 1):
        low, high = wilson_interval(mean * len(names), len(names))
        return (float(low), 1.0) if mean else (0.0, float(high))  # it misses these by a rounding
    per_class = np.stack([np.bincount(group, correct), np.bincount(group)], axis=1)  # (classes, 2)
    # Classes with equal counts are interchangeable: draw how many of each kind, not which.
    kinds, n_kind = np.unique(per_class, axis=0, return_counts=True)
    draws = np.random.default_rng([seed, 1]).multinomial(len(names), n_kind / len(names), size=n)
    sums, sizes = (draws @ kinds).T
    low, high = np.quantile(sums / sizes, [0.025, 0.975])
    return float(low), float(high)


def label_scores(result: pd.DataFrame, seed: int = 1) -> dict[str, float]:
    """Those of the headline numbers that labels alone give: n to accuracy_high, and macro_f1."""
    right = is_correct(result)
    low, high = accuracy_interval(right, result["actual"], seed)
    macro_f1 = f1_score(result["actual"], result["predicted"], average="macro", zero_division=0)
    return {
        "n": len(right),
        "n_correct": int(right.sum()),
        "accuracy": float(right.mean()),
        "accuracy_low": low,
        "accuracy_high": high,
        "macro_f1": float(macro_f1),
    }


def scores(
    result: pd.DataFrame, probabilities: np.ndarray, classes: Sequence[str], seed: int = 1
) -> dict[str, float]:
    """The headline numbers, ready for JSON; interval ends are 95 %.

    macro_f1 is the mean F1 over the classes that occur as actual or predicted; a class without a
    test strip that nothing was taken for does not count. top5: share of images whose label is
    among the five likeliest (1 with five or fewer classes, unless a label is in none).
    """
    by_label = label_scores(result, seed)
    order = np.argsort(-np.asarray(probabilities, dtype=float), axis=1, kind="stable")
    likeliest = np.asarray(classes, dtype=object)[order[:, :5]]
    if len(order) != len(result) or (likeliest[:, 0] != result["predicted"].to_numpy()).any():
        raise Problem("probabilities are not those of this result table: keep their rows together")
    low, high = wilson_interval(by_label["n_correct"], by_label["n"])
    # scikit-learn's top_k_accuracy_score refuses labels outside ``classes``.
    top5 = (likeliest == result["actual"].to_numpy()[:, None]).any(axis=1).mean()
    return by_label | {"wilson_low": float(low), "wilson_high": float(high), "top5": float(top5)}


def reliability(confidence: np.ndarray, correct: np.ndarray, bins: int = 10) -> pd.DataFrame:
    """Calibration by equal bins of confidence: low, high, n, confidence, accuracy.

    A bin is [low, high), the last one with 1. confidence and accuracy: means, NaN in an empty bin.
    """
    edges = np.arange(bins + 1) / bins  # linspace would put 0.3 just below its own edge
    index = np.digitize(confidence, edges[1:-1])
    data = pd.DataFrame({"confidence": np.asarray(confidence, float), "accuracy": correct})
    means = data.astype(float).groupby(index).mean().reindex(range(bins))
    n = np.bincount(index, minlength=bins)
    return pd.DataFrame({"low": edges[:-1], "high": edges[1:], "n": n, **means})


def expected_calibration_error(table: pd.DataFrame) -> float:
    """Sum over bins of n / N * |accuracy - confidence| (Guo et al. 2017); takes ``reliability``."""
    gap = (table["accuracy"] - table["confidence"]).abs().fillna(0)
    return float(np.average(gap, weights=table["n"]))


def coverage_curve(confidence: np.ndarray, correct: np.ndarray) -> pd.DataFrame:
    """Answer only at ``confidence >= threshold``: threshold (falling), coverage, accuracy, errors.

    One row a distinct confidence, so images that tie are answered together. errors: wrong answers.
    """
    data = pd.DataFrame({"threshold": np.asarray(confidence, float), "right": correct})
    counts = data.astype(float).groupby("threshold")["right"].agg(["size", "sum"])[::-1].cumsum()
    return pd.DataFrame(
        {
            "threshold": counts.index,
            "coverage": (counts["size"] / len(data)).to_numpy(),
            "accuracy": (counts["sum"] / counts["size"]).to_numpy(),
            "errors": (counts["size"] - counts["sum"]).to_numpy(int),
        }
    )


def confused_pairs(result: pd.DataFrame, n: int = 10) -> pd.DataFrame:
    """The n commonest mistakes: actual, predicted, n, filenames (a list); ties in label order."""
    wrong = result[~is_correct(result)].groupby(["actual", "predicted"])["filename"]
    pairs = wrong.agg(n="size", filenames=list).reset_index()
    return pairs.sort_values("n", ascending=False, kind="stable", ignore_index=True).head(n)


def class_table(result: pd.DataFrame, classes: Sequence[str]) -> pd.DataFrame:
    """Per class: n, correct, recall, precision, f1, confidence (mean), taken_for ("07 (2), 33").

    Labels that only the test has come last. NaN where a ratio has no denominator: recall and
    confidence of a class without test strips, precision of one that is never predicted.
    """
    labels = [*classes, *sorted(set(result["actual"]) - set(classes))]
    right = pd.Series(is_correct(result), index=result.index).groupby(result["actual"]).sum()
    precision, recall, f1, n = precision_recall_fscore_support(
        result["actual"], result["predicted"], labels=labels, zero_division=np.nan
    )
    taken = {label: [] for label in labels}
    for actual, predicted, times, _ in confused_pairs(result, len(result)).itertuples(index=False):
        taken[actual].append(f"{predicted} ({times})" if times > 1 else predicted)
    table = {"class": labels, "n": n, "recall": recall, "precision": precision, "f1": f1}
    table = pd.DataFrame(table).set_index("class")
    table.insert(1, "correct", right.reindex(labels, fill_value=0))
    table["confidence"] = result.groupby("actual")["confidence"].mean().reindex(labels)
    table["taken_for"] = [", ".join(taken[label]) for label in labels]
    return table


def compare(result_a: pd.DataFrame, result_b: pd.DataFrame, seed: int = 1) -> dict[str, float]:
    """Is b better than a on the same images? Paired by file name; difference is b - a, 95 % ends.

    only_a, only_b: images right in that one alone. mcnemar_p: McNemar's exact test of those two
    counts, which takes images for independent. sign_flip_p: exact as well, but flips the signs of
    whole classes, so it allows for strips of one class failing together. Both are two-sided.
    """
    a, b = (table.set_index("filename").sort_index() for table in (result_a, result_b))
    if not a.index.equals(b.index) or not a.index.is_unique or (a["actual"] != b["actual"]).any():
        raise Problem("the two results are not of the same images: keep the rows both have, once")
    right_a, right_b = is_correct(a.reset_index()), is_correct(b.reset_index())
    only_a, only_b = int((right_a & ~right_b).sum()), int((right_b & ~right_a).sum())
    gain = right_b.astype(int) - right_a  # (n,) -1, 0 or 1
    gains = np.abs(pd.Series(gain).groupby(a["actual"].to_numpy()).sum())  # of each class
    chance = np.ones(1)  # chance[k]: of a sum of k - reach, if each class's sign were a coin's
    for step in gains[gains > 0]:
        chance = np.convolve(chance, np.r_[0.5, np.zeros(2 * step - 1), 0.5])
    reach = len(chance) // 2
    sums = np.abs(np.arange(len(chance)) - reach)
    low, high = (2 * end - 1 for end in accuracy_interval((gain + 1) / 2, a["actual"], seed))
    return {
        "n": len(a),
        "n_classes": len(gains),
        "accuracy_a": float(right_a.mean()),
        "accuracy_b": float(right_b.mean()),
        "difference": float(right_b.mean() - right_a.mean()),
        "difference_low": low,
        "difference_high": high,
        "only_a": only_a,
        "only_b": only_b,
        "mcnemar_p": float(mcnemar([[0, only_a], [only_b, 0]], exact=True).pvalue),
        "sign_flip_p": float(min(1.0, chance[sums >= abs(gain.sum())].sum())),
    }
