"""Results: what the patches of an image say together, and the table of what was said.

In: logits, or probabilities with names. Out: probabilities, and rows for result.csv. It needs NumPy
alone, so that a label costs no time to import more.
"""

import csv
import math
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from digitlib import Problem, whole_file

NUMBERS = ("confidence", "n_strips", "n_patches", "seconds")  # result.csv's other columns are text
# A spreadsheet runs a cell that begins like this as a formula (CWE-1236; the wide forms too), and
# file names come from strangers. The apostrophe is in the list so that the mark can be taken off.
FORMULA = r"^(?:\s*[=+\-@\uff0b\uff0d\uff1d\uff20]|[\t\r\n'])"


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities of (…, classes) logits."""
    exponent = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return exponent / exponent.sum(axis=-1, keepdims=True)


def combine(logits: np.ndarray, how: str = "probabilities") -> np.ndarray:
    """(n_strips, n_patches, classes) logits -> (classes,) float, which sum to 1.

    Over the patches of a strip: the mean of their probabilities (the original's), the probabilities
    of their mean logit, or each class's share of votes. Then the mean over strips.
    """
    if how == "probabilities":
        per_strip = softmax(logits).mean(axis=1)
    elif how == "logits":
        per_strip = softmax(logits.mean(axis=1))
    elif how == "vote":
        winners = logits.argmax(axis=-1)
        votes = winners[..., None] == np.arange(logits.shape[-1])
        per_strip = votes.mean(axis=1, dtype=np.float32)  # as they are saved: ties stay ties
    else:
        raise Problem(f"COMBINE must be probabilities, logits or vote, not {how!r}")
    return per_strip.mean(axis=0)


def result_rows(
    filenames: Sequence[str],
    actual: Sequence[str],
    probabilities: np.ndarray,
    classes: Sequence[str],
    **columns: Sequence,
) -> list[dict]:
    """One row an image: filename, actual, predicted, confidence, ``columns`` (n_strips …), top5.

    ``probabilities``: (n_images, n_classes), rows in the order of ``filenames``. Of equally likely
    classes the first in ``classes`` is predicted. ``actual`` may be "" (not known) or a label that
    is not in ``classes`` (never right, but counted). top5: labels, likeliest first, with blanks.
    Raises Problem for no images, for lengths that disagree, and for what are not probabilities.
    """
    table = np.asarray(probabilities, dtype=float)
    if not len(filenames):
        raise Problem("no images to evaluate: give at least one test image")
    if len(actual) != len(filenames) or table.shape != (len(filenames), len(classes)):
        raise Problem(
            f"{len(filenames)} file names, {len(actual)} labels, {len(classes)} classes do not fit"
            f" probabilities of shape {table.shape}: pass a row an image, a column a class"
        )
    # 1 %: room for float16, and for a sum over many classes. NaN fails both comparisons.
    sound = (table >= 0).all(axis=1) & (np.abs(table.sum(axis=1) - 1) <= 0.01)
    if not sound.all():
        raise Problem(
            f"{filenames[int(np.argmin(sound))]}: its probabilities are not from 0 to 1 with sum 1;"
            " if training diverged (NaN), lower the learning rate and train again"
        )
    order = np.argsort(-table, axis=1, kind="stable")[:, :5]
    names = np.asarray(classes, dtype=object)
    rows = {
        "filename": filenames,
        "actual": actual,
        "predicted": names[order[:, 0]],
        "confidence": np.minimum(table.max(axis=1), 1).tolist(),
        **columns,
        "top5": [" ".join(row) for row in names[order]],
    }
    return [dict(zip(rows, row, strict=True)) for row in zip(*rows.values(), strict=True)]


def write_rows(rows: Sequence[dict], path: Path) -> None:
    """Write `result_rows`, or others, as UTF-8 CSV, whole or not at all.

    ``filename,actual,predicted`` are the first columns, where there are such.

    Text that a spreadsheet would run as a formula gets one apostrophe in front (as OWASP advises);
    `evaluate.read_result_csv` takes it off again, so rows survive the round trip exactly, and
    ordinary names are written as they are. Numbers keep 9 digits, all that a float32 has; a NaN is
    an empty cell.
    """
    first = [name for name in ("filename", "actual", "predicted") if name in rows[0]]
    names = first + [name for name in rows[0] if name not in first]
    table = [[_cell(row[name]) for name in names] for row in rows]
    # A lone CR (before Python 3.13), and what other countries' spreadsheets separate cells by.
    bare = any(mark in cell for row in table for cell in row for mark in "\r;\t")
    quoting = csv.QUOTE_ALL if bare else csv.QUOTE_MINIMAL
    how = {"encoding": "utf-8", "errors": "surrogateescape"}  # a file name need not be valid UTF-8
    with whole_file(path) as aside, aside.open("w", newline="", **how) as file:
        writer = csv.writer(file, quoting=quoting, lineterminator=os.linesep)
        writer.writerows([names, *table])


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.9g}"
    if not isinstance(value, str):
        return str(value)
    return "'" + value if re.match(FORMULA, value) else value
