"""State dicts of torchvision, timm and our own: recognised by their names, and adapted to a network."""

import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxcnn.core.types import InputError, Tree
from jaxcnn.models import NETWORKS
from jaxcnn.weights.by_path import filled, flat, image_shape, shapes
from jaxcnn.weights.checks import few, refuse_misfits, refuse_unusable
from jaxcnn.weights.layout import other_channels, to_ours, to_theirs
from jaxcnn.weights.preprocessing import Preprocessing, for_channels
from jaxcnn.weights.tables import TABLES, Source, current, names, published
from jaxcnn.weights.tensors import Tensors, as_float32

log = logging.getLogger("jaxcnn")
COUNTER = "num_batches_tracked"  # of PyTorch's batch norm; nothing depends on it
COUNTERS = (COUNTER, "n_averaged")  # the other is of its averages of weights
OWN = "jaxcnn"
# layers that may have outputs for each class, and the first with a logit for each
LAST, FIRST = re.compile(r"\.(logits|deltas)(_\d+)?\."), re.compile(r"params\.logits(_0)?\.bias")


class Adapted(NamedTuple):
    """What a state dict gives.

    Attributes:
        model: the network, made for what the state dict holds.
        variables: `{"params": ..., "batch_stats": ...}`.
        source: the library whose names the state dict has, or `"jaxcnn"`.
        preprocessing: what the images must go through.
        classes: how many the state dict has.

    """

    model: Any
    variables: Tree
    source: str
    preprocessing: Preprocessing
    classes: int


class _Recognised(NamedTuple):
    source: str
    table: Source | None
    names: Mapping[str, str]  # our path to the source's name
    tensors: Tensors  # by the source's names


def to_state_dict(name: str, variables: Tree, **options: Any) -> Tensors:
    """Return variables as a state dict of the first library that has the network, or with our own paths.

    Args:
        name: of `models.NETWORKS`.
        variables: `{"params": ..., "batch_stats": ...}`; what a loss kept beside them is left out.
        options: of the constructor.

    """
    kept = {part: variables[part] for part in ("params", "batch_stats") if part in variables}
    values = {path: np.asarray(x) for path, x in flat(kept).items()}
    source, called = next(iter(sources(name, NETWORKS[name](**options), values).items()))
    table = _table(name, source)
    tensors = {
        called[path]: np.ascontiguousarray(to_theirs(x, path, called[path], table)) for path, x in values.items()
    }
    if table is not None:
        norms = [there.removesuffix("running_mean") for there in tensors if there.endswith("running_mean")]
        tensors |= {f"{norm}{COUNTER}": np.zeros((), np.int64) for norm in norms}
    return tensors


def from_state_dict(
    name: str,
    tensors: Tensors,
    *,
    num_classes: int | None = None,
    channels: int | None = None,
    image: Sequence[int] | None = None,
    **options: Any,
) -> tuple[Any, Tree, str]:
    """Return model, variables and source of a state dict in memory; arguments and errors as for `load_weights`."""
    found = adapted(name, as_float32(tensors), num_classes, channels, image, options, lambda source: None)
    return found.model, found.variables, found.source


