"""Bench: what a label costs, next to the original's procedure, side by side in one run.

In: image files. Out: a row a procedure: milliseconds an image, how many times as fast as the
original's, and how many labels are those of the same weights patch by patch.
"""

import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import psutil

from digitlib import Problem, model, patches, progress_bar, shipped, strips, whole_file
from digitlib.dataset import image_files, read_page
from digitlib.parameters import read_profile
from digitlib.predict import reader
from digitlib.report import device
from digitlib.results import combine
from digitlib.settings import Settings

MANY = 1000  # images of the folder that is labelled as a whole


@dataclass(frozen=True)
class Row:
    """One procedure on the same images."""

    name: str
    ms: float  # an image, from its file to its label: median
    labels: list[str]


def paper() -> Settings:
    """The published system's settings, with weights drawn at random: its speed is the same."""
    return Settings.of(read_profile("paper") | {"WEIGHTS": "none"})


def original(network, settings: Settings) -> Callable[[Path], np.ndarray]:
    """The published procedure: CLAHE, blur, resize, 35 patches of 300 px, one `predict`.

    Returns probabilities (classes,) of an image file.
    """

    def label(file: Path) -> np.ndarray:
        image = cv2.imread(str(file), cv2.IMREAD_GRAYSCALE)
        strip = strips.Strip(strips.enhance(image, settings), "", 0, file.name)
        centres = patches.ensemble_centres(strip, settings, 0)
        batch = patches.cut_all(strip, centres, settings)
        return combine(network.predict(batch, batch_size=len(batch), verbose=0)[None])

    return label


def timed(
    name: str, label: Callable[[Path], np.ndarray], files: Sequence[Path], classes: list[str]
) -> Row:
    """``label`` on each of ``files``, after a round that is not counted: shapes are new once."""
    for file in files:
        label(file)
    seconds, labels = [], []
    for file in files:
        start = time.perf_counter()
        labels.append(classes[int(label(file).argmax())])
        seconds.append(time.perf_counter() - start)
    return Row(name, 1000 * statistics.median(seconds), labels)


def compared(
    files: Sequence[Path], names: Sequence[str] = (), exact: bool = True, progress: bool = True
) -> list[dict]:
    """A row a procedure: name, ms, times (as fast as the original's), same, n.

    The original's procedure; the same network in one pass; each model of ``names`` (shipped, runs,
    files) in its engine and, with ``exact``, in Keras patch by patch. same: how many labels are
    those of Keras, of ``n``.
    """
    cv2.setNumThreads(1)
    settings, rows = paper(), []
    with tempfile.TemporaryDirectory() as folder:
        network = model.build(70, settings).whole
        classes = [f"{i:02}" for i in range(1, 71)]
        weights = model.save(network, classes, settings, Path(folder) / "paper.keras")
        jobs = {"paper": weights} | {str(name): shipped.find(name) for name in names}
        bar = progress_bar(None, progress, total=1 + len(jobs) * (1 + exact), desc="bench")
        base = timed("the original's procedure", original(network, settings), files, classes)
        rows.append({"name": base.name, "ms": base.ms, "times": 1.0, "same": None})
        bar.update()
        for name, path in jobs.items():
            classes, how, _ = shipped.read_card(path)
            found = {}
            for engine in ["openvino", *["keras"] * (exact and name != "paper")]:
                read, _ = reader(path, engine)
                found[engine] = timed(
                    f"{name}, {engine}",
                    lambda file, read=read, how=how: combine(read(read_page(file)), how.combine),
                    files,
                    classes,
                )
                bar.update()
            for row in found.values():
                same = None
                if "keras" in found:
                    same = int(sum(np.array(row.labels) == found["keras"].labels))
                own = {"times": base.ms / row.ms, "same": same}
                rows.append({"name": row.name, "ms": row.ms} | own)
        bar.close()
    return [row | {"n": len(files)} for row in rows]


def process(*arguments: str) -> tuple[float, int]:
    """(seconds, peak bytes) of a whole `python -m digitlib` with ``arguments``."""
    start, peak = time.perf_counter(), 0
    command = [sys.executable, "-m", "digitlib", *arguments]
    quiet = subprocess.DEVNULL
    with subprocess.Popen(command, stdout=quiet, stderr=subprocess.PIPE) as child:
        watched = psutil.Process(child.pid)
        while child.poll() is None:
            with contextlib.suppress(psutil.Error):  # it is just ending
                peak = max(peak, watched.memory_info().rss)
            time.sleep(0.01)
        seconds = time.perf_counter() - start
        if child.returncode:
            raise Problem(f"{' '.join(arguments)}: {child.stderr.read().decode()[-500:]}")
    return seconds, peak


def whole_processes(files: Sequence[Path], name: str, n: int, repeats: int = 5) -> dict:
    """cold_seconds of labelling one image, strips_a_second and peak_bytes of labelling ``n``."""
    with tempfile.TemporaryDirectory() as folder:
        many = Path(folder) / "strips"
        many.mkdir()
        for i in range(n):
            file = files[i % len(files)]
            (many / f"{i}_{file.name}").symlink_to(file.resolve())
        out = ["--model", name, "--out", str(Path(folder) / "r.csv")]
        cold = [process("predict", str(files[0]), *out)[0] for _ in range(repeats)]
        seconds, peak = process("predict", str(many), *out)
    return {
        "name": name,
        "cold_seconds": statistics.median(cold),
        "n": n,
        "strips_a_second": n / seconds,
        "peak_bytes": peak,
    }


def bench(
    images: Sequence[Path],
    names: Sequence[str],
    quick: bool = False,
    folder: Path | None = None,
    progress: bool = True,
) -> dict:
    """Everything that is measured, ready for JSON; to bench.json in ``folder``, if given.

    ``quick``: a few images, no processes of their own.
    """
    files = image_files(images)
    files = files[:: max(1, len(files) // (4 if quick else 20))]
    found = {
        "device": device(),
        "labels": compared(files, names, exact=not quick, progress=progress),
    }
    if not quick:
        found["processes"] = [whole_processes(files, name, MANY) for name in names]
    if folder:
        with whole_file(folder / "bench.json") as aside:
            aside.write_text(json.dumps(found, indent=1), "utf-8")
    return found
