"""Operations on images: convolution and its transpose, pooling, resizing; their axes are channels first."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxcnn.core.types import InputError
from jaxcnn.deploy.onnx.elementwise import Rule
from jaxcnn.deploy.onnx.graph import Graph, Value


def _conv(g: Graph, eqn: Any, values: list[Value]) -> list[Value]:
    p, (x, kernel), out = eqn.params, values, eqn.outvars[0].aval
    spec = p["dimension_numbers"]
    if p["batch_group_count"] != 1:
        raise InputError("conv_general_dilated with batch_group_count has no form in ONNX; it occurs in gradients only")
    low, high = zip(*p["padding"], strict=True) if p["padding"] else ((), ())
    image = g.tensor(x, tuple(spec.lhs_spec))
    weights = g.tensor(kernel, tuple(spec.rhs_spec))
    size = [kernel.shape[a] for a in spec.rhs_spec[2:]]
    if any(n != 1 for n in p["lhs_dilation"]):
        name = _transposed_conv(g, image, weights, size, p, low, high)
    else:
        if min((*low, *high), default=0) < 0:
            raise InputError(f"conv_general_dilated with padding {p['padding']} has no form here; crop the image first")
        name = g.emit(
            "Conv", image, weights, kernel_shape=size, strides=list(p["window_strides"]), pads=[*low, *high],
            dilations=list(p["rhs_dilation"]), group=p["feature_group_count"],
        )  # fmt: skip
    return [g.made(name, out, tuple(spec.out_spec))]


def _transposed_conv(
    g: Graph, image: str, weights: str, size: Sequence[int], p: Any, low: Sequence[int], high: Sequence[int]
) -> str:
    if weights not in g.constants or p["feature_group_count"] != 1 or any(n != 1 for n in p["window_strides"]):
        raise InputError("a transposed convolution with groups, strides or a computed kernel has no form here")
    kernel = g.constants[weights]
    flipped = g.store(np.flip(kernel, tuple(range(2, kernel.ndim))).swapaxes(0, 1))
    reach = [d * (k - 1) for d, k in zip(p["rhs_dilation"], size, strict=True)]
    begin, end = ([r - n for r, n in zip(reach, side, strict=True)] for side in (low, high))
    more = [max(-n, 0) for n in end]
    if min(begin) < 0 or any(n >= s for n, s in zip(more, p["lhs_dilation"], strict=True) if n):
        raise InputError(f"a transposed convolution with padding {p['padding']} has no form here")
    return g.emit(
        "ConvTranspose", image, flipped, kernel_shape=list(size), strides=list(p["lhs_dilation"]),
        pads=[*begin, *(max(n, 0) for n in end)], dilations=list(p["rhs_dilation"]), output_padding=more,
    )  # fmt: skip


def _window_max(g: Graph, eqn: Any, values: list[Value]) -> list[Value]:
    p, (x,), out = eqn.params, values, eqn.outvars[0].aval
    if any(n != 1 for n in (*p["base_dilation"], p["window_dimensions"][0], p["window_dimensions"][-1])):
        raise InputError("reduce_window_max over rows or channels has no form here; pool over places")
    inner = range(1, len(x.shape) - 1)
    axes = (0, len(x.shape) - 1, *inner)
    low, high = zip(*(p["padding"][a] for a in inner), strict=True)
    name = g.emit(
        "MaxPool", g.tensor(x, axes), kernel_shape=[p["window_dimensions"][a] for a in inner],
        strides=[p["window_strides"][a] for a in inner], pads=[*low, *high],
        dilations=[p["window_dilation"][a] for a in inner],
    )  # fmt: skip
    return [g.made(name, out, axes)]


def _avg_pool(g: Graph, eqn: Any, values: list[Value]) -> list[Value]:
    (x,), (size, geometry), out = values, eqn.params["window"], eqn.outvars[0].aval
    axes = (0, len(x.shape) - 1, *range(1, len(x.shape) - 1))
    low, high = zip(*geometry.padding, strict=True)
    name = g.emit(
        "AveragePool", g.tensor(x, axes), kernel_shape=list(size), strides=list(geometry.strides), pads=[*low, *high],
        count_include_pad=1,
    )  # fmt: skip
    return [g.made(name, out, axes)]


def _resize(g: Graph, eqn: Any, values: list[Value]) -> list[Value]:
    (x,), out = values, eqn.outvars[0].aval
    rank = len(x.shape)
    axes = (0, rank - 1, *range(1, rank - 1))
    name = g.emit(
        "Resize", g.tensor(x, axes), "", "", g.dims([out.shape[a] for a in axes]), mode="linear",
        coordinate_transformation_mode="half_pixel",
    )  # fmt: skip
    return [g.made(name, out, axes)]


RULES: dict[str, Rule] = {
    "conv_general_dilated": _conv, "jaxcnn_avg_pool": _avg_pool, "jaxcnn_resize_linear": _resize,
    "reduce_window_max": _window_max,
}  # fmt: skip
