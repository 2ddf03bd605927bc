"""Pretraining: what its crops show, whose they are, and that a run broken off goes on.

In: generated hands. Out: crops with their answers, and a weights file.
"""

import collections
import inspect

import keras
import numpy as np
import pytest

from digitlib import Problem, __main__, crops, pretrain
from digitlib.handwriting import CHARACTERS, PRETRAINING, Hand, processes

TINY = {"hands": 4, "steps": 4, "batch_size": 16, "width": 0.1, "checkpoint_every": 2, "workers": 0}


# --- crops ------------------------------------------------------------------------------------


def test_crops_are_centred_on_the_characters_that_they_are_said_to_show():
    for number in range(20):
        hand, rng = Hand((1, PRETRAINING, number)), np.random.default_rng([3, number])
        images, characters, neighbours = crops.crops_of_a_hand(hand, rng, 64)
        assert images.shape == (8, 64, 64) and images.dtype == np.uint8
        assert set(characters) <= set(CHARACTERS) and set(neighbours) <= set(CHARACTERS + " ")
        large = [c not in ".,ijl1" for c in characters]  # whose ink surely reaches the middle
        middle = images[:, 16:48, 16:48].reshape(8, -1).min(axis=1)
        assert (middle[large] < 128).all()  # ink


def test_a_hand_too_wide_for_the_line_writes_a_character():
    hand = Hand((1, PRETRAINING, 3))  # not the one that `hand_of` keeps
    hand.x_height = 400.0
    images, characters, _ = crops.crops_of_a_hand(hand, np.random.default_rng(1), 64)
    assert images.shape == (8, 64, 64) and len(characters) == 8


@pytest.mark.parametrize(
    ("hands", "n", "steps"),
    [
        (4, 2, 6),  # rounds end where batches do
        (5, 2, 5),  # a round ends within a batch
        (3, 8, 3),  # a batch holds more than a round
        (2, 1, 4),
    ],
)
def test_all_hands_come_before_any_comes_again(hands, n, steps):
    dealt = np.concatenate([crops.hands_of_step(step, hands, n, seed=1) for step in range(steps)])
    assert len(dealt) == n * steps
    for first in range(0, len(dealt) - hands + 1, hands):
        assert sorted(dealt[first : first + hands]) == list(range(hands))


def test_the_order_of_hands_is_drawn_anew_for_each_round_and_seed():
    rounds = [tuple(crops.hands_of_step(step, 50, 50, seed)) for seed in (1, 2) for step in (0, 1)]
    assert len(set(rounds)) == 4


@pytest.mark.parametrize(("batch_size", "size"), [(16, 64), (8, 32), (24, 96)])
def test_a_batch_has_eight_crops_of_a_hand_and_an_answer_for_each(batch_size, size):
    images, answers = crops.draw_batch(3, hands=10, batch_size=batch_size, size=size, seed=1)
    assert images.shape == (batch_size, size, size, 1) and images.dtype == np.uint8
    assert set(answers) == set(pretrain.TARGETS)
    assert set(collections.Counter(answers["hand"].tolist()).values()) == {8}
    for name, most in ("hand", 10), ("character", 64), ("neighbour", 65):
        assert answers[name].shape == (batch_size,) and answers[name].min() >= 0
        assert answers[name].max() < most


def test_a_batch_is_the_same_in_whatever_process_it_is_drawn():
    given = {"hands": 4, "seed": 1, "batch_size": 16, "first": 5, "steps": 3}
    here = [pretrain.Crops(**given)[i] for i in range(3)]
    with processes(2) as pool:
        there = pretrain.Crops(**given, pool=pool, workers=2)
        drawn = [there[i] for i in (2, 0, 1)]  # in another order
    for (one, answers), (other, same) in zip(here, [drawn[1], drawn[2], drawn[0]], strict=True):
        assert np.array_equal(one, other)
        assert all(np.array_equal(answers[name], same[name]) for name in answers)


