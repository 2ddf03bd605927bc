"""Predict: label images with a saved model, without Keras where the model's graph is at hand.

In: image files and a model file. Out: a row an image, and result.csv. Each image is decoded, cut
and labelled by one of a few threads, so that of a folder few images are in memory at a time.
"""

import importlib.util
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from digitlib import Problem, cores, progress_bar
from digitlib.dataset import Page, image_files, raise_all, read_page, unread
from digitlib.engine import ONE_PASS, PATCHES, STRIPS, Engine, has_graph
from digitlib.lines import better_resize, line_pitch, usual_pitch
from digitlib.patches import cut_all, ensemble_centres, windows
from digitlib.results import combine, result_rows, write_rows
from digitlib.settings import Settings
from digitlib.shipped import read_card, sure_from
from digitlib.strips import Strip, band, network_inputs, test_strips

ENGINES = ("auto", "openvino", "one-pass", "keras")
FEW = 5  # images whose lines are looked at
MOST_AT_ONCE = 2**19  # of patches that go through the network at once: more wait for memory

Ensemble = Sequence[tuple[Strip, np.ndarray]]  # strips, and their patches' centres (n, 2) x, y px
Reader = Callable[[Page], np.ndarray]  # an image's logits (n_strips, n_patches, classes)


def ensemble_of(page: Page, settings: Settings) -> Ensemble:
    """The strips of ``page``, and on each the patches that label it; of a whole one its middle."""
    if settings.pooling == "vlad":
        strip = band(page, settings)
        return [(strip, np.array([strip.image.shape[::-1]]) / 2)]
    items = enumerate(test_strips(page, settings))
    return [(strip, ensemble_centres(strip, settings, i)) for i, strip in items]


def strip_by_strip(network: Callable, items: Ensemble, settings: Settings) -> np.ndarray:
    """Logits (n_strips, 1, classes) by STRIPS; ``network``: an `Engine`, or called like one."""
    return np.stack([network(*network_inputs(strip.image, settings)) for strip, _ in items])


