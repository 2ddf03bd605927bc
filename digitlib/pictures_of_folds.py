"""Pictures of folds: what is held out of a page, what is made of it, and how well it is labelled.

In: pages, bands and the tables of `folds`. Out: matplotlib Figures, in the style of `pictures`.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from digitlib.dataset import Page
from digitlib.pictures import ACCENT, NEUTRAL, RIGHT, WIDTH, WRONG, figure, nothing, plain, shorten
from digitlib.variants import CONTROLS

LEAST_DOUBT = 1e-6  # 1 - confidence, that is told from less
CORNER = (110, 640)  # px, height and width of what is shown of a band


@figure
def bands_of_page(page: Page, bands: Sequence[tuple[int, int]]) -> Figure:
    """The page with its bands (top, bottom) px in colour, each with the number of its fold."""
    height, width = page.image.shape
    fig, axis = plt.subplots(figsize=(0.8 * WIDTH, 0.8 * WIDTH * height / width))
    axis.imshow(page.image, vmin=-100, vmax=255)
    for fold, (top, bottom) in enumerate(bands):
        axis.axhspan(top, bottom, color=ACCENT, alpha=0.18, lw=0)
        axis.hlines([top, bottom], 0, width, color=ACCENT, lw=1)
        axis.text(width + 12, (top + bottom) / 2, f"fold {fold}", va="center", color=ACCENT)
    axis.set(xticks=[], yticks=[], xlim=(0, width), ylim=(height, 0))
    axis.set_title(f"{shorten(page.path.name, 40)}: a fold holds one band out, the rest trains")
    axis.spines[:].set(visible=True, color="#CCCCCC")
    return fig


@figure
def variants_of_band(images: Mapping[str, np.ndarray]) -> Figure:
    """The top left corner of each image (h, w) uint8, two in a row, under their names."""
    if not images:
        return nothing("No band is held out.")
    rows = -(-len(images) // 2)
    height = rows * (WIDTH / 2 * CORNER[0] / CORNER[1] + 0.3)
    fig, axes = plt.subplots(rows, 2, figsize=(WIDTH, height), squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for axis, (name, image) in zip(axes.flat, images.items(), strict=False):
        axis.axis("on")
        plain(axis, image[: CORNER[0], : CORNER[1]], name)
    return fig


@figure
def accuracy_by_variant(table: pd.DataFrame) -> Figure:
    """Accuracy and 95 % interval of each row of `folds.summary`: whole bands and parts of them.

    Without the controls, beside which nothing else could be told apart.
    """
    table = table[~table["variant"].isin(CONTROLS)]
    if table.empty:
        return nothing("No band is held out.")
    names = list(dict.fromkeys(table["variant"]))
    fig, axis = plt.subplots(figsize=(0.8 * WIDTH, 0.7 + 0.42 * len(names)))
    looks = ("whole", RIGHT, -0.2), ("third", WRONG, 0), ("sixth", ACCENT, 0.2)
    for part, colour, shift in looks:
        rows = table[table["part"] == part]
        if len(rows):
            spread = [rows["accuracy"] - rows["low"], rows["high"] - rows["accuracy"]]
            place = rows["variant"].map(names.index) + shift
            label = "whole band" if part == "whole" else f"a {part} of it"
            axis.errorbar(
                rows["accuracy"], place, xerr=np.maximum(spread, 0), fmt="o", color=colour,
                label=label,
            )  # fmt: skip
    axis.set_yticks(range(len(names)), names)
    span = 1 - max(0.0, table["low"].min() - 0.02)
    axis.set(xlim=(1 - span, 1 + span / 50), ylim=(len(names) - 0.5, -0.5))
    axis.set_xlabel("images labelled right (95 %, over classes)")
    axis.xaxis.set_major_formatter(PercentFormatter(1))
    axis.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return fig


@figure
def sure_figure(answers: Mapping[str, pd.DataFrame], threshold: float) -> Figure:
    """How many answers are at least so sure: a curve each of the result tables ``answers``.

    Towards 1 the scale of confidence is stretched. A cross is a wrong answer; no answer of the last
    table, about strangers, is right, so it has none. The dashed line is ``threshold``.
    """
    known = {name: table for name, table in answers.items() if len(table)}
    if not known:
        return nothing("No band is held out.")
    fig, axis = plt.subplots(figsize=(0.8 * WIDTH, 3.8))
    sure = {name: (table["confidence"] >= threshold).mean() for name, table in known.items()}
    of = ", ".join(f"{share:.0%} of {name}" for name, share in sure.items())
    axis.set_title(f"Sure from {threshold:.9g}: {of}" if threshold <= 1 else "No threshold is safe")
    for name, colour in zip(answers, (RIGHT, ACCENT, WRONG), strict=True):
        if name in known:
            table = known[name].sort_values("confidence", ascending=False)
            doubt = np.maximum(1 - table["confidence"].to_numpy(float), LEAST_DOUBT)
            share = np.arange(1, len(table) + 1) / len(table)
            axis.step(doubt, share, where="post", color=colour, label=name)
            if name != list(answers)[-1]:
                wrong = (table["actual"] != table["predicted"]).to_numpy(bool)
                axis.plot(doubt[wrong], share[wrong], "x", color=colour)
    axis.plot([], [], "x", color=NEUTRAL, label="wrong answer")
    if threshold <= 1:
        axis.axvline(max(1 - threshold, LEAST_DOUBT), ls="--", color=NEUTRAL, label="threshold")
    surest = max(table["confidence"].max() for table in known.values())
    end = max(1, np.ceil(-np.log10(max(1 - surest, LEAST_DOUBT))))
    decades = [10.0**-k for k in range(1, round(end) + 1)]
    labels = [f"{1 - doubt:.{k}f}" for k, doubt in enumerate(decades, 1)]
    axis.set_xscale("log")
    axis.set_xticks([0.5, *decades], ["0.5", *labels])
    axis.minorticks_off()
    axis.set(xlim=(1, 10.0**-end), xlabel="confidence")
    axis.set(ylim=(-0.02, 1.02), ylabel="share at least as sure")
    axis.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axis.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return fig


@figure
def ablation_figure(table: pd.DataFrame) -> Figure:
    """Each change's difference in accuracy, with its 95 % interval, the costliest first; left of 0
    it costs."""
    changed = table.iloc[1:].sort_values("difference")
    if changed.empty:
        return nothing("ABLATIONS names no change.")
    fig, axis = plt.subplots(figsize=(0.8 * WIDTH, 0.8 + 0.4 * len(changed)))
    gain = changed["difference"]
    spread = np.maximum([gain - changed["low"], changed["high"] - gain], 0)
    axis.errorbar(gain, range(len(changed)), xerr=spread, fmt="o", color=RIGHT)
    axis.axvline(0, ls="--", color=NEUTRAL)
    axis.set_yticks(range(len(changed)), [shorten(name, 40) for name in changed.index])
    ends = min(-0.02, 1.1 * changed["low"].min()), max(0.02, 1.1 * changed["high"].max())
    axis.set(xlim=ends, ylim=(len(changed) - 0.5, -0.5))
    axis.set_xlabel("change of the share of sixths right (95 %)")
    axis.xaxis.set_major_locator(MaxNLocator(6))
    axis.xaxis.set_major_formatter(PercentFormatter(1))
    return fig
