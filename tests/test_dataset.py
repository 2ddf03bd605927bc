"""Loading: every kind of image file becomes the same grey array, every bad one a named error.

In: files written here, a few pixels wide, and the real scans where DIGITLIB_REFERENCE names them.
Out: evidence that digitlib.dataset reads what it says, and refuses what it says.
"""

import hashlib
import io
import os
import shutil
import struct
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import digitlib
from digitlib import Problem
from digitlib.__main__ import main
from digitlib.dataset import (
    Shelf,
    _is_inverted,
    image_files,
    label_of,
    load_dataset,
    read_grey,
    read_page,
)
from digitlib.handwriting import folder_of
from digitlib.light import evened

# 40 px wide, 36 high: the left 10 columns hold ink (0), the right 10 grey (200), the rest paper.
GREY = np.full((36, 40), 255, np.uint8)
GREY[:, :10], GREY[:, 30:] = 0, 200
BILEVEL = np.where(GREY < 128, 0, 255).astype(np.uint8)  # what is left of it at 1 bit


def png(bits: int, colour: int, rows: list[bytes], *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG file byte by byte, for what Pillow cannot write: 40 px wide, as high as its rows."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        crc = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + crc

    head = struct.pack(">IIBBBBB", 40, len(rows), bits, colour, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row for row in rows))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        chunk(*each) for each in [(b"IHDR", head), *chunks, (b"IDAT", data), (b"IEND", b"")]
    )


def wide(*samples: int) -> bytes:
    """One pixel of 16-bit samples, as PNG stores them."""
    return struct.pack(f">{len(samples)}H", *samples)


def tiff(values: np.ndarray, photometric: int) -> bytes:
    """An uncompressed little-endian TIFF of (h, w) uint16 values."""
    height, width = values.shape
    tags = {256: width, 257: height, 258: 16, 259: 1, 262: photometric, 273: 122, 277: 1}
    tags |= {278: height, 279: values.nbytes}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    head = b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + struct.pack("<I", 0)
    assert len(head) == 122  # where tag 273 says that the pixels begin
    return head + values.tobytes()


def with_alpha() -> Image.Image:
    """GREY with its ink columns 10 to 19 made of transparent black: paper, once on white."""
    grey, alpha = GREY.copy(), np.full_like(GREY, 255)
    grey[:, 10:20], alpha[:, 10:20] = 0, 0
    return Image.merge("LA", (Image.fromarray(grey), Image.fromarray(alpha)))


def see_through_palette() -> Image.Image:
    """GREY as a palette image whose paper is a black entry that the file declares transparent."""
    image = Image.fromarray(np.select([GREY == 0, GREY == 200], [1, 2], 0).astype(np.uint8), "P")
    image.putpalette([0, 0, 0, 0, 0, 0, 200, 200, 200])
    image.info["transparency"] = 0
    return image


def two_colours() -> Image.Image:
    """BILEVEL as a palette image of one bit, of which 0 is paper and 1 is ink."""
    image = Image.fromarray((BILEVEL == 0).astype(np.uint8), "P")
    image.putpalette([255, 255, 255, 0, 0, 0])
    return image


def two_greys() -> Image.Image:
    """What BMP keeps in 8 bits a pixel, with a palette of black and white."""
    image = Image.fromarray((BILEVEL > 0).astype(np.uint8), "P")
    image.putpalette([0, 0, 0, 255, 255, 255])
    return image


def pages_of_tiff(path: Path) -> None:
    second = Image.new("L", (50, 50))
    Image.fromarray(GREY).save(path, save_all=True, append_images=[second])


