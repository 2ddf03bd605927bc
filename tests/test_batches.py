"""Batches: the same ones from the same seed, others from any other, every class as often.

In: strips, or features, of known numbers. Out: batches compared number by number.
"""

import dataclasses

import numpy as np
import pytest

from digitlib import batches, strips
from digitlib.batches import (
    CACHED_BATCH,
    EVEN_BATCH,
    EVEN_PATCHES,
    CachedFeatures,
    EvenPatches,
    PatchStream,
)
from digitlib.patches import cut_all, even_centres
from digitlib.settings import Settings
from digitlib.strips import Strip


def noise(height: int, width: int, label: str) -> Strip:
    image = np.random.default_rng(width).integers(0, 256, (height, width))
    return Strip(image.astype(np.uint8), label, 0)


# --- patches --------------------------------------------------------------------------------------


def stream(**changes) -> PatchStream:
    settings = dataclasses.replace(
        Settings(patch_size=64, scale=0.5, batch_size=7, steps=3), **changes
    )
    items = [noise(100, 200 + i, label) for i, label in enumerate(["a", "b", "b", "c"])]
    return PatchStream(items, ["a", "b", "c"], settings)


def same(one: tuple, other: tuple) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_a_batch_has_the_shape_and_the_types_that_the_network_takes():
    patches, labels = stream().at(0, 1)[0]
    assert patches.shape == (7, 32, 32, 1) and patches.dtype == np.uint8
    assert labels.shape == (7,) and np.issubdtype(labels.dtype, np.integer)
    assert len(stream()) == 3


def test_a_batch_is_a_function_of_seed_phase_epoch_and_index():
    batch = stream().at(2, 1)[1]
    again = stream().at(5, 2)  # another epoch was asked for before
    assert same(batch, again.at(2, 1)[1])
    np.random.seed(7)  # global state does not matter
    assert same(batch, stream().at(2, 1)[1])
    assert not same(batch, stream().at(2, 1)[0])
    assert not same(batch, stream().at(2, 1)[2])
    assert not same(batch, stream().at(1, 1)[1])
    assert not same(batch, stream().at(2, 2)[1])
    assert not same(batch, stream(seed=2).at(2, 1)[1])


def test_streams_of_two_epochs_do_not_share_state():
    base = stream()
    first, second = base.at(0, 1), base.at(1, 1)
    assert same(first[0], stream().at(0, 1)[0]) and same(second[0], stream().at(1, 1)[0])


def test_classes_are_drawn_evenly_whatever_their_number_of_strips():
    for index in range(3):
        labels = stream().at(0, 1)[index][1]
        assert sorted(np.bincount(labels, minlength=3)) == [2, 2, 3]  # 7 of three classes


@pytest.mark.parametrize("cores, threads", [(1, 2), (2, 2), (6, 6), (64, 16)])
def test_as_many_threads_cut_as_there_are_cores_for(monkeypatch, cores, threads):
    monkeypatch.setattr(batches, "cores", lambda: cores)
    assert stream().at(0, 1).workers == threads
    assert EvenPatches([noise(64, 64, "a")], ["a"], Settings()).workers == threads


def test_labels_are_those_of_the_strips():
    dark = {"a": 10, "b": 90, "c": 170}  # each class is a tone
    items = [Strip(np.full((100, 100), t, np.uint8), c, 0) for c, t in dark.items()]
    settings = Settings(patch_size=64, scale=0.5, placement="anywhere", contrast=0, zoom=0)
    patches, labels = PatchStream(items, ["a", "b", "c"], settings).at(0, 1)[0]
    assert [patch[16, 16, 0] for patch in patches] == [[10, 90, 170][label] for label in labels]


def test_fewer_patches_in_a_batch_than_classes():
    patches, labels = stream(batch_size=2).at(0, 1)[0]
    assert len(patches) == 2 and len(set(labels.tolist())) == 2


@pytest.mark.parametrize("n", [1, EVEN_BATCH, EVEN_BATCH + 1])
def test_validation_patches_are_each_strip_s_even_ones(n):
    settings = Settings(patch_size=64, scale=0.5)
    items = [noise(100, 200 + i, "abc"[i % 3]) for i in range(n)]
    batches = EvenPatches(items, ["a", "b", "c"], settings)
    assert len(batches) == -(-n // EVEN_BATCH)
    images, labels = zip(*(batches[i] for i in range(len(batches))), strict=True)
    assert np.concatenate(labels).tolist() == [i % 3 for i in range(n) for _ in range(EVEN_PATCHES)]
    last = cut_all(items[-1], even_centres(items[-1], EVEN_PATCHES, settings), settings)
    assert len(np.concatenate(images)) == n * EVEN_PATCHES
    assert np.array_equal(images[-1][-EVEN_PATCHES:], last)


# --- cached features ----------------------------------------------------------------------------


def features(n: int, seed: int = 1, epoch: int = 0, views: int = 1) -> CachedFeatures:
    """Row i of view k holds i + 1000 k, and its label is i % 7."""
    own = [np.arange(n, dtype=np.float32)[:, None] + 1000 * k for k in range(views)]
    return CachedFeatures(own, np.arange(n) % 7, seed, epoch)


@pytest.mark.parametrize(
    ("n", "sizes"),
    [
        (1, [1]),
        (CACHED_BATCH, [CACHED_BATCH]),
        (CACHED_BATCH + 1, [CACHED_BATCH, 1]),  # the last batch is what is left
        (3 * CACHED_BATCH, [CACHED_BATCH] * 3),
    ],
)
def test_an_epoch_shows_every_feature_once_with_its_label(n, sizes):
    batches = features(n)
    taken = [batches[i] for i in range(len(batches))]
    assert [len(labels) for _, labels in taken] == sizes
    rows = np.concatenate([rows[:, 0] for rows, _ in taken])
    assert np.array_equal(np.sort(rows), np.arange(n))
    assert np.array_equal(np.concatenate([labels for _, labels in taken]), rows % 7)


def test_features_of_all_views_are_mixed():
    rows, labels = features(200, views=3)[0]  # one batch: 512 of 600
    view, row = np.divmod(rows[:, 0].astype(int), 1000)
    assert len(set(rows[:, 0])) == CACHED_BATCH and set(view) == {0, 1, 2}
    assert np.array_equal(labels, row % 7) and np.abs(np.bincount(view) - 171).max() < 40
    assert (np.diff(view) != 0).mean() > 0.5


def test_the_order_of_features_is_a_function_of_seed_and_epoch():
    order = features(100)[0][0]
    assert np.array_equal(order, features(100)[0][0])
    for other in features(100, epoch=1), features(100, seed=2):
        assert not np.array_equal(order, other[0][0])


# --- real pages ---------------------------------------------------------------------------------


def test_batches_of_real_pages_repeat(reference):
    settings = Settings(batch_size=16)
    items = strips.training_strips(reference.train[:4], settings)[0]
    classes = [page.label for page in reference.train[:4]]
    one, other = (PatchStream(items, classes, settings).at(1, 2)[0] for _ in range(2))
    assert same(one, other) and np.bincount(one[1]).tolist() == [4, 4, 4, 4]
