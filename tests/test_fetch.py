"""Downloading: against a server on this machine that answers well, wrongly, in part, or not.

In: a made-up list of a few small files, and a script of how the server treats each request.
Out: evidence that what arrives is right, that what is right is kept, and that errors say so.
"""

import hashlib
import os
import socket
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import requests

from digitlib import Problem
from digitlib.fetch import _reason, fetch_reference, missing_files, read_listing

FILES = {
    f"{part}/0{i}_1.png": f"{part} {i} ".encode() * 50 for part in ("train", "test") for i in (1, 2)
}


class Server(ThreadingHTTPServer):
    """Serves FILES below /base/. ``script[name]`` lists what the next requests for it get:
    right, wrong, cut, stall, or a status; after the last of them, right again."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.script: dict[str, list] = {}
        self.requests: Counter = Counter()
        self.closing = threading.Event()  # ends the stalls when the test is over
        self.url = f"http://127.0.0.1:{self.server_port}/base/"


class Answer(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        name = self.path.removeprefix("/base/")
        self.server.requests[name] += 1
        script = self.server.script.get(name, [])
        how = script.pop(0) if script else "right"
        if isinstance(how, int):
            self.send_error(how)
            return
        body = FILES[name] if how != "wrong" else b"a page that says: log in first"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body if how in ("right", "wrong") else body[: len(body) // 2])
        self.wfile.flush()
        if how == "stall":
            self.server.closing.wait(30)

    def log_message(self, *args) -> None:
        """Say nothing: pytest shows what went wrong."""


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")  # a proxy would not find this machine's server
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.closing.set()
        server.shutdown()
        thread.join()


@pytest.fixture
def listing(tmp_path) -> Path:
    lines = [f"{hashlib.sha256(body).hexdigest()}  {name}\n" for name, body in FILES.items()]
    (tmp_path / "list.sha256").write_text("".join(lines))
    return tmp_path / "list.sha256"


@pytest.fixture
def fetch(server, listing, tmp_path):
    """Fetch from the server into ``tmp_path/data``; a stall ends after 2 s."""

    def call(tries: int = 1) -> Path:
        folder = tmp_path / "data"
        return fetch_reference(folder, server.url, listing, timeout=2, tries=tries)

    return call


def there(folder: Path) -> dict[str, bytes]:
    """Every file below the folder, with its bytes: parts left lying about would show."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def without(*names: str) -> dict[str, bytes]:
    return {name: body for name, body in FILES.items() if name not in names}


def test_fetches_all_and_nothing_twice(fetch, server, tmp_path):
    assert fetch() == tmp_path / "data"
    assert there(tmp_path / "data") == FILES
    assert all(path.stat().st_mode & 0o444 == 0o444 for path in tmp_path.glob("data/*/*"))
    assert fetch() == tmp_path / "data"
    assert server.requests == dict.fromkeys(FILES, 1)  # the second call asked for nothing


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("wrong", "not what the SHA-256 list names"),
        ("cut", "it broke off"),
        ("stall", "stalled"),
        (404, "the server answered 404"),
        (503, "the server answered 503"),
    ],
)
def test_a_broken_download_is_named_kept_and_resumed(fetch, server, tmp_path, how, reason):
    bad = "train/02_1.png"
    server.script[bad] = [how]
    with pytest.raises(Problem) as caught:
        fetch()
    for part in (server.url + bad, reason, "3 of 4 files are in", "fetch` (again", "_REFERENCE"):
        assert part in str(caught.value)
    assert there(tmp_path / "data") == without(bad)  # nothing of it, under any name
    server.requests.clear()
    fetch()
    assert server.requests == {bad: 1}  # only what was missing
    assert there(tmp_path / "data") == FILES


def test_a_passing_fault_is_tried_again(fetch, server, tmp_path):
    server.script = {"train/01_1.png": ["cut"], "test/02_1.png": ["stall"]}
    fetch(tries=2)
    assert there(tmp_path / "data") == FILES
    assert server.requests == dict.fromkeys(FILES, 1) | {"train/01_1.png": 2, "test/02_1.png": 2}


