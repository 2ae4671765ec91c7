"""From a graph to an ONNX file, and running one."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxcnn.core.types import InputError, reason
from jaxcnn.deploy.onnx.elementwise import element_type
from jaxcnn.deploy.onnx.graph import OPSET, Graph
from jaxcnn.version import __version__

IR_VERSION = 8  # the format of opset 17
EXACT = ("session.x64quantprecision", "1")
"""The setting of a session without which ONNX Runtime lets sums of int8 files overflow on x86 without VNNI."""
EXTRA = "pip install -e '.[onnx]' in the clone of jaxcnn"


def require(name: str) -> Any:
    """Import a package of the extra `onnx`.

    Raises:
        InputError: it is not installed.

    """
    try:
        if name == "onnxruntime":
            import onnxruntime

            return onnxruntime
        import onnx
        import onnx.helper
        import onnx.numpy_helper

        return onnx
    except ImportError as error:
        raise InputError(f"{name} is not installed; {EXTRA}") from error


def to_bytes(g: Graph, metadata: Mapping[str, str], name: str = "jaxcnn") -> bytes:
    """Return a graph as an ONNX file.

    Args:
        g: the graph.
        metadata: texts by name, which the file holds.
        name: of the graph.

    Raises:
        InputError: `onnx.checker` refuses it, or it has 2 GiB or more.

    """
    onnx = require("onnx")
    helper = onnx.helper

    def info(name: str, value: Any) -> Any:
        dims = [n if isinstance(n, int) else "batch" if n == g.batch else None for n in value.shape]
        return helper.make_tensor_value_info(name, element_type(value.dtype), dims)

    nodes = [
        helper.make_node(node.op, node.inputs, node.outputs, name=f"{node.op}_{i}", **node.attributes)
        for i, node in enumerate(g.nodes)
    ]
    used = {name for node in g.nodes for name in node.inputs}
    held = [onnx.numpy_helper.from_array(x, name) for name, x in g.constants.items() if name in used]
    outputs = [info(name, g.results[name]) for name in g.outputs]
    graph = helper.make_graph(nodes, name, [info(n, v) for n, v in g.inputs], outputs, held)
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="jaxcnn",
        producer_version=__version__,
    )  # fmt: skip
    helper.set_model_props(model, dict(metadata))
    try:
        onnx.checker.check_model(model, full_check=True)
        return model.SerializeToString()
    except Exception as error:  # the checker raises several kinds
        raise InputError(f"the graph is no valid ONNX file ({reason(error)}); please report it") from error


def session(data: bytes, threads: int | None = None) -> Any:
    """Return an ONNX Runtime session on the CPU.

    Args:
        data: the file.
        threads: number of threads; None for ONNX Runtime's choice.

    """
    runtime = require("onnxruntime")
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry(*EXACT)
    if threads is not None:
        options.intra_op_num_threads = threads
    return runtime.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def run(made: Any, inputs: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Return the outputs of a session by name."""
    names = [one.name for one in made.get_outputs()]
    return dict(zip(names, made.run(names, {k: np.asarray(v) for k, v in inputs.items()}), strict=True))
