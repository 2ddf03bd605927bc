"""Bench: what labels, training patches and further classes cost, side by side in one run.

In: image files. Out: a row a procedure: milliseconds an image, on the clock and of the processor,
how many times as fast as the original's, how many labels are those of Keras; and more such rows.
"""

import contextlib
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import psutil

from digitlib import (
    Problem,
    cores,
    model,
    patches,
    progress_bar,
    shipped,
    strips,
    whole_file,
    write_json,
)
from digitlib.batches import PatchStream, cutters
from digitlib.dataset import Page, image_files, load_dataset, read_page
from digitlib.engine import processor
from digitlib.pages import read_json
from digitlib.parameters import read_profile
from digitlib.pictures_of_runs import cost_of_classes, cost_of_labels
from digitlib.predict import reader, without_keras
from digitlib.report import device_name, repeatedly, run_folder
from digitlib.results import combine
from digitlib.settings import Settings

LEAST_SECONDS = 2.0  # that a procedure is timed for: a shared machine is now faster, now slower
MANY = 1000  # images of the folder that is labelled as a whole
FOUND = "bench.json"  # what was measured, in a run's folder
PLOTS = {"labels": cost_of_labels, "growth": cost_of_classes}  # beside it
FLOORS = {  # of processor time, how many times less than the published system's: half of the aim
    "paper, one-pass": 15,
    "reference-best, openvino": 20,
    # A fifth: 400 was never reached, and by AVX-512 Keras takes half as long.
    "reference-fast, openvino": 80,
}
PATCHES_FLOOR = 25  # times as many training patches a second
# Recipe `fast` for `growth`, a seventh of its examples: 7,000 classes take a quarter of an hour.
LEAN = {"PEN_CHANGE": 0, "SIZE_CHANGE": 0, "SLANT_CHANGE": 0, "EXAMPLES": 3000}


def paper() -> Settings:
    """The published system's settings, with weights drawn at random: its speed is the same."""
    return Settings.of(read_profile("paper") | {"WEIGHTS": "none"})


def original(network, settings: Settings) -> Callable[[Path], np.ndarray]:
    """The published procedure: CLAHE, blur, resize, 35 patches of 300 px, one `predict`.

    Returns probabilities (classes,) of an image file. Many calls end late, of some processors every
    second one: `predict` makes a `tf.data` pipeline of its batch, and to end one waits at times for
    the thread that tunes it, which sleeps twice as long each time, till 2.55 s from the start. (A
    pipeline with `options.autotune.enabled` off never did.)
    """

    def label(file: Path) -> np.ndarray:
        image = cv2.imdecode(np.fromfile(file, np.uint8), cv2.IMREAD_GRAYSCALE)
        strip = strips.Strip(strips.enhance(image, settings), "", 0)
        centres = patches.ensemble_centres(strip, settings, 0)
        batch = patches.cut_all(strip, centres, settings)
        return combine(network.predict(batch, batch_size=len(batch), verbose=0)[None])

    return label


def timed(
    name: str, label: Callable[[Path], np.ndarray], files: Sequence[Path], classes: list[str]
) -> dict[str, Any]:
    """One procedure, ``label``, on ``files``: name and labels; ms an image, from its file to its
    label: the mean, what a folder's time divides into; ms_10 and ms_90: one image in ten takes
    less, and one more; cpu_ms: the mean of all cores together, whatever else they do.

    Round after round for LEAST_SECONDS; a first one is not counted, in which shapes are new.
    """
    labels = [classes[int(label(file).argmax())] for file in files]
    took, begun = [], time.perf_counter()
    while time.perf_counter() - begun < LEAST_SECONDS:
        for file in files:
            start = time.perf_counter(), time.process_time()
            label(file)
            took.append((time.perf_counter() - start[0], time.process_time() - start[1]))
    wall, cpu = 1000 * np.array(took).T
    low, high = np.percentile(wall, [10, 90])
    return {
        "name": name,
        "ms": float(wall.mean()),
        "ms_10": float(low),
        "ms_90": float(high),
        "cpu_ms": float(cpu.mean()),
        "labels": labels,
    }


def _published(files: Sequence[Path], classes: list[str]) -> dict[str, Any]:
    """The published procedure, ``timed``; for a process of its own, as it would have: what training
    changed for good, such as `model.keep_memory`, would make it up to twice as fast."""
    cv2.setNumThreads(cores())
    settings = paper()
    label = original(model.build(len(classes), settings).whole, settings)
    return timed("the original's procedure", label, files, classes)