def test_a_batch_and_a_hand_share_no_stream_of_random_numbers(monkeypatch):
    """NumPy pads seeds with zeros: [1, 2] and [1, 2, 0] are one stream."""
    seeds, original = [], np.random.default_rng

    def noted(seed):
        seeds.append((*map(int, seed),))
        return original(seed)

    monkeypatch.setattr(np.random, "default_rng", noted)
    crops.hand_of.cache_clear()
    for step in range(3):
        crops.draw_batch(step, hands=4, batch_size=8, size=32, seed=1)
    padded = [seed + (0,) * (8 - len(seed)) for seed in set(seeds)]
    assert len(padded) == len(set(padded)) > 20


def test_a_batch_is_a_function_of_its_number_however_the_run_is_cut():
    whole = pretrain.Crops(hands=4, seed=1, batch_size=16, first=0, steps=4)
    rest = pretrain.Crops(hands=4, seed=1, batch_size=16, first=2, steps=2)
    for (one, answers), (other, same) in zip((whole[2], whole[3]), (rest[0], rest[1]), strict=True):
        assert np.array_equal(one, other)
        assert all(np.array_equal(answers[name], same[name]) for name in answers)
    assert not np.array_equal(whole[0][0], whole[1][0])


# --- runs -------------------------------------------------------------------------------------


def weights(path) -> list[np.ndarray]:
    network = pretrain.model.trunk(pretrain.SIZE, TINY["width"])
    network.load_weights(path)
    return network.get_weights()


def test_a_run_broken_off_goes_on_from_its_last_checkpoint(tmp_path, monkeypatch):
    whole = weights(pretrain.pretrain(tmp_path / "a" / "x.weights.h5", **TINY))
    fit, drawn = keras.Model.fit, []

    def watched(self, batches, **kwargs):
        done = int(keras.ops.convert_to_numpy(self.optimizer.iterations))
        drawn.append((batches.first, batches.steps, done))
        if len(drawn) == 2:
            raise KeyboardInterrupt
        return fit(self, batches, **kwargs)

    monkeypatch.setattr(keras.Model, "fit", watched)
    out = tmp_path / "b" / "x.weights.h5"
    with pytest.raises(KeyboardInterrupt):
        pretrain.pretrain(out, **TINY)
    assert not out.exists()
    pretrain.pretrain(out, **TINY | {"workers": 2})  # drawn by others: the same
    # first batch, how many, and the optimiser's count: cut off at 2, and on from 2
    assert drawn == [(0, 2, 0), (2, 2, 2), (2, 2, 2)]
    assert [p.name for p in out.parent.iterdir()] == [out.name]
    for one, other in zip(whole, weights(out), strict=True):
        assert np.isfinite(one).all()
        assert np.allclose(
            one, other, rtol=1e-3, atol=1e-4
        )  # to the same end; sums may be reordered


def test_a_folder_for_checkpoints_keeps_what_is_somebody_elses(tmp_path):
    notes = tmp_path / "x-checkpoint" / "notes.txt"
    notes.parent.mkdir()
    notes.write_text("mine")
    pretrain.pretrain(tmp_path / "x.weights.h5", **TINY | {"steps": 1, "size": 32})
    assert [path.name for path in notes.parent.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"out": "weights.npz"},  # not a Keras weights file
        {"batch_size": 12},  # not whole hands
        {"batch_size": 0},
        {"steps": 0},
        {"hands": 1},  # nothing to tell apart
        {"width": 0.0},
        {"width": 2.5},  # what no recipe takes
        {"rate": 0.0},
        {"rate": float("nan")},
        {"size": 16},  # less than MobileNetV2 takes
        {"workers": -1},
        {"seed": -1},
    ],
)
def test_what_cannot_be_pretrained_is_refused(wrong, tmp_path):
    given = {"out": "x.weights.h5"} | TINY | wrong
    with pytest.raises(Problem):
        pretrain.pretrain(tmp_path / given.pop("out"), **given)


def test_the_command_line_says_the_defaults_of_the_function():
    given = vars(__main__.parser().parse_args(["pretrain", "--out", "x.weights.h5"]))
    defaults = inspect.signature(pretrain.pretrain).parameters
    chosen = {name: value for name, value in given.items() if name not in ("command", "job", "out")}
    assert chosen == {name: defaults[name].default for name in chosen}
    left = set(defaults) - set(chosen)
    assert left == {"out", "checkpoint_every"}
