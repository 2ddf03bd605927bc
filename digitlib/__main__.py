"""The command line, ``python -m digitlib``: one subcommand a job; the same on every system.

In: arguments. Out: what the job writes; exit status 0, 1 (a notebook failed), 2 (a Problem),
130 (Ctrl-C). Heavy imports wait inside the commands, so that --help is instant.
"""

import argparse
import contextlib
import io
import itertools
import os
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import digitlib
from digitlib import Problem, printable, printable_lines
from digitlib.settings import RANGES

SHOWN = 40  # labels that `predict` prints; all are in its file
MOST_SAID = 10_000  # characters of an error
EXAMPLES = """examples:
  python -m digitlib report                                  the quick profile on generated digits
  python -m digitlib check my_pages/                         check your own images, in seconds
  python -m digitlib report best --dataset my_pages/         learn to tell their writers apart
  python -m digitlib report -p N_PATCHES 50 --run fifty      one parameter changed, in reports/fifty
  python -m digitlib report --list                           the profiles and parameters there are
  python -m digitlib predict strip.png --out result.csv      label images with the shipped model
"""


@contextlib.contextmanager
def quiet_start() -> Iterator[None]:
    """Hide what TensorFlow says on stderr while it loads; no setting of its own does."""
    from digitlib.report import stderr_to

    with stderr_to(Path(os.devnull)):
        yield
        from digitlib.model import device

        device()


def report(args: argparse.Namespace) -> int:
    if args.list:
        return show_parameters()
    from digitlib.report import run_report

    given = dict(args.parameter)
    return run_report(args.profile, given, args.dataset, args.run, chosen=args.notebooks)


def show_parameters() -> int:
    from digitlib.parameters import NOTEBOOKS, notebook_parameters, notebook_paths

    print("profiles")
    for path in sorted(NOTEBOOKS.glob("profiles/*.yaml")):
        comment = itertools.takewhile(
            lambda s: s.startswith("#"), path.read_text("utf-8").split("\n")
        )
        about = " ".join(line.lstrip("# ") for line in comment)
        print(_folded(path.stem, about, 11))
    seen = {}  # name -> default; where another notebook has another, both are listed
    for path in notebook_paths():
        own = [p for p in notebook_parameters(path).values() if p.name != "RUN"]
        new = [p for p in own if p.name not in seen or seen[p.name] != p.default]
        seen = {p.name: p.default for p in own} | seen
        if new:
            print(f"\n{path.stem}")
        for p in new:
            print(f"  {f'{p.name}: {p.type} = {p.default!r}':<36}  {p.help}".rstrip())
    return 0


def check(args: argparse.Namespace) -> int:
    from statistics import median_low

    from digitlib.dataset import load_dataset
    from digitlib.fetch import missing_files
    from digitlib.lines import about_lines

    dataset = load_dataset(args.dataset, tests=False)
    names = [printable(label) for label in dataset.classes]
    print(f"{len(names)} classes, {names[0]} to {names[-1]}")
    for part, pages in ("train", dataset.train), ("test", dataset.test):
        if not pages:
            print("test: no images yet; notebooks 03 and 08 need none (--notebooks '03 08')")
            continue
        height, width = map(median_low, zip(*(page.image.shape for page in pages), strict=True))
        of = len({page.label for page in pages})
        print(f"{part}: {len(pages)} images of {of} classes, {width} x {height} px (medians)")
    print(about_lines(page.image for page in dataset.train))
    if dataset.inverted:
        shown = ", ".join(map(printable, dataset.inverted[:SHOWN]))
        print(f"{len(dataset.inverted)} white on black, and turned: {shown}")
    if n := sum(page.evened for page in dataset.train + dataset.test):
        print(f"{n} not black and white alone, and read in even light")
    if dataset.ignored:
        print(f"{dataset.ignored} other files and folders, ignored")
    if args.dataset == "reference":  # DIGITLIB_REFERENCE may name any folder
        missing = missing_files(dataset.folder)
        altered = [name for name in missing if (dataset.folder / name).is_file()]
        print(f"{len(missing) - len(altered)} of the published files are not there")
        if altered:
            print(f"{len(altered)} are not as published: {', '.join(altered[:SHOWN])}")
    return 0


