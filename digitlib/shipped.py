"""Shipped models: what a saved model says about itself, and the models that come with digitlib.

In: `.keras` files that hold a card, as JSON. Out: the card, checked; no network is loaded.
"""

import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import digitlib
from digitlib import Problem, whole_file
from digitlib.pages import duration, read_json
from digitlib.settings import Settings

FOLDER = Path(__file__).with_name("weights")
DEFAULT = "reference-best"  # what `predict` uses
CARD = "digitlib.json"  # the member of a .keras file with class names, settings and what is known
DATA = {  # what a model's classes are, by the data set it learnt from
    "reference": "the reference pages, one a writer: the classes are 70 people, not digits",
    "digits": "generated pages, one a number: the classes are 01 to 70 as numbers",
    "hands": "generated pages, one a hand: the classes are made-up writers",
}
FORMAT = 3  # of model files; 2 had graphs without weights, 1 VLAD without intra-normalisation
SURE = "sure from"  # what the card calls the confidence from which on answers count as sure
MOST_BYTES = 2**30  # of a model file, unpacked
MOST_CARD = 2**24


def read_member(archive: zipfile.ZipFile, name: str, most: int) -> bytes:
    """The content of ``name``, of up to ``most`` bytes; raises Problem for more.

    What a file says of its members' sizes need not be true: no more than that is ever unpacked.
    """
    member = archive.getinfo(name)
    if member.file_size > most:
        raise Problem(f"its {name} has more than {most / 2**20:.0f} MiB")
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise Problem(f"its {name} is packed in a way that digitlib does not use")
    with archive.open(member) as file:
        return file.read(member.file_size)


def read_card(path: Path) -> tuple[list[str], Settings, dict[str, str]]:
    """(class names, settings, what is known about it) of a model file that `model.save` wrote.

    Nothing is deserialised but JSON. Raises Problem for what is no such file.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(member.file_size for member in archive.infolist()) > MOST_BYTES:
                raise Problem(f"unpacks to more than {MOST_BYTES >> 20} MiB")
            card = json.loads(read_member(archive, CARD, MOST_CARD))
        if card.get("format") != FORMAT:
            raise Problem("it is of another version of digitlib; train it again with this one")
        classes, settings = card["classes"], Settings(**card["settings"])
        well_formed = isinstance(classes, list) and all(isinstance(c, str) for c in classes)
        if not well_formed or not 2 <= len(set(classes)) == len(classes) <= 100_000:
            raise Problem("its class names are not 2 to 100000 different texts")
        if not all(0 < len(label) <= 64 and label.isprintable() for label in classes):
            raise Problem("its class names are not of 1 to 64 printable characters")
        settings.check_classes(len(classes))
        about = {str(key): str(value)[:500] for key, value in card.get("about", {}).items()}
    except FileNotFoundError:
        raise Problem(
            f"{path}: no such model; train one with `python -m digitlib report`"
        ) from None
    except Exception as error:  # a damaged file makes zipfile and json raise nearly anything
        raise Problem(f"{path} is not a model that digitlib saved ({error})") from error
    return classes, settings, about


def models() -> dict[str, Path]:
    """The shipped models by name."""
    return {path.stem: path for path in sorted(FOLDER.glob("[!.]*.keras"))}


def find(name: str | Path) -> Path:
    """A model by the name it ships under, by its run's name in reports/, or by its path."""
    path, run = Path(name), digitlib.REPORTS / str(name) / "model.keras"
    if path.is_file():
        return path
    if str(name) in models():
        return models()[str(name)]
    if run.resolve().is_relative_to(digitlib.REPORTS.resolve()) and run.is_file():
        return run
    raise Problem(
        f"{name}: no such model; name a file, a run in {digitlib.REPORTS}, or one that is "
        f"shipped: {', '.join(models()) or 'none'}"
    )


def sure_from(about: Mapping[str, str]) -> float | None:
    """The confidence from which on no held-out answer was wrong, by a card; None: not known."""
    try:
        confidence = float(about[SURE].split()[0])
    except (KeyError, ValueError, IndexError):
        return None
    return confidence if 0 <= confidence <= 1 else None


