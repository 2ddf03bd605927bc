"""Runs toy notebooks through papermill for real: order, failures, records, pages, the index.

In: notebooks written into a temporary folder. Out: what run_report makes of them.
"""

import contextlib
import io
import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import cv2
import nbformat
import numpy as np
import pytest
from bs4 import BeautifulSoup

import digitlib
from digitlib import Problem, parameters
from digitlib.__main__ import main
from digitlib.pages import accuracy, duration
from digitlib.parameters import (
    Parameter,
    notebook_parameters,
    notebook_paths,
    read_profile,
    settled,
    typed,
)
from digitlib.report import (
    default_run_name,
    device_name,
    planned,
    record,
    run_folder,
    run_report,
    write_index,
)

PARAMETERS = """\
DATASET: str = "digits"  # a name or a folder
RUN: str = "lab"  # the folder in reports/
SEED: int = 1  # 0 = another
RATE: float = 1e-3  # per step
DEEP: bool = False
"""
RECORD = "from digitlib.report import record\nrecord(RUN, {name!r}, {numbers}, {{'seed': SEED}})"


def write_notebook(folder: Path, name: str, *cells: str, parameters=PARAMETERS, needs=()) -> Path:
    """A notebook of ``cells``: "# …" lines are prose, the rest is code."""
    made = [nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]})]
    for cell in cells:
        new = nbformat.v4.new_markdown_cell if cell.startswith("# ") else nbformat.v4.new_code_cell
        made.append(new(cell))
    kernel = {"name": "python3", "language": "python", "display_name": "Python 3"}
    metadata = {"kernelspec": kernel, "digitlib": {"needs": list(needs)}}
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=made, metadata=metadata), path)
    return path


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A project folder of its own, for this process and for the kernels."""
    monkeypatch.setenv("DIGITLIB_HOME", str(tmp_path))
    monkeypatch.setattr(digitlib, "REPORTS", tmp_path / "reports")
    monkeypatch.setattr(parameters, "NOTEBOOKS", tmp_path / "notebooks")
    profiles = tmp_path / "notebooks" / "profiles"
    profiles.mkdir(parents=True)
    (profiles / "quick.yaml").write_text("# the notebooks' own defaults\n")
    (profiles / "slow.yaml").write_text("SEED: 7\nRATE: 2e-5\n")
    return tmp_path


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """One run of five notebooks, of which the second fails: (home, exit status, printed text)."""
    home = tmp_path_factory.mktemp("home")
    books = home / "notebooks"
    (books / "profiles").mkdir(parents=True)
    (books / "profiles" / "slow.yaml").write_text("SEED: 7\n")
    story = "# A <b>story</b> & its table\n![dot](dot%201.gif), see [one](02_fails.ipynb) and "
    story += "[none](06_never.ipynb) of [all](https://example.org/a.html)"
    (books / "dot 1.gif").write_bytes(b"GIF")
    noise = """
