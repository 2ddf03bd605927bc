"""Settings: types, ranges and choices are checked, and the profiles say what they promise.

In: values as a notebook or a profile may give them. Out: Settings, or a named error.
"""

import dataclasses
import math

import pytest

import digitlib
from digitlib import Problem, train
from digitlib.parameters import read_profile
from digitlib.settings import CHOICES, RANGES, Settings

# design.md's 'Settings of the original', sentence by sentence.
PUBLISHED = {
    "clahe_clip": 2.0,
    "clahe_tiles": 8,
    "blur": 3,
    "fit_height": True,
    "strip_height": 300,
    "strip_step": 80,
    "split": "paper",
    "patch_size": 300,
    "scale": 1.0,
    "placement": "anywhere",
    "rotation": 0.02,
    "translation": 0.05,
    "zoom": 0.05,
    "contrast": 0.2,
    "thickness": 0.0,
    "width": 1.0,
    "weights": "imagenet",
    "layer": "out_relu",
    "dropout": 0.5,
    "batch_size": 32,
    "steps": 250,
    "views": 0,
    "head_epochs": 20,
    "head_rate": 1e-3,
    "head_smoothing": 0.05,
    "tune_epochs": 30,
    "tune_layers": 40,
    "tune_rate": 2e-5,
    "tune_smoothing": 0.03,
    "averaging": 0.0,
    "patience": 5,
    "n_patches": 35,
    "n_even": 15,
    "ensemble_seed": 123,
    "combine": "probabilities",
    "pooling": "average",
    "slant": 0.0,
}
VLAD = (
    "text vlad_layers codebooks clusters components whitened pen_change size_change"
    " slant_change shrinkage svm_c temperature vlad_scales examples"
)


@pytest.mark.parametrize(("name", "value"), PUBLISHED.items())
def test_the_paper_profile_has_the_published_value(name, value):
    got = getattr(Settings.of(read_profile("paper")), name)
    assert got == value and type(got) is type(value)


def test_the_paper_profile_sets_nothing_else():
    # What is left is no setting of the system: what to read, from which seed, and how to compute.
    rest = {field.name for field in dataclasses.fields(Settings)} - set(PUBLISHED)
    unused = {*VLAD.split(), "view_patches", "mixed_precision"}
    assert rest == {"dataset", "classes", "seed", "memory", "resize"} | unused
    assert {name.lower() for name in read_profile("paper")} == set(PUBLISHED)


def test_the_original_halves_the_rate_after_two_epochs_down_to_a_millionth():
    assert (train.PLATEAU, train.FLOOR) == (2, 1e-6)


def test_the_quick_profile_is_the_defaults():
    assert Settings.of(read_profile("quick")) == Settings()


def test_the_defaults_are_what_issues_promise():
    settings = Settings()
    assert settings.dataset == "digits" and settings.classes == 70
    assert settings.split == "lines" and settings.weights == "handwriting"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("classes", 2),  # the fewest that can be told apart
        ("clahe_clip", 0),  # no CLAHE; an int where a float is meant
        ("clahe_clip", 0.0),
        ("blur", 0),
        ("strip_height", 32),  # the lowest image that the loader takes
        ("thickness", 1),  # every patch
        ("scale", 0.25),  # 128 px times 0.25 is the smallest input, 32 px
        ("scale", 4.0),
        ("patch_size", 64),
        ("seed", 0),
        ("seed", 2**32 - 1),  # the largest that a SeedGenerator holds
        ("dropout", 0.99),
        ("views", 0),  # the original's procedure
        ("head_epochs", 0),
        ("tune_rate", 0),
        ("n_even", 35),  # all of them
        ("n_even", 0),
        ("n_patches", 15),  # none random
        ("split", "paper"),
        ("placement", "anywhere"),
        ("combine", "vote"),
        ("weights", "some/file.weights.h5"),  # checked when it is read
    ],
)
def test_settings_take(name, value):
    settings = Settings(**{name: value})
    assert getattr(settings, name) == value
    assert type(getattr(settings, name)) is type(getattr(Settings(), name))


