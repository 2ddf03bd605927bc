"""Shipped models: small, described, found by name, and able to read.

In: the models in digitlib/weights. Out: cards, paths, labels.
"""

import json
import math
import tracemalloc
import zipfile
from dataclasses import asdict, replace

import pytest

import digitlib
from digitlib import Problem, engine, model, shipped
from digitlib.__main__ import main
from digitlib.parameters import read_profile
from digitlib.predict import reader
from digitlib.results import combine
from digitlib.settings import Settings


@pytest.mark.parametrize("path", shipped.models().values(), ids=lambda path: path.stem)
def test_a_shipped_model_is_small_and_says_what_it_is(path):
    assert path.stat().st_size <= 10e6
    classes, settings, about = shipped.read_card(path)
    assert len(classes) >= 2 and settings.weights == "handwriting"
    assert {"recipe", "weights", "data", "cross-validated", "limits"} <= set(about)
    recipe = read_profile(about["recipe"]) | {"DATASET": "reference"}
    assert settings == Settings.of(recipe)  # its profile is still what it was learnt by


@pytest.mark.parametrize("path", shipped.models().values(), ids=lambda path: path.stem)
def test_a_shipped_model_holds_numbers_and_text_only(path):
    with zipfile.ZipFile(path) as archive:
        names = set(archive.namelist())
    own = {shipped.CARD, *engine.members(engine.STRIPS)}
    assert names == {"metadata.json", "config.json", "model.weights.h5"} | own


@pytest.mark.parametrize("path", shipped.models().values(), ids=lambda path: path.stem)
def test_a_shipped_graph_copies_no_map_there_and_back(path):
    graph = engine.Engine(path).network
    kinds = {
        (item.get_type_name(), item.input_value(0).get_node().get_type_name())
        for item in graph.get_ordered_ops()
        if item.get_input_size()
    }
    assert ("Reshape", "Transpose") in kinds and ("Transpose", "Transpose") not in kinds


def test_predict_has_a_model_without_any_run():
    assert shipped.DEFAULT in shipped.models()


def test_what_a_killed_ship_leaves_is_no_model(home, monkeypatch):
    monkeypatch.setattr(shipped, "FOLDER", home)
    for name in "one.keras", ".partial-1-two.keras":
        (home / name).write_bytes(b"")
    assert list(shipped.models()) == ["one"]


def test_models_are_found_by_name_by_run_and_by_path(home):
    run = digitlib.REPORTS / "mine" / "model.keras"
    run.parent.mkdir(parents=True)
    run.write_bytes(b"")
    assert shipped.find("mine") == run
    assert shipped.find(run) == run
    assert shipped.find(shipped.DEFAULT) == shipped.models()[shipped.DEFAULT]


@pytest.mark.parametrize("name", ["nowhere", "../mine", "", "/etc", "."])
def test_other_names_are_refused_with_what_there_is(home, name):
    (digitlib.REPORTS.parent / "mine").mkdir()
    (digitlib.REPORTS.parent / "mine" / "model.keras").write_bytes(b"")
    with pytest.raises(Problem, match=shipped.DEFAULT):
        shipped.find(name)


MANY = {"pooling": "vlad", "whitened": 4096, "codebooks": 1, "clusters": 2, "components": 2}


@pytest.mark.parametrize("packed", [zipfile.ZIP_BZIP2, zipfile.ZIP_DEFLATED])
def test_what_a_file_says_of_its_sizes_is_not_believed(packed, tmp_path):
    """Of 64 MiB that are said to be 100 bytes no more than these are unpacked."""
    path = tmp_path / "model.keras"
    with zipfile.ZipFile(path, "w", packed) as archive:
        archive.writestr(shipped.CARD, b"[" * 2**26)
    content = path.read_bytes()
    path.write_bytes(content.replace((2**26).to_bytes(4, "little"), (100).to_bytes(4, "little")))
    tracemalloc.start()
    with pytest.raises(Problem, match="not a model"):
        shipped.read_card(path)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 2**23


