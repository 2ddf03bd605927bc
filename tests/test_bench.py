"""The bench: the published procedure step by step, and that ours labels as Keras does.

In: real strips, or generated ones. Out: labels, never seconds.
"""

from dataclasses import replace

import cv2
import numpy as np

from digitlib import bench, ensemble, model, shipped
from digitlib.results import combine


def test_the_published_procedure_is_the_ensemble_patch_by_patch(hands, tmp_path):
    settings = bench.paper()
    network = model.build(5, settings).whole
    page = replace(hands.test[0], image=hands.test[0].image[:300])
    cv2.imwrite(str(tmp_path / "a_1.png"), page.image)
    exact = combine(ensemble.vote(network, page, settings).logits)
    found = bench.original(network, settings)(tmp_path / "a_1.png")
    np.testing.assert_allclose(found, exact, atol=1e-5)


def test_the_engine_gives_the_labels_of_keras(reference):
    name = shipped.DEFAULT
    files = [page.path for page in reference.test[:4]]
    rows = bench.compared(files, [name], progress=False)
    same = {row["name"]: row["same"] for row in rows if row["same"] is not None}
    assert same == {f"{name}, openvino": 4, f"{name}, keras": 4}
