"""Evaluation against numbers worked by hand, in the ordinary and in the degenerate cases."""

import csv
import itertools
import json
import math
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from digitlib import Problem, pictures
from digitlib import evaluate as ev
from digitlib.results import result_rows

CLASSES = ["a", "b", "c"]
NEEDS_REFERENCE = pytest.mark.skipif(
    "DIGITLIB_REFERENCE" not in os.environ, reason="DIGITLIB_REFERENCE names no reference data"
)
# What a file system may hand over: any character but "/" and NUL, undecodable bytes as surrogates.
NAMES = st.text(
    st.characters(exclude_characters="/\0", exclude_categories=["Cs"])
    | st.sampled_from("=+-@'\"\t\r\n,;\udcff"),
    min_size=1,
)


def table(actual: str, predicted: str, confidence=None) -> pd.DataFrame:
    """A result with one-letter labels: ``table("ab", "aa")`` is two images, one wrong."""
    confidence = [0.5] * len(actual) if confidence is None else confidence
    names = [f"{label}_{i}.png" for i, label in enumerate(actual)]
    columns = {"filename": names, "actual": list(actual), "predicted": list(predicted)}
    return pd.DataFrame({**columns, "confidence": confidence})


def probabilities(predicted: str, classes=CLASSES, top=0.8) -> np.ndarray:
    """(n, classes): ``top`` for the predicted label, the rest shared equally."""
    rest = (1 - top) / max(len(classes) - 1, 1)
    return np.array([[top if c == p else rest for c in classes] for p in predicted])


def table_of(*of, **columns) -> pd.DataFrame:
    return pd.DataFrame(result_rows(*of, **columns))


# --- the result table -------------------------------------------------------------------------


def test_result_table_columns_and_values():
    given_ = [[0.1, 0.7, 0.2], [0.25, 0.25, 0.5]]
    got = table_of(["x.png", "y.png"], ["b", "z"], given_, CLASSES, n_patches=[35, 70])
    assert list(got) == ["filename", "actual", "predicted", "confidence", "n_patches", "top5"]
    assert got.iloc[0].tolist() == ["x.png", "b", "b", 0.7, 35, "b c a"]
    assert got.iloc[1].tolist() == ["y.png", "z", "c", 0.5, 70, "c a b"]  # a, b tie: class order


@pytest.mark.parametrize(
    ("row", "predicted", "confidence", "top5"),
    [
        ([0.5, 0.5, 0, 0, 0, 0], "a", 0.5, "a b c d e"),  # a tie: the first class
        ([1 / 6] * 6, "a", 1 / 6, "a b c d e"),  # all alike
        ([0, 0, 0, 0, 0, 1], "f", 1, "f a b c d"),  # certain
        ([0, 0, 0, 0, 0, 1.004], "f", 1, "f a b c d"),  # float16 rounding: confidence stays <= 1
    ],
)
def test_prediction_and_ties(row, predicted, confidence, top5):
    got = table_of(["x"], ["a"], [row], list("abcdef")).iloc[0]
    assert (got.predicted, got.confidence, got.top5) == (predicted, confidence, top5)


@pytest.mark.parametrize(
    ("names", "actual", "rows", "message"),
    [
        ([], [], np.empty((0, 3)), "no images"),  # empty
        (["x"], ["a"], [[np.nan, 0.5, 0.5]], "^x: .*NaN"),  # NaN
        (["w", "x"], ["a", "a"], [[1, 0, 0], [np.nan] * 3], "^x: "),  # names the culprit
        (["x"], ["a"], [[-0.2, 0.6, 0.6]], "0 to 1"),  # negative
        (["x"], ["a"], [[0.2, 2.8, -2.0]], "0 to 1"),  # logits
        (["x"], ["a"], [[0.2, 0.2, 0.2]], "sum 1"),  # not normalised
        (["x"], ["a"], [[0.5, 0.5]], "shape"),  # a class short
        (["x", "y"], ["a", "b"], [[1, 0, 0]], "shape"),  # a row short
        (["x"], ["a", "b"], [[1, 0, 0]], "2 labels"),  # a label too many
    ],
)
def test_result_table_refuses(names, actual, rows, message):
    with pytest.raises(Problem, match=message):
        table_of(names, actual, rows, CLASSES)