import sys, pandas
from IPython.display import HTML, display
print("WARNING-ON-STDERR", file=sys.stderr)
print("bar 1 of 2\\rbar 2 of 2\\rdone with the bar")
secret_of_the_code = "x" + "y"
display(HTML('<script src="https://evil.example/a.js"></script>'))
display(HTML('<img src="http://evil.example/b.png" onerror="x()"><a href="javascript:x()">x</a>'))
display(pandas.DataFrame({"<script>alert(1)</script>": range(3)}))
import matplotlib.pyplot as plt
plt.plot([1, 2]); plt.show()
"""
    order = "import time, pathlib; pathlib.Path({name!r}).write_text(str(time.time_ns()))"
    recorded = RECORD.format(name="01_first", numbers="{'wide': 1, 'rate': RATE}")
    write_notebook(books, "01_first", story, noise, order.format(name="1"), recorded)
    fails = ["print('partial ' + 'output')", "raise ValueError('<i>no ink</i>')"]
    write_notebook(books, "02_fails", *fails, "print('never' + ' reached')")
    write_notebook(books, "03_needs", "1", needs=["02_fails"])
    write_notebook(books, "04_needs", "1", needs=["03_needs"])
    numbers = "{'accuracy': 0.8286, 'accuracy_low': 0.75, 'accuracy_high': 0.9, 'n': 140}"
    recorded = RECORD.format(name="05_confusion", numbers=numbers)
    write_notebook(books, "05_confusion", order.format(name="5"), recorded, needs=["01_first"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DIGITLIB_HOME", str(home))
        patch.setattr(digitlib, "REPORTS", home / "reports")
        patch.setattr(parameters, "NOTEBOOKS", books)
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            status = run_report("slow", {"RATE": "0.5"}, run="toy")
    return home, status, printed.getvalue()


def test_notebooks_run_in_order_and_only_what_needs_a_failed_one_is_skipped(finished):
    home, status, printed = finished
    run = json.loads((home / "reports/toy/run.json").read_text())
    assert status == 1 and run["status"] == "failed"
    assert [n["status"] for n in run["notebooks"]] == [
        "done",
        "failed",
        "skipped",
        "skipped",
        "done",
    ]
    assert run["notebooks"][2]["error"] == "needs 02_fails"
    assert run["notebooks"][3]["error"] == "needs 03_needs"
    books = home / "notebooks"  # the kernels' working folder
    assert int((books / "1").read_text()) < int((books / "5").read_text())
    lines = printed.splitlines()
    assert re.fullmatch(r"\[1/5\] 01_first … \d+ s", lines[1])
    assert "failed: ValueError: <i>no ink</i>" in printed
    assert "[3/5] 03_needs skipped: needs 02_fails" in lines


def test_originals_stay_as_they_were_and_a_failed_one_keeps_its_partial_output(finished):
    home, *_ = finished
    original = nbformat.read(home / "notebooks/02_fails.ipynb", as_version=4)
    assert all(not cell.get("outputs") for cell in original.cells)
    text = (home / "reports/toy/02_fails.ipynb").read_text()
    assert "partial output" in text and "never reached" not in text
    assert not list((home / "reports/toy").glob(".*"))  # nothing left lying beside


def test_run_json_says_what_differs_from_the_notebooks_defaults(finished):
    run = json.loads((finished[0] / "reports/toy/run.json").read_text())
    assert run["parameters"] == {"SEED": 7, "RATE": 0.5}
    assert (run["profile"], run["dataset"]) == ("slow", "digits")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", run["started"])
    assert run["seconds"] > 0 and run["peak_memory_mb"] > 30
    assert {"python", "numpy", "keras", "opencv"} <= set(run["versions"])


def test_metrics_hold_each_notebooks_numbers_and_the_runs_cost(finished):
    metrics = json.loads((finished[0] / "reports/toy/metrics.json").read_text())
    assert set(metrics["notebooks"]) == {"01_first", "05_confusion"}
    first = metrics["notebooks"]["01_first"]
    assert first["numbers"] == {"wide": 1, "rate": 0.5}  # the parameter reached the kernel
    assert first["seed"] == 7 and first["wall_seconds"] > 0 and first["peak_memory_mb"] > 10
    assert metrics["status"] == "failed" and metrics["peak_memory_mb"] > 30


def page(finished, name: str) -> BeautifulSoup:
    html = (finished[0] / f"reports/toy/{name}.html").read_text(encoding="utf-8")
    return BeautifulSoup(html, "html.parser")


def hide_code(soup: BeautifulSoup) -> None:
    """What the style sheet does as long as the box is not ticked."""
    for hidden in soup.select("#show-code:not(:checked) ~ main .code_cell > .input"):
        hidden.decompose()


def test_page_hides_its_code_until_asked(finished):
    soup = page(finished, "01_first")
    style, box = soup.style.string, soup.find("input", id="show-code")
    assert not box.has_attr("checked") and soup.find("label", attrs={"for": "show-code"})
    assert "#show-code:not(:checked) ~ main .code_cell > .input { display: none; }" in style
    assert "secret_of_the_code" in soup.main.get_text()
    assert soup.main in box.find_next_siblings()
    hide_code(soup)
    assert "secret_of_the_code" not in soup.get_text() and "In\xa0[" not in soup.get_text()


def test_page_loads_nothing_and_runs_nothing(finished):
    for name in ("01_first", "02_fails", "03_needs"):
        soup = page(finished, name)
        assert not soup.find_all(["script", "link", "iframe", "object"])
        rule = soup.find("meta", {"http-equiv": "Content-Security-Policy"})["content"]
        assert rule.startswith("default-src 'none';")  # styles of a notebook's output load nothing
        assert not [t for t in soup.find_all(src=True) if not t["src"].startswith("data:")]
        assert not [t for t in soup.find_all(True) for a in t.attrs if a.startswith("on")]
        assert "url(" not in str(soup.style) and "@import" not in str(soup.style)
        assert "evil.example" not in str(
            BeautifulSoup(str(soup.main or ""), "html.parser").find_all("img")
        )


def test_page_shows_results_without_noise(finished):
    soup = page(finished, "01_first")
    hide_code(soup)
    text = soup.main.get_text()
    assert "WARNING-ON-STDERR" not in text
    assert "done with the bar" in text and "bar 1 of 2" not in text
    assert soup.find("table").parent["class"] == ["scroll"]
    figure = soup.find("img", src=re.compile("^data:image/png"))
    assert figure["alt"] == "Figure: A story & its table"
    assert soup.h1.find("b").get_text() == "story"  # HTML in prose stays whole
    assert soup.find("img", alt="dot")["src"] == "data:image/gif;base64,R0lG"


def test_page_of_a_failed_notebook_opens_with_its_error(finished):
    soup = page(finished, "02_fails")
    box = soup.find("section", class_="failure")
    assert "ValueError: <i>no ink</i>" in box.get_text() and not box.find("i")
    assert box.sourceline < soup.main.sourceline
    assert "partial output" in soup.main.get_text()
    assert "An Exception was encountered" not in soup.get_text()  # papermill's own banner


def test_pages_link_to_the_index_and_to_their_neighbours(finished):
    folder = finished[0] / "reports/toy"
    for file in folder.glob("*.html"):
        soup = BeautifulSoup(file.read_text(encoding="utf-8"), "html.parser")
        links = {a["href"] for a in soup.find_all("a", href=True)}
        assert "../index.html" in links
        own = [link for link in links if not link.startswith(("#", "https:"))]
        assert all((folder / link).exists() for link in own)
    assert page(finished, "02_fails").find("a", rel="next")["href"] == "03_needs.html"
    prose = page(finished, "01_first").h1.parent
    named = {a.get_text(): a["href"] for a in prose.find_all("a") if a.get_text() in ("one", "all")}
    assert named == {"one": "02_fails.html", "all": "https://example.org/a.html"}
    assert "none" in prose.get_text()  # but no link: there is no such page
    assert page(finished, "02_fails").find("a", rel="prev")["href"] == "01_first.html"


def test_index_shows_accuracy_with_interval_and_the_failure(finished):
    soup = BeautifulSoup((finished[0] / "reports/index.html").read_text(), "html.parser")
    (row,) = soup.tbody.find_all("tr")
    text = " ".join(row.get_text(" ").split())
    assert "82.9 % 75.0 to 90.0 %, n = 140" in text
    assert "02_fails: ValueError: <i>no ink</i>" in text and not row.find("i")
    assert "SEED: 7" in text and "RATE: 0.5" in text and "DATASET" not in text
    links = [a["href"] for a in row.find_all("a")]
    assert {"toy/05_confusion.html", "toy/metrics.json"} <= set(links)
    assert all((finished[0] / "reports" / link).exists() for link in links)


def test_a_baseline_s_accuracy_is_not_the_run_s():
    own, other = {"numbers": {"accuracy": 0.9}}, {"numbers": {"accuracy": 0.8}}
    both = {"notebooks": {"04_ensemble": own, "06_baselines": other}}
    assert accuracy(both)[0] == "90.0\N{NO-BREAK SPACE}%"
    assert accuracy({"notebooks": {"06_baselines": other}}) is None


@pytest.mark.parametrize(
    "parameters, profile, says",
    [
        ({"SEDE": "1"}, "quick", "unknown parameter SEDE; did you mean SEED?"),
        ({"seed": "1"}, "quick", "did you mean SEED?"),  # the case is part of the name
        ({"COLOUR": "1"}, "quick", "there are: DATASET, DEEP, RATE, RUN, SEED"),  # nothing is near
        ({"SEED": "many"}, "quick", "SEED must be a whole number, not 'many'"),
        ({"SEED": "1.5"}, "quick", "SEED must be a whole number"),
        ({"SEED": True}, "quick", "SEED must be a whole number, not True"),
        ({"RATE": "nan"}, "quick", "RATE must be a number"),
        ({"DEEP": "maybe"}, "quick", "DEEP must be true or false"),
        ({"DATASET": 3}, "quick", "DATASET must be text (in YAML: in quotes), not 3"),
        ({"DATASET": "digit"}, "quick", "digit: no such folder"),
        ({"DATASET": "unfit"}, "quick", "b_2.png: no page in train/ has this label"),
        ({}, "quik", "no profile 'quik'; there are: quick, slow"),
        ({}, "broken.yaml", "not a profile"),
        ({}, "twice.yaml", "SEED is given twice"),
        ({}, "latin.yaml", "not a profile"),
        ({}, "date.yaml", "not a profile"),
        ({}, "deep.yaml", "not a profile"),
        ({}, "digits.yaml", "not a profile"),
        ({}, "huge.yaml", "too large"),
        ({}, "laughs.yaml", "SEED must be a whole number, not ["),  # a billion, shown in a line
        ({}, "infinite.yaml", "RATE must be a number"),
        ({}, "nobody.yaml", "~nosuchuser/data: no such folder"),
        ({}, "list.yaml", "flat map"),
        ({}, "unknown.yaml", "unknown parameter EPOCH"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(
    home, monkeypatch, parameters, profile, says
):
    write_notebook(home / "notebooks", "01_only", "1")
    (home / "broken.yaml").write_text("SEED: [1\n")
    (home / "list.yaml").write_text("- SEED\n")
    (home / "unknown.yaml").write_text("EPOCH: 1\n")
    (home / "twice.yaml").write_text("SEED: 1\nRATE: 2\nSEED: 3\n")
    (home / "latin.yaml").write_bytes(b"DATASET: h\xe4nde\n")
    (home / "date.yaml").write_text("SEED: 2001-99-99\n")
    (home / "deep.yaml").write_text("[" * 100_000)
    (home / "digits.yaml").write_text(f"SEED: {'9' * 5000}\n")
    (home / "huge.yaml").write_text("#" * 2**21)
    laughs = [f"L{i}: &l{i} [{', '.join([f'*l{i - 1}' if i else 'ha'] * 9)}]" for i in range(9)]
    (home / "laughs.yaml").write_text("SEED: [" + ", ".join(x[4:] for x in laughs) + "]\n")
    (home / "infinite.yaml").write_text(f"RATE: 1{'0' * 400}\n")
    (home / "nobody.yaml").write_text("DATASET: ~nosuchuser/data\n")
    for name in "unfit/train/a_1.png", "unfit/test/a_2.png", "unfit/test/b_2.png":
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_bytes(b"")  # not read: that is for the notebooks
    monkeypatch.chdir(home)
    with pytest.raises(Problem, match=re.escape(says)):
        run_report(profile, parameters)
    assert not (home / "reports").exists()


def test_a_parameter_that_no_chosen_notebook_has_is_refused(home):
    """Else it would be part of the run's name, and change nothing."""
    folder = write_notebook(home / "notebooks", "01_only", "1").parent
    folds = write_notebook(folder, "02_folds", "1", parameters="FOLDS: int = 3")
    book = json.loads(folds.read_text())
    book["metadata"]["digitlib"] = {"on_request": True}
    folds.write_text(json.dumps(book))
    with pytest.raises(Problem, match="FOLDS is a parameter of 02 alone.*--notebooks '01 02'"):
        planned("quick", {"FOLDS": 2})
    assert planned("quick", {"FOLDS": 2}, "mine", "02").values["FOLDS"] == 2
    before = home / "reports" / "mine" / "run.json"  # a run that this names, as FOLDS is part of it
    before.parent.mkdir(parents=True)
    before.write_text('{"profile": "quick", "dataset": "digits", "parameters": {"FOLDS": 2}}')
    planned("quick", {"FOLDS": 2}, "mine", "01")


