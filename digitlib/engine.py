"""The engine: a saved model's graph in OpenVINO, which labels without Keras and TensorFlow.

In: a model file that holds its graph; `export` makes it when the file is written. Out: logits.
"""

import json
import math
import sys
import tempfile
import threading
import zipfile
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import numpy as np

from digitlib import Problem
from digitlib.shipped import read_member

if TYPE_CHECKING:
    import keras

# What a graph reads: whole strips (pooling vlad), patches one by one, their windows on a strip.
STRIPS, PATCHES, ONE_PASS = "engine", "patches", "one_pass"
MOST_BYTES = 2**24, 2**29, 2**20  # of the graph, its weights and what is known of it, unpacked
MOST_LAYERS = 10_000
MOST_VALUES = 2**29  # that a layer gives
# What `export` writes. Of anything else OpenVINO's reader may run into memory that is not its own.
OPERATIONS = (
    "Abs Add AvgPool Clamp Concat Const Convert Convolution Divide Einsum Equal FloorMod Gather "
    "Greater GreaterEqual GroupConvolution Less LogicalAnd LogicalXor MatMul Maximum Minimum Mod "
    "Multiply NonZero NotEqual Parameter Power ReduceMax ReduceMean ReduceSum Reshape Result "
    "Select ShapeOf Sign Squeeze StridedSlice Subtract Transpose Unsqueeze"
)
SIZES_OF = {"f32": 4, "f16": 2, "i64": 8, "i32": 4, "i8": 1, "u8": 1, "boolean": 1}
MOST_SIZES = 4  # of inputs that the graph is compiled for one by one,
LARGE = 2**20  # numbers in them: for larger ones it is not, as each keeps memory of its own

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
    # Its table of dtypes is made at its first use, where two threads at once would wait for ever:
    # one with the interpreter's lock for the table, one within the table for that lock.
    openvino.Type.f32.to_dtype()
    return openvino


def processor() -> str:
    """What this machine's processor calls itself, by OpenVINO; "" where that is missing."""
    try:
        return _openvino().Core().get_property("CPU", "FULL_DEVICE_NAME")
    except ImportError:
        return ""


def reads_networks() -> bool:
    """Whether OpenVINO is there, and can read the networks of this process: TensorFlow's."""
    import keras

    try:
        return keras.backend.backend() == "tensorflow" and bool(_openvino())
    except ImportError:
        return False


def _converted(network: "keras.Model") -> tuple[Any, Any]:
    """(graph of ``network`` with its weights, its outputs as Keras nests them)."""
    import keras
    import tensorflow as tf
    from openvino.tools.ovc import convert_model

    nested = None

    def outputs(*inputs: Any) -> list:
        nonlocal nested
        nested = network(list(inputs) if len(inputs) > 1 else inputs[0], training=False)
        return keras.tree.flatten(nested)

    specs = [tf.TensorSpec(item.shape, item.dtype, name=item.name) for item in network.inputs]
    converted = convert_model(tf.function(outputs, input_signature=specs, autograph=False))
    _straighten(converted)
    return converted, nested


def _order(node: Any) -> np.ndarray | None:
    """The order that a transposition puts the axes in; None of any other layer."""
    if node.get_type_name() != "Transpose":
        return None
    order = node.input_value(1).get_node()
    return order.data if order.get_type_name() == "Constant" else None


def _straighten(network: Any) -> None:
    """Take out pairs of transpositions that undo each other.

    OpenVINO leaves one behind a layer that both the next layer and something else reads: where maps
    are large, copying them to and fro took half of a label's time.
    """
    for item in network.get_ordered_ops():
        if (second := _order(item)) is None:
            continue
        before = item.input_value(0).get_node()
        first = _order(before)
        if first is not None and np.array_equal(first[second], np.arange(first.size)):
            item.output(0).replace(before.input_value(0))


class _Compiled:
    """What `compiled` gives."""

    def __init__(self, openvino: ModuleType, network: "keras.Model") -> None:
        graph, self.nested = _converted(network)
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
    from digitlib.model import gpus

    if gpus() or not reads_networks():
        return network
    return _Compiled(_openvino(), network)


def members(graph: str) -> tuple[str, str, str]:
    """The parts of a model file that ``graph`` is: it, its weights, and what is known of it.

    Of ONE_PASS that is ``shift``, what its logits lack of those patch by patch.
    """
    return f"{graph}.xml", f"{graph}.bin", f"{graph}.json"


def export(reader: "keras.Model", graph: str, about: Mapping[str, Any]) -> dict[str, bytes]:
    """The `members` of ``graph``, of ``reader`` and its weights; ``about``: what is known of it.

    Only where `reads_networks`.
    """
    openvino = _openvino()
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / name for name in members(graph)]
        openvino.serialize(_converted(reader)[0], *map(str, files[:2]))
        files[2].write_text(json.dumps(about), "utf-8")
        return {file.name: file.read_bytes() for file in files}


def has_graph(path: Path, graph: str) -> bool:
    """Whether the model file ``path`` holds what `Engine` needs for ``graph``."""
    with zipfile.ZipFile(path) as archive:
        return set(members(graph)) <= set(archive.namelist())


def _read(core: Any, path: Path, graph: str) -> tuple[Any, dict]:
    """(``graph`` of the model file ``path``, what is known of it); raises Problem, or anything."""
    if not has_graph(path, graph):
        raise Problem(f"{path}: holds no graph for OpenVINO; predict with --engine keras")
    with zipfile.ZipFile(path) as archive:
        try:
            parts = zip(members(graph), MOST_BYTES, strict=True)
            network, weights, about = (read_member(archive, *part) for part in parts)
        except Problem as problem:
            raise Problem(f"{path}: {problem}; use --engine keras") from None
    _check(network, weights)
    return core.read_model(network, weights), json.loads(about)


