"""Pruning of whole filters: a narrower network of the same kind that begins with the channels that matter most.

References: Li et al., 2016, arXiv:1608.08710 (size of the filters); Liu et al., 2017, arXiv:1708.06519 (scales of the
norms); Fang et al., 2023, arXiv:2301.12900 (which channels belong together).
"""

import numbers
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn.core.types import InputError, Tree, check_numbers, named
from jaxcnn.methods.channels import Numbers, connected

Array = jax.Array
FIELDS = ("widths", "width")  # of models: their numbers of channels, or a factor of them


def narrowed(model: Any, variables: Tree, image: Any, keep: float = 0.5) -> tuple[Any, Tree]:
    """Remove whole filters from a network.

    The channels that stay are those whose norms have the largest scales or, where there is no norm, whose filters have
    the largest weights; channels that are added to each other stay or go together. The narrower network computes
    without the others, so fine-tune it.

    Args:
        model: a Linen module with a field `widths` or `width`, such as `cnn`, `speednet`, `resnet18` or `plain`.
        variables: its trained variables.
        image: images `[B, *spatial, C]`; only shape and dtype are used.
        keep: share of the channels that stay, in (0, 1].

    Returns:
        `(narrower model, its variables)`; the model is `model.clone(widths=...)`.

    Raises:
        InputError: the share is out of range, the model has no such field, a variable is not finite, or its channels
            cannot be followed.

    """
    check_numbers(keep=keep)
    if not 0 < keep <= 1:
        raise InputError(f"keep={keep}: must be above 0 and at most 1")
    field = next((name for name in FIELDS if hasattr(model, name)), None)
    if field is None:
        kind = type(model).__name__
        raise InputError(f"model={kind}: has no field 'widths' or 'width' to narrow; prune single weights instead")
    small = model.clone(**{field: _fewer(getattr(model, field), keep)})
    image = jax.ShapeDtypeStruct((1, *np.shape(image)[1:]), image.dtype)
    wanted = jax.eval_shape(lambda x: small.init(jax.random.key(0), x, train=False), image)
    if jax.tree.structure(wanted) != jax.tree.structure(dict(variables)):
        raise InputError(f"{field}={getattr(small, field)}: gives a network with other layers; give another keep=")
    for name, x in named(variables):
        if not bool(jnp.isfinite(x).all()):
            raise InputError(f"{name}: has values that are not finite; the importance of its channels is not known")
    labels = connected(lambda v, x: model.apply(v, x, train=False), variables, image)
    sizes = [x.shape for x in jax.tree.leaves(wanted)]
    kept = _kept(labels, sizes, _importance(variables, labels))
    leaves = [_taken(x, axes, kept) for x, axes in zip(jax.tree.leaves(variables), labels, strict=True)]
    if wrong := [n for (n, _), x, size in zip(named(variables), leaves, sizes, strict=True) if x.shape != size]:
        raise InputError(f"{wrong[0]}: its channels cannot be removed here; prune single weights with methods.prune")
    return small, jax.tree.unflatten(jax.tree.structure(variables), leaves)


def _fewer(width: Any, keep: float) -> Any:
    if isinstance(width, Sequence):
        return tuple(_fewer(n, keep) for n in width)
    return max(1, round(int(width) * keep)) if isinstance(width, numbers.Integral) else width * keep


def _importance(variables: Tree, labels: list[Numbers]) -> dict[int, float]:
    """Return for each channel the mean scale of its norms, or else the mean size of its filters."""
    scales: dict[int, list[float]] = {}
    filters: dict[int, list[float]] = {}
    for (name, x), axes in zip(named(variables), labels, strict=True):
        last = name.rsplit(".", 1)[-1]
        if last not in ("scale", "kernel"):
            continue
        size = np.abs(np.asarray(x)).reshape(-1, x.shape[-1]).mean(0)
        found = scales if last == "scale" else filters
        for label, value in zip(axes[-1].tolist(), (size / max(size.mean(), 1e-12)).tolist(), strict=True):
            found.setdefault(label, []).append(value)
    return {label: float(np.mean(values)) for label, values in {**filters, **scales}.items()}


def _kept(labels: list[Numbers], sizes: list[tuple[int, ...]], importance: dict[int, float]) -> set[int]:
    """Choose the channels that stay, so that each axis gets the size it has in the narrower network."""
    axes = [(x, n) for axes, size in zip(labels, sizes, strict=True) for x, n in zip(axes, size, strict=True) if len(x)]
    decided: dict[int, bool] = {}
    for x, size in sorted(axes, key=lambda one: len(set(one[0].tolist()))):
        channels, counts = np.unique(x, return_counts=True)
        times = dict(zip(channels.tolist(), counts.tolist(), strict=True))
        missing = size - sum(times[k] for k in times if decided.get(k, False))
        open_ = sorted((k for k in times if k not in decided), key=lambda k: (-importance.get(k, 0.0), k))
        for k in open_:
            decided[k] = missing >= times[k]
            missing -= times[k] if decided[k] else 0
        if missing:
            raise InputError(f"an axis of {len(x)} cannot become one of {size}; give another keep=")
    return {k for k, stays in decided.items() if stays}


def _taken(x: Array, axes: Numbers, kept: set[int]) -> Array:
    for axis, labels in enumerate(axes):
        x = jnp.take(x, np.flatnonzero([k in kept for k in labels.tolist()]), axis)
    return x
