"""The engine: a saved model's graph in OpenVINO, which labels without Keras and TensorFlow.

In: a model file that holds its graph; `export` makes it when the file is written. Out: logits. A
graph holds no weights: they are read from the model file, where there is only one copy of them.
"""

import io
import json
import math
import sys
import tempfile
import threading
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from digitlib import Problem

if TYPE_CHECKING:
    import keras

WEIGHTS = "model.weights.h5"  # the member of a .keras file that Keras keeps the weights in
# What a graph reads: whole strips (pooling vlad), patches one by one, their windows on a strip.
STRIPS, PATCHES, ONE_PASS = "engine", "patches", "one_pass"
MOST_GRAPH = 2**26  # bytes of the graph, unpacked
MOST_WEIGHTS = 2**30  # bytes of all weights
KINDS = ("<f2", "<f4")  # that weights are of
MOST_SIZES = 4  # of inputs that the graph is compiled for one by one

Sizes = tuple[tuple[int, ...], ...]  # of the inputs
ANY: Sizes = ()


def _openvino() -> ModuleType:
    """OpenVINO, without its companion that would tell its makers over the network of each use.

    And without its converter, a tenth of a second of imports that only `export` needs.
    """
    for part in "openvino_telemetry", "openvino.tools.ovc":
        sys.modules.setdefault(part, None)
    import openvino

    if sys.modules["openvino.tools.ovc"] is None:
        del sys.modules["openvino.tools.ovc"]  # whoever asks for it by name gets it
    return openvino


def _converter() -> ModuleType | None:
    """OpenVINO, where it can read the networks of this process: TensorFlow's."""
    import keras

    try:
        return _openvino() if keras.backend.backend() == "tensorflow" else None
    except ImportError:
        return None


def _converted(
    function: Callable, network: "keras.Model", weights: Sequence["keras.Variable"] = ()
) -> Any:
    """The graph of ``function``, of the inputs of ``network`` and, named, of ``weights``."""
    import tensorflow as tf
    from openvino.tools.ovc import convert_model

    specs = [tf.TensorSpec(item.shape, item.dtype, name=item.name) for item in network.inputs]
    for i, item in enumerate(weights):
        specs.append(tf.TensorSpec(item.shape, item.dtype, name=f"weight{i}"))
    return convert_model(tf.function(function, input_signature=specs, autograph=False))


class _Compiled:
    """What `compiled` gives."""

    def __init__(self, openvino: ModuleType, network: "keras.Model") -> None:
        import keras

        def outputs(*inputs: Any) -> list:
            self.nested = network(list(inputs) if len(inputs) > 1 else inputs[0], training=False)
            return keras.tree.flatten(self.nested)

        graph = _converted(outputs, network)
        how = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
        self.request = openvino.Core().compile_model(graph, "CPU", how).create_infer_request()
        # What TensorFlow calls a function's outputs.
        n = len(network.outputs)
        self.names = [f"Identity_{i}:0" if i else "Identity:0" for i in range(n)]

    def predict_on_batch(self, inputs: np.ndarray | list[np.ndarray]) -> Any:
        import keras

        inputs = inputs if isinstance(inputs, list) else [inputs]
        self.request.infer(dict(enumerate(inputs)), share_inputs=True)
        # Copied, because the next call overwrites them.
        found = [np.array(self.request.get_tensor(name).data) for name in self.names]
        return keras.tree.pack_sequence_as(self.nested, found)


def compiled(network: "keras.Model") -> "keras.Model | _Compiled":
    """What predicts batches as ``network`` does, of any size, with its weights as they are.

    On a CPU in less than half of the time that Keras takes. ``network`` itself where there is a
    GPU, no OpenVINO, or another backend than TensorFlow.
    """
    import keras

    openvino = _converter()
    if openvino is None or keras.distribution.list_devices("gpu"):
        return network
    return _Compiled(openvino, network)


def members(graph: str) -> tuple[str, str, str]:
    """The parts of a model file that ``graph`` is: it, its constants, and what is known of it.

    The last says where in WEIGHTS each of its weights is, for ONE_PASS also ``stride``, of its
    feature map, px, and ``shift``, what its logits lack of those patch by patch.
    """
    return f"{graph}.xml", f"{graph}.bin", f"{graph}.json"