def patch_by_patch(network: Callable, items: Ensemble, settings: Settings) -> np.ndarray:
    """Logits (n_strips, n_patches, classes) by PATCHES."""
    at_once, logits = max(1, MOST_AT_ONCE // settings.input_size**2), []
    for strip, centres in items:
        batch = cut_all(strip, centres, settings)
        parts = (batch[k : k + at_once] for k in range(0, len(batch), at_once))
        logits.append(np.concatenate([network(part) for part in parts]))
    return np.stack(logits)


def one_pass(engine: Engine, items: Ensemble, settings: Settings) -> np.ndarray:
    """The same by ONE_PASS, nearly: the backbone sees every strip once."""
    inputs = [windows(strip, centres, settings) for strip, centres in items]
    return np.concatenate([engine(image[None], shares[None]) for image, shares in inputs])


WAYS = {STRIPS: strip_by_strip, PATCHES: patch_by_patch, ONE_PASS: one_pass}


def without_keras(settings: Settings) -> list[str]:
    """Those of ENGINES that label by graphs, each in its own way."""
    return ["openvino"] if settings.pooling == "vlad" else ["openvino", "one-pass"]


def chosen(engine: str, model: Path) -> str:
    """The graph of ``model`` that ``engine`` asks for, or keras; raises Problem."""
    if engine not in ENGINES:
        raise Problem(f"--engine must be one of {', '.join(ENGINES)}, not {engine!r}")
    graph = ONE_PASS if engine == "one-pass" else PATCHES
    if read_card(model)[1].pooling == "vlad":
        graph = STRIPS
    there = importlib.util.find_spec("openvino") is not None
    if engine == "keras" or engine == "auto" and not (there and has_graph(model, graph)):
        return "keras"
    if not there:
        raise Problem("OpenVINO is not installed (pip install openvino); or use --engine keras")
    return graph


def reader(
    model: Path,
    engine: str = "auto",
    streams: int = 1,
    settings: Settings | None = None,
    precise: bool = False,
) -> tuple[Reader, int]:
    """(what reads an image with ``model``, how many threads are to call it).

    ``engine``: openvino; one-pass (patches too: faster where they are large, and nearly the same);
    keras; or auto, the first of openvino and keras that can. ``settings``: with another ensemble
    than the model's own. ``precise``: in float32, also where the processor is faster in bfloat16.
    """
    graph = chosen(engine, model)
    if graph == "keras":
        from digitlib import ensemble
        from digitlib import model as models

        network, _, own = models.load(model)
        return lambda page: ensemble.vote(network, page, settings or own).logits, 1
    settings = settings or read_card(model)[1]
    compiled, way = Engine(model, graph, streams, precise), WAYS[graph]
    # While one image is labelled, another is read from its file.
    threads = 2 * streams if streams > 1 else 1
    return lambda page: way(compiled, ensemble_of(page, settings), settings), threads


def of_another_scale(pitches: Iterable[int | None], resize: float) -> list[str]:
    """What to do about images, read with ``resize``, whose lines are not as far apart (``pitches``:
    `line_pitch` of some of them) as the profiles have them; nothing where they are, or unseen."""
    pitch = usual_pitch(pitches)
    if pitch is None or (better := better_resize(pitch, resize)) is None:
        return []
    return [
        f"lines are about {pitch:.0f} px apart: unless they were so on the pages that the model "
        f"learnt from, add --resize {better:g}"
    ]


@dataclass(frozen=True)
class Answers:
    """What `predict_files` says of images."""

    rows: list[dict]  # of `results.result_rows`, for each image that could be read
    files: list[Path]  # those images,
    resize: float  # read so many times as large
    problems: list[str]  # what is wrong with the others
    notes: list[str]  # what should be known of all of them: `of_another_scale`, by the first few


def refuse_folder(option: str, path: Path | None, name: str) -> None:
    """Raise Problem for a folder where a file is to be written; ``name``: what it could be."""
    if path and path.is_dir():
        raise Problem(f"{option} {path}: is a folder; name a file in it, such as {path / name}")


def predict_files(
    paths: Iterable[Path],
    model: Path,
    out: Path | None = None,
    engine: str = "auto",
    sure: float | None = None,
    resize: float | None = None,
) -> Answers:
    """Label images (files, or folders of them); the rows go to ``out`` too, if given.

    ``sure``: the confidence from which on an answer counts as sure (a column: yes or no); by
    default what the model's card says, and if that says nothing there is no such column.
    ``resize``: as for `read_page`; by default as the model's own pages were read. Raises Problem,
    naming the files, if none of them can be read, and then writes nothing.
    """
    paths = list(paths)
    files = image_files(paths)
    refuse_folder("--out", out, "result.csv")
    classes, settings, about = read_card(model)
    sure = sure_from(about) if sure is None else sure
    resize = settings.resize if resize is None else resize
    read, threads = reader(model, engine, min(cores(), len(files)))
    cv2.setNumThreads(1 if threads > 1 else cores())

    names = [file.name for file in files]
    if len(set(names)) < len(set(files)):  # of several folders: the path tells them apart
        names = [str(file) for file in files]

    pitches: list[int | None] = []
    looked_at = set(files[:FEW])

    def label(file: Path, name: str) -> dict | str:
        """The image's row, or what is wrong with it: of many classes, too, little is kept."""
        start = time.perf_counter()
        try:
            page = read_page(file, resize)
        except Problem as problem:
            return str(problem)
        try:
            logits = read(page)
        except Problem as problem:
            return f"{file}: {problem}"
        if logits.ndim != 3 or logits.shape[2] != len(classes):
            return f"{model}: its graph does not fit its classes; use --engine keras"
        shares, columns = combine(logits, settings.combine), {}
        if sure is not None:
            columns["sure"] = ["yes" if shares.max() >= sure else "no"]
        columns["n_strips"] = [logits.shape[0]]
        columns["n_patches"] = [logits.shape[0] * logits.shape[1]]
        columns["seconds"] = [round(time.perf_counter() - start, 4)]
        if file in looked_at:
            pitches.append(line_pitch(page.image))
        try:
            return result_rows([name], [page.label], shares[None], classes, **columns)[0]
        except Problem as problem:
            return str(problem)

    with ThreadPoolExecutor(threads) as pool:
        how = {"total": len(files), "desc": "labelling", "unit": "image"}
        answers = pool.map(label, files, names)
        if len(files) > 1:  # for one, the bar would take longer to import than to fill
            answers = progress_bar(answers, **how)
        answers = list(answers)
    rows = [answer for answer in answers if isinstance(answer, dict)]
    labelled = [file for file, own in zip(files, answers, strict=True) if isinstance(own, dict)]
    problems = [answer for answer in answers if isinstance(answer, str)]
    if not rows:
        raise_all(problems, "the images")
    if out:
        write_rows(rows, out)
    for folder in filter(Path.is_dir, paths):
        problems += unread(folder.iterdir())
    return Answers(rows, labelled, resize, problems, of_another_scale(pitches, resize))
