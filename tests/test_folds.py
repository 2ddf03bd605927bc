"""Folds: what is held out, what a band can be made to show, and what the answers are worth.

In: pages drawn line by line, tiny networks, a real page. Out: rows, pixels and numbers that can be
checked by hand.
"""

import json
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar

from digitlib import Problem, ensemble, folds, model, pictures_of_folds, train, variants, vlad
from digitlib.dataset import Dataset, Page
from digitlib.results import result_rows, softmax
from digitlib.strips import ink


def page(image: np.ndarray, label: str = "a") -> Page:
    return Page(Path(f"{label}_1.png"), label, image, False)


def written(rows: int, lines: range, width: int = 200) -> np.ndarray:
    """A page with 20 px high strokes of 3 px from each of ``lines`` on, on 255."""
    image = np.full((rows, width), 255, np.uint8)
    for top in lines:
        for left in range(10, width - 10, 12):
            image[top : top + 20, left : left + 3] = 0
    return image


def of_pages(*pages: Page) -> Dataset:
    return Dataset(Path("drawn"), list(pages), [], 0)


# --- bands ------------------------------------------------------------------------------------

PAGE = written(900, range(40, 880, 90))  # lines at 40 to 60, 130 to 150, …, 850 to 870


def test_bands_end_between_lines():
    # Rows 300 and 600 are wished for; with what is written smoothed over 9 rows, an edge keeps 4 px
    # from a line. 220 to 240, 310 to 330: 300 is free. 580 to 600: 604 is the nearest that is.
    assert folds.held_rows(PAGE, 0, 3, 300) == (0, 300)
    assert folds.held_rows(PAGE, 1, 3, 300) == (300, 604)
    assert folds.held_rows(PAGE, 2, 3, 300) == (604, 900)
    lower = written(900, range(20, 880, 90))  # 290 to 310: to 314, not to 285
    assert folds.held_rows(lower, 0, 3, 300) == (0, 314)


def test_one_fold_is_the_top_of_the_page():
    assert folds.held_rows(PAGE, 0, 1, 300) == (0, 300)
    held = folds.held_out(of_pages(page(PAGE)), 0, 1)
    assert [p.image.shape[0] for p in held.test + held.train] == [300, 600]


def test_a_blank_page_is_cut_where_it_was_wished():
    blank = np.full((900, 50), 255, np.uint8)
    assert [folds.held_rows(blank, fold, 3, 200) for fold in range(3)] == [
        (0, 200),
        (350, 550),
        (700, 900),
    ]


@pytest.mark.parametrize(
    ("rows", "fold", "n", "height"),
    [
        (899, 0, 3, 300),  # a row too few
        (900, 3, 3, 300),  # there is no fourth
        (900, -1, 3, 300),
        (900, 0, 0, 300),
        (434, 0, 1, 300),  # one band, and too little left to learn from
        (100, 1, 3, 32),  # low bands: what is left would be slivers
    ],
)
def test_pages_that_are_too_low(rows, fold, n, height):
    with pytest.raises(Problem, match="use fewer FOLDS"):
        folds.held_rows(np.full((rows, 50), 255, np.uint8), fold, n, height)


def test_the_page_that_is_too_low_is_named():
    low = page(PAGE[:500], "b")
    with pytest.raises(Problem, match=r"b_1\.png: a page of 500 px"):
        folds.held_out(of_pages(page(PAGE), low), 0, 3)


