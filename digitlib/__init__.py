"""digitlib: recognise handwriting from one page per class.

In: pages and strips named ``{label}_{anything}.png``. Out: predictions, and evidence about them.
The flow, a file a step: dataset, light, strips, patches, model, train, ensemble, evaluate, report.
"""

import json
import os
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__version__ = "0.1.0"

# TensorFlow's start-up banner drowns what a reader came for; set TF_CPP_MIN_LOG_LEVEL to see it.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

for _folder in "DIGITLIB_HOME", "DIGITLIB_REFERENCE":  # notebooks run in a folder of their own
    if os.environ.get(_folder):
        os.environ[_folder] = os.path.abspath(os.environ[_folder])
ROOT = Path(os.environ.get("DIGITLIB_HOME", Path(__file__).resolve().parent.parent))
DATA = ROOT / "data"
REPORTS = ROOT / "reports"


class Problem(ValueError):
    """Something a user can mend: the message names the file or the setting, and the cure."""


def printable(what: Any) -> str:
    """It as text to be printed: a name, or a file, may hold control characters, or no UTF-8."""
    text = str(what)
    return text if text.isprintable() else ascii(text)[1:-1]


def printable_lines(text: str) -> str:
    """Each line of ``text`` as `printable` shows it."""
    return "\n".join(map(printable, text.splitlines()))


def cores() -> int:
    """How many processor cores this process may use."""
    usable = getattr(os, "sched_getaffinity", None)  # Linux only
    return len(usable(0)) if usable else os.cpu_count() or 1


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a path beside ``path`` to write to; rename it into place if the block succeeds.

    A reader of ``path`` sees the old file or the new one, never half of one.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    ending = "".join(path.suffixes[-2:])
    aside = path.with_name(f".partial-{secrets.token_hex(8)}{ending}")
    try:
        yield aside
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """``value``, of what JSON can hold, as the whole file ``path``."""
    with whole_file(path) as aside:
        text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False)
        aside.write_text(text + "\n", encoding="utf-8")


def progress_bar(items: Any = None, **how: Any) -> Any:
    """A tqdm bar that goes when it is done; none where TQDM_DISABLE is set.

    ``how``: tqdm's own desc, total, unit and so on.
    """
    if "ipykernel" in sys.modules:
        from tqdm.auto import tqdm  # drawn as a widget
    else:
        from tqdm import tqdm  # and imported in half the time

    hidden = bool(os.environ.get("TQDM_DISABLE"))  # tqdm's widgets do not heed it by themselves
    return tqdm(items, disable=hidden, leave=False, **how)