def rotated(path: Path) -> None:
    """Stored lying on its side, with the EXIF note (6) that a quarter turn clockwise mends it."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.rot90(GREY)).save(path, exif=exif, quality=100)


def image(mode: str, **options):
    plain = Image.Dither.NONE  # else 1 bit would draw the grey columns as a pattern of dots
    return lambda path: Image.fromarray(GREY).convert(mode, dither=plain).save(path, **options)


def data(content: bytes):
    return lambda path: path.write_bytes(content)


def picture(make, **options):
    return lambda path: make().save(path, **options)


ROW16 = wide(0) * 10 + wide(65535) * 20 + wide(200 * 257) * 10
ROW16A = wide(0, 65535) * 10 + wide(0, 0) * 20 + wide(200 * 257, 65535) * 10
ROW48 = wide(0, 0, 0) * 10 + wide(*[65535] * 3) * 20 + wide(*[200 * 257] * 3) * 10
KEY16 = (b"tRNS", wide(999))
ROW16KEY = wide(0) * 10 + wide(999) * 20 + wide(200 * 257) * 10
GREY16 = GREY.astype(np.uint16) * 257


@pytest.mark.parametrize(
    ("name", "write", "expected", "off"),
    [  # off: the grey levels by which a lossy or rounding format may differ
        ("a_1.png", image("1"), BILEVEL, 0),  # 1-bit
        ("a_1.tif", image("1", compression="group4"), BILEVEL, 0),  # as fax and archive scanners do
        ("a_1.png", image("L"), GREY, 0),  # 8-bit
        ("a_1.bmp", image("L"), GREY, 0),
        ("a_1.bmp", image("1"), BILEVEL, 0),
        ("a_1.JPEG", image("L", quality=100), GREY, 2),  # the suffix in capitals
        ("a_1.webp", image("RGB", lossless=True), GREY, 0),
        ("a_1.png", image("RGB"), GREY, 0),
        ("a_1.png", image("P"), GREY, 0),  # palette
        ("a_1.png", picture(two_colours, bits=1), BILEVEL, 0),  # palette of one bit
        ("a_1.png", picture(see_through_palette), GREY, 0),  # palette with transparency
        ("a_1.png", data(png(16, 0, [ROW16] * 36)), GREY, 0),  # 16-bit grey
        ("a_1.png", data(png(16, 0, [ROW16KEY] * 36, KEY16)), GREY, 0),  # one value transparent
        ("a_1.png", data(png(16, 2, [ROW48] * 36)), GREY, 1),  # 16-bit RGB: Pillow truncates
        ("a_1.png", data(png(16, 4, [ROW16A] * 36)), GREY, 1),  # 16-bit grey and alpha
        ("a_1.tiff", data(tiff(GREY16, 1)), GREY, 0),  # 16-bit TIFF
        ("a_1.tiff", data(tiff(65535 - GREY16, 0)), GREY, 0),  # ... whose 0 means white
        ("a_1.png", picture(with_alpha), GREY, 0),  # transparency lies on white
        ("a_1.png", picture(lambda: with_alpha().convert("RGBA")), GREY, 0),
        ("a_1.tif", picture(lambda: with_alpha().convert("RGBA")), GREY, 0),
        ("a_1.jpg", image("CMYK", quality=100), GREY, 2),  # from print shops
        ("a_1.tif", image("CMYK"), GREY, 0),
        ("a_1.jpg", rotated, GREY, 2),  # from phones
        ("a_1.tif", pages_of_tiff, GREY, 0),  # the first page counts
        ("a_1.jpg", image("L", format="PNG"), GREY, 0),  # the bytes decide, not the suffix
        ("a_1.png", data(png(8, 0, [GREY[0].tobytes()] * 36, (b"eXIf", b"MM\0junk"))), GREY, 0),
        # (a damaged EXIF block is no reason to refuse the pixels)
    ],
)
def test_every_colour_type_and_depth(tmp_path, name, write, expected, off):
    write(tmp_path / name)
    read = read_grey(tmp_path / name)
    assert not read_page(tmp_path / name).inverted  # it is right as read
    assert (read.dtype, read.shape) == (np.uint8, expected.shape)
    assert read.flags.c_contiguous
    assert np.abs(read.astype(int) - expected).max() <= off


def saved(mode: str, format: str, keep: float = 1.0, size: tuple[int, int] = (40, 40)):
    """Writes the first ``keep`` of a noisy image's bytes: noise, so that no byte is padding."""
    noise = np.random.default_rng(0).integers(0, 256, size[::-1], dtype=np.uint8)

    def write(path: Path) -> None:
        Image.fromarray(noise).convert(mode).save(path, format)
        content = path.read_bytes()
        path.write_bytes(content[: int(len(content) * keep)])

    return write


