"""The project's own files agree with each other: packages, reasons, versions, notebooks.

In: pyproject.toml, environment.yml, requirements.lock and the rest of the tree. Out: agreement.
"""

import ast
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

import digitlib
from digitlib import folds, whole_file, write_json
from digitlib.parameters import notebook_parameters, read_profile, settled
from digitlib.settings import Settings

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
LOCK = (ROOT / "requirements.lock").read_text(encoding="utf-8")
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
# What a module is called where its package is called otherwise.
PACKAGE_OF = {
    "bs4": "beautifulsoup4",
    "cv2": "opencv-python-headless",
    "HersheyFonts": "hershey-fonts",
    "IPython": "ipykernel",  # which is built on it
    "PIL": "pillow",
    "sklearn": "scikit-learn",
    "yaml": "pyyaml",
}


def name_of(requirement: str) -> str:
    return re.match(r"[A-Za-z0-9._-]+", requirement)[0].lower().replace("_", "-")


def wanted() -> dict[str, str]:
    """Every package of pyproject.toml that the lock and conda have: {name: requirement}."""
    project = PROJECT["project"]
    listed = project["dependencies"] + project["optional-dependencies"]["dev"]
    return {name_of(requirement): requirement for requirement in listed}


def locked() -> dict[str, str]:
    """{name: version} from requirements.lock; the last, where systems differ."""
    return dict(re.findall(r"(?m)^([a-z0-9.-]+)==([^\s;]+)", LOCK))


def test_conda_environment_names_the_same_packages():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    *conda, pip = environment["dependencies"]
    options = [line for line in pip["pip"] if line.startswith("-")]
    assert sorted(options) == ["-c requirements.lock", "-e ."]
    requirements = [line for line in pip["pip"] if not line.startswith("-")]
    assert {name_of(line): line for line in requirements} == wanted()
    assert len(requirements) == len(wanted())  # none twice
    assert f"python{PROJECT['project']['requires-python']}" in conda and "pip" in conda


def test_every_line_of_the_conda_environment_has_its_reason():
    lines = (ROOT / "environment.yml").read_text(encoding="utf-8").splitlines()
    bare = [line for line in lines if line.strip() and not re.search(r"# \S.{4,}$", line)]
    assert not bare


def test_lock_pins_every_package_and_names_no_machine():
    assert set(wanted()) <= set(locked())
    assert {"setuptools", "wheel"} <= set(locked())  # they build the project, without the network
    lines = [line for line in LOCK.splitlines() if not line.startswith("#")]
    assert lines and all(re.fullmatch(r"[a-z0-9.-]+==[^ ;/@]+( ; .*)?", line) for line in lines)
    assert "://" not in LOCK and "--" not in LOCK and str(Path.home()) not in LOCK


