"""Training in two phases: the head on a frozen backbone, then the backbone's last layers with it.

In: a dataset and settings. Out: a trained network and its history. Killed at any moment and run
again, it goes on from the last whole epoch to the same result.
"""

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import keras
import numpy as np
import pandas as pd
from keras.callbacks import LambdaCallback
from sklearn.preprocessing import StandardScaler

from digitlib import Problem, model, patches, progress_bar, strips, vlad, whole_file, write_json
from digitlib.batches import EVEN_PATCHES, CachedFeatures, EvenPatches, PatchStream
from digitlib.dataset import Dataset, Page
from digitlib.lines import first_lines
from digitlib.pages import read_json
from digitlib.settings import Settings

PLATEAU, FLOOR = 2, 1e-6  # the original halves the rate after 2 epochs without gain, down to 1e-6

COLUMNS = ["phase", "epoch", "loss", "accuracy", "val_loss", "val_accuracy", "rate", "seconds"]


@dataclass(frozen=True)
class Trained:
    """What training gives: the whole network, a row an epoch, and what it cost."""

    network: keras.Model
    history: pd.DataFrame  # of COLUMNS
    seconds: dict[str, float]  # wall time of strips, cached features, phase 1, phase 2, vlad
    n_patches: dict[str, int]  # patches that went through the backbone in each phase


def rate_and_stop(accuracies: Sequence[float], rate: float, patience: int) -> tuple[float, bool]:
    """(learning rate of the next epoch, whether to stop), from validation accuracies so far.

    The original's callbacks as one function of the past, so that a resumed run cannot differ: halve
    after `PLATEAU` epochs without gain, stop after ``patience``.
    """
    best, since_best, wait = -np.inf, 0, 0
    for accuracy in accuracies:
        if accuracy > best:
            best, since_best, wait = accuracy, 0, 0
            continue
        since_best, wait = since_best + 1, wait + 1
        if wait >= PLATEAU:
            rate, wait = max(rate / 2, min(rate, FLOOR)), 0
    return rate, since_best >= patience


class _AsTrained(keras.callbacks.Callback):
    """Keeps the weights that an epoch ends with: of averaged ones `fit` then leaves the average."""

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        self.weights = self.model.get_weights()


@dataclass
class Checkpoints:
    """State of an unfinished training in ``folder``: the JSON file is renamed last, and rules."""

    folder: Path
    fingerprint: dict

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.file = self.folder / "state.json"
        self.rows: list[dict] = []
        state = read_json(self.file)
        if state.get("fingerprint") == self.fingerprint:
            self.rows = state["rows"]
        else:
            self.clear()
            self.write()  # at once: cached views, too, are of these settings and pages only

    def weights(self, row: dict) -> Path:
        return self.folder / f"phase{row['phase']}-epoch{row['epoch']:03d}.weights.h5"

    def add(self, network: keras.Model, row: dict) -> None:
        with whole_file(self.weights(row)) as aside:
            network.save_weights(aside)
        self.rows.append(row)
        self.write()
        needed = {self.weights(row), *map(self.weights, filter(None, map(self.best, (1, 2))))}
        for path in self.folder.glob("phase*.weights.h5"):
            if path not in needed:
                path.unlink()

    def write(self) -> None:
        write_json(self.file, {"fingerprint": self.fingerprint, "rows": self.rows})

    def of(self, phase: int) -> list[dict]:
        return [row for row in self.rows if row["phase"] == phase]

    def best(self, phase: int) -> dict | None:
        return max(self.of(phase), key=lambda row: row["val_accuracy"], default=None)

    def clear(self) -> None:
        self.rows = []
        self.file.unlink(missing_ok=True)  # first: without it the others mean nothing
        for pattern in "phase*.weights.h5", "view*.npy", ".partial-*":  # of a killed write
            for path in self.folder.glob(pattern):
                path.unlink(missing_ok=True)