def places(network: "keras.Model") -> list[str]:
    """Where in WEIGHTS Keras puts each of ``network.weights``. Overwrites them, to see it."""
    import h5py

    network.set_weights([np.full(item.shape, i) for i, item in enumerate(network.weights)])
    found = {}

    def see(name: str, item: h5py.HLObject) -> None:
        if isinstance(item, h5py.Dataset) and item.dtype.kind == "f":
            found[int(item[()].flat[0])] = name

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / WEIGHTS
        network.save_weights(file)
        with h5py.File(file) as weights:
            weights.visititems(see)
    return [found[i] for i in range(len(network.weights))]


def spans(model: Path, names: Sequence[str]) -> list[tuple[int, str, tuple[int, ...]]]:
    """(first byte within WEIGHTS, dtype, shape) of the weights ``names`` of a `.keras` file.

    Keras writes them in one piece each, so that they are read again without HDF5's library.
    """
    import h5py

    with zipfile.ZipFile(model) as archive, h5py.File(io.BytesIO(archive.read(WEIGHTS))) as file:
        items = [file[name] for name in names]
        return [(item.id.get_offset(), item.dtype.str, item.shape) for item in items]


def export(
    reader: "keras.Model",
    model: Path,
    names: Sequence[str],
    graph: str,
    about: Mapping[str, Any],
) -> dict[str, bytes]:
    """The `members` of ``graph``, of ``reader``, for the file ``model``: what `Engine` needs.

    ``names``: the `places` of ``reader.weights``; ``about``: what else is known of the graph. None
    where OpenVINO is missing; it reads TensorFlow's graphs, so another backend exports nothing
    either.
    """
    openvino = _converter()
    if openvino is None:
        return {}
    trainable, others = reader.trainable_variables, reader.non_trainable_variables
    number = {id(item): i for i, item in enumerate(reader.weights)}  # several may share a path
    order = spans(model, [names[number[id(item)]] for item in [*trainable, *others]])
    n_inputs, n_trainable = len(reader.inputs), len(trainable)

    def logits(*values: Any) -> Any:
        inputs, weights = list(values[:n_inputs]), values[n_inputs:]
        split = weights[:n_trainable], weights[n_trainable:]
        inputs = inputs if n_inputs > 1 else inputs[0]
        return reader.stateless_call(*split, inputs, training=False)[0]

    converted = _converted(logits, reader, [*trainable, *others])
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / name for name in members(graph)]
        openvino.serialize(converted, *map(str, files[:2]))
        files[2].write_text(json.dumps({"spans": order, **about}), "utf-8")
        return {file.name: file.read_bytes() for file in files}


def has_graph(path: Path, graph: str) -> bool:
    """Whether the model file ``path`` holds what `Engine` needs for ``graph``."""
    with zipfile.ZipFile(path) as archive:
        return set(members(graph)) <= set(archive.namelist())


def _read(path: Path, graph: str) -> tuple[bytes, bytes, dict, bytes]:
    """Graph, constants, what is known about them, and the weights; raises Problem."""
    if not has_graph(path, graph):
        raise Problem(f"{path}: holds no graph for OpenVINO; predict with --engine keras")
    with zipfile.ZipFile(path) as archive:
        own = [archive.getinfo(name) for name in members(graph)]
        if sum(item.file_size for item in own) > MOST_GRAPH:
            raise Problem(
                f"{path}: its graph has more than {MOST_GRAPH >> 20} MiB; predict with "
                "--engine keras"
            )
        network, constants, about = (archive.read(item) for item in own)
        if archive.getinfo(WEIGHTS).file_size > MOST_WEIGHTS:
            raise Problem(f"{path}: its weights are more than {MOST_WEIGHTS >> 20} MiB")
        return network, constants, json.loads(about), archive.read(WEIGHTS)


