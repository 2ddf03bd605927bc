"""The generator: its files have the reference data's format, its hands are told apart, seeds rule.

In: data sets of a few classes. Out: sizes, lines, bytes, and what can be measured of a hand.
"""

import collections
import hashlib
import struct
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import ruled_lines
from PIL import Image

from digitlib import Problem, crops, handwriting
from digitlib.dataset import Dataset, load_dataset
from digitlib.handwriting import CHARACTERS, Hand, allographs, sentence, write_dataset
from digitlib.strips import ink


def digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


# --- files ------------------------------------------------------------------------------------


def test_files_of_three_classes(digits_folder):
    pages = [f"train/{label}_1.png" for label in ("01", "02", "03")]
    strips = [f"test/{label}_{i}.png" for label in ("01", "02", "03") for i in (2, 3)]
    assert list(digests(digits_folder)) == sorted(pages + strips)


@pytest.mark.parametrize("kind", ["digits", "hands"])
def test_images_have_the_format_of_the_reference_data(kind, request):
    folder = request.getfixturevalue(f"{kind}_folder")
    heights = collections.Counter()
    for path in folder.rglob("*.png"):
        with Image.open(path) as image:
            assert (image.format, image.mode) == ("PNG", "1")  # 1-bit
            width, height = image.size
        assert struct.unpack(">BB", path.read_bytes()[24:26]) == (1, 0)  # bit depth, grey
        if path.parent.name == "train":
            assert (width, height) == (1545, 1070)
        else:
            heights[height] += 1
            assert 1512 <= width <= 1550  # about 1520; the reference's run from 1512 to 1548
    # Strip i of class n is tall where 2 n + i is a multiple of 7, i = 1, 2.
    assert heights == ({300: 5, 600: 1} if kind == "digits" else {300: 10, 600: 2})


def test_which_strip_is_tall(digits):
    assert [page.path.name for page in digits.test if len(page.image) == 600] == ["03_2.png"]


@pytest.mark.parametrize("kind", ["digits", "hands"])
def test_a_page_has_ten_lines_and_a_strip_three(kind, request):
    dataset = request.getfixturevalue(kind)
    assert [ruled_lines(page.image) for page in dataset.train] == [10] * len(dataset.train)
    for page in dataset.test:
        whole = 3 if len(page.image) == 300 else 6
        # A strip is cut without regard for the lines: the last may be below the edge.
        assert ruled_lines(page.image) in (whole - 1, whole)


@pytest.mark.parametrize("kind", ["digits", "hands"])
def test_every_line_carries_writing(kind, request):
    for page in request.getfixturevalue(kind).train:
        bands = np.array_split(ink(page.image)[:1010], 10)  # a ruled line in each
        assert min(band.mean() for band in bands) > 0.01


def test_names_grow_with_the_number_of_classes():
    page = {n: next(handwriting._pages("digits", 1, 7, max(2, len(str(n)))))[0] for n in (7, 100)}
    assert page == {7: "train/07_1.png", 100: "train/007_1.png"}


def test_the_loader_takes_what_the_generator_writes(digits, hands):
    assert digits.classes == ["01", "02", "03"] and hands.classes == [f"0{n}" for n in range(1, 7)]
    assert not digits.inverted and not hands.inverted and digits.ignored == hands.ignored == 0


# --- seeds ------------------------------------------------------------------------------------


def test_one_seed_gives_the_same_bytes_and_another_none_of_them(digits_folder, tmp_path):
    again = write_dataset("digits", tmp_path / "again", classes=3, seed=1)
    other = write_dataset("digits", tmp_path / "other", classes=2, seed=2)
    assert digests(again) == digests(digits_folder)
    assert not set(digests(other).values()) & set(digests(again).values())


def test_a_class_does_not_depend_on_how_many_there_are(digits_folder):
    name, image = next(handwriting._pages("digits", 1, 2, 2))
    assert np.array_equal(image, cv2.imread(str(digits_folder / name), cv2.IMREAD_GRAYSCALE))


def test_no_two_images_are_alike(hands_folder):
    assert len(set(digests(hands_folder).values())) == 18


