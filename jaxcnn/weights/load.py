"""Weights from files: state dicts of torchvision and timm, or our own, are read, adapted, checked and written."""

import contextlib
import json
import logging
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, NotRequired

from typing_extensions import TypedDict  # typing's own is not enough for pydantic on Python 3.11

from jaxcnn.core.files import parse_json, read_json, write_bytes
from jaxcnn.core.schema import fitted
from jaxcnn.core.text import visible
from jaxcnn.core.types import InputError, Tree, reason
from jaxcnn.models import NETWORKS
from jaxcnn.weights import tensors as tensor_files
from jaxcnn.weights.by_path import count
from jaxcnn.weights.checks import WeightsError
from jaxcnn.weights.fetch import fetch
from jaxcnn.weights.preprocessing import LARGEST, Preprocessing, checked, from_timm
from jaxcnn.weights.state_dicts import OWN, adapted, from_state_dict, to_state_dict
from jaxcnn.weights.tables import published

log = logging.getLogger("jaxcnn")
DEPTHS, MOST_DEPTH, MOST_OPTION = (
    ("depth", "blocks", "convs", "steps"),
    512,
    65_536,
)  # of a network that a file asks for


class Weights(NamedTuple):
    """A network with the weights of a file.

    Attributes:
        model: the Linen module, made for what the file holds.
        variables: `{"params": ..., "batch_stats": ...}`, float32.
        preprocessing: what its images must go through.
        source: whose names the file uses: `"torchvision"`, `"timm"` or `"jaxcnn"`.

    """

    model: Any
    variables: Tree
    preprocessing: Preprocessing
    source: str


def load_weights(
    name: str,
    path: str | pathlib.Path,
    *,
    num_classes: int | None = None,
    channels: int | None = None,
    image: Sequence[int] | None = None,
    **options: Any,
) -> Weights:
    """Make a network and read its weights; every tensor of the file must have a place, and every parameter a tensor.

    Names are read as they were published, former names included, and without prefixes that wrappers put in front of all
    of them (`module.`, `_orig_mod.`, `model.`, `state_dict.`).

    Args:
        name: of `models.NETWORKS`.
        path: a `.safetensors` file with torchvision's, timm's or our own names; a `.pth` or `.pt` if torch is
            installed, read only by torch's loader for weights, which runs no code; or an address, see `fetch`.
        num_classes: a number that differs from the file's makes a new last layer, randomly initialised; None takes the
            file's.
        channels: of the images, 1 or 3. Where the file has the other number, the first convolution and the
            normalisation are changed so that gray images give what they would give as colour ones. Where the three
            channels are normalised differently, a gray image has one mean and deviation, and the first layer makes up
            for the difference, except for the zeros that a padded convolution reads outside of the image.
        image: height and width that transformers and dense networks are made for; positions are resampled.
        options: of the constructor; those that `save_weights` recorded in the file need not be repeated.

    Raises:
        InputError: the file cannot be read, holds values that are not finite, or is another network's (`WeightsError`).

    """
    if name not in NETWORKS:
        raise InputError(f"model {name!r}: unknown; python -m jaxcnn.models lists those that there are")
    if channels not in (None, 1, 3):
        raise InputError(f"channels={channels}: must be 1 or 3")
    if num_classes is not None and num_classes < 1:
        raise InputError(f"num_classes={num_classes}: must be at least 1")
    file = fetch(str(path))
    where = visible(file.name)
    tensors, metadata = tensor_files.read(
        file, lambda metadata: _most(name, _about(metadata, where), image, options, where)
    )
    if narrow := tensor_files.narrow(tensors):
        log.warning("%s: numbers are %s, kept as float32", where, narrow)
    kept = _about(metadata, where)
    if image and (made_for := kept.get("image")):  # which says how many channels there are
        image = (*image, *made_for[2:])[:3]
    own = checked(recorded, f"{where}: preprocessing") if (recorded := kept.get("preprocessing")) else None
    beside = None if own else _beside(file, name)

    def stated(source: str) -> Preprocessing | None:
        return own or beside or (published(name, source) if source != OWN else None)

    try:
        with _options_of(kept, name, where):
            values, made_with = tensor_files.as_float32(tensors), kept.get("options", {}) | options
            found = adapted(name, values, num_classes, channels, image or kept.get("image"), made_with, stated)
    except WeightsError as error:
        raise WeightsError(f"{where} does not fit {name}", error.missing, error.unexpected, error.shapes) from None
    if beside and beside.classes and len(beside.classes) != found.classes:
        counts = f"{len(beside.classes)} label_names for {found.classes} classes"
        raise InputError(f"config.json beside {where}: {counts}; correct or remove it")
    preprocessing = found.preprocessing
    if len(preprocessing.classes) != found.model.num_classes:
        preprocessing = preprocessing._replace(classes=())
    return Weights(found.model, found.variables, preprocessing, found.source)


