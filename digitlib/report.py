"""The report: runs the notebooks headless, each in its own kernel, and records what they conclude.

In: notebooks/NN_*.ipynb, a profile (YAML), parameters from the command line.
Out: reports/<run>/ (executed notebooks, HTML pages, metrics.json, run.json), reports/index.html.
"""

import dataclasses
import hashlib
import importlib.metadata
import logging
import math
import os
import platform
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import digitlib
from digitlib import Problem, printable_lines, write_json
from digitlib.pages import read_json, recorded, states_of, write_index, write_page
from digitlib.parameters import (
    Notebook,
    notebook_paths,
    read_notebook,
    read_profile,
    setting_parameters,
    settled,
)
from digitlib.settings import ENSEMBLE, Settings

# What an earlier run of a name left, and a whole new one must not find:
LEFT = "metrics.json result.csv baseline.csv probabilities.npy classes.csv bench.json kernels.log"
MOST_NAME = 100  # characters of a run's name
PACKAGES = ("numpy", "scipy", "scikit-learn", "opencv-python-headless", "papermill", "openvino")
PACKAGES += ("keras", "tensorflow", "jax", "torch")


# --- The run folder --------------------------------------------------------------------------


def run_folder(run: str) -> Path:
    """reports/<run>. Raises Problem for a name that is not one plain folder name."""
    if not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]*", str(run)):
        raise Problem(f"run name {run!r}: use letters, digits, '.', '_' and '-' only")
    return digitlib.REPORTS / run