def generate(args: argparse.Namespace) -> int:
    from digitlib.handwriting import folder_of, write_dataset

    folder = args.out or folder_of(args.kind, args.classes, args.seed)
    print(write_dataset(args.kind, folder, args.classes, args.seed))
    return 0


def fetch(args: argparse.Namespace) -> int:
    from digitlib.fetch import fetch_reference

    print(fetch_reference(args.out or digitlib.DATA / "reference"))
    return 0


def pretrain(args: argparse.Namespace) -> int:
    with quiet_start():
        from digitlib.pretrain import pretrain as make_weights

    names = ("out", "hands", "steps", "batch_size", "width", "size", "rate", "workers", "seed")
    print(make_weights(**{name: getattr(args, name) for name in names}))
    return 0


def _refuse_missing(paths: Iterable[Path]) -> None:
    for path in paths:
        if not path.exists():
            raise Problem(f"{path}: no such file or folder")


def predict(args: argparse.Namespace) -> int:
    from digitlib.shipped import DEFAULT, find, read_card

    _refuse_missing(args.images)
    model = find(args.model or DEFAULT)
    classes, _, about = read_card(model)
    known = about.get("data", f"{len(classes)} classes, {classes[0]} to {classes[-1]}")
    print(f"model: {args.model or DEFAULT} ({printable(known)})", file=sys.stderr)
    from digitlib.dataset import raise_all
    from digitlib.predict import chosen, predict_files, refuse_folder

    refuse_folder("--page", args.page, "labels.html")
    if chosen(args.engine, model) == "keras":
        with quiet_start():
            import keras  # noqa: F401

    answers = predict_files(args.images, model, args.out, args.engine, args.sure, args.resize)
    for note in answers.notes:
        print(f"note: {note}", file=sys.stderr)
    rows = answers.rows
    width = max(len(printable(row["filename"])) for row in rows[:SHOWN])
    for row in rows[:SHOWN]:
        mark = "  not sure" if row.get("sure") == "no" else ""
        name = f"{printable(row['filename']):<{width}}"
        print(f"{name}  {row['predicted']}  {row['confidence']:.5f}{mark}")
    more = f", {len(rows) - SHOWN} more" if len(rows) > SHOWN else ""
    unsure = sum(row.get("sure") == "no" for row in rows)
    doubt = f"; not sure of {unsure}" if unsure else ""
    print(f"{len(rows)} images labelled{more} in {args.out}{doubt}", file=sys.stderr)
    if args.page:
        from digitlib.pages import write_labels

        write_labels(answers, args.model or DEFAULT, args.page)
        print(f"open {args.page}", file=sys.stderr)
    raise_all(answers.problems, "not labelled")
    return 0


def bench(args: argparse.Namespace) -> int:
    _refuse_missing(args.images)
    with quiet_start():
        from digitlib.bench import bench as measure
        from digitlib.bench import regressions
    from digitlib.dataset import load_dataset
    from digitlib.shipped import DEFAULT

    images = args.images or [load_dataset("hands").folder / "test"]
    names = args.model or [DEFAULT]
    folder = digitlib.REPORTS / ("bench-quick" if args.quick else "bench")
    found = measure(images, names, args.quick, args.classes, folder)
    for row in found["labels"]:
        same = "" if row["same"] is None else f"  {row['same']} of {row['n']} labels as in Keras"
        print(f"{row['name']:<36} {row['ms']:>8.1f} ms {row['times']:>7.1f} x{same}")
    for row in found["pipeline"]:
        rate = row["patches_a_second"]
        print(f"{row['name']:<36} {rate:>8.0f} training patches a second {row['times']:>7.1f} x")
    for row in found.get("processes", []):
        print(f"{row['name']}: one image, from a cold start, {row['cold_seconds']:.2f} s;")
        rate, memory = row["strips_a_second"], row["peak_bytes"] / 1e6
        print(f"  a folder of {row['n']}: {rate:.0f} strips a second, {memory:.0f} MB")
    for row in found.get("growth", []):
        print(
            f"{row['classes']} classes: {row['seconds_a_class']:.2f} s of training a class,",
            end=" ",
        )
        print(f"{row['ms']:.1f} ms a label, {row['peak_mb']:.0f} MB")
    if args.quick and (worse := regressions(found)):
        raise Problem("; ".join(worse))
    return 0