@pytest.mark.parametrize(
    "kind, given, value",
    [
        ("int", "12", 12),
        ("int", 12, 12),
        ("float", "2e-5", 2e-5),
        ("float", 3, 3.0),  # a whole number is a number
        ("str", "12", "12"),  # stays text
        ("bool", "Yes", True),
        ("bool", "0", False),
    ],
)
def test_values_get_the_declared_type(kind, given, value):
    got = typed(Parameter("X", kind, None, ""), given)
    assert got == value and type(got) is type(value)


def test_parameters_are_read_with_type_default_and_comment(tmp_path):
    found = notebook_parameters(write_notebook(tmp_path, "01_a"))
    assert found["SEED"] == Parameter("SEED", "int", 1, "0 = another")  # "=" in the comment
    assert found["RATE"].default == 1e-3 and found["DEEP"].default is False
    with pytest.raises(Problem, match="line 1 of the parameters cell"):
        notebook_parameters(write_notebook(tmp_path, "02_b", parameters="SEED = 1"))
    with pytest.raises(Problem, match="list is none of"):
        notebook_parameters(write_notebook(tmp_path, "03_c", parameters="SEED: list = []"))


def test_profile_numbers_such_as_2e_5_are_numbers(home):
    values = read_profile("slow")
    declared = notebook_parameters(write_notebook(home, "01_a"))
    assert settled(values, declared) == {"SEED": 7, "RATE": 2e-5}


