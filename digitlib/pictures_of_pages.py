"""Pictures of pages: the figures of the notebooks about scans, strips and patches.

In: pages, strips and patches as images (h, w) uint8, and what `measures` counts on them.
Out: matplotlib Figures, in the style of `pictures`.
"""

import math
from collections.abc import Mapping, Sequence

import cv2
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.colors import LinearSegmentedColormap, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import MaxNLocator, PercentFormatter

from digitlib.dataset import Page
from digitlib.measures import inkiest
from digitlib.pictures import ACCENT, NEUTRAL, RIGHT, STYLE, WIDTH, WRONG, figure, plain, shorten
from digitlib.strips import ink

SHEET = 100  # thumbnails of a contact sheet; more would be too small to see
PIECE = (60, 130)  # px, height and width of what the enhancement grid magnifies


def _evenly(items: Sequence, n: int) -> list:
    """``n`` of the items, evenly spaced and the first among them; all if there are fewer."""
    n = min(n, len(items))
    return [items[i * len(items) // n] for i in range(n)]


def fitted(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """The whole image, reduced or enlarged to fit ``height`` x ``width`` px, on white."""
    scale = min(height / image.shape[0], width / image.shape[1])
    size = [max(1, int(side * scale)) for side in image.shape[::-1]]
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA).astype(float)
    sheet = np.full((height, width), 255.0)
    sheet[: small.shape[0], : small.shape[1]] = 255 * (small / 255) ** 2  # thin pens stay visible
    return sheet


@figure
def contact_sheet(pages: Sequence[Page]) -> Figure:
    """The pages as thumbnails, each with its label; of more than SHEET an even selection."""
    shown, dpi = _evenly(pages, SHEET), STYLE["figure.dpi"]
    columns = min(10, max(3, math.ceil(math.sqrt(len(shown)))))
    ratios = [page.image.shape[0] / page.image.shape[1] for page in shown]
    gap, caption = 8, 15  # px
    width = round(WIDTH * dpi) // columns - gap
    height = round(width * float(np.clip(np.median(ratios), 0.2, 1.5)))
    cell = caption + height + gap
    sheet = np.full((-(-len(shown) // columns) * cell, columns * (width + gap)), 255.0)
    fig = plt.figure(figsize=(sheet.shape[1] / dpi, sheet.shape[0] / dpi + 0.3), layout="none")
    axis = fig.add_axes((0, 0, 1, sheet.shape[0] / dpi / fig.get_figheight()))  # a px for a px
    for i, page in enumerate(shown):
        y, x = i // columns * cell + caption, i % columns * (width + gap)
        sheet[y : y + height, x : x + width] = fitted(page.image, height, width)
        frame = Rectangle((x - 0.5, y - 0.5), width, height, fill=False, ec="#BBBBBB", lw=0.7)
        axis.add_patch(frame)
        axis.text(x, y - 3, shorten(page.label, width // 7), fontsize=9, va="bottom")
    # Few levels and no resampling: a PNG of a third of the size that looks the same.
    axis.imshow(np.rint(sheet / 17) * 17, vmin=0, vmax=255, interpolation="nearest")
    axis.axis("off")
    part = f"{len(shown)} of the " if len(shown) < len(pages) else ""
    axis.set_title(f"{part}{len(pages)} training pages and their labels")
    return fig


@figure
def pages_beside_tests(train: Sequence[Page], test: Sequence[Page], n: int = 4) -> Figure:
    """A row a class, for ``n`` classes: a piece of its training page, a piece of a test image."""
    tests = {page.label: page for page in reversed(test)}
    pages = _evenly([page for page in train if page.label in tests] or train, n)
    line, size = 50, (110, 480)  # px: where a line has its ink; what stands above it and below
    height = len(pages) * (WIDTH / 2 * size[0] / size[1] + 0.27)
    fig, axes = plt.subplots(len(pages), 2, figsize=(WIDTH, height), squeeze=False)
    for row, page in zip(axes, pages, strict=True):
        both = [("training page", page), ("test image", tests.get(page.label))]
        for axis, (kind, one) in zip(row, both, strict=True):
            piece = np.full(size, 255, np.uint8)
            if one is not None:
                top, left = inkiest(one.image, (line, size[1]))
                lowest = max(0, one.image.shape[0] - size[0])
                top = min(max(0, top - (size[0] - line) // 2), lowest)
                part = one.image[top : top + size[0], left : left + size[1]]
                piece[: part.shape[0], : part.shape[1]] = part
            plain(axis, piece, f"class {shorten(page.label, 30)}: {kind}")
    return fig


@figure
def enhancement_grid(variants: Mapping[str, np.ndarray], columns: int = 3) -> Figure:
    """Every variant of a strip: a magnified piece, and beneath it the strip's grey levels.

    The piece is the same for all, that with most writing in the first, also where a variant has
    another size.
    """
    first, size = next(iter(variants.values())), PIECE
    top, left = inkiest(first, size)
    rows = -(-len(variants) // columns)
    fig, axes = plt.subplots(
        2 * rows,
        columns,
        figsize=(WIDTH, rows * 2.75),
        squeeze=False,
        height_ratios=[1.35, 1] * rows,
        sharey=False,
    )
    fig.get_layout_engine().set(hspace=0.04)
    for i, (title, image) in enumerate(variants.items()):
        above, below = axes[2 * (i // columns) : 2 * (i // columns) + 2, i % columns]
        y, x = (
            round(top * image.shape[0] / first.shape[0]),
            round(left * image.shape[1] / first.shape[1]),
        )
        piece = image[y : y + size[0], x : x + size[1]]
        plain(above, piece, title, interpolation="nearest")
        levels = np.bincount(image.ravel(), minlength=256) / image.size
        below.vlines(np.arange(256), 1e-7, np.maximum(levels, 1e-7), lw=2.5, color=RIGHT)
        below.set(yscale="log", ylim=(1e-6, 1.5), xlim=(-8, 263), xticks=[0, 64, 128, 192, 255])
        below.set_yticks([1e-6, 1e-3, 1], ["1 in 10⁶", "1 in 1000", "all"])
        below.set_xlabel("grey level (0 ink, 255 paper)", fontsize=8)
        below.tick_params(labelsize=8)
        if i % columns == 0:
            below.set_ylabel("pixels", fontsize=8)
    for unused in range(len(variants), rows * columns):
        for axis in axes[2 * (unused // columns) : 2 * (unused // columns) + 2, unused % columns]:
            axis.axis("off")
    return fig


def _reduced(image: np.ndarray, width: int) -> np.ndarray:
    """An image (h, w, …), at most ``width`` px wide, in 16 levels: noise makes a PNG large."""
    width = min(width, image.shape[1])
    height = max(1, round(image.shape[0] * width / image.shape[1]))
    small = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    return np.rint(small / 17.0).astype(np.uint8) * 17


@figure
def ink_found(variants: Mapping[str, np.ndarray], truth: np.ndarray) -> Figure:
    """Every variant of a strip, and beneath it what is taken for ink there, against the ``truth``.

    ``truth``: bool (h, w), where the writing really is.
    """
    height = 2 * len(variants) * (WIDTH * min(0.6, truth.shape[0] / truth.shape[1]) + 0.25) + 0.3
    fig, axes = plt.subplots(2 * len(variants), 1, figsize=(WIDTH, height))
    near = cv2.dilate(truth.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
    width = round(WIDTH * STYLE["figure.dpi"])
    names = {"writing": RIGHT, "missed": WRONG, "not writing": "#B0B0B0"}
    for (title, image), above, below in zip(variants.items(), axes[::2], axes[1::2], strict=True):
        mask = ink(image)
        colours = np.full((*truth.shape, 3), 255, np.uint8)
        for name, where in [
            ("not writing", mask & ~near),
            ("missed", truth & ~mask),
            ("writing", mask & near),
        ]:
            colours[where] = np.multiply(to_rgb(names[name]), 255)
        plain(above, _reduced(image, width), title, interpolation="nearest")
        title = "taken for ink there"
        plain(below, _reduced(colours, width), title, interpolation="nearest")
    handles = [Patch(color=colour, label=name) for name, colour in names.items()]
    fig.legend(handles=handles, loc="outside lower center", ncols=3)
    return fig


def _lanes(tops: Sequence[int], height: int) -> list[int]:
    """A lane for each strip, so that strips which overlap do not share one."""
    ends, lanes = [], []
    for top in tops:
        lane = next((i for i, end in enumerate(ends) if end <= top), len(ends))
        ends[lane : lane + 1] = [top + height]
        lanes.append(lane)
    return lanes


@figure
def strips_on_page(
    page: np.ndarray, splits: Mapping[str, tuple[list[int], list[int]]], strip_height: int
) -> Figure:
    """A panel a split: the page, its strips as bars beside it, rows of both kinds hatched.

    ``splits``: title -> (training tops, validation tops), px.
    """
    height, width = page.shape
    panel = WIDTH / max(len(splits), 1.5)
    figsize = (panel * len(splits), float(np.clip(panel * height / width / 1.2, 1, 8)) + 1)
    fig, axes = plt.subplots(1, len(splits), figsize=figsize, squeeze=False, sharey=True)
    for axis, (title, kinds) in zip(axes[0], splits.items(), strict=True):
        order = sorted((top, kind) for kind, tops in enumerate(kinds) for top in tops)
        lanes = _lanes([top for top, _ in order], strip_height)
        lane_width = 0.24 * width / (max(lanes) + 1)
        held = np.zeros((2, max(height, order[-1][0] + strip_height)), bool)
        axis.imshow(page, vmin=0, vmax=255)
        for (top, kind), lane in zip(order, lanes, strict=True):
            held[kind, top : top + strip_height] = True
            x, colour = width * 1.03 + lane * lane_width, (RIGHT, WRONG)[kind]
            end = min(strip_height, height - top)
            axis.add_patch(Rectangle((x, top), 0.75 * lane_width, end, color=colour, lw=0))
        for rows, look in [
            (held[0] & ~held[1], {"fc": RIGHT, "alpha": 0.13, "lw": 0}),
            (held[1] & ~held[0], {"fc": WRONG, "alpha": 0.2, "lw": 0}),
            (held[0] & held[1], {"fc": "none", "ec": WRONG, "hatch": "///", "lw": 0}),
        ]:
            edges = np.flatnonzero(np.diff(np.r_[False, rows[:height], False].astype(int)))
            for start, end in edges.reshape(-1, 2):
                axis.add_patch(Rectangle((0, start), width, end - start, **look))
        axis.set(xlim=(0, 1.28 * width), ylim=(height, 0), title=title, xlabel="column, px")
        axis.set_xticks([0, width // 2, width])
        axis.grid(False)
        axis.spines["bottom"].set_bounds(0, width)
    axes[0, 0].set_ylabel("row, px")
    legend = [Patch(color=RIGHT, label="training strips")]
    if any(validation for _, validation in splits.values()):
        legend.append(Patch(color=WRONG, label="validation strips"))
        legend.append(Patch(fc="none", ec=WRONG, hatch="///", label="rows that both hold"))
    else:
        legend = [Patch(color=RIGHT, label=f"strips of {strip_height} px")]
    fig.legend(handles=legend, loc="outside lower center", ncols=3)
    return fig


@figure
def coverage_maps(
    maps: Mapping[str, tuple[np.ndarray, np.ndarray]], columns: int = 1, scale: str = "patches"
) -> Figure:
    """How many patches see each pixel, in colour, under the writing; white: none.

    ``maps``: title -> (image (h, w) uint8, counts (h, w)); all share one colour scale.
    """
    rows = -(-len(maps) // columns)
    image = next(iter(maps.values()))[0]
    each = WIDTH / columns * 0.88 * image.shape[0] / image.shape[1] + 0.35
    size = (WIDTH, float(np.clip(rows * each + 0.3, 2, 11)))
    fig, axes = plt.subplots(rows, columns, figsize=size, squeeze=False)
    most = max(1, *(int(counts.max()) for _, counts in maps.values()))
    shades = LinearSegmentedColormap.from_list("seen", ["white", "#9CCBE8", "#E69F00", "#7A2E00"])
    for axis, (title, (image, counts)) in zip(axes.flat, maps.items(), strict=False):
        shown = axis.imshow(counts, cmap=shades, vmin=0, vmax=most, interpolation="nearest")
        # What is darker than the paper around it, so that a grey scan does not hide the colours.
        strokes = cv2.morphologyEx(image, cv2.MORPH_BLACKHAT, np.ones((25, 25), np.uint8))
        small = _reduced(strokes, round(WIDTH * STYLE["figure.dpi"] / columns))
        black = np.zeros((*small.shape, 4))
        black[..., 3] = small / max(1, small.max())
        extent = (-0.5, image.shape[1] - 0.5, image.shape[0] - 0.5, -0.5)
        axis.imshow(black, extent=extent, interpolation="nearest")
        axis.set(title=title, xticks=[], yticks=[])
        axis.spines[:].set(visible=True, color="#CCCCCC")
        axis.grid(False)
    for axis in axes.flat[len(maps) :]:
        axis.axis("off")
    bar = fig.colorbar(shown, ax=axes, shrink=0.9, pad=0.01, aspect=25)
    bar.set_label(f"{scale} that see the pixel")
    bar.ax.yaxis.set_major_locator(MaxNLocator(6, integer=True))
    return fig


@figure
def keypoints_on_strip(image: np.ndarray, places: np.ndarray) -> Figure:
    """A piece of a strip, and on it a circle for each of ``places`` (n, 3): x, y, diameter, px."""
    fig, axis = plt.subplots()
    plain(axis, 128 + image // 2)  # greyed, so that the circles stand out
    axis.set_title(f"{len(places)} keypoints on a piece of a test image", fontsize=11)
    for x, y, size in places:
        axis.add_patch(plt.Circle((x, y), size / 2, fill=False, ec=RIGHT))
    return fig


@figure
def patches_on_strip(image: np.ndarray, places: Mapping[str, np.ndarray], size: int) -> Figure:
    """A row for each kind of placement: the strip, and on it the patches of ``size`` px.

    ``places``: title -> centres (n, 2) x, y px.
    """
    everywhere = np.concatenate(list(places.values()))
    first = np.minimum(0, (everywhere - size / 2).min(axis=0, initial=0))
    last = np.maximum(image.shape[::-1], (everywhere + size / 2).max(axis=0, initial=0))
    ratio = min(0.6, (last - first)[1] / (last - first)[0])
    height = len(places) * (WIDTH * ratio + 0.35)
    fig, axes = plt.subplots(len(places), 1, figsize=(WIDTH, height), squeeze=False)
    for axis, (title, centres), colour in zip(
        axes.flat, places.items(), [RIGHT, WRONG, ACCENT, NEUTRAL] * len(places), strict=False
    ):
        plain(axis, 128 + image // 2)
        axis.set_title(title, fontsize=11)
        for x, y in centres:
            corner = (x - size / 2, y - size / 2)
            axis.add_patch(Rectangle(corner, size, size, fc="none", ec=colour, lw=1.1))
        axis.plot(*np.asarray(centres).T, "o", color=colour, markersize=5)
        axis.set(xlim=(first[0] - 3, last[0] + 3), ylim=(last[1] + 3, first[1] - 3))
    return fig


@figure
def patch_grid(rows: Mapping[str, Sequence[np.ndarray]], titles: Sequence[str] = ()) -> Figure:
    """Patches as the network gets them, magnified: named rows, ``titles`` over the columns."""
    columns = max(len(patches) for patches in rows.values())
    side = (WIDTH - 0.5) / columns
    size = (WIDTH, len(rows) * (side + 0.05) + 0.4 * bool(titles))
    fig, axes = plt.subplots(len(rows), columns, figsize=size, squeeze=False)
    for axis_row, (name, patches) in zip(axes, rows.items(), strict=True):
        for axis in axis_row[len(patches) :]:
            axis.axis("off")
        for axis, patch in zip(axis_row, patches, strict=False):
            plain(axis, patch, interpolation="nearest")
        axis_row[0].set_ylabel(name, fontsize=9)
    for axis, title in zip(axes[0], titles, strict=False):
        axis.set_title(title, fontsize=9)
    return fig


@figure
def ink_histogram(held: Mapping[str, np.ndarray], letter: int) -> Figure:
    """How much ink the patches hold, px, of each way of placing them; shaded: under a letter's."""
    most = max(pixels.max() for pixels in held.values())
    doublings = max(1, math.ceil(math.log2(max(most, 1) / letter)))
    edges = [0, *(letter * 2**i for i in range(doublings)), math.inf]
    names = [f"under\n{letter}", *(f"{e}\nto {2 * e}" for e in edges[1:-1])]
    fig, axis = plt.subplots(figsize=(WIDTH, 3.4))
    axis.axvspan(-0.5, 0.5, color="#EEEEEE", zorder=0)
    width = 0.84 / len(held)
    for i, (name, pixels) in enumerate(held.items()):
        share = np.histogram(pixels, edges)[0] / len(pixels)
        places = np.arange(len(share)) + width * (i - (len(held) - 1) / 2)
        axis.bar(places, share, width=width, label=name)
    axis.set_xticks(range(len(names)), names, fontsize=9)
    axis.set(xlim=(-0.5, len(names) - 0.5), xlabel="ink in a patch, px", ylabel="patches")
    axis.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axis.grid(False, axis="x")
    fig.legend(loc="outside upper center", ncols=len(held))
    return fig
