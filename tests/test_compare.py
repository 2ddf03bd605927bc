"""Systems side by side: small hand-made tables whose counts can be checked by eye."""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from digitlib import Problem, compare, evaluate, model, parameters, pictures, pictures_of_runs
from digitlib.dataset import Dataset, Page

NAMES = ["a_1.png", "a_2.png", "b_1.png", "b_2.png"]


def page(name: str, height: int = 40, width: int = 60) -> Page:
    """White, with a stroke, and its label before the underscore."""
    image = np.full((height, width), 255, np.uint8)
    image[height // 2, 5:-5] = 0
    return Page(Path(name), name.partition("_")[0], image, inverted=False)


@pytest.fixture
def dataset(home) -> Dataset:
    """Classes a and b, two test images each."""
    folder = home / "data" / "mine"
    folder.mkdir(parents=True)
    pages = [page(name) for name in NAMES]
    return Dataset(folder, pages[::2], pages, ignored=0)


def write(folder: Path, said: str, name: str = "result.csv", names=NAMES, **recorded) -> None:
    """A table that labels ``names`` with the letters ``said``, and what notebooks recorded."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [f"{n},{n[0]},{label}" for n, label in zip(names, said, strict=True)]
    (folder / name).write_text("\n".join(["filename,actual,predicted", *rows]) + "\n")
    if recorded:
        metrics = {"notebooks": {f"0{book[1:]}": entry for book, entry in recorded.items()}}
        (folder / "metrics.json").write_text(json.dumps(metrics))


def test_scores_and_costs(home, dataset):
    write(
        home / "reports" / "one",
        "aaba",
        n3_training={"numbers": {"seconds": {"all": 302}}, "device": "1 gpu"},
        n4_ensemble={"numbers": {"seconds_per_image": 0.12}, "device": "cpu (2 cores)"},
    )
    write(home / "reports" / "two", "bbbb")
    write(home / "reports" / "two", "aabb", "baseline.csv")
    systems = compare.gather(home / "reports", dataset, "one")
    table = compare.score_table(systems)
    assert table["n_correct"].to_dict() == {"two baseline": 4, "one": 3, "two": 2}  # best first
    assert table["accuracy"].tolist() == [1, 0.75, 0.5] and systems.skipped == []
    assert table.loc["two", "macro_f1"] == pytest.approx((0 + 2 / 3) / 2)  # a never, b 2 of 4
    read = pictures_of_runs.as_read(table)
    assert read.loc["one"].tolist()[:2] == ["3 of 4", "75.0%"]
    assert read.loc["one"].tolist()[3:] == ["0.733", "5 min 02 s", "120 ms", "1 gpu; cpu (2 cores)"]
    assert read.loc["two"].tolist()[4:] == ["", "", ""]  # nothing recorded


def test_less_text_to_learn_from(home, dataset):
    """Two recipes with runs that learnt from less, and one without; the newest of two alike."""
    runs = {
        "all": ("best", None, "aabb"),  # of before there was TEXT: the whole page
        "third": ("best", 0.3, "aabb"),
        "line": ("best", 0.1, "abab"),
        "plain": ("quick", 1.0, "aabb"),
        "third-other": ("best", 0.3, "aaaa"),
    }
    for name, (profile, text, said) in runs.items():
        learnt = {"parameters": {"text": text}} if text else {"parameters": {}}
        write(home / "reports" / name, said, n3_training=learnt)
        changed = {"WEIGHTS": "/a/b.h5"} if "other" in name else {"TEXT": text, "FOLDS_RUN": 3}
        changed |= {"POOLING": "vlad"} if profile == "best" else {}  # as its profile has it
        own = json.dumps({"profile": profile, "parameters": changed})
        (home / "reports" / name / "run.json").write_text(own)
    lower = {"parameters": {"text": 0.5}}
    write(home / "reports" / "other", "aaaa", "baseline.csv", n6_baselines=lower)
    (home / "reports" / "other" / "run.json").write_text(json.dumps({"profile": "best"}))
    table = compare.by_training_text(compare.gather(home / "reports", dataset, "all"))
    assert table[["recipe", "text", "n_correct"]].values.tolist() == [
        ["best", 0.1, 2],
        ["best", 0.3, 4],
        ["best", 1.0, 4],
        ["best baseline", 0.5, 2],
        ["best, WEIGHTS=b.h5", 0.3, 2],
    ]
    axis = pictures_of_runs.accuracy_by_training_text(table).axes[0]
    assert [tick.get_text() for tick in axis.get_xticklabels()] == ["10%", "30%", "50%", "100%"]


def test_a_profile_is_read_as_report_reads_it(home, dataset, monkeypatch):
    """YAML takes 2e-5 for text; and of a profile that is none, the run counts as left out alone."""
    profiles = home / "notebooks" / "profiles"
    profiles.mkdir(parents=True)
    monkeypatch.setattr(compare, "NOTEBOOKS", home / "notebooks")
    monkeypatch.setattr(parameters, "NOTEBOOKS", home / "notebooks")
    (profiles / "small.yaml").write_text("TUNE_RATE: 2e-5\nMANY_PATCHES: 9\n")
    (profiles / "wrong.yaml").write_text("TUNE_RATE: fast\n")
    for name in "small", "wrong":
        write(home / "reports" / name, "aabb")
        own = json.dumps({"profile": name, "parameters": {"TUNE_RATE": 2e-5, "BLUR": 5}})
        (home / "reports" / name / "run.json").write_text(own)
    systems = compare.gather(home / "reports", dataset, "small")
    assert systems.learnt_from == {"small": ("small, BLUR=5", 1.0)}
    assert list(systems.results) == ["small"] and "TUNE_RATE must be a number" in systems.skipped[0]


@pytest.mark.parametrize(
    ("n_better", "colour"),
    [(5, "NEUTRAL"), (6, "RIGHT"), (-5, "NEUTRAL"), (-6, "WRONG"), (0, "NEUTRAL")],
)
def test_a_difference_has_a_colour_where_it_is_more_than_chance(n_better, colour):
    """Signs of five classes are alike by chance once in 16, of six once in 32."""
    names = [f"{i:02}" for i in range(70)]
    right = pd.DataFrame({"filename": names, "actual": names, "predicted": names})
    worse = right.assign(predicted=["x"] * abs(n_better) + names[abs(n_better) :])
    one, other = (right, worse) if n_better > 0 else (worse, right)
    systems = compare.Systems({"one": one, "other": other}, {}, [], {})
    axis = pictures_of_runs.differences(compare.comparisons(systems, "one"), "one").axes[0]
    [dot] = [line for line in axis.get_lines() if line.get_marker() == "o"]
    assert dot.get_color() == getattr(pictures, colour)


@pytest.mark.parametrize(
    ("picture", "kind", "at"),
    [
        (pictures_of_runs.accuracy_by_text, "system", {"parts": [3, 1]}),
        (pictures_of_runs.accuracy_by_training_text, "recipe", {"text": [0.1, 1.0]}),
    ],
)
@pytest.mark.parametrize("worst", [0.3, 0.0])
def test_the_worst_of_several_is_in_the_picture(picture, kind, at, worst):
    """The best comes first, and the axis reaches down to the last one's interval, not below 0."""
    rows = [
        pd.DataFrame(at | {kind: name, "accuracy": mean, "accuracy_low": low, "accuracy_high": 1.0})
        for name, mean, low in (("a", 0.99, 0.98), ("b", 0.5, worst))
    ]
    low, high = picture(pd.concat(rows)).axes[0].get_ylim()
    assert -0.02 <= low <= worst and high == 1.02


@pytest.mark.parametrize(
    ("names", "text", "reason"),
    [
        (NAMES[:3], "", "other images: 3 of its 3 are among these 4"),  # one too few
        ([*NAMES, "b_3.png"], "", "other images: 4 of its 5 are among these 4"),  # one too many
        ([*NAMES[:3], NAMES[0]], "", "other images: 3 of its 4"),  # one twice
        (["x_1.png"], "", "other images: 0 of its 1"),  # a stranger
        ([], 'filename,actual\n"a_1.png,a\nb', "not a readable result table"),  # an open quote
        ([], "", "No columns"),  # empty
        ([], "filename,actual,predicted\n", "other images: 0 of its 0"),  # no rows
        ([], "<html>\n", "no column actual, filename"),  # no table at all
        ([], "filename,actual\n" + "".join(f"{n},{n[0]}\n" for n in NAMES), "no column predicted"),
        ([], "filename,actual,predicted\n" + "".join(f"{n},c,c\n" for n in NAMES), "other images"),
    ],
)
def test_other_and_damaged_tables_are_named_and_left_out(home, dataset, names, text, reason):
    reports = home / "reports"
    write(reports / "one", "aabb")
    if names:
        write(reports / "odd", "a" * len(names), names=names)
    else:
        (reports / "odd").mkdir()
        (reports / "odd" / "result.csv").write_text(text)
    systems = compare.gather(reports, dataset, "one")
    assert list(systems.results) == ["one"] and len(systems.skipped) == 1
    line = systems.skipped[0]
    assert line.startswith("odd/result.csv: ") and reason in line and str(home) not in line
    with pytest.raises(Problem, match="odd: no result.csv of these images .*odd/result"):
        compare.gather(reports, dataset, "odd")


def test_generated_data_of_another_seed_are_other_images(home, dataset):
    """They share file names and labels; only the recorded parameters tell them apart."""
    made = {"dataset": "hands", "classes": 2, "seed": 1}
    folder = dataset.folder.rename(dataset.folder.with_name("hands-2-1-v1"))
    hands = Dataset(folder, dataset.train, dataset.test, ignored=0)
    write(home / "reports" / "one", "aabb", n4_ensemble={"parameters": made})
    write(home / "reports" / "ten", "aabb", n4_ensemble={"parameters": made | {"seed": 10}})
    classical = {"parameters": made | {"dataset": "digits"}}
    write(home / "reports" / "two", "aabb", "baseline.csv", n6_baselines=classical)
    systems = compare.gather(home / "reports", hands, "one")
    assert list(systems.results) == ["one"]
    assert sorted(systems.skipped) == [
        "ten/result.csv: labelled other images, those of hands-2-10",
        "two/baseline.csv: labelled other images, those of digits-2-1",
    ]


def test_published_columns(home, dataset):
    write(home / "reports" / "one", "aabb")
    rows = ["filename,actual,their cnn,<b>x", "b_1.png,b,b,a", "z_9.png,z,z,z"]
    rows += ["b_2.png,b,b,a", "a_1.png,a,a,a", "a_2.png,a,b,a"]
    (dataset.folder / compare.PUBLISHED).write_text("\n".join(rows))
    systems = compare.gather(home / "reports", dataset, "one")
    names = ["one", "published <b>x", "published their cnn"]
    assert sorted(systems.results) == names and systems.skipped == []
    assert systems.results["published their cnn"]["predicted"].tolist() == list("abbb")
    assert compare.score_table(systems)["n_correct"].to_dict() == dict(
        zip(names, (4, 2, 3), strict=True)
    )
    read = pictures_of_runs.as_read(compare.score_table(systems))
    assert "<b>x" not in read._repr_html_()  # escaped


def test_comparisons_and_misses(home, dataset):
    for name, said in {"one": "aabb", "two": "abba", "six": "bbbb"}.items():
        write(home / "reports" / name, said)
    systems = compare.gather(home / "reports", dataset, "two")
    table = compare.comparisons(systems, "two")
    assert table["difference"].to_dict() == {"one": -0.5, "six": 0}
    assert table["only_run"].to_dict() == {"one": 0, "six": 1}  # six: a_1
    assert table["only_other"].to_dict() == {"one": 2, "six": 1}  # six: b_2
    assert table.loc["one", "mcnemar_p"] == 0.5  # two coins that fall alike
    missed = compare.missed(systems, ["one", "two", "six"])
    assert missed.loc["a_2.png"].tolist() == ["a", "b", "b"]
    assert missed.index.tolist() == ["a_2.png", "a_1.png", "b_2.png"]  # most missed first
    assert compare.missed(systems, ["one"]).empty


def test_strange_names_and_broken_records_are_only_text(home, dataset):
    odd = "a_\udcff=1.png"  # not UTF-8 on disk
    strange = Dataset(dataset.folder, dataset.train, [page(odd)], ignored=0)
    folder = home / "reports" / "one"
    for name, label in {"one": "a", "two": "\x1b[31m"}.items():
        table = pd.DataFrame({"filename": [odd], "actual": ["a"], "predicted": [label]})
        evaluate.write_result_csv(table, home / "reports" / name / "result.csv")
    for text in ["[1]", '{"notebooks": 3}', '{"notebooks": {"04_ensemble": [{}]}}', "{"]:
        (folder / "metrics.json").write_text(text)
        systems = compare.gather(home / "reports", strange, "one")
        assert systems.results["two"]["predicted"].tolist() == ["\\x1b[31m"]
        assert compare.score_table(systems)["n_correct"].to_dict() == {"one": 1, "two": 0}
        assert pictures_of_runs.as_read(compare.score_table(systems)).loc["one", "training"] == ""


def test_alone(home, dataset):
    write(home / "reports" / "one", "aabb")
    systems = compare.gather(home / "reports", dataset, "one")
    assert compare.comparisons(systems, "one").empty
    with pytest.raises(Problem, match="none: no result.csv"):
        compare.gather(home / "nowhere", dataset, "none")


def test_newest_runs_are_taken_and_the_one_asked_for(home, dataset, monkeypatch):
    monkeypatch.setattr(compare, "MOST_SYSTEMS", 2)
    for age, name in enumerate(["new", "mid", "old"]):
        write(home / "reports" / name, "aabb")
        os.utime(home / "reports" / name / "result.csv", (0, 1000 - age))
    systems = compare.gather(home / "reports", dataset, "old")
    assert list(systems.results) == ["old", "new"]
    assert systems.skipped == ["mid/result.csv: older than the 2 systems that are compared"]


@pytest.mark.parametrize("n_missed", [1, 3])
def test_pictures_are_drawn_whatever_the_names(home, dataset, n_missed):
    write(home / "reports" / "one", "aabb")
    odd = "filename,actual,$\\frac$ _ " + "x" * 80 + "\n"
    rows = [
        f"{name},{name[0]},{'$z$' * 30 if i < n_missed else name[0]}\n"
        for i, name in enumerate(NAMES)
    ]
    (dataset.folder / compare.PUBLISHED).write_text(odd + "".join(rows))
    systems = compare.gather(home / "reports", dataset, "one")
    comparisons = compare.comparisons(systems, "one")
    missed = compare.missed(systems, list(systems.results))
    pages = {p.path.name: p for p in dataset.test}
    for n in (1, 10):
        pictures_of_runs.missed_images(missed, pages, n).savefig(home / "missed.png")
    for table in (comparisons, comparisons.head(0)):
        pictures_of_runs.differences(table, "one").savefig(home / "differences.png")


@given(
    st.integers(3, 60), st.integers(3, 60), st.sampled_from(sorted(compare.CUTS)), st.integers(0, 9)
)
def test_pieces_tile_the_image(height, width, n, seed):
    image = np.random.default_rng(seed).integers(0, 256, (height, width), np.uint8)
    cut = compare.pieces(Page(Path("x/a_1.png"), "a", image, inverted=False), n)
    assert len(cut) == n == len({part.path for part in cut})
    columns = 2 if n == 6 else 1
    rows = [np.hstack([p.image for p in cut[i : i + columns]]) for i in range(0, n, columns)]
    assert (np.vstack(rows) == image).all()
    heights, widths = ({part.image.shape[axis] for part in cut} for axis in (0, 1))
    assert max(heights) - min(heights) <= 1 and max(widths) - min(widths) <= 1
    assert {part.label for part in cut} == {"a"} and cut[0].path.parent == Path("x")


@pytest.mark.parametrize(
    ("text", "counts"),
    [("1 2 3 6", [1, 2, 3, 6]), ("3", [3]), ("2,1 2", [1, 2]), (" 6, 1 ", [1, 6])],
)
def test_counts_of_pieces(text, counts):
    assert compare.counts_of_pieces(text) == counts


@pytest.mark.parametrize("text", ["", "0", "4", "1 -1", "12", "1 x", "1.5"])
def test_counts_that_are_none(text):
    with pytest.raises(Problem, match="PARTS must be one or more of 1, 2, 3, 6"):
        compare.counts_of_pieces(text)


def test_less_text(home, digits, tiny):
    """An untrained model on whole images and pieces; the run's ensemble settings are used."""
    folder = home / "reports" / "one"
    network = model.build(len(digits.classes), tiny).whole
    model.save(network, digits.classes, tiny, folder / "model.keras")
    table = compare.by_text(["one", "one"], digits, [1, 3], seed=1)
    n = len(digits.test)
    assert table["system"].tolist() == ["one", "one"]  # a run twice is read once
    assert table["parts"].tolist() == [1, 3] and table["n"].tolist() == [n, 3 * n]
    assert (table["accuracy_low"] <= table["accuracy"]).all()
    pictures_of_runs.accuracy_by_text(table).savefig(home / "text.png")
    told = [{"parts": n, "n": n * 2, "n_correct": n} for n in (1, 2)]
    recorded = {"06_baselines": {"numbers": {"by_text": told}}}
    (folder / "metrics.json").write_text(json.dumps({"notebooks": recorded}), "utf-8")
    both = compare.by_text(["one"], digits, [1, 3], seed=1)
    assert both["system"].tolist() == ["one", "one", "one baseline"]
    assert both["parts"].tolist() == [1, 3, 1] and both["n_correct"].tolist()[2] == 1
    with pytest.raises(Problem, match="no such model"):
        compare.by_text(["two"], digits, [1])


def test_accuracies_are_shown_up_to_all_of_them():
    rows = {"recipe": "a", "text": [0.1, 1.0], "accuracy": [0.03, 0.99]}
    ends = {"accuracy_low": [0.0, 0.96], "accuracy_high": [0.07, 1.0]}
    (axis,) = pictures_of_runs.accuracy_by_training_text(pd.DataFrame(rows | ends)).axes
    shown = [label.get_text() for label in axis.get_yticklabels()]
    assert (shown[0], shown[-1]) == ("0%", "100%")


def test_each_model_is_shown_images_of_the_size_it_reads(home, digits, tiny, monkeypatch):
    heights = {}

    def label(network, classes, settings, cut, n):
        heights[settings.resize] = {page.image.shape[0] for page in cut}
        return pd.DataFrame({"actual": ["a"], "predicted": ["a"]})

    monkeypatch.setattr(compare, "_labelled", label)
    for run, resize in {"one": 1.0, "half": 0.5, "again": 1.0}.items():
        settings = replace(tiny, resize=resize)
        network = model.build(len(digits.classes), settings).whole
        model.save(network, digits.classes, settings, home / "reports" / run / "model.keras")
    compare.by_text(["one", "half", "again"], digits, [1], resize=1.0)
    assert heights == {1.0: {300, 600}, 0.5: {150, 300}}