def plain(value: Any) -> Any:
    """``value`` as JSON can hold it: arrays as lists, NaN and infinity as None."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = dataclasses.asdict(value)
    if isinstance(value, Mapping):
        return {str(plain(key)): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set):
        return [plain(item) for item in value]
    if hasattr(value, "tolist"):  # numpy scalars and arrays, pandas columns
        return plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int | str) else str(value)


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that make the numbers; imports none of them."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            name = "opencv" if package.startswith("opencv") else package
            found[name] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def git_commit() -> str | None:
    """The commit of this code, with "-dirty" when tracked files differ; None without git."""
    return _said("git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")


def _said(*command: str) -> str | None:
    """The first line of what ``command`` prints; None if nothing, or it is not there."""
    try:
        answer = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=20
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return next(iter(answer.stdout.splitlines()), "").strip() or None


def device_name() -> str:
    """The device that Keras computes on, if this process has loaded Keras, else the CPU."""
    cpu, found = f"cpu ({digitlib.cores()} cores, {platform.machine()})", []
    if "keras" in sys.modules:
        from digitlib.model import gpus

        found = gpus()
    if not found:
        return cpu
    # Backends name their cards in ways of their own; NVIDIA's driver brings this tool.
    card = _said("nvidia-smi", "--query-gpu=name", "--format=csv,noheader")
    return f"{len(found)} gpu ({card}), {cpu}" if card else f"{len(found)} gpu, {cpu}"


def peak_memory_mb() -> float:
    """The most memory that this process has held so far, in MB (10^6 bytes)."""
    if sys.platform == "win32":
        import psutil

        return psutil.Process().memory_info().peak_wset / 1e6
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6  # bytes on macOS, else kiB


def record(run: str, notebook: str, numbers: Mapping[str, Any], parameters: Any) -> None:
    """Write what a notebook concluded under its name into reports/<run>/metrics.json.

    ``numbers``: any nesting of numbers, text, arrays. ``parameters``: a mapping or a dataclass.
    """
    import psutil

    path = run_folder(run) / "metrics.json"
    metrics, values = read_json(path), plain(parameters)
    before = recorded(metrics)
    entry = {
        "numbers": numbers,
        "parameters": values,
        "seed": values.get("seed"),
        "recorded": now(),
        "git_commit": git_commit(),
        "versions": versions(),
        "device": device_name(),
        "wall_seconds": round(time.time() - psutil.Process().create_time(), 1),
        "peak_memory_mb": round(peak_memory_mb()),
    }
    notebooks = before | {notebook: plain(entry)}
    write_json(path, metrics | {"run": run, "notebooks": notebooks})


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


# --- Running ---------------------------------------------------------------------------------


@contextmanager
def repeatedly(call: Callable[[], None], seconds: float) -> Iterator[None]:
    """``call`` every so many ``seconds`` while the block runs, in a thread; ended after it."""
    over = threading.Event()

    def run() -> None:
        while not over.wait(seconds):
            call()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@contextmanager
def watched(line: str) -> Iterator[dict[str, float]]:
    """Print ``line`` with the time that the block takes; sample the memory it holds meanwhile.

    Yields {"seconds": …, "peak_memory_mb": …}, complete after the block: resident memory of this
    process and its kernels together (pages that they share count twice).
    """
    import psutil

    live, started, me = sys.stdout.isatty(), time.monotonic(), psutil.Process()
    seen = {"seconds": 0.0, "peak_memory_mb": 0.0}

    def sample() -> None:
        held = 0
        for process in [me, *me.children(recursive=True)]:
            try:
                held += process.memory_info().rss
            except psutil.Error:  # it ended between the two calls
                continue
        seen["peak_memory_mb"] = max(seen["peak_memory_mb"], round(held / 1e6))
        if live:
            print(f"\r{line} … {time.monotonic() - started:.0f} s", end="", flush=True)

    print(f"{line} …", end="", flush=True)
    try:
        with repeatedly(sample, 0.5):
            yield seen
    finally:
        seen["seconds"] = round(time.monotonic() - started, 1)
        print(f"{chr(13) + line + ' …' if live else ''} {seen['seconds']:.0f} s", flush=True)


@contextmanager
def stderr_to(log: Path) -> Iterator[None]:
    """Append what this process and its children write to stderr to ``log``.

    Kernels inherit it: what TensorFlow says while it loads would break the progress lines.
    """
    sys.stderr.flush()
    if log.is_symlink():  # a stranger's run folder: nothing outside is written to
        log.unlink()
    before = os.dup(2)
    try:
        with log.open("ab") as file:
            os.dup2(file.fileno(), 2)
            yield
            sys.stderr.flush()
    finally:
        os.dup2(before, 2)
        os.close(before)


def execute(path: Path, out: Path, parameters: Mapping[str, Any]) -> str | None:
    """Run one notebook in its own kernel; what went wrong, or None. Never in place.

    What was done before an error, a dead kernel or a Ctrl-C is kept in ``out``.
    """
    import nbformat
    import papermill

    logging.getLogger("papermill").setLevel(logging.ERROR)  # parameters are checked here already
    partial = out.with_name(f".{out.stem}.partial.ipynb")
    partial.unlink(missing_ok=True)  # were it a link, what it names would be overwritten
    try:
        papermill.execute_notebook(
            nbformat.read(path, as_version=4),
            partial,
            dict(parameters),
            kernel_name="python3",
            language="python",
            progress_bar=False,
            extra_arguments=["--log-level=CRITICAL"],  # remarks would break the progress line
            cwd=path.parent,
        )
    except papermill.PapermillExecutionError as error:
        return printable_lines(f"{error.ename}: {error.evalue}".strip().rstrip(":"))
    except Exception as error:  # the kernel died (out of memory?) or could not be started
        return printable_lines(f"{type(error).__name__}: {error}")
    finally:
        if partial.exists():
            os.replace(partial, out)
    return None


def default_run_name(profile: str, dataset: str, changed: Mapping[str, Any]) -> str:
    """<profile>-<dataset>, and what ``-p`` changed: runs of a sweep do not overwrite each other."""
    parts = [Path(profile).stem, Path(dataset).name]
    for name, value in sorted(changed.items()):
        parts += [name.lower(), Path(str(value)).name]
    safe = [re.sub(r"[^A-Za-z0-9._]+", "-", part).strip(".-") for part in parts]
    name = "-".join(part for part in safe if part)
    told = all(safe) and all(Path(str(value)).name == str(value) for value in changed.values())
    if told and len(name) <= MOST_NAME:
        return name
    lost = repr([Path(dataset).name, sorted(changed.items())]).encode()
    return f"{name[:MOST_NAME] or 'run'}-{hashlib.sha256(lost).hexdigest()[:6]}"


def _chosen(suite: list[Notebook], numbers: str) -> list[Notebook]:
    """The notebooks that ``numbers`` ("06 08", or "all") name; raises Problem for others."""
    if numbers == "all":
        return suite
    wanted = numbers.replace(",", " ").split()
    if not wanted:
        raise Problem("--notebooks names none; give numbers, such as '06 08', or all")
    numbered = {notebook.name[:2]: notebook.name for notebook in suite}
    names = {numbered.get(number, number) for number in wanted}
    if unknown := sorted(names - set(numbered.values())):
        there = ", ".join(numbered)
        raise Problem(f"no notebook {unknown[0]!r}; there are: {there}, or all; blanks between")
    return [notebook for notebook in suite if notebook.name in names]


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a report is going to do. All of it has been checked, and nothing is written yet."""

    run: str
    profile: str
    dataset: str
    notebooks: list[Notebook]  # to run, in order
    values: dict[str, Any]  # that they are given
    changed: dict[str, Any]  # those of the run that were given, or are no notebook's default
    kept: list[dict] | None  # states of the run's other notebooks; None: the run begins anew


