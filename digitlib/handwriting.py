"""Handwriting on ruled paper, drawn from a seed: something to run on without a download.

In: a kind (`digits` or `hands`), a number of classes and a seed. Out: a dataset folder in the
reference data's format: 1-bit PNG pages of ten lines, strips of three.

A *hand* is a parameter vector: which allographs of each letter it uses and how it bends them,
slant, x-height, widths, spacing, pen, pressure, joins, base line, unsteadiness. Two hands differ in
all of them. One hand's letters differ from each other as its unsteadiness and the paper have it,
and where it mixes two allographs of a letter.
"""

import os
import signal
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import cache, partial
from importlib.resources import files
from multiprocessing import get_context, parent_process
from pathlib import Path

import cv2
import numpy as np
from HersheyFonts import HersheyFonts

import digitlib
from digitlib import Problem, cores, progress_bar

VERSION = 2  # of what is drawn: raise it when the same seed gives other images
PAGE = (1070, 1545)  # px, height and width of the reference data's training pages
STRIP = (300, 1520)  # px, of its test strips
PITCH = 101  # px between its ruled lines
TALL_EVERY = 7  # every seventh test strip is twice as high, so that the two-strip path runs
CHARACTERS = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.,"

# Domains of random numbers: a hand of one domain never appears in another, whatever the seed.
PAGE_HANDS, TEST_HANDS, WRITERS, PRETRAINING = range(4)
# What a stream of random numbers is for: first in its seed, lest two purposes share a stream.
STYLE, LETTER, SHEET, TEXT, BATCH = range(1, 6)


@cache
def words(kind: str) -> list[str]:
    """The vocabulary of generated sentences: starts, names, adjectives, nouns, verbs or places."""
    lines = files("digitlib").joinpath("words.txt").read_text("utf-8").splitlines()
    return next(line.partition(": ")[2].split(", ") for line in lines if line.startswith(kind))


def _curve(points: np.ndarray, steps: int = 5) -> np.ndarray:
    """Catmull-Rom spline through ``points`` (n, 2) -> (1 + (n - 1) * steps, 2)."""
    if len(points) < 3:
        return points
    padded = np.concatenate([points[:1], points, points[-1:]])
    a, b, c, d = (padded[i : len(padded) - 3 + i, None] for i in range(4))
    t = (np.arange(1, steps + 1) / steps)[None, :, None]
    spline = 0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2)
    spline = spline + 0.5 * (3 * b - a - 3 * c + d) * t**3
    return np.concatenate([points[:1], spline.reshape(-1, 2)])


@cache
def allographs() -> dict[str, list[list[np.ndarray]]]:
    """Every character's letterforms, each a list of strokes, each (n, 2) float in x-heights."""
    forms: dict[str, list[list[np.ndarray]]] = {c: [] for c in CHARACTERS}
    for line in files("digitlib").joinpath("allographs.txt").read_text("utf-8").splitlines():
        if not line.startswith("#"):
            strokes = line[2:].split("/")
            points = [np.array([p.split(",") for p in s.split()], float) for s in strokes]
            forms[line[0]].append([_curve(stroke) for stroke in points])
    fonts = HersheyFonts()
    for font, unit in ("futural", 14.0), ("scripts", 9.0):  # unit: the font's own x-height
        fonts.load_default_font(font)
        for character in CHARACTERS:
            if font == "futural" or character.isalpha():
                glyph = fonts.all_glyphs[character]
                strokes = [np.array(s, float) for s in glyph.strokes]
                left = min(s[:, 0].min() for s in strokes)
                strokes = [(s * [1, -1] + [-left, 9]) / unit for s in strokes]
                if font == "futural":  # its ascenders reach 1.5 x-heights, ours 2
                    strokes = [
                        np.stack([s[:, 0], s[:, 1] + np.maximum(s[:, 1] - 1, 0)], 1)
                        for s in strokes
                    ]
                forms[character].append([_curve(s, 3) for s in strokes])
    return forms


def _bend(points: np.ndarray, coefficients: np.ndarray) -> np.ndarray:
    """A smooth displacement of ``points`` (n, 2) by ``coefficients`` (6, 2), quadratic in place."""
    x, y = points[:, 0] - 0.5, points[:, 1] - 0.5
    terms = np.stack([np.ones_like(x), x, y, x * y, np.sin(2.5 * x), np.sin(2.5 * y)], axis=1)
    return points + terms @ coefficients


