"""Pictures: the figures of the notebooks, all in one style.

In: result tables, curves and images as the other modules return them. Out: matplotlib Figures.
"""

import functools
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator, PercentFormatter

from digitlib.evaluate import is_correct, wilson_interval
from digitlib.predict import ensemble_of
from digitlib.results import softmax
from digitlib.settings import Settings

WIDTH = 9.0  # inches; with the dpi below 765 px: a notebook's column
MISREAD = (260, 640)  # px, height and width of what is shown of a misread strip
# Okabe and Ito's palette, which colour-blind readers can tell apart: blue is right, orange wrong.
RIGHT, WRONG, NEUTRAL, ACCENT = "#0072B2", "#D55E00", "#8A8A8A", "#009E73"
STYLE = {
    "figure.dpi": 85,  # keeps a PNG in a notebook near 30 kB
    "figure.facecolor": "white",  # also on a dark page
    "figure.figsize": (WIDTH, 3.6),
    "figure.constrained_layout.use": True,
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.prop_cycle": plt.cycler(color=[RIGHT, WRONG, ACCENT, "#CC79A7", "#E69F00", "#56B4E9"]),
    "grid.color": "#E6E6E6",
    "legend.frameon": False,
    "image.cmap": "gray",
    "text.parse_math": False,  # a file or class may have $ in its name
}


def figure(draw: Callable[..., Figure]) -> Callable[..., Figure]:
    """Decorate a function that returns a Figure: drawn in STYLE, shown once as a cell's value."""

    @functools.wraps(draw)
    def drawn(*args, **kwargs) -> Figure:
        with plt.rc_context(STYLE):
            fig = draw(*args, **kwargs)
        plt.close(fig)  # left open, the notebook would show it a second time
        return fig

    return drawn


def shorten(label: str, length: int = 14) -> str:
    """The label, cut with an ellipsis where it would not fit an axis."""
    return label if len(label) <= length else label[: length - 1] + "…"


def _cells(axis: Axes, result: pd.DataFrame, labels: Sequence[str]) -> None:
    """A field for each pair of ``labels`` that ``result`` has, the darker the more of its row."""
    k, diagonal = len(labels), np.eye(len(labels), dtype=bool)
    counts = pd.crosstab(result["actual"], result["predicted"])
    counts = counts.reindex(index=labels, columns=labels, fill_value=0).to_numpy()
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    # Only a part of each palette: the palest is no longer white, and blue stays behind orange.
    blue, orange = sns.light_palette(RIGHT, 100)[20:70], sns.light_palette(WRONG, 100)[45:]
    for shades, hidden in [(blue, ~diagonal), (orange, diagonal)]:
        sns.heatmap(
            share,
            mask=hidden | (counts == 0),
            annot=counts if k <= 25 else False,
            fmt="d",
            cmap=ListedColormap(shades),
            vmin=0,
            vmax=1,
            cbar=False,
            square=True,
            ax=axis,
        )


@figure
def confusion_matrix(result: pd.DataFrame, classes: Sequence[str]) -> Figure:
    """Rows: the true class, columns: the predicted one, darker for a larger share of the row.

    Right is blue, wrong is orange, none is blank. Labels that only the test has come last. Few
    classes have their counts written in; with many, errors are dots of a size that can be seen.
    """
    labels = [*classes, *sorted(set(result["actual"]) - set(classes))]
    k = len(labels)
    side = min(WIDTH, 4.2 + 0.25 * k)
    fig, axis = plt.subplots(figsize=(side, side))
    if k > 200:  # a cell would be a pixel or three wide, and they are too many to be drawn
        place = {label: i + 0.5 for i, label in enumerate(labels)}
        across, down = (result[c].map(place) for c in ("predicted", "actual"))
        is_right = is_correct(result)
        for size, colour, those in (3, RIGHT, is_right), (9, WRONG, ~is_right):
            axis.scatter(across[those], down[those], s=size, color=colour, linewidths=0)
        axis.set(xlim=(0, k), ylim=(k, 0), aspect="equal")
        axis.grid(False)
    else:
        _cells(axis, result, labels)
    every = next(e for e in (1, 2, 5, 10, 20, 50, 100, 200, 500, k) if k / e <= 40)
    ticks, names = np.arange(0, k, every) + 0.5, [shorten(label) for label in labels[::every]]
    size, narrow = min(10, 430 * every / k), k <= 25 and max(map(len, labels)) <= 3
    axis.set_xticks(ticks, names, rotation=0 if narrow else 90, fontsize=size)
    axis.set_yticks(ticks, names, rotation=0, fontsize=size)
    right = int(is_correct(result).sum())
    axis.set(
        xlabel="predicted class",
        ylabel="true class",
        title=f"{right} of {len(result)} images right (blue), {len(result) - right} wrong (orange)",
    )
    return fig


