"""One operation with gradients of all arguments: jaxcnn, PyTorch, and JAX's default lowering, which Flax uses.

A case is a dict: `op`; the shape `x`, channels last; for pools `window`, otherwise `kernel` `[*window, C_in / groups,
C_out]`; and `strides`, `padding` (a number) and `groups`, which default to 1, 0 and 1. All subjects use the same random
numbers and differentiate `square(op(...)).sum()`.
"""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from experiments.benchmarks.peers import Prepared

Case = dict[str, Any]


def arrays(case: Case) -> list[np.ndarray]:
    """Return the image, and the kernel if there is one."""
    rng = np.random.default_rng(0)
    return [rng.standard_normal(case[name], dtype=np.float32) for name in ("x", "kernel") if name in case]


def jaxcnn(case: Case) -> Prepared:
    """Run `jaxcnn.ops`, compiled."""
    return _compiled(case, _jaxcnn_op(case), compare=True)


def flax(case: Case) -> Prepared:
    """Run the default lowering, compiled, as `flax.linen` does."""
    return _compiled(case, _default_op(case))


def torch(case: Case) -> Prepared:
    """Run PyTorch, channels last if it has such a layout."""
    import torch
    import torch.nn.functional as functions

    x, *kernels = arrays(case)
    rank = x.ndim - 2
    strides, padding, groups = case.get("strides", 1), case.get("padding", 0), case.get("groups", 1)
    layout = torch.channels_last if x.ndim == 4 else torch.contiguous_format
    # ours [*window, in, out]; theirs [out, in, *window], and [in, out, *window] of a transposed convolution
    order = (-2, -1) if case["op"] == "conv_transpose" else (-1, -2)
    kernels = [np.moveaxis(w, order, (0, 1)) for w in kernels]
    args = [
        torch.from_numpy(a.copy()).to(memory_format=layout).requires_grad_() for a in (np.moveaxis(x, -1, 1), *kernels)
    ]
    name = {"depthwise": "conv"}.get(case["op"], case["op"])
    function = getattr(functions, name.replace("pool", f"pool{rank}d") if "pool" in name else f"{name}{rank}d")
    if "pool" in name:
        op = functools.partial(function, kernel_size=case["window"], stride=strides, padding=padding)
    else:
        op = functools.partial(function, stride=strides, padding=padding, groups=groups)

    def call() -> Any:
        return torch.autograd.grad(op(*args).square().sum(), args)

    return Prepared(call, facts=lambda: {"value": op(*args).square().sum().item()})


def floor(case: Case) -> Prepared:
    """Count the work of a case: multiplications and additions of the default lowering, and the bytes to be moved.

    The program is counted before compilation. The CPU's compiler turns grouped convolutions into dense ones and would
    count twenty times the work, and jaxcnn's own lowering does less work, which must not make it look slower.
    """
    import jax

    args = arrays(case)
    flop = jax.jit(_loss_and_gradients(_default_op(case), len(args))).lower(*args).cost_analysis()["flops"]
    return Prepared(lambda: None, facts=lambda: {"flop": flop, "bytes": 2 * sum(a.nbytes for a in args)})


def _compiled(case: Case, op: Callable, compare: bool = False) -> Prepared:
    import jax
    import jax.numpy as jnp

    args = list(map(jnp.asarray, arrays(case)))
    gradients = jax.jit(jax.grad(lambda *a: jnp.square(op(*a)).sum(), tuple(range(len(args)))))

    def facts() -> dict[str, float]:
        found = {"value": float(jax.jit(lambda *a: jnp.square(op(*a)).sum())(*args))}
        return found | ({"error": _error(op, _default_op(case), args)} if compare else {})

    return Prepared(lambda: jax.block_until_ready(gradients(*args)), facts=facts)


def _loss_and_gradients(op: Callable, arguments: int) -> Callable:
    import jax
    import jax.numpy as jnp

    return jax.value_and_grad(lambda *a: jnp.square(op(*a)).sum(), tuple(range(arguments)))


def _error(ours: Callable, default: Callable, args: list) -> float:
    """Return the largest difference of output and gradients from the default, relative to the largest value of each."""
    import jax

    def everything(op: Callable) -> list[np.ndarray]:
        return list(map(np.asarray, jax.jit(lambda *a: (op(*a), *_loss_and_gradients(op, len(a))(*a)[1]))(*args)))

    pairs = zip(everything(ours), everything(default), strict=True)
    return max(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in pairs)


def _jaxcnn_op(case: Case) -> Callable:
    from jaxcnn import ops

    strides, padding = case.get("strides", 1), case.get("padding", 0)
    if "pool" in case["op"]:
        return functools.partial(getattr(ops, case["op"]), window=case["window"], strides=strides, padding=padding)
    if case["op"] == "conv":
        return functools.partial(ops.conv, strides=strides, padding=padding, groups=case.get("groups", 1))
    function = {"depthwise": "depthwise_conv"}.get(case["op"], case["op"])
    return functools.partial(getattr(ops, function), strides=strides, padding=padding)


def _default_op(case: Case) -> Callable:
    import flax.linen as nn
    import jax.numpy as jnp
    from jax import lax

    rank = len(case["x"]) - 2
    strides, pads = (case.get("strides", 1),) * rank, ((case.get("padding", 0),) * 2,) * rank
    if "pool" in case["op"]:
        return functools.partial(
            getattr(nn, case["op"]), window_shape=(case["window"],) * rank, strides=strides, padding=pads
        )
    axes, window = "DHW"[-rank:], case["kernel"][:rank]
    layout = (f"N{axes}C", f"{axes}IO", f"N{axes}C")
    if case["op"] == "conv_transpose":  # JAX correlates where the others apply the gradient of a convolution
        pads = [(k - 1 - low, k - 1 - high) for k, (low, high) in zip(window, pads, strict=True)]
        flip = functools.partial(jnp.flip, axis=tuple(range(rank)))
        return lambda x, w: lax.conv_transpose(x, flip(w), strides, pads, dimension_numbers=layout)
    groups = case.get("groups", 1)
    return lambda x, w: lax.conv_general_dilated(
        x, w, strides, pads, feature_group_count=groups, dimension_numbers=layout
    )
