"""Which channels of a network belong together: what one parameter's axis has in common with those of others.

Every position along an axis of a parameter gets a number. Numbers become one where the traced program adds, multiplies
or contracts the arrays that they come from, as a residual sum does with the channels of its two operands.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from jaxcnn import ops
from jaxcnn.core import jaxprs
from jaxcnn.core.types import InputError, Tree

Labels = tuple[np.ndarray | None, ...]  # per axis, a number per position, or None for places and rows
Numbers = tuple[np.ndarray, ...]
SAME = (
    "abs", "convert_element_type", "copy", "cumsum", "erf", "erfc", "exp", "exp2", "expm1", "integer_pow", "is_finite",
    "log", "log1p", "logistic", "name", "neg", "not", "optimization_barrier", "reduce_precision", "reduce_window",
    "reduce_window_max", "reduce_window_min", "reduce_window_sum", "rev", "round", "rsqrt", "sign", "sqrt", "square",
    "stop_gradient", "tanh",
)  # fmt: skip
TOGETHER = (
    "add", "add_any", "and", "atan2", "clamp", "div", "eq", "ge", "gt", "le", "lt", "max", "min", "mul", "ne", "or",
    "pow", "rem", "select_n", "sub",
)  # fmt: skip
UNKNOWN = "channels cannot be followed through it here; prune single weights with methods.prune"
REDUCING = ("argmax", "reduce_and", "reduce_max", "reduce_min", "reduce_or", "reduce_prod", "reduce_sum")


def connected(apply: Callable[[Tree, Any], Any], variables: Tree, image: Any) -> list[Numbers]:
    """Return for each array of the variables, and each of its axes, which positions belong together.

    Args:
        apply: `(variables, image) -> outputs`.
        variables: only shapes and dtypes are used.
        image: `[B, *spatial, C]`, likewise.

    Returns:
        In the order of `jax.tree.leaves(variables)`, a number per position of each axis: positions with the same
        number are one channel.

    Raises:
        InputError: an operation is not known here.

    """
    with ops.native_lowering():
        traced = jax.make_jaxpr(apply)(variables, image)
    sets = _Sets()
    leaves = [tuple(sets.fresh(n) for n in x.shape) for x in jax.tree.leaves(variables)]
    pixels = (*(None for _ in image.shape[:-1]), sets.fresh(image.shape[-1]))

    def rule(eqn: Any, known: list[Labels]) -> list[Labels]:
        inner = jaxprs.called(eqn)
        if inner is not None:
            return jaxprs.walk(inner, known, rule, _unlabelled)
        return [_result(sets, eqn, known)] * len(eqn.outvars)

    jaxprs.walk(traced, [*leaves, pixels], rule, _unlabelled)
    return [tuple(sets.roots(x) for x in axes) for axes in leaves]


class _Sets:
    """Disjoint sets of numbers."""

    def __init__(self) -> None:
        self.parent: list[int] = []

    def fresh(self, count: int) -> np.ndarray:
        first = len(self.parent)
        self.parent += range(first, first + count)
        return np.arange(first, first + count)

    def root(self, i: int) -> int:
        while self.parent[i] != i:
            self.parent[i] = self.parent[self.parent[i]]
            i = self.parent[i]
        return i

    def roots(self, labels: np.ndarray) -> np.ndarray:
        return np.array([self.root(i) if i >= 0 else i for i in labels.tolist()], int)

    def join(self, *several: np.ndarray | None) -> np.ndarray | None:
        """Make numbers of equal positions one; -1 stands for what is not a channel, such as padding."""
        held = [labels for labels in several if labels is not None]
        if not held:
            return None
        out = np.full(max(len(labels) for labels in held), -1)
        for labels in held:
            for i, label in enumerate(np.broadcast_to(labels, out.shape).tolist()):
                if label >= 0 and out[i] >= 0:
                    self.parent[self.root(label)] = self.root(int(out[i]))
                out[i] = label if out[i] < 0 else out[i]
        return out


def _unlabelled(value: Any) -> Labels:
    return (None,) * np.ndim(value)


def _result(sets: _Sets, eqn: Any, known: list[Labels]) -> Labels:
    """Return the labels of what an equation makes."""
    name, p, shape = eqn.primitive.name, eqn.params, eqn.outvars[0].aval.shape
    first: Labels = known[0] if known else ()
    if name in SAME:
        return first
    if name in TOGETHER:
        whole = [axes for axes in known if len(axes) == len(shape)]
        return tuple([sets.join(*axes) for axes in zip(*whole, strict=True)])
    if name in REDUCING:
        return tuple(x for i, x in enumerate(first) if i not in p["axes"])
    if name == "broadcast_in_dim":
        out: list[np.ndarray | None] = [None] * len(shape)
        for axis, labels in zip(p["broadcast_dimensions"], first, strict=True):
            out[axis] = labels if labels is None or len(labels) == shape[axis] else None
        return tuple(out)
    if name == "transpose":
        return tuple([first[int(a)] for a in p["permutation"]])
    if name in ("reshape", "squeeze", "expand_dims"):
        return _reshaped(first, eqn.invars[0].aval.shape, shape)
    if name == "concatenate":
        return _concatenated(sets, eqn, known)
    if name == "slice":
        steps = p["strides"] or (1,) * len(shape)
        cuts = zip(first, p["start_indices"], p["limit_indices"], steps, strict=True)
        return tuple(None if x is None else x[a:b:c] for x, a, b, c in cuts)
    if name == "pad":
        return tuple(None if x is None else _padded(x, *how) for x, how in zip(first, p["padding_config"], strict=True))
    if name == "conv_general_dilated":
        return _convolved(sets, eqn, known)
    if name == "dot_general":
        return _multiplied(sets, eqn, known)
    if all(x is None for axes in known for x in axes):
        return (None,) * len(shape)
    raise InputError(f"{name}: {UNKNOWN}")


def _padded(labels: np.ndarray, low: int, high: int, inside: int) -> np.ndarray:
    if inside or low < 0 or high < 0:
        raise InputError(f"pad: {UNKNOWN}")
    return np.pad(labels, (low, high), constant_values=-1)


def _concatenated(sets: _Sets, eqn: Any, known: list[Labels]) -> Labels:
    axis, out = eqn.params["dimension"], []
    for i, axes in enumerate(zip(*known, strict=True)):
        if i != axis:
            out.append(sets.join(*axes))
            continue
        sizes = [v.aval.shape[axis] for v in eqn.invars]
        none = all(x is None for x in axes)
        parts = [np.full(n, -1) if x is None else x for x, n in zip(axes, sizes, strict=True)]
        out.append(None if none else np.concatenate(parts))
    return tuple(out)


def _reshaped(labels: Labels, before: Sequence[int], after: Sequence[int]) -> Labels:
    """Merge and split axes: find the new axis along which the channels of an old one lie."""
    out: list[np.ndarray | None] = [None] * len(after)
    for axis, own in enumerate(labels):
        if own is None or len(own) == 1:
            continue
        place = [-1 if i == axis else 1 for i in range(len(before))]
        whole = np.broadcast_to(own.reshape(place), before).reshape(after)
        for new in range(len(after)):
            line = np.moveaxis(whole, new, -1).reshape(-1, after[new])
            if out[new] is None and (line == line[0]).all():
                out[new] = line[0]
                break
        else:
            raise InputError(f"reshape of {tuple(before)} to {tuple(after)}: {UNKNOWN}")
    return tuple(out)


def _convolved(sets: _Sets, eqn: Any, known: list[Labels]) -> Labels:
    (image, kernel), spec, groups = known, eqn.params["dimension_numbers"], eqn.params["feature_group_count"]
    read, taken, made = image[spec.lhs_spec[1]], kernel[spec.rhs_spec[1]], kernel[spec.rhs_spec[0]]
    if groups == 1:
        sets.join(read, taken)
    elif read is not None and made is not None and len(read) == len(made) == groups:  # a filter per channel
        made = sets.join(read, made)
    else:
        raise InputError(f"a convolution in {groups} groups: {UNKNOWN}")
    return tuple(made if axis == spec.out_spec[1] else None for axis in range(len(image)))


def _multiplied(sets: _Sets, eqn: Any, known: list[Labels]) -> Labels:
    (left, right), ((sum_left, sum_right), (batch_left, batch_right)) = known, eqn.params["dimension_numbers"]
    for a, b in zip(sum_left, sum_right, strict=True):
        sets.join(left[a], right[b])
    batch = [sets.join(left[a], right[b]) for a, b in zip(batch_left, batch_right, strict=True)]
    free = [x for a, x in enumerate(left) if a not in (*sum_left, *batch_left)]
    return (*batch, *free, *(x for a, x in enumerate(right) if a not in (*sum_right, *batch_right)))
