"""Training: what each phase changes, when it stops, and that a kill changes nothing.

In: three generated pages and the smallest network. Out: histories and weights, compared bit by bit.
"""

import dataclasses
import gc
import json
import subprocess
import sys
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from digitlib import Problem, baseline, model, patches, strips, train, vlad
from digitlib.dataset import Dataset, Page
from digitlib.results import softmax
from digitlib.settings import Settings
from digitlib.train import Checkpoints, fingerprint, rate_and_stop

# --- the plateau and the end --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("accuracies", "patience", "rate", "stop"),
    [
        ([], 5, 8.0, False),  # before the first epoch
        ([0.5], 5, 8.0, False),
        ([0.5, 0.6, 0.7], 5, 8.0, False),  # ever better
        ([0.5, 0.4], 5, 8.0, False),  # one epoch without gain
        ([0.5, 0.5], 5, 8.0, False),  # as good is no gain
        ([0.5, 0.4, 0.4], 5, 4.0, False),  # two: halved
        ([0.5, 0.4, 0.4, 0.4], 5, 4.0, False),  # the count begins anew
        ([0.5, 0.4, 0.4, 0.4, 0.4], 5, 2.0, False),  # four: a quarter
        ([0.5, 0.4, 0.4, 0.4, 0.4, 0.4], 5, 2.0, True),  # five: the end
        ([0.5, 0.4, 0.6, 0.5, 0.5], 5, 4.0, False),  # a gain between resets both counts
        ([0.5, 0.4, 0.4, 0.6, 0.5], 5, 4.0, False),  # once halved, it stays halved
        ([0.5, 0.4, 0.45, 0.49], 5, 4.0, False),  # better than the last, not than the best
        ([0.0, 0.0, 0.0], 2, 4.0, True),  # nothing learnt, and nothing ever right
        ([0.5, 0.4], 1, 8.0, True),
        ([0.5], 1, 8.0, False),
    ],
)
def test_rate_and_stop(accuracies, patience, rate, stop):
    assert rate_and_stop(accuracies, 8.0, patience) == (rate, stop)


@pytest.mark.parametrize(
    ("start", "rate"),
    [
        (8e-6, 4e-6),
        (1.5e-6, 1e-6),  # half would be under the floor
        (1e-6, 1e-6),
        (5e-7, 5e-7),  # under it from the start: not raised
        (0.0, 0.0),  # no training at all stays none
    ],
)
def test_the_rate_has_a_floor(start, rate):
    assert rate_and_stop([0.5, 0.4, 0.4], start, 5)[0] == pytest.approx(rate)


@given(
    accuracies=st.lists(st.sampled_from([0.1, 0.2, 0.3, 0.4]), max_size=15),
    rate=st.sampled_from([1e-3, 3e-6, 1e-6]),
    patience=st.integers(1, 5),
)
def test_keras_s_callbacks_agree(accuracies, rate, patience):
    plateau = keras.callbacks.ReduceLROnPlateau(
        "val_accuracy", mode="max", factor=0.5, patience=2, min_lr=1e-6, min_delta=0
    )
    stopping = keras.callbacks.EarlyStopping("val_accuracy", mode="max", patience=patience)
    network = SimpleNamespace(optimizer=SimpleNamespace(learning_rate=rate), stop_training=False)
    for callback in plateau, stopping:
        callback.set_model(network)
        callback.on_train_begin()
    for epoch, accuracy in enumerate(accuracies):
        assert not rate_and_stop(accuracies[:epoch], rate, patience)[1]
        for callback in plateau, stopping:
            callback.on_epoch_end(epoch, {"val_accuracy": accuracy})
        now, stop = rate_and_stop(accuracies[: epoch + 1], rate, patience)
        assert stop == network.stop_training
        assert now == pytest.approx(network.optimizer.learning_rate)
        if stop:
            break


# --- checkpoints ------------------------------------------------------------------------------


@pytest.fixture
def layer() -> keras.Model:
    return keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False)])


def add(checkpoints: Checkpoints, layer: keras.Model, phase: int, epoch: int, accuracy: float):
    """A checkpoint whose one weight is 10 * phase + epoch."""
    layer.set_weights([np.array([[10.0 * phase + epoch]])])
    checkpoints.add(layer, {"phase": phase, "epoch": epoch, "val_accuracy": accuracy})