def save_weights(
    path: str | pathlib.Path,
    name: str,
    variables: Tree,
    *,
    preprocessing: Preprocessing | None = None,
    image: Sequence[int] | None = None,
    **options: Any,
) -> None:
    """Write weights as `.safetensors`, with the names of the first library that has the network, or with our own.

    The file also records the options, the size of the images and the preprocessing.

    Args:
        path: the file to write.
        name: of `models.NETWORKS`.
        variables: `{"params": ..., "batch_stats": ...}`.
        preprocessing: what the images went through.
        image: height, width and channels of the images, where they are not the network's usual ones.
        options: of the constructor.

    Raises:
        InputError: the file cannot be written, or an option is not a plain value.

    """
    from safetensors import SafetensorError
    from safetensors.numpy import save

    tensors = to_state_dict(name, variables, **options)
    # the last layer tells the number of classes
    about: dict[str, Any] = {"options": {k: v for k, v in options.items() if k != "num_classes"}}
    about["image"] = None if image is None else list(image)
    if preprocessing:
        about["preprocessing"] = preprocessing._asdict()
    try:
        recorded = json.dumps({k: v for k, v in about.items() if v}, allow_nan=False)
        write_bytes(path, save(tensors, {"format": "pt", OWN: recorded}))
    except (SafetensorError, OSError, TypeError, ValueError) as error:
        raise InputError(f"{path}: cannot be written ({reason(error)})") from error


class _About(TypedDict):
    options: NotRequired[dict[str, Any]]
    image: NotRequired[list[int] | None]
    preprocessing: NotRequired[dict[str, Any] | None]


def _about(metadata: Mapping[str, str], where: str) -> _About:
    """Return what `save_weights` wrote about the weights, checked."""
    where = f"{where}: its metadata {OWN!r}"
    about = fitted(_About, parse_json(metadata.get(OWN, "{}"), where), where)
    image = about.get("image")
    if image is not None and not (len(image) in (2, 3) and all(1 <= n <= LARGEST for n in image)):
        raise InputError(f"{where}: image: {str(image)[:80]}: must be height, width and perhaps channels")
    for key, value in about.get("options", {}).items():
        if not _fits(key, value):
            shown = f"{visible(key)[:80]}: {visible(str(value))[:80]}"
            raise InputError(f"{where}: options: {shown}: too large, or no plain value")
    return about


def _fits(key: str, value: Any) -> bool:
    """Whether an option is a plain value, or a short list of them, and makes no network that is too large."""
    plain = value if isinstance(value, list) else [value]
    if len(plain) > 64 or not all(x is None or isinstance(x, bool | int | float | str) for x in plain):
        return False
    numbers = [x for x in plain if isinstance(x, int | float)]
    return all(abs(x) <= MOST_OPTION and (key not in DEPTHS or x <= MOST_DEPTH) for x in numbers)


@contextlib.contextmanager
def _options_of(about: _About, name: str, where: str) -> Iterator[None]:
    """Where a file states options, blame them for an error in making the network."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # constructors and tracing raise errors of any kind on options that make no sense
        if not about.get("options") and not about.get("image"):
            raise
        raise InputError(_no_network(about, name, where, error)) from error


def _no_network(about: _About, name: str, where: str, error: Exception) -> str:
    said = visible(str({"options": about.get("options"), "image": about.get("image")}))[:120]
    why = f"its metadata says {said}, which is no {name} ({visible(reason(error))})"
    return f"{where}: {why}; name the network that the file is of"


def _most(name: str, about: _About, image: Sequence[int] | None, options: dict[str, Any], where: str) -> int:
    """Return the most values that a file may have, with ample room for auxiliary heads and other numbers of classes."""
    try:
        with _options_of(about, name, where):
            return 4 * count(name, image or about.get("image"), about.get("options", {}) | options) + 10**8
    except InputError as error:
        if not about.get("image") or image or str(error).startswith(where):
            raise
        raise InputError(_no_network(about, name, where, error)) from error


def _beside(file: pathlib.Path, name: str) -> Preprocessing | None:
    """Read timm's `config.json` in the same folder; another program's file of that name is ignored."""
    config = file.parent / "config.json"
    if not os.path.lexists(config):
        return None
    where = f"config.json beside {visible(file.name)}"
    try:
        said = read_json(config)
    except (OSError, InputError) as error:
        raise InputError(f"{where}: cannot be read ({reason(error)}); mend or remove it") from None
    return from_timm(said, where, name) if isinstance(said, dict) and "pretrained_cfg" in said else None


__all__ = ["Weights", "WeightsError", "from_state_dict", "load_weights", "save_weights", "to_state_dict"]