def _sure(folds: Mapping[str, Any]) -> dict[str, str]:
    """The line of a card that the numbers of 08_folds give; none where no confidence is safe."""
    confidence = folds.get("sure_from")
    if confidence is None or confidence > 1:
        return {}
    shares = [
        f"{n / every:.1%} of {name}" for name, (n, every) in folds["sure_of"].items() if every
    ]
    text = (
        f"{confidence:.9g} (held out, in any pen, size and slant, {', '.join(shares)} reach it; "
        "none of those by hands that it knew was labelled wrong)"
    )
    return {SURE: text}


def mark_sure(
    run: str, folds: Mapping[str, Any], settings: Settings, classes: Sequence[str]
) -> str:
    """Put on the card of reports/``run``'s model what its folds found; says what was done.

    ``folds``: the numbers of 08_folds; ``settings`` and ``classes``: the recipe that they judge,
    and what it told apart. A model of another recipe or of other classes keeps its card, and one of
    which nothing is safe has no such line any more.
    """
    from digitlib.report import run_folder

    model = run_folder(run) / "model.keras"
    if not model.is_file():
        return f"{run} has no model yet; run 03, then 08 again, and predict says what it is sure of"
    try:
        known, own, about = read_card(model)
    except Problem as problem:  # the folds are good all the same
        return f"its folds go onto no card: {problem}"
    if own != settings:
        return f"the model of {run} is of another recipe, so it keeps its card"
    if known != list(classes):
        return f"the model of {run} is of other classes, so it keeps its card; run 03 again"
    about.pop(SURE, None)
    about |= _sure(folds)
    with whole_file(model) as aside:
        write_card(model, aside, about)
    if SURE not in about:
        return f"model of {run}: no confidence is safe, so predict does not say what it is sure of"
    return f"model of {run}: predict says that it is not sure of answers below {sure_from(about)}"


def ship(run: str, name: str, limits: str = "") -> Path:
    """Put the model of reports/``run`` among the shipped ones; its card: what the run found.

    Raises Problem if the run has no model, or was not cross-validated (notebook 08_folds).
    """
    from digitlib.report import run_folder  # who labels images has no use for it

    run_folder(name)  # as plain a name
    folder = run_folder(run)
    own = folder / "model.keras"
    _, settings, _ = read_card(own)
    notebooks = read_json(folder / "metrics.json").get("notebooks", {})
    if not {"03_training", "08_folds"} <= set(notebooks):
        raise Problem(f"{folder}: run notebooks 03 and 08 first: report --notebooks '03 08'")
    folds = notebooks["08_folds"]["numbers"]
    if not folds["folds_run"]:
        raise Problem(f"{folder}: no fold was run; run 08 again with -p FOLDS_RUN {folds['folds']}")
    recorded = notebooks["08_folds"].get("parameters", {})
    judged = Settings.of({name.upper(): value for name, value in recorded.items()})
    if judged != settings:
        raise Problem(f"{folder}: its folds are of another recipe than its model; run 08 again")
    held = next(row for row in folds["variants"] if row["part"] == "whole")
    third = next((row for row in folds["variants"] if row["part"] == "third"), held)
    seconds = notebooks["03_training"]["numbers"]["seconds"]["all"]
    about = {
        "recipe": read_json(folder / "run.json").get("profile", "?"),
        "weights": notebooks["03_training"]["parameters"]["weights"],
        "data": DATA.get(settings.dataset, f"the pages of {Path(settings.dataset).name}"),
        "cross-validated": f"{held['right']} of {held['images']} held-out bands right "
        f"({held['accuracy']:.1%}; 95 % over classes {held['low']:.1%} to {held['high']:.1%}), "
        f"{third['right']} of {third['images']} thirds of them; {folds['folds_run']} of "
        f"{folds['folds']} folds",
        "trained in": f"{duration(seconds)} on {notebooks['03_training']['device']}",
        "limits": limits,
    }
    about |= _sure(folds)
    with whole_file(FOLDER / f"{name}.keras") as aside:
        write_card(own, aside, {key: value for key, value in about.items() if value})
    return FOLDER / f"{name}.keras"


def write_card(model: Path, out: Path, about: Mapping[str, str]) -> None:
    """Copy the file ``model`` to ``out``, with what is known about it replaced by ``about``."""
    with zipfile.ZipFile(model) as old, zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as new:
        for member in old.infolist():
            content = old.read(member)
            if member.filename == CARD:
                content = json.dumps(json.loads(content) | {"about": dict(about)})
            new.writestr(member, content)
