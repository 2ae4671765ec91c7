"""Strides, windows and padding as plain tuples: the argument handling that every operation shares."""

from collections.abc import Sequence
from typing import NamedTuple

from jaxcnn.types import InputError

Pads = tuple[tuple[int, int], ...]


class Geometry(NamedTuple):
    """The static part of a convolution; hashable, so it can key a compiled program."""

    strides: tuple[int, ...]
    padding: Pads
    dilation: tuple[int, ...]
    groups: int


def to_tuple(value: int | Sequence[int], rank: int, name: str) -> tuple[int, ...]:
    """One positive integer an axis, from one number or a sequence."""
    out = (value,) * rank if isinstance(value, int) else tuple(int(v) for v in value)
    if len(out) != rank or min(out) < 1:
        raise InputError(f"{name}={value}: must be a positive integer, or {rank} of them")
    return out


def resolve_padding(
    padding: str | int | Sequence[tuple[int, int]], sizes: Sequence[int], extent: Sequence[int], strides: Sequence[int]
) -> Pads:
    """`(low, high)` an axis; `"SAME"` puts the odd element at the end, as XLA and TensorFlow do (PyTorch pads evenly)."""
    if padding == "SAME":
        total = [max((-(-n // s) - 1) * s + k - n, 0) for n, k, s in zip(sizes, extent, strides, strict=True)]
        pads = tuple((t // 2, t - t // 2) for t in total)
    elif padding == "VALID" or isinstance(padding, int):
        pads = ((0 if padding == "VALID" else padding,) * 2,) * len(sizes)
    else:
        pads = _pairs(padding, len(sizes))
    if min(map(min, pads)) < 0:
        raise InputError(f"padding={padding}: must not be negative; crop the image instead")
    if any(n + sum(p) < k for n, p, k in zip(sizes, pads, extent, strict=True)):
        raise InputError(f"spatial size {tuple(sizes)} with padding={padding}: smaller than the window {tuple(extent)}")
    return pads


def _pairs(padding: str | Sequence[tuple[int, int]], rank: int) -> Pads:
    try:
        pads = tuple((int(low), int(high)) for low, high in padding)
    except (TypeError, ValueError):
        pads = ()
    if len(pads) != rank:
        raise InputError(f'padding={padding!r}: must be "SAME", "VALID", a number, or {rank} (low, high) pairs')
    return pads
