"""Prediction of one network: jaxcnn, JAX's default lowering, PyTorch, ONNX Runtime and OpenVINO, from the same files.

A case is a dict: `network` (a name of torchvision and of `jaxcnn.models`), `batch`, `size`, and the `path` where
`export` writes `.onnx`, `.safetensors`, `.images.npy` and `.logits.npy`. A function starts its clock before it imports
anything, so that its facts include the seconds to the first answer.
"""

import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from experiments.benchmarks.peers import Prepared

Case = dict[str, Any]
WARM_UP = 2  # calls that do not count


def export(case: Case) -> Prepared:
    """Write the network of torchvision in every form that a subject reads."""
    import torch
    import torchvision
    from safetensors.torch import save_file

    torch.manual_seed(0)
    model = torchvision.models.get_model(case["network"], weights=None)
    rng = np.random.default_rng(0)
    image = rng.standard_normal((case["batch"], 3, case["size"], case["size"]), dtype=np.float32)
    with torch.no_grad():
        model(torch.from_numpy(rng.standard_normal((8, 3, 96, 96), dtype=np.float32)))  # running statistics move
        model.eval()
        logits = model(torch.from_numpy(image)).numpy()
    np.save(case["path"] + ".images.npy", image)
    np.save(case["path"] + ".logits.npy", logits)
    save_file({name: x.contiguous() for name, x in model.state_dict().items()}, case["path"] + ".safetensors")
    torch.onnx.export(model, (torch.from_numpy(image),), case["path"] + ".onnx", dynamo=True)
    return Prepared(lambda: None)


def jaxcnn(case: Case) -> Prepared:
    """Predict with folded norms, one compiled program per shape."""
    began = time.perf_counter()
    import jax

    import jaxcnn as jc

    image = _images(case).transpose(0, 2, 3, 1).copy()
    found = jc.load_weights(case["network"], case["path"] + ".safetensors")
    apply, variables = found.model.apply, found.variables
    if "batch_stats" in variables:
        apply, variables = jc.models.fold_batchnorm(found.model, variables, image)
    predict, variables = jax.jit(apply), jax.device_put(variables)
    return _timed(case, began, lambda: np.asarray(predict(variables, image)))


def flax(case: Case) -> Prepared:
    """Predict with the same network in JAX's default lowering, with its norms."""
    began = time.perf_counter()
    import jax

    import jaxcnn as jc

    image = _images(case).transpose(0, 2, 3, 1).copy()
    found = jc.load_weights(case["network"], case["path"] + ".safetensors")
    predict, variables = jax.jit(found.model.apply), jax.device_put(found.variables)

    def call() -> np.ndarray:
        with jc.ops.native_lowering():
            return np.asarray(predict(variables, image))

    return _timed(case, began, call)


def torch(case: Case, compiled: bool = False) -> Prepared:
    """Predict with PyTorch, channels last."""
    began = time.perf_counter()
    import torch
    import torchvision
    from safetensors.torch import load_file

    model = torchvision.models.get_model(case["network"], weights=None)
    model.load_state_dict(load_file(case["path"] + ".safetensors"))
    model = model.eval().to(memory_format=torch.channels_last)
    image = torch.from_numpy(_images(case)).to(memory_format=torch.channels_last)
    forward = torch.compile(model) if compiled else model

    def call() -> np.ndarray:
        with torch.inference_mode():
            return forward(image).numpy()

    return _timed(case, began, call)


def torch_compile(case: Case) -> Prepared:
    """Predict with PyTorch through `torch.compile`."""
    return torch(case, compiled=True)


def onnxruntime(case: Case) -> Prepared:
    """Predict with ONNX Runtime on the CPU."""
    began = time.perf_counter()
    import onnxruntime

    session = onnxruntime.InferenceSession(case["path"] + ".onnx", providers=["CPUExecutionProvider"])
    feed = {session.get_inputs()[0].name: _images(case)}
    return _timed(case, began, lambda: session.run(None, feed)[0])


def openvino(case: Case) -> Prepared:
    """Predict with OpenVINO on the CPU, in float32."""
    began = time.perf_counter()
    sys.modules["openvino_telemetry"] = None  # pyright: ignore[reportArgumentType] (nothing is sent)
    import openvino

    hints = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    model, image = openvino.Core().compile_model(case["path"] + ".onnx", "CPU", hints), _images(case)
    return _timed(case, began, lambda: model(image)[0])


def floor(case: Case) -> Prepared:
    """Count the work of a prediction in the default lowering; parameters and images are read once."""
    import jax

    import jaxcnn as jc

    def facts() -> dict[str, float]:
        model, shape = jc.models.MODELS[case["network"]](), (case["batch"], case["size"], case["size"], 3)
        image = jax.ShapeDtypeStruct(shape, np.float32)
        variables = jax.eval_shape(lambda key, x: model.init(key, x, train=False), jax.random.key(0), image)
        with jc.ops.native_lowering():
            flop = jax.jit(lambda v, x: model.apply(v, x, train=False)).lower(variables, image).cost_analysis()["flops"]
        parameters = sum(x.size for x in jax.tree.leaves(variables))
        return {"flop": flop, "bytes": 4 * (parameters + int(np.prod(shape)))}

    return Prepared(lambda: None, facts=facts)


def _images(case: Case) -> np.ndarray:
    return np.load(case["path"] + ".images.npy")


def _timed(case: Case, began: float, call: Callable[[], np.ndarray]) -> Prepared:
    """Give the first answer, and keep the time of every later one."""
    answer, wanted = call(), np.load(case["path"] + ".logits.npy")
    first, seconds = time.perf_counter() - began, []

    def timed() -> None:
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)

    def facts() -> dict[str, float]:
        p50, p95 = np.percentile(seconds[WARM_UP:], (50, 95)) * 1e3
        difference = float(np.abs(answer - wanted).max() / np.abs(wanted).max())
        return {"p50_ms": p50, "p95_ms": p95, "first_answer_s": first, "difference": difference}

    return Prepared(timed, facts=facts)