@figure
def reliability_diagram(table: pd.DataFrame, ece: float) -> Figure:
    """Accuracy against confidence, by the bins of ``reliability``, and how full they are."""
    fig, (top, bottom) = plt.subplots(
        2, 1, sharex=True, figsize=(0.6 * WIDTH, 5), height_ratios=[3, 1]
    )
    full = table[table["n"] > 0]
    low, high = wilson_interval((full["accuracy"] * full["n"]).round(), full["n"])
    spread = np.abs([full["accuracy"] - low, high - full["accuracy"]])
    top.plot([0, 1], [0, 1], "--", color=NEUTRAL, label="perfectly calibrated")
    top.errorbar(
        full["confidence"], full["accuracy"], yerr=spread, fmt="o-", label="bin, with 95% interval"
    )
    top.set(ylim=(-0.02, 1.02), ylabel="accuracy", title=f"Expected calibration error {ece:.1%}")
    top.legend(loc="best")
    bottom.bar(table["low"], table["n"], width=table["high"] - table["low"], align="edge", ec="w")
    bottom.set(xlim=(-0.02, 1.02), xlabel="confidence (mean of the bin)", ylabel="images")
    bottom.yaxis.set_major_locator(MaxNLocator(3, integer=True))
    for axis in (top.xaxis, top.yaxis):
        axis.set_major_formatter(PercentFormatter(1, decimals=0))
    return fig


@figure
def coverage_plot(curve: pd.DataFrame, threshold: float) -> Figure:
    """Accuracy among the answered images against their share; a dot at ``threshold``."""
    fig, axis = plt.subplots(figsize=(0.8 * WIDTH, 3.8))
    axis.plot(curve["coverage"], curve["accuracy"], drawstyle="steps-post")
    all_of_them = curve[["coverage", "accuracy"]].iloc[-1]
    axis.plot(*all_of_them, "o", color=RIGHT, label="all answered")
    title = f"No image has a confidence of {threshold:g} or more: none is answered"
    if len(answered := curve[curve["threshold"] >= threshold]):
        at = answered.iloc[-1]
        axis.plot(
            at["coverage"], at["accuracy"], "o", color=WRONG, markersize=9, label="the threshold"
        )
        title = (
            f"Answered at a confidence of {threshold:g} or more: {at['coverage']:.0%} of images\n"
            f"{at['accuracy']:.1%} of them right, {at['errors']:.0f} wrong"
        )
    axis.set(xlim=(0, 1.02), xlabel="answered (share of the images)", title=title)
    axis.set(ylim=(min(0.9, curve["accuracy"].min()) - 0.02, 1.01), ylabel="right among them")
    axis.legend(loc="lower left")
    for side in (axis.xaxis, axis.yaxis):
        side.set_major_formatter(PercentFormatter(1, decimals=0))
    return fig


def plain(axis: Axes, image: np.ndarray, title: str = "", **how) -> None:
    """An image without ticks or grid, in a thin frame."""
    axis.imshow(image, **{"vmin": 0, "vmax": 255} | how)
    axis.set(xticks=[], yticks=[])
    axis.spines[:].set(visible=True, color="#CCCCCC")
    axis.set_title(title, fontsize=9)


def nothing(text: str) -> Figure:
    """A figure that says in ``text`` why there is none."""
    fig, axis = plt.subplots(figsize=(WIDTH, 0.6))
    axis.text(0, 0.5, text, va="center")
    axis.axis("off")
    return fig