def test_versions_agree():
    assert PROJECT["project"]["version"] == digitlib.__version__
    hooks = (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8")
    assert set(re.findall(r"ruff==([\d.]+)", hooks)) == {locked()["ruff"]}
    low, high = re.findall(r"3\.(\d+)", PROJECT["project"]["requires-python"])
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert f"(3, {low}) <= sys.version_info < (3, {high})" in makefile
    assert PROJECT["tool"]["ruff"]["target-version"] == f"py3{low}"


def imports(source: str) -> set[str]:
    """Top-level names of the packages that ``source`` imports, from this package none."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add(node.module)
    return {name.partition(".")[0] for name in names} - {"digitlib"} - sys.stdlib_module_names


def test_every_import_is_a_declared_dependency():
    sources = [path.read_text(encoding="utf-8") for path in (ROOT / "digitlib").glob("*.py")]
    for path in NOTEBOOKS:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
        sources += [re.sub(r"(?m)^\s*[%!].*", "", cell) for cell in code]
    declared = {name_of(requirement) for requirement in PROJECT["project"]["dependencies"]}
    used = {PACKAGE_OF.get(name, name) for source in sources for name in imports(source)}
    assert used <= declared | {"jax", "torch"}


def test_importing_digitlib_is_instant():
    heavy = "{'keras', 'tensorflow', 'cv2', 'numpy', 'pandas', 'papermill'}"
    code = f"import digitlib, digitlib.__main__, sys; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout == "[]\n", done.stderr


def test_package_data_is_declared():
    patterns = PROJECT["tool"]["setuptools"]["package-data"]["digitlib"]
    shipped = {path for pattern in patterns for path in (ROOT / "digitlib").glob(pattern)}
    there = (p for p in (ROOT / "digitlib").rglob("*") if p.is_file() and p.parent.name[0] != "_")
    assert {p for p in there if p.suffix != ".py" and not p.name.startswith(".")} <= shipped


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_fit_to_commit(path):
    notebook = json.loads(path.read_text(encoding="utf-8"))
    parameters = notebook_parameters(path)
    assert path.stat().st_size < 1_000_000
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    assert {"DATASET", "RUN"} <= set(parameters) and all(p.help for p in parameters.values())
    for line in (line for p in parameters.values() for line in [p.help]):
        assert "=" not in line  # papermill --help-notebook would drop the parameter
    needs = notebook["metadata"].get("digitlib", {}).get("needs", [])
    assert set(needs) <= {p.stem for p in NOTEBOOKS if p < path}
    errors = [o for c in notebook["cells"] for o in c.get("outputs", []) if "ename" in o]
    assert not errors
    assert os.fspath(ROOT) not in path.read_text(encoding="utf-8")  # no path of this machine


@pytest.mark.parametrize(
    "path", sorted((ROOT / "notebooks/profiles").glob("*.yaml")), ids=lambda p: p.stem
)
def test_profile_fits_the_notebooks(path):
    declared = {n: p for path in NOTEBOOKS for n, p in notebook_parameters(path).items()}
    if declared:
        Settings.of(settled(read_profile(str(path)), declared))


def test_ci_runs_exactly_make_test():
    lines = (ROOT / ".ci/run").read_text(encoding="utf-8").splitlines()
    assert lines[-1] == "exec make test" and os.access(ROOT / ".ci/run", os.X_OK)
    assert len([line for line in lines if "make" in line and not line.startswith("#")]) == 1


@pytest.mark.skipif(sys.platform == "win32", reason="the Makefile is for POSIX systems")
def test_make_help_lists_every_target():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.search(r"(?m)^\.PHONY: (.*)$", makefile)[1].split())
    done = subprocess.run(["make", "-s", "-C", ROOT], capture_output=True, text=True)
    assert set(re.findall(r"(?m)^  make (\w+)", done.stdout)) == targets


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_committed_as_a_reader_wants_them(path):
    notebook = json.loads(path.read_text(encoding="utf-8"))
    outputs = [o for c in notebook["cells"] for o in c.get("outputs", [])]
    kinds = {kind for output in outputs for kind in output.get("data", {})}
    assert "image/png" in kinds  # `make notebooks` has run
    assert not [kind for kind in kinds if "widget" in kind]  # a dead progress bar
    assert not [output for output in outputs if output.get("name") == "stderr"]


def test_shipped_weights_are_small():
    weights = list((ROOT / "digitlib" / "weights").glob("*.h5"))
    assert weights and sum(path.stat().st_size for path in weights) < 4_000_000


@pytest.mark.parametrize(
    ("variable", "hidden"),
    [
        ("", False),  # as a person wants it
        ("1", True),  # as tests want it, and a notebook to be committed
    ],
)
def test_progress_bars_can_be_turned_off(variable, hidden, monkeypatch):
    monkeypatch.setenv("TQDM_DISABLE", variable)
    bar = digitlib.progress_bar([1, 2])
    assert bar.disable is hidden and list(bar) == [1, 2]


def test_a_fold_is_done_again_when_any_module_changes_that_its_answers_come_from():
    modules = {path.stem for path in (ROOT / "digitlib").glob("*.py")}
    listed = set(folds.CODE.split())
    for name in listed:
        tree = ast.parse((ROOT / "digitlib" / f"{name}.py").read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if not isinstance(node, ast.ImportFrom) or not str(node.module).startswith("digitlib"):
                continue
            parts = [node.module.split(".")[-1], *(item.name for item in node.names)]
            used = modules & set(parts) - {"__init__"}
            # Files' names and formats, which no answer depends on; what is drawn has its VERSION.
            assert used <= listed | {"fetch", "handwriting", "pages", "parameters", "shipped"}, name


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "new" / "a.weights.h5"
    with whole_file(path) as aside:
        assert aside.name.endswith(".weights.h5")  # Keras goes by the ending
        aside.write_text("first")
        assert not path.exists()
    with pytest.raises(KeyError), whole_file(path) as aside:
        aside.write_text("half")
        raise KeyError
    assert path.read_text() == "first"
    assert [file.name for file in path.parent.iterdir()] == [path.name]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no umask to speak of")
@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_who_may_read_a_file_is_the_user_s_choice(mask, tmp_path):
    before = os.umask(mask)
    try:
        write_json(tmp_path / "a.json", {})
    finally:
        os.umask(before)
    assert (tmp_path / "a.json").stat().st_mode & 0o777 == 0o666 & ~mask


def test_folders_that_the_environment_names_are_those_seen_from_where_one_is(tmp_path):
    """Notebooks run in a folder of their own, from which a relative path would lead elsewhere."""
    code = "import digitlib, os; print(digitlib.ROOT); print(os.environ['DIGITLIB_REFERENCE'])"
    own = {"DIGITLIB_HOME": "home", "DIGITLIB_REFERENCE": "data/scans"}
    how = {"cwd": tmp_path, "capture_output": True, "text": True, "check": True}
    how["env"] = os.environ | own | {"PYTHONPATH": str(ROOT)}
    said = subprocess.run([sys.executable, "-c", code], **how).stdout.splitlines()
    assert [Path(line) for line in said] == [tmp_path / "home", tmp_path / "data" / "scans"]