# --- result.csv -------------------------------------------------------------------------------


def test_result_csv_is_the_originals_format_first(tmp_path):
    path = tmp_path / "run" / "result.csv"
    rows = table_of(["01_1.png"], ["01"], [[0.75, 0.25]], ["01", "02"], seconds=[0.5])
    ev.write_result_csv(rows[["seconds", *rows.columns.drop("seconds")]], path)
    assert path.read_bytes() == (
        b"filename,actual,predicted,seconds,confidence,top5\n01_1.png,01,01,0.5,0.75,01 02\n"
    )
    assert [file.name for file in path.parent.iterdir()] == ["result.csv"]  # nothing left aside
    assert ev.read_result_csv(path).predicted.tolist() == ["01"]  # not 1


def test_other_tables_are_written_likewise(tmp_path):
    rows = [
        {"class": "=1+1", "n": 2, "recall": np.float64(0.5)},
        {"class": "b", "n": 1, "recall": 1.0},
        {"class": "c", "n": 0, "recall": np.nan},
    ]
    ev.write_rows(rows, tmp_path / "t.csv")
    with (tmp_path / "t.csv").open(encoding="utf-8", newline="") as file:
        found = list(csv.reader(file))
    assert found == [
        ["class", "n", "recall"],
        ["'=1+1", "2", "0.5"],
        ["b", "1", "1"],
        ["c", "0", ""],
    ]


@pytest.mark.parametrize(
    ("name", "cell"),
    [
        ("01_1.png", "01_1.png"),  # an ordinary name is written as it is
        ("=HYPERLINK(A1)_1.png", "'=HYPERLINK(A1)_1.png"),  # a formula
        ("+1_1.png", "'+1_1.png"),
        ("-1_1.png", "'-1_1.png"),
        ("@SUM(A1)_1.png", "'@SUM(A1)_1.png"),
        ("  =1_1.png", "'  =1_1.png"),  # some programs trim blanks
        ("\t=1_1.png", "'\t=1_1.png"),
        ("\uff1d1_1.png", "'\uff1d1_1.png"),  # full-width =, in East Asian locales
        ("'=1_1.png", "''=1_1.png"),  # its own apostrophe survives
        ("a=1_1.png", "a=1_1.png"),  # harmless inside
        ("a,b_1.png", "a,b_1.png"),  # quoting is the CSV writer's job
        ("a\rb\n_1.png", "a\rb\n_1.png"),  # line ends inside a name
    ],
)
def test_no_cell_is_a_formula(name, cell, tmp_path):
    label = name.split("_")[0]
    ev.write_result_csv(table_of([name], [label], [[1]], [label]), tmp_path / "r.csv")
    with open(tmp_path / "r.csv", newline="", encoding="utf-8") as file:
        row = next(csv.DictReader(file))
    assert row["filename"] == cell
    assert all(row[column] == cell.split("_")[0] for column in ["actual", "predicted", "top5"])
    assert ev.read_result_csv(tmp_path / "r.csv").filename.tolist() == [name]


@given(names=st.lists(NAMES, min_size=1, max_size=4), top=st.floats(0.5, 1, width=32))
def test_result_csv_round_trip(tmp_path_factory, names, top):
    path = tmp_path_factory.mktemp("csv") / "r.csv"
    rows = np.array([[top, 1 - top]] * len(names), np.float32)
    result = table_of(names, names, rows, ["NA", "="])
    ev.write_result_csv(result, path)
    back = ev.read_result_csv(path)
    assert np.array_equal(back.confidence.astype(np.float32), rows[:, 0])
    pd.testing.assert_frame_equal(back, result, check_dtype=False, rtol=1e-6)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "not a readable"),  # no such file
        (b"", "not a readable"),  # zero bytes
        (b"filename,actual\n1,2,3,4\n1,2\n3\n4,5,6,7,8,9", "not a readable"),  # ragged
        (b"name,label\nx,y\n", "no column actual, filename"),  # another table
        (b"filename,actual,predicted,confidence\nx,a,a,high\n", "not a readable"),  # not a number
        (b"filename,actual,predicted,confidence\nx,a,a,\n", "not .*a gap in confidence"),  # missing
    ],
)
def test_read_result_csv_refuses(content, message, tmp_path):
    if content is not None:
        (tmp_path / "r.csv").write_bytes(content)
    with pytest.raises(Problem, match=f"r.csv: {message}"):
        ev.read_result_csv(tmp_path / "r.csv")


