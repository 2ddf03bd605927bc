"""Pretraining: backbone weights from generated handwriting, and from nothing else.

In: a number of hands, drawn on the fly. Out: a weights file of a MobileNetV2 trunk that has learnt
to tell of a small crop whose hand it is, which character it shows, and which one follows.
"""

import contextlib
from concurrent.futures import Executor
from pathlib import Path

import cv2
import keras
import numpy as np

from digitlib import Problem, model, progress_bar, whole_file, write_json
from digitlib.crops import CROPS_PER_HAND, draw_batch
from digitlib.handwriting import CHARACTERS, VERSION, processes
from digitlib.pages import read_json
from digitlib.settings import RANGES

SIZE = 64  # px the network sees: half the page's resolution
TARGETS = {"hand": 1.0, "character": 1.0, "neighbour": 0.5}  # weights of the three losses


class Crops(keras.utils.PyDataset):
    """Batches ``first`` to ``first + steps - 1``, drawn as they are needed, a few ahead.

    A batch is a function of (seed, its step) alone, whether it is drawn here (no ``pool``) or in
    ``pool``, by however many ``workers``.
    """

    def __init__(
        self,
        hands: int,
        seed: int,
        batch_size: int,
        first: int,
        steps: int,
        size: int = SIZE,
        pool: Executor | None = None,
        workers: int = 0,
    ) -> None:
        # Threads that wait for the processes: two a process, so that none of these runs dry.
        super().__init__(workers=2 * workers, use_multiprocessing=False, max_queue_size=8)
        self.drawing = {"hands": hands, "batch_size": batch_size, "size": size, "seed": seed}
        self.first, self.steps, self.pool = first, steps, pool

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, i: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        if self.pool is None:
            return draw_batch(self.first + i, **self.drawing)
        return self.pool.submit(draw_batch, self.first + i, **self.drawing).result()


def _network(hands: int, width: float, size: int) -> tuple[keras.Model, keras.Model]:
    """(the trunk, a network of it that answers the three questions)."""
    backbone = model.trunk(size, width)
    for layer in backbone.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.95  # Keras's 0.999 lags far behind in so short a run
    patches, features = model.with_input(backbone)
    pooled = keras.layers.GlobalAveragePooling2D()(features)
    # Averages over a crop differ little from crop to crop. Spread out, they let the heads learn
    # thousands of hands in the few visits that each gets.
    pooled = keras.layers.BatchNormalization(momentum=0.95)(pooled)
    sizes = {"hand": hands, "character": len(CHARACTERS), "neighbour": len(CHARACTERS) + 1}
    answers = {name: keras.layers.Dense(size, name=name)(pooled) for name, size in sizes.items()}
    return backbone, keras.Model(patches, answers)


def pretrain(
    out: Path,
    hands: int = 1000,
    steps: int = 12_000,
    batch_size: int = 64,
    width: float = 1.0,
    seed: int = 1,
    rate: float = 2e-3,
    size: int = SIZE,
    workers: int = 2,
    checkpoint_every: int = 250,
) -> Path:
    """Train a trunk on generated hands and write its weights to ``out`` (`….weights.h5`).

    ``width`` is MobileNetV2's, ``size`` px the side of what it sees, of 128 px on the page.
    ``workers`` processes draw (0: this one does); how many there are changes nothing else. A run
    that was killed goes on from its last checkpoint when it is called again, to the same end. AdamW
    (Loshchilov and Hutter 2019) with 5 % warm-up to ``rate`` and cosine decay to zero.
    """
    out = Path(out)
    if not out.name.endswith(".weights.h5"):
        raise Problem(f"{out}: the name of a weights file must end in .weights.h5")
    for name, value, (low, high) in (
        ("hands", hands, (2, 10**6)),
        ("steps", steps, (1, 10**9)),
        ("batch_size", batch_size, (CROPS_PER_HAND, 2**16)),
        ("width", width, RANGES["width"]),
        ("rate", rate, (1e-9, 1)),
        ("size", size, (32, 1024)),
        ("workers", workers, (0, 60)),
        ("seed", seed, RANGES["seed"]),
    ):
        if not low <= value <= high:
            raise Problem(f"{name} must be from {low} to {high}, not {value}")
    if batch_size % CROPS_PER_HAND:
        crops = f"a multiple of {CROPS_PER_HAND}, the crops of a hand"
        raise Problem(f"batch_size must be {crops}, not {batch_size}")
    cv2.setNumThreads(1)
    model.keep_memory()
    backbone, network = _network(hands, width, size)
    model.draw(seed, backbone, network)
    schedule = keras.optimizers.schedules.CosineDecay(
        rate / 20, steps - steps // 20, warmup_target=rate, warmup_steps=steps // 20
    )
    network.compile(
        keras.optimizers.AdamW(schedule, weight_decay=0.02),
        loss=dict.fromkeys(TARGETS, keras.losses.SparseCategoricalCrossentropy(from_logits=True)),
        loss_weights=TARGETS,
        metrics=dict.fromkeys(TARGETS, "accuracy"),
        jit_compile=model.jit_pays(),
    )
    model.build_metrics(network, Crops(hands, seed, batch_size, 0, steps, size))
    folder = out.with_name(f"{out.name.removesuffix('.weights.h5')}-checkpoint")
    state, run = folder / "state.json", [VERSION, hands, steps, batch_size, width, seed, rate, size]
    saved = read_json(state)
    done = saved["step"] if saved.get("run") == run else 0
    if done:
        network.optimizer.build(network.trainable_variables)
        network.load_weights(folder / f"step{done}.weights.h5")
    bar = progress_bar(None, total=steps, initial=done, desc="pretraining", unit="step")
    with processes(workers) if workers else contextlib.nullcontext() as pool, bar:
        while done < steps:
            n = min(checkpoint_every, steps - done)
            crops = Crops(hands, seed, batch_size, done, n, size, pool, workers)
            # In order: shuffled, a run that was broken off would go on otherwise.
            history = network.fit(crops, shuffle=False, verbose=0).history
            done += n
            bar.update(n)
            bar.set_postfix({name: f"{history[f'{name}_accuracy'][-1]:.1%}" for name in TARGETS})
            with whole_file(folder / f"step{done}.weights.h5") as aside:
                network.save_weights(aside)
            write_json(state, {"step": done, "run": run})  # last: it says which weights count
            for old in folder.glob("step*.weights.h5"):
                if old.name != f"step{done}.weights.h5":
                    old.unlink()
    with whole_file(out) as aside:
        backbone.save_weights(aside)
    state.unlink()
    (folder / f"step{done}.weights.h5").unlink()
    with contextlib.suppress(OSError):  # something of somebody else's is in it
        folder.rmdir()
    return out
