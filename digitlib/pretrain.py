"""Pretraining: backbone weights from generated handwriting, and from nothing else.

In: a number of hands, drawn on the fly. Out: a weights file of a MobileNetV2 trunk that has learnt
to tell of a small crop whose hand it is, which character it shows, and which one follows.
"""

import json
import shutil
from functools import lru_cache
from pathlib import Path

import cv2
import keras
import numpy as np

from digitlib import Problem, model, progress_bar, whole_file
from digitlib.handwriting import CHARACTERS, PITCH, PRETRAINING, Hand, Paper, sentence

CROP = 128  # px on the page; the reference's lines are about 100 px apart
SIZE = 64  # px the network sees: half the page's resolution
CROPS_PER_HAND = 8
TARGETS = {"hand": 1.0, "character": 1.0, "neighbour": 0.5}  # weights of the three losses


@lru_cache(maxsize=4096)
def _hand(seed: int, number: int) -> Hand:
    return Hand((seed, PRETRAINING, number))


def crops_of_a_hand(
    hand: Hand, rng: np.random.Generator, n: int = CROPS_PER_HAND
) -> tuple[np.ndarray, list[str], list[str]]:
    """Draw three short lines of words or of numbers, and cut ``n`` crops centred on characters.

    Returns (n, SIZE, SIZE) uint8, the character at each centre and its right neighbour (" ": none).
    Each crop is turned, scaled and shifted a little.
    """
    height, width = 3 * PITCH, 400
    paper, placed = Paper(height, width, rng), []
    numbers = rng.random() < 0.5
    for line in range(3):
        words = sentence(rng).split()
        if numbers:
            words = [str(rng.integers(10 ** rng.integers(1, 5))).zfill(2) for _ in range(6)]
        first = rng.integers(len(words) // 2)
        strokes, characters = hand.write(" ".join(words[first:]), width - 10, rng)
        y = PITCH * (line + 0.6) + rng.normal(0, 2)
        paper.rule(y + 3)
        paper.stroke([s + [5, y] for s in strokes], hand.pen, hand.pressure)
        placed += [(character, right, 5 + dx, y + dy) for character, right, dx, dy in characters]
    page = paper.scan()
    chosen = [placed[k] for k in rng.integers(len(placed), size=n)]
    crops = np.empty((n, SIZE, SIZE), np.uint8)
    for i, (_, _, *centre) in enumerate(chosen):
        turn, zoom = rng.uniform(-0.06, 0.06), SIZE / CROP * np.exp(rng.normal(0, 0.08))
        matrix = zoom * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
        shift = SIZE / 2 - matrix @ (np.array(centre) + rng.uniform(-9, 9, 2))
        crops[i] = cv2.warpAffine(
            page, np.c_[matrix, shift], (SIZE, SIZE), flags=cv2.INTER_LINEAR, borderValue=255
        )
    return crops, [c[0] for c in chosen], [c[1] for c in chosen]


class Crops(keras.utils.PyDataset):
    """Batches drawn as they are needed; batch ``i`` is a function of (seed, i) alone."""

    def __init__(self, hands: int, seed: int, batch_size: int, first: int, steps: int) -> None:
        super().__init__(workers=2, use_multiprocessing=False, max_queue_size=16)
        self.hands, self.seed, self.batch_size = hands, seed, batch_size
        self.first, self.steps = first, steps

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, i: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        rng = np.random.default_rng([self.seed, PRETRAINING, self.first + i])
        crops, targets = [], {name: [] for name in TARGETS}
        for number in rng.integers(self.hands, size=self.batch_size // CROPS_PER_HAND):
            images, characters, neighbours = crops_of_a_hand(_hand(self.seed, int(number)), rng)
            crops.append(images)
            targets["hand"] += [number] * len(images)
            targets["character"] += [CHARACTERS.index(c) for c in characters]
            targets["neighbour"] += [(CHARACTERS + " ").index(c) for c in neighbours]
        return np.concatenate(crops)[..., None], {k: np.array(v) for k, v in targets.items()}


def _network(hands: int, width: float) -> tuple[keras.Model, keras.Model]:
    """(the trunk, a network of it that answers the three questions)."""
    backbone = model.trunk(SIZE, width)
    for layer in backbone.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.95  # Keras's 0.999 lags far behind in so short a run
    patches, features = model.with_input(backbone)
    pooled = keras.layers.GlobalAveragePooling2D()(features)
    sizes = {"hand": hands, "character": len(CHARACTERS), "neighbour": len(CHARACTERS) + 1}
    answers = {name: keras.layers.Dense(size, name=name)(pooled) for name, size in sizes.items()}
    return backbone, keras.Model(patches, answers)


def pretrain(
    out: Path,
    hands: int = 500,
    steps: int = 4500,
    batch_size: int = 64,
    width: float = 1.0,
    seed: int = 1,
    rate: float = 2e-3,
    checkpoint_every: int = 250,
    progress: bool = True,
) -> Path:
    """Train a trunk on generated hands and write its weights to ``out`` (`….weights.h5`).

    A run that was killed goes on from its last checkpoint when it is called again. AdamW
    (Loshchilov and Hutter 2019) with 5 % warm-up and cosine decay.
    """
    out = Path(out)
    if not out.name.endswith(".weights.h5"):
        raise Problem(f"{out}: the name of a weights file must end in .weights.h5")
    if batch_size % CROPS_PER_HAND or steps < 1 or hands < 2:
        raise Problem(f"batch_size must be a multiple of {CROPS_PER_HAND}, hands at least 2")
    cv2.setNumThreads(1)
    keras.utils.set_random_seed(seed)
    backbone, network = _network(hands, width)
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
    folder = out.with_name(f"{out.name.removesuffix('.weights.h5')}-checkpoint")
    state, run = folder / "state.json", [hands, steps, batch_size, width, seed, rate]
    saved = json.loads(state.read_text("utf-8")) if state.exists() else {}
    done = saved["step"] if saved.get("run") == run else 0
    if done:
        network.optimizer.build(network.trainable_variables)
        network.load_weights(folder / f"step{done}.weights.h5")
    bar = progress_bar(None, progress, total=steps, initial=done, desc="pretraining", unit="step")
    while done < steps:
        n = min(checkpoint_every, steps - done)
        history = network.fit(Crops(hands, seed, batch_size, done, n), verbose=0).history
        done += n
        bar.update(n)
        bar.set_postfix({name: f"{history[f'{name}_accuracy'][-1]:.1%}" for name in TARGETS})
        with whole_file(folder / f"step{done}.weights.h5") as aside:
            network.save_weights(aside)
        with whole_file(state) as aside:  # last: it says which weights count
            aside.write_text(json.dumps({"step": done, "run": run}), "utf-8")
        for old in folder.glob("step*.weights.h5"):
            if old.name != f"step{done}.weights.h5":
                old.unlink()
    bar.close()
    with whole_file(out) as aside:
        backbone.save_weights(aside)
    shutil.rmtree(folder)
    return out