# --- intervals --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n_correct", "n", "low", "high"),
    [
        # centre (p + z²/2n) / (1 + z²/n) = .8198, half z√(p(1-p)/n + z²/4n²) / (1 + z²/n) = .0622
        (116, 140, 0.7576, 0.8820),  # the original's 82.86 %
        (140, 140, 140 / (140 + 1.959964**2), 1),  # all right: low is n / (n + z²)
        (0, 140, 0, 1.959964**2 / (140 + 1.959964**2)),  # all wrong, its mirror image
        (1, 1, 1 / (1 + 1.959964**2), 1),  # one image
    ],
)
def test_wilson_interval(n_correct, n, low, high):
    assert ev.wilson_interval(n_correct, n) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize(
    ("correct", "groups", "expected"),
    [
        ([1, 1, 1, 1], "aabb", (0.3424, 1)),  # all right: Wilson, 2 / (2 + 1.96 ** 2)
        ([0, 0, 0, 0], "aabb", (0, 0.6576)),  # all wrong: the same from below
        ([1, 0], "aa", (0, 1)),  # one class: nothing known about others
        ([1, 1], "aa", (0, 1)),  # one class, all right: nor then
        ([1, 0], "ab", (0, 1)),  # two classes: both draws alike, 1/4 each way
        ([1, 0, 1, 0], "aabb", (0.5, 0.5)),  # every class half right: no spread between them
        ([1, 0, 0, 0], "abbb", (0, 1)),  # classes of unequal size: 0, 1/4 or 1
    ],
)
def test_accuracy_interval(correct, groups, expected):
    got = ev.accuracy_interval(np.array(correct, bool), list(groups), seed=1)
    assert got == pytest.approx(expected, abs=5e-5)


@pytest.mark.parametrize("right", [True, False])
def test_accuracy_interval_holds_the_accuracy_to_the_last_bit(right):
    for n in range(2, 100):  # Wilson's end for 7 of 7 is 1 less a rounding, for 20 of 20, too
        low, high = ev.accuracy_interval(np.full(n, right), list(range(n)), seed=1)
        assert (high if right else low) == right


def test_accuracy_interval_is_binomial_where_each_class_has_one_strip():
    """84 of 100 right, a strip a class: the ends are quantiles of Binomial(100, .84) / 100."""
    correct = np.arange(100) < 84
    low, high = ev.accuracy_interval(correct, [f"{i:03}" for i in range(100)], seed=1, n=200_000)
    assert (low, high) == tuple(binom.ppf([0.025, 0.975], 100, 0.84) / 100)


def test_accuracy_interval_by_plain_resampling():
    """Drawing kinds of classes is the same as drawing the classes themselves, one by one."""
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(20), rng.integers(1, 5, 20))
    correct = rng.random(len(groups)) < 0.7
    ends = []
    for _ in range(4000):
        rows = np.concatenate([np.flatnonzero(groups == c) for c in rng.integers(0, 20, 20)])
        ends.append(correct[rows].mean())
    expected = np.quantile(ends, [0.025, 0.975])
    assert ev.accuracy_interval(correct, groups, seed=1) == pytest.approx(expected, abs=0.02)


@given(st.lists(st.booleans(), min_size=4, max_size=40).filter(lambda x: 0 < sum(x) < len(x)))
def test_strips_that_fail_together_widen_the_interval(per_class):
    """Two strips a class, both right or both wrong: that is half as many independent trials."""
    correct = np.repeat(per_class, 2)
    by_class = ev.accuracy_interval(correct, np.repeat(np.arange(len(per_class)), 2), seed=1)
    by_strip = ev.accuracy_interval(correct, np.arange(len(correct)), seed=1)
    assert np.diff(by_class)[0] >= np.diff(by_strip)[0]