def test_relative_dataset_folder_is_made_absolute(home, monkeypatch):
    declared = notebook_parameters(write_notebook(home, "01_a"))
    (home / "mine").mkdir()
    (home / "digits").mkdir()  # a folder does not hide the name
    monkeypatch.chdir(home)
    assert settled({"DATASET": "mine"}, declared) == {"DATASET": str(home / "mine")}
    assert settled({"DATASET": "digits"}, declared) == {"DATASET": "digits"}


def test_a_folder_is_no_file_of_weights(home, monkeypatch):
    known = {"WEIGHTS": Parameter("WEIGHTS", "str", "none", "")}
    monkeypatch.chdir(home)
    with pytest.raises(Problem, match="no such file; WEIGHTS is a file or one of"):
        settled({"WEIGHTS": "notebooks"}, known)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems' names are text")
def test_a_path_that_no_notebook_could_hold_is_refused(home, monkeypatch):
    known = {"DATASET": Parameter("DATASET", "str", "digits", "")}
    (home / os.fsdecode(b"caf\xe9")).mkdir()
    monkeypatch.chdir(home)
    with pytest.raises(Problem, match="its path is no plain text"):
        settled({"DATASET": os.fsdecode(b"caf\xe9")}, known)


def test_no_notebooks_is_a_problem(home):
    with pytest.raises(Problem, match="no notebook"):
        notebook_paths()


@pytest.mark.parametrize(
    "run", ["../x", "/tmp/x", "a/b", "a\\b", "..", ".hidden", "", "<script>", "a\n"]
)
def test_run_folder_refuses_to_leave_reports(run):
    with pytest.raises(Problem, match="run name"):
        run_folder(run)


def test_how_much_is_held_in_memory_does_not_name_a_run(tmp_path, monkeypatch):
    """So that a run that memory was too little for goes on when it is given less to hold."""
    monkeypatch.setattr(digitlib, "REPORTS", tmp_path)
    plan = planned("quick", {"MEMORY": "5", "SEED": "2"})
    assert plan.run == "quick-digits-seed-2"
    assert plan.values["MEMORY"] == 5 and plan.changed == {"MEMORY": 5, "SEED": 2}


