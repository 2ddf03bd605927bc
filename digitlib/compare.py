"""Compare: the systems that labelled the same test images, side by side.

In: the run folders under reports/, a baseline's labels in them, published labels beside the data.
Out: tables: accuracy and cost, paired differences, missed images, accuracy by amount of text.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import keras
import pandas as pd

from digitlib import Problem, ensemble, evaluate, model, printable, variants
from digitlib.dataset import GENERATED, Dataset, Page, read_page
from digitlib.pages import read_json
from digitlib.parameters import NOTEBOOKS, read_profile, setting_parameters, typed
from digitlib.report import run_folder
from digitlib.results import NUMBERS
from digitlib.settings import ENSEMBLE, Settings

PUBLISHED = "published_predictions.csv"  # filename, actual, and a column of labels a system
TABLES = {  # what a system is called, and who recorded what its training and labelling cost
    "result.csv": ("{}", "03_training", "04_ensemble"),
    "baseline.csv": ("{} baseline", "06_baselines", "06_baselines"),
    PUBLISHED: ("published {}", "", ""),
}
MOST_SYSTEMS = 40  # more are not read: no table or picture of them could be taken in
CUTS = {1: (1, 1), 2: (2, 1), 3: (3, 1), 6: (3, 2)}  # pieces of an image: rows, columns


@dataclass(frozen=True)
class Systems:
    """What each system said of the same images, in the same order, and what it cost."""

    results: dict[str, pd.DataFrame]  # system -> (n_images, 3): filename, actual, predicted
    costs: dict[str, dict[str, Any]]  # training_seconds, seconds_per_image, device; None: unknown
    skipped: list[str]  # "name: reason", a line each
    learnt_from: dict[str, tuple[str, float]]  # run -> recipe, share of each page (setting TEXT)


def gather(reports: Path, dataset: Dataset, run: str) -> Systems:
    """All that labelled ``dataset``'s test images: runs, baselines in their folders, published.

    Tables of other images, or that cannot be read, are named in ``skipped``; if ``run``'s is one
    of them, that raises Problem. Of more than MOST_SYSTEMS the newest are taken.
    """
    files = [f for n in list(TABLES)[:2] for f in reports.glob(f"[!.]*/{n}") if f.is_file()]
    files.sort(key=lambda file: (file.parent.name != run, -file.stat().st_mtime, str(file)))
    systems = Systems({}, {}, [], {})
    for file in [*dataset.folder.glob(PUBLISHED), *files]:
        try:
            if len(systems.results) >= MOST_SYSTEMS:
                raise Problem(f"older than the {MOST_SYSTEMS} systems that are compared")
            _add(systems, file, dataset)
        except Problem as problem:
            name = f"{file.parent.name}/{file.name}"
            reason = str(problem).removeprefix(f"{file}: ").replace(str(file), name)
            systems.skipped.append(printable(f"{name}: {' '.join(reason.split())}"))
    if run not in systems.results:
        why = "".join(f" ({line})" for line in systems.skipped if line.startswith(f"{run}/"))
        raise Problem(f"{run}: no result.csv of these images{why}; run 03 and 04")
    return systems


def _recorded(metrics: dict, notebook: str, *keys: str) -> Any:
    """What a notebook left in a run's metrics.json under ``keys``; None where there is nothing."""
    value = metrics
    for key in ("notebooks", notebook, *keys):
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _number(value: Any) -> float | None:
    """``value``, if it is a number of this world; a stranger's file may hold anything."""
    known = isinstance(value, int | float) and abs(value) < 1e12
    return float(value) if known else None