def _bound(core: Any, path: Path, graph: str) -> tuple[Any, dict]:
    """(``graph`` of ``path`` with the weights of that file as constants, what is known of it)."""
    from openvino import opset13

    described, constants, about, weights = _read(path, graph)
    network, shared = core.read_model(described, constants), False
    for parameter in network.get_parameters():
        name = parameter.output(0).get_any_name()
        if not name.startswith("weight"):
            continue
        start, kind, shape = about["spans"][int(name.removeprefix("weight"))]
        if kind not in KINDS or list(shape) != list(parameter.shape):
            raise Problem(f"{path}: its weights do not fit its graph; use --engine keras")
        # Raises ValueError for a span that is not within the file.
        value = np.frombuffer(weights, kind, math.prod(shape), start).reshape(shape)
        constant, targets = opset13.constant(value), parameter.output(0).get_target_inputs()
        for target in targets:
            target.replace_source_output(constant.output(0))
        shared |= len(targets) > 1
        network.remove_parameter(parameter)
    if shared:
        _own_constants(network)
    return network, about


def _own_constants(network: Any) -> None:
    """Give each layer of the graph constants of its own: shared, OpenVINO fuses them with none.

    A backbone that reads two scales has its layers twice, with the same weights.
    """
    from openvino import opset13
    from openvino.passes import ConstantFolding, Manager

    manager = Manager()
    manager.register_pass(ConstantFolding())
    manager.run_passes(network)
    for item in network.get_ordered_ops():
        if item.get_type_name() == "Constant" and item.get_element_type().is_real():
            for target in list(item.output(0).get_target_inputs())[1:]:
                target.replace_source_output(opset13.constant(item.data).output(0))


class Engine:
    """A model's graph, compiled for this processor; may be called from several threads at once.

    ``streams``: how many calls run side by side; one call has all cores if it is 1. Compiled for
    inputs of one size the graph is a tenth to a quarter faster than for any; so it is compiled anew
    for each of the first `MOST_SIZES` sizes that come, and then once for all others.
    """

    def __init__(
        self, path: Path, graph: str = STRIPS, streams: int = 1, precision: str | None = None
    ) -> None:
        """``precision``: f32 or bf16; None: bf16 where the processor has it.

        Raises Problem if ``path`` lacks ``graph`` or holds a damaged one; ImportError without
        OpenVINO.
        """
        core = _openvino().Core()
        try:
            network, about = _bound(core, path, graph)
            self.stride = int(about.get("stride", 0))
            shift = np.array(about.get("shift", []), np.float32)
            self.shift = shift if shift.size else np.zeros(1, np.float32)
            if self.shift.shape not in ((1,), (network.output(0).partial_shape[-1].get_length(),)):
                raise Problem(f"{path}: its shift does not fit its graph; use --engine keras")
        except Problem:
            raise
        except Exception as error:  # a damaged file makes OpenVINO, HDF5 and json raise anything
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise Problem(
                f"{path}: its graph cannot be read ({reason}); use --engine keras"
            ) from error
        self.how = {"PERFORMANCE_HINT": "THROUGHPUT" if streams > 1 else "LATENCY"}
        if streams > 1:
            self.how["NUM_STREAMS"] = str(streams)
        if precision is None and "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            precision = "bf16"
        self.how["INFERENCE_PRECISION_HINT"] = precision or "f32"
        self.core, self.network = core, network
        self.compiled: dict[Sizes, Any] = {}
        self.lock, self.own = threading.Lock(), threading.local()

    def _request(self, sizes: Sizes) -> Any:
        """What labels inputs of ``sizes`` in this thread."""
        requests = self.own.__dict__
        if sizes not in requests:
            with self.lock:  # others go on meanwhile with what they have
                new = sizes not in self.compiled
                at = ANY if new and len(self.compiled) >= MOST_SIZES else sizes
                if at not in self.compiled:
                    network = self.network.clone()
                    if at:
                        network.reshape(dict(enumerate(at)))
                    self.compiled[at] = self.core.compile_model(network, "CPU", self.how)
            if at not in requests:
                requests[at] = self.compiled[at].create_infer_request()
            requests[sizes] = requests[at]
        return requests[sizes]

    def __call__(self, *inputs: np.ndarray) -> np.ndarray:
        """Logits, float32, of ``inputs`` as the network has them, plus ``shift``."""
        request = self._request(tuple(item.shape for item in inputs))
        return request.infer(dict(enumerate(inputs)), share_inputs=True)[0] + self.shift