@given(
    rows=st.integers(1, 1200),
    lines=st.lists(st.integers(0, 1199), max_size=12),
    n=st.integers(1, 5),
    height=st.integers(32, 400),
    data=st.data(),
)
def test_no_row_is_learnt_and_tested(rows, lines, n, height, data):
    if n > folds.room(rows, height):
        return
    fold = data.draw(st.integers(0, n - 1))
    image = written(rows, [line for line in lines if line < rows], 60)
    image[:, 0] = np.arange(rows) % 251  # so that a row says which it is
    held = folds.held_out(of_pages(page(image)), fold, n, height)
    assert held.classes == ["a"] and len(held.test) == 1  # the class keeps something to learn
    spans = [
        tuple(map(int, p.path.stem.rpartition("rows")[2].split("-")))
        for p in held.train + held.test
    ]
    for (top, bottom), part in zip(spans, held.train + held.test, strict=True):
        np.testing.assert_array_equal(part.image, image[top:bottom])
    spans.sort()
    assert all(b <= c for (_, b), (c, _) in zip(spans, spans[1:], strict=False))
    test_height = held.test[0].image.shape[0]
    assert abs(test_height - height) <= 2 * min(folds.REACH, height // 4)


def test_bands_of_a_real_page(reference):
    one = replace(reference, train=reference.train[:3])
    for fold in range(3):
        held = folds.held_out(one, fold, 3)
        assert held.classes == one.classes and len(held.test) == 3
        for p in held.test:
            assert 210 <= p.image.shape[0] <= 390
            assert 0.01 < ink(p.image).mean() < 0.2  # some lines of writing


# --- what else one band can show --------------------------------------------------------------


@pytest.mark.parametrize(
    ("n", "heights"), [(1, [100]), (2, [50, 50]), (3, [33, 34, 33]), (100, [1] * 100)]
)
def test_parts_are_all_of_the_page(n, heights):
    image = np.random.default_rng(1).integers(0, 256, (100, 40), np.uint8)
    cut = variants.parts(page(image), n)
    assert [p.image.shape[0] for p in cut] == heights
    np.testing.assert_array_equal(np.concatenate([p.image for p in cut]), image)
    assert len({p.path for p in cut}) == n and {p.label for p in cut} == {"a"}


@pytest.mark.parametrize("n", [0, -1, 101])
def test_a_page_cannot_be_cut_into_no_or_blank_parts(n):
    with pytest.raises(Problem, match="cannot be cut"):
        variants.parts(page(PAGE[:100]), n)


def test_another_pen_and_another_size():
    one = written(120, range(40, 80, 90))
    thin, same, thick = (int((variants.pen(one, width) < 128).sum()) for width in (-1.5, 0, 1.5))
    assert thin < same < thick
    half = variants.resized(one, 0.5)
    assert half.shape == (60, 100) and half.dtype == np.uint8
    assert set(np.unique(half)) == {0, 255}  # as a scanner would have made it
    grey = variants.resized(np.arange(200, dtype=np.uint8).reshape(10, 20), 2)
    assert grey.shape == (20, 40) and len(np.unique(grey)) > 100


def ruled() -> np.ndarray:
    """Strokes, among them one that crosses a ruled line, the line itself and a scan's edge."""
    image = written(300, range(40, 100, 90))
    image[200:203] = 0  # the line
    image[180:230, 100:104] = 0  # crosses it
    image[:, 196:] = 0  # the edge
    return image


def test_without_writing_lines_and_edges_stay():
    expected = np.full((300, 200), 255, np.uint8)
    expected[200:203] = expected[:, 196:] = 0
    erased = variants.without_writing(page(ruled()))
    np.testing.assert_array_equal(erased.image, expected)


def test_writing_is_erased_to_the_paper_around_it():
    shade = np.linspace(180, 240, 200).astype(np.uint8)  # darker to the left
    image = np.minimum(written(120, range(40, 80, 90)), shade)
    erased = variants.without_writing(page(image)).image.astype(int)
    assert np.abs(erased - shade).max() <= 8


@pytest.mark.parametrize("level", [0, 128, 255])
def test_nothing_to_erase_on_a_blank_page(level):
    blank = page(np.full((80, 90), level, np.uint8))
    assert (variants.without_writing(blank).image == level).all()


def test_other_writing_is_the_same_on_all():
    other = page(written(100, range(20, 90, 90), 150), "b")
    first, second = page(ruled(), "c"), page(np.full((250, 120), 255, np.uint8), "d")
    one, two = (variants.with_other_writing(p, other) for p in (first, second))
    assert (one.label, two.label) == ("c", "d")
    mask = ink(other.image)
    np.testing.assert_array_equal(two.image[:100] == 0, mask[:, :120])
    np.testing.assert_array_equal(two.image[100:200], two.image[:100])  # repeated downwards
    np.testing.assert_array_equal(one.image[:100, :150] == 0, mask)
    assert (one.image[200:203] == 0).all() and (one.image[:, 196:] == 0).all()
    assert (one.image[40:60, 151:190] == 255).sum() > 0  # its own strokes are gone


def test_erased_bands_of_real_pages_hold_no_ink(reference):
    for one in reference.train[:3]:
        band = replace(one, image=one.image[:300])
        erased = variants.without_writing(band)
        assert ink(band.image).sum() > 5000 and ink(erased.image).mean() < 1e-3
        assert 0.002 < (erased.image < 128).mean() < 0.05  # the ruled lines


@pytest.mark.parametrize(
    "ink_px, counted",
    [
        ((30, 30, 30), [0, 1, 2]),
        ((30, 30, 0), [0, 1]),  # the page ends with a blank line
        ((30, 30, 3), [0, 1, 2]),  # 21 on average, a tenth of it is 2.1
        ((30, 30, 2), [0, 1]),  # 20.7 on average
        ((0, 40, 0), [1]),
        ((0, 0, 0), [0, 1, 2]),  # nothing anywhere: nothing tells them apart
    ],
)
def test_thirds_without_writing_do_not_count(ink_px, counted):
    image = np.full((300, 200), 255, np.uint8)
    for i, n in enumerate(ink_px):
        image[100 * i + 20 : 100 * i + 20 + n, 50] = 0  # an upright stroke, 1 px wide
    thirds = variants.parts(page(image), 3)
    assert variants.written(thirds) == [thirds[i] for i in counted]


def test_a_blank_third_of_grey_paper_does_not_count_either():
    """Otsu's threshold divides its grain; where there is writing, it finds that."""
    image = np.where(written(300, range(20, 200, 90)) == 0, 110, 230)
    grain = np.random.default_rng(1).normal(0, 2, image.shape)
    thirds = variants.parts(page((image + grain).astype(np.uint8)), 3)
    assert ink(thirds[2].image).mean() > 0.2
    assert variants.written(thirds) == thirds[:2]


@pytest.mark.parametrize("width", [-1.5, 1.5])
@pytest.mark.parametrize(("black", "white"), [(150, 240), (110, 230), (30, 118), (0, 255)])
def test_another_pen_writes_in_the_tones_of_the_page(black, white, width):
    image = written(120, range(20, 100, 30))
    tones = np.array([black] + [0] * 254 + [white], np.uint8)
    made = variants.pen(tones[image], width)
    assert set(np.unique(made)) == {black, white}
    assert (made != tones[variants.pen(image, width)]).mean() < 0.002  # but for roundings
    assert ((made == black).sum() > (image == 0).sum()) == (width > 0)


@pytest.mark.parametrize("level", [0, 128, 255])
def test_another_pen_changes_nothing_on_a_blank_page(level):
    blank = np.full((30, 40), level, np.uint8)
    assert np.array_equal(variants.pen(blank, 0.7), blank)


def test_every_image_is_made_once_under_its_own_name():
    pages = [page(written(300, range(40, 280, 90)), label) for label in "ab"]
    images = dict(variants.perturbed(pages))
    assert {v for v, _ in images} == {*variants.VARIANTS, *variants.CONTROLS}
    for (_, part), made in images.items():
        assert len(made) == (6 if part == "third" else 2)
        assert len({p.path.name for p in made}) == len(made)


def test_sixths_are_the_written_halves_of_thirds():
    left = page(written(300, range(40, 280, 90)), "a")
    left.image[100:200, left.image.shape[1] // 2 :] = 255  # half of its middle third is blank
    images = dict(variants.in_sixths([left]))
    plain = dict(variants.perturbed([left]))
    assert {v for v, part in images if part == "sixth"} == set(variants.VARIANTS)
    assert images.keys() - {(v, "sixth") for v in variants.VARIANTS} == plain.keys()
    halves = images[variants.HELD_OUT, "sixth"]
    assert len(halves) == 5 and len({p.path.name for p in halves}) == 5
    thirds = images[variants.HELD_OUT, "third"]
    assert np.array_equal(np.hstack([p.image for p in halves[:2]]), thirds[0].image)
    assert np.array_equal(halves[2].image, thirds[1].image[:, : halves[2].image.shape[1]])


# --- temperature and threshold ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("margin", "right", "wrong", "heat"),
    [
        (1.0, 3, 1, 1 / math.log(3)),  # sigmoid(margin / T) is the share that is right
        (5.0, 3, 1, 5 / math.log(3)),  # too sure
        (0.1, 99, 1, 0.1 / math.log(99)),  # too modest
        (2.0, 4, 0, 1e-3),  # all right: no T is small enough
        (2.0, 1, 1, 1e3),  # half right: no answer should be sure
        (2.0, 0, 3, 1e3),  # all wrong
        (0.0, 2, 2, 1.0),  # nothing to scale
    ],
)
def test_temperature_of_two_classes(margin, right, wrong, heat):
    logits = np.tile([margin, 0.0], (right + wrong, 1)) + 7  # a shift changes nothing
    truth = np.array([0] * right + [1] * wrong)
    assert folds.temperature(logits, truth) == pytest.approx(heat, rel=1e-6)


def test_temperature_of_nothing_is_one():
    assert folds.temperature(np.zeros((0, 5)), np.zeros(0, int)) == 1


@given(st.integers(0, 10_000))
def test_temperature_is_where_a_search_finds_it(seed):
    rng = np.random.default_rng(seed)
    logits, truth = rng.normal(0, 3, (40, 4)), rng.integers(0, 4, 40)
    truth[:25] = logits[:25].argmax(1)
    found = minimize_scalar(
        lambda log: folds.log_loss(logits / np.exp(log), truth), bounds=(-7, 7), method="bounded"
    )
    best = folds.log_loss(logits / folds.temperature(logits, truth), truth)
    assert best <= found.fun + 1e-9
    shares = np.log(softmax(logits))  # logarithms of probabilities do as well
    assert folds.temperature(shares, truth) == pytest.approx(folds.temperature(logits, truth))


def test_log_loss_of_coins_and_of_certainty():
    assert folds.log_loss(np.zeros((3, 2)), np.array([0, 1, 1])) == pytest.approx(math.log(2))
    assert str(folds.log_loss(np.array([[1e4, 0.0]]), np.array([0]))) == "0.0"  # not -0.0
    assert folds.log_loss(np.array([[1e4, 0.0]]), np.array([1])) == pytest.approx(12 * math.log(10))


@pytest.mark.parametrize(
    ("confidence", "correct", "threshold", "coverage"),
    [
        ([0.9, 0.5, 0.7], [1, 1, 1], 0.5, 1),  # all right: all are answered
        ([0.9, 0.5, 0.7], [1, 0, 1], 0.7, 2 / 3),
        ([0.9, 0.5, 0.7], [1, 1, 0], 0.9, 1 / 3),  # a right one below a wrong one is lost
        ([0.9, 0.5, 0.7], [0, 1, 1], math.inf, 0),  # the surest is wrong
        ([0.7, 0.7, 0.9], [1, 0, 1], 0.9, 1 / 3),  # a tie with a wrong one is not safe
        ([0.9, 0.9], [1, 0], math.inf, 0),
        ([], [], math.inf, 0),
    ],
)
def test_safe_threshold(confidence, correct, threshold, coverage):
    assert folds.safe_threshold(confidence, correct) == pytest.approx((threshold, coverage))


@pytest.mark.parametrize(
    ("unknown", "threshold", "coverage"),
    [
        ([], 0.6, 3 / 4),  # 0.5 is wrong
        ([0.55], 0.6, 3 / 4),  # strangers that nobody takes for sure
        ([0.65], 0.7, 1 / 2),  # of one stranger none may pass
        ([0.7], 0.9, 1 / 4),  # a tie would
        ([0.95], math.inf, 0),
        ([*[0.1] * 19, 0.95], 0.6, 3 / 4),  # one of twenty may
        ([*[0.1] * 18, 0.8, 0.95], 0.9, 1 / 4),  # but not two
        ([0.95, *[0.65] * 19], 0.7, 1 / 2),  # in whatever order they come
    ],
)
def test_one_stranger_in_twenty_may_pass_for_sure(unknown, threshold, coverage):
    confidence, correct = [0.9, 0.7, 0.6, 0.5], [1, 1, 1, 0]
    found = folds.safe_threshold(confidence, correct, unknown)
    assert found == pytest.approx((threshold, coverage))
    every = folds.safe_threshold(confidence, correct, unknown, 1)
    assert every == pytest.approx((0.6, 3 / 4))  # as if nobody was a stranger


@pytest.mark.parametrize("admitted", [-0.1, 1.5, math.nan])
def test_no_more_than_all_strangers_may_pass(admitted):
    folds.check_strangers(2, 1.0, 4)
    with pytest.raises(Problem, match="ADMITTED must be from 0 to 1, not"):
        folds.check_strangers(2, admitted, 4)


def test_the_picture_of_how_sure_answers_are():
    def table(confidence, predicted):
        return pd.DataFrame({"confidence": confidence, "actual": "a", "predicted": list(predicted)})

    answers = {"bands": table([0.5, 0.95], "aa"), "thirds": table([0.9, 0.3, 0.99, 0.6], "abaa")}
    answers |= {"strangers": table([0.2, 0.4], "bc")}
    axis = pictures_of_folds.sure_figure(answers, 0.9).axes[0]
    title = axis.get_title(loc="left") + axis.get_title()
    assert title == "Sure from 0.9: 50% of bands, 50% of thirds, 0% of strangers"
    curves = {line.get_label(): line for line in axis.get_lines()}
    assert curves["thirds"].get_xdata() == pytest.approx([0.01, 0.1, 0.4, 0.7])
    assert curves["thirds"].get_ydata() == pytest.approx([0.25, 0.5, 0.75, 1])
    crosses = [line.get_xdata().tolist() for line in axis.get_lines() if line.get_marker() == "x"]
    assert crosses == [[], [pytest.approx(0.7)], []]  # strangers' answers have none; the legend's


# --- cross-validation -------------------------------------------------------------------------


@pytest.fixture
def quick(tiny):
    return replace(tiny, views=1, head_epochs=1, tune_epochs=0, n_patches=2, n_even=1)


@pytest.fixture
def counted(monkeypatch, quick):
    """The folds that were trained for; an untrained network is what comes of it."""
    done, trained = [], SimpleNamespace(network=model.build(3, quick).whole)

    def no_training(dataset, settings, folder):
        done.append(folder.parent.name)
        return trained

    monkeypatch.setattr(train, "train", no_training)
    return done


def as_held_out(pages, changes=(variants.HELD_OUT,)):
    """What `variants.perturbed` makes of fewer ``changes`` and without controls: sooner done."""
    for name in changes:
        changed = [replace(page, image=variants.VARIANTS[name](page.image)) for page in pages]
        yield (name, "whole"), changed
        thirds = [variants.written(variants.parts(page, 3)) for page in changed]
        yield (name, "third"), sum(thirds, [])


def test_cross_validation_goes_on_after_a_kill(digits, quick, tmp_path, counted, monkeypatch):
    made = []

    def images(pages):
        made.append(len(pages))
        if len(made) == 2:
            raise KeyboardInterrupt
        return as_held_out(pages)

    monkeypatch.setattr(folds, "perturbed", images)
    with pytest.raises(KeyboardInterrupt):
        folds.cross_validate(digits, quick, 2, tmp_path)
    assert counted == ["fold0", "fold1"]
    result, odds = folds.cross_validate(digits, quick, 2, tmp_path)
    assert counted[2:] == ["fold1"]  # the first is not trained again
    assert not list(tmp_path.glob("*/training"))  # nor are checkpoints of what is done kept
    # Page 03 ends blank: its last third has 357 px of ink, where all three have 3,915 on average.
    assert result["fold"].tolist() == [0] * 12 + [1] * 11
    assert result["part"].tolist() == ["whole"] * 3 + ["third"] * 9 + ["whole"] * 3 + ["third"] * 8
    assert odds.shape == (23, 3) and odds.dtype == np.float32
    labels = np.array(digits.classes)[odds.argmax(1)]
    assert (labels == result["predicted"]).all()

    again, same = folds.cross_validate(digits, quick, 2, tmp_path)
    assert len(counted) == 3 and again.equals(result) and (same == odds).all()
    anew, _ = folds.cross_validate(digits, quick, 2, tmp_path / "new")
    pd.testing.assert_frame_equal(anew.drop(columns="seconds"), result.drop(columns="seconds"))


def test_a_fold_of_other_settings_pages_or_code_is_done_again(
    digits, quick, tmp_path, counted, monkeypatch
):
    how = {"run": 1}
    monkeypatch.setattr(folds, "perturbed", as_held_out)
    folds.cross_validate(digits, quick, 3, tmp_path, **how)
    folds.cross_validate(digits, quick, 3, tmp_path, **how)
    assert len(counted) == 1
    folds.cross_validate(digits, replace(quick, dropout=0.1), 3, tmp_path, **how)
    assert len(counted) == 2
    pages = [replace(p, image=p.image.copy()) for p in digits.train]
    pages[0].image[500, 500] ^= 255
    folds.cross_validate(replace(digits, train=pages), quick, 3, tmp_path, **how)
    assert len(counted) == 3
    monkeypatch.setattr(folds, "CODE", "folds")
    folds.cross_validate(replace(digits, train=pages), quick, 3, tmp_path, **how)
    assert len(counted) == 4
    monkeypatch.undo()
    state = json.loads((tmp_path / "fold0" / "done.json").read_text("utf-8"))
    assert set(state) == {"settings", "pages", "images", "learn", "code"}


def of_labels(labels: str) -> Dataset:
    return of_pages(*(page(PAGE, label) for label in labels))


@pytest.mark.parametrize(("labels", "parts"), [("abcd", 2), ("abcde", 2), ("abcdefg", 3)])
def test_every_class_is_a_stranger_once(labels, parts, tiny, tmp_path, monkeypatch):
    learnt = []

    def learn(data, settings, place):
        learnt.append("".join(data.classes))
        assert {p.image.shape[0] for p in data.train} == {900}  # whole pages

        def label(pages):
            names, truth = [p.path.name for p in pages], [p.label for p in pages]
            shares = np.eye(len(data.classes))[np.zeros(len(pages), int)]
            return pd.DataFrame(result_rows(names, truth, shares, data.classes)), shares

        return label

    monkeypatch.setattr(folds, "recipe", learn)
    table = folds.strangers(of_labels(labels), tiny, parts, 3, tmp_path)
    assert len(learnt) == parts and all(len(known) >= len(labels) // 2 for known in learnt)
    for label, rows in table.groupby("actual"):  # three bands a page, in each variant
        assert len(rows) == 3 * len(variants.VARIANTS) and rows["filename"].nunique() == 3
        assert [label in known for known in learnt].count(False) == 1
    assert set(table["actual"]) == set(labels) and (table["actual"] != table["predicted"]).all()
    again = folds.strangers(of_labels(labels), tiny, parts, 3, tmp_path)
    assert len(learnt) == parts and again.equals(table)


@pytest.mark.parametrize(("labels", "parts"), [("abc", 2), ("abcd", 1), ("abcd", 3), ("abcd", -1)])
def test_of_few_classes_none_can_be_left_out(labels, parts, tiny, tmp_path):
    with pytest.raises(Problem, match="STRANGERS must be 0, or 2 to"):
        folds.strangers(of_labels(labels), tiny, parts, 3, tmp_path)
    none = folds.strangers(of_labels(labels), tiny, 0, 3, tmp_path)
    assert len(none) == 0 and list(none["confidence"]) == []
    none = folds.strangers(of_labels(labels), tiny, 0, 9, tmp_path)
    assert len(none) == 0  # though pages have no room for nine bands


def test_no_fold_gives_empty_tables_that_all_else_takes(digits, quick, tmp_path):
    result, odds = folds.cross_validate(digits, quick, 3, tmp_path, run=0)
    assert len(result) == 0 and odds.shape == (0, 3)
    table = folds.summary(result, odds, digits.classes)
    assert len(table) == 0 and "temperature" in table
    none = folds.ablated(digits, quick, {"one": quick}, (result, odds), 3, tmp_path)
    assert len(none) == 0
    whole = pd.DataFrame({"variant": [variants.HELD_OUT], "part": "whole"})  # and no sixths
    assert len(folds.ablated(digits, quick, {}, (whole, odds), 3, tmp_path)) == 0
    pictures_of_folds.accuracy_by_variant(table)
    pictures_of_folds.ablation_figure(none)
    pictures_of_folds.variants_of_band({})
    pictures_of_folds.sure_figure(dict.fromkeys("abc", result), math.inf)


def test_pages_too_low_are_refused_before_training(digits, quick, tmp_path, counted):
    with pytest.raises(Problem, match="has no 9 bands of 300 px"):
        folds.cross_validate(digits, quick, 9, tmp_path)
    assert not counted and folds.room(digits.train[0].image.shape[0], 300) == 3


@pytest.mark.parametrize("strange", [[], [0.7, 0.2]])
def test_from_when_on_answers_are_sure(strange):
    def answers(confidences, right):
        labels = ["a" if own else "b" for own in right]
        return pd.DataFrame({"actual": "a", "predicted": labels, "confidence": confidences})

    known = {
        "whole bands": answers([0.9, 0.8, 0.3], [1, 1, 0]),  # safe from 0.8 on
        "thirds of them": answers([0.7500001, 0.8, 0.6], [1, 1, 0]),  # from 0.7500001 on
    }
    table = folds.sure_table(known, answers(strange, [0] * len(strange)), 0.0)
    assert table.index.tolist() == ["whole bands", "thirds of them", "strangers' bands"]
    assert table["threshold"].tolist()[:2] == [0.8, 0.7500001]
    assert table["answered"].isna().tolist() == [False, False, True]
    assert table["answered"].tolist()[:2] == [2, 2]
    assert table["of"].tolist() == [3, 3, len(strange)]
    assert table["sure"].tolist() == [2, 1, 0]  # from 0.8 on: thirds alone would let bands pass
    assert table["wrong_at_most"].tolist()[:2] == pytest.approx([0.6576, 0.6576], abs=1e-4)


def test_where_no_answer_is_safe_none_is_sure():
    known = pd.DataFrame({"actual": ["a"], "predicted": ["b"], "confidence": [0.9]})
    table = folds.sure_table({"thirds of them": known}, known[:0], 0.05)
    assert table["answered"].tolist()[0] == 0 and table["sure"].tolist() == [0, 0]
    assert np.isinf(table["threshold"].iloc[0]) and np.isnan(table["wrong_at_most"].iloc[0])


def test_ablation_compares_with_the_recipe_as_it_is(digits, quick, tmp_path, monkeypatch):
    def images(pages):
        yield from as_held_out(pages, (variants.HELD_OUT, "larger"))
        yield (variants.ERASED, "whole"), pages

    how = {"run": 1}
    monkeypatch.setattr(variants, "perturbed", images)  # of which `in_sixths` makes more
    base = folds.cross_validate(digits, quick, 3, tmp_path, sixths=True, **how)  # really trained
    recipes = folds.changes("HEAD_RATE=0; SEED=1", quick)
    table = folds.ablated(digits, quick, recipes, base, 3, tmp_path, **how)
    assert table.index.tolist() == ["as it is", "HEAD_RATE=0", "SEED=1"]
    assert {path.name for path in tmp_path.iterdir()} == {"fold0", "HEAD_RATE-0"}  # SEED is 1
    assert (table.loc[["as it is", "SEED=1"], "difference"] == 0).all()
    gain = table.loc["HEAD_RATE=0", "sixths"] - table.loc["as it is", "sixths"]
    assert table.loc["HEAD_RATE=0", "difference"] == pytest.approx(gain)
    summed = folds.summary(*base, digits.classes)
    like = summed[summed["variant"].isin(variants.VARIANTS)].groupby("part")[["images", "right"]]
    shares = like.sum()["right"] / like.sum()["images"]  # each image counts, not each variant
    assert table.loc["as it is", ["bands", "thirds", "sixths"]].tolist() == pytest.approx(
        shares[["whole", "third", "sixth"]].tolist()
    )
    # In the picture the costliest comes first.
    shown = table.assign(difference=[0, 0.1, -0.1], low=[0, 0, -0.2], high=[0, 0.2, 0])
    (axis,) = pictures_of_folds.ablation_figure(shown).axes
    assert [tick.get_text() for tick in axis.get_yticklabels()] == ["SEED=1", "HEAD_RATE=0"]
    assert axis.get_xlim() == pytest.approx((-0.22, 0.22))
    whole = folds.summary(*base, digits.classes)
    assert pictures_of_folds.accuracy_by_variant(whole).axes


def test_a_recipe_that_masks_by_ink_labels_all_erased_bands_alike(digits, quick):
    """Its sums are all zero: why the control with other writing is needed."""
    layers = "block_1_expand_relu block_3_expand_relu"
    sizes = {"codebooks": 1, "clusters": 4, "components": 4, "whitened": 8}
    settings = replace(quick, pooling="vlad", vlad_layers=layers, **sizes)
    held = folds.held_out(digits, 0, 3)
    core = model.build(3, settings).backbone
    network = model.whole_strips(3, settings, core)
    vlad.fit(network, held.train, held.classes, settings)
    erased = [variants.without_writing(p) for p in held.test]
    ballots = ensemble.votes(network, erased, settings)
    assert np.ptp(np.stack([b.logits for b in ballots]), axis=0).max() < 1e-5
    pasted = [variants.with_other_writing(p, held.test[1]) for p in held.test]
    ballots = ensemble.votes(network, pasted, settings)
    assert np.ptp(np.stack([b.logits for b in ballots]), axis=0).max() > 1e-5
