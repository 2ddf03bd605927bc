"""VLAD: what the local features of a whole strip add up to, and a linear SVM that labels the sums.

In: pages and a backbone. Out: a Keras model from a strip of any size (`strips.network_inputs`) to
logits (1, classes), in one pass. Vectors of locally aggregated descriptors: Jégou et al. 2010.
"""

import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops
from sklearn.cluster import MiniBatchKMeans
from sklearn.covariance import shrunk_covariance
from sklearn.decomposition import PCA
from sklearn.svm import LinearSVC

from digitlib import Problem, cores, engine, progress_bar
from digitlib.dataset import Page
from digitlib.settings import Settings, stride
from digitlib.strips import enhance, network_inputs, split_tops, strip_tops
from digitlib.variants import pen, resized

LEAST_KEPT = 64  # directions of a whitened VLAD vector, however few the classes
LEARNT_FROM = 30_000  # local features that whitening and codebooks are learnt from
MOST_SAMPLED = 128  # sheets that these come from
LEAST_SUM = 1e-3  # length of a centre's differences, in whitened units: less is rounding
BEYOND = 1e9  # more than any feature is near to a centre
STEP = 128  # numbers of positions are rounded up to its multiples: each is new to OpenVINO once
LESS_TEXT = 3  # so much lower than a strip are further windows: one line where a strip has three


@keras.saving.register_keras_serializable("digitlib")
class Vlad(keras.layers.Layer):
    """[features (1, h, w, c), ink (1, h, w), 1 or 0] -> (1, codebooks * clusters * d).

    Square roots of the features (none below 0) on ink, whitened to ``d`` components; each one's
    difference from its nearest centre, summed per centre; unit length per centre, so that the most
    frequent strokes do not drown the others (intra-normalisation: Arandjelović and Zisserman 2013);
    signed square root (power normalisation: Perronnin et al. 2010) and unit length per codebook.
    Several codebooks: Jégou and Chum 2012.
    """

    def __init__(
        self, stride: int, codebooks: int, clusters: int, components: int, scale: float = 1.0, **how
    ) -> None:
        """``stride``: px of the network's input; ``scale``: such px to a px of the page."""
        super().__init__(**{"trainable": False, "dtype": "float32"} | how)
        self.stride, self.scale, self.shape = stride, scale, (codebooks, clusters, components)
        self.size = clusters * components  # of one codebook's part of a vector

    def get_config(self) -> dict:
        codebooks, clusters, components = self.shape
        own = {"codebooks": codebooks, "clusters": clusters, "components": components}
        return super().get_config() | {"stride": self.stride, "scale": self.scale} | own

    def build(self, shapes) -> None:
        channels = shapes[0][-1]
        self.mean = self.add_weight(shape=(channels,), name="mean")
        self.whiten = self.add_weight(shape=(channels, self.shape[2]), name="whiten")
        self.centres = self.add_weight(shape=self.shape, name="centres")

    def compute_output_shape(self, shapes) -> tuple:
        return 1, self.shape[0] * self.size

    def _positions(self, ink):
        """Which of the (all,) positions to look at: those with ``ink``, then some beyond the last,
        which stand for none: (m,) int, m a multiple of STEP."""
        if keras.backend.backend() == "jax":  # compiles for shapes that it knows: it looks at all
            return ops.arange(ops.shape(ink)[0])
        spare = ops.arange(STEP, dtype="float32") >= ops.sum(ink) % STEP
        return ops.nonzero(ops.concatenate([ink, ops.cast(spare, "float32")]))[0]

    def local(self, features, ink):
        """The positions on ink, of a strip about one in eight, from the top down.

        (m, codebooks, clusters), 1 for the centres that each is nearest to, else 0; (m, components)
        its whitened features; (m,) int, its row on the map. Some more at the end, which are not on
        ink, have 0 for all centres.
        """
        columns = ops.shape(ink)[2]
        ink = ops.cast(ops.reshape(ink, (-1,)), "float32")
        at, everywhere = self._positions(ink), ops.shape(ink)[0]
        on_ink = ops.take(ink, at % everywhere) * ops.cast(at < everywhere, "float32")
        features = ops.reshape(features, (-1, self.mean.shape[0]))
        features = ops.cast(ops.take(features, at % everywhere, axis=0), "float32")
        # The product keeps OpenVINO from taking roots before it takes positions.
        rooted = ops.sqrt(features * on_ink[:, None])
        whitened = ops.matmul(rooted - self.mean, self.whiten)
        codebooks, clusters, components = self.shape
        centres = ops.reshape(self.centres, (codebooks * clusters, components))
        near = ops.matmul(whitened, ops.transpose(centres)) - ops.sum(centres**2, -1) / 2
        near = ops.reshape(near, (-1, codebooks, clusters))
        nearest = ops.max(near, 2, keepdims=True)
        nearest += BEYOND * (1 - on_ink[:, None, None])
        return ops.cast(ops.equal(near, nearest), "float32"), whitened, at // columns

    def vectors(self, sums, numbers):
        """(n, codebooks, clusters, components) whitened features added up per nearest centre, and
        (n, codebooks, clusters), how many -> (n, codebooks * clusters * components)."""
        sums = ops.normalize(sums - numbers[..., None] * self.centres, epsilon=LEAST_SUM)
        sums = ops.reshape(sums, (-1, self.shape[0], self.size))
        rooted = ops.normalize(ops.sign(sums) * ops.sqrt(ops.abs(sums)), epsilon=1e-9)
        return ops.reshape(rooted, (-1, self.shape[0] * self.size))

    def call(self, inputs):
        member, whitened, _ = self.local(*inputs)
        flat = ops.reshape(member, (-1, self.shape[0] * self.shape[1]))
        sums = ops.reshape(ops.matmul(ops.transpose(flat), whitened), (1, *self.shape))
        return self.vectors(sums, ops.sum(member, 0, keepdims=True))

    def of_windows(
        self, local: Sequence[np.ndarray], windows: Sequence[tuple[float, float]]
    ) -> np.ndarray:
        """(windows, d): vectors of ``windows``, top and bottom in px of the page, of `local`."""
        member, whitened, row = map(ops.convert_to_numpy, local)
        if keras.backend.backend() == "jax":  # most positions are not on ink
            on_ink = np.flatnonzero(member[:, 0].any(axis=1))
            member, whitened, row = member[on_ink], whitened[on_ink], row[on_ink]
        flat, centre = member.reshape(len(member), -1), (row + 0.5) * self.stride / self.scale
        inside = [slice(*ends) for ends in np.searchsorted(centre, windows)]
        sums = np.stack([flat[some].T @ whitened[some] for some in inside])
        numbers = np.stack([member[some].sum(axis=0) for some in inside])
        both = sums.reshape(-1, *self.shape), numbers
        return ops.convert_to_numpy(self.vectors(*map(ops.convert_to_tensor, both)))