def flipped(path: Path) -> None:
    """A PNG with one bit of its pixel data changed."""
    saved("L", "PNG")(path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


BOMB = png(1, 0, [b"\0" * 5]).replace(struct.pack(">II", 40, 1), struct.pack(">II", 99999, 99999))
IHDR_CRC = struct.pack(">I", zlib.crc32(BOMB[12:29]))
BOMB = BOMB[:29] + IHDR_CRC + BOMB[33:]


@pytest.mark.parametrize(
    ("name", "write", "complaint"),
    [
        ("a_1.png", data(b""), "0 bytes"),
        ("a_1.png", data(b"not an image"), "damaged or none of"),
        ("a_1.png", saved("L", "GIF"), "damaged or none of"),  # a format not in the contract
        ("a_1.png", saved("L", "PNG", 0.5), "cannot be read"),  # truncated
        ("a_1.png", saved("1", "PNG", 0.5), "cannot be read"),
        ("a_1.png", saved("L", "PNG", 0.995), "cannot be read"),  # only the end mark is lost
        ("a_1.png", flipped, "cannot be read"),  # a checksum is wrong
        ("a_1.jpg", saved("L", "JPEG", 0.5), "cannot be read"),
        ("a_1.jpg", saved("L", "JPEG", 0.999), "cannot be read"),  # only the end mark is lost
        ("a_1.tif", saved("L", "TIFF", 0.5), "cannot be read"),
        ("a_1.bmp", saved("L", "BMP", 0.5), "cannot be read"),
        ("a_1.webp", saved("RGB", "WEBP", 0.5), "cannot be read"),
        ("a_1.bmp", picture(two_greys), "8-bit BMPs"),  # half of its pixels would be wrong
        ("a_1.tif", saved("F", "TIFF"), "32-bit"),  # nothing says which number is white
        ("a_1.png", saved("L", "PNG", 1, (31, 40)), "31 x 40 px"),  # a pixel too narrow
        ("a_1.png", saved("L", "PNG", 1, (40, 31)), "40 x 31 px"),  # a pixel too low
        ("a_1.png", data(BOMB), "too large"),  # 10 gigapixels, by a header of 33 bytes
        ("a_1.png", lambda path: path.symlink_to("nowhere"), "broken link"),
        ("a_1.png", lambda path: os.mkfifo(path), "not a file"),  # opening it would wait for ever
    ],
)
def test_bad_images_are_refused_by_name(tmp_path, name, write, complaint):
    path = tmp_path / name
    write(path)
    with pytest.raises(Problem, match=complaint) as caught:
        read_page(path)
    assert str(path) in str(caught.value)


def test_images_are_resized_when_they_are_read(tmp_path):
    pixels = np.where(np.random.default_rng(1).random((40, 60)) < 0.1, 0, 255).astype(np.uint8)
    Image.fromarray(np.kron(pixels, np.ones((2, 2), np.uint8))).save(tmp_path / "a_1.png")
    assert read_page(tmp_path / "a_1.png").image.shape == (80, 120)
    assert np.array_equal(read_page(tmp_path / "a_1.png", 0.5).image, pixels)  # means of four alike
    assert read_page(tmp_path / "a_1.png", 3).image.shape == (240, 360)
    for resize in 0.39, 200:  # 31 px high, and 384 million pixels
        with pytest.raises(Problem, match=rf"a_1.png: RESIZE {resize:g} makes it \d+ x \d+ px"):
            read_page(tmp_path / "a_1.png", resize)


def test_smallest_image_that_is_taken(tmp_path):
    saved("L", "PNG", 1, (32, 32))(tmp_path / "a_1.png")
    assert read_page(tmp_path / "a_1.png").image.shape == (32, 32)


def writing(share: float, ink: int = 0, paper: int = 255) -> np.ndarray:
    """(64, 200) uint8: vertical strokes, of each 20 px the first ``20 * share``."""
    strokes = np.arange(200) % 20 < 20 * share
    return np.tile(np.where(strokes, ink, paper), (64, 1)).astype(np.uint8)


def on_desk() -> np.ndarray:
    """A white sheet with writing on it that covers a fifth of a black picture."""
    desk = np.full((200, 320), 20, np.uint8)
    desk[60:124, 60:260] = writing(0.2)
    return desk


def in_shadow() -> np.ndarray:
    """A page with a shadow over three quarters of it."""
    light = np.where(np.arange(200) < 150, 0.35, 1.0)
    return (writing(0.2) * light).astype(np.uint8)


@pytest.mark.parametrize(
    ("scan", "expected"),
    [
        (writing(0.2), False),  # as scanned
        (writing(0.2, 255, 0), True),  # inverted
        (writing(0.2, 200, 60), True),  # inverted and pale
        (writing(0.6), False),  # more ink than paper is still ink
        (writing(0.2, 10, 100), False),  # underexposed: all dark, and ink the darker
        (np.full((40, 40), 255, np.uint8), False),  # nothing on it
        (np.zeros((40, 40), np.uint8), False),  # all black: nothing says that it is writing
        (on_desk(), False),
        (in_shadow(), False),
    ],
)
def test_inverted_scans(tmp_path, scan, expected):
    assert _is_inverted(scan) == expected
    Image.fromarray(scan).save(tmp_path / "a_1.png")
    assert np.array_equal(read_grey(tmp_path / "a_1.png"), scan)
    page = read_page(tmp_path / "a_1.png")
    assert page.inverted == expected
    assert np.array_equal(page.image, evened(255 - scan if expected else scan))


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("01_1_631.png", "01"),  # as in the reference data
        ("Ann Lee_2.png", "Ann Lee"),  # a label is text, not a number
        ("01_.png", "01"),  # anything may be nothing
        ("a" * 64 + "_1.png", "a" * 64),
        ("a" * 65 + "_1.png", ""),  # too long
        ("01.png", ""),  # no underscore
        ("_1.png", ""),  # no label
        (" 01_1.png", ""),  # would look like 01 in every table
        ("0\n1_1.png", ""),  # control character
        ("0\\1_1.png", ""),  # another system's path separator
        ("e\u0301_1.png", "\u00e9"),  # macOS writes two code points, other systems one
        ("a_Screenshot 3.04\u202fPM.png", "a"),  # as macOS names them
        (os.fsdecode(b"\xff_1.png"), ""),  # bytes that are no text cannot go into a table
    ],
)
def test_labels(name, label):
    assert label_of(Path(name)) == label