def _add(systems: Systems, file: Path, dataset: Dataset) -> None:
    """Read ``file`` into ``systems``; raises Problem if its images are not ``dataset``'s."""
    table, keys = evaluate.read_result_csv(file), ["filename", "actual"]
    name, trained, used = TABLES[file.name]
    recorded = partial(_recorded, read_json(file.parent / "metrics.json"))
    data = [recorded(used, "parameters", key) for key in ("dataset", "classes", "seed")]
    source = "-".join(map(str, data))  # generated data sets share their file names
    if data[0] in GENERATED and not f"{dataset.folder.name}-".startswith(f"{source}-"):
        raise Problem(f"labelled other images, those of {source}")
    truth = pd.DataFrame([(p.path.name, p.label) for p in dataset.test], columns=keys)
    same = truth.merge(table.drop_duplicates("filename"), on=keys)
    published = file.name == PUBLISHED
    if len(same) < len(truth) or (len(table) > len(same) and not published):
        raise Problem(f"other images: {len(same)} of its {len(table)} are among these {len(truth)}")
    columns = [column for column in table if column not in (*keys, *NUMBERS)]
    if not published and "predicted" not in columns:
        raise Problem("no column predicted")
    devices = [recorded(book, "device") for book in (trained, used)]
    devices = dict.fromkeys(device for device in devices if isinstance(device, str))
    # Before any is added: it may raise Problem.
    recipe = "" if published else printable(_recipe(read_json(file.parent / "run.json")))
    for column in columns[:MOST_SYSTEMS] if published else ["predicted"]:
        own = printable(name.format(column if published else file.parent.name))
        systems.results[own] = same[keys].assign(predicted=same[column].map(printable))
        systems.costs[own] = {
            "training_seconds": _number(recorded(trained, "numbers", "seconds", "all")),
            "seconds_per_image": _number(recorded(used, "numbers", "seconds_per_image")),
            "device": "; ".join(devices) or None,
        }
        if not published:
            kind = f"{recipe} baseline" if used == "06_baselines" else recipe
            text = _number(recorded(trained, "parameters", "text"))
            systems.learnt_from[own] = kind, text or 1.0


def _recipe(run: Mapping[str, Any]) -> str:
    """The profile of a run.json, and what else than its pages is not as that profile has it."""
    profile, given = str(run.get("profile", "?")), run.get("parameters")
    profiles = {path.stem for path in NOTEBOOKS.glob("profiles/*.yaml")}
    if profile not in profiles or not isinstance(given, dict):
        return profile
    known = setting_parameters()
    usual = {n: typed(known[n], v) for n, v in read_profile(profile).items() if n in known}
    usual = Settings.of(usual).recipe
    others = [name for name in usual if name not in ("dataset", "text")]
    own = {name: given.get(name.upper(), usual[name]) for name in others}
    changed = {name.upper(): value for name, value in own.items() if value != usual[name]}
    # Of a file's path its name: there is little room in a legend.
    return ", ".join([profile, *(f"{n}={Path(str(value)).name}" for n, value in changed.items())])


def score_table(systems: Systems, seed: int = 1) -> pd.DataFrame:
    """A row a system, best first: n_correct, n, accuracy, its 95 % ends, macro_f1 and the cost."""
    rows = {name: evaluate.label_scores(table, seed) for name, table in systems.results.items()}
    rows = {name: row | systems.costs[name] for name, row in rows.items()}
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("system")
    return table.sort_values("accuracy", ascending=False, kind="stable")


def comparisons(systems: Systems, run: str, seed: int = 1) -> pd.DataFrame:
    """``run`` against each other system, by `evaluate.compare`: difference is run - other.

    only_other, only_run: images right in that one alone.
    """
    said = systems.results
    rows = {n: evaluate.compare(t, said[run], seed) for n, t in said.items() if n != run}
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("system")
    table = table.rename(columns={"only_a": "only_other", "only_b": "only_run"})
    return table.sort_values("difference", kind="stable") if rows else table


def by_training_text(systems: Systems, seed: int = 1) -> pd.DataFrame:
    """Accuracy of recipes whose runs learnt from different shares of each page (setting TEXT).

    Columns: recipe, text, then as `score_table`. Of runs alike the first in ``systems`` counts.
    """
    rows = {}
    for name, learnt_from in systems.learnt_from.items():
        rows.setdefault(learnt_from, evaluate.label_scores(systems.results[name], seed))
    several = {recipe for recipe, text in rows if text < 1}
    table = [{"recipe": r, "text": t} | row for (r, t), row in sorted(rows.items()) if r in several]
    return pd.DataFrame(table)