class _Local(keras.layers.Layer):
    """`Vlad.local`, as a layer: a part of a network."""

    def __init__(self, vlad: Vlad) -> None:
        super().__init__(dtype="float32")
        self.vlad = vlad

    def compute_output_shape(self, shapes) -> list[tuple]:
        codebooks, clusters, components = self.vlad.shape
        return [(None, codebooks, clusters), (None, components), (None,)]

    def call(self, inputs):
        return list(self.vlad.local(*inputs))


@keras.saving.register_keras_serializable("digitlib")
class Projection(keras.layers.Layer):
    """(n, d) -> (n, ``size``): linear, its kernel kept in half precision: half the file."""

    def __init__(self, size: int, **how) -> None:
        super().__init__(**{"trainable": False, "dtype": "float32"} | how)
        self.size = size

    def get_config(self) -> dict:
        return super().get_config() | {"size": self.size}

    def build(self, shape) -> None:
        how = {"dtype": "float16", "autocast": False, "name": "kernel"}
        self.kernel = self.add_weight(shape=(shape[-1], self.size), **how)
        self.bias = self.add_weight(shape=(self.size,), name="bias")

    def compute_output_shape(self, shape) -> tuple:
        return (*shape[:-1], self.size)

    def call(self, vectors):
        return ops.matmul(vectors, ops.cast(self.kernel, "float32")) + self.bias


def labelled(vector: keras.KerasTensor, name: str, n_classes: int, settings: Settings) -> Any:
    """Logits (n, classes) of one layer's VLAD vectors (n, d); `Labels` learns the weights."""
    kept = min(settings.whitened, max(n_classes, LEAST_KEPT))
    vector = Projection(kept, name=f"whiten_{name}")(vector)
    vector = keras.layers.UnitNormalization(name=f"unit_{name}")(vector)
    return keras.layers.Dense(n_classes, name=f"logits_{name}")(vector)


