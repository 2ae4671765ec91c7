"""The formats a program can be exported to: each function writes files into a folder and says how to run them."""

import functools
import importlib
import os
import pathlib
import re
import sys
import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from jaxcnn import ops
from jaxcnn.core import files, jaxprs
from jaxcnn.core.types import InputError
from jaxcnn.deploy import onnx
from jaxcnn.deploy.program import Program, why

PLATFORMS = ("cpu", "cuda", "tpu")
Outputs = dict[str, np.ndarray]


class Written(NamedTuple):
    """What an exporter has written.

    Attributes:
        files: names in the folder; the first one is the program.
        run: reads them and computes the outputs by name from the inputs by name.
        about: what the report says of this format.

    """

    files: tuple[str, ...]
    run: Callable[[Mapping[str, Any]], Outputs]
    about: dict[str, Any]


Exporter = Callable[..., Written]  # of program, folder, name without ending, rows of a batch; pages also take `runtime`


def symbolic(program: Program, batch: int | None) -> tuple[Any, dict[str, jax.ShapeDtypeStruct]]:
    """Return the dimension of the batch, and shape and dtype of each input."""
    size = export.symbolic_shape("batch")[0] if batch is None else batch
    return size, program.batch(size)


def to_stablehlo(program: Program, folder: pathlib.Path, stem: str, batch: int | None) -> Written:
    """Write a program that JAX alone can run, on CPUs, NVIDIA GPUs and TPUs: `jax.export.deserialize(...).call`."""
    _, rows = symbolic(program, batch)
    try:
        made = export.export(jax.jit(program.closed), platforms=PLATFORMS)(rows)
    except InputError:
        raise
    except Exception as error:  # a program that needs its sizes raises errors of many kinds
        raise InputError(_no_symbol(batch, error)) from error
    name = f"{stem}.stablehlo"
    files.write_bytes(folder / name, bytes(made.serialize()))
    again = export.deserialize(bytearray(files.read_bytes(folder / name)))

    def run(inputs: Mapping[str, Any]) -> Outputs:
        found: Any = again.call({k: jnp.asarray(v) for k, v in inputs.items()})
        return {k: np.asarray(v) for k, v in found.items()}

    return Written((name,), run, {"platforms": list(PLATFORMS)})


def _no_symbol(batch: int | None, error: Exception) -> str:
    if batch is None:
        return f"the program cannot be traced with a batch of any size ({why(error)}); give a size, as --batch 1"
    return f"the program cannot be traced ({why(error)})"


def graph_of(program: Program, batch: int | None) -> onnx.Graph:
    """Return the ONNX graph of a program."""
    size, rows = symbolic(program, batch)
    onnx.require("onnx")
    try:
        graph = onnx.trace(program.closed, rows, list(program.outputs()), size if batch is None else None)
    except InputError:
        raise
    except Exception as error:
        raise InputError(_no_symbol(batch, error)) from error
    return onnx.to_integers(onnx.simplify(graph))


def to_onnx(program: Program, folder: pathlib.Path, stem: str, batch: int | None) -> Written:
    """Write an ONNX file of opset 17 with its metadata; `onnx.checker` checks it, and ONNX Runtime runs it."""
    onnx.require("onnxruntime")
    graph = graph_of(program, batch)
    texts = {k: v if isinstance(v, str) else files.to_json(v) for k, v in program.about.items()}
    data, name = onnx.to_bytes(graph, texts), f"{stem}.onnx"
    files.write_bytes(folder / name, data)
    session = onnx.session(files.read_bytes(folder / name))
    return Written((name,), functools.partial(onnx.run, session), {"opset": onnx.OPSET, "nodes": len(graph.nodes)})


