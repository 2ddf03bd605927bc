"""Reads scans from disk, and refuses before any work starts what would fail or mislead later.

In: a dataset folder (train/ and test/ with ``{label}_{anything}.png``), by name or path.
Out: a Dataset of Pages, every image uint8 (h, w), 0 ink .. 255 paper, whatever the file format and
the light were.
"""

import contextlib
import hashlib
import math
import os
import tempfile
import unicodedata
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageOps

import digitlib
from digitlib import Problem, printable, progress_bar
from digitlib.fetch import CURES, missing_files
from digitlib.light import evened
from digitlib.settings import Settings

GENERATED = ("digits", "hands")
A_CLASS = {  # what it is, of the sets that are known
    "digits": "a number, written by many hands",
    "hands": "a writer",
    "reference": "a writer",
}
SUFFIXES = {".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp"}
# What scans and photographs come in, too; left out without a word they would be missed.
UNREAD = {".heic", ".heif", ".avif", ".gif", ".jp2", ".pdf"}
FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "WEBP")  # told from the bytes; a suffix is not evidence
MIN_SIDE = 32  # px; a line of writing does not fit in less
MAX_PIXELS = 100_000_000  # about A4 at 1000 dpi; checked on the header, so that no bomb is decoded
PIECE = 2**26  # bytes of a first temporary file; each further one is twice as large
MAX_LISTED = 10  # files named in one error; the rest are counted
NAMING = "{label}_{anything}.png (or jpg, tif, bmp, webp; a label has 1 to 64 characters)"


@dataclass(frozen=True, eq=False)
class Page:
    """One scan: a training page or a test strip. ``label`` is what its file name claims."""

    path: Path
    label: str
    image: np.ndarray  # (h, w) uint8, 0 ink .. 255 paper
    inverted: bool  # the scan was white on black and has been turned
    evened: bool = False  # it was not black and white alone, and is in even light now


