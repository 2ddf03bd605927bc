"""Pictures of runs: the figures and the table of the notebook that sets systems side by side.

In: the tables that `compare` makes, and test images. Out: matplotlib Figures, in `pictures`' style.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator, PercentFormatter

from digitlib.dataset import Page
from digitlib.pages import duration
from digitlib.pictures import NEUTRAL, RIGHT, STYLE, WIDTH, WRONG, figure, nothing, shorten
from digitlib.pictures_of_pages import fitted

STRIP = (84, 420)  # px, height and width that a missed image is fitted into


def as_read(scores: pd.DataFrame) -> pd.DataFrame:
    """`compare.score_table` in words: "59 of 70", "84.3%", "5 min 02 s"; blank: not known."""
    ends = zip(scores["accuracy_low"], scores["accuracy_high"], strict=True)
    times = scores["seconds_per_image"]
    columns = {
        "right": [f"{k} of {n}" for k, n in zip(scores["n_correct"], scores["n"], strict=True)],
        "accuracy": scores["accuracy"].map("{:.1%}".format),
        "95 % over classes": [f"{low:.1%} to {high:.1%}" for low, high in ends],
        "macro F1": scores["macro_f1"].map("{:.3f}".format),
        "training": [duration(t) for t in scores["training_seconds"]],
        "an image": [f"{1000 * t:.0f} ms" if pd.notna(t) else "" for t in times],
        "on": [shorten(d, 60) if isinstance(d, str) else "" for d in scores["device"]],
    }
    return pd.DataFrame(columns, index=[shorten(name, 44) for name in scores.index])


@figure
def differences(comparisons: pd.DataFrame, run: str) -> Figure:
    """A line a system: accuracy of ``run`` minus its accuracy, with the 95 % interval over classes.

    Blue: ``run`` is better, orange: worse; grey: by the test over classes that may be chance.
    """
    n = len(comparisons)
    if not n:
        return nothing(f"No other system has labelled these images: {run} stands alone.")
    fig, axis = plt.subplots(figsize=(WIDTH, 0.42 * n + 1.3))
    for y, row in enumerate(comparisons.to_dict("records")):
        low, high = row["difference_low"], row["difference_high"]
        colour = RIGHT if row["difference"] > 0 else WRONG
        colour = colour if row["sign_flip_p"] < 0.05 else NEUTRAL
        axis.plot([low, high], [y, y], color=colour, lw=2)
        axis.plot(row["difference"], y, "o", color=colour, ms=8)
        text = f"right alone: {row['only_run']}, the other alone: {row['only_other']}\n"
        text += f"p = {row['mcnemar_p']:.2g}, over classes {row['sign_flip_p']:.2g}"
        axis.text(1.02, y, text, transform=axis.get_yaxis_transform(), va="center", fontsize=9)
    axis.axvline(0, color="#444444", lw=1)
    axis.set_yticks(range(n), [shorten(str(name), 34) for name in comparisons.index])
    axis.set(ylim=(-0.6, n - 0.4), xlabel=f"accuracy of {shorten(run, 30)} minus the other's")
    axis.set_title("Right of 0 the run is better, left of it worse")
    axis.xaxis.set_major_formatter(PercentFormatter(1))
    return fig


@figure
def missed_images(missed: pd.DataFrame, pages: Mapping[str, Page], n: int = 10) -> Figure:
    """The first ``n`` images of `compare.missed`, and who labelled each how, a column a system.

    A blue dot: right; an orange field with the label: wrong. ``pages``: file name -> test image.
    """
    shown, dpi = missed.head(n), STYLE["figure.dpi"]
    columns = [shorten(name, 32) for name in shown.columns]
    (height, width), gap, caption = STRIP, 10, 18  # px
    head = 40 + 7 * max(map(len, columns))  # for the columns' names, upright
    pitch = min(60, (WIDTH * dpi - width - 20) / len(columns))
    sheet = np.full((head + len(shown) * (height + caption + gap), int(WIDTH * dpi)), 255.0)
    fig = plt.figure(figsize=(WIDTH, sheet.shape[0] / dpi), layout="none")
    axis = fig.add_axes((0, 0, 1, 1))  # a px for a px
    x = width + 20 + pitch * (np.arange(len(columns)) + 0.5)
    for place, name in zip(x, columns, strict=True):
        axis.text(place, head - 8, name, rotation=90, fontsize=10, ha="center", va="bottom")
    for i, (name, labels) in enumerate(shown.iterrows()):
        y, page = head + i * (height + caption + gap) + caption, pages[name]
        sheet[y : y + height, :width] = fitted(page.image, height, width)
        axis.text(0, y - 3, f"{shorten(name, 40)}: class {shorten(page.label, 20)}", fontsize=10)
        for place, label in zip(x, labels, strict=True):
            if label == page.label:
                axis.plot(place, y + height / 2, "o", color=RIGHT, ms=6)
                continue
            how = {"bbox": {"boxstyle": "round", "fc": WRONG, "ec": "none"}, "color": "white"}
            how["fontsize"] = min(10, pitch / 2.8)
            text = shorten(label, max(2, int(pitch // 9)))
            axis.text(place, y + height / 2, text, ha="center", va="center", **how)
    axis.imshow(np.rint(sheet / 17) * 17, vmin=0, vmax=255, interpolation="nearest", aspect="auto")
    axis.axis("off")
    title = f"Missed images: {len(shown)} of {len(missed)}, those that most systems miss first\n"
    title += "blue: right, orange: the wrong label given"
    axis.text(0, head - 12, title, va="bottom")
    return fig


def _accuracies(axis: Axes, x: Sequence[float], rows: pd.DataFrame, name: str) -> None:
    """A line with its 95 % intervals."""
    spread = [rows["accuracy"] - rows["accuracy_low"], rows["accuracy_high"] - rows["accuracy"]]
    axis.errorbar(x, rows["accuracy"], spread, fmt="o-", capsize=3, label=shorten(name, 30))


def _in_percent(axis: Axes) -> None:
    """Accuracies up to 100 %; after the last line, for it fixes what the axis shows."""
    low = max(axis.get_ylim()[0], -0.02)
    axis.set_ylim(low, 1.02)
    axis.set_yticks([share for share in axis.get_yticks() if low <= share < 1.001])  # 1 is rounded
    axis.yaxis.set_major_formatter(PercentFormatter(1))


@figure
def accuracy_by_text(table: pd.DataFrame) -> Figure:
    """Accuracy against the share of a test image that is read, a line a system, 95 % intervals."""
    fig, axis = plt.subplots(figsize=(0.8 * WIDTH, 3.8))
    parts = sorted(table["parts"].unique(), reverse=True)
    for i, (name, rows) in enumerate(
        table.sort_values("parts", kind="stable").groupby("system", sort=False)
    ):
        _accuracies(axis, [parts.index(n) + 0.04 * i for n in rows["parts"]], rows, name)
    _in_percent(axis)
    axis.set_xticks(range(len(parts)), ["all of it" if n == 1 else f"1/{n}" for n in parts])
    axis.set(xlabel="part of a test image that is read", ylabel="labelled right")
    axis.set_title("Accuracy by the amount of text (bars: 95 % over classes)")
    fig.legend(loc="outside lower center", ncols=3)
    return fig


@figure
def accuracy_by_training_text(table: pd.DataFrame) -> Figure:
    """Accuracy against the share of each page that was learnt from, a line a recipe, 95 %."""
    fig, axis = plt.subplots(figsize=(0.8 * WIDTH, 3.8))
    for i, (recipe, rows) in enumerate(table.groupby("recipe", sort=False)):
        _accuracies(axis, rows["text"] * (1 + 0.02 * i), rows, recipe)  # beside each other
    _in_percent(axis)
    shares = sorted(table["text"].unique())
    axis.set_xscale("log")
    axis.set_xticks(shares, [f"{share:.0%}" for share in shares])
    axis.xaxis.set_minor_locator(NullLocator())
    axis.set(xlabel="part of each page that was learnt from", ylabel="test images labelled right")
    axis.set_title("Accuracy by the amount of text in training (bars: 95 % over classes)")
    fig.legend(loc="outside lower center", ncols=3)
    return fig


@figure
def cost_of_labels(table: pd.DataFrame) -> Figure:
    """A bar a procedure: milliseconds a label (log), and how many times as fast as the first.

    Its black line leaves out one image of ten on either side.
    """
    fig, axis = plt.subplots(figsize=(WIDTH, 0.42 * len(table) + 1.2))
    places = range(len(table))
    axis.barh(places, table["ms"], color=[NEUTRAL] + [RIGHT] * (len(table) - 1))
    for y, row in enumerate(table.itertuples()):
        times = "" if y == 0 else f", {row.times:.0f} times as fast"
        axis.plot([row.ms_10, row.ms_90], [y, y], color="black", linewidth=1.5)
        end = max(row.ms, row.ms_90)
        axis.text(end * 1.1, y, f"{row.ms:.1f} ms{times}", va="center", fontsize=9)
    axis.set_yticks(places, [shorten(name, 36) for name in table["name"]])
    axis.invert_yaxis()
    axis.set(xscale="log", xlim=(table["ms"].min() / 3, table["ms"].max() * 6))
    axis.set(xlabel="ms from image file to label (log scale)", title="What a label costs")
    return fig


@figure
def cost_of_classes(table: pd.DataFrame) -> Figure:
    """Training time a class, time a label and peak memory against the number of classes (log)."""
    fig, axes = plt.subplots(1, 3, figsize=(WIDTH, 3.2))
    columns = {
        "seconds_a_class": "training, s a class",
        "ms": "a label, ms",
        "peak_mb": "peak memory, MB",
    }
    for axis, (column, name) in zip(axes, columns.items(), strict=True):
        axis.plot(table["classes"], table[column], "o-")
        axis.set_xscale("log")
        axis.set_xticks(table["classes"], [f"{n:,}" for n in table["classes"]])
        axis.xaxis.set_minor_locator(NullLocator())
        axis.set(xlabel="classes (log scale)", title=name, ylim=(0, 1.3 * table[column].max()))
    return fig