def _wander(n: int, rng: np.random.Generator, columns: int = 2, reach: int = 5) -> np.ndarray:
    """(n, columns): noise of about unit spread that is smooth over ``reach`` points."""
    knots = rng.standard_normal((n // reach + 2, columns))
    at, part = np.divmod(np.arange(n) / reach, 1)
    at, part = at.astype(int), part[:, None]
    return knots[at] * (1 - part) + knots[at + 1] * part


@dataclass
class Hand:
    """One person's way of writing: a function of ``key`` (seed, domain, number) alone."""

    key: tuple[int, ...]
    letters: dict[tuple[str, int], tuple[np.ndarray, list[int], float]] = field(
        default_factory=dict
    )

    def __post_init__(self) -> None:
        rng = np.random.default_rng([STYLE, *self.key])
        between = rng.uniform
        self.x_height = between(13, 22)  # px; the reference writers' are about 14 to 26
        self.slant = rng.normal(0.08, 0.16)  # tangent of the angle from upright
        self.width = np.exp(rng.normal(0, 0.17))  # letter width against the model's
        self.ascender = between(0.45, 1.05)  # what stands above the x-height, against the model's
        self.descender = between(0.5, 1.3)
        self.capitals = between(0.8, 1.2)
        self.letter_space = between(0.1, 0.7)  # x-heights
        self.word_space = between(1.2, 3.6)
        self.pen = np.exp(between(np.log(1.0), np.log(1.9)))  # px
        self.pressure = between(0.05, 0.35)  # relative spread of the pen's width along a stroke
        self.shading = between(-0.1, 0.5)  # how much thicker upright strokes are than level ones
        self.joined = rng.choice([0.0, 0.0, 0.15, 0.5, 0.95])  # how often letters are joined
        self.drift = rng.normal(0, 0.008)  # slope of the base line
        self.lift = rng.normal(0.2, 0.2)  # x-heights above the ruled line
        self.unsteady = between(0.02, 0.08)
        self.tremor = between(0.0, 0.05)  # the same within a letter, x-heights
        self.styled = rng.choice([0.0, 0.0, 0.0, 0.9])  # how far the hand is school cursive
        self.mixed = rng.choice([0.0, 0.0, 0.1, 0.3])  # how often it writes its other allograph

    def letter(self, character: str, other: int = 0) -> tuple[np.ndarray, list[int], float]:
        """This hand's form of ``character``: points (n, 2), where its strokes end, its width.

        ``other``: 0 for the form that it favours, 1 for its second.
        """
        if (character, other) not in self.letters:
            rng = np.random.default_rng([LETTER, *self.key, ord(character), other])
            forms = allographs()[character]
            cursive = character.isalpha() and rng.random() < self.styled
            strokes = forms[-1] if cursive else forms[rng.integers(len(forms))]
            shifts = rng.normal(0, 0.06, (len(strokes), 2))  # of bars and dots
            points = np.concatenate([s + d for s, d in zip(strokes, shifts, strict=True)])
            points = _bend(points, rng.normal(0, 0.08, (6, 2)))
            points += 0.05 * _wander(len(points), rng)
            points[:, 0] -= points[:, 0].min()
            points[:, 0] *= self.width * rng.uniform(0.85, 1.15)
            above, below = points[:, 1] > 1, points[:, 1] < 0
            points[above, 1] = 1 + (points[above, 1] - 1) * self.ascender
            points[below, 1] *= self.descender
            if character.isupper() or character.isdigit():
                points *= self.capitals
            ends = np.cumsum([len(s) for s in strokes])[:-1].tolist()
            width = float(max(points[:, 0].max(), 0.15))
            self.letters[character, other] = points, ends, width
        return self.letters[character, other]

    def write(
        self, text: str, room: float, rng: np.random.Generator
    ) -> tuple[list[np.ndarray], list[tuple[str, str, float, float]]]:
        """Write as many words of ``text`` as fit in ``room`` px, from x = 0 on the base line y = 0.

        Returns the strokes, each (n, 2) float px with y down, and for each character
        (character, its right neighbour or " ", centre x, centre y).
        """
        strokes, placed, pen_at = [], [], 0.0
        for word in text.split():
            forms = [self.letter(c, int(rng.random() < self.mixed)) for c in word]
            length = sum(width for *_, width in forms) + self.letter_space * len(word)
            if (pen_at + length) * self.x_height > room:
                break
            last, lift = None, self.lift + rng.normal(0, self.unsteady)
            for i, (character, (points, ends, width)) in enumerate(zip(word, forms, strict=True)):
                points = _bend(points, rng.normal(0, self.unsteady, (6, 2)))
                points = points * np.exp(rng.normal(0, self.unsteady, 2))
                points += self.tremor * _wander(len(points), rng)
                x = points[:, 0] + self.slant * points[:, 1] + pen_at
                y = points[:, 1] + lift + self.drift * pen_at + rng.normal(0, self.unsteady)
                ink = np.stack([x, -y], axis=1) * self.x_height
                if last is not None and character.islower() and rng.random() < self.joined:
                    strokes.append(_curve(np.array([last, (last + ink[0]) / 2 + [0, 2], ink[0]])))
                strokes.extend(np.split(ink, ends))
                last = ink[-1] if character.isalpha() else None
                centre = (ink.min(0) + ink.max(0)) / 2
                neighbour = word[i + 1] if i + 1 < len(word) else " "
                placed.append((character, neighbour, float(centre[0]), float(centre[1])))
                pen_at += width + self.letter_space * np.exp(rng.normal(0, 0.25))
            pen_at += self.word_space * np.exp(rng.normal(0, 0.2))
        return strokes, placed


class Paper:
    """A sheet under the scanner: rule lines, put strokes on it, scan it to 1 bit."""

    def __init__(self, height: int, width: int, rng: np.random.Generator) -> None:
        self.ink = np.zeros((2 * height, 2 * width), np.uint8)  # drawn at twice the size
        self.rng = rng
        self.rule_pen = rng.uniform(1.0, 1.25)  # px
        self.dirt = np.exp(rng.normal(-11.8, 1.0))  # specks a pixel; the scans have 2 to 150 a page

    def rule(self, y: float) -> None:
        """A ruled line at ``y`` px: nearly level, ending short of the right edge, with gaps."""
        width = self.ink.shape[1] / 2
        start, end = sorted(self.rng.uniform([0, 0.93], [0.02, 1.0]) * width)
        x = np.arange(start, end, 6.0)
        y = y + self.rng.normal(0, 0.0015) * x + 0.3 * _wander(len(x), self.rng, 1)[:, 0]
        gaps = np.flatnonzero(self.rng.random(len(x) - 1) < self.rng.uniform(0, 0.02)) + 1
        self.stroke(np.split(np.stack([x, y], axis=1), gaps), self.rule_pen, 0.08)

    def stroke(
        self, strokes: list[np.ndarray], pen: float, pressure: float = 0, shading: float = 0
    ) -> None:
        """Lay down ``strokes``, each (n, 2) px, with a pen of ``pen`` px.

        Its width wanders along them by ``pressure``, and is by ``shading`` more where they are
        upright than where they are level, both relative to ``pen``.
        """
        points = np.concatenate(strokes)
        along = np.delete(np.arange(len(points) - 1), np.cumsum([len(s) for s in strokes])[:-1] - 1)
        step = np.diff(points, axis=0)[along]
        upright = np.abs(step[:, 1]) / np.maximum(np.hypot(*step.T), 1e-6)
        widths = 1 + pressure * _wander(len(along), self.rng, 1)[:, 0] + shading * (upright - 0.6)
        widths = 2 * pen * np.maximum(widths, 0.4) + self.rng.uniform(-0.4, 0.4)
        widths = np.clip(np.rint(widths), 1, 12).astype(int).tolist()
        fixed = np.rint(points * 32).astype(int).tolist()  # 2x size, four fractional bits
        for i, width in zip(along.tolist(), widths, strict=True):
            cv2.line(self.ink, fixed[i], fixed[i + 1], 255, width, cv2.LINE_8, 4)

    def scan(self) -> np.ndarray:
        """(height, width) uint8, 0 ink and 255 paper: thresholded, so that edges are ragged."""
        height, width = self.ink.shape[0] // 2, self.ink.shape[1] // 2
        grey = cv2.resize(self.ink, (width, height), interpolation=cv2.INTER_AREA)
        specks = self.rng.random((self.rng.poisson(height * width * self.dirt), 2))
        grey[tuple((specks * [height, width]).astype(int).T)] = 255
        grain = self.rng.standard_normal((height, width), np.float32)
        grain = cv2.GaussianBlur(grain, (3, 3), 0.8)
        return np.where(grey + 45 * grain > 118, 0, 255).astype(np.uint8)


def sentence(rng: np.random.Generator) -> str:
    """An English sentence of about twelve words; what it says matters less than its letters."""

    def pick(kind: str) -> str:
        return str(rng.choice(words(kind)))

    start = f"{pick('starts')} {pick('adjectives')} {pick('nouns')}"
    if rng.random() < 0.4:
        start = f"{pick('names')} and {pick('names')}"
    middle = f"{pick('verbs')} the {pick('adjectives')} {pick('nouns')}"
    end = f"{pick('places')} the {pick('nouns')} and {pick('nouns')}"
    return f"{start} {middle} {end}{rng.choice(['', '', '.'])}"


def _sheet(
    key: tuple[int, ...], shape: tuple[int, int], first_line: float, writing: Iterator
) -> np.ndarray:
    """Rule a sheet of ``shape`` px and let ``writing`` fill it: for a line, [(hand, text), …]."""
    rng = np.random.default_rng([SHEET, *key])
    paper = Paper(*shape, rng)
    y = first_line
    while y < shape[0] + (-20 if shape == PAGE else 40):  # ten whole lines; a strip cuts its last
        paper.rule(y)
        x = rng.uniform(8, 60)
        for hand, text in next(writing):
            strokes, _ = hand.write(text, shape[1] - 12 - x, rng)
            if strokes:
                inked = [s + [x, y - 3] for s in strokes]
                paper.stroke(inked, hand.pen, hand.pressure, hand.shading)
                x = max(s[:, 0].max() for s in strokes) + x + rng.uniform(1.2, 1.8) * hand.x_height
        y += PITCH + rng.normal(0, 1.5)
    return paper.scan()


def _pages(kind: str, seed: int, number: int, width: int) -> Iterator[tuple[str, np.ndarray]]:
    """The images of class ``number``: (path within the dataset, uint8 image), page first."""
    label = f"{number:0{width}d}"

    def numbers(domain: int, rng: np.random.Generator) -> Iterator[list]:
        while True:  # a page's line is shared by three hands of sixty; a strip's has one of its own
            people = (
                rng.choice(60, 3, replace=False) if domain == PAGE_HANDS else [rng.integers(60)]
            )
            yield [
                (Hand((seed, domain, int(p))), " ".join([label] * (5 if len(people) > 1 else 40)))
                for p in people
            ]

    def sentences(rng: np.random.Generator) -> Iterator[list]:
        hand = Hand((seed, WRITERS, number))
        while True:
            yield [(hand, sentence(rng))]

    for image in range(3):
        rng = np.random.default_rng([TEXT, seed, number, image])
        domain = PAGE_HANDS if image == 0 else TEST_HANDS
        writing = numbers(domain, rng) if kind == "digits" else sentences(rng)
        if image == 0:
            name, shape, first = f"train/{label}_1.png", PAGE, 78.0
        else:
            tall = (2 * number + image) % TALL_EVERY == 0
            height = 2 * STRIP[0] if tall else STRIP[0]
            name = f"test/{label}_{image + 1}.png"
            shape = height, STRIP[1] + int(rng.integers(-8, 31))
            first = rng.uniform(55, PITCH)  # a strip is cut without regard for the lines
        yield name, _sheet((seed, number, image), shape, first, writing)


def _start_worker() -> None:
    """One thread; gone with the parent, also when that is killed, and not before: not by Ctrl-C."""
    cv2.setNumThreads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = parent_process()
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()


def processes(workers: int) -> ProcessPoolExecutor:
    """``workers`` processes that draw; spawned, as on every system."""
    return ProcessPoolExecutor(workers, get_context("spawn"), initializer=_start_worker)


def _write_class(number: int, kind: str, seed: int, folder: Path, width: int) -> None:
    """Draw and save one class (in a worker process)."""
    for name, image in _pages(kind, seed, number, width):
        # cv2.imwrite does not know all of Windows' file names.
        (folder / name).write_bytes(cv2.imencode(".png", image, [cv2.IMWRITE_PNG_BILEVEL, 1])[1])


def folder_of(kind: str, classes: int, seed: int) -> Path:
    """Where a generated data set is kept; a change of the generator leaves old folders behind."""
    return digitlib.DATA / f"{kind}-{classes}-{seed}-v{VERSION}"


def write_dataset(kind: str, folder: Path, classes: int = 70, seed: int = 1) -> Path:
    """Write the dataset ``kind`` (`digits` or `hands`) to a new ``folder``, whole or not at all.

    `digits`: class NN is the number NN; its page is written by many hands and its strips by others.
    `hands`: class NN is one hand writing sentences; its strips hold other sentences.
    """
    if kind not in ("digits", "hands"):
        raise Problem(f"there is no generated data set {kind!r}: choose digits or hands")
    if not 1 <= classes <= 10_000:
        raise Problem(f"classes must be 1 to 10000, not {classes}")
    if not 0 <= seed < 2**32:
        raise Problem(f"the seed must be 0 to {2**32 - 1}, not {seed}")
    folder = Path(folder)
    if folder.resolve() == Path.cwd():
        raise Problem(f"{folder}: is the folder that you are in; name a new one")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise Problem(f"{folder}: is there already, and not empty; delete it or name another")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".partial-") as aside:
        for part in "train", "test":
            (Path(aside) / "data" / part).mkdir(parents=True)
        how = {"kind": kind, "seed": seed, "folder": Path(aside) / "data"}
        work = partial(_write_class, **how, width=max(2, len(str(classes))))
        with processes(min(cores(), 60)) as pool:  # Windows' most
            done = pool.map(work, range(1, classes + 1), chunksize=2)
            bar = {"total": classes, "desc": f"writing {kind}", "unit": "class"}
            for _ in progress_bar(done, **bar):
                pass
        try:
            if folder.exists():
                folder.rmdir()
            (Path(aside) / "data").rename(folder)
        except OSError as error:
            cure = "delete it or name another" if folder.exists() else "may it be written to?"
            raise Problem(f"{folder}: cannot be put in place ({error}); {cure}") from None
    return folder
