"""Crops of generated handwriting, drawn as they are needed: what pretraining sees.

In: a seed and the number of a step. Out: a batch of small pictures with three answers each. Other
processes draw it; this module stays clear of Keras, so that they start in a second.
"""

from functools import lru_cache

import cv2
import numpy as np

from digitlib.handwriting import BATCH, CHARACTERS, PITCH, PRETRAINING, Hand, Paper, sentence

CROP = 128  # px on the page; the reference's lines are about 100 px apart
CROPS_PER_HAND = 8  # of one hand in a batch, from one drawing
LINES, LINE = 2, 420  # of a drawing: how many lines, and px of each


@lru_cache(maxsize=4096)  # a hand's letters are some 60 kB
def hand_of(seed: int, number: int) -> Hand:
    """The generated writer ``number``, the same in every process."""
    return Hand((seed, PRETRAINING, number))


def crops_of_a_hand(
    hand: Hand, rng: np.random.Generator, size: int
) -> tuple[np.ndarray, list[str], list[str]]:
    """Draw two short lines of words or of numbers, and cut crops centred on characters.

    Returns (CROPS_PER_HAND, size, size) uint8, the character at each centre and its right neighbour
    (" ": none). Each crop is turned, scaled and shifted a little.
    """
    paper, placed = Paper(LINES * PITCH, LINE, rng), []
    numbers = rng.random() < 0.25
    for line in range(LINES):
        words = sentence(rng).split()
        if numbers:
            words = [str(rng.integers(10 ** rng.integers(1, 5))).zfill(2) for _ in range(6)]
        first = rng.integers(len(words) // 2)
        strokes, characters = hand.write(" ".join(words[first:]), LINE - 10, rng)
        if not characters:  # a hand so wide that the line has no room for the first word
            strokes, characters = hand.write(words[first][0], np.inf, rng)
        y = PITCH * (line + 0.6) + rng.normal(0, 2)
        paper.rule(y + 3)
        if strokes:
            inked = [s + [5, y] for s in strokes]
            paper.stroke(inked, hand.pen, hand.pressure, hand.shading)
        placed += [(character, right, 5 + dx, y + dy) for character, right, dx, dy in characters]
    page = paper.scan()
    if rng.random() < 0.5:  # as strips are enhanced, or as scanned
        page = cv2.GaussianBlur(page, (3, 3), 0)
    n = CROPS_PER_HAND
    chosen = [placed[k] for k in rng.choice(len(placed), n, replace=len(placed) < n)]
    crops = np.empty((n, size, size), np.uint8)
    for i, (_, _, *centre) in enumerate(chosen):
        turn, zoom = rng.uniform(-0.06, 0.06), size / CROP * np.exp(rng.normal(0, 0.08))
        matrix = zoom * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
        shift = size / 2 - matrix @ (np.array(centre) + rng.uniform(-9, 9, 2))
        crops[i] = cv2.warpAffine(
            page, np.c_[matrix, shift], (size, size), flags=cv2.INTER_LINEAR, borderValue=255
        )
    return crops, [c[0] for c in chosen], [c[1] for c in chosen]


def hands_of_step(step: int, hands: int, n: int, seed: int) -> np.ndarray:
    """(n,) the hands of batch ``step``.

    All are dealt out, in an order drawn anew for each round, before any comes again.
    """
    first, last = step * n // hands, ((step + 1) * n - 1) // hands
    rounds = range(first, last + 1)
    orders = [np.random.default_rng([BATCH, seed, 1, k]).permutation(hands) for k in rounds]
    return np.concatenate(orders)[step * n - first * hands :][:n]


def draw_batch(
    step: int, hands: int, batch_size: int, size: int, seed: int
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The batch of ``step``: (batch_size, size, size, 1) uint8 and for each question its answers.

    A function of its arguments alone: in whatever process it runs, and whatever ran before.
    """
    rng = np.random.default_rng([BATCH, seed, 2, step])
    crops, hand, character, neighbour = [], [], [], []
    for number in hands_of_step(step, hands, batch_size // CROPS_PER_HAND, seed):
        images, letters, rights = crops_of_a_hand(hand_of(seed, int(number)), rng, size)
        crops.append(images)
        hand += [number] * len(images)
        character += [CHARACTERS.index(c) for c in letters]
        neighbour += [(CHARACTERS + " ").index(c) for c in rights]
    answers = {"hand": hand, "character": character, "neighbour": neighbour}
    return np.concatenate(crops)[..., None], {k: np.array(v, np.int32) for k, v in answers.items()}
