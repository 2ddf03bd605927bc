"""Parameters: what the notebooks declare, what a profile sets, and whether the two fit.

In: notebooks/NN_*.ipynb (the cell tagged ``parameters``), a profile (YAML), a command line's text.
Out: values in the declared types, or a Problem before anything has run.
"""

import ast
import dataclasses
import difflib
import json
import math
import os
import reprlib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import digitlib
from digitlib import Problem
from digitlib.settings import Settings

NOTEBOOKS = digitlib.ROOT / "notebooks"
MOST_PROFILE = 2**20  # bytes
TYPES = {"int": int, "float": float, "bool": bool, "str": str}
TRUTH = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
# What is a path where it is none of these names; paths are made absolute for the kernels.
PATHS = {
    "DATASET": ("folder", ("digits", "hands", "reference")),
    "WEIGHTS": ("file", ("handwriting", "imagenet", "none")),
}


@dataclasses.dataclass(frozen=True)
class Parameter:
    """One line of a notebook's parameters cell: ``N_PATCHES: int = 35  # per strip``."""

    name: str
    type: str
    default: Any
    help: str


@dataclasses.dataclass(frozen=True)
class Notebook:
    """A notebook of the suite; the last three are its metadata's ``digitlib``."""

    path: Path
    parameters: dict[str, Parameter]
    needs: Sequence[str] = ()  # names of notebooks without which it cannot run
    on_request: bool = False  # it runs where its number is given
    tests: bool = True  # it needs test images

    @property
    def name(self) -> str:
        """``03_training``"""
        return self.path.stem


def notebook_paths() -> list[Path]:
    """The notebooks of the suite, in the order in which they run."""
    paths = sorted(NOTEBOOKS.glob("[0-9]*.ipynb"))
    if not paths:
        raise Problem(f"{NOTEBOOKS}: no notebook (NN_name.ipynb) in this folder")
    return paths


def notebook_parameters(path: Path) -> dict[str, Parameter]:
    """The annotated assignments in the cell tagged ``parameters``; {} where there is none.

    Read from the syntax tree: papermill's own inspection drops a line whose comment has a "=".
    """
    cells = json.loads(Path(path).read_text(encoding="utf-8"))["cells"]
    tagged = [c for c in cells if "parameters" in c.get("metadata", {}).get("tags", [])]
    found = {}
    for cell in tagged:
        source = "".join(cell["source"])
        lines = source.encode().splitlines()  # column offsets count bytes
        for node in ast.parse(source).body:
            if not isinstance(node, ast.AnnAssign) or node.value is None:
                raise Problem(f"{path}: line {node.lineno} of the parameters cell: NAME: type = …")
            comment = lines[node.end_lineno - 1][node.end_col_offset :].decode()
            name, kind = ast.unparse(node.target), ast.unparse(node.annotation)
            if kind not in TYPES:
                raise Problem(f"{path}: {name}: {kind} is none of {', '.join(TYPES)}")
            default = ast.literal_eval(node.value)
            found[name] = Parameter(name, kind, default, comment.partition("#")[2].strip())
    return found


def setting_parameters() -> dict[str, Parameter]:
    """All `Settings` as a notebook declares them."""
    return {
        item.name.upper(): Parameter(item.name.upper(), item.type.__name__, item.default, "")
        for item in dataclasses.fields(Settings)
    }


def read_notebook(path: Path) -> Notebook:
    """What a notebook says of itself; raises Problem for a parameters cell of another form."""
    own = json.loads(path.read_text(encoding="utf-8")).get("metadata", {}).get("digitlib", {})
    known = {key: own[key] for key in ("needs", "on_request", "tests") if key in own}
    return Notebook(path, notebook_parameters(path), **known)


def typed(parameter: Parameter, value: Any) -> Any:
    """``value`` in the parameter's type; text (a command line, YAML's 2e-5) is parsed."""
    kind = TYPES[parameter.type]
    if kind is float and type(value) is int and abs(value) < 2**63:
        return float(value)
    if type(value) is kind and (kind is not float or math.isfinite(value)):
        return value
    if isinstance(value, str):
        try:
            parsed = TRUTH[value.strip().lower()] if kind is bool else kind(value)
            if kind is not float or math.isfinite(parsed):
                return parsed
        except (ValueError, KeyError, OverflowError):
            pass
    wanted = {
        "bool": "true or false",
        "int": "a whole number",
        "float": "a number",
        "str": "text (in YAML: in quotes)",
    }
    shown = reprlib.repr(value)  # of a stranger's profile, which may be large
    raise Problem(f"{parameter.name} must be {wanted[parameter.type]}, not {shown}")


def read_profile(profile: str) -> dict[str, Any]:
    """A flat map of parameters: notebooks/profiles/<profile>.yaml, or any path to a .yaml file."""
    import yaml

    folder = NOTEBOOKS / "profiles"
    path = Path(profile) if profile.endswith((".yaml", ".yml")) else folder / f"{profile}.yaml"
    if not path.is_file():
        there = ", ".join(sorted(p.stem for p in folder.glob("*.yaml")))
        raise Problem(f"no profile {profile!r}; there are: {there}, or give a path to a .yaml file")

    class OnceEach(yaml.SafeLoader):
        """Refuses a name that is given twice, which YAML's would take for the last."""

        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
            keys = [key for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
            for name, times in Counter(map(self.construct_object, keys)).items():
                if times > 1:
                    raise ValueError(f"{name} is given twice")
            return super().construct_mapping(node, deep)

    try:
        if path.stat().st_size > MOST_PROFILE:
            raise ValueError("too large for a profile")
        values = yaml.load(path.read_text(encoding="utf-8"), OnceEach) or {}  # noqa: S506 (safe)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise Problem(f"{path}: not a profile: {' '.join(str(error).split())[:300]}") from None
    if not isinstance(values, dict):
        raise Problem(f"{path}: a profile is a flat map, one 'NAME: value' a line")
    return values


def settled(values: Mapping[str, Any], known: Mapping[str, Parameter]) -> dict[str, Any]:
    """``values`` checked against the ``known`` parameters; relative paths made absolute."""
    checked = {}
    for name, value in values.items():
        if name not in known:
            near = difflib.get_close_matches(str(name).upper(), known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are: {', '.join(sorted(known))}"
            raise Problem(f"unknown parameter {name}; {hint}")
        checked[name] = typed(known[name], value)
        kind, names = PATHS.get(name, ("", ()))
        if kind and checked[name] not in names:
            path = Path(os.path.expanduser(checked[name]))  # leaves an unknown home as it is
            if not (path.is_dir() if kind == "folder" else path.is_file()):
                cure = f"{name} is a {kind} or one of {', '.join(names)}"
                raise Problem(f"{path}: no such {kind}; {cure}")
            # Kernels run in the notebooks folder: a relative path would break.
            checked[name] = str(path.resolve())
            if checked[name].encode(errors="replace").decode() != checked[name]:
                raise Problem(f"{path}: its path is no plain text, which notebooks need; rename it")
    return checked