@pytest.mark.parametrize(
    ("name", "value", "complaint"),
    [
        ("classes", 1, "CLASSES must be from 2 to 10000"),  # nothing to tell apart
        ("classes", 70.0, "CLASSES must be int"),  # a float that is whole
        ("classes", "70", "CLASSES must be int, not '70'"),
        ("classes", True, "CLASSES must be int"),  # bool is an int to Python
        ("classes", None, "CLASSES must be int"),
        ("fit_height", 1, "FIT_HEIGHT must be bool"),
        ("fit_height", "true", "FIT_HEIGHT must be bool"),
        ("clahe_clip", "2.0", "CLAHE_CLIP must be float"),
        ("clahe_clip", False, "CLAHE_CLIP must be float"),
        ("clahe_clip", -0.1, "CLAHE_CLIP must be from 0"),
        ("clahe_clip", math.nan, "CLAHE_CLIP must be from 0"),
        ("clahe_clip", math.inf, "CLAHE_CLIP must be from 0 to 100"),
        ("head_rate", math.nan, "HEAD_RATE must be from 0"),
        ("seed", -1, "SEED must be from 0"),  # numpy refuses it too, but later
        ("seed", 2**32, "SEED must be from 0"),
        ("ensemble_seed", -1, "ENSEMBLE_SEED must be from 0"),
        ("strip_step", 0, "STRIP_STEP must be from 1"),  # would never get down the page
        ("dropout", 1, "DROPOUT must be from 0 to 0.99"),  # would leave nothing
        ("split", "line", "SPLIT must be one of lines, paper, none, not 'line'"),  # a near miss
        ("split", "Lines", "SPLIT must be one of"),
        ("split", "lines ", "SPLIT must be one of"),
        ("placement", "", "PLACEMENT must be one of ink, anywhere"),
        ("combine", "mean", "COMBINE must be one of probabilities, logits, vote"),
        ("n_even", 36, r"N_EVEN \(36\) cannot exceed N_PATCHES \(35\)"),
        ("n_patches", 14, r"N_EVEN \(15\) cannot exceed N_PATCHES \(14\)"),
        ("patch_size", 62, "PATCH_SIZE x SCALE must be 32 to 1024 px, not 31"),
        ("scale", 0.24, "PATCH_SIZE x SCALE must be 32 to 1024 px, not 31"),
        ("blur", 4, "BLUR must be odd, or 0 for none, not 4"),  # OpenCV takes odd kernels only
        ("layer", "block_99_relu", "LAYER must be one of .*_relu …, not 'block_99_relu'"),
        # Before its activation:
        ("layer", "block_6_expand", "LAYER must be one of .*block_6_expand_relu, "),
        ("patch_size", 2048, None),  # 1024 px: the largest input, for contrast
        ("patch_size", 2049, "PATCH_SIZE must be from 16 to 2048"),
    ],
)
def test_settings_refuse(name, value, complaint):
    if complaint is None:
        assert Settings(**{name: value}).input_size == 1024
        return
    with pytest.raises(Problem, match=complaint):
        Settings(**{name: value})


def test_every_number_has_a_range_and_every_default_lies_in_it():
    numbers = {f.name for f in dataclasses.fields(Settings) if f.type in (int, float)}
    assert numbers == set(RANGES)
    for name, (low, high) in RANGES.items():
        assert low <= getattr(Settings(), name) <= high
    assert set(CHOICES) <= {f.name for f in dataclasses.fields(Settings) if f.type is str}


def test_settings_of_a_notebook_leaves_what_is_not_a_setting():
    names = {"CLASSES": 5, "classes": 9, "RUN": "lab", "np": digitlib, "_": 3, "CLASSSES": 4}
    assert Settings.of(names) == Settings(classes=5)
    assert Settings.of({}) == Settings()


def test_settings_of_checks_what_it_takes():
    with pytest.raises(Problem, match="SPLIT must be one of"):
        Settings.of({"SPLIT": "half"})


def test_settings_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Settings().seed = 2


@pytest.mark.parametrize(
    ("patch_size", "scale", "size"),
    [
        (128, 0.5, 64),  # the default
        (300, 1.0, 300),  # the original
        (300, 0.75, 225),
        (67, 0.5, 34),  # 33.5 to the even neighbour
        (64, 0.51, 33),  # 32.64
    ],
)
def test_input_size(patch_size, scale, size):
    assert Settings(patch_size=patch_size, scale=scale).input_size == size


def test_a_vlad_vector_that_no_memory_holds_is_refused():
    with pytest.raises(Problem, match="CLUSTERS"):
        Settings(codebooks=64, clusters=4096, components=1024, whitened=4096)


@pytest.mark.parametrize("layers", ["", " ", "block_7_expand_relu", "no_such_layer"])
def test_vlad_layers_that_cannot_be_read_are_named(layers):
    """The default LAYER is block_6_expand_relu: what lies beyond it is never reckoned."""
    Settings(vlad_layers=layers)  # of no account to patches
    with pytest.raises(Problem, match="VLAD_LAYERS .*block_6_expand_relu$"):
        Settings(vlad_layers=layers, pooling="vlad")


def test_whole_strips_cannot_be_fitted_to_a_height():
    """A page would shrink to a strip's height, and be nothing to learn from."""
    with pytest.raises(Problem, match="FIT_HEIGHT is for patches"):
        Settings(pooling="vlad", fit_height=True)


@pytest.mark.parametrize(
    ("text", "expected"), [("", [0.5]), ("0.7", [0.7]), (" 0.5  1 ", [0.5, 1.0])]
)
def test_scales_of_whole_strips(text, expected):
    assert Settings(vlad_scales=text).scales == expected


@pytest.mark.parametrize("text", ["half", "0", "0.5,0.7", "nan", "-1", "9", " ".join(["1"] * 9)])
def test_scales_that_are_none_are_refused(text):
    with pytest.raises(Problem, match="VLAD_SCALES must be up to 8 numbers"):
        Settings(vlad_scales=text)
