"""Pretraining: what its crops show, and that a run broken off goes on.

In: generated hands. Out: crops with their answers, and a weights file.
"""

import keras
import numpy as np
import pytest

from digitlib import Problem, pretrain
from digitlib.handwriting import CHARACTERS, PRETRAINING, Hand

TINY = {"hands": 4, "steps": 4, "batch_size": 16, "width": 0.1, "checkpoint_every": 2}


def test_crops_are_centred_on_the_characters_that_they_are_said_to_show():
    for number in range(20):
        hand, rng = Hand((1, PRETRAINING, number)), np.random.default_rng([3, number])
        crops, characters, neighbours = pretrain.crops_of_a_hand(hand, rng, 8)
        assert crops.shape == (8, 64, 64) and crops.dtype == np.uint8
        assert set(characters) <= set(CHARACTERS) and set(neighbours) <= set(CHARACTERS + " ")
        large = [c not in ".,ijl1" for c in characters]  # whose ink surely reaches the middle
        middle = crops[:, 16:48, 16:48].reshape(8, -1).min(axis=1)
        assert (middle[large] < 128).all()  # ink


def test_a_batch_is_a_function_of_its_number_however_the_run_is_cut():
    whole = pretrain.Crops(hands=4, seed=1, batch_size=16, first=0, steps=4)
    rest = pretrain.Crops(hands=4, seed=1, batch_size=16, first=2, steps=2)
    for (one, answers), (other, same) in zip((whole[2], whole[3]), (rest[0], rest[1]), strict=True):
        assert np.array_equal(one, other)
        assert all(np.array_equal(answers[name], same[name]) for name in answers)
    assert not np.array_equal(whole[0][0], whole[1][0])


def test_a_run_broken_off_goes_on_from_its_last_checkpoint(tmp_path, monkeypatch):
    fit, drawn = keras.Model.fit, []

    def watched(self, crops, **kwargs):
        drawn.append(
            (crops.first, crops.steps, int(keras.ops.convert_to_numpy(self.optimizer.iterations)))
        )
        if len(drawn) == 2:
            raise KeyboardInterrupt
        return fit(self, crops, **kwargs)

    monkeypatch.setattr(keras.Model, "fit", watched)
    out = tmp_path / "resumed.weights.h5"
    with pytest.raises(KeyboardInterrupt):
        pretrain.pretrain(out, **TINY, progress=False)
    assert not out.exists()
    pretrain.pretrain(out, **TINY, progress=False)
    # first batch, how many, and the optimiser's count: cut off at 2, and on from 2
    assert drawn == [(0, 2, 0), (2, 2, 2), (2, 2, 2)]
    assert [p.name for p in tmp_path.iterdir()] == [out.name]
    network = pretrain.model.trunk(pretrain.SIZE, TINY["width"])
    network.load_weights(out)
    assert all(np.isfinite(w).all() for w in network.get_weights())


@pytest.mark.parametrize(
    "wrong",
    [
        {"out": "weights.npz"},  # not a Keras weights file
        {"batch_size": 12},  # not whole hands
        {"steps": 0},
        {"hands": 1},  # nothing to tell apart
    ],
)
def test_what_cannot_be_pretrained_is_refused(wrong, tmp_path):
    given = {"out": "x.weights.h5"} | TINY | wrong
    with pytest.raises(Problem):
        pretrain.pretrain(tmp_path / given.pop("out"), **given, progress=False)
