"""Downloads the reference data: 210 real scans, from the upstream repository at one commit.

In: the list of paths and SHA-256 sums beside this file, and a network.
Out: a dataset folder in which every file has been checked against that list.
"""

import re
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from digitlib import DATA, Problem, progress_bar

COMMIT = "4c023d4eda6bdfa710da280214dad7d0e076fbef"
UPSTREAM = f"https://raw.githubusercontent.com/mh2des/handwritten-digit-recognition/{COMMIT}/"
CURES = (
    "run `python -m digitlib fetch` (again: it goes on where it stopped), or set the environment "
    "variable DIGITLIB_REFERENCE to a folder that holds the reference data"
)
LISTING = Path(__file__).with_name("reference.sha256")
# A path from the list is written to, so it may only be one plain name below train/ or test/.
LINE = re.compile(r"([0-9a-f]{64})  ((?:train|test)/[A-Za-z0-9][A-Za-z0-9._-]*)")
THREADS = 4  # the files are small, so waiting for answers is what takes the time
GIVE_UP = 5  # failed files; without a network the other 205 need not be tried as well


def read_listing(listing: Path = LISTING) -> dict[str, str]:
    """The paths and SHA-256 sums in a list as ``sha256sum`` writes it; raises Problem."""
    hashes = {}
    for line in listing.read_text(encoding="ascii").splitlines():
        match = LINE.fullmatch(line)
        if not match:
            raise Problem(f"{listing}: bad line {line!r}; expected a SHA-256, then train/ or test/")
        hashes[match[2]] = match[1]
    return hashes


def missing_files(folder: Path, listing: Path = LISTING) -> list[str]:
    """The listed paths that are not in the folder, or not with the listed bytes."""
    import pooch  # slow, and only this module needs it

    folder = Path(folder)
    return [
        name
        for name, sha256 in read_listing(listing).items()
        if not (folder / name).is_file() or pooch.file_hash(folder / name) != sha256
    ]


def fetch_reference(
    folder: Path = DATA / "reference",
    base_url: str = UPSTREAM,
    listing: Path = LISTING,
    timeout: float = 30,
    tries: int = 3,
) -> Path:
    """Download into ``folder`` what it lacks of ``listing``; raises Problem if some is missing.

    A file appears under its name only when it is whole and its SHA-256 is right, so a broken
    download goes on where it stopped. ``timeout``: s without a byte before a try counts as failed.
    """
    import pooch

    folder, names = Path(folder), read_listing(listing)
    wanted = missing_files(folder, listing)
    store = pooch.Pooch(
        path=folder,
        base_url=base_url.rstrip("/") + "/",
        registry={name: f"sha256:{names[name]}" for name in wanted},
        retry_if_failed=tries - 1,
    )
    pooch.get_logger().setLevel("WARNING")  # a line per file would tear the progress bar

    def fetch(name: str) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)  # pooch's own may race
        path = store.fetch(name, downloader=pooch.HTTPDownloader(timeout=timeout))
        Path(path).chmod(0o644)  # pooch leaves it readable to its owner only

    failed: dict[str, Exception] = {}
    pool = ThreadPoolExecutor(THREADS)
    try:
        tasks = {pool.submit(fetch, name): name for name in wanted}
        with progress_bar(None, desc="fetching", total=len(names), unit="file") as bar:
            bar.update(len(names) - len(wanted))
            for task in as_completed(tasks):
                if error := task.exception():
                    failed[tasks[task]] = error
                if len(failed) >= GIVE_UP:
                    break
                bar.update()
    finally:
        pool.shutdown(cancel_futures=True)  # also on Ctrl-C: no file is begun after it
    if failed:
        name, error = next(iter(failed.items()))
        kept = len(names) - len(missing_files(folder, listing))
        raise Problem(
            f"{len(failed)} files could not be fetched, the first {store.get_url(name)}: "
            f"{_reason(error)}. {kept} of {len(names)} files are in {folder}; {CURES}"
        ) from error
    return folder


def _reason(error: Exception) -> str:
    """Why a download failed, in words: what requests says names its own objects."""
    import requests

    if isinstance(error, requests.HTTPError):
        return f"the server answered {error.response.status_code}"
    if isinstance(error, requests.Timeout) or "timed out" in str(error):
        return "the server stalled"
    if isinstance(error, requests.exceptions.SSLError):
        return "its certificate is not trusted (a proxy's own? name that in REQUESTS_CA_BUNDLE)"
    if isinstance(error, requests.RequestException):
        return "no connection, or it broke off"
    if isinstance(error, ValueError):
        return "what came is not what the SHA-256 list names"
    return str(error)
