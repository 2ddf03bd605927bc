"""Every knob of the suite: its type, default, range and reason.

In: UPPER_CASE names of a notebook's parameters cell. Out: one frozen, checked `Settings`.
The defaults are the profile `quick`; notebooks/profiles/paper.yaml holds the original's.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from digitlib import Problem

CHOICES = {
    "split": ("lines", "paper", "none"),
    "pooling": ("average", "vlad"),
    "placement": ("ink", "anywhere"),
    "combine": ("probabilities", "logits", "vote"),
    "layer": (  # where MobileNetV2 can be read, from its input on
        *("Conv1_relu", "expanded_conv_depthwise_relu"),
        *(f"block_{i}_{part}_relu" for i in range(1, 17) for part in ("expand", "depthwise")),
        "out_relu",
    ),
}
ENSEMBLE = ("n_patches", "n_even", "ensemble_seed", "combine")  # may be set after training
HALVE = (1, 3, 6, 13)  # blocks of MobileNetV2 whose map is half as high and wide as the one before
MOST_SCALES = 8  # at which strips are read
MOST_PATCHES = 2**30  # bytes of one strip's
MOST_WEIGHTS = 2**26  # of whitening and labels of VLAD vectors; a model file has them twice


def knob(default: Any, low: float, high: float, **how: Any) -> Any:
    """A number: its default, and the smallest and largest value that means something."""
    return field(default=default, metadata={"range": (low, high)}, **how)


def stride(layer: str) -> int:
    """px of the input to a step on the map of ``layer`` (Sandler et al. 2018, table 2)."""
    if not layer.startswith("block_"):
        return 32 if layer == "out_relu" else 2
    block = int(layer.split("_")[1])
    # Of the blocks that halve the map the depthwise convolution does.
    halved = sum(block > halving or block == halving and "depthwise" in layer for halving in HALVE)
    return 2 ** (1 + halved)


@dataclass(frozen=True)
class Settings:
    """One experiment. `Settings.of(globals())` reads a notebook's parameters."""

    # data
    dataset: str = "digits"  # digits, hands, reference, or a folder with train/ and test/
    classes: int = knob(70, 2, 10_000)  # of a generated data set
    seed: int = knob(1, 0, 2**32 - 1)  # of everything random
    resize: float = knob(1.0, 0.05, 20)  # of all images when they are read: lines 100 px apart
    text: float = knob(1.0, 0.01, 1)  # share of each page, from its top, that is learnt from
    # MB in memory, each, of images, strips, features, votes; more is in files: the same results
    memory: int = knob(2000, 0, 10_000_000, compare=False)
    # enhancement of a strip
    clahe_clip: float = knob(2.0, 0, 100)  # CLAHE's clip limit; 0 leaves it out
    clahe_tiles: int = knob(8, 1, 64)  # tiles each way
    blur: int = knob(3, 0, 31)  # px, Gaussian kernel, odd; 0 leaves it out
    fit_height: bool = False  # enlarge or reduce a test image to the strip height
    # strips and patches
    strip_height: int = knob(300, 32, 4096)  # px
    strip_step: int = knob(80, 1, 4096)  # px from one strip's top to the next
    split: str = "lines"  # validation strips: lines (share no row), paper (leaks), none (all train)
    patch_size: int = knob(128, 16, 2048)  # px on the page
    placement: str = "ink"  # patches centred on ink, or anywhere
    scale: float = knob(0.5, 0.05, 4)  # px of the network's input to a px of the page
    # augmentation
    rotation: float = knob(0.02, 0, 0.5)  # of a full turn, either way
    translation: float = knob(0.05, 0, 0.5)  # of the patch
    zoom: float = knob(0.05, 0, 0.9)
    slant: float = knob(0.0, 0, 1)  # px to the side for each px up, either way
    contrast: float = knob(0.2, 0, 0.99)
    thickness: float = knob(0.3, 0, 1)  # how often the pen is made thinner or thicker
    # network
    width: float = knob(1.0, 0.1, 2)  # MobileNetV2's alpha
    weights: str = "handwriting"  # handwriting (shipped), imagenet (downloaded), none, or a file
    layer: str = "block_6_expand_relu"  # where the backbone is read
    pooling: str = "average"  # of a patch's features, or vlad: local features of a whole strip
    dropout: float = knob(0.2, 0, 0.99)
    # training
    batch_size: int = knob(64, 1, 4096)
    steps: int = knob(60, 1, 1_000_000)  # batches an epoch of the second phase
    views: int = knob(2, 0, 1000)  # augmented views whose features phase 1 caches; 0: none
    view_patches: int = knob(20, 1, 10_000)  # patches of each strip in a view
    head_epochs: int = knob(20, 0, 10_000)
    head_rate: float = knob(5e-3, 0, 10)
    head_smoothing: float = knob(0.05, 0, 0.99)
    tune_epochs: int = knob(12, 0, 10_000)
    tune_layers: int = knob(200, 0, 1000)  # how many of the backbone's last layers train in phase 2
    tune_rate: float = knob(2e-3, 0, 10)
    tune_smoothing: float = knob(0.03, 0, 0.99)
    averaging: float = knob(0.98, 0, 0.9999)  # of phase 2's weights: share kept a step; 0: none
    patience: int = knob(5, 1, 10_000)  # epochs without gain on validation strips end a phase
    mixed_precision: bool = False  # float16 arithmetic, for GPUs
    # whole strips (pooling vlad)
    vlad_layers: str = "block_2_expand_relu block_3_expand_relu block_6_expand_relu"  # all read
    vlad_scales: str = ""  # strips are read at each, logits added; empty is SCALE alone
    codebooks: int = knob(4, 1, 64)  # of each layer
    clusters: int = knob(32, 2, 4096)  # centres of a codebook
    components: int = knob(32, 2, 1024)  # that a local feature is whitened to
    whitened: int = knob(400, 2, 4096)  # principal components of a strip's vector that are whitened
    shrinkage: float = knob(0.01, 0, 1)  # of the covariance within classes; 1: over all alone
    pen_change: float = knob(0.7, 0, 3)  # px that further examples' pen is wider or narrower
    size_change: float = knob(0.07, 0, 0.5)  # share by which further examples are larger or smaller
    slant_change: float = knob(0.06, 0, 1)  # px to the side for each px up, either way
    examples: int = knob(20_000, 100, 10_000_000)  # vectors held at once, and the most for one SVM
    svm_c: float = knob(0.3, 1e-6, 1e6)  # weight of the errors in the SVM's loss
    temperature: float = knob(1.0, 1e-3, 1e3)  # the logits are divided by it
    # ensemble
    n_patches: int = knob(35, 1, 10_000)  # per strip
    n_even: int = knob(15, 0, 10_000)  # of them evenly spaced, the others random
    ensemble_seed: int = knob(123, 0, 2**32 - 1)
    combine: str = "probabilities"  # mean of probabilities, mean of logits, or vote

    def __post_init__(self) -> None:
        for item in fields(self):
            value, kind = getattr(self, item.name), item.type
            if kind is float and type(value) is int:
                object.__setattr__(self, item.name, float(value))
            elif type(value) is not kind:
                wanted = kind.__name__
                raise Problem(f"{item.name.upper()} must be {wanted}, not {value!r}")
            low, high = RANGES.get(item.name, (None, None))
            if low is not None and not low <= value <= high:
                raise Problem(f"{item.name.upper()} must be from {low} to {high}, not {value!r}")
            if item.name in CHOICES and value not in CHOICES[item.name]:
                from difflib import get_close_matches  # not needed where all is well

                near = get_close_matches(value[:80], CHOICES[item.name], 5, cutoff=0)
                shown = [choice for choice in CHOICES[item.name] if choice in near]
                more = " …" if len(shown) < len(CHOICES[item.name]) else ""
                raise Problem(
                    f"{item.name.upper()} must be one of {', '.join(shown)}{more}, not {value!r}"
                )
        if self.n_even > self.n_patches:
            raise Problem(f"N_EVEN ({self.n_even}) cannot exceed N_PATCHES ({self.n_patches})")
        if self.blur and self.blur % 2 == 0:
            raise Problem(f"BLUR must be odd, or 0 for none, not {self.blur}")
        within = CHOICES["layer"][: CHOICES["layer"].index(self.layer) + 1]
        names = set(self.vlad_layers.split())
        if self.pooling == "vlad" and not (names and names <= set(within)):
            raise Problem(
                f"VLAD_LAYERS {self.vlad_layers!r}: name layers up to LAYER, with blanks between: "
                f"{', '.join(within)}"
            )
        if self.fit_height and self.pooling == "vlad":
            raise Problem("FIT_HEIGHT is for patches; with POOLING vlad strips keep their size")
        if not 32 <= self.input_size <= 1024:
            raise Problem(f"PATCH_SIZE x SCALE must be 32 to 1024 px, not {self.input_size}")
        if self.n_patches * self.input_size**2 > MOST_PATCHES:
            raise Problem(
                f"N_PATCHES of {self.input_size} px a side must be less: they fill memory"
            )
        self.check_classes(2)

    def check_classes(self, n: int) -> None:
        """Raise Problem if whitening and labels of ``n`` classes make more than MOST_WEIGHTS."""
        vector = self.codebooks * self.clusters * self.components
        layers = len(self.vlad_layers.split()) * len(self.scales)
        if max(vector, n) * self.whitened * layers > MOST_WEIGHTS:
            raise Problem(
                f"CODEBOOKS x CLUSTERS x COMPONENTS ({vector}) or {n} classes, times WHITENED and "
                f"layers, make more than {MOST_WEIGHTS:,} weights: lower one of them"
            )

    @property
    def recipe(self) -> dict[str, Any]:
        """Name -> value of all that results depend on: without ``memory``."""
        return {item.name: getattr(self, item.name) for item in fields(self) if item.compare}

    @property
    def input_size(self) -> int:
        """Side of the network's input, px."""
        return round(self.patch_size * self.scale)

    @property
    def held(self) -> int:
        """What `memory` is in bytes."""
        return self.memory * 10**6

    @property
    def scales(self) -> list[float]:
        """At which whole strips are read; raises Problem."""
        try:
            scales = [float(scale) for scale in self.vlad_scales.split()] or [self.scale]
        except ValueError:
            scales = [0.0]
        low, high = RANGES["scale"]
        if not all(low <= scale <= high for scale in scales) or not len(scales) <= MOST_SCALES:
            raise Problem(
                f"VLAD_SCALES must be up to {MOST_SCALES} numbers from {low} to {high} with blanks "
                f"between, not {self.vlad_scales!r}"
            )
        return scales

    @property
    def strides(self) -> list[int]:
        """Of the layers at which whole strips are read, the finest first."""
        return sorted({stride(layer) for layer in self.vlad_layers.split()})

    @classmethod
    def of(cls, parameters: Mapping[str, Any]) -> "Settings":
        """Settings from UPPER_CASE names, such as a notebook's ``globals()``; others are left."""
        names = {item.name for item in fields(cls)}
        return cls(**{n: parameters[n.upper()] for n in names if n.upper() in parameters})


RANGES = {f.name: f.metadata["range"] for f in fields(Settings) if f.metadata}