@given(st.data(), st.integers(0, 2**32))
def test_accuracy_interval_properties(data, seed):
    groups = data.draw(st.lists(st.sampled_from("abcdef"), min_size=1, max_size=20))
    correct = np.array(data.draw(st.lists(st.booleans(), min_size=len(groups))))[: len(groups)]
    low, high = ev.accuracy_interval(correct, groups, seed, n=500)
    assert 0 <= low <= high <= 1
    assert (low, high) == ev.accuracy_interval(correct, groups, seed, n=500)  # the seed decides
    order = np.random.default_rng(seed).permutation(len(groups))
    shuffled = ev.accuracy_interval(correct[order], np.array(groups)[order], seed, n=500)
    assert (low, high) == shuffled  # and the order of the rows does not


# --- scores -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("actual", "predicted", "n_correct", "macro_f1", "top5"),
    [
        ("aabb", "aabb", 4, 1, 1),  # all right; c occurs nowhere and does not count
        ("aabb", "bbaa", 0, 0, 1),  # all wrong
        ("aabb", "abbb", 3, (2 / 3 + 4 / 5) / 2, 1),  # a: P 1, R 1/2; b: P 2/3, R 1
        ("aabb", "acbb", 3, (2 / 3 + 0 + 1) / 3, 1),  # c is only predicted: its 0 counts
        ("az", "ab", 1, (1 + 0 + 0) / 3, 0.5),  # z is in no class: wrong, in top-5 as well
        ("abc", "abc", 3, 1, 1),  # one strip a class
        ("aa", "aa", 2, 1, 1),  # one class in the test
    ],
)
def test_scores(actual, predicted, n_correct, macro_f1, top5):
    got = ev.scores(table(actual, predicted), probabilities(predicted), CLASSES)
    n = len(actual)
    assert (got["n"], got["n_correct"], got["accuracy"]) == (n, n_correct, n_correct / n)
    assert (got["macro_f1"], got["top5"]) == pytest.approx((macro_f1, top5))
    assert (got["wilson_low"], got["wilson_high"]) == ev.wilson_interval(n_correct, n)
    assert got["accuracy_low"] <= got["accuracy"] <= got["accuracy_high"]
    assert list(json.loads(json.dumps(got, allow_nan=False))) == [
        *["n", "n_correct", "accuracy", "accuracy_low", "accuracy_high"],
        *["macro_f1", "wilson_low", "wilson_high", "top5"],
    ]


def test_top5_of_equally_likely_classes_is_five_of_them():
    classes = list("abcdefghij")
    rows = np.full((10, 10), 0.1)
    result = table_of(classes, classes, rows, classes)
    got = ev.scores(result, rows, classes)
    assert (got["accuracy"], got["top5"]) == (0.1, 0.5)


def test_a_classifier_with_one_class():
    rows = np.ones((2, 1))
    got = ev.scores(table_of(["x", "y"], ["a", "a"], rows, ["a"]), rows, ["a"])
    assert (got["accuracy"], got["accuracy_low"], got["macro_f1"], got["top5"]) == (1, 0, 1, 1)


@pytest.mark.parametrize(
    ("result", "rows", "message"),
    [
        (table("", ""), np.empty((0, 3)), "no images"),  # empty
        (table("ab", "ab").replace("b", ""), probabilities("ab"), "b_1.png: its label"),  # no label
        (table("ab", "ab"), probabilities("ba"), "not those of"),  # rows in another order
        (table("ab", "ab"), probabilities("aba"), "not those of"),  # a row too many
    ],
)
def test_scores_refuses(result, rows, message):
    with pytest.raises(Problem, match=message):
        ev.scores(result, rows, CLASSES)