def _fit(
    network: keras.Model,
    dropout: keras.layers.Dropout,
    batches: Callable[[int], keras.utils.PyDataset],
    validation: keras.utils.PyDataset,
    checkpoints: Checkpoints,
    phase: int,
    settings: Settings,
) -> None:
    """Run a phase from its last checkpoint to its end; leave the best weights in ``network``.

    Phase 2 averages them over its last steps; that is what is validated and left. Checkpoints hold
    both, the average in the optimizer's state.
    """
    head = phase == 1
    averaging = 0.0 if head else settings.averaging
    epochs = settings.head_epochs if head else settings.tune_epochs
    rate = settings.head_rate if head else settings.tune_rate
    smoothing = settings.head_smoothing if head else settings.tune_smoothing

    def loss(truth: keras.KerasTensor, logits: keras.KerasTensor) -> keras.KerasTensor:
        """Cross-entropy with label smoothing."""
        n = logits.shape[-1]
        wanted = keras.ops.one_hot(keras.ops.cast(truth, "int32"), n) * (1 - smoothing)
        wanted = keras.ops.reshape(wanted, (-1, n)) + smoothing / n
        return keras.losses.categorical_crossentropy(wanted, logits, from_logits=True)

    network.compile(
        keras.optimizers.Adam(rate, use_ema=averaging > 0, ema_momentum=averaging),
        loss=loss,
        metrics=["sparse_categorical_accuracy"],
        jit_compile=model.jit_pays(),
    )
    model.build_metrics(network, validation)
    done = checkpoints.of(phase)
    if done:
        network.optimizer.build(network.trainable_variables)
        network.load_weights(checkpoints.weights(done[-1]))
    as_trained, length = _AsTrained(), len(batches(0))
    how = {"total": epochs * length, "initial": len(done) * length, "unit": "batch"}
    with progress_bar(None, desc=f"phase {phase}", **how) as bar:
        for epoch in range(len(done), epochs):
            past = [row["val_accuracy"] for row in checkpoints.of(phase)]
            now, stop = rate_and_stop(past, rate, settings.patience)
            if stop:
                break
            start = time.perf_counter()
            network.optimizer.learning_rate = now
            if settings.dropout:  # by a share of 0 Keras draws nothing
                dropout.seed_generator.state.assign([settings.seed, 1000 * phase + epoch])
            count = LambdaCallback(on_train_batch_end=lambda batch, logs: bar.update())
            logs = network.fit(
                batches(epoch), shuffle=False, verbose=0, callbacks=[as_trained, count]
            ).history
            # Copies: JAX reuses the arrays that it evaluates, which the optimizer still needs.
            network.set_weights(network.get_weights())
            held = network.evaluate(validation, verbose=0, return_dict=True)
            network.set_weights(as_trained.weights)
            row = {name: values[-1] for name, values in logs.items()}
            row |= {f"val_{name}": value for name, value in held.items()}
            row = {key.replace("sparse_categorical_", ""): float(row[key]) for key in row}
            seconds = time.perf_counter() - start
            checkpoints.add(
                network,
                {"phase": phase, "epoch": epoch + 1, **row, "rate": now, "seconds": seconds},
            )
            bar.set_postfix_str(f"validation {row['val_accuracy']:.1%}")
    if best := checkpoints.best(phase):
        network.load_weights(checkpoints.weights(best))
        network.optimizer.finalize_variable_values(network.trainable_variables)  # the average


def _write_view(
    file: Path,
    items: Sequence[strips.Strip],
    view: int,
    settings: Settings,
    network: keras.Model,
    bar: Any,
) -> None:
    """Pooled features (n_strips * view_patches, c) float32 of one augmented view of the strips."""
    n = settings.view_patches
    header = {"descr": "<f4", "fortran_order": False}
    header["shape"] = n * len(items), network.output_shape[-1]
    with file.open("wb") as written:  # piece by piece, what np.save would write
        np.lib.format.write_array_header_1_0(written, header)
        for first in range(0, len(items), 16):
            batch = []
            for i, strip in enumerate(items[first : first + 16], start=first):
                rng = np.random.default_rng([settings.seed, 200 + view, i])
                centres = patches.random_centres([strip] * n, settings, rng)
                batch.append(patches.cut_all(strip, centres, settings, rng))
            features = network.predict_on_batch(np.concatenate(batch))
            written.write(keras.ops.convert_to_numpy(features).astype("<f4").tobytes())
            bar.update(len(batch))


def _cached_views(
    items: Sequence[strips.Strip], settings: Settings, network: keras.Model, folder: Path
) -> list[np.ndarray]:
    """Features of all views, one file a view, so that a killed run keeps those it has.

    More than ``memory`` MB of them are not read, but mapped into memory.
    """
    views = []
    how = {"total": settings.views * len(items), "unit": "strip"}
    with progress_bar(None, desc="features", **how) as bar:
        for view in range(settings.views):
            file = folder / f"view{view:03d}.npy"
            if not file.exists():
                with whole_file(file) as aside:
                    _write_view(aside, items, view, settings, network, bar)
            much = settings.views * file.stat().st_size > settings.held
            views.append(np.load(file, mmap_mode="r" if much else None, allow_pickle=False))
    return views


