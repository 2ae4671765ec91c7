"""What is wrong with the tensors of a file: missing, unexpected, of another shape, or not usable as weights."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxcnn.core.text import visible
from jaxcnn.core.types import InputError
from jaxcnn.weights.layout import their_shape
from jaxcnn.weights.tables import Source
from jaxcnn.weights.tensors import Tensors

SHOWN = 6  # names that a message lists


class WeightsError(InputError):
    """A file that does not fit a network; the message names a few tensors of each kind, and the attributes all of them.

    Attributes:
        missing: names that the network needs.
        unexpected: names that it has no place for.
        shapes: name to the shape found and the one needed.

    """

    def __init__(self, title: str, missing: Sequence[str], unexpected: Sequence[str], shapes: Mapping[str, tuple]):
        wrong = [f"{name} {list(found)} for {list(needed)}" for name, (found, needed) in shapes.items()]
        kinds = {"missing": missing, "unexpected": unexpected, "of another shape": wrong}
        listed = (f"{len(names)} {kind} ({few(names)})" for kind, names in kinds.items() if names)
        super().__init__(f"{title}: {'; '.join(listed)}")
        self.missing, self.unexpected, self.shapes = missing, unexpected, shapes


def refuse_misfits(
    title: str,
    table: Source | None,
    tensors: Tensors,
    names: Mapping[str, str],
    like: Mapping[str, Any],
    values: Tensors,
) -> None:
    """Compare what a file has with what the network needs.

    Args:
        title: how the message begins.
        table: of the library that wrote the file; None for our own files.
        tensors: of the file, by its names.
        names: of all variables: our path to the file's name.
        like: the variables that the file must have, by our paths.
        values: of the file, by our paths and in our layout.

    Raises:
        WeightsError: they differ; shapes are given in the layout of the file.

    """
    missing = [names[path] for path in like if path not in values]
    unexpected = sorted(key for key in tensors.keys() - set(names.values()) if not _auxiliary(table, key))
    wrong = [path for path, leaf in like.items() if path in values and values[path].shape != leaf.shape]
    needed = {path: their_shape(like[path].shape, path, names[path], table) for path in wrong}
    if missing or unexpected or wrong:
        shapes = {names[path]: (tensors[names[path]].shape, needed[path]) for path in wrong}
        raise WeightsError(title, missing, unexpected, shapes)


def _auxiliary(table: Source | None, key: str) -> bool:
    """Whether a tensor belongs to an auxiliary head, which a network may lack."""
    return table is not None and any(key.startswith(f"{name}.") for name in table.auxiliary)


def refuse_unusable(tensors: Tensors) -> None:
    """Refuse integers, values that are not finite, and negative variances.

    Raises:
        InputError: one line that names the first few tensors.

    """
    whole = [key for key, x in tensors.items() if x.dtype.kind != "f"]
    if whole:
        dtype = tensors[whole[0]].dtype
        raise InputError(f"weights of type {dtype} in {few(whole)}; must be floating-point, not quantised")
    bad = {key: np.count_nonzero(~np.isfinite(x)) for key, x in tensors.items() if not np.isfinite(x).all()}
    if bad:
        counts = few([f"{key}: {n}" for key, n in bad.items()])
        raise InputError(f"numbers that are not finite in {counts}; get the file again")
    negative = [key for key, x in tensors.items() if key.endswith(("running_var", ".var")) and (x < 0).any()]
    if negative:
        raise InputError(f"negative variances in {few(negative)}; get the file again")


def few(names: Sequence[str]) -> str:
    """List the first few names, and say how many more there are."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(visible(name)[:100] for name in names[:SHOWN]) + more