class Shelf:
    """Keeps arrays: up to ``most`` bytes in memory, what is more in temporary files.

    These are mapped into memory, so that the system holds of them what is in use and has room; they
    lie where TMPDIR says, and go with the last array in them.
    """

    def __init__(self, most: int) -> None:
        self.left, self.piece, self.file, self.room = most, PIECE, None, np.zeros(0, np.uint8)

    def keep(self, array: np.ndarray) -> np.ndarray:
        """``array``, or from a file its like, which cannot be written to. Raises Problem if the
        disk is full."""
        self.left -= array.nbytes
        if self.left >= 0:
            return array
        size = -(-array.nbytes // 64) * 64  # of whole cache lines: any dtype is aligned
        try:
            if size > self.room.size:
                length = max(size, self.piece)
                self.file, self.piece = tempfile.TemporaryFile(), 2 * length  # noqa: SIM115
                self.file.truncate(length)  # takes no room yet
                self.room = np.asarray(np.memmap(self.file, np.uint8, "r"))
                self.file.seek(0)
            # Written, not stored: where a disk is full, a mapping can only kill the process.
            self.file.write(array.tobytes() + bytes(size - array.nbytes))
            self.file.flush()
        except OSError as error:
            folder = tempfile.gettempdir()
            cure = "raise MEMORY, or set TMPDIR to a folder with room"
            raise Problem(f"{folder}: no temporary file can be written ({error}); {cure}") from None
        place, self.room = self.room[: array.nbytes], self.room[size:]
        return place.view(array.dtype).reshape(array.shape)


@dataclass(frozen=True, eq=False)
class Dataset:
    """Pages to learn from, and images to be tested on, sorted by file name."""

    folder: Path
    train: list[Page]
    test: list[Page]
    ignored: int  # entries of train/ and test/ that are not images
    a_class: str = "what its label says"  # of a folder of somebody's only they know

    @property
    def classes(self) -> list[str]:
        """The labels that training pages exist for, sorted."""
        return sorted({page.label for page in self.train})

    @property
    def inverted(self) -> list[str]:
        """The files that were white on black, as ``train/01_a.png``."""
        pages = [page.path for page in self.train + self.test if page.inverted]
        return [f"{path.parent.name}/{path.name}" for path in pages]


def load_dataset(
    name_or_path: str | Path,
    classes: int = 70,
    seed: int = 1,
    progress: bool = True,
    memory: int = Settings.memory,
    resize: float = Settings.resize,
    tests: bool = True,
) -> Dataset:
    """Read ``digits``, ``hands`` (both written on first use), ``reference`` or a folder.

    A name wins over a folder of that name; write ``./digits`` for the folder. Everything is
    checked before anything is returned, and a Problem lists all bad files at once. Links are
    followed, out of the folder too: shared scans are often collected by links. Images beyond
    ``memory`` MB wait on a `Shelf`. ``resize``: as for `read_page`. ``tests`` False: there need be
    no test images yet. (A script that has a data set drawn needs `if __name__ == "__main__":`, as
    other processes draw.)
    """
    folder = _source(name_or_path, classes, seed)
    train, test, problems = _listed(folder, tests)
    pages, hashes, unreadable = _read_all(train + test, progress, memory, resize)
    problems += unreadable
    learnt: dict[str, Path] = {}  # SHA-256 -> training page
    for i, path in enumerate(train + test):
        if path not in hashes:
            continue
        twin, trains = learnt.get(hashes[path]), i < len(train)
        if twin and not (trains and label_of(path) == label_of(twin)):
            fault = f"the same bytes as {printable(twin)}; remove one of the two"
            problems.append(f"{printable(path)}: {fault}")
        if trains:
            learnt.setdefault(hashes[path], path)
    raise_all(problems, folder)
    parts = [folder / part for part in ("train", "test") if (folder / part).is_dir()]
    entries = sum(1 for part in parts for _ in part.iterdir())
    n = len(train)
    a_class = A_CLASS.get(str(name_or_path), Dataset.a_class)
    return Dataset(folder, pages[:n], pages[n:], entries - len(pages), a_class)


def refuse_names(name_or_path: str | Path, tests: bool = True) -> None:
    """Raise Problem for what the files' names say of a data set that is not generated, in no time:
    `load_dataset` would say the same, and more, after it has read them."""
    if str(name_or_path) not in GENERATED:
        folder = _source(name_or_path, 2, 1)
        raise_all(_listed(folder, tests)[2], folder)


def image_files(paths: Iterable[str | Path]) -> list[Path]:
    """The images among ``paths``: files, and all that lie right in folders. Raises Problem."""
    files = []
    for path in map(Path, paths):
        files += _images(path) if path.is_dir() else [path]
    if not files:
        raise Problem("no images to read; name an image file or a folder of images")
    return files


def unread(paths: Iterable[Path]) -> list[str]:
    """What is to be done with those of ``paths`` that are UNREAD, a line each."""
    return [
        f"{printable(path)}: {path.suffix.lower()} is not read; export it as JPEG or PNG"
        for path in sorted(paths)
        if path.suffix.lower() in UNREAD and path.name[0] != "."
    ]


def read_page(path: Path, resize: float = Settings.resize) -> Page:
    """One image as a Page, ``resize`` times as large; its label is "" where the name has none.

    As `read_grey` reads it; then white on black is turned, and uneven light `light.evened`. Raises
    Problem, also for what is then too small or too large.
    """
    image = read_grey(path)
    if resize != 1:
        size = [round(side * resize) for side in image.shape[::-1]]
        if min(size) < MIN_SIDE or math.prod(size) > MAX_PIXELS:
            raise Problem(f"{printable(path)}: RESIZE {resize:g} makes it {size[0]} x {size[1]} px")
        how = cv2.INTER_AREA if resize < 1 else cv2.INTER_CUBIC
        image = cv2.resize(image, size, interpolation=how)
    inverted = _is_inverted(image)
    image = 255 - image if inverted else image
    even = evened(image)
    return Page(path, label_of(path), even, inverted, even is not image)


def read_grey(path: Path) -> np.ndarray:
    """One image as it is in its file: (h, w) uint8, C-contiguous. Raises Problem.

    Transparency lies on white, 16 bits scale to 8, EXIF rotation is applied, and of several pages
    the first is read.
    """
    shown = printable(path)
    if not path.is_file():  # opening a pipe would wait for ever
        raise Problem(f"{shown}: not there, or not a file (a broken link?); name an image file")
    try:
        with path.open("rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's remarks on metadata; what matters raises
            if not file.read(1):
                raise Problem(f"{shown}: is empty (0 bytes); copy or export it again")
            header = Image.open(file, formats=FORMATS)
            width, height = header.size
            if min(width, height) < MIN_SIDE:
                raise Problem(
                    f"{shown}: is {width} x {height} px, and a line of writing needs {MIN_SIDE} px "
                    "each way; scan it at a higher resolution"
                )
            if width * height > MAX_PIXELS:
                raise Image.DecompressionBombError
            header.verify()  # a PNG's checksums to the end mark, which decoding does not ask for
            picture = Image.open(file, formats=FORMATS)
            if picture.format == "BMP" and picture.mode == "1" and _bytes_a_pixel(picture):
                raise ValueError("Pillow misreads 8-bit BMPs of two colours; save it as PNG")
            picture.load()  # all of it: a file that was cut off fails here
            return _grey(picture)
    except Problem:
        raise
    except Image.DecompressionBombError as error:
        limit = f"more than {MAX_PIXELS // 10**6} million pixels"
        raise Problem(f"{shown}: is too large ({limit}); scan at 200 to 600 dpi") from error
    except Image.UnidentifiedImageError as error:
        raise Problem(
            f"{shown}: is damaged or none of {', '.join(FORMATS)}; export it again"
        ) from error
    except Exception as error:  # a damaged file makes Pillow raise nearly anything
        raise Problem(f"{shown}: cannot be read ({error}); copy or export it again") from error


def label_of(path: Path) -> str:
    """What stands before the first underscore of the file name, or "" where that is no label."""
    name = unicodedata.normalize("NFC", path.name)  # macOS decomposes accents, others do not
    label, underscore, _ = name.partition("_")
    fits = underscore and 0 < len(label) <= 64 and label == label.strip() and "\\" not in label
    # NFKC makes a plain blank of the narrow one in the names of macOS's screenshots.
    return label if fits and unicodedata.normalize("NFKC", name).isprintable() else ""


def _source(name_or_path: str | Path, classes: int, seed: int) -> Path:
    """The dataset's folder, generated where need be."""
    name = str(name_or_path)
    if name in GENERATED:
        from digitlib.handwriting import folder_of, write_dataset  # only who generates pays this

        folder = folder_of(name, classes, seed)
        if not folder.is_dir():
            try:
                write_dataset(name, folder, classes, seed)
            except Problem:  # another run may have drawn the same meanwhile
                if not folder.is_dir():
                    raise
        return folder
    if name == "reference":
        given, fetched = os.environ.get("DIGITLIB_REFERENCE"), digitlib.DATA / "reference"
        if given and not Path(given).is_dir():
            raise Problem(f"DIGITLIB_REFERENCE names {given}, which is no folder; {CURES}")
        if not given and (missing := missing_files(fetched)):
            raise Problem(f"{fetched} lacks {len(missing)} reference files; {CURES}")
        return Path(given or fetched)
    folder = Path(os.path.expanduser(name))  # leaves an unknown home as it is
    if not folder.is_dir():
        cure = "name digits, hands, reference, or a folder that holds train/ and test/"
        raise Problem(f"{folder}: no such folder; {cure}")
    return folder


def _listed(folder: Path, tests: bool) -> tuple[list[Path], list[Path], list[str]]:
    """The images of train/ and of test/, and what is wrong with their names. Raises Problem."""
    train = _images(folder / "train")
    try:
        test = _images(folder / "test", tests)
    except Problem as problem:
        cure = "or run what needs none: report --notebooks '03 08'"
        raise Problem(f"{problem}; {cure}") from None
    problems, trained = [], {label_of(path) for path in train}
    for part in "train", "test":
        problems += unread(path for path in (folder / part).glob("*") if label_of(path))
    for path in train + test:
        if not label_of(path):
            problems.append(f"{printable(path)}: the name does not fit; rename it to {NAMING}")
        elif label_of(path) not in trained:
            problems.append(f"{printable(path)}: no page in train/ has this label; add one")
    return train, test, problems


def _images(folder: Path, needed: bool = True) -> list[Path]:
    """The image files right in a folder, sorted; hidden files, other files, folders are not.

    Raises Problem if there are none but should be.
    """
    if not needed and not folder.exists():
        return []
    if not folder.is_dir():
        raise Problem(f"{folder}: no such folder; put images there, named {NAMING}")
    try:
        found = sorted(
            path
            for path in folder.iterdir()
            if path.suffix.lower() in SUFFIXES and path.name[0] != "." and not path.is_dir()
        )
    except OSError as error:
        raise Problem(f"{folder}: cannot be listed ({error.strerror}); mend its rights") from error
    if not found and needed:
        inside = [path.name for path in (folder / "test", folder / "train") if path.is_dir()]
        cure = f"put some there, named {NAMING}"
        if unread(folder.iterdir()):
            cure = f"export its {', '.join(sorted(UNREAD))} as JPEG or PNG"
        elif inside:
            cure = f"name a folder in it: {' or '.join(str(folder / name) for name in inside)}"
        raise Problem(f"{folder}: holds no images; {cure}")
    return found


def _read_all(
    paths: list[Path], progress: bool, memory: int, resize: float
) -> tuple[list[Page], dict[Path, str], list[str]]:
    """The pages that can be read, the SHA-256 of each, and what is wrong with the others."""
    pages, hashes, problems, shelf = [], {}, [], Shelf(memory * 10**6)
    for path in progress_bar(paths, desc="reading", unit="image") if progress else paths:
        try:
            page = read_page(path, resize)
        except Problem as problem:
            problems.append(str(problem))
            continue
        with path.open("rb") as file:
            hashes[path] = hashlib.file_digest(file, "sha256").hexdigest()
        pages.append(replace(page, image=shelf.keep(page.image)))
    return pages, hashes, problems


def raise_all(problems: list[str], where: Path | str) -> None:
    """Raise one Problem for all ``problems`` of the files in ``where``, if there are any."""
    if len(problems) == 1:
        raise Problem(problems[0])
    if problems:
        more = len(problems) - MAX_LISTED
        tail = [f"and {more} more"] if more > 0 else []
        lines = [f"{where}: {len(problems)} problems", *problems[:MAX_LISTED], *tail]
        raise Problem("\n  ".join(lines))


def _bytes_a_pixel(picture: Image.Image) -> bool:
    """Whether a BMP that Pillow takes for one of 1 bit has 8: its rows are longer."""
    return picture.tile[0].args[1] > (picture.width + 31) // 32 * 4


def _grey(picture: Image.Image) -> np.ndarray:
    """Any colour type as (h, w) uint8 grey on white, upright."""
    tags = getattr(picture, "tag_v2", {})  # TIFF only, and lost on rotating
    with contextlib.suppress(Exception):  # a damaged EXIF block is no reason to lose the scan
        ImageOps.exif_transpose(picture, in_place=True)
    if picture.mode.startswith("I;16"):
        values, levels = np.array(picture, np.float32), 2 ** tags.get(258, (16,))[0] - 1
        if tags.get(262) == 0:  # TIFF's WhiteIsZero, which Pillow undoes at 1 and 8 bits only
            values = levels - values
        values[values == picture.info.get("transparency", -1)] = levels
        return np.rint(values * (255 / levels)).astype(np.uint8)
    if picture.mode in ("I", "F"):
        raise ValueError("32-bit pixels have no agreed white; save it with 8 or 16 bits")
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    if picture.mode not in ("1", "L", "P"):
        picture = picture.convert("RGB")  # not every mode, CMYK for one, has a way straight to L
    if picture.mode == "P":  # and three times as long as on the palette alone
        palette = Image.frombytes("P", (256, 1), bytes(range(256)))
        palette.putpalette(picture.getpalette())
        grey, levels = np.array(palette.convert("L"))[0], np.array(picture)
        if levels.max() <= 1:  # black and white: reckoned (modulo 256), in half of the time
            levels *= grey[1:2] - grey[:1]
            levels += grey[:1]
            return levels
        return cv2.LUT(levels, grey, dst=levels)
    return np.array(picture.convert("L"))


def _is_inverted(image: np.ndarray) -> bool:
    """Whether an (h, w) uint8 scan shows white writing on black.

    Ink covers 3 to 15 % of a page and, densely written, less than half; so two thirds must be
    dark. And what stands out from its surroundings must be bright (the sign of the local
    skewness), which it is not on an underexposed page, in a shadow, or on a black desk.
    """
    if np.count_nonzero(image < 128) <= image.size * 2 / 3:  # several times as fast as a mean
        return False
    window = max(31, min(image.shape) // 8)  # px; several strokes wide
    local = image - cv2.blur(image, (window, window)).astype(np.float32)
    return bool((local * local * local).mean() > 0)
