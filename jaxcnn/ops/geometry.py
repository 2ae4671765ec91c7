"""Strides, windows and padding as plain tuples: the argument handling that every operation shares."""

from collections.abc import Sequence

Pads = tuple[tuple[int, int], ...]


def to_tuple(value: int | Sequence[int], rank: int, name: str) -> tuple[int, ...]:
    """One positive integer an axis, from one number or a sequence."""
    out = (value,) * rank if isinstance(value, int) else tuple(int(v) for v in value)
    if len(out) != rank or min(out) < 1:
        raise ValueError(f"{name}={value}: must be a positive integer, or {rank} of them")
    return out


def resolve_padding(
    padding: str | int | Sequence[tuple[int, int]], sizes: Sequence[int], extent: Sequence[int], strides: Sequence[int]
) -> Pads:
    """`(low, high)` an axis; `"SAME"` puts the odd element at the end, as XLA and TensorFlow do (PyTorch pads evenly)."""
    if padding == "VALID":
        return ((0, 0),) * len(sizes)
    if padding == "SAME":
        total = [max((-(-n // s) - 1) * s + k - n, 0) for n, k, s in zip(sizes, extent, strides, strict=True)]
        return tuple((t // 2, t - t // 2) for t in total)
    if isinstance(padding, str):
        raise ValueError(f'padding={padding!r}: must be "SAME", "VALID", a number, or (low, high) pairs')
    if isinstance(padding, int):
        return ((padding, padding),) * len(sizes)
    pads = tuple((int(low), int(high)) for low, high in padding)
    if len(pads) != len(sizes):
        raise ValueError(f"padding={padding}: needs {len(sizes)} (low, high) pairs")
    return pads
