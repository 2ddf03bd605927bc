"""What several test modules share: tiny data sets, a tiny network's settings, the real scans.

In: pytest. Out: fixtures; the data sets are written once a session, the home folders once a test.
"""

import os
from pathlib import Path

import cv2
import hypothesis
import numpy as np
import pytest

import digitlib
from digitlib.dataset import Dataset, load_dataset
from digitlib.handwriting import write_dataset
from digitlib.settings import Settings

os.environ["TQDM_DISABLE"] = "1"  # no progress bars
# No deadline: a shared machine stalls now and then. No database: a run forgets the last one.
hypothesis.settings.register_profile("digitlib", deadline=None, max_examples=50, database=None)
hypothesis.settings.load_profile("digitlib")


def ruled_lines(image: np.ndarray) -> int:
    """How many ruled lines an (h, w) uint8 image shows: bands of rows with long level runs."""
    dark = (image < 128).astype(np.uint8)
    level = cv2.morphologyEx(dark, cv2.MORPH_OPEN, np.ones((1, 60), np.uint8)).mean(axis=1)
    # A line that slopes, or is one pixel thin, has its runs spread over some nine rows.
    ruled = np.convolve(level, np.ones(9), "same") > 0.35
    return int((np.diff(ruled.astype(int), prepend=0) == 1).sum())


@pytest.fixture(scope="session")
def digits_folder(tmp_path_factory) -> Path:
    """The numbers 01 to 03; test/03_2.png is the tall one."""
    folder = tmp_path_factory.mktemp("data") / "digits-3-1"
    return write_dataset("digits", folder, classes=3, seed=1)


@pytest.fixture(scope="session")
def hands_folder(tmp_path_factory) -> Path:
    """Six hands, a page and two strips each."""
    folder = tmp_path_factory.mktemp("data") / "hands-6-1"
    return write_dataset("hands", folder, classes=6, seed=1)


@pytest.fixture(scope="session")
def digits(digits_folder) -> Dataset:
    return load_dataset(digits_folder)


@pytest.fixture(scope="session")
def hands(hands_folder) -> Dataset:
    return load_dataset(hands_folder)


@pytest.fixture(scope="session")
def reference() -> Dataset:
    """The real scans; a test that asks for them is skipped where there are none."""
    if not os.environ.get("DIGITLIB_REFERENCE"):
        pytest.skip("DIGITLIB_REFERENCE names no reference data")
    return load_dataset("reference")


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """A project folder of its own for one test."""
    monkeypatch.setattr(digitlib, "DATA", tmp_path / "data")
    monkeypatch.setattr(digitlib, "REPORTS", tmp_path / "reports")
    return tmp_path


@pytest.fixture(scope="session")
def tiny() -> Settings:
    """The smallest network that still has every part: 32 px input, a tenth of the channels."""
    return Settings(
        dataset="tiny",
        weights="none",
        width=0.1,
        patch_size=64,
        scale=0.5,
        batch_size=8,
        steps=4,
        views=2,
        view_patches=3,
        head_epochs=3,
        tune_epochs=3,
        tune_layers=20,
        tune_rate=1e-3,
        n_patches=6,
        n_even=4,
    )