@pytest.fixture
def folder(tmp_path) -> Path:
    """A sound dataset of two classes: a and b, with one page and one strip each."""
    shade = iter(range(0, 250, 20))
    for name in ("train/a_1.png", "train/b_1.png", "test/a_2.png", "test/b_2.png"):
        put(tmp_path / "set" / name, next(shade))
    return tmp_path / "set"


def put(path: Path, shade: int) -> None:
    """A 40 x 40 page of one stroke; every shade makes a different file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    page = np.full((40, 40), 255, np.uint8)
    page[10:12, 5:35] = shade
    Image.fromarray(page).save(path)


def test_a_sound_dataset(folder):
    put(folder / "train/a_3.JPG", 90)  # a second page of a class, not in the order of the names
    dataset = load_dataset(folder)
    assert (dataset.folder, dataset.classes) == (folder, ["a", "b"])
    assert [page.path.name for page in dataset.train] == ["a_1.png", "a_3.JPG", "b_1.png"]
    assert [page.label for page in dataset.test] == ["a", "b"]
    assert dataset.test[0].image[10, 20] == 0  # ink, though of the third shade, 40
    assert (dataset.ignored, dataset.inverted) == (0, [])


def test_what_is_no_image_is_ignored_and_counted(folder):
    # The third last is nobody's, by its name, and the last two are macOS again.
    for name in (".DS_Store", "Thumbs.db", "how to.pdf", "._a_1.png", "._a_1.heic"):
        (folder / "train" / name).write_text("not an image")
    (folder / "test" / "c_old.png").mkdir()  # a folder, whatever its name
    (folder / "README.md").write_text("beside train and test, so not looked at")
    dataset = load_dataset(folder)
    assert dataset.ignored == 6
    assert (len(dataset.train), len(dataset.test)) == (2, 2)


def test_links_are_followed_out_of_the_folder(folder, tmp_path):
    shutil.move(folder / "train", tmp_path / "elsewhere")
    (folder / "train").symlink_to(tmp_path / "elsewhere")
    assert load_dataset(folder).classes == ["a", "b"]


def test_inverted_scans_are_turned_and_reported(folder):
    page = 255 - np.asarray(Image.open(folder / "test/a_2.png"))
    Image.fromarray(page).save(folder / "test/a_2.png")
    dataset = load_dataset(folder)
    assert dataset.inverted == ["test/a_2.png"]
    assert dataset.test[0].image[0, 0] == 255


def same_bytes(folder: Path) -> None:
    shutil.copy(folder / "train/a_1.png", folder / "test/a_9.png")


@pytest.mark.parametrize(
    ("spoil", "complaints"),
    [
        (lambda f: shutil.rmtree(f / "train"), ["train: no such folder"]),
        (
            lambda f: shutil.rmtree(f / "test"),
            ["test: no such folder", "report --notebooks '03 08'"],
        ),
        (lambda f: shutil.rmtree(f), ["set: no such folder"]),
        (lambda f: [p.unlink() for p in f.glob("train/*")], ["train: holds no images"]),
        (lambda f: [p.rename(p.with_suffix(".txt")) for p in f.glob("test/*")], ["test: holds no"]),
        (lambda f: put(f / "train/c1.png", 90), ["c1.png: the name does not fit"]),
        (lambda f: put(f / "test/c_1.png", 90), ["c_1.png: no page in train/ has this label"]),
        (lambda f: (f / "test/a_2.png").write_bytes(b""), ["a_2.png: is empty"]),
        (same_bytes, ["a_9.png: the same bytes as ", "train/a_1.png"]),
        (
            lambda f: shutil.copy(f / "train/a_1.png", f / "train/b_2.png"),
            ["b_2.png: the same bytes as ", "train/a_1.png"],
        ),
        (
            lambda f: (f / "train/c_1.HEIC").write_bytes(b"as phones save photographs"),
            ["c_1.HEIC: .heic is not read; export it as JPEG or PNG"],
        ),
        (
            lambda f: [p.rename(p.with_suffix(".pdf")) for p in f.glob("train/*")],
            ["train: holds no images; export its .avif, .gif, .heic"],
        ),
        (lambda f: put(f / "train/a_\x1b[2J.png", 90), [r"a_\x1b[2J.png: the name does not fit"]),
    ],
)
def test_bad_datasets_are_refused(folder, spoil, complaints):
    spoil(folder)
    with pytest.raises(Problem) as caught:
        load_dataset(folder)
    for complaint in complaints:
        assert complaint in str(caught.value)
    assert all(line.isprintable() for line in str(caught.value).splitlines())


@pytest.mark.parametrize("empty", [False, True])
def test_who_has_no_test_images_yet_can_learn(folder, empty, capsys):
    shutil.rmtree(folder / "test")
    if empty:
        (folder / "test").mkdir()
    dataset = load_dataset(folder, tests=False)
    assert (dataset.classes, dataset.test, dataset.ignored) == (["a", "b"], [], 0)
    assert main(["check", str(folder)]) == 0
    assert "test: no images yet; notebooks 03 and 08 need none" in capsys.readouterr().out


def test_all_problems_come_at_once(folder):
    (folder / "train/a_1.png").write_bytes(b"junk")
    put(folder / "train/nameless.png", 90)
    put(folder / "test/z_1.png", 110)
    with pytest.raises(Problem) as caught:
        load_dataset(folder)
    lines = str(caught.value).splitlines()
    assert lines[0] == f"{folder}: 3 problems"
    for line, name in zip(lines[1:], ["nameless.png", "z_1.png", "a_1.png"], strict=True):
        assert name in line


def test_many_problems_are_counted(folder):
    for i in range(13):
        (folder / f"train/a_{i:02}.png").write_bytes(b"")
    with pytest.raises(Problem) as caught:
        load_dataset(folder)
    lines = str(caught.value).splitlines()
    assert (len(lines), lines[0][-11:], lines[-1].strip()) == (12, "13 problems", "and 3 more")


def test_image_files_takes_files_and_folders(folder):
    put(folder / "unknown.png", 90)
    pages = map(read_page, image_files([folder / "unknown.png", str(folder / "test")]))
    assert [(page.path.name, page.label) for page in pages] == [
        ("unknown.png", ""),  # no label in the name: fine where nothing is learnt from it
        ("a_2.png", "a"),
        ("b_2.png", "b"),
    ]


@pytest.mark.parametrize(
    ("paths", "complaint"),
    [
        ([], "no images to read"),
        (["nowhere.png"], "nowhere.png: not there"),
        (["empty"], "empty: holds no images; put some there"),
        (["set"], "set: holds no images; name a folder in it: .*set.test$"),
    ],
)
def test_images_are_refused(tmp_path, paths, complaint):
    (tmp_path / "set" / "test").mkdir(parents=True)
    (tmp_path / "empty").mkdir()
    with pytest.raises(Problem, match=complaint):
        [read_page(file) for file in image_files(tmp_path / path for path in paths)]


def test_reference_without_data_names_both_cures(tmp_path, monkeypatch):
    monkeypatch.setattr(digitlib, "DATA", tmp_path)
    monkeypatch.delenv("DIGITLIB_REFERENCE", raising=False)
    with pytest.raises(Problem, match="digitlib fetch.*DIGITLIB_REFERENCE") as caught:
        load_dataset("reference")
    assert "lacks 210" in str(caught.value)


def test_reference_reads_the_named_folder(folder, monkeypatch):
    monkeypatch.setenv("DIGITLIB_REFERENCE", str(folder))
    assert load_dataset("reference").folder == folder
    monkeypatch.setenv("DIGITLIB_REFERENCE", str(folder / "gone"))
    with pytest.raises(Problem, match="DIGITLIB_REFERENCE names .*gone"):
        load_dataset("reference")


def test_generated_data_is_read_where_it_lies(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(digitlib, "DATA", tmp_path)
    there = folder_of("digits", 2, 5)
    shutil.move(folder, there)  # so the generator has nothing to do
    dataset = load_dataset("digits", classes=2, seed=5)
    assert dataset.folder == there
    assert there.parent == tmp_path


@pytest.mark.skipif(
    not os.environ.get("DIGITLIB_REFERENCE"), reason="DIGITLIB_REFERENCE names no reference data"
)
def test_the_real_scans(tmp_path):
    dataset = load_dataset("reference")
    assert dataset.classes == [f"{number:02}" for number in range(1, 71)]
    assert {page.image.shape for page in dataset.train} == {(1070, 1545)}
    assert not dataset.inverted
    for page in dataset.train + dataset.test:
        assert set(np.unique(page.image)) == {0, 255}  # 1-bit
        assert 0.005 < (page.image == 0).mean() < 0.2  # so ink is 0, not 255
        assert _is_inverted(255 - page.image)


def test_what_a_class_is(folder, tmp_path, monkeypatch):
    """Of a folder of somebody's only they know, whatever it is called."""
    monkeypatch.setattr(digitlib, "DATA", tmp_path)
    monkeypatch.setenv("DIGITLIB_REFERENCE", str(folder))
    assert load_dataset("reference").a_class == "a writer"
    for name in "digits", "hands", "reference":
        own = shutil.copytree(folder, tmp_path / "own" / name)
        assert load_dataset(own).a_class == "what its label says"
    shutil.copytree(folder, folder_of("digits", 2, 5))
    assert load_dataset("digits", classes=2, seed=5).a_class == "a number, written by many hands"