def _show_piece(axis: Axes, image: np.ndarray | None, title: str) -> None:
    """Show the middle of an image, MISREAD px of it, on white where it is smaller."""
    piece = np.full(MISREAD, 255, np.uint8)
    if image is not None:
        top, left = (
            max(0, (have - want) // 2) for have, want in zip(image.shape, MISREAD, strict=True)
        )
        part = image[top : top + MISREAD[0], left : left + MISREAD[1]]
        piece[: part.shape[0], : part.shape[1]] = part
    plain(axis, piece, title)


@figure
def confused_pairs_figure(
    pairs: pd.DataFrame, images: dict[str, np.ndarray], train: dict[str, np.ndarray]
) -> Figure:
    """A row a pair: the misread strip, then the pages of its class and of the one it is taken for.

    ``images``: file name -> strip, ``train``: label -> page or a piece of it, (h, w) uint8; what
    is missing stays blank. All are shown at one scale, the middle of each.
    """
    if pairs.empty:
        return nothing("No image is misread.")
    height = len(pairs) * (WIDTH / 3 * MISREAD[0] / MISREAD[1] + 0.3)
    fig, axes = plt.subplots(len(pairs), 3, figsize=(WIDTH, height), squeeze=False)
    for row, pair in zip(axes, pairs.itertuples(index=False), strict=True):
        times = f", one of {pair.n} such" if pair.n > 1 else ""
        captions = [
            f"misread: {shorten(pair.filenames[0], 20)}{times}",
            f"page of its class, {shorten(pair.actual)}",
            f"page of {shorten(pair.predicted)}, the prediction",
        ]
        pieces = images.get(pair.filenames[0]), train.get(pair.actual), train.get(pair.predicted)
        for axis, piece, caption in zip(row, pieces, captions, strict=True):
            _show_piece(axis, piece, caption)
    return fig


@figure
def training_curves(history: pd.DataFrame) -> Figure:
    """Loss and accuracy against the epoch, and where the second phase is."""
    fig, axes = plt.subplots(1, 2)
    epoch = np.arange(1, len(history) + 1)
    # The phases' losses differ in smoothing: a line each, not one.
    parts = history.groupby("phase", sort=False).indices
    for axis, name in zip(axes, ("loss", "accuracy"), strict=True):
        for label, column, colour in (
            ("training", name, NEUTRAL),
            ("validation", f"val_{name}", RIGHT),
        ):
            for i, part in enumerate(parts.values()):
                legend = None if i else label
                axis.plot(epoch[part], history[column][part], ".-", color=colour, label=legend)
        if len(parts) > 1:
            tuned = parts[2]
            band = tuned[0] + 0.5, tuned[-1] + 1.5
            axis.axvspan(*band, color=ACCENT, alpha=0.15, lw=0, label="fine-tuning")
        axis.set(xlabel="epoch", title=f"{name} of single patches")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes[0].set(ylim=(0, None), ylabel="cross-entropy")
    axes[1].set(ylim=(0, 1), ylabel="share of patches labelled right")
    axes[1].yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes[1].legend(loc="lower right")
    return fig


@figure
def patch_count_curve(curve: pd.DataFrame) -> Figure:
    """Accuracy against patches a strip, evenly spaced and random (from `accuracy_by_count`)."""
    fig, axis = plt.subplots(figsize=(0.8 * WIDTH, 3.8))
    even, random = (curve[curve["placement"] == name] for name in ("even", "random"))
    axis.fill_between(even["n"], even["low"], even["high"], color=RIGHT, alpha=0.12, lw=0)
    axis.plot(even["n"], even["accuracy"], "o-", color=RIGHT, label="evenly spaced")
    axis.plot(random["n"], random["accuracy"], "s--", color=WRONG, label="random")
    axis.set_xscale("log")
    ticks = [n for n in (1, 2, 3, 5, 8, 15, 35) if n < even["n"].max()] + [even["n"].max()]
    axis.set_xticks(ticks, ticks, minor=False)
    axis.xaxis.set_minor_locator(NullLocator())
    axis.yaxis.set_major_formatter(PercentFormatter(1))
    axis.set(
        xlabel="patches a strip",
        ylabel="images labelled right",
        title="More patches, up to a point",
    )
    axis.legend(loc="lower right")
    return fig


@figure
def vote_maps(
    pages: Sequence, ballots: Sequence, result: pd.DataFrame, classes: Sequence, settings: Settings
) -> Figure:
    """On three telling strips, a dot a patch: blue right, orange wrong, larger where surer."""
    right = (result["actual"] == result["predicted"]).to_numpy()
    sure = result["confidence"].to_numpy()
    chosen = {"most certain": int(sure.argmax())}
    if right.any():
        chosen["least certain, yet right"] = int(np.where(right, sure, np.inf).argmin())
    if not right.all():
        chosen["most certain of the wrong"] = int(np.where(right, -np.inf, sure).argmax())
    fig, axes = plt.subplots(len(chosen), 1, figsize=(WIDTH, 2.2 * len(chosen)), squeeze=False)
    for axis, (what, i) in zip(axes[:, 0], chosen.items(), strict=True):
        strip, centres = ensemble_of(pages[i], settings)[0]
        odds = softmax(ballots[i].logits[0])
        votes_right = np.array(classes)[odds.argmax(axis=1)] == pages[i].label
        row = result.iloc[i]
        title = (
            f"{what}: {shorten(row['filename'], 24)}, labelled {shorten(row['predicted'])} at "
            f"{row['confidence']:.0%}; {votes_right.sum()} of {len(votes_right)} patches right"
        )
        plain(axis, strip.image, title, vmin=-250)  # greyed, so that the dots stand out
        colours = np.where(votes_right, RIGHT, WRONG)
        axis.scatter(*centres.T, s=15 + 120 * odds.max(axis=1), c=colours, alpha=0.75, lw=0)
    return fig