def _check(network: bytes, weights: bytes) -> None:
    """Raise ValueError for a graph that `export` cannot have written."""
    if not network.startswith(b"<?xml") or b"<!" in network:
        raise ValueError("no plain XML")
    root, known = ElementTree.fromstring(network), set(OPERATIONS.split())
    layers = root.findall("layers/layer")
    if len(layers) != len(root.findall(".//layer")) or len(layers) > MOST_LAYERS:
        raise ValueError("graphs within the graph, or too many layers")
    for layer in layers:
        kind, data = layer.get("type"), layer.find("data")
        own = {} if data is None else data.attrib
        if kind not in known or ("offset" in own) != (kind == "Const"):
            raise ValueError(f"a layer {kind}")
        if kind == "Const":
            shape = [int(side) for side in own["shape"].split(",") if side.strip()]
            start, size = int(own["offset"]), int(own["size"])
            fits = 0 <= start <= start + size <= len(weights) and all(n >= 0 for n in shape)
            # OpenVINO keeps a byte of an empty one.
            if not fits or max(1, math.prod(shape) * SIZES_OF[own["element_type"]]) != size:
                raise ValueError("a constant that does not fit")


def _check_sizes(network: Any) -> None:
    """Raise ValueError if a layer would give more than MOST_VALUES numbers."""
    for item in network.get_ordered_ops():
        for output in item.outputs():
            shape = output.partial_shape
            if shape.is_static and math.prod(shape.to_shape()) > MOST_VALUES:
                raise ValueError("a layer that fills memory")


def multiplies_bfloat16(core: Any, about: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether the processor, as OpenVINO's ``core`` has it, is faster in bfloat16 than in float32.

    AMD's are by AVX-512's instructions for it; Intel's with a unit for its matrices (AMX), known on
    Linux alone: by the instructions alone, which OpenVINO would use, they take half as long again.
    """
    if core.get_property("CPU", "FULL_DEVICE_NAME").startswith("AMD"):
        return "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return about.is_file() and "amx_bf16" in about.read_text("utf-8", "replace").split()


def _reason(error: Exception) -> str:
    """The end of what OpenVINO says, which is where the reason stands."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines or [type(error).__name__])[-1][:200]


class Engine:
    """A model's graph, compiled for this processor; may be called from several threads at once.

    ``streams``: how many calls run side by side; one call has all cores if it is 1. Compiled for
    inputs of one size the graph is faster than for any; so it is compiled anew for each of the
    first `MOST_SIZES` sizes that come, and once for all others and for LARGE ones.
    """

    def __init__(
        self, path: Path, graph: str = STRIPS, streams: int = 1, precise: bool = False
    ) -> None:
        """In bfloat16 where the processor is faster in it, unless ``precise``. Raises Problem if
        ``path`` lacks ``graph`` or holds a damaged one; ImportError without OpenVINO."""
        core = _openvino().Core()
        try:
            network, about = _read(core, path, graph)
            shift = np.array(about.get("shift", []), np.float32)
            self.shift = shift if shift.size else np.zeros(1, np.float32)
            self.n_inputs = len(network.inputs)
            if self.shift.shape not in ((1,), (network.output(0).partial_shape[-1].get_length(),)):
                raise Problem(f"{path}: its shift does not fit its graph; use --engine keras")
        except Problem:
            raise
        except Exception as error:  # a damaged file makes OpenVINO and json raise anything
            raise Problem(
                f"{path}: its graph cannot be read ({_reason(error)}); use --engine keras"
            ) from error
        self.path = path
        self.how = {"PERFORMANCE_HINT": "THROUGHPUT" if streams > 1 else "LATENCY"}
        if streams > 1:
            self.how["NUM_STREAMS"] = str(streams)
        fast = not precise and multiplies_bfloat16(core)
        self.how["INFERENCE_PRECISION_HINT"] = "bf16" if fast else "f32"
        self.core, self.network = core, network
        self.compiled: dict[Sizes, Any] = {}
        self.lock, self.own = threading.Lock(), threading.local()

    def _request(self, sizes: Sizes) -> Any:
        """What labels inputs of ``sizes`` in this thread."""
        requests = self.own.__dict__
        if sizes not in requests:
            with self.lock:  # others go on meanwhile with what they have
                at = sizes
                if sizes not in self.compiled:
                    network = self.network.clone()
                    network.reshape(dict(enumerate(sizes)))
                    _check_sizes(network)  # whichever graph is to label them
                    large = sum(map(math.prod, sizes)) > LARGE
                    if large or len(self.compiled) >= MOST_SIZES:
                        at, network = ANY, self.network.clone()
                if at not in self.compiled:
                    self.compiled[at] = self.core.compile_model(network, "CPU", self.how)
            if at not in requests:
                requests[at] = self.compiled[at].create_infer_request()
            requests[sizes] = requests[at]
        return requests[sizes]

    def __call__(self, *inputs: np.ndarray) -> np.ndarray:
        """Logits, float32, of ``inputs`` as the network has them, plus ``shift``."""
        try:
            if len(inputs) != self.n_inputs:
                raise ValueError(f"{self.n_inputs} inputs rather than {len(inputs)}")
            request = self._request(tuple(item.shape for item in inputs))
            how = {"share_inputs": True, "share_outputs": True}  # the sum is an array of its own
            return request.infer(dict(enumerate(inputs)), **how)[0] + self.shift
        except Exception as error:  # a graph that does not fit makes OpenVINO raise anything
            raise Problem(
                f"{self.path}: its graph cannot be run ({_reason(error)}); use --engine keras"
            ) from error