def test_default_run_names_are_safe_and_tell_a_sweep_apart():
    assert default_run_name("quick", "digits", {}) == "quick-digits"
    names = {default_run_name("quick", "digits", {"N": n}) for n in (1, 2)}
    assert names == {"quick-digits-n-1", "quick-digits-n-2"}
    odd = default_run_name("my/own.yaml", "/data/<script> é/", {"WEIGHTS": "../w.h5"})
    assert re.fullmatch(r"own-script-weights-w\.h5-[0-9a-f]{6}", run_folder(odd).name)
    # What does not fit into a name tells runs apart all the same.
    for one, other in (
        (("best", "/b/日本", {}), ("best", "/b/中国", {})),
        (("best", "a", {"WEIGHTS": "/a/x.h5"}), ("best", "a", {"WEIGHTS": "/b/x.h5"})),
        (("best", "a", {"LAYERS": "b" * 120 + "1"}), ("best", "a", {"LAYERS": "b" * 120 + "2"})),
    ):
        assert run_folder(default_run_name(*one)) != run_folder(default_run_name(*other))


def test_a_second_run_of_one_name_keeps_no_numbers_of_the_first(home):
    folder = home / "reports" / "again"
    folder.mkdir(parents=True)
    (folder / "metrics.json").write_text(
        '{"notebooks": {"05_confusion": {"numbers": {"accuracy": 1}}}}'
    )
    (folder / "result.csv").write_text("filename\n")
    (folder / "model.keras").write_text("kept")
    write_notebook(home / "notebooks", "01_only", "raise RuntimeError")
    assert run_report("quick", run="again") == 1
    assert "accuracy" not in (folder / "metrics.json").read_text()
    assert not (folder / "result.csv").exists() and (folder / "model.keras").exists()


def test_notebooks_on_request_run_by_number_and_the_others_stay(home):
    books = home / "notebooks"
    write_notebook(books, "01_always", RECORD.format(name="01_always", numbers="{'n': 1}"))
    path = write_notebook(books, "02_asked", "1", needs=["01_always"])
    notebook = nbformat.read(path, 4)
    notebook.metadata["digitlib"] |= {"on_request": True, "note": "of no concern to a report"}
    nbformat.write(notebook, path)
    folder = home / "reports" / "toy"

    assert run_report(run="toy") == 0
    assert not (folder / "02_asked.html").exists()
    assert run_report(run="toy", chosen="02") == 0
    assert (folder / "01_always.html").exists() and (folder / "02_asked.html").exists()
    run = json.loads((folder / "run.json").read_text())
    assert [(own["name"], own["status"]) for own in run["notebooks"]] == [
        ("01_always", "done"),
        ("02_asked", "done"),
    ]
    assert json.loads((folder / "metrics.json").read_text())["notebooks"]["01_always"]


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ({"chosen": "01", "profile": "slow"}, "toy is a run of profile quick on"),
        ({"chosen": "01", "dataset": "hands"}, "toy is a run of profile quick on"),
        ({"chosen": " ,"}, "names none"),
        ({"chosen": "01-02"}, "no notebook '01-02'"),
        ({"chosen": "0102"}, "no notebook '0102'"),
    ],
)
def test_further_notebooks_do_not_change_what_a_run_is(home, how, says):
    books = home / "notebooks"
    write_notebook(books, "01_always", "1")
    assert run_report(run="toy") == 0
    before = (home / "reports" / "toy" / "run.json").read_text("utf-8")
    with pytest.raises(Problem, match=says):
        run_report(run="toy", **how)
    assert (home / "reports" / "toy" / "run.json").read_text("utf-8") == before


def test_pages_of_a_run_lead_to_what_was_added_to_it(home):
    books, folder = home / "notebooks", home / "reports" / "toy"
    write_notebook(books, "01_first", "1")
    write_notebook(books, "02_second", "1")
    assert run_report(run="toy", chosen="01") == 0
    assert "02_second" not in (folder / "01_first.html").read_text("utf-8")
    run = json.loads((folder / "run.json").read_text("utf-8"))
    run["notebooks"].append({"name": "../01_first", "status": "done"})  # a stranger's
    (folder / "run.json").write_text(json.dumps(run), "utf-8")
    assert run_report(run="toy", chosen="02") == 0
    assert 'href="02_second.html"' in (folder / "01_first.html").read_text("utf-8")
    assert not list((home / "reports").glob("*first*"))


def test_what_fails_the_second_time_leaves_nothing_of_the_first(home):
    books, folder = home / "notebooks", home / "reports" / "toy"
    write_notebook(books, "01_kept", RECORD.format(name="01_kept", numbers="{'n': 1}"))
    told = RECORD.format(name="02_fails", numbers="{'accuracy': 0.99}")
    write_notebook(books, "02_fails", f"import os\nassert not os.path.exists('fail')\n{told}")
    told = RECORD.format(name="03_needs", numbers="{'accuracy': 0.98}")
    write_notebook(books, "03_needs", told, needs=["02_fails"])
    assert run_report(run="toy") == 0
    (books / "fail").touch()
    assert run_report(run="toy", chosen="02 03") == 1
    assert list(json.loads((folder / "metrics.json").read_text())["notebooks"]) == ["01_kept"]
    assert (folder / "01_kept.ipynb").exists() and not (folder / "03_needs.ipynb").exists()
    assert "0.98" not in (folder / "03_needs.html").read_text("utf-8")


