"""The bench: the published procedure step by step, and that ours has not become slow or wrong.

In: real strips, or generated ones. Out: ratios within one run, never seconds.
"""

from dataclasses import replace

import cv2
import numpy as np
import pytest

from digitlib import bench, ensemble, model, shipped
from digitlib.results import combine

TIMES = {"paper, openvino": 30, "reference-best, openvino": 40}  # as fast as the original: targets


def test_the_published_procedure_is_the_ensemble_patch_by_patch(hands, tmp_path):
    settings = bench.paper()
    network = model.build(5, settings).whole
    page = replace(hands.test[0], image=hands.test[0].image[:300])
    cv2.imwrite(str(tmp_path / "a_1.png"), page.image)
    exact = combine(ensemble.vote(network, page, settings).logits)
    found = bench.original(network, settings)(tmp_path / "a_1.png")
    np.testing.assert_allclose(found, exact, atol=1e-5)


@pytest.fixture(scope="module")
def quick(reference) -> dict:
    names = [shipped.DEFAULT]
    return bench.bench([reference.folder / "test"], names, quick=True, progress=False)


def test_no_procedure_has_fallen_to_half_its_target(quick):
    times = {row["name"]: row["times"] for row in quick["labels"]}
    assert {name for name, least in TIMES.items() if times[name] < least / 2} == set()


def test_the_engine_gives_the_labels_of_keras(reference):
    name = shipped.DEFAULT
    files = [page.path for page in reference.test[:4]]
    rows = bench.compared(files, [name], progress=False)
    same = {row["name"]: row["same"] for row in rows if row["same"] is not None}
    assert same == {f"{name}, openvino": 4, f"{name}, keras": 4}
