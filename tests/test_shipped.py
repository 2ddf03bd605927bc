"""Shipped models: small, described, found by name, and able to read.

In: the models in digitlib/weights. Out: cards, paths, labels.
"""

import json
import zipfile
from dataclasses import replace

import numpy as np
import pytest

import digitlib
from digitlib import Problem, engine, ensemble, model, shipped
from digitlib.__main__ import main


@pytest.mark.parametrize("path", shipped.models().values(), ids=lambda path: path.stem)
def test_a_shipped_model_is_small_and_says_what_it_is(path):
    assert path.stat().st_size <= 10e6
    classes, settings, about = shipped.read_card(path)
    assert len(classes) >= 2 and settings.weights == "none"
    assert {"recipe", "weights", "data", "cross-validated", "limits"} <= set(about)


@pytest.mark.parametrize("path", shipped.models().values(), ids=lambda path: path.stem)
def test_a_shipped_model_holds_numbers_and_text_only(path):
    with zipfile.ZipFile(path) as archive:
        names = set(archive.namelist())
    own = {shipped.CARD, *engine.members(engine.STRIPS)}
    assert names == {"metadata.json", "config.json", engine.WEIGHTS} | own


def test_predict_has_a_model_without_any_run():
    assert shipped.DEFAULT in shipped.models()


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


@pytest.mark.parametrize(
    "card, reason",
    [
        ({"classes": ["a"], "settings": {}}, "class names"),
        ({"classes": ["a", "a"], "settings": {}}, "class names"),
        ({"classes": ["a", "b" * 65], "settings": {}}, "characters"),
        ({"classes": ["a", "b"], "settings": {"no_such": 1}}, "no_such"),
        ({"classes": ["a", "b"], "settings": {"clusters": 10**9}}, "CLUSTERS"),
        ({"classes": ["a", "b"], "settings": {}, "about": []}, "not a model"),
        ({}, "not a model"),
    ],
)
def test_a_damaged_card_is_a_problem(tmp_path, card, reason):
    path = tmp_path / "model.keras"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(shipped.CARD, json.dumps(card))
    with pytest.raises(Problem, match=reason):
        shipped.read_card(path)


def test_models_lists_the_cards(capsys):
    assert main(["models"]) == 0
    out = capsys.readouterr().out
    assert shipped.DEFAULT in out and "MB" in out and "cross-validated" in out


def test_the_shipped_model_reads_the_hands_that_it_learnt(reference):
    """Lines of its own training pages; that it reads others' is what its card's folds say."""
    network, classes, settings = model.load(shipped.models()[shipped.DEFAULT])
    assert classes == reference.classes
    some = [replace(page, image=page.image[:300]) for page in reference.train[::7]]
    votes = ensemble.votes(network, some, settings, progress=False)
    result, probabilities = ensemble.evaluated(some, votes, classes, settings)
    assert (result["actual"] == result["predicted"]).all()
    assert np.median(probabilities.max(axis=1)) > 0.5


def test_a_run_is_shipped_with_the_temperature_that_its_folds_ask_for(home, tiny, monkeypatch):
    """Of thirds at 2, 4 and 100 the median: all logits are a quarter of what they were."""
    settings = replace(tiny, pooling="vlad", codebooks=1, clusters=2, components=2, whitened=9)
    network = model.whole_strips(3, settings)
    run = digitlib.REPORTS / "mine"
    own = model.save(network, ["a", "b", "c"], settings, run / "model.keras")
    row = {"right": 9, "images": 9, "accuracy": 1.0, "low": 0.7, "high": 1.0, "temperature": 0.001}
    thirds = [row | {"part": "third", "temperature": heat} for heat in (100.0, 2.0, 4.0)]
    variants = [row | {"part": "whole"}, *thirds]
    notebooks = {
        "03_training": {
            "numbers": {"seconds": {"all": 60}},
            "parameters": {"weights": "none"},
            "device": "cpu:0",
        },
        "08_folds": {"numbers": {"folds": 3, "folds_run": 1, "variants": variants}},
    }
    (run / "metrics.json").write_text(json.dumps({"notebooks": notebooks}), "utf-8")
    monkeypatch.setattr(shipped, "FOLDER", home / "weights")
    path = shipped.ship("mine", "ours", "none")
    cooled, classes, shown = model.load(path)
    assert (shown.temperature, classes) == (4 * settings.temperature, ["a", "b", "c"])
    strip = np.random.default_rng(1).integers(0, 256, (1, 2, 64, 256), np.uint8)
    before, after = (net.predict_on_batch(strip) for net in (model.load(own)[0], cooled))
    np.testing.assert_allclose(after, np.asarray(before) / 4, rtol=1e-4, atol=1e-6)