def test_a_run_says_what_its_notebooks_ran_with(home):
    books, file = home / "notebooks", home / "reports" / "toy" / "run.json"
    write_notebook(books, "01_always", "1", parameters="RUN: str = ''")
    write_notebook(books, "02_asked", "1", parameters="RUN: str = ''\nFOLDS: int = 1")

    def said() -> dict:
        return json.loads(file.read_text("utf-8"))["parameters"]

    run_report(run="toy", chosen="02", parameters={"FOLDS": 3})
    assert said() == {"FOLDS": 3}
    run_report(run="toy", chosen="01", parameters={"FOLDS": 3})  # it names the run
    assert said() == {"FOLDS": 3}
    with pytest.raises(Problem, match="FOLDS is a parameter of 02 alone"):
        run_report(run="toy", chosen="01", parameters={"FOLDS": 7})
    run_report(run="toy", chosen="02")  # FOLDS is no recipe's: its default again
    assert said() == {}


def test_a_run_is_done_when_all_of_it_is(home):
    books = home / "notebooks"
    write_notebook(books, "01_broken", "1 / 0")
    write_notebook(books, "02_whole", "1")
    write_notebook(books, "03_needs", "1", needs=["01_broken"])
    assert run_report(run="toy") == 1
    assert run_report(run="toy", chosen="02") == 0  # that one went well
    assert run_report(run="toy", chosen="03") == 1  # what it needs failed before
    run = json.loads((home / "reports" / "toy" / "run.json").read_text("utf-8"))
    assert run["status"] == "failed"
    assert [own["status"] for own in run["notebooks"]] == ["failed", "done", "skipped"]


def test_further_notebooks_leave_what_the_run_was_made_with(home):
    books = home / "notebooks"
    write_notebook(books, "01_always", "1")
    write_notebook(books, "02_asked", "1")
    assert run_report(run="toy", parameters={"SEED": 7}) == 0
    assert run_report(run="toy", chosen="02") == 0
    run = json.loads((home / "reports" / "toy" / "run.json").read_text("utf-8"))
    assert run["parameters"]["SEED"] == 7
    assert run["seconds"] >= sum(own["seconds"] for own in run["notebooks"]) - 0.2  # all of it


def test_further_notebooks_have_the_parameters_of_their_run(home):
    books = home / "notebooks"
    write_notebook(books, "01_always", "1")
    write_notebook(books, "02_asked", "assert SEED == 7")
    write_notebook(books, "03_other", "1", parameters="RUN: str = ''")
    run_report(run="toy", chosen="01", parameters={"SEED": 7})
    assert run_report(run="toy", chosen="02") == 0
    file = home / "reports" / "toy" / "run.json"
    text = file.read_text("utf-8").replace('"SEED": ', '"SEED": "seven", "before": ')
    file.write_text(text, "utf-8")
    assert run_report(run="toy", chosen="03") == 0  # has no such parameter
    with pytest.raises(Problem, match="SEED"):
        run_report(run="toy", chosen="02")


@pytest.mark.parametrize(
    ("first", "chosen", "given", "conflict"),
    [
        ({"SEED": 7}, "02", {"SEED": 1}, "01_always by SEED 7, not 1"),
        ({}, "02", {"SEED": 7}, "01_always by SEED 1, not 7"),
        ({"SEED": 7}, "02", {"SEED": 7}, None),
        ({"SEED": 7}, "01 02", {"SEED": 1}, None),  # nothing of the other seed is left
        ({"SEED": 7}, "02", {"N_PATCHES": 50}, None),  # set after training
        ({"SEED": 7}, "02", {"FOLDS": 5}, None),  # of no recipe
    ],
)
def test_a_run_does_not_get_results_of_two_recipes(home, first, chosen, given, conflict):
    parameters = "RUN: str = ''\nSEED: int = 1\nN_PATCHES: int = 35\nFOLDS: int = 3"
    write_notebook(home / "notebooks", "01_always", "1", parameters=parameters)
    write_notebook(home / "notebooks", "02_asked", "1", parameters=parameters)
    run_report(run="toy", chosen="01", parameters=first)
    if conflict is None:
        assert run_report(run="toy", chosen=chosen, parameters=given) == 0
        return
    before = (home / "reports" / "toy" / "run.json").read_text("utf-8")
    with pytest.raises(Problem, match=conflict):
        run_report(run="toy", chosen=chosen, parameters=given)
    assert (home / "reports" / "toy" / "run.json").read_text("utf-8") == before


def test_a_run_on_another_folder_of_that_name_is_not_replaced(home):
    books = home / "notebooks"
    write_notebook(books, "01_always", "1")
    folders = [home / name / "scans" for name in ("a", "b")]
    for folder in folders:
        (folder / "train").mkdir(parents=True)
        (folder / "test").mkdir()
        for name in "train/x_1.png", "train/y_1.png", "test/x_2.png":
            cv2.imwrite(str(folder / name), np.full((64, 64), 255, np.uint8))
    assert run_report(dataset=str(folders[0])) == 0
    assert run_report(dataset=str(folders[0])) == 0  # again
    with pytest.raises(Problem, match=f"is a run on {folders[0]}: give this one a name"):
        run_report(dataset=str(folders[1]))
    assert run_report(dataset=str(folders[1]), run="other") == 0