def files(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_checkpoints_keep_the_last_and_the_best_of_each_phase(tmp_path, layer):
    checkpoints = Checkpoints(tmp_path, {"seed": 1})
    steps = [  # phase, epoch, accuracy, the epochs whose weights are there afterwards
        (1, 1, 0.2, ["1-001"]),
        (1, 2, 0.6, ["1-002"]),
        (1, 3, 0.6, ["1-002", "1-003"]),  # as good is not better: the first stays the best
        (1, 4, 0.5, ["1-002", "1-004"]),
        (2, 1, 0.4, ["1-002", "2-001"]),
        (2, 2, 0.9, ["1-002", "2-002"]),
        (2, 3, 0.1, ["1-002", "2-002", "2-003"]),
    ]
    for phase, epoch, accuracy, kept in steps:
        add(checkpoints, layer, phase, epoch, accuracy)
        names = [f"phase{name.replace('-', '-epoch')}.weights.h5" for name in kept]
        assert files(tmp_path) == [*names, "state.json"]
    again = Checkpoints(tmp_path, {"seed": 1})
    assert again.rows == checkpoints.rows
    assert [(again.best(p)["epoch"], again.of(p)[-1]["epoch"]) for p in (1, 2)] == [(2, 4), (2, 3)]
    for row, weight in ((again.best(1), 12), (again.best(2), 22), (again.rows[-1], 23)):
        layer.load_weights(again.weights(row))
        assert layer.get_weights()[0].item() == weight


def test_weights_without_their_row_do_not_count(tmp_path, layer):
    """A kill between the weights file and state.json leaves the epoch before."""
    checkpoints = Checkpoints(tmp_path, {})
    add(checkpoints, layer, 1, 1, 0.5)
    layer.save_weights(checkpoints.weights({"phase": 1, "epoch": 2}))
    assert [row["epoch"] for row in Checkpoints(tmp_path, {}).rows] == [1]


def test_checkpoints_of_other_settings_or_pages_are_dropped(tmp_path, layer):
    add(Checkpoints(tmp_path, {"seed": 1}), layer, 1, 1, 0.5)
    np.save(tmp_path / "view000.npy", np.zeros(3))
    (tmp_path / ".partial-x.weights.h5").write_bytes(b"of a write that was killed")
    (tmp_path / "notes.txt").write_text("not ours")
    assert Checkpoints(tmp_path, {"seed": 2}).rows == []
    assert files(tmp_path) == ["notes.txt", "state.json"]


def test_a_scan_turned_upside_down_is_another(tmp_path):
    image = np.arange(12, dtype=np.uint8).reshape(3, 4)
    pages = [Page(Path("a_1.png"), "a", own, False) for own in (image, image[::-1, ::-1])]
    one, other = (fingerprint([page], Settings()) for page in pages)
    assert one != other and fingerprint(pages[:1], Settings()) == one
    small = fingerprint(pages[:1], Settings(width=0.5))["settings"]["weights"]
    assert len({small, one["settings"]["weights"], "handwriting"}) == 3  # what the files hold


def test_views_without_an_epoch_belong_to_their_settings_too(tmp_path):
    """Killed before the first epoch ended: the same settings find the view, others do not."""
    for seed, views in ((1, 0), (1, 1), (2, 0), (1, 0)):
        Checkpoints(tmp_path, {"seed": seed})
        assert len(list(tmp_path.glob("view*.npy"))) == views
        np.save(tmp_path / "view000.npy", np.zeros(3))


def test_no_checkpoints_yet(tmp_path):
    checkpoints = Checkpoints(tmp_path / "new", {})
    assert checkpoints.rows == [] and checkpoints.best(1) is None and checkpoints.of(2) == []


# --- a run --------------------------------------------------------------------------------------


def metrics(history: pd.DataFrame) -> pd.DataFrame:
    return history.drop(columns="seconds")


def arrays(network: keras.Model) -> dict[str, np.ndarray]:
    """Every number of the network by its path, the state of dropout's generator left out."""
    variables = [v for v in network.variables if "seed_generator" not in v.path]
    return {f"{i} {v.path}": keras.ops.convert_to_numpy(v) for i, v in enumerate(variables)}


@pytest.fixture(scope="module")
def cached(tiny):
    """The default procedure: phase 1 learns from two cached views; then phase 2."""
    return tiny


@pytest.fixture(scope="module")
def uncached(tiny):
    """The original's first phase: every batch goes through the backbone."""
    return dataclasses.replace(tiny, views=0, tune_epochs=0)


@pytest.fixture(scope="module")
def straight(digits, cached, tmp_path_factory) -> tuple[train.Trained, list[str]]:
    """An uninterrupted run with ``cached``, and what it leaves in its folder."""
    folder = tmp_path_factory.mktemp("straight")
    trained = train.train(digits, cached, folder)
    return trained, files(folder)


@pytest.fixture(scope="module")
def straight_uncached(digits, uncached, tmp_path_factory) -> train.Trained:
    return train.train(digits, uncached, tmp_path_factory.mktemp("uncached"))


@pytest.fixture(scope="module")
def untrained(cached) -> model.Network:
    return model.build(3, cached)


def held_out(digits: Dataset, settings) -> tuple[np.ndarray, np.ndarray]:
    """The validation patches and labels, cut here once more: 15 a page."""
    items = strips.training_strips(digits.train, settings)[1]
    cut = [patches.cut_all(s, patches.even_centres(s, 15, settings), settings) for s in items]
    return np.concatenate(cut), np.repeat([digits.classes.index(s.label) for s in items], 15)


def test_history_has_a_row_an_epoch(straight, cached):
    history = straight[0].history
    columns = "phase epoch loss accuracy val_loss val_accuracy rate seconds"
    assert set(history) == set(columns.split())
    assert history[["phase", "epoch"]].values.tolist() == [
        [phase, epoch] for phase in (1, 2) for epoch in (1, 2, 3)
    ]
    assert history["rate"].tolist()[:2] == [cached.head_rate] * 2  # no plateau so soon
    assert history["rate"].tolist()[3:5] == [cached.tune_rate] * 2
    assert np.isfinite(history.values.astype(float)).all()
    assert history[["accuracy", "val_accuracy"]].min().min() >= 0
    assert history[["accuracy", "val_accuracy"]].max().max() <= 1


def test_what_is_left_are_the_last_and_the_best_epochs_and_the_views(straight):
    """Till whoever asked for the training has saved what it gave."""
    weights = [name for name in straight[1] if name.endswith(".weights.h5")]
    assert 2 <= len(weights) <= 4 and "phase2-epoch003.weights.h5" in weights
    assert straight[1] == sorted([*weights, "state.json", "view000.npy", "view001.npy"])


class Seen(Exception):
    """Carries the heights of the pages that something was asked to learn from."""


def look(pages, *_):
    raise Seen([page.image.shape[0] for page in pages])


@pytest.mark.parametrize("text", [1.0, 0.3])
def test_only_the_top_of_each_page_is_learnt_from(text, digits, cached, tmp_path, monkeypatch):
    monkeypatch.setattr(strips, "training_strips", look)
    monkeypatch.setattr(baseline, "_keypoints_of", look)
    monkeypatch.setattr(vlad, "fit", lambda _, pages, *more: look(pages))
    settings = dataclasses.replace(cached, text=text)
    whole = dataclasses.replace(settings, pooling="vlad", head_epochs=0, tune_epochs=0)
    for learn in (
        lambda: train.train(digits, settings, tmp_path),
        lambda: train.train(digits, whole, tmp_path),
        lambda: baseline.fit(digits.train, digits.classes, settings),
    ):
        with pytest.raises(Seen) as caught:
            learn()
        share = np.array(caught.value.args[0]) / [page.image.shape[0] for page in digits.train]
        assert share == pytest.approx(text, abs=0.05)  # cut between two lines


def test_a_finished_training_is_not_done_twice(digits, cached, straight, tmp_path, monkeypatch):
    first = train.train(digits, cached, tmp_path)
    monkeypatch.setattr(keras.Model, "fit", None)
    again = train.train(digits, cached, tmp_path)
    assert again.history.equals(first.history)
    for one, other in zip(first.network.weights, again.network.weights, strict=True):
        assert np.array_equal(one, other)


def test_patches_are_counted(straight, straight_uncached):
    # 7 training strips a page and 1 validation strip; 2 views of 3 patches, 15 to validate.
    batches = 3 * (4 * 8 + 3 * 15)  # 3 epochs of 4 batches of 8, each validated
    assert straight[0].n_patches == {"phase 1": 21 * 2 * 3 + 45, "phase 2": batches}
    assert straight_uncached.n_patches == {"phase 1": batches, "phase 2": 0}
    assert set(straight[0].seconds) == {"strips", "features", "phase 1", "phase 2"}


def test_phase_1_leaves_the_backbone_as_it_was(straight_uncached, untrained):
    before, after = arrays(untrained.whole), arrays(straight_uncached.network)
    changed = [
        name
        for (name, one), other in zip(before.items(), after.values(), strict=True)
        if not np.array_equal(one, other)
    ]
    assert [name.partition(" ")[2] for name in changed] == [
        "head/logits/kernel" if "kernel" in name else "head/logits/bias" for name in changed
    ]
    assert len(changed) == 2


def test_phase_2_trains_the_last_layers_and_no_batchnorm(straight, untrained, cached):
    before, after = untrained.backbone, straight[0].network.get_layer("backbone")
    last = [layer.name for layer in after.layers][-cached.tune_layers :]
    for old, new in zip(before.layers, after.layers, strict=True):
        same = all(
            np.array_equal(a, b) for a, b in zip(old.get_weights(), new.get_weights(), strict=True)
        )
        frozen = isinstance(new, keras.layers.BatchNormalization) or new.name not in last
        assert same == (frozen or not old.weights), new.name
    convolutions = [layer for layer in last if before.get_layer(layer).weights]
    assert sum("BN" not in name for name in convolutions) >= 4  # so that there was what to train


def test_phase_2_leaves_the_average_of_its_steps(digits, cached, tmp_path):
    """Of two steps, by what one and two leave without averaging: 0.75 and 0.25 of each."""

    def weights(steps: int, averaging: float) -> list[np.ndarray]:
        how = {"steps": steps, "averaging": averaging, "tune_epochs": 1}
        settings, folder = dataclasses.replace(cached, **how), tmp_path / f"{steps}-{averaging}"
        return train.train(digits, settings, folder).network.get_weights()

    first, second, averaged = weights(1, 0.0), weights(2, 0.0), weights(2, 0.75)
    moved = [not np.array_equal(a, b) for a, b in zip(first, second, strict=True)]
    assert any(moved)
    for one, two, mean in zip(first, second, averaged, strict=True):
        if np.issubdtype(one.dtype, np.floating):
            np.testing.assert_allclose(mean, 0.75 * one + 0.25 * two, rtol=1e-5, atol=1e-7)


def test_the_best_weights_are_restored(straight, digits, cached):
    trained, _ = straight
    images, labels = held_out(digits, cached)
    logits = trained.network.predict(images, verbose=0)
    second = trained.history.query("phase == 2")
    best = second.loc[second["val_accuracy"].idxmax()]  # the first of equals
    assert (logits.argmax(axis=1) == labels).mean() == pytest.approx(best["val_accuracy"])
    assert smoothed_loss(logits, labels, cached.tune_smoothing) == pytest.approx(
        best["val_loss"], rel=1e-4
    )


def smoothed_loss(logits: np.ndarray, labels: np.ndarray, smoothing: float) -> float:
    """Mean cross-entropy; wanted: 1 - smoothing of the truth, and smoothing shared by all n."""
    wanted = np.full(logits.shape, smoothing / logits.shape[1])
    wanted[np.arange(len(labels)), labels] += 1 - smoothing
    return float(-(wanted * np.log(softmax(logits))).sum(axis=1).mean())


def test_a_rate_of_nothing_learns_nothing_and_stops(digits, cached, untrained, tmp_path):
    """Also the label smoothing, worked out here. Only what features are spread by was set."""
    settings = dataclasses.replace(
        cached, views=1, head_rate=0, head_epochs=9, head_smoothing=0.3, patience=2, tune_epochs=0
    )
    trained = train.train(digits, settings, tmp_path)
    network, history = trained.network, trained.history
    assert history["epoch"].tolist() == [1, 2, 3]  # the first is the best; two more are patience
    assert history["rate"].tolist() == [0, 0, 0]
    assert history["val_loss"].nunique() == history["val_accuracy"].nunique() == 1
    images, labels = held_out(digits, settings)
    for item, same in zip(network.weights, untrained.whole.weights, strict=True):
        assert np.array_equal(item, same) != item.path.startswith(("head/spread", "spread"))
    logits = network.predict(images, verbose=0)
    assert history["val_loss"][0] == pytest.approx(smoothed_loss(logits, labels, 0.3), rel=1e-4)
    assert history["val_accuracy"][0] == pytest.approx((logits.argmax(axis=1) == labels).mean())


def test_a_trained_model_is_read_by_keras_and_by_digitlib(straight, digits, cached, tmp_path):
    """Its loss and its optimiser were for the training, and stay out of the file."""
    network = straight[0].network
    path = model.save(network, digits.classes, cached, tmp_path / "model.keras")
    images = held_out(digits, cached)[0][:5]
    wanted = network.predict_on_batch(images)
    for again in keras.models.load_model(path), model.load(path)[0]:
        np.testing.assert_allclose(again.predict_on_batch(images), wanted, atol=1e-6)
        assert len(again.variables) - len(network.variables) in (0, 1)  # no optimiser's moments


def test_one_class_is_refused(digits, tiny, tmp_path):
    alone = Dataset(digits.folder, digits.train[:1], [], 0)
    with pytest.raises(Problem, match="one class only"):
        train.train(alone, tiny, tmp_path)


# --- kill -9 ------------------------------------------------------------------------------------

CHILD = """
import json, sys, threading
from pathlib import Path
from digitlib import batches, train
from digitlib.dataset import load_dataset
from digitlib.settings import Settings
from digitlib.results import softmax

data, folder, marker, settings, stop = sys.argv[1:]

def watched(get):
    def item(self, index):
        if [*self.epoch, index] == json.loads(stop):
            Path(marker).touch()
            threading.Event().wait()  # until killed
        return get(self, index)
    return item

batches.PatchStream.__getitem__ = watched(batches.PatchStream.__getitem__)
class Watched(train.CachedFeatures):
    def __init__(self, views, labels, *seed_and_epoch):
        super().__init__(views, labels, *seed_and_epoch)
        self.epoch = (1, *seed_and_epoch[1:])  # of validation none
    __getitem__ = watched(train.CachedFeatures.__getitem__)
train.CachedFeatures = Watched
train.train(load_dataset(data), Settings(**json.loads(settings)), folder)
"""


def kill_in(digits: Dataset, settings, folder, batch: tuple[int, int, int]) -> list[list[int]]:
    """Train in a process of its own, kill -9 it in ``batch``; the [phase, epoch]s it had finished.

    The batch (phase, epoch from 0, index) is never given out: so its epoch cannot end, whatever
    the machine's speed.
    """
    marker, given = folder.with_suffix(".marker"), json.dumps(dataclasses.asdict(settings))
    marker.unlink(missing_ok=True)
    command = [sys.executable, "-c", CHILD, digits.folder, folder, marker, given, json.dumps(batch)]
    with open(folder.with_suffix(".log"), "w+") as log:
        with subprocess.Popen(command, stdout=log, stderr=log) as process:
            while not marker.exists() and process.poll() is None:
                time.sleep(0.02)
            process.kill()
        log.seek(0)
        assert marker.exists(), log.read()
    assert process.returncode != 0  # -9 where there are signals
    rows = json.loads((folder / "state.json").read_text())["rows"]
    return [[row["phase"], row["epoch"]] for row in rows]


@pytest.fixture(scope="module")
def killed(digits, cached, uncached, tmp_path_factory):
    """Their folder, and what was finished before each kill; both procedures run at once."""
    folder, last = tmp_path_factory.mktemp("killed"), cached.steps - 1
    with ThreadPoolExecutor(2) as pool:
        # Phase 1 of the default has one batch an epoch; elsewhere, the last of four.
        first = pool.submit(kill_in, digits, cached, folder / "cached", (1, 1, 0))
        other = pool.submit(kill_in, digits, uncached, folder / "uncached", (1, 2, last))
        finished = {"phase 1": first.result(), "uncached": other.result()}
    finished["phase 2"] = kill_in(digits, cached, folder / "cached", (2, 1, last))
    return folder, finished


def check_same(resumed: train.Trained, straight: train.Trained) -> None:
    """Not nearly: every metric of every epoch, and every weight, bit by bit.

    It holds because nothing depends on what a process did before: batches, dropout and the rate are
    functions of (seed, epoch, index), Adam's moments are in the checkpoint, and each epoch's
    arithmetic runs in the same order.
    """
    pd.testing.assert_frame_equal(
        metrics(resumed.history), metrics(straight.history), check_exact=True
    )
    ours, theirs = arrays(resumed.network), arrays(straight.network)
    for (name, one), other in zip(ours.items(), theirs.values(), strict=True):
        assert np.array_equal(one, other), name
    assert resumed.n_patches == straight.n_patches


def test_kills_were_in_mid_epoch(killed):
    assert killed[1] == {
        "phase 1": [[1, 1]],  # of three
        "phase 2": [[1, 1], [1, 2], [1, 3], [2, 1]],  # run again, then killed in the fifth of six
        "uncached": [[1, 1], [1, 2]],
    }


def test_killed_in_both_phases_and_run_again(killed, digits, cached, straight):
    folder = killed[0] / "cached"
    resumed = train.train(digits, cached, folder)
    check_same(resumed, straight[0])
    assert files(folder) == straight[1]
    spent = resumed.history.groupby("phase")["seconds"].sum()  # by all three processes
    assert resumed.seconds["phase 1"] > spent[1] and resumed.seconds["phase 2"] > spent[2]


def test_no_dropout_is_a_share_like_any_other(digits, cached, tmp_path):
    few = dataclasses.replace(cached, dropout=0.0, head_epochs=1, tune_epochs=1)
    assert len(train.train(digits, few, tmp_path / "none").history) == 2


def test_killed_in_the_original_s_phase_1_and_run_again(
    killed, digits, uncached, straight_uncached
):
    folder = killed[0] / "uncached"
    check_same(train.train(digits, uncached, folder), straight_uncached)


def test_stopped_between_two_views(digits, cached, untrained, tmp_path, monkeypatch):
    """A whole view is kept, the one under way is computed anew, and the features are the same."""
    items = strips.training_strips(digits.train, cached)[0]
    cut_all, cuts = patches.cut_all, []

    def counted(*given):
        cuts.append(given)
        if len(cuts) == 26:  # of 2 x 21
            raise KeyboardInterrupt
        return cut_all(*given)

    def views(folder):
        folder.mkdir(exist_ok=True)
        return train._cached_views(items, cached, untrained.features, folder)

    monkeypatch.setattr(patches, "cut_all", counted)
    with pytest.raises(KeyboardInterrupt):
        views(tmp_path / "stopped")
    assert files(tmp_path / "stopped") == ["view000.npy"]
    resumed = views(tmp_path / "stopped")
    assert len(cuts) == 26 + 21  # the second view only
    wanted = views(tmp_path / "straight")
    assert np.shape(wanted) == (2, 21 * 3, 48) and np.array_equal(resumed, wanted)
    assert not np.array_equal(*wanted)  # two views are not the same
    mapped = dataclasses.replace(cached, memory=0)
    again = train._cached_views(items, mapped, untrained.features, tmp_path / "straight")
    assert all(isinstance(view, np.memmap) for view in again) and np.array_equal(again, wanted)
    means, variances = train._moments(wanted)
    np.testing.assert_allclose(means, np.concatenate(wanted).mean(axis=0), rtol=1e-4)
    np.testing.assert_allclose(variances, np.concatenate(wanted).var(axis=0), rtol=1e-3)


def test_training_does_not_depend_on_memory(digits, cached, straight, tmp_path):
    """Strips, where their ink is, and features come from files: bit by bit the same."""
    settings = dataclasses.replace(cached, memory=0)
    for strip in sum(strips.training_strips(digits.train, settings), []):
        assert not strip.image.flags.writeable and not strip.ink_points.flags.writeable
    check_same(train.train(digits, settings, tmp_path), straight[0])


def test_what_is_trained_on_is_let_go(digits, cached, tmp_path, monkeypatch):
    """Many trainings follow each other in a process: of folds, of ablations."""
    seen, cut = [], strips.training_strips

    def noted(*given):
        parts = cut(*given)
        seen.extend(weakref.ref(strip) for part in parts for strip in part)
        return parts

    monkeypatch.setattr(strips, "training_strips", noted)
    settings = dataclasses.replace(cached, head_epochs=1, tune_epochs=1, steps=1, memory=0)
    train.train(digits, settings, tmp_path)
    gc.collect()
    assert len(seen) == 24 and not any(strip() for strip in seen)
    for view in tmp_path.glob("view*.npy"):
        view.unlink()  # Windows refuses that for what is still mapped