# --- calibration and coverage -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("confidence", "correct", "n", "ece"),
    [
        ([0.9, 0.9, 0.1, 0.1], [1, 1, 0, 0], [2, 2], 0.1),  # gap .1 in either bin
        ([0.75] * 4, [1, 1, 1, 0], [0, 4], 0),  # all alike and calibrated; the other bin is empty
        ([1.0, 1.0], [1, 1], [0, 2], 0),  # certain and right: 1 belongs to the last bin
        ([1.0, 1.0], [0, 0], [0, 2], 1),  # certain and wrong
        ([0.5], [1], [0, 1], 0.5),  # one image, on the edge: the upper bin
        ([0.0, 0.6], [0, 0], [1, 1], 0.3),  # (0 + .6) / 2
    ],
)
def test_reliability(confidence, correct, n, ece):
    got = ev.reliability(np.array(confidence), np.array(correct, bool), bins=2)
    assert list(got) == ["low", "high", "n", "confidence", "accuracy"]
    assert (got.low.tolist(), got.high.tolist(), got.n.tolist()) == ([0, 0.5], [0.5, 1], n)
    assert got.accuracy.isna().tolist() == [count == 0 for count in n]
    assert ev.expected_calibration_error(got) == pytest.approx(ece)


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1), st.integers(1, 20))
def test_reliability_properties(rows, bins):
    confidence, correct = (np.array(column) for column in zip(*rows, strict=True))
    got = ev.reliability(confidence, correct, bins)
    assert len(got) == bins and got.n.sum() == len(rows)
    full = got[got.n > 0]
    assert (full.low <= full.confidence + 1e-12).all()
    assert (full.confidence <= full.high + 1e-12).all()
    assert np.average(full.accuracy, weights=full.n) == pytest.approx(correct.mean())
    # Triangle inequality: binning can only hide miscalibration.
    ece = ev.expected_calibration_error(got)
    assert abs(correct.mean() - confidence.mean()) - 1e-9 <= ece <= 1


def test_tenths_fall_in_the_bin_they_open():
    got = ev.reliability(np.arange(10) / 10, np.ones(10, bool))
    assert got.n.tolist() == [1] * 10


@pytest.mark.parametrize(
    ("confidence", "correct", "rows"),
    [
        (
            [0.9, 0.8, 0.7],
            [1, 0, 1],
            [(0.9, 1 / 3, 1, 0), (0.8, 2 / 3, 0.5, 1), (0.7, 1, 2 / 3, 1)],
        ),
        ([0.5, 0.5], [1, 0], [(0.5, 1, 0.5, 1)]),  # all equal: all or none
        ([0.5, 0.9, 0.5], [0, 1, 1], [(0.9, 1 / 3, 1, 0), (0.5, 1, 2 / 3, 1)]),  # a tie, together
        ([0.4], [0], [(0.4, 1, 0, 1)]),  # one image, wrong
    ],
)
def test_coverage_curve(confidence, correct, rows):
    got = ev.coverage_curve(np.array(confidence), np.array(correct, bool))
    expected = pd.DataFrame(rows, columns=["threshold", "coverage", "accuracy", "errors"])
    pd.testing.assert_frame_equal(got, expected, check_dtype=False)


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1))
def test_coverage_curve_ends_where_everything_is_answered(rows):
    confidence, correct = (np.array(column) for column in zip(*rows, strict=True))
    got = ev.coverage_curve(confidence, correct)
    assert got.threshold.is_monotonic_decreasing and got.coverage.is_monotonic_increasing
    assert got.iloc[-1].tolist()[1:] == pytest.approx([1, correct.mean(), (~correct).sum()])


# --- where it fails ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("actual", "predicted", "pairs"),
    [
        ("abc", "abc", []),  # all right
        ("aab", "bca", [("a", "b", 1), ("a", "c", 1), ("b", "a", 1)]),  # ties: label order
        ("bbab", "aabc", [("b", "a", 2), ("a", "b", 1)]),  # the commonest first, cut off at n = 2
        ("zz", "aa", [("z", "a", 2)]),  # a label in no class
    ],
)
def test_confused_pairs(actual, predicted, pairs):
    got = ev.confused_pairs(table(actual, predicted), n=max(len(pairs), 1))
    assert list(got) == ["actual", "predicted", "n", "filenames"]
    assert list(got[["actual", "predicted", "n"]].itertuples(index=False, name=None)) == pairs
    assert all(len(names) == n for n, names in zip(got.n, got.filenames, strict=True))