def missed(systems: Systems, names: Sequence[str]) -> pd.DataFrame:
    """What each of ``names`` (columns) said of images (rows) that any misses; hardest first."""
    said = {name: systems.results[name].set_index("filename") for name in names}
    labels = pd.DataFrame({name: table["predicted"] for name, table in said.items()})
    n_wrong = labels.ne(said[names[0]]["actual"], axis=0).sum(axis=1)
    return labels.loc[n_wrong[n_wrong > 0].sort_values(ascending=False, kind="stable").index]


def counts_of_pieces(text: str) -> list[int]:
    """``"1 2 3"`` -> [1, 2, 3]; raises Problem for nothing, or what is none of CUTS."""
    counts = set(text.replace(",", " ").split())
    if not counts or not counts <= set(map(str, CUTS)):
        known = ", ".join(map(str, CUTS))
        raise Problem(f"PARTS must be one or more of {known}, with blanks between, not {text!r}")
    return sorted(map(int, counts))


def pieces(page: Page, n: int) -> list[Page]:
    """``page``'s image (h, w) uint8 in ``n`` parts: 1, 2 or 3 bands, or 6: 3 bands, each halved."""
    rows, columns = CUTS[n]
    return [
        half
        for band in variants.parts(page, rows)
        for half in variants.parts(band, columns, axis=1)
    ]


def in_pieces(
    label: Callable[[list[Page], int], pd.DataFrame],
    dataset: Dataset,
    parts: Sequence[int],
    seed: int = 1,
) -> list[dict]:
    """A row for each n of ``parts``: parts, then as `score_table`, of test images in n `pieces`.

    ``label``: gives the result table of pieces, and knows of their n.
    """
    rows = []
    for n in parts:
        cut = [piece for page in dataset.test for piece in pieces(page, n)]
        rows.append({"parts": n} | evaluate.label_scores(label(cut, n), seed))
    return rows


def _labelled(
    network: keras.Model, classes: list[str], settings: Settings, cut: list[Page], n: int
) -> pd.DataFrame:
    """The result table of ``cut``, a piece with its share of the patches."""
    shares = {key: -(-getattr(settings, key) // n) for key in ("n_patches", "n_even")}
    how = replace(settings, **shares, fit_height=settings.fit_height and n == 1)
    return ensemble.evaluated(cut, ensemble.votes(network, cut, how), classes, how)[0]


def by_text(
    runs: list[str],
    dataset: Dataset,
    parts: list[int],
    seed: int = 1,
    memory: int = Settings.memory,
    resize: float = Settings.resize,
) -> pd.DataFrame:
    """`in_pieces` of each run's model, and of its baseline where 06 has recorded them.

    Columns: system, then as there. A piece gets its share of the patches, and keeps its size.
    ``resize``: that ``dataset`` was read with; for models of another its test images are read anew.
    """
    rows = []
    for run in dict.fromkeys(runs):
        network, classes, settings = model.load(run_folder(run) / "model.keras")
        if settings.resize != resize:
            test = [read_page(page.path, settings.resize) for page in dataset.test]
            dataset, resize = replace(dataset, test=test), settings.resize
        metrics = read_json(run_folder(run) / "metrics.json")
        used = _recorded(metrics, "04_ensemble", "parameters") or {}
        used = {key: used[key] for key in ENSEMBLE if key in used}
        settings = replace(settings, **used, memory=memory)
        own = in_pieces(partial(_labelled, network, classes, settings), dataset, parts, seed)
        of_baseline = _recorded(metrics, "06_baselines", "numbers", "by_text") or []
        rows += [{"system": run} | row for row in own]
        rows += [{"system": f"{run} baseline"} | r for r in of_baseline if r["parts"] in parts]
    return pd.DataFrame(rows)