def _of_any_size(inputs: Any, outputs: Any, name: str | None = None) -> keras.Model:
    """A network of strips. On a GPU TensorFlow would have XLA compile it for each size anew, and
    XLA gives wrong rows of the positions on ink, of which it does not know how many there are."""
    network = keras.Model(inputs, outputs, name=name)
    if keras.backend.backend() == "tensorflow":
        network.jit_compile = False
    return network


def build(core: keras.Model, n_classes: int, settings: Settings) -> keras.Model:
    """A strip (`strips.network_inputs`) -> logits (1, classes): each layer's VLAD, labelled.

    ``core``: a backbone for grey input of any size, whose output is a dictionary of layers. The
    logits of all layers and scales add up. All weights but its wait for `fit`.
    """
    shape, inputs, logits = (settings.codebooks, settings.clusters, settings.components), [], []
    for k, scale in enumerate(settings.scales):
        at = f"_{k}" if k else ""
        how = {"batch_size": 1, "dtype": "uint8"}
        grey = keras.Input((None, None, 1), name=f"grey{at}", **how)
        ink = {n: keras.Input((None, None), name=f"ink_{n}{at}", **how) for n in settings.strides}
        inputs += [grey, *ink.values()]
        for layer, features in core(ops.cast(grey, "float32") / 127.5 - 1).items():
            name, step = f"{layer}{at}", stride(layer)
            vlad = Vlad(step, *shape, scale, name=f"vlad_{name}")
            logits.append(labelled(vlad([features, ink[step]]), name, n_classes, settings))
    summed = keras.layers.Add()(logits) if len(logits) > 1 else logits[0]
    return _of_any_size(inputs, summed, name="digitlib")


@dataclass(frozen=True)
class _Sheet:
    """A page that is learnt from: the network's inputs, its label and its windows."""

    inputs: list[np.ndarray]  # of the network
    label: str
    windows: list[tuple[float, float]]  # top and bottom, px of the sheet