def test_class_table():
    got = ev.class_table(table("aaabz", "aabba", [0.9, 0.8, 0.4, 0.6, 0.2]), CLASSES)
    nan = math.nan
    expected = pd.DataFrame(
        [
            (3, 2, 2 / 3, 2 / 3, 2 / 3, 0.7, "b"),  # a
            (1, 1, 1, 1 / 2, 2 / 3, 0.6, ""),  # b
            (0, 0, nan, nan, nan, nan, ""),  # c: neither tested nor predicted
            (1, 0, 0, nan, 0, 0.2, "a"),  # z: tested, in no class
        ],
        columns=["n", "correct", "recall", "precision", "f1", "confidence", "taken_for"],
        index=pd.Index(["a", "b", "c", "z"], name="class"),
    )
    pd.testing.assert_frame_equal(got, expected, check_dtype=False)


def test_class_table_names_what_a_class_is_taken_for():
    assert ev.class_table(table("aaaa", "cbcb"), CLASSES).taken_for["a"] == "b (2), c (2)"


@given(st.lists(st.tuples(st.sampled_from("abcz"), st.sampled_from("abc")), min_size=1))
def test_the_tables_agree_with_the_scores(rows):
    actual, predicted = ("".join(column) for column in zip(*rows, strict=True))
    result = table(actual, predicted)
    classes, pairs = ev.class_table(result, CLASSES), ev.confused_pairs(result, 99)
    got = ev.scores(result, probabilities(predicted), CLASSES)
    assert classes.n.sum() == got["n"] and classes.correct.sum() == got["n_correct"]
    assert pairs.n.sum() == got["n"] - got["n_correct"]
    assert classes.f1.mean() == pytest.approx(got["macro_f1"])  # both over the classes that occur


# --- two results ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("actual", "a", "b", "mcnemar_p", "sign_flip_p"),
    [
        ("abc", "abc", "abc", 1, 1),  # no difference: nothing to flip
        ("abc", "bca", "bca", 1, 1),  # both all wrong
        ("abc", "bca", "abc", 2 / 8, 2 / 8),  # b alone right 3 times: two of eight coin runs
        ("aa", "bb", "aa", 2 / 4, 1),  # one class: its two strips are one trial
        ("aabb", "bbaa", "aabb", 2 / 16, 2 / 4),  # two classes of two
        ("abc", "bbc", "acc", 1, 1),  # one each way cancels out
        ("aabc", "bbbb", "aabc", 2 / 8, 2 / 4),  # gains 2, 0, 1: |±2±1| >= 3 in 2 of 4
        ("aab", "bbb", "aaa", 1, 1),  # gains 2 and -1: |±2±1| >= 1 always
    ],
)
def test_compare_by_hand(actual, a, b, mcnemar_p, sign_flip_p):
    got = ev.compare(table(actual, a), table(actual, b))
    assert (got["mcnemar_p"], got["sign_flip_p"]) == pytest.approx((mcnemar_p, sign_flip_p))


@given(st.lists(st.tuples(*[st.sampled_from(x) for x in ("abcdef", "ab", "ab")]), min_size=1))
def test_sign_flip_by_full_enumeration(rows):
    """The convolution gives what trying all signs gives. (Right where the letter is an "a".)"""
    classes = "".join(row[0] for row in rows)
    a, b = (
        table(classes, [c if row[k] == "a" else "?" for c, row in zip(classes, rows, strict=True)])
        for k in (1, 2)
    )
    got = ev.compare(a, b)
    gain = ev.is_correct(b).astype(int) - ev.is_correct(a)
    sums = [gain[np.array(list(classes)) == c].sum() for c in sorted(set(classes))]
    flips = [np.dot(signs, sums) for signs in itertools.product([-1, 1], repeat=len(sums))]
    assert got["sign_flip_p"] == pytest.approx(np.mean(np.abs(flips) >= abs(sum(sums))))
    assert got["difference"] == pytest.approx(got["accuracy_b"] - got["accuracy_a"])
    assert -1 <= got["difference_low"] <= got["difference_high"] <= 1
    back = ev.compare(b, a)  # the other way round: the same doubts, the opposite difference
    assert (back["mcnemar_p"], back["sign_flip_p"]) == (got["mcnemar_p"], got["sign_flip_p"])
    assert (back["only_a"], back["only_b"]) == (got["only_b"], got["only_a"])


