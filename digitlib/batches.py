"""Batches: what the two phases of training feed on, made ready beside the running model.

In: strips, or features cached from them. Out: Keras datasets of (inputs, class numbers), in which a
batch is a function of (seed, epoch, index) alone.
"""

import copy
from collections.abc import Sequence

import keras
import numpy as np

from digitlib import cores
from digitlib.patches import cut_all, cut_each, even_centres, random_centres
from digitlib.settings import Settings
from digitlib.strips import Strip

CACHED_BATCH = 512  # head training on cached features: a batch costs a millisecond
EVEN_PATCHES = 15  # of a validation strip
EVEN_BATCH = 16  # validation strips
MOST_CUTTERS = 16  # threads that cut patches


def cutters() -> int:
    """How many threads cut patches beside the model: a GPU takes them faster than two can cut."""
    return min(max(2, cores()), MOST_CUTTERS)


class PatchStream(keras.utils.PyDataset):
    """Random augmented patches of random strips for training, cut beside the running model.

    A batch is a function of (seed, epoch, index) alone: (batch, size, size, 1) uint8 and (batch,)
    int. Each batch draws its classes evenly, then a strip of the class, then a place on it.
    """

    def __init__(self, strips: Sequence[Strip], classes: list[str], settings: Settings) -> None:
        super().__init__(workers=cutters(), max_queue_size=16)
        self.settings, self.strips = settings, list(strips)
        self.epoch: tuple[int, int] = (0, 0)
        number = {label: i for i, label in enumerate(classes)}
        self.by_class: list[list[int]] = [[] for _ in classes]
        for i, strip in enumerate(self.strips):
            self.by_class[number[strip.label]].append(i)

    def at(self, epoch: int, phase: int) -> "PatchStream":
        """The stream of ``epoch`` in ``phase``."""
        stream = copy.copy(self)
        stream.epoch = (phase, epoch)
        return stream

    def __len__(self) -> int:
        return self.settings.steps

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        settings = self.settings
        rng = np.random.default_rng([settings.seed, *self.epoch, index])
        rounds = -(-settings.batch_size // len(self.by_class))
        classes = [rng.permutation(len(self.by_class)) for _ in range(rounds)]
        classes = np.concatenate(classes)[: settings.batch_size]
        places = [self.by_class[label] for label in classes]
        share = rng.random(len(classes))
        chosen = [own[int(at * len(own))] for own, at in zip(places, share, strict=True)]
        items = [self.strips[i] for i in chosen]
        return cut_each(items, random_centres(items, settings, rng), settings, rng), classes


class EvenPatches(keras.utils.PyDataset):
    """Patches of validation strips, EVEN_PATCHES of each, evenly spaced: always the same, and cut
    whenever they are asked for. A batch is of whole strips, and otherwise like `PatchStream`'s."""

    def __init__(self, strips: Sequence[Strip], classes: list[str], settings: Settings) -> None:
        super().__init__(workers=cutters(), max_queue_size=4)
        self.settings, self.strips = settings, strips
        number = {label: i for i, label in enumerate(classes)}
        self.labels = np.repeat([number[strip.label] for strip in strips], EVEN_PATCHES)

    def __len__(self) -> int:
        return -(-len(self.strips) // EVEN_BATCH)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        first, last = index * EVEN_BATCH, (index + 1) * EVEN_BATCH
        cut = [
            cut_all(strip, even_centres(strip, EVEN_PATCHES, self.settings), self.settings)
            for strip in self.strips[first:last]
        ]
        return np.concatenate(cut), self.labels[first * EVEN_PATCHES : last * EVEN_PATCHES]


class CachedFeatures(keras.utils.PyDataset):
    """Batches of pooled features for phase 1; an epoch's order is a function of (seed, epoch).

    ``views``: (n, c) each, features of the same n ``labels``; one at least.
    """

    def __init__(
        self, views: Sequence[np.ndarray], labels: np.ndarray, seed: int = 0, epoch: int = 0
    ) -> None:
        super().__init__()
        self.views, self.labels = views, labels
        rng = np.random.default_rng([seed, 300, epoch])
        self.order = rng.permutation(len(views) * len(labels))

    def __len__(self) -> int:
        return -(-len(self.order) // CACHED_BATCH)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        chosen = self.order[index * CACHED_BATCH : (index + 1) * CACHED_BATCH]
        view, row = np.divmod(chosen, len(self.labels))
        features = np.empty((len(chosen), self.views[0].shape[1]), np.float32)
        for k, own in enumerate(self.views):
            features[view == k] = own[row[view == k]]
        return features, self.labels[row]