def _moments(views: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Mean and variance (c,) of all rows of ``views``, a few at a time."""
    scaler = StandardScaler()
    for view in views:
        for first in range(0, len(view), 2**14):
            scaler.partial_fit(view[first : first + 2**14])
    return [scaler.mean_, scaler.var_]


def fingerprint(pages: Sequence[Page], settings: Settings) -> dict:
    """What says, ready for JSON, that a result is of these settings, weights and images."""
    known, weights, images = settings.recipe, model.weights_file(settings), []
    for page in pages:
        content = hashlib.sha256(np.ascontiguousarray(page.image))
        images.append([page.path.name, content.hexdigest()])
    if weights.is_file():  # the name stays where the content changes
        known["weights"] = hashlib.sha256(weights.read_bytes()).hexdigest()
    return {"settings": known, "pages": images}


def train(dataset: Dataset, settings: Settings, folder: Path) -> Trained:
    """Train on ``dataset``'s pages. ``folder`` holds the checkpoints, till its owner deletes it:
    when what was trained is saved.

    Phase 1 trains the head. With ``views`` the backbone runs once over each augmented view and the
    head learns from the cached features; without, every batch goes through the backbone, as in the
    original. Phase 2 trains the last ``tune_layers`` of the backbone too, but not its BatchNorm, as
    there. With pooling vlad VLAD and its SVMs are learnt then.
    """
    classes = dataset.classes
    if len(classes) < 2:
        raise Problem(f"{dataset.folder}: one class only; there is nothing to tell apart")
    cv2.setNumThreads(1)  # OpenCV's threads and the network's fight over the cores
    model.keep_memory()
    pages = [first_lines(page, settings.text) for page in dataset.train]
    dataset = replace(dataset, train=pages)
    checkpoints = Checkpoints(Path(folder), fingerprint(dataset.train, settings))
    network, seconds, n_patches = _tuned(dataset, settings, checkpoints)
    history = pd.DataFrame(checkpoints.rows, columns=COLUMNS)
    trained = network.whole
    if settings.pooling == "vlad":
        start = time.perf_counter()
        trained = model.whole_strips(len(classes), settings, network.backbone)
        vlad.fit(trained, dataset.train, classes, settings)
        seconds["vlad"] = time.perf_counter() - start
    return Trained(trained, history, seconds, n_patches)


def _tuned(
    dataset: Dataset, settings: Settings, checkpoints: Checkpoints
) -> tuple[model.Network, dict[str, float], dict[str, int]]:
    """(a network after both phases, the seconds of each step, the patches of each phase).

    Epochs of a run that was broken off count, too.
    """
    classes, clock = dataset.classes, time.perf_counter()
    seconds = {"strips": 0.0, "features": 0.0}
    for phase in 1, 2:
        seconds[f"phase {phase}"] = sum((row["seconds"] for row in checkpoints.of(phase)), 0.0)
    if not settings.head_epochs and not settings.tune_epochs:
        return model.build(len(classes), settings), seconds, {"phase 1": 0, "phase 2": 0}

    def lap(name: str) -> None:
        nonlocal clock
        now = time.perf_counter()
        seconds[name] += now - clock
        clock = now

    training, held_out = strips.training_strips(dataset.train, settings)
    validation = EvenPatches(held_out, classes, settings)
    lap("strips")

    network = model.build(len(classes), settings)
    network.backbone.trainable = False
    stream, views = PatchStream(training, classes, settings), []
    fit = partial(_fit, dropout=network.dropout, checkpoints=checkpoints, settings=settings)
    resuming = bool(checkpoints.of(2))
    if settings.views and not resuming:
        views += _cached_views(training, settings, network.features, checkpoints.folder)
        number = {label: i for i, label in enumerate(classes)}
        shown = np.repeat([number[s.label] for s in training], settings.view_patches)
        held = network.features.predict(validation, verbose=0)
        network.spread.set_weights(_moments(views))
        lap("features")
        fit(
            network.head,
            batches=lambda epoch: CachedFeatures(views, shown, settings.seed, epoch),
            validation=CachedFeatures([held], validation.labels),
            phase=1,
        )
    elif not resuming:
        fit(
            network.whole, batches=lambda epoch: stream.at(epoch, 1), validation=validation, phase=1
        )
    lap("phase 1")

    if settings.tune_epochs:
        network.backbone.trainable = True
        for i, layer in enumerate(reversed(network.backbone.layers)):
            norm = isinstance(layer, keras.layers.BatchNormalization)
            layer.trainable = i < settings.tune_layers and not norm
        fit(
            network.whole, batches=lambda epoch: stream.at(epoch, 2), validation=validation, phase=2
        )
    lap("phase 2")
    # Counted from the history, so that a resumed run says the same.
    n_held_out = EVEN_PATCHES * len(held_out)
    per_epoch = settings.steps * settings.batch_size + n_held_out
    counts = {phase: len(checkpoints.of(phase)) * per_epoch for phase in (1, 2)}
    if settings.views:
        counts[1] = settings.views * settings.view_patches * len(training) + n_held_out
    # TensorFlow never lets go of a generator that it read from: let that hold no images.
    for items in (stream.strips, held_out, views):
        items.clear()
    return network, seconds, {f"phase {phase}": n for phase, n in counts.items()}