def to_openvino(program: Program, folder: pathlib.Path, stem: str, batch: int | None) -> Written:
    """Write OpenVINO's two files, converted from the ONNX file; they are run in float32."""
    openvino = _openvino()
    written, core = to_onnx(program, folder, stem, batch), openvino.Core()
    model = core.read_model(str(folder / written.files[0]))  # convert_model would send statistics
    _keep_poolings_first(openvino, model)
    for name, value in program.about.items():
        model.set_rt_info(value if isinstance(value, str) else files.to_json(value), ["jaxcnn", name])
    names = f"{stem}.xml", f"{stem}.bin"
    openvino.save_model(model, str(folder / names[0]), compress_to_fp16=False)
    (folder / written.files[0]).unlink()
    compiled = core.compile_model(str(folder / names[0]), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def run(inputs: Mapping[str, Any]) -> Outputs:
        found = compiled({k: np.asarray(v) for k, v in inputs.items()})
        return {name: np.asarray(found[name]) for name in program.outputs()}

    return Written(names, run, {"openvino": openvino.__version__, "opset": onnx.OPSET})


def _keep_poolings_first(openvino: Any, model: Any) -> None:
    """Put a maximum with -inf, which changes nothing, behind each maximum pooling.

    On a CPU, OpenVINO 2026.4 moves an activation after such a pooling into the convolution before it, though GELU, SiLU
    and the like are not monotone. Behind a maximum they stay where they are.
    """
    for node in model.get_ordered_ops():
        kind = node.get_output_element_type(0) if node.get_type_name() == "MaxPool" else None
        if kind and kind.is_real():  # float32, or bfloat16 and float16 of a network that computes in them
            readers = list(node.output(0).get_target_inputs())
            kept = openvino.opset13.maximum(node.output(0), openvino.opset13.constant(-np.inf, kind))
            for reader in readers:
                reader.replace_source_output(kept.output(0))


def _openvino() -> Any:
    """Import OpenVINO without its package of telemetry.

    That one sends usage data when it is imported, from a process that it forks beside JAX's threads. Without it,
    OpenVINO takes a stand-in of its own that does nothing.
    """
    telemetry = "openvino_telemetry"
    if "openvino" in sys.modules or telemetry in sys.modules:
        return _required("openvino", "openvino")
    sys.modules[telemetry] = None  # pyright: ignore[reportArgumentType] (importing it then fails)
    try:
        return _required("openvino", "openvino")
    finally:
        del sys.modules[telemetry]


def _tensorflow() -> tuple[Any, Any]:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    tensorflow = _required("tensorflow", "tfds")
    return tensorflow, _required("jax.experimental.jax2tf", "tfds")


def _required(package: str, extra: str) -> Any:
    """Import an optional package, or name the extra that has it."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise InputError(
            f"{package} is not installed ({why(error)}); pip install -e '.[{extra}]' in the clone of jaxcnn"
        ) from error


def to_savedmodel(program: Program, folder: pathlib.Path, stem: str, batch: int | None) -> Written:
    """Write a SavedModel of TensorFlow, through `jax2tf`, with the signature `serving_default`."""
    tensorflow, jax2tf = _tensorflow()
    _saved(program, folder / stem, batch, tensorflow, jax2tf)
    again = tensorflow.saved_model.load(str(folder / stem))

    def run(inputs: Mapping[str, Any]) -> Outputs:
        found = again.signatures["serving_default"](**{k: tensorflow.constant(v) for k, v in inputs.items()})
        return {k: v.numpy() for k, v in found.items()}

    return Written((stem,), run, {"tensorflow": tensorflow.__version__})


def _saved(program: Program, path: pathlib.Path, batch: int | None, tensorflow: Any, jax2tf: Any) -> None:
    rows = program.inputs
    shapes = {k: "(" + ", ".join(["b" if batch is None else str(batch), *map(str, x.shape)]) + ")"
              for k, x in rows.items()}  # fmt: skip
    signature = {k: tensorflow.TensorSpec([batch, *x.shape], x.dtype, name=k) for k, x in rows.items()}
    try:
        made = jax2tf.convert(program.closed, polymorphic_shapes=[shapes], with_gradient=False)
        module = tensorflow.Module()
        module.f = tensorflow.function(made, autograph=False, input_signature=[signature])
        with ops.without_top_k():  # which TensorFlow does not know in the form that JAX gives it
            tensorflow.saved_model.save(module, str(path), signatures={"serving_default": module.f})
    except Exception as error:
        raise InputError(f"TensorFlow cannot write the program ({why(error)}); export it to onnx") from error


def to_litert(program: Program, folder: pathlib.Path, stem: str, batch: int | None) -> Written:
    """Write a LiteRT (TensorFlow Lite) file, through a SavedModel and TensorFlow's converter; the batch is fixed."""
    _check_sorts(program, batch or 1)
    tensorflow, jax2tf = _tensorflow()
    size, path, name = batch or 1, folder / f"{stem}.saved", f"{stem}.tflite"
    with ops.native_lowering(), ops.whole_operations():
        _saved(program, path, size, tensorflow, jax2tf)
    try:
        data = tensorflow.lite.TFLiteConverter.from_saved_model(str(path)).convert()
    except Exception as error:
        reason = re.sub(r"\.?/\S+:\d+:\d+: error", "", why(error))  # without the line of this library
        raise InputError(f"TensorFlow's converter to LiteRT refuses the program ({reason}); use onnx") from error
    files.write_bytes(folder / name, data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the interpreter has moved to a package of its own, for the same files
        interpreter = tensorflow.lite.Interpreter(model_content=files.read_bytes(folder / name))
    runner = interpreter.get_signature_runner("serving_default")

    def run(inputs: Mapping[str, Any]) -> Outputs:
        return {k: np.asarray(v) for k, v in runner(**{k: np.asarray(v) for k, v in inputs.items()}).items()}

    return Written((name,), run, {"tensorflow": tensorflow.__version__, "batch": size})


def _check_sorts(program: Program, batch: int) -> None:
    """Refuse what the converter to LiteRT does not know."""
    used = jaxprs.primitives(jax.make_jaxpr(program.closed)(program.batch(batch)))
    if lacking := sorted(used & {"sort", "top_k"}):
        raise InputError(
            f"litert has no form of {' and '.join(lacking)}, which detectors and forecasts use; export to onnx"
        )


EXPORTERS: dict[str, Exporter] = {
    "stablehlo": to_stablehlo, "onnx": to_onnx, "litert": to_litert, "savedmodel": to_savedmodel,
    "openvino": to_openvino,
}  # fmt: skip
FIXED = ("litert",)  # formats whose batch has one size
