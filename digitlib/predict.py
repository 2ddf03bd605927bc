"""Predict: label images with a saved model, without Keras where the model's graph is at hand.

In: image files and a model file. Out: a row an image, and result.csv. Each image is decoded, cut
and labelled by one of a few threads, so that a folder of any size needs the memory of a few images.
"""

import importlib.util
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np

from digitlib import Problem, cores, progress_bar
from digitlib.dataset import Page, image_files, raise_all, read_page
from digitlib.engine import Engine, has_graph, shift_of
from digitlib.patches import ensemble_centres, windows
from digitlib.results import combine, result_rows, write_rows
from digitlib.settings import Settings
from digitlib.shipped import read_card
from digitlib.strips import enhance, network_inputs, test_strips

ENGINES = ("auto", "openvino", "keras")

Reader = Callable[[Page], np.ndarray]  # an image's logits (n_strips, n_patches, classes)


def one_pass(engine: Engine, page: Page, settings: Settings) -> np.ndarray:
    """Logits (n_strips, n_patches, classes) of ``page``: the backbone sees every strip once."""
    if settings.pooling == "vlad":
        return engine(*network_inputs(enhance(page.image, settings), settings))[None]
    logits = []
    for i, strip in enumerate(test_strips(page, settings)):
        centres = ensemble_centres(strip, settings, i)
        inputs = windows(strip, centres, settings, engine.stride)
        logits.append(engine(*(item[None] for item in inputs))[0])
    return np.stack(logits)


def chosen(engine: str, model: Path) -> str:
    """openvino or keras: ``engine`` as it is; for auto OpenVINO, if it can and its labels hold.

    Those of patches (pooling average) do with the graph's shift: `ensemble.one_pass_shift`. Raises
    Problem.
    """
    if engine not in ENGINES:
        raise Problem(f"--engine must be one of {', '.join(ENGINES)}, not {engine!r}")
    there = importlib.util.find_spec("openvino") is not None
    if engine == "openvino" and not there:
        raise Problem("OpenVINO is not installed (pip install openvino); or use --engine keras")
    if engine == "auto":
        holds = has_graph(model) and (read_card(model)[1].pooling == "vlad" or shift_of(model))
        return "openvino" if there and holds else "keras"
    return engine


def reader(model: Path, engine: str = "auto", streams: int = 1) -> tuple[Reader, int]:
    """(what reads an image with ``model``, how many threads are to call it).

    ``engine``: openvino, keras (exact: one patch after the other), or auto.
    """
    if chosen(engine, model) == "keras":
        from digitlib import ensemble
        from digitlib import model as models

        network, _, settings = models.load(model)
        return lambda page: ensemble.vote(network, page, settings).logits, 1
    settings, compiled = read_card(model)[1], Engine(model, streams)
    # While one image is labelled, another is read from its file.
    return lambda page: one_pass(compiled, page, settings), 2 * streams if streams > 1 else 1


def predict_files(
    paths: Iterable[Path],
    model: Path,
    out: Path | None = None,
    engine: str = "auto",
    progress: bool = True,
) -> list[dict]:
    """`results.result_rows` of images (files, or folders of them); to ``out`` too, if given.

    Raises Problem, naming all files that cannot be read, and then writes nothing.
    """
    files = image_files(paths)
    classes, settings, _ = read_card(model)
    read, threads = reader(model, engine, min(cores(), len(files)))
    cv2.setNumThreads(1 if threads > 1 else cores())

    def label(file: Path) -> dict | str:
        start = time.perf_counter()
        try:
            page = read_page(file)
        except Problem as problem:
            return str(problem)
        logits = read(page)
        return {
            "label": page.label,
            "probabilities": combine(logits, settings.combine),
            "n_strips": logits.shape[0],
            "n_patches": logits.shape[0] * logits.shape[1],
            "seconds": round(time.perf_counter() - start, 4),
        }

    with ThreadPoolExecutor(threads) as pool:
        how = {"total": len(files), "desc": "labelling", "unit": "image"}
        answers = pool.map(label, files)
        if len(files) > 1:  # for one, the bar would take longer to import than to fill
            answers = progress_bar(answers, progress, **how)
        answers = list(answers)
    raise_all([answer for answer in answers if isinstance(answer, str)], "the images")
    columns = {key: [answer[key] for answer in answers] for key in answers[0]}
    rows = result_rows(
        [file.name for file in files],
        columns.pop("label"),
        np.stack(columns.pop("probabilities")),
        classes,
        **columns,
    )
    if out:
        write_rows(rows, out)
    return rows