@given(st.lists(st.sampled_from(["both", "a", "b", "none"]), min_size=1, max_size=60))
def test_with_one_strip_a_class_both_tests_are_the_binomial_test(outcomes):
    classes = [chr(0x4E00 + i) for i in range(len(outcomes))]
    a, b = (
        table(
            classes,
            [c if o in ("both", x) else "?" for c, o in zip(classes, outcomes, strict=True)],
        )
        for x in "ab"
    )
    got = ev.compare(a, b)
    n, k = got["only_a"] + got["only_b"], min(got["only_a"], got["only_b"])
    tail = sum(math.comb(n, i) for i in range(k + 1)) / 2**n
    assert got["mcnemar_p"] == pytest.approx(min(1, 2 * tail))
    assert got["sign_flip_p"] == pytest.approx(min(1, 2 * tail))


def test_compare_pairs_by_file_name_not_by_row():
    a, b = table("abc", "abb"), table("abc", "abc")
    assert ev.compare(a, b[::-1]) == ev.compare(a, b)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (table("abc", "abc"), table("ab", "ab")),  # a file less
        (table("ab", "ab"), table("ab", "ab").replace("b", "c")),  # another label
        (pd.concat([table("a", "a")] * 2), pd.concat([table("a", "a")] * 2)),  # a file twice
    ],
)
def test_compare_refuses(a, b):
    with pytest.raises(Problem, match="not of the same images"):
        ev.compare(a, b)


@NEEDS_REFERENCE
def test_published_systems_score_as_they_reported():
    path = Path(os.environ["DIGITLIB_REFERENCE"]) / "published_predictions.csv"
    published = ev.read_result_csv(path)
    systems = ["mobilenetv2_300px_patches", "scratch_cnn_line_crops", "scratch_cnn_character_crops"]
    results = [published.rename(columns={system: "predicted"}) for system in systems]
    assert [int(ev.is_correct(result).sum()) for result in results] == [59, 62, 65]
    got = ev.compare(results[0], results[2])
    assert (got["n"], got["n_classes"], got["only_b"] - got["only_a"]) == (70, 70, 6)
    assert got["sign_flip_p"] == pytest.approx(got["mcnemar_p"])  # one strip a class here


# --- the figures ------------------------------------------------------------------------------


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("actual", "predicted", "classes"),
    [
        ("a", "a", ["a"]),  # one image, one class
        ("abc", "abc", CLASSES),  # all right
        ("abc", "bca", CLASSES),  # all wrong
        ("az", "ab", CLASSES),  # a label in no class
        (["$_x$", "a"], ["a", "a"], ["$_x$", "a"]),  # no mathematics
        ("ab", "ac", [chr(97 + i) for i in range(26)]),  # too many for numbers in the cells
        ("ab", "ac", [*CLASSES, *map(str, range(200))]),  # too many for cells
    ],
)
def test_every_figure_can_be_drawn(actual, predicted, classes, tmp_path):
    result = table(actual, predicted)
    correct = ev.is_correct(result)
    bins, curve = (f(result.confidence, correct) for f in (ev.reliability, ev.coverage_curve))
    page = {label: np.zeros((400, 200), np.uint8) for label in actual}  # narrower than shown
    for figure in [
        pictures.confusion_matrix(result, classes),
        pictures.reliability_diagram(bins, ev.expected_calibration_error(bins)),
        pictures.coverage_plot(curve, 0.5),
        pictures.coverage_plot(curve, 0.6),  # above every confidence
        pictures.confused_pairs_figure(ev.confused_pairs(result), {}, page),
    ]:
        figure.savefig(tmp_path / "figure.png")
        assert not pictures.plt.get_fignums()  # closed: a notebook shows it once