class _Sheets(Sequence):
    """Every page as it is and varied, without the lines that `split` holds out.

    Each is made when it is asked for. Another day the same hand has another pen, writes larger or
    smaller, slants more or less.
    """

    def __init__(self, pages: Sequence[Page], settings: Settings) -> None:
        self.pages, self.settings = pages, settings
        changes = {(0.0, 1.0, 0.0)}
        for sign in (-1, 1):
            changes |= {
                (sign * settings.pen_change, 1.0, 0.0),
                (0.0, 1 + sign * settings.size_change, 0.0),
                (0.0, 1.0, sign * settings.slant_change),
            }
        self.changes = sorted(changes)  # pen px, size, slant

    def __len__(self) -> int:
        return len(self.pages) * len(self.changes)

    def __getitem__(self, i: int) -> _Sheet:
        settings = self.settings
        page = self.pages[i // len(self.changes)]
        width, size, slant = self.changes[i % len(self.changes)]
        tops, _ = split_tops(page.image.shape[0], settings)
        end = min(tops[-1] + settings.strip_height, page.image.shape[0])
        strip, step = settings.strip_height, settings.strip_step
        windows = [
            (top * size, (top + high) * size)
            for high, down in ((strip, step), (strip // LESS_TEXT, -(-step // 2)))
            for top in strip_tops(end, high, down)
        ]
        image = pen(page.image[:end], width)
        image = resized(image, size, slant) if (size, slant) != (1, 0) else image
        try:
            inputs = network_inputs(enhance(image, settings), settings)
        except Problem as problem:
            raise Problem(f"{page.path}: {problem}") from None
        as_it_is = (width, size, slant) == (0, 1, 0)  # a thin stroke may be lost to a thinner pen
        if as_it_is and not any(item.any() for item in inputs if item.ndim == 3):
            raise Problem(f"{page.path}: no ink is found on it; is it blank? Scan it again")
        return _Sheet(inputs, page.label, windows)


def _one_ahead(items: Sequence[_Sheet], order: Sequence[int]) -> Iterator[_Sheet]:
    """``items`` in ``order``, each made while the one before is worked on."""
    with ThreadPoolExecutor(1) as pool:
        coming = [pool.submit(items.__getitem__, i) for i in order[:1]]
        for i in order[1:]:
            coming.append(pool.submit(items.__getitem__, i))
            yield coming.pop(0).result()
        for last in coming:
            yield last.result()


def learn_codebooks(layer: Vlad, features: np.ndarray, seed: int) -> None:
    """Whitening and centres of ``layer`` from local features (m, c), none below 0."""
    codebooks, clusters, components = layer.shape
    n, channels = features.shape
    if components > channels:
        raise Problem(f"COMPONENTS ({components}) cannot exceed the {channels} channels of a layer")
    if n < clusters or n <= components:
        raise Problem(f"ink for {n} features only: use fewer CLUSTERS, and COMPONENTS below {n}")
    rooted = np.sqrt(features)
    pca = PCA(components, whiten=True, random_state=0).fit(rooted)
    whitened = pca.transform(rooted)
    how = {"n_init": 1, "batch_size": 4096, "max_iter": 30}
    seeds = [(seed * 100 + book) % 2**32 for book in range(codebooks)]
    found = [MiniBatchKMeans(clusters, random_state=own, **how).fit(whitened) for own in seeds]
    scale = np.sqrt(np.maximum(pca.explained_variance_, 1e-12))
    centres = np.stack([own.cluster_centers_ for own in found])
    layer.set_weights([pca.mean_, pca.components_.T / scale, centres])


def fit(
    network: keras.Model, pages: Sequence[Page], classes: list[str], settings: Settings
) -> None:
    """Learn everything in ``network`` (of `build`) but the backbone, from ``pages``.

    Examples: windows down each page and down its variations, of a strip's height and a third of it.
    A linear SVM, one class against the rest (scikit-learn's LinearSVC), on whitened VLAD vectors
    (PCA: Jégou and Chum 2012). However many the pages, about ``examples`` vectors are held at a
    time. Raises Problem for pages with too little ink.
    """
    layers = [layer for layer in network.layers if isinstance(layer, Vlad)]
    sheets = _Sheets(pages, settings)

    def read(of: Sequence[int], what: list[list], desc: str) -> Iterator[tuple[_Sheet, list]]:
        """Each sheet, and what the network makes of it."""
        part = engine.compiled(_of_any_size(network.input, what))
        how = {"total": len(of), "unit": "page"}
        for sheet in progress_bar(_one_ahead(sheets, of), desc=desc, **how):
            found = part.predict_on_batch(sheet.inputs)
            yield sheet, found if len(what) > 1 else [found]  # Keras unpacks a list of one

    rng = np.random.default_rng([settings.seed, 500])
    some = rng.permutation(len(sheets))[: min(MOST_SAMPLED, -(-len(sheets) // 4))]
    share = -(-LEARNT_FROM // len(some))
    sampled = [[] for _ in layers]
    maps, ink = zip(*(layer.input for layer in layers), strict=True)
    names = [item.name for item in network.inputs]
    places = [names.index(item.name) for item in ink]
    for sheet, features in read(some, list(maps), "local features"):
        for own, place, found in zip(features, places, sampled, strict=True):
            on_ink = own[sheet.inputs[place] > 0]
            found.append(on_ink[rng.permutation(len(on_ink))[:share]])
    for layer, found in zip(layers, sampled, strict=True):
        learn_codebooks(layer, np.concatenate(found), settings.seed)

    labels = [Labels(network, layer.name.removeprefix("vlad_"), settings) for layer in layers]
    number = {label: i for i, label in enumerate(classes)}
    order = rng.permutation(len(sheets))  # so that the first of them are a sample of all
    for sheet, found in read(order, [_Local(layer)(layer.input) for layer in layers], "VLAD"):
        for layer, learner, local in zip(layers, labels, found, strict=True):
            learner.add(layer.of_windows(local, sheet.windows), number[sheet.label])
    for learner in progress_bar(labels, desc="SVM", unit="layer"):
        learner.learn()


def _within(vectors: np.ndarray, truth: np.ndarray, shrinkage: float) -> np.ndarray:
    """(d, d): after it, (n, d) ``vectors`` of one class have unit variance in all directions.

    Of the covariance within classes a share of ``shrinkage`` is replaced by what it would be, were
    all directions alike. The first directions are those in which the classes' means differ most.
    """
    _, number = np.unique(truth, return_inverse=True)
    means = np.stack([vectors[number == k].mean(axis=0) for k in range(number.max() + 1)])
    spread = vectors - means[number]
    whiten = np.eye(vectors.shape[1])
    if spread.any():  # more than one example a class
        covariance = shrunk_covariance(spread.T @ spread / len(spread), shrinkage)
        variances, directions = np.linalg.eigh(covariance)
        whiten = directions / np.sqrt(np.maximum(variances, variances.max() * 1e-9))
    apart = (means - means.mean(axis=0)) @ whiten
    return whiten @ np.linalg.svd(apart, full_matrices=True)[2].T


class Labels:
    """Whitening and SVM of the layer ``name`` of ``network``, learnt from VLAD vectors.

    Whitened twice: to unit variance over all examples (PCA), then over those of one class, so that
    what varies within a hand counts for less (WCCN: Hatch et al. 2006). Of the result, the
    directions that tell classes apart are kept: Fisher's discriminants. Whitening is learnt from
    the first ``examples`` vectors; shortened, they and all later ones wait in a temporary file.
    """

    def __init__(self, network: keras.Model, name: str, settings: Settings) -> None:
        self.whiten = network.get_layer(f"whiten_{name}")
        self.unit = network.get_layer(f"unit_{name}")
        self.logits = network.get_layer(f"logits_{name}")
        self.settings, self.truth = settings, []
        self.first: list[np.ndarray] = []  # not yet whitened
        self.file = tempfile.TemporaryFile()  # noqa: SIM115 (goes with this object)

    def add(self, vectors: np.ndarray, number: int) -> None:
        """(m, d) ``vectors`` of the class ``number``."""
        self.truth += [number] * len(vectors)
        if self.file.tell():
            self._keep(vectors)
            return
        self.first.append(vectors.astype(np.float16))
        if len(self.truth) >= self.settings.examples:
            self._learn_whitening()

    def _learn_whitening(self) -> None:
        settings, size = self.settings, self.whiten.size
        vectors = np.concatenate(self.first, dtype=np.float32)
        pca = PCA(
            min(settings.whitened, len(vectors) - 1, vectors.shape[1]),
            svd_solver="randomized",
            iterated_power=2,  # more cost time and changed no held-out answer
            random_state=0,
        ).fit(vectors)
        variance = pca.explained_variance_
        varied = variance > 1e-9 * variance[0]  # the others are rounding: of blank windows, say
        own = pca.components_[varied].T / np.sqrt(np.maximum(variance[varied], 1e-12))
        own = (own @ _within(vectors @ own, np.array(self.truth), settings.shrinkage))[:, :size]
        whiten = np.zeros((vectors.shape[1], size), np.float32)
        whiten[:, : own.shape[1]] = own
        self.whiten.set_weights([whiten, -pca.mean_ @ whiten])
        self.first = []
        self._keep(vectors)

    def _keep(self, vectors: np.ndarray) -> None:
        short = self.unit(self.whiten(ops.convert_to_tensor(vectors)))
        self.file.write(ops.convert_to_numpy(short).tobytes())

    def learn(self) -> None:
        """Set the layers' weights from all that was added."""
        if self.first:
            self._learn_whitening()
        self.file.flush()
        short = np.memmap(self.file, np.float32, "r", shape=(len(self.truth), self.whiten.size))
        weights, bias = one_against_rest(short, np.array(self.truth), self.settings)
        heat = self.settings.temperature
        self.logits.set_weights([weights.T / heat, bias / heat])


def one_against_rest(
    vectors: np.ndarray, truth: np.ndarray, settings: Settings
) -> tuple[np.ndarray, np.ndarray]:
    """(weights (classes, d), bias (classes,)) of linear SVMs, each class against all others.

    ``vectors`` (n, d), ``truth`` (n,) class numbers. Each SVM sees ``examples`` at most, and of its
    own class half as many, drawn at random: a class costs the same however many there are.
    """
    n_classes = truth.max() + 1
    order = np.argsort(truth, kind="stable")
    starts = np.searchsorted(truth[order], np.arange(n_classes + 1))

    def boundary(number: int) -> np.ndarray:
        rng = np.random.default_rng([settings.seed, 501, number])

        def some(rows: np.ndarray, most: int) -> np.ndarray:
            return rows if len(rows) <= most else rows[rng.permutation(len(rows))[:most]]

        own = some(order[starts[number] : starts[number + 1]], settings.examples // 2)
        others = np.concatenate([order[: starts[number]], order[starts[number + 1] :]])
        rows = np.sort(np.concatenate([own, some(others, settings.examples - len(own))]))
        # Not the dual problem, which is solved by random numbers that all threads share.
        svm = LinearSVC(C=settings.svm_c, dual=False).fit(vectors[rows], truth[rows] == number)
        return np.append(svm.coef_[0], svm.intercept_)

    with ThreadPoolExecutor(cores()) as pool:  # LinearSVC leaves the interpreter to other threads
        found = np.stack(list(pool.map(boundary, range(n_classes) if n_classes > 2 else [1])))
    if n_classes == 2:  # one boundary, seen from both sides
        found = np.concatenate([-found, found])
    return found[:, :-1], found[:, -1]