def models(args: argparse.Namespace) -> int:
    from digitlib.shipped import DEFAULT, models, read_card

    for name, path in models().items():
        classes, _, about = read_card(path)
        mark = ", used by predict unless --model names another" if name == DEFAULT else ""
        print(f"{name}{mark}")
        about = {"classes": str(len(classes))} | about
        about["size"] = f"{path.stat().st_size / 1e6:.1f} MB"
        for key, value in about.items():
            print(_folded(key, value, 19))
    return 0


def _folded(name: str, text: str, indent: int) -> str:
    """``name``, and beside it ``text`` in lines that a terminal holds."""
    return textwrap.fill(
        text, 88, initial_indent=f"  {name}".ljust(indent), subsequent_indent=" " * indent
    )


def ship(args: argparse.Namespace) -> int:
    with quiet_start():
        from digitlib.shipped import ship as ship_run
    print(ship_run(args.run, args.name, args.limits))
    return 0


def index(args: argparse.Namespace) -> int:
    from digitlib.pages import write_index

    print(write_index())
    return 0


def number(low: float, high: float, what: str) -> Callable[[str], float]:
    """What reads an argument that is a number from ``low`` to ``high``."""

    def read(text: str) -> float:
        with contextlib.suppress(ValueError):
            if low <= float(text) <= high:
                return float(text)
        raise argparse.ArgumentTypeError(f"{what} is a number from {low} to {high}, not {text!r}")

    return read


def parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    top = argparse.ArgumentParser(
        prog="digitlib",
        description="Recognise handwriting from one page per class.",
        epilog=EXAMPLES,
        formatter_class=raw,
    )
    top.add_argument("--version", action="version", version=f"digitlib {digitlib.__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(job, text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(job.__name__, help=text, description=text)
        sub.set_defaults(job=job)
        return sub

    sub = command(
        report, "Run the notebooks into reports/<run>/ and list it in reports/index.html."
    )
    sub.add_argument("profile", nargs="?", default="quick", help="a profile, or a path to a .yaml")
    sub.add_argument(
        "-p", "--parameter", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"),
        help="set one parameter of the notebooks; may be repeated",
    )  # fmt: skip
    sub.add_argument(
        "--dataset", help="digits, hands, reference, or a folder with train/ and test/"
    )
    sub.add_argument(
        "--notebooks", metavar="NUMBERS",
        help="these only, such as '06 08', or all (default: 01 to 05); the run's others are kept",
    )  # fmt: skip
    sub.add_argument(
        "--run",
        help="name of the folder in reports/ (default: <profile>-<dataset>, and what -p changes)",
    )
    sub.add_argument(
        "--list", action="store_true", help="show profiles and parameters; run nothing"
    )

    sub = command(
        check, "Read a data set as a report would, and say what is in it or wrong with it."
    )
    sub.add_argument("dataset", help="a folder with train/ and test/, or digits, hands, reference")

    sub = command(generate, "Write a data set of generated handwriting.")
    sub.add_argument("kind", choices=("digits", "hands"), help="classes are numbers, or writers")
    sub.add_argument("--classes", type=int, default=70, help="how many classes (default: 70)")
    sub.add_argument("--seed", type=int, default=1, help="same seed, same images (default: 1)")
    sub.add_argument("--out", type=Path, help="folder (default: in data/)")

    sub = command(fetch, "Download the reference scans (210 files, each against its SHA-256).")
    sub.add_argument("--out", type=Path, help="folder (default: data/reference)")

    sub = command(
        pretrain, "Train backbone weights like the shipped ones from generated handwriting."
    )
    sub.add_argument("--out", type=Path, required=True, help="a new ….weights.h5")
    for name, default, text in (
        ("--hands", 1000, "how many generated writers to learn from, drawn on the fly"),
        ("--steps", 12_000, "batches; a run broken off goes on when it is started again"),
        ("--batch-size", 64, "crops a batch, eight of each of its hands"),
        ("--width", 1.0, "of MobileNetV2; use it with the same WIDTH"),
        ("--size", 64, "px the network sees, of 128 px on the page: PATCH_SIZE x SCALE"),
        ("--rate", 2e-3, "learning rate after warm-up, then a cosine to zero"),
        ("--workers", 2, "processes that draw; 0 draws in this one; the weights are the same"),
        ("--seed", 1, "same seed, same weights on the same machine"),
    ):
        sub.add_argument(name, type=type(default), default=default, help=f"{text} ({default})")

    sub = command(predict, "Label images with a trained model; needs no training data.")
    sub.add_argument("images", nargs="+", type=Path, metavar="IMAGE_OR_FOLDER")
    sub.add_argument(
        "--model", help="one that `models` lists, a run in reports/, or a model.keras file"
    )
    sub.add_argument("--out", type=Path, default=Path("result.csv"), help="default: result.csv")
    sub.add_argument(
        "--page", type=Path, metavar="HTML",
        help="also write a page with a picture of each image, the least confident first",
    )  # fmt: skip
    sub.add_argument(
        "--engine", default="auto",
        help="openvino, keras, or auto: the first of them that can; one-pass: faster where patches "
        "are large, and nearly the same labels",
    )  # fmt: skip
    sub.add_argument(
        "--sure", type=number(0, 1, "a confidence"), metavar="CONFIDENCE",
        help="lowest confidence, 0 to 1, that counts as sure (default: as the model's card says)",
    )  # fmt: skip
    sub.add_argument(
        "--resize", type=number(*RANGES["resize"], "a size"), metavar="TIMES",
        help="how many times as large images are read (default: as the model's pages were)",
    )  # fmt: skip

    sub = command(bench, "Measure what a label costs, next to the published procedure.")
    sub.add_argument(
        "images", nargs="*", type=Path, metavar="IMAGE_OR_FOLDER", help="default: generated strips"
    )
    sub.add_argument(
        "--model", action="append", help="as for predict; may be repeated (default: reference-best)"
    )
    sub.add_argument(
        "--quick",
        action="store_true",
        help="four images, labels in float32 on any processor, no whole processes, into "
        "reports/bench-quick; fails where something got worse",
    )
    sub.add_argument(
        "--classes", nargs="+", type=int, default=[],
        help="train on so many generated hands each, such as 70 700; 7000, drawn and learnt, take "
        "half an hour",
    )  # fmt: skip

    command(models, "List the models that come with digitlib, with what is known of each.")

    sub = command(ship, "Put the model of a run among those that come with digitlib.")
    sub.add_argument("run", help="a run in reports/ whose notebooks 03 and 08 are done")
    sub.add_argument("name", help="the name that `models` lists it under")
    sub.add_argument("--limits", default="", help="what it cannot do, in a sentence")

    command(index, "Write reports/index.html afresh, for example after deleting a run.")
    return top


def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    for stream in sys.stdout, sys.stderr:
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # file names hold what they like
    try:
        status = args.job(args)
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # `… | head` has read enough; what was to be done is not done
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141  # as a shell says it
    except (Problem, OSError) as problem:  # such as a full disk, or a folder not to be written to
        print("digitlib: error:", printable_lines(str(problem)[:MOST_SAID]), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ndigitlib: stopped; the same command goes on where it can", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