def planned(
    profile: str, parameters: Mapping[str, Any], run: str | None = None, chosen: str | None = None
) -> Plan:
    """The plan of `run_report`; raises Problem, as there."""
    from digitlib.dataset import refuse_names

    suite = [read_notebook(path) for path in notebook_paths()]
    declared = {name: p for notebook in suite for name, p in notebook.parameters.items()}
    defaults = {name: p.default for name, p in declared.items()}
    values = settled(read_profile(profile) | dict(parameters), declared)
    dataset = str(values.get("DATASET", defaults.get("DATASET", "")))
    given = {name: values[name] for name in parameters if name not in ("DATASET", "RUN")}
    named = run or values.get("RUN")
    recipe = {name: value for name, value in given.items() if name != "MEMORY"}
    run = named or default_run_name(profile, dataset, recipe)
    folder, name = run_folder(run), Path(profile).stem
    before = read_json(folder / "run.json")
    theirs = before.get("profile", name), before.get("dataset", dataset)
    known = before.get("parameters") if isinstance(before.get("parameters"), dict) else {}
    todo = [n for n in suite if not n.on_request] if chosen is None else _chosen(suite, chosen)
    read = {name for notebook in todo for name in notebook.parameters}
    if chosen is None:
        kept = None
        if not named and theirs[1] != dataset:
            raise Problem(
                f"{folder} is a run on {theirs[1]}: give this one a name of its own, --run"
            )
    else:
        if theirs != (name, dataset):
            raise Problem(
                f"{run} is a run of profile {theirs[0]} on {theirs[1]}: give both, or another --run"
            )
        kept = [own for own in states_of(before) if own["name"] not in {n.name for n in todo}]
        # The recipe is the run's, but for what is given now.
        knobs = (setting_parameters().keys() - {"DATASET"}) & read & known.keys() - set(parameters)
        values |= settled({name: known[name] for name in knobs}, declared)
        done = {own["name"] for own in kept if own["status"] == "done"}
        now_given = {name: value for name, value in values.items() if name in read}
        _refuse_two_recipes(run, [n for n in suite if n.name in done], known, now_given)
    # What the run has already may name it.
    for idle in sorted(n for n in given.keys() - read if known.get(n) != given[n]):
        own = [n.name[:2] for n in suite if idle in n.parameters]
        numbers = " ".join([n.name[:2] for n in todo] + own)
        raise Problem(
            f"{idle} is a parameter of {', '.join(own)} alone: add what reads it, such as "
            f"--notebooks '{numbers}'"
        )
    Settings.of(defaults | values)  # ranges
    if dataset:
        refuse_names(dataset, any(notebook.tests for notebook in todo))
    differ = {
        name: value
        for name, value in values.items()
        if name != "RUN"
        and any(n.parameters[name].default != value for n in suite if name in n.parameters)
    }
    stay = {own["name"] for own in kept or []}
    of_kept = {name for notebook in suite if notebook.name in stay for name in notebook.parameters}
    changed = {name: value for name, value in known.items() if name in of_kept}
    changed |= {name: value for name, value in (differ | given).items() if name in read}
    return Plan(run, name, dataset, todo, values | {"RUN": run}, changed, kept)


def _refuse_two_recipes(
    run: str, kept: list[Notebook], known: Mapping[str, Any], values: Mapping[str, Any]
) -> None:
    """Raise Problem if ``run`` would then hold results of two recipes: ``kept`` notebooks had the
    values ``known``, or their defaults, and those to be run have ``values``. How patches are
    combined, and the memory that is used, may differ."""
    may = {name.upper() for name in ("dataset", "memory", *ENSEMBLE)}  # the data set was looked at
    must = values.keys() & setting_parameters().keys() - may
    for notebook in kept:
        for name in sorted(must & notebook.parameters.keys()):
            was = known.get(name, notebook.parameters[name].default)
            if was != values[name]:
                raise Problem(
                    f"{run} has {notebook.name} by {name} {was}, not {values[name]}: run that "
                    "anew, too (--notebooks), or give this a --run of its own"
                )


