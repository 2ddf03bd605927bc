"""The pages: an HTML page for each executed notebook, the index of all runs, and labelled images.

In: executed notebooks, run.json and metrics.json in the folders under reports/; what was predicted.
Out: reports/<run>/NN_name.html, reports/index.html and others, which load nothing from anywhere.
"""

import json
import logging
import mimetypes
import re
from base64 import b64encode
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote

import digitlib
from digitlib import progress_bar, whole_file

if TYPE_CHECKING:
    from digitlib.predict import Answers

MOST_JSON = 2**26  # bytes
MOST_SHOWN = 500  # labelled images on a page,
PICTURE = 240, 900  # px, height and width that each is reduced to
ERROR_TAG = "papermill-error-cell-tag"  # papermill's own error cells; the page has a better one
WIDGETS = "application/vnd.jupyter.widget-view+json"  # live only: a page has no kernel
# What can run code or load something from elsewhere; a page needs none of it.
UNWANTED = ("script", "link", "iframe", "object", "embed", "base", "meta", "form")


def read_json(path: Path) -> dict[str, Any]:
    """The object in ``path``; {} if the file is missing, broken, out of all proportion, or holds
    no object."""
    try:
        if not path.is_file() or path.stat().st_size > MOST_JSON:
            return {}
        # NaN and infinity, which are no JSON, as they are written here: as null.
        text = path.read_text(encoding="utf-8")
        value = json.loads(text, parse_constant=lambda _: None)
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def recorded(metrics: Mapping[str, Any]) -> dict[str, dict]:
    """What each notebook left in a run's metrics.json, which may be anybody's."""
    notebooks = metrics.get("notebooks")
    notebooks = notebooks if isinstance(notebooks, dict) else {}
    return {name: entry for name, entry in notebooks.items() if isinstance(entry, dict)}


def states_of(run: Mapping[str, Any]) -> list[dict]:
    """The notebooks of a run.json that have a name and a status."""
    listed = run.get("notebooks") if isinstance(run.get("notebooks"), list) else []
    listed = [own for own in listed if isinstance(own, dict)]
    return [s for s in listed if all(isinstance(s.get(key), str) for key in ("name", "status"))]


def render(template: str, path: Path, **values: Any) -> Path:
    """Fill digitlib/<template> (autoescape on) and write it to ``path``."""
    import jinja2

    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True)
    # Names that are no UTF-8 exist: their links break, and no more than that.
    links = {"quote": lambda text: quote(str(text), errors="replace")}
    environment.filters |= links | {"duration": duration}
    with whole_file(path) as aside:
        html = environment.get_template(template).render(**values)
        aside.write_text(html, encoding="utf-8", errors="backslashreplace")
    return path


def duration(seconds: Any) -> str:
    """Seconds as a person says them: 8 s, 5 min 02 s, 3 h 20 min; "" for what is no number."""
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds < 1e9:
        return ""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def _is_shown(output: Mapping[str, Any]) -> bool:
    """Whether a page has a use for a cell's output: not for stderr, blanks, or a live widget."""
    if output["output_type"] == "stream":
        return output["name"] != "stderr" and bool(output["text"].strip())
    return WIDGETS not in output.get("data", {})


def notebook_body(notebook: Path, source_folder: Path, names: Sequence[str]) -> str:
    """The cells of an executed notebook as HTML without prompts, stderr, scripts or widgets.

    Figures, and images that prose names relative to ``source_folder``, are embedded. Links to
    other notebooks lead to the pages of ``names``; the others have none.
    """
    import nbformat
    from bs4 import BeautifulSoup
    from nbconvert import HTMLExporter

    nb = nbformat.read(notebook, as_version=4)
    nb.cells = [c for c in nb.cells if ERROR_TAG not in c.metadata.get("tags", [])]
    nb.metadata.pop("widgets", None)
    for cell in nb.cells:
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if _is_shown(output)]

    exporter = HTMLExporter(
        template_name="basic",
        exclude_input_prompt=True,
        exclude_output_prompt=True,
        exclude_anchor_links=True,
        preprocessors=["nbconvert.preprocessors.CoalesceStreamsPreprocessor"],  # heeds \r
        log=logging.getLogger("digitlib.silent"),
    )
    exporter.log.setLevel(logging.CRITICAL)  # it warns about alt texts, which come below
    soup = BeautifulSoup(exporter.from_notebook_node(nb)[0], "html.parser")
    for tag in soup.find_all(UNWANTED):
        tag.decompose()
    for image in soup.find_all("img"):  # nbconvert's own embedding breaks inline HTML in prose
        file = source_folder / unquote(image.get("src", ""))
        if not image.get("src", "data:").startswith("data:") and file.is_file():
            kind = mimetypes.guess_type(file)[0] or "image/png"
            image["src"] = f"data:{kind};base64,{b64encode(file.read_bytes()).decode()}"
    for tag in soup.find_all(True):
        for name, value in list(tag.attrs.items()):
            address = re.sub(r"\s", "", str(value)).lower()
            loads = name in ("src", "srcset", "poster", "background", "data")
            remote = not address.startswith(("data:", "#")) if loads else False
            if name.startswith("on") or remote or address.startswith(("javascript:", "vbscript:")):
                del tag.attrs[name]
    for link in soup.find_all("a", href=re.compile(r"^[^/:]+\.ipynb$")):
        name = link["href"].removesuffix(".ipynb")
        if unquote(name) in names:
            link["href"] = f"{name}.html"
        else:
            link.unwrap()
    for table in soup.find_all("table"):
        table.wrap(soup.new_tag("div", attrs={"class": "scroll", "tabindex": "0"}))
    for image in soup.find_all("img"):
        if not image.has_attr("src"):
            image.decompose()
            continue
        heading = image.find_previous(["h1", "h2", "h3"])
        if image.get("alt", "No description").startswith("No description"):
            image["alt"] = f"Figure: {heading.get_text(' ', strip=True)}" if heading else "Figure"
    return str(soup)