def compared(files: Sequence[Path], names: Sequence[str] = (), precise: bool = False) -> list[dict]:
    """A row a procedure: what `timed` gives but its labels, times (as fast as the original's, by
    ms), cpu_times (by cpu_ms), same and n: how many labels are those of Keras, of how many.

    The original's procedure; the same network's graphs, ``paper``; each model of ``names``
    (shipped, runs, files) by its graphs and by Keras. ``precise``: labels are then asked of graphs
    in float32, also where the processor is timed in bfloat16.
    """
    cv2.setNumThreads(cores())  # one image after the other, as in `predict` of one
    settings = paper()
    with tempfile.TemporaryDirectory() as folder:
        network = model.build(70, settings).whole
        classes = [f"{i:02}" for i in range(1, 71)]
        weights = model.save(network, classes, settings, Path(folder) / "paper.keras")
        jobs = [("paper", weights, engine) for engine in without_keras(settings)]
        for name in dict.fromkeys(map(str, names)):
            path = shipped.find(name)
            engines = [*without_keras(shipped.read_card(path)[1]), "keras"]
            jobs += [(name, path, engine) for engine in engines]
        bar = progress_bar(None, total=1 + len(jobs), desc="bench", unit="procedure")
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            rows = [pool.submit(_published, files, classes).result()]
        bar.update()
        found = {}
        # Keras last: what it leaves behind makes the graphs a tenth slower, and `predict` has none.
        for job in sorted(jobs, key=lambda job: job[2] == "keras"):
            name, path, engine = job
            classes, how, _ = shipped.read_card(path)
            read, _ = reader(path, engine)

            def label(file: Path, read=read, how=how) -> np.ndarray:
                return combine(read(read_page(file, how.resize)), how.combine)

            row = found[job] = timed(f"{name}, {engine}", label, files, classes)
            if precise and engine != "keras":
                read, _ = reader(path, engine, precise=True)
                row["labels"] = [classes[label(file, read).argmax()] for file in files]
            bar.update()
        bar.close()
    for name, path, engine in jobs:  # a run may be called paper, too: the path tells them apart
        row = found[name, path, engine]
        if exact := found.get((name, path, "keras")):
            row["same"] = int(sum(np.array(row["labels"]) == exact["labels"]))
        rows.append(row)
    for row in rows:
        del row["labels"]
        row["times"] = rows[0]["ms"] / row["ms"]
        row["cpu_times"] = rows[0]["cpu_ms"] / row["cpu_ms"]
        row |= {"same": row.get("same"), "n": len(files)}
    return rows


def _a_second(make: Callable[[int], int], n: int, rounds: int = 5) -> float:
    """How many patches ``make`` cuts a second, called with 0 to n - 1 by `cutters`: median."""
    make(0)  # what is made once, such as where the ink is
    rates = []
    with ThreadPoolExecutor(cutters()) as pool:
        for _ in range(rounds):
            start = time.perf_counter()
            made = sum(pool.map(make, range(n)))
            rates.append(made / (time.perf_counter() - start))
    return statistics.median(rates)