def test_a_set_that_another_run_drew_meanwhile_is_read(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(digitlib, "DATA", tmp_path)

    def late(*_args) -> None:
        shutil.copytree(folder, folder_of("digits", 2, 5))
        raise Problem("is there already")

    monkeypatch.setattr("digitlib.handwriting.write_dataset", late)
    assert len(load_dataset("digits", classes=2, seed=5).train) == 2


def test_check_says_which_reference_files_are_not_as_published(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("DIGITLIB_REFERENCE", str(tmp_path))
    for tone, name in enumerate(["train/01_a.png", "train/02_a.png", "test/01_b.png"]):
        put(tmp_path / name, 200 + tone)
    right = hashlib.sha256((tmp_path / "train/01_a.png").read_bytes()).hexdigest()
    listing = {"train/01_a.png": right, "train/02_a.png": "0" * 64, "test/02_b.png": "0" * 64}
    monkeypatch.setattr("digitlib.fetch.read_listing", lambda _: listing)
    assert main(["check", "reference"]) == 0
    said = capsys.readouterr().out
    assert (
        "1 of the published files are not there\n1 are not as published: train/02_a.png\n" in said
    )


@pytest.mark.parametrize(
    ("most", "mapped"),
    [
        (0, [1, 1, 1, 1, 1]),
        (7, [1, 1, 1, 1, 1]),  # of 8, 8, 0, 100 and 3 bytes
        (8, [0, 1, 1, 1, 1]),
        (10**6, [0, 0, 0, 0, 0]),
    ],
)
def test_a_shelf_keeps_arrays_as_they_are(most, mapped, monkeypatch):
    monkeypatch.setattr("digitlib.dataset.PIECE", 128)  # so that a second file is needed
    given = [
        np.array([[1, 2], [3, -4]], np.int16),
        np.array([0.1, np.inf], np.float32),
        np.zeros((0, 2), np.int32),
        np.arange(200, dtype=np.uint8).reshape(2, 100)[:, ::2],  # not in one piece
        np.array([7, 8, 9], np.uint8),
    ]
    shelf = Shelf(most)
    kept = [shelf.keep(item) for item in given]
    for one, other in zip(given, kept, strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)
    assert [other is one for one, other in zip(given, kept, strict=True)] == [not m for m in mapped]
    assert all(other.flags.writeable != gone for other, gone in zip(kept, mapped, strict=True))


def test_a_disk_without_room_is_named_with_the_cure(monkeypatch):
    class Full(io.BytesIO):
        def truncate(self, size):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("tempfile.TemporaryFile", Full)
    with pytest.raises(Problem, match="No space left on device.*MEMORY.*TMPDIR"):
        Shelf(0).keep(np.zeros(9))


@pytest.mark.parametrize("memory", [0, 3, 1000])  # none, some, all of them in memory
def test_images_beyond_what_is_held_are_the_same(hands_folder, memory):
    kept, mapped = (load_dataset(hands_folder, memory=m) for m in (1000, memory))
    for one, two in zip(kept.train + kept.test, mapped.train + mapped.test, strict=True):
        assert one.path == two.path
        np.testing.assert_array_equal(one.image, two.image)
    owned = sum(page.image.flags.writeable for page in mapped.train + mapped.test)
    assert owned == {0: 0, 3: 1, 1000: 18}[memory]  # a page has 1.65 million pixels


def test_of_images_beyond_what_is_held_one_at_a_time_is_in_memory(hands_folder):
    load_dataset(hands_folder, memory=0)  # imports and the like are not counted
    tracemalloc.start()
    load_dataset(hands_folder, memory=0)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8e6  # all 18 images have 14 million pixels; turning one over takes a few copies