def write_page(
    notebook: Path, source: Path, run: Mapping[str, Any], own: Mapping[str, Any]
) -> Path:
    """reports/<run>/NN_name.html: the story first, its code a click away.

    ``notebook``: the executed file (there is none if it was skipped). ``source``: the original.
    ``run``: run.json as it is so far; ``own``: this notebook's entry in it.
    """
    from pygments.formatters import HtmlFormatter

    names = [n["name"] for n in run["notebooks"]]
    at = names.index(own["name"])
    return render(
        "page.html.j2",
        notebook.with_suffix(".html"),
        run=run,
        own=own,
        before=names[at - 1] if at else None,
        after=names[at + 1] if at + 1 < len(names) else None,
        code_style=HtmlFormatter(style="default").get_style_defs(".highlight"),
        body=notebook_body(notebook, source.parent, names) if notebook.exists() else "",
    )


def accuracy(metrics: Mapping[str, Any]) -> tuple[str, str] | None:
    """("95.7 %", "91.4 to 98.6 %, n = 140") from 05_confusion, else from the last that has one.

    But for 06_baselines, whose accuracy is not that of the run.
    """
    entries = {name: entry for name, entry in recorded(metrics).items() if name != "06_baselines"}
    ordered = [entries.pop("05_confusion", {}), *reversed(list(entries.values()))]
    for entry in ordered:
        numbers = entry.get("numbers")
        if isinstance(numbers, dict) and isinstance(numbers.get("accuracy"), int | float):
            try:
                text = f"{100 * float(numbers['accuracy']):.1f}\N{NO-BREAK SPACE}%"
            except OverflowError:
                continue
            try:
                low, high = 100 * numbers["accuracy_low"], 100 * numbers["accuracy_high"]
                return text, f"{low:.1f} to {high:.1f}\N{NO-BREAK SPACE}%, n = {numbers['n']}"
            except (KeyError, TypeError, ValueError, OverflowError):
                return text, ""
    return None


def run_row(folder: Path) -> dict[str, Any]:
    """What the index says about one run; tolerates missing and broken files."""
    run, metrics = read_json(folder / "run.json"), read_json(folder / "metrics.json")
    changed = run.get("parameters") if isinstance(run.get("parameters"), dict) else {}
    modified = datetime.fromtimestamp(folder.stat().st_mtime, UTC).isoformat(timespec="seconds")
    status = str(run.get("status", "no run.json"))
    return {
        "name": folder.name,
        "started": str(run.get("started", modified)),
        "status": {"running": "not finished"}.get(status, status),
        "profile": run.get("profile", ""),
        "dataset": run.get("dataset", ""),
        "parameters": {name: v for name, v in changed.items() if name != "DATASET"},
        "accuracy": accuracy(metrics),
        "seconds": run.get("seconds"),
        "pages": sorted(p.stem for p in folder.glob("[0-9]*.html")),
        "errors": [own for own in states_of(run) if own.get("error")],
        "files": [f for f in ("result.csv", "metrics.json", "run.json") if (folder / f).exists()],
    }


def write_labels(answers: "Answers", model: str, out: Path) -> Path:
    """``out``: a picture of each labelled image, as it is read, with what ``answers`` say of it;
    the least confident first, of MOST_SHOWN."""
    import cv2

    from digitlib.dataset import read_page

    both = zip(answers.rows, answers.files, strict=True)
    first, shown = sorted(both, key=lambda own: own[0]["confidence"])[:MOST_SHOWN], []
    for row, file in progress_bar(first, desc="pictures", unit="image"):
        image = read_page(file, answers.resize).image
        scale = min(1, *(most / side for most, side in zip(PICTURE, image.shape, strict=True)))
        size = [max(1, round(side * scale)) for side in image.shape[::-1]]
        small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        png = cv2.imencode(".png", small // 17 * 17)[1]  # 16 levels: a third of the bytes
        shown.append(row | {"picture": b64encode(png).decode()})
    return render("labels.html.j2", out, model=model, images=len(answers.rows), rows=shown)


def write_index() -> Path:
    """reports/index.html: every run, newest first, failed and unfinished ones too."""
    reports = digitlib.REPORTS
    reports.mkdir(parents=True, exist_ok=True)
    folders = [p for p in reports.iterdir() if p.is_dir() and not p.name.startswith(".")]
    known = [p for p in folders if (p / "run.json").exists() or (p / "metrics.json").exists()]
    rows = sorted(map(run_row, known), key=lambda row: row["started"], reverse=True)
    return render("index.html.j2", reports / "index.html", runs=rows)