def pipeline(pages: Sequence[Page]) -> list[dict]:
    """A row a way to make training patches of strips: name, patches_a_second, times; the last also
    step_ms and batch_ms: what a batch takes its network, and what making it takes.

    The original's generator enhances the strip anew for each patch.
    """
    model.keep_memory()  # as training does
    cv2.setNumThreads(1)  # of each thread that cuts
    settings, how = paper(), Settings.of(read_profile("quick") | {"WEIGHTS": "none"})

    def generated(i: int) -> int:
        strip, rng = strips.band(pages[i % len(pages)], settings), np.random.default_rng([1, i])
        patches.cut_each([strip], patches.random_centres([strip], settings, rng), settings, rng)
        return 1

    rows = [{"name": "the original's generator", "patches_a_second": _a_second(generated, 100)}]
    classes = sorted({page.label for page in pages})
    for name, own in {"paper": settings, "quick": how}.items():
        items = [strips.band(page, own) for page in pages]
        for item in items:
            len(item.ink_points), item.paper  # noqa: B018 (worked out once, and kept)
        stream = PatchStream(items, classes, own).at(0, 2)
        rate = _a_second(lambda i, stream=stream: len(stream[i][1]), 2000 // own.batch_size)
        rows.append({"name": f"{name}, strips cached", "patches_a_second": rate})
    # What feeds on the last of them.
    network, batch, steps = model.build(len(classes), how).whole, stream[0], []
    network.compile("adam", "sparse_categorical_crossentropy", jit_compile=model.jit_pays())
    for _ in progress_bar(range(8), desc="training steps", unit="step"):
        start = time.perf_counter()
        network.train_on_batch(*batch)
        steps.append(1000 * (time.perf_counter() - start))
    rows[-1] |= {"step_ms": statistics.median(steps), "batch_ms": 1000 * how.batch_size / rate}
    return [row | {"times": row["patches_a_second"] / rows[0]["patches_a_second"]} for row in rows]


@contextlib.contextmanager
def _most_memory() -> Iterator[list[int]]:
    """The most bytes that this process holds meanwhile, in a list of one.

    Without what is mapped from files (on Linux): the system takes that back when it likes.
    """
    most, this = [0], psutil.Process()

    def sample() -> None:
        held = this.memory_info()
        most[0] = max(most[0], held.rss - getattr(held, "shared", 0))

    with repeatedly(sample, 0.1):
        yield most


def _grown(classes: int) -> dict:
    """What `growth` says of one number of ``classes``; for a process of its own."""
    from digitlib.train import train

    changed = LEAN | {"DATASET": "hands", "CLASSES": classes}
    settings = Settings.of(read_profile("fast") | changed)
    with tempfile.TemporaryDirectory() as folder, _most_memory() as most:
        dataset = load_dataset("hands", classes)
        start = time.perf_counter()
        network = train(dataset, settings, Path(folder) / "training").network
        seconds = time.perf_counter() - start
        file = model.save(network, dataset.classes, settings, Path(folder) / "model.keras")
        read, _ = reader(file)
        files = [page.path for page in dataset.test if page.image.shape[0] < 400][:20]
        row = timed("", lambda file: combine(read(read_page(file))), files, dataset.classes)
    pairs = zip(files, row["labels"], strict=True)
    right = sum(file.name.startswith(f"{label}_") for file, label in pairs)
    return {
        "classes": classes,
        "training_seconds": seconds,
        "seconds_a_class": seconds / classes,
        "ms": row["ms"],
        "right": right,
        "n": len(files),
        "peak_mb": most[0] / 1e6,
    }


def growth(numbers: Sequence[int]) -> Iterator[dict]:
    """A row a number of classes, generated hands by recipe `fast`, `LEAN`: classes, right of n
    labels, training_seconds, seconds_a_class, ms a label, peak_mb. Each in a process of its own."""
    for classes in progress_bar(numbers, desc="growth", unit="data set"):
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            yield pool.submit(_grown, classes).result()


def process(*arguments: str) -> tuple[float, int]:
    """(seconds, peak bytes) of a whole `python -m digitlib` with ``arguments``."""
    start, peak = time.perf_counter(), 0
    command = [sys.executable, "-m", "digitlib", *arguments]
    how = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    how["env"] = os.environ | {"TQDM_DISABLE": "1"}  # a bar would fill the pipe, which waits
    with subprocess.Popen(command, **how) as child:
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
            own = many / f"{i}_{file.name}"
            try:
                own.symlink_to(file.resolve())
            except OSError:  # Windows asks for a privilege
                shutil.copyfile(file, own)
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


def regressions(found: dict) -> list[str]:
    """What `bench` found that may not be, a sentence each: labels unlike those of Keras, FLOORS."""
    worse = []
    for row in found["labels"]:
        name, same = row["name"], row["same"]
        exact = name.endswith(", openvino")  # of one pass not all are the same
        if exact and same is not None and same < row["n"]:
            worse.append(f"{name}: {row['n'] - same} of {row['n']} labels are not those of Keras")
        if row["cpu_times"] < (least := FLOORS.get(name, 0)):
            worse.append(f"{name}: {row['cpu_times']:.1f} times less work, and not {least}")
    if (row := found["pipeline"][-1])["times"] < PATCHES_FLOOR:
        worse.append(f"{row['name']}: {row['times']:.1f} times as fast, and not {PATCHES_FLOOR}")
    return worse


def bench(
    images: Sequence[Path],
    names: Sequence[str],
    quick: bool = False,
    classes: Sequence[int] = (),
    folder: Path | None = None,
) -> dict:
    """Everything that is measured, ready for JSON; to `FOUND` in ``folder``, if given, with plots.

    ``quick``: a few images, labels in float32 on any processor (strangers' hands are near to no
    class, and bfloat16 may round to another one), no processes of their own. ``classes``: numbers
    of them for `growth`; without any it is what ``folder`` has of it.
    """
    for number in classes:
        Settings(classes=number)  # a wrong one is refused now, not after all else
    files = image_files(images)
    files = files[:: -(-len(files) // (4 if quick else 24))]
    pages = [read_page(file) for file in files]  # one that cannot be read is named at once
    found = {"device": f"{device_name()}, {processor()}", "images": len(files)}
    if folder and not classes and "growth" in (before := read_json(folder / FOUND)):
        found["growth"] = before["growth"]  # half an hour's work: it stays till it is done again

    def keep(**more: list[dict]) -> None:
        found.update(more)
        if folder:  # after each part: the last can take hours
            write_json(folder / FOUND, found)
            for name, draw in PLOTS.items():
                if name in more:
                    with whole_file(folder / f"{name}.png") as aside:
                        draw(pd.DataFrame(found[name])).savefig(aside, format="png")

    keep(labels=compared(files, names, precise=quick))
    keep(pipeline=pipeline(pages))
    if not quick:
        keep(processes=[whole_processes(files, name, MANY) for name in names])
    for row in growth(classes):
        keep(growth=[*found.get("growth", []), row])
    return found


def results(run: str, dataset: str, names: Sequence[str]) -> dict:
    """What `bench` left in reports/``run``; where it was not done, a quick one of ``names``.

    That labels test images of the data set ``dataset``. Raises Problem where it left others.
    """
    folder = run_folder(run)
    found = read_json(folder / FOUND)
    if "pipeline" not in found:
        images = [page.path for page in load_dataset(dataset, progress=False).test]
        found = bench(images, names, quick=True, folder=folder)
    measured = {row["name"].rpartition(", ")[0] for row in found["labels"]}  # of each engine
    for name in names:
        if name not in measured:
            raise Problem(
                f"{folder / FOUND}: {name} was not measured; do so by `python -m digitlib bench "
                f"--model {name}`, which writes the run `bench`, and give that as RUN"
            )
    return found