def test_a_file_that_was_changed_is_fetched_anew(fetch, server, listing, tmp_path):
    fetch()
    (tmp_path / "data/test/01_1.png").write_bytes(b"changed")
    (tmp_path / "data/test/02_1.png").unlink()
    assert missing_files(tmp_path / "data", listing) == ["test/01_1.png", "test/02_1.png"]
    fetch()
    assert there(tmp_path / "data") == FILES


def test_without_a_server_the_error_says_so(listing, tmp_path, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with socket.create_server(("127.0.0.1", 0)) as closed:
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/"
    with pytest.raises(Problem, match="no connection.* 0 of 4 files"):
        fetch_reference(tmp_path / "data", url, listing, timeout=2, tries=1)


def test_a_folder_that_cannot_be_written_is_named(fetch, tmp_path):
    (tmp_path / "data").write_text("a file where the folder should be")
    with pytest.raises(Problem, match="data/t.* 0 of 4 files"):
        fetch()


def test_many_failures_end_the_attempt(server, tmp_path):
    names = [f"train/{i:03}_1.png" for i in range(300)]
    listing = tmp_path / "long.sha256"
    listing.write_text("".join(f"{'0' * 64}  {name}\n" for name in names))
    server.script = {name: [404] for name in names}
    with pytest.raises(Problem, match="0 of 300 files"):
        fetch_reference(tmp_path / "data", server.url, listing, timeout=2, tries=1)
    assert server.requests.total() < 300  # five failures, and what was under way by then


SUM = "0" * 64


@pytest.mark.parametrize(
    "line",
    [
        f"{SUM}  ../train/01_1.png",  # out of the folder
        f"{SUM}  train/../../01_1.png",
        f"{SUM}  /train/01_1.png",
        f"{SUM}  train/sub/01_1.png",  # deeper than a dataset goes
        f"{SUM}  train\\01_1.png",
        f"{SUM}  train/..",
        f"{SUM}  train/.hidden.png",
        f"{SUM}  other/01_1.png",  # neither train nor test
        f"{SUM[:-1]}  train/01_1.png",  # a digit short
        "train/01_1.png",
        "",
    ],
)
def test_a_list_may_only_name_files_of_a_dataset(tmp_path, line):
    (tmp_path / "list").write_text(f"{SUM}  train/01_1.png\n{line}\n")
    with pytest.raises(Problem, match="bad line"):
        fetch_reference(tmp_path / "data", "http://127.0.0.1:9/", tmp_path / "list")
    assert not (tmp_path / "data").exists()


def test_the_shipped_list():
    names = read_listing()  # which has checked that every line is well formed and every path safe
    train = sorted(name[:8] for name in names if name.startswith("train/"))
    test = sorted(name[:7] for name in names if name.startswith("test/"))
    labels = [f"{number:02}" for number in range(1, 71)]
    assert train == [f"train/{label}" for label in labels]  # a page per class
    assert test == [f"test/{label}" for label in labels for _ in "12"]  # and two strips
    assert len(set(names.values())) == 210  # no two files are the same


@pytest.mark.skipif(
    not os.environ.get("DIGITLIB_REFERENCE"), reason="DIGITLIB_REFERENCE names no reference data"
)
def test_the_shipped_list_matches_the_real_scans():
    folder = Path(os.environ["DIGITLIB_REFERENCE"])
    found = {path.relative_to(folder).as_posix() for path in folder.glob("t*/*.png")}
    assert len(found) >= 140
    assert found.isdisjoint(missing_files(folder))
    assert found <= set(read_listing())


def test_a_certificate_that_is_not_trusted_is_called_that():
    assert "certificate is not trusted" in _reason(requests.exceptions.SSLError("…"))
    assert "no connection" in _reason(requests.exceptions.ConnectionError("…"))
