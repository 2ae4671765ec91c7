"""Folding batch norms into the convolutions before them, for faster prediction."""

import collections
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from jaxcnn.core.jaxprs import inside
from jaxcnn.core.types import InputError, Tree
from jaxcnn.layers import BatchNorm, Conv

Array = jax.Array
Path = tuple[str, ...]
MARK = "folded: "


class _Norm(NamedTuple):
    """What folding needs to know about a norm: the convolution that it follows, if any, and its epsilon."""

    conv: Path | None
    epsilon: float


def fold_batchnorm(model: Any, variables: Tree, image: Array) -> tuple[Callable[[Tree, Array], Any], Tree]:
    """Fold each batch norm into the convolution before it, for prediction.

    A norm whose input is the result of a convolution, which nothing else reads, disappears into the kernel and a bias.
    All other norms become one product and one sum.

    Args:
        model: a Linen module that is called as `apply(variables, x, train=False)`, with norms of `layers.BatchNorm`.
        variables: its trained variables, with `"batch_stats"`.
        image: images `[B, *spatial, C]`; only shape and dtype are used.

    Returns:
        `(apply, variables)`: `jax.jit(apply)(variables, images)` gives what `model.apply(variables, images,
        train=False)` gave before, up to rounding.

    Raises:
        InputError: the variables have no running statistics.

    Reference: Jacob et al., 2017, arXiv:1712.05877.

    """
    if "batch_stats" not in variables:
        raise InputError(
            "variables: no 'batch_stats', so there is no batch norm to fold; predict with the model itself"
        )
    norms = _norms(model, variables, image)
    params: dict[Path, Any] = dict(flatten_dict(variables["params"]))
    stats: dict[Path, Any] = dict(flatten_dict(variables["batch_stats"]))
    for path, norm in norms.items():
        factor = lax.rsqrt(stats.pop((*path, "var")) + norm.epsilon) * params.pop((*path, "scale"))
        bias = params.pop((*path, "bias")) - stats.pop((*path, "mean")) * factor
        if norm.conv is None:
            params[*path, "scale"], params[*path, "bias"] = factor, bias
        else:
            kernel = params[*norm.conv, "kernel"]
            params[*norm.conv, "kernel"] = kernel * lax.broadcast_to_rank(factor, kernel.ndim)
            bias = bias + params.get((*norm.conv, "bias"), 0) * factor
            params[(*norm.conv, "bias") if (*norm.conv, "bias") in params else (*path, "bias")] = bias
    rest = {name: tree for name, tree in variables.items() if name not in ("params", "batch_stats")}
    rest |= {"batch_stats": unflatten_dict(stats)} if stats else {}  # of norms of other libraries

    def apply(variables: Tree, x: Array) -> Any:
        with nn.intercept_methods(_folded):
            return model.apply(variables, x, train=False)

    return apply, {"params": unflatten_dict(params), **rest}


def _folded(call: Callable[..., Any], arguments: Any, keywords: Any, context: nn.module.InterceptorContext) -> Any:
    """Apply what is left of a norm: nothing, a bias, or a factor and a bias."""
    norm = context.module
    if not isinstance(norm, BatchNorm) or context.method_name != "__call__":
        return call(*arguments, **keywords)
    x, left = arguments[0], norm.variables.get("params", {})
    for name, combine in (("scale", jnp.multiply), ("bias", jnp.add)):
        if name in left:
            x = combine(x, lax.broadcast_to_rank(left[name].astype(x.dtype), x.ndim))
    return x


def _norms(model: Any, variables: Tree, image: Array) -> dict[Path, _Norm]:
    """Find the norms of a model, and the convolution that each can be folded into."""
    marked: dict[int, tuple[Path, Any]] = {}  # the results of convolutions, which must live as long as their ids
    norms: dict[Path, _Norm] = {}
    uses: collections.Counter[Path] = collections.Counter()

    def watch(call: Any, arguments: Any, keywords: Any, context: nn.module.InterceptorContext) -> Any:
        module, path = context.module, context.module.path
        if context.method_name != "__call__" or not isinstance(module, BatchNorm | Conv):
            return call(*arguments, **keywords)
        if isinstance(module, BatchNorm):
            before = marked.get(id(arguments[0]), (None, None))[0]
            # a norm that is called twice has no single convolution to be folded into
            norms[path] = _Norm(None if path in norms else before, module.epsilon)
            return call(*arguments, **keywords)
        y = call(*arguments, **keywords)
        uses[path] += 1
        if module.pool == 1:  # a maximum does not commute with a negative factor
            y = checkpoint_name(y, MARK + "/".join(path))
            marked[id(y)] = path, y
        return y

    with nn.intercept_methods(watch):
        traced = jax.make_jaxpr(functools.partial(model.apply, train=False))(variables, image)
    read = _readers(traced.jaxpr)
    shared = collections.Counter(norm.conv for norm in norms.values())

    def free(conv: Path | None) -> bool:
        return conv is not None and read[MARK + "/".join(conv)] == uses[conv] == shared[conv] == 1

    return {path: norm if free(norm.conv) else norm._replace(conv=None) for path, norm in norms.items()}


def _readers(jaxpr: Any) -> collections.Counter[str]:
    """Count how often each marked result is read, here and in the jaxprs inside."""
    names = {eqn.outvars[0]: eqn.params["name"] for eqn in jaxpr.eqns if eqn.primitive.name == "name"}
    found: collections.Counter[str] = collections.Counter()
    for variables in (*(eqn.invars for eqn in jaxpr.eqns), jaxpr.outvars):
        found.update(names[v] for v in variables if not hasattr(v, "val") and v in names)
    for eqn in jaxpr.eqns:
        for part in inside(eqn):
            found += _readers(getattr(part, "jaxpr", part))
    return found