def adapted(
    name: str,
    tensors: Tensors,
    num_classes: int | None,
    channels: int | None,
    image: Sequence[int] | None,
    options: Mapping[str, Any],
    stated: Callable[[str], Preprocessing | None],
) -> Adapted:
    """Fit a state dict to a network.

    Args:
        name: as are the next five, see `load_weights`.
        tensors: float32 by the file's names.
        num_classes: of the network.
        channels: of the images.
        image: height and width.
        options: of the constructor.
        stated: gives what the images of a source's weights went through, or None where nothing states it.

    Raises:
        InputError: the state dict does not fit the network, or its values cannot be used.

    """
    make = NETWORKS[name]
    model = make(**options)
    height, width, depth = image_shape(model, image)
    like = shapes(model, (height, width, depth))
    found = _recognise(name, model, tensors, like)
    in_file = _classes(model, found, like)

    shape, classes = (height, width, channels or depth), num_classes or in_file
    if (classes, channels) != (model.num_classes, None):
        model = make(**{**options, "num_classes": classes})
        like = shapes(model, shape)
    values = {
        path: to_ours(found.tensors[there], path, there, like[path].shape, found.table)
        for path, there in found.names.items()
        if there in found.tensors
    }
    said = stated(found.source)
    pixels = for_channels(said or published(name, found.source), shape[2])
    if channels:
        values = other_channels(values, like, said or pixels, pixels)
    new = {path for path in like if LAST.search(path) and _misfits(values.get(path), like[path])}
    new = new if model.num_classes != in_file else set()
    needed = {path: leaf for path, leaf in like.items() if path not in new}
    refuse_misfits(name, found.table, found.tensors, found.names, needed, values)
    refuse_unusable({found.names[path]: x for path, x in values.items()})
    if new:
        log.info("%s: a new last layer for %d classes; the file has one for %d", name, model.num_classes, in_file)
    kept = {path: x for path, x in values.items() if path not in new}
    return Adapted(model, filled(model, shape, like, kept), found.source, pixels, in_file)


def sources(name: str, model: Any, paths: Iterable[str]) -> dict[str, dict[str, str]]:
    """Return for each library that has the network, and last for our own files, its name of each of our paths.

    Args:
        name: of `models.NETWORKS`.
        model: the network.
        paths: of its variables.

    """
    paths = list(paths)
    called = {source: names(table, model, paths) for source, table in TABLES.get(name, {}).items()}
    return {source: found for source, found in called.items() if found is not None} | {
        OWN: {path: path for path in paths}
    }


def _table(name: str, source: str) -> Source | None:
    """Return a library's table of a network; None for our own names."""
    return None if source == OWN else TABLES[name][source]


def _classes(model: Any, found: _Recognised, like: Mapping[str, Any]) -> int:
    """Return the number of classes that a file is for; that of the model where its last layer does not tell."""
    path = next((path for path in like if FIRST.fullmatch(path)), None)
    head = None if path is None else found.tensors.get(found.names[path])
    if path is None or head is None or head.ndim != 1:
        return model.num_classes
    groups = like[path].size // (model.num_classes + model.background)
    whole, rest = divmod(len(head), groups)
    return whole - model.background if not rest and whole > model.background else model.num_classes


def _misfits(x: np.ndarray | None, like: Any) -> bool:
    """Whether a file lacks what a network needs, or has it in another shape."""
    return x is None or x.shape != like.shape


def _recognise(name: str, model: Any, tensors: Tensors, like: Mapping[str, Any]) -> _Recognised:
    """Find the source that most names of a file are of."""
    given = {key: x for key, x in tensors.items() if key.rpartition(".")[2] not in COUNTERS}
    found = []
    for source, called in sources(name, model, like).items():
        table = _table(name, source)
        found += [_Recognised(source, table, called, form) for form in _unwrapped(_in_current_names(table, given))]
    return max(found, key=lambda one: len(one.tensors.keys() & set(one.names.values())))


def _in_current_names(table: Source | None, tensors: Tensors) -> Tensors:
    """Rename tensors that the library's published files call otherwise than its code does now."""
    if table is None:
        return tensors
    out = {current(table, key): x for key, x in tensors.items()}
    if len(out) < len(tensors):
        twice = [key for key in tensors if current(table, key) != key and current(table, key) in tensors]
        raise InputError(f"{len(twice)} tensors have both an old and a new name ({few(twice)}); get the file again")
    return out


def _unwrapped(tensors: Tensors) -> list[Tensors]:
    """Return tensors as they are named, and without the first part that all names share, the first two, and so on."""
    forms = [tensors]
    while (
        len(forms) < 8 and len({key.split(".")[0] for key in forms[-1]}) == 1 and all("." in key for key in forms[-1])
    ):
        forms.append({key.partition(".")[2]: x for key, x in forms[-1].items()})
    return forms