@pytest.mark.parametrize(
    "card, reason",
    [
        ({"classes": ["a"], "settings": {}}, "class names"),
        ({"classes": ["a", "a"], "settings": {}}, "class names"),
        ({"classes": ["a", "b" * 65], "settings": {}}, "characters"),
        ({"classes": ["a", "b\x1b[2J"], "settings": {}}, "printable"),  # would clear the terminal
        ({"classes": ["a", "b\ud800"], "settings": {}}, "printable"),  # no file could hold it
        ({"classes": [str(i) for i in range(100_000)], "settings": MANY}, "100000 classes"),
        (
            {"classes": ["a", "b"], "settings": {"n_patches": 10_000, "patch_size": 2048}},
            "N_PATCHES",
        ),
        ({"classes": ["a", "b"], "settings": {"no_such": 1}}, "no_such"),
        ({"classes": ["a", "b"], "settings": {"clusters": 10**9}}, "CLUSTERS"),
        ({"classes": ["a", "b"], "settings": {}, "about": []}, "not a model"),
        ({}, "not a model"),
        ({"format": 2, "classes": ["a", "b"], "settings": {}}, "another version of digitlib"),
    ],
)
def test_a_damaged_card_is_a_problem(tmp_path, card, reason):
    path = tmp_path / "model.keras"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(shipped.CARD, json.dumps({"format": shipped.FORMAT} | card))
    with pytest.raises(Problem, match=reason):
        shipped.read_card(path)


def test_models_lists_the_cards(capsys):
    assert main(["models"]) == 0
    out = capsys.readouterr().out
    assert shipped.DEFAULT in out and "MB" in out and "cross-validated" in out


@pytest.mark.parametrize("path", shipped.models().values(), ids=lambda path: path.stem)
def test_a_shipped_model_reads_the_hands_that_it_learnt(path, reference):
    """Lines of its own training pages; that it reads others' is what its card's folds say."""
    classes, _, _ = shipped.read_card(path)
    assert classes == reference.classes
    read, _ = reader(path)
    for page in reference.train[::7]:
        probabilities = combine(read(replace(page, image=page.image[:300])))
        assert classes[int(probabilities.argmax())] == page.label
        assert probabilities.max() > 0.5


@pytest.mark.parametrize(
    ("threshold", "sure"),
    [
        (0.987654321, 0.987654321),  # to the last digit that result.csv has
        (1.0, 1.0),
        (None, None),  # as JSON has infinity: the surest answer was wrong
    ],
)
def test_a_run_is_shipped_with_what_its_folds_found(threshold, sure, home, tiny, monkeypatch):
    run = digitlib.REPORTS / "mine"
    network = model.build(3, tiny).whole
    own = model.save(network, ["a", "b", "c"], tiny, run / "model.keras")
    row = {"right": 9, "images": 9, "accuracy": 1.0, "low": 0.7, "high": 1.0}
    variants = [row | {"part": "whole"}, row | {"part": "third", "right": 8}]
    found = {"folds": 3, "folds_run": 1, "variants": variants}
    found["sure_from"] = threshold
    found["sure_of"] = {"whole bands": [9, 9], "thirds of them": [6, 8], "strangers' bands": [0, 0]}
    training = {"numbers": {"seconds": {"all": 60}}, "parameters": {"weights": "none"}}
    notebooks = {"03_training": training | {"device": "cpu:0"}, "08_folds": {"numbers": found}}
    notebooks["08_folds"]["parameters"] = asdict(replace(tiny, memory=7)) | {"folds": 3}
    (run / "metrics.json").write_text(json.dumps({"notebooks": notebooks}), "utf-8")
    monkeypatch.setattr(shipped, "FOLDER", home / "weights")
    path = shipped.ship("mine", "ours", "none but these")
    classes, settings, about = shipped.read_card(path)
    assert (classes, settings) == shipped.read_card(own)[:2]
    assert "9 of 9 held-out bands" in about["cross-validated"] and "8 of 9" in str(about)
    assert about["limits"] == "none but these" and shipped.sure_from(about) == sure
    if sure:  # of strangers nothing is known
        assert "100.0% of whole bands, 75.0% of thirds of them reach it" in about[shipped.SURE]
    with zipfile.ZipFile(own) as one, zipfile.ZipFile(path) as two:  # all else is the same
        assert one.namelist() == two.namelist()
        for name in set(one.namelist()) - {shipped.CARD}:
            assert one.read(name) == two.read(name)