# --- failures ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "classes", "complaint"),
    [
        ("letters", 3, "no generated data set 'letters': choose digits or hands"),
        ("digit", 3, "choose digits or hands"),  # a near miss
        ("", 3, "choose digits or hands"),
        ("digits", 0, "classes must be 1 to 10000, not 0"),
        ("digits", -1, "not -1"),
        ("hands", 10_001, "not 10001"),
    ],
)
def test_refused_before_anything_is_written(tmp_path, kind, classes, complaint):
    with pytest.raises(Problem, match=complaint):
        write_dataset(kind, tmp_path / "new" / "set", classes=classes)
    assert not list(tmp_path.iterdir())


def test_the_folder_that_one_is_in_is_refused_before_anything_is_drawn(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(handwriting, "processes", None)
    with pytest.raises(Problem, match="is the folder that you are in"):
        write_dataset("digits", Path("."), classes=3)


class InThisProcess:
    """Stands in for the pool of processes, so that a patched function is the one that runs."""

    def __init__(self, *_how):
        self.map = lambda function, numbers, chunksize: map(function, numbers)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None


@pytest.mark.parametrize("was_there", [False, True])
@pytest.mark.parametrize("failure", [OSError("disk full"), KeyboardInterrupt()])
def test_nothing_is_left_of_a_data_set_that_fails_half_way(
    tmp_path, monkeypatch, failure, was_there
):
    folder, drawn = tmp_path / "digits-5-1", []
    if was_there:
        folder.mkdir()

    def fails_at_the_second(number, **given):
        if number == 2:
            raise failure
        drawn.extend(given["folder"].rglob("*.png"))
        cv2.imwrite(str(given["folder"] / f"train/{number}_1.png"), np.zeros((40, 40), np.uint8))

    monkeypatch.setattr(handwriting, "processes", InThisProcess)
    monkeypatch.setattr(handwriting, "_write_class", fails_at_the_second)
    with pytest.raises(type(failure)):
        write_dataset("digits", folder, classes=5)
    left = [path.name for path in tmp_path.rglob("*")]
    assert left == ([folder.name] if was_there else [])


def test_an_image_that_cannot_be_written_is_an_error(tmp_path):
    with pytest.raises(OSError, match="01_1.png"):
        handwriting._write_class(1, "digits", 1, tmp_path / "gone", 2)


def test_what_is_there_is_never_overwritten(tmp_path):
    folder = tmp_path / "mine"
    (folder / "train").mkdir(parents=True)
    (folder / "train" / "anna_page.png").write_bytes(b"years of work")
    with pytest.raises(Problem, match="mine: is there already, and not empty"):
        write_dataset("digits", folder, classes=2)
    assert (folder / "train" / "anna_page.png").read_bytes() == b"years of work"
    with pytest.raises(Problem, match="is there already"):
        write_dataset("digits", folder / "train" / "anna_page.png", classes=2)
    (tmp_path / "new").mkdir()
    write_dataset("digits", tmp_path / "new", classes=2)
    assert load_dataset(tmp_path / "new").classes == ["01", "02"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "new"]


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_seeds_that_are_none_are_refused(seed, tmp_path):
    with pytest.raises(Problem, match="seed must be 0 to"):
        write_dataset("digits", tmp_path / "new", classes=2, seed=seed)


# --- hands ------------------------------------------------------------------------------------


def style(hand: Hand) -> tuple[float, ...]:
    return hand.x_height, hand.slant, hand.width, hand.letter_space, hand.pen


@pytest.fixture
def keys(monkeypatch) -> list[tuple[int, ...]]:
    """The keys of all hands that are made, in order."""
    made, original = [], Hand.__post_init__

    def noted(self):
        made.append(self.key)
        original(self)

    monkeypatch.setattr(Hand, "__post_init__", noted)
    return made


def test_no_hand_writes_in_two_domains(keys):
    seen = {}
    for number in range(1, 6):
        images = handwriting._pages("digits", 1, number, 2)
        next(images)
        seen.setdefault("pages", set()).update(keys)
        keys.clear()
        list(images)
        seen.setdefault("strips", set()).update(keys)
        keys.clear()
    list(handwriting._pages("hands", 1, 1, 2))
    seen["hands"] = set(keys)
    keys.clear()
    crops.hand_of.cache_clear()
    crops.draw_batch(0, hands=50, batch_size=64, size=64, seed=1)
    seen["pretraining"] = set(keys)
    assert len(seen["pages"]) > 20 and len(seen["strips"]) > 10 and len(seen["pretraining"]) > 4
    assert len(seen["hands"]) == 1  # a class is one hand, on its page and in its strips
    names = list(seen)
    for i, one in enumerate(names):
        for other in names[i + 1 :]:
            assert not seen[one] & seen[other], (one, other)
    hands = [style(Hand(key)) for group in seen.values() for key in group]
    assert len(set(hands)) == len(hands)  # other keys are other hands, in every measure


def test_pages_of_digits_are_written_by_many_hands_and_a_strip_line_by_one(keys):
    images = handwriting._pages("digits", 1, 4, 2)
    next(images)
    assert len(keys) == 30 and len(set(keys)) > 15  # three a line, of sixty
    keys.clear()
    next(images)
    assert len(keys) == 3


def test_a_hand_is_a_function_of_its_key():
    one, other = Hand((1, 0, 5)), Hand((1, 0, 5))
    one.letter("a"), one.letter("b")
    assert style(one) == style(other)
    for letter in ("b", 0), ("a", 1), ("a", 0):  # in another order
        for mine, its in zip(one.letter(*letter), other.letter(*letter), strict=True):
            assert np.array_equal(mine, its)
    assert not np.array_equal(one.letter("a")[0], Hand((1, 0, 6)).letter("a")[0])


def test_a_letter_written_twice_is_not_the_same_but_alike():
    hand = Hand((1, 2, 1))
    hand.mixed, hand.joined = 0.0, 0.0
    strokes, placed = hand.write("nnnn", 5000, np.random.default_rng(1))
    letters = [stroke - stroke.mean(0) for stroke in strokes]
    assert len(letters) == len(placed) == 4
    apart = [np.abs(a - b).max() for i, a in enumerate(letters) for b in letters[:i]]
    assert min(apart) > 0.1 and max(apart) < hand.x_height / 2  # px


@pytest.mark.parametrize(("mixed", "expected"), [(0.0, {0}), (1.0, {1}), (0.5, {0, 1})])
def test_a_hand_mixes_two_forms_of_a_letter_if_it_does(mixed, expected):
    hand = Hand((1, 2, 1))
    hand.mixed = mixed
    hand.write("nn nn nn nn nn nn", 5000, np.random.default_rng(1))
    assert set(hand.letters) == {("n", other) for other in expected}


def test_writing_stays_in_its_room_and_leaves_whole_words():
    hand, text = Hand((1, 2, 1)), "one two three four five six seven"
    for room in (0, 100, 300, 600, 5000):
        strokes, placed = hand.write(text, room, np.random.default_rng(1))
        written = "".join(character for character, *_ in placed)
        whole = ["".join(text.split()[:n]) for n in range(8)]
        assert written in whole and bool(strokes) == bool(written)
        if strokes:
            right = max(stroke[:, 0].max() for stroke in strokes)
            assert right < room + 1.5 * hand.x_height  # unsteadiness and slant reach a bit over
    assert written == whole[-1]


def test_neighbours_are_those_of_the_word():
    _, placed = Hand((1, 2, 1)).write("ab cd", 5000, np.random.default_rng(1))
    pairs = [character + right for character, right, *_ in placed]
    assert pairs == ["ab", "b ", "cd", "d "]
    assert [x for _, _, x, _ in placed] == sorted(x for _, _, x, _ in placed)


def test_every_character_has_forms_to_choose_from():
    forms = allographs()
    assert set(forms) == set(CHARACTERS)
    for character, letterforms in forms.items():
        assert len(letterforms) >= (2 if character.isalnum() else 1), character
        for strokes in letterforms:
            points = np.concatenate(strokes)
            assert np.isfinite(points).all() and points[:, 1].min() > -1.6
            assert points[:, 1].max() < 2.8 and np.ptp(points[:, 0]) < 3.5  # in x-heights


def test_sentences_are_spelt_in_characters_that_a_hand_can_write():
    rng = np.random.default_rng(1)
    text = [sentence(rng) for _ in range(200)]
    assert set("".join(text)) <= set(CHARACTERS + " ")
    assert len(set(text)) == 200 and {len(s.split()) for s in text} == {12, 13, 14}


# --- paper ------------------------------------------------------------------------------------


def runs(image: np.ndarray) -> tuple[int, int, int]:
    """How wide the ink (h, w) is at a quarter, half and three quarters of its height, in px."""
    return tuple(int((image[len(image) * k // 4] < 128).sum()) for k in (1, 2, 3))


@pytest.mark.parametrize("pen", [1, 2, 4])
def test_a_stroke_is_as_wide_as_the_pen(pen):
    paper = handwriting.Paper(80, 40, np.random.default_rng(1))
    paper.stroke([np.array([[20.0, 5.0], [20.0, 75.0]])], pen)
    assert all(abs(width - pen) <= 1 for width in runs(paper.scan()))


def test_shading_thickens_what_is_upright_and_thins_what_is_level():
    upright, level = np.array([[20.0, 5.0], [20.0, 75.0]]), np.array([[5.0, 20.0], [75.0, 20.0]])
    widths = {}
    for shading in 0.0, 0.5:
        papers = [handwriting.Paper(80, 80, np.random.default_rng(1)) for _ in range(2)]
        for paper, line in zip(papers, (upright, level), strict=True):
            paper.stroke([line], 3, shading=shading)
        widths[shading] = [
            np.median((p.ink > 0).sum(a)) for a, p in zip((1, 0), papers, strict=True)
        ]
    assert widths[0.0][0] == widths[0.0][1]
    assert widths[0.5][0] > widths[0.0][0] and widths[0.5][1] < widths[0.0][1]


def test_pressure_varies_the_width_along_a_stroke():
    line = np.stack([np.full(100, 20.0), np.linspace(5, 195, 100)], axis=1)
    spread = []
    for pressure in 0.0, 0.3:
        paper = handwriting.Paper(200, 40, np.random.default_rng(1))
        paper.stroke([line], 3, pressure)
        spread.append((paper.ink[20:380] > 0).sum(axis=1).std())
    assert spread[0] == 0 and spread[1] > 0.5


def test_strokes_are_not_joined_to_each_other():
    paper = handwriting.Paper(80, 80, np.random.default_rng(1))
    paper.stroke([np.array([[10.0, 5.0], [10.0, 75.0]]), np.array([[70.0, 75.0], [70.0, 5.0]])], 2)
    assert not paper.ink[:, 40:120].any()


# --- what can be measured of a hand ------------------------------------------------------------


def measures(image: np.ndarray) -> np.ndarray:
    """(4,): how dense, how thick, how high and how slanted the writing of some lines is."""
    found = ink(image).astype(np.uint8)
    strokes = found.sum() / max((np.diff(found, axis=1, prepend=0) == 1).sum(), 1)  # level run, px
    upright = found.sum() / max((np.diff(found, axis=0, prepend=0) == 1).sum(), 1)
    shears = np.linspace(-0.6, 0.6, 25)
    peaks = []
    for shear in shears:  # upright writing has the most uneven columns
        turned = np.float32([[1, shear, -shear * 50], [0, 1, 0]])
        bands = [found[top : top + 100] for top in range(0, found.shape[0] - 99, 100)]
        columns = [cv2.warpAffine(band, turned, band.shape[::-1]).sum(0) for band in bands]
        peaks.append(np.mean([np.var(c.astype(float)) for c in columns]))
    return np.array([found.mean() * 100, strokes, upright, 10 * shears[np.argmax(peaks)]])


def compared(dataset) -> tuple[np.ndarray, np.ndarray]:
    """How far each test strip's measures lie from each page's, in spreads: (strips, pages), own."""
    pages = np.array([measures(page.image) for page in dataset.train])
    strips = np.array([measures(page.image) for page in dataset.test])
    distances = np.linalg.norm((strips[:, None] - pages) / pages.std(axis=0), axis=2)
    own = np.array([[a.label == b.label for b in dataset.train] for a in dataset.test])
    return distances, own


def test_two_hands_differ_more_than_one_differs_from_itself(hands):
    """Other sentences of a hand (its strips) measure like its page, and unlike others' pages."""
    distances, own = compared(hands)
    assert np.median(distances[own]) < 0.5 * np.median(distances[~own])
    assert own[np.arange(12), distances.argmin(axis=1)].sum() >= 9  # chance is 2


def test_the_same_measures_tell_real_writers_apart(reference):
    """So that the test above measures what it says."""
    some = Dataset(reference.folder, reference.train[::6], reference.test[::6], 0)
    distances, own = compared(some)
    assert np.median(distances[own]) < 0.6 * np.median(distances[~own])


def shares(pages) -> np.ndarray:
    return np.array([ink(page.image).mean() for page in pages])


def test_generated_pages_hold_as_much_ink_as_real_ones(reference, tmp_path):
    folder = write_dataset("hands", tmp_path / "hands", classes=20)
    ours, real = shares(load_dataset(folder).train), shares(reference.train)
    assert 0.8 < np.median(ours) / np.median(real) < 1.25