def run_report(
    profile: str = "quick",
    parameters: Mapping[str, Any] | None = None,
    dataset: str | None = None,
    run: str | None = None,
    chosen: str | None = None,
) -> int:
    """Run the notebooks in order into reports/<run>/; 0 if all went well, else 1.

    ``chosen``: numbers of notebooks ("06 08"), or "all"; by default all but those `on_request`.
    What the run's other notebooks left is then kept. A notebook is skipped when one that it needs
    failed. Raises Problem, before anything is written, for an unknown profile, parameter, file or
    layer, for a parameter that none of the notebooks has, for a value of the wrong type, and for a
    dataset folder whose files' names do not fit.
    """
    given = dict(parameters or {}) | ({"DATASET": dataset} if dataset is not None else {})
    plan = planned(profile, given, run, chosen)
    folder = run_folder(plan.run)
    folder.mkdir(parents=True, exist_ok=True)
    if plan.kept is None:
        # An earlier run of this name must not lend its numbers; checkpoints and model may stay.
        for old in [*folder.glob("[0-9]*.ipynb"), *folder.glob("[0-9]*.html")]:
            old.unlink()
        for name in LEFT.split():
            (folder / name).unlink(missing_ok=True)
    else:  # nor must what these notebooks left before, should they fail now
        todo = {notebook.name for notebook in plan.notebooks}
        for name in todo:
            for ending in "ipynb", "html":
                (folder / f"{name}.{ending}").unlink(missing_ok=True)
        metrics = read_json(folder / "metrics.json")
        stay = {name: own for name, own in recorded(metrics).items() if name not in todo}
        write_json(folder / "metrics.json", metrics | {"notebooks": stay})
    return _carry_out(plan, folder)


def _carry_out(plan: Plan, folder: Path) -> int:
    """Run the plan's notebooks; run.json, the pages and the index follow each step."""
    kept, states = plan.kept or [], [{"name": n.name, "status": "waiting"} for n in plan.notebooks]
    everything = sorted(kept + states, key=lambda own: own["name"])
    state = {
        "run": plan.run,
        "profile": plan.profile,
        "dataset": plan.dataset,
        "parameters": plan.changed,
        "started": now(),
        "status": "running",
        "seconds": 0.0,
        "notebooks": everything,
        "git_commit": git_commit(),
        "versions": versions(),
    }
    started = time.monotonic()

    def numbers(key: str, states: list[dict]) -> list[float]:
        values = [own.get(key) for own in states]
        return [value for value in values if isinstance(value, int | float)]

    def save() -> None:
        state["seconds"] = round(sum(numbers("seconds", kept)) + time.monotonic() - started, 1)
        state["peak_memory_mb"] = max(numbers("peak_memory_mb", everything), default=0)
        write_json(folder / "run.json", state)
        write_index()

    print(f"{len(states)} notebooks into {folder}", flush=True)
    try:
        save()
        for number, (notebook, own) in enumerate(zip(plan.notebooks, states, strict=True), 1):
            line, out = f"[{number}/{len(states)}] {notebook.name}", folder / notebook.path.name
            failed = [s["name"] for s in everything if s["status"] != "done"]
            if bad := [name for name in failed if name in notebook.needs]:
                own |= {"status": "skipped", "error": f"needs {', '.join(bad)}"}
                print(f"{line} skipped: {own['error']}", flush=True)
            else:
                own["status"] = "running"
                save()
                mine = {n: plan.values[n] for n in notebook.parameters if n in plan.values}
                with watched(line) as seen, stderr_to(folder / "kernels.log"):
                    own["error"] = execute(notebook.path, out, mine)
                own |= seen | {"status": "failed" if own["error"] else "done"}
                if own["error"]:
                    print(f"      failed: {own['error']}", flush=True)
            write_page(out, notebook.path, state, own)
            save()
        sources = {source.stem: source for source in notebook_paths()}
        for own in kept:  # anew: from them, too, one comes to the others
            source = sources.get(own["name"])
            if source and (executed := folder / source.name).is_file():
                write_page(executed, source, state, own)
        state["status"] = "done" if all(s["status"] == "done" for s in everything) else "failed"
    except BaseException:
        for unfinished in [state, *(s for s in states if s["status"] == "running")]:
            unfinished["status"] = "interrupted"
        raise
    finally:
        metrics = read_json(folder / "metrics.json")
        used = [str(entry.get("device")) for entry in recorded(metrics).values()]
        state["device"] = next((name for name in used if "gpu" in name), device_name())
        save()
        keep = {key: state[key] for key in ("status", "seconds", "peak_memory_mb", "device")}
        write_json(folder / "metrics.json", metrics | {"run": plan.run} | keep)
        index = write_index()
    print(f"{state['status']} in {time.monotonic() - started:.0f} s; open {index}", flush=True)
    return 0 if all(s["status"] == "done" for s in states) else 1