def test_folds_of_another_recipe_go_onto_no_card(home, tiny):
    run = digitlib.REPORTS / "mine"
    model.save(model.build(3, tiny).whole, ["a", "b", "c"], tiny, run / "model.keras")
    judged = {"numbers": {"folds_run": 3}, "parameters": asdict(replace(tiny, dropout=0.3))}
    notebooks = {"03_training": {}, "08_folds": judged}
    (run / "metrics.json").write_text(json.dumps({"notebooks": notebooks}), "utf-8")
    with pytest.raises(Problem, match="another recipe"):
        shipped.ship("mine", "ours")


def test_what_folds_found_goes_onto_the_card_of_the_runs_model(home, tiny):
    run = digitlib.REPORTS / "mine"
    counts = {"whole bands": [3, 3], "thirds of them": [3, 6], "strangers' bands": [1, 100]}
    found = {"sure_from": 0.9, "sure_of": counts}
    assert "no model yet" in shipped.mark_sure("mine", found, tiny, "abc")
    run.mkdir(parents=True)
    (run / "model.keras").write_bytes(b"")
    assert "no card: " in shipped.mark_sure(
        "mine", found, tiny, "abc"
    )  # the folds were not in vain
    own = model.save(model.build(3, tiny).whole, ["a", "b", "c"], tiny, run / "model.keras")
    weights = zipfile.ZipFile(own).read("model.weights.h5")
    assert "below 0.9" in shipped.mark_sure("mine", found, tiny, "abc")
    classes, settings, about = shipped.read_card(own)
    assert shipped.sure_from(about) == 0.9 and "1.0% of strangers' bands" in about[shipped.SURE]
    assert (classes, settings) == (["a", "b", "c"], tiny)
    assert zipfile.ZipFile(own).read("model.weights.h5") == weights
    assert "below 0.9" in shipped.mark_sure("mine", found, replace(tiny, memory=7), "abc")
    for other in replace(tiny, dropout=0.3), replace(tiny, weights="imagenet"):
        assert "another recipe" in shipped.mark_sure("mine", found | {"sure_of": {}}, other, "abc")
    assert "other classes" in shipped.mark_sure("mine", found, tiny, "abcd")
    assert shipped.sure_from(shipped.read_card(own)[2]) == 0.9
    none = {"sure_from": math.inf, "sure_of": counts}
    assert "no confidence is safe" in shipped.mark_sure("mine", none, tiny, "abc")
    assert shipped.sure_from(shipped.read_card(own)[2]) is None


def test_a_run_is_shipped_and_never_a_shipped_model_of_its_name(home):
    """Else the run's evidence would stand on the old model's card."""
    with pytest.raises(Problem, match="no such model"):
        shipped.ship(shipped.DEFAULT, "ours")
    for run, name in ("../mine", "ours"), ("mine", "../ours"), ("mine", ".ours"), ("mine", ""):
        with pytest.raises(Problem, match="run name"):
            shipped.ship(run, name)


def test_a_run_without_a_fold_is_not_shipped(home, tiny):
    run = digitlib.REPORTS / "mine"
    model.save(model.build(3, tiny).whole, ["a", "b", "c"], tiny, run / "model.keras")
    numbers = {"numbers": {"folds": 3, "folds_run": 0, "variants": []}}
    notebooks = {"03_training": {}, "08_folds": numbers}
    (run / "metrics.json").write_text(json.dumps({"notebooks": notebooks}), "utf-8")
    with pytest.raises(Problem, match="no fold was run"):
        shipped.ship("mine", "ours")


@pytest.mark.parametrize(
    ("text", "confidence"),
    [("0.5 (of two)", 0.5), ("1", 1.0), ("0", 0.0), ("1.1", None), ("nan", None), ("-1", None)]
    + [("", None), ("soon", None), (None, None)],
)
def test_from_when_on_a_card_calls_answers_sure(text, confidence):
    assert shipped.sure_from({} if text is None else {shipped.SURE: text}) == confidence