@pytest.mark.parametrize("notebooks", [5, [1], [{}], [{"name": 5}], [{"name": "09_a"}]])
@pytest.mark.parametrize("metrics", [{"notebooks": [1]}, {"notebooks": {"a": {}, "b": 1}}])
def test_a_stranger_s_run_can_be_gone_on_with(notebooks, metrics, home):
    folder, outside = home / "reports" / "toy", home / "outside.txt"
    folder.mkdir(parents=True)
    outside.write_text("mine")
    (folder / "run.json").write_text(json.dumps({"notebooks": notebooks}))
    (folder / "metrics.json").write_text(json.dumps(metrics))
    for name in "kernels.log", ".01_always.partial.ipynb":
        (folder / name).symlink_to(outside)  # nothing outside the folder is written to
    write_notebook(home / "notebooks", "01_always", RECORD.format(name="01_always", numbers="{}"))
    assert run_report(run="toy", chosen="01") == 0
    assert outside.read_text() == "mine"
    assert "01_always" in json.loads((folder / "metrics.json").read_text())["notebooks"]


def test_a_number_that_no_notebook_has_is_refused_before_anything_is_written(home):
    write_notebook(home / "notebooks", "01_always", "1")
    with pytest.raises(Problem, match="there are: 01"):
        run_report(run="toy", chosen="09")
    assert not (home / "reports").exists()


def test_a_kernel_that_dies_is_a_failure_not_a_crash(home):
    write_notebook(home / "notebooks", "01_dies", "print('so' + ' far')", "import os; os._exit(9)")
    write_notebook(home / "notebooks", "02_lives", "1")
    assert run_report("quick", run="dead") == 1
    run = json.loads((home / "reports/dead/run.json").read_text())
    assert [n["status"] for n in run["notebooks"]] == ["failed", "done"]
    assert "died" in run["notebooks"][0]["error"]
    assert "so far" in (home / "reports/dead/01_dies.ipynb").read_text()


def test_record_merges_and_writes_what_json_can_hold(home):
    @dataclass
    class Knobs:
        seed: int = 3
        rate: float = float("inf")

    record("r", "01_a", {"old": 1}, {})
    record("r", "02_b", {"kept": 2}, {})
    numbers = {
        "mean": np.float32(0.5),
        "curve": np.array([1.0, np.nan]),
        "path": Path("a"),
        7: (1,),
    }
    record("r", "01_a", numbers, Knobs())
    notebooks = json.loads((home / "reports/r/metrics.json").read_text())["notebooks"]
    assert notebooks["01_a"]["numbers"] == {
        "mean": 0.5,
        "curve": [1.0, None],
        "path": "a",
        "7": [1],
    }
    assert notebooks["01_a"]["parameters"] == {"seed": 3, "rate": None}
    assert notebooks["01_a"]["seed"] == 3 and notebooks["02_b"]["numbers"] == {"kept": 2}


def test_index_survives_broken_foreign_and_hostile_runs(home):
    reports = home / "reports"
    files = {
        "broken/run.json": "{",
        "listed/run.json": "[1]",
        "odd/run.json": json.dumps({"parameters": [1], "notebooks": "no", "seconds": "x"}),
        "endless/run.json": '{"seconds": Infinity, "notebooks": [1, {}, {"name": 5, "error": 1}]}',
        "nan/run.json": '{"seconds": NaN, "profile": "\\ud800", "dataset": []}',
        "nan/metrics.json": '{"notebooks": {"a": {"numbers": {"accuracy": 1%s}}}}' % ("0" * 400),
        "ends/metrics.json": json.dumps(
            {"notebooks": {"a": {"numbers": {"accuracy": 1, "accuracy_low": "x"}}}}
        ),
        "deep/run.json": "[" * 100_000,
        "odd/metrics.json": json.dumps(
            {"notebooks": {"05_confusion": {"numbers": {"accuracy": "x"}}}}
        ),
        "alive/run.json": json.dumps({"status": "running", "started": "2030-01-01T00:00:00"}),
        "<script>alert(1)</script>/run.json": "{}",
        "x/run.json": json.dumps({"dataset": "<script>", "parameters": {"<b>": '"><script>'}}),
        "hand/metrics.json": json.dumps({"notebooks": {"9": {"numbers": {"accuracy": 0.5}}}}),
        "empty/note.txt": "no run",
    }
    for name, text in files.items():
        path = reports / name.replace("</", "<∕")  # a slash cannot be in a name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    html = write_index().read_text(encoding="utf-8")
    soup = BeautifulSoup(html, "html.parser")
    rows = [" ".join(row.get_text(" ").split()) for row in soup.tbody.find_all("tr")]
    assert len(rows) == 11 and rows[0].startswith("alive not finished")  # the newest first
    assert not soup.find("script") and "&lt;script&gt;alert(1)" in html
    assert any(row.startswith("hand") and "50.0 %" in row for row in rows)
    assert not any(row.startswith("empty") for row in rows)


@pytest.mark.parametrize(
    "seconds, text",
    [
        (0, "0 s"),
        (59.6, "1 min 00 s"),
        (312, "5 min 12 s"),
        (12000, "3 h 20 min"),
        (None, ""),
        ("x", ""),
    ],
)
def test_duration(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(
    "arguments, says",
    [
        (["report", "nope"], "no profile 'nope'"),
        (["report", "-p", "NO_SUCH_NAME", "1"], "NO_SUCH_NAME"),
        (["report", "--run", "../x"], "run name '../x'"),
        (["check", "nowhere"], "nowhere: no such folder"),
        (["predict", "strip.png"], "strip.png: no such file"),
        (["bench", "strip.png"], "strip.png: no such file"),
        (["predict", __file__, "--model", "nowhere"], "nowhere: no such model"),
        (["predict", __file__, "--model", __file__], "not a model that digitlib saved"),
        (["predict", "nowhere.png", "--model", __file__], "nowhere.png: no such file"),
    ],
)
def test_a_problem_is_one_line_and_exit_status_2(home, capsys, monkeypatch, arguments, says):
    write_notebook(home / "notebooks", "01_only", "1")
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("digitlib: error: ") and error.count("\n") == 1 and says in error
    assert not (home / "reports").exists()


def test_ctrl_c_ends_with_130_and_says_how_to_go_on(home, capsys, monkeypatch):
    def stop(*args, **how):
        raise KeyboardInterrupt

    monkeypatch.setattr("digitlib.report.run_report", stop)
    assert main(["report"]) == 130
    assert "the same command goes on" in capsys.readouterr().err


def test_report_list_shows_every_parameter_once(home, capsys, monkeypatch):
    write_notebook(home / "notebooks", "01_a", "1")
    write_notebook(
        home / "notebooks", "02_b", "1", parameters=PARAMETERS + "EXTRA: int = 2  # more\n"
    )
    assert main(["report", "--list"]) == 0
    out = capsys.readouterr().out
    assert "  quick    the notebooks' own defaults\n" in out and out.count("SEED: int = 1") == 1
    assert re.search(r"EXTRA: int = 2 +more", out)


def test_check_says_what_is_in_a_data_set(tmp_path, capsys):
    heights = {"train/a_1": 90, "train/a_2": 40, "train/b_1": 50, "test/b_2": 40}
    for name, height in heights.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        image = np.full((height, 60), 255, np.uint8)
        image[10:20:3, 10:30] = 0
        image = {"test/b_2": 255 - image, "train/a_2": image // 255 * 200}.get(name, image)
        cv2.imwrite(str(tmp_path / f"{name}.png"), image)
    (tmp_path / "test" / "notes.txt").write_text("")
    assert main(["check", str(tmp_path)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "2 classes, a to b",
        "train: 3 images of 2 classes, 60 x 50 px (medians)",
        "test: 1 images of 1 classes, 60 x 40 px (medians)",
        "no lines of writing were seen; the settings are for lines 100 px apart",
        "1 white on black, and turned: test/b_2.png",
        "1 not black and white alone, and read in even light",
        "1 other files and folders, ignored",
    ]


def test_a_reader_who_has_seen_enough_is_no_error():
    """As `digitlib report --list | head -1`: the pipe is closed before all is said."""
    command = [sys.executable, "-m", "digitlib", "report", "--list"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        child.stdout.close()
        assert child.stderr.read() == b""
    assert child.returncode == 141


@pytest.mark.parametrize(
    ("cards", "printed", "start"),
    [
        ([], "", "cpu ("),
        (["gpu:0"], "NVIDIA H200\n", "1 gpu (NVIDIA H200), cpu ("),
        (["gpu:0", "gpu:1"], "NVIDIA A100\nNVIDIA A100\n", "2 gpu (NVIDIA A100), cpu ("),
        (["gpu:0"], None, "1 gpu, cpu ("),  # of another maker, whose driver has no such tool
    ],
)
def test_a_run_names_its_card(monkeypatch, cards, printed, start):
    def run(command: tuple[str, ...], **how) -> subprocess.CompletedProcess:
        if printed is None:
            raise FileNotFoundError(command[0])
        return subprocess.CompletedProcess(command, 0, printed)

    monkeypatch.setattr("digitlib.model.gpus", lambda: cards)
    monkeypatch.setattr("digitlib.report.subprocess.run", run)
    assert device_name().startswith(start)


def test_version_and_missing_command(capsys):
    with pytest.raises(SystemExit) as done:
        main(["--version"])
    assert done.value.code == 0 and capsys.readouterr().out == f"digitlib {digitlib.__version__}\n"
    with pytest.raises(SystemExit) as wrong:
        main([])
    assert wrong.value.code == 2


def test_the_default_run_is_named_after_profile_and_data_set(monkeypatch):
    def named(run: str) -> None:
        raise Problem(f"named {run}")

    monkeypatch.setattr("digitlib.report.run_folder", named)
    with pytest.raises(Problem, match="^named quick-digits$"):
        run_report()
