"""Weights from files: state dicts of torchvision and timm, or our own, in safetensors; read, adapted, checked, written."""

import json
import logging
import math
import pathlib
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn.fetch import fetch
from jaxcnn.models import MODELS
from jaxcnn.preprocessing import Preprocessing, from_timm, published
from jaxcnn.types import InputError, Tree, reason

log = logging.getLogger("jaxcnn")
Tensors = dict[str, np.ndarray]
LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
COUNTER = "num_batches_tracked"  # of PyTorch's batch norm; nothing depends on it
OWN = "jaxcnn"
SHOWN = 6


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


class WeightsError(InputError):
    """A file that does not fit a network; the message names the first few tensors of each kind, the attributes all of them.

    Attributes:
        missing: names that the network needs.
        unexpected: names that it has no place for.
        shapes: name to the shape found and the one needed.

    """

    def __init__(self, title: str, missing: Sequence[str], unexpected: Sequence[str], shapes: Mapping[str, tuple]):
        wrong = [f"{name} {list(found)} for {list(needed)}" for name, (found, needed) in shapes.items()]
        kinds = {"missing": missing, "unexpected": unexpected, "of another shape": wrong}
        super().__init__(f"{title}: {'; '.join(f'{len(names)} {kind} ({_few(names)})' for kind, names in kinds.items() if names)}")
        self.missing, self.unexpected, self.shapes = missing, unexpected, shapes


def load_weights(
    name: str,
    path: str | pathlib.Path,
    *,
    num_classes: int | None = None,
    channels: int | None = None,
    image: Sequence[int] | None = None,
    **options: Any,
) -> Weights:
    """Make a network and read its weights; every tensor of the file must have its place, and every parameter its tensor.

    Args:
        name: of `models.MODELS`.
        path: a `.safetensors` file with torchvision's, timm's or our own names; a `.pth` or `.pt` if torch is installed, and
            only through its loader for weights, which runs no code; or an address, see `fetch`.
        num_classes: another number than the file's asks for a new last layer, drawn at random; None takes the file's.
        channels: of the images, 1 or 3; where the file has the other, the first convolution is summed or divided, so that gray
            images give what they would give as colour ones.
        image: height and width that transformers and dense networks are made for; positions are resampled.
        options: of the constructor; what `save_weights` was told is known.

    Raises:
        InputError: the file cannot be read, holds numbers that are not finite, or another network (`WeightsError`).

    """
    if name not in MODELS:
        raise InputError(f"model {name!r}: unknown; python -m jaxcnn.models lists those that there are")
    if channels not in (None, 1, 3):
        raise InputError(f"channels={channels}: must be 1 or 3")
    if num_classes is not None and num_classes < 1:
        raise InputError(f"num_classes={num_classes}: must be at least 1")
    file = fetch(str(path))
    tensors, kept = _read(file)
    options = kept.get("options", {}) | options
    image = image or kept.get("image")
    try:
        model, variables, source = from_state_dict(name, tensors, num_classes=num_classes, channels=channels, image=image, **options)
    except WeightsError as error:
        raise WeightsError(f"{file.name} does not fit {name}", error.missing, error.unexpected, error.shapes) from None
    preprocessing = Preprocessing(**kept["preprocessing"]) if "preprocessing" in kept else _beside(file) or published(name, source)
    if len(preprocessing.classes) != model.num_classes:
        preprocessing = preprocessing._replace(classes=())
    return Weights(model, variables, preprocessing, source)


def save_weights(
    path: str | pathlib.Path,
    name: str,
    variables: Tree,
    *,
    preprocessing: Preprocessing | None = None,
    image: Sequence[int] | None = None,
    **options: Any,
) -> None:
    """Write weights as `.safetensors` with the names of torchvision, else of timm, else our own, and what is known about them.

    Args:
        path: the file to write.
        name: of `models.MODELS`.
        variables: `{"params": ..., "batch_stats": ...}`.
        preprocessing: what the images went through, for whoever loads the file.
        image: height, width and channels of the images, where they are not the network's usual ones.
        options: of the constructor.

    Raises:
        InputError: the file cannot be written, or an option is no plain value.

    """
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    tensors = to_state_dict(name, variables, **options)
    about: dict[str, Any] = {"options": {k: v for k, v in options.items() if k != "num_classes"}}  # the head says it
    about["image"] = None if image is None else list(image)
    if preprocessing:
        about["preprocessing"] = preprocessing._asdict()
    try:
        save_file(tensors, path, {"format": "pt", OWN: json.dumps({k: v for k, v in about.items() if v})})
    except (SafetensorError, OSError, TypeError, ValueError) as error:
        raise InputError(f"{path}: cannot be written ({reason(error)})") from error


def to_state_dict(name: str, variables: Tree, **options: Any) -> Tensors:
    """Return the variables as a state dict of the first of the network's sources, or with our own paths."""
    model = MODELS[name](**options)
    source = (*model.sources, OWN)[0]
    mine = {name: variables[name] for name in ("params", "batch_stats") if name in variables}  # a loss may have kept more beside them
    flat = {path: np.asarray(x) for path, x in _flat(mine).items()}
    names = _names(model, source, flat)
    tensors = {names[path]: np.ascontiguousarray(_theirs(x, names[path], source)) for path, x in flat.items()}
    if source != OWN:
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
    """Return model, variables and source of a state dict in memory; arguments and errors as `load_weights`."""
    make = MODELS[name]
    model = make(**options)
    height, width, depth = (*(image or model.default_image), model.default_image[2])[:3]
    tensors = {key: x for key, x in tensors.items() if not key.endswith(COUNTER)}
    like = _like(model, (height, width, depth))
    source, names = _recognise(model, tensors, like)
    head = tensors.get(names["params.logits.bias"])
    in_file = model.num_classes if head is None else len(head)

    shape, classes = (height, width, channels or depth), num_classes or in_file
    if (classes, channels) != (model.num_classes, None):
        model = make(**{**options, "num_classes": classes})
        like = _like(model, shape)
    new = {path for path in like if ".logits." in path} if model.num_classes != in_file else set()
    values = {path: _ours(tensors[there], path, like[path].shape, source) for path, there in names.items() if there in tensors}
    if channels:
        values = {path: _other_channels(x, like[path].shape) for path, x in values.items()}
    needed = {names[path]: None if path in new else _theirs(_shaped(leaf.shape), names[path], source).shape for path, leaf in like.items()}
    given = {names[path]: _theirs(_shaped(x.shape), names[path], source).shape for path, x in values.items()}
    _refuse_misfits(name, needed, given, [key for key in tensors.keys() - set(names.values()) if not _optional(model, source, key)])
    _refuse_nonfinite({names[path]: x for path, x in values.items()})
    if new:
        log.info("%s: a new last layer for %d classes; the file has one for %d", name, model.num_classes, in_file)
    return model, _filled(model, shape, like, {path: x for path, x in values.items() if path not in new}), source


def _recognise(model: Any, tensors: Tensors, like: Mapping[str, Any]) -> tuple[str, dict[str, str]]:
    """Return the source that most names of the file are of, and what it calls each of our paths."""
    named = {source: _names(model, source, like) for source in (*model.sources, OWN)}
    return max(named.items(), key=lambda item: len(tensors.keys() & set(item[1].values())))


def _names(model: Any, source: str, paths: Mapping[str, Any]) -> dict[str, str]:
    """Our path (`params.stem.conv.kernel`) to the source's name (`conv1.weight`)."""
    if source == OWN:
        return {path: path for path in paths}
    modules, names = model.torch_names(source), {}
    for path in paths:
        inside = path.split(".", 1)[1]
        module, _, leaf = inside.rpartition(".")
        names[path] = modules[inside] if inside in modules else f"{modules[module]}.{LEAVES[leaf]}"
    return names


def _optional(model: Any, source: str, key: str) -> bool:
    """Whether a tensor is of an auxiliary head, which a network may do without."""
    extra = [there for here, there in model.torch_names(source).items() if here.startswith("extra_")] if source != OWN else []
    return any(key.startswith(f"{there}.") for there in extra)


def _refuse_misfits(name: str, needed: dict[str, Any], given: dict[str, Any], unexpected: list[str]) -> None:
    missing = [key for key, shape in needed.items() if shape is not None and key not in given]
    shapes = {key: (shape, needed[key]) for key, shape in given.items() if needed[key] not in (None, shape)}
    if missing or unexpected or shapes:
        raise WeightsError(name, missing, sorted(unexpected), shapes)


def _refuse_nonfinite(tensors: Tensors) -> None:
    bad = {key: np.count_nonzero(~np.isfinite(x)) for key, x in tensors.items() if not np.isfinite(x).all()}
    if bad:
        raise InputError(f"numbers that are not finite in {_few([f'{key}: {n}' for key, n in bad.items()])}; get the file again")


def _ours(x: np.ndarray, path: str, shape: tuple[int, ...], source: str) -> np.ndarray:
    """Channels last; dense kernels that are written as convolutions, and factors with empty axes, become what they are."""
    if source != OWN and path.endswith(".kernel"):
        x = x.reshape(len(x), -1).T if len(shape) == 2 else x.transpose(*range(2, x.ndim), 1, 0)
    elif len(shape) == 1:
        x = x.reshape(-1)
    return _other_grid(x, shape) if path.endswith(".positions") else x


def _theirs(x: np.ndarray, name: str, source: str) -> np.ndarray:
    """Channels first."""
    if source == OWN:
        return x
    if name.endswith("layer_scale"):  # torchvision's, which has axes for the places
        return x[:, None, None]
    return x.transpose(-1, -2, *range(x.ndim - 2)) if name.endswith(".weight") and x.ndim > 1 else x


def _shaped(shape: tuple[int, ...]) -> np.ndarray:
    return np.broadcast_to(np.bool_(0), shape)


def _other_channels(x: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A kernel for colour images as one for gray ones, or the other way round, so that gray pixels give the same."""
    if x.ndim < 3 or x.shape == shape or (*x.shape[:-2], x.shape[-1]) != (*shape[:-2], shape[-1]):
        return x
    if (x.shape[-2], shape[-2]) == (3, 1):
        return x.sum(-2, keepdims=True)
    return np.repeat(x / 3, 3, -2) if (x.shape[-2], shape[-2]) == (1, 3) else x


def _other_grid(x: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Positions `[1, 1 + n * n, C]` of a transformer for another square of patches, resampled as in Dosovitskiy et al., 2020."""
    n, m = math.isqrt(x.shape[1] - 1), math.isqrt(shape[1] - 1)
    if x.shape == shape or (n * n, m * m, x.shape[2]) != (x.shape[1] - 1, shape[1] - 1, shape[2]):
        return x
    grid = jax.image.resize(jnp.asarray(x[:, 1:]).reshape(n, n, -1), (m, m, x.shape[2]), "bicubic")
    return np.concatenate([x[:, :1], np.asarray(grid).reshape(1, m * m, -1)], 1)


def _like(model: Any, shape: Sequence[int]) -> dict[str, Any]:
    """Shapes of all variables by path, from tracing alone."""
    return _flat(jax.eval_shape(lambda key: model.init(key, jnp.zeros((1, *shape)), train=False), jax.random.key(0)))


def _flat(tree: Tree) -> dict[str, Any]:
    return {jax.tree_util.keystr(p, simple=True, separator="."): leaf for p, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def _filled(model: Any, shape: Sequence[int], like: Mapping[str, Any], values: Tensors) -> Tree:
    """Nest the values; what the file does not have is drawn."""
    lacking, drawn = like.keys() - values.keys(), {}
    if lacking:  # of the program that makes them all, only these are compiled
        draw = lambda key: _flat(model.init(key, jnp.zeros((1, *shape)), train=False))  # noqa: E731
        drawn = jax.jit(lambda key: {path: x for path, x in draw(key).items() if path in lacking})(jax.random.key(0))
    tree: dict[str, Any] = {}
    for path in like:
        *above, last = path.split(".")
        node = tree
        for part in above:
            node = node.setdefault(part, {})
        node[last] = jnp.asarray(values[path]) if path in values else drawn[path]
    return tree


def _read(file: pathlib.Path) -> tuple[Tensors, dict[str, Any]]:
    """Return the tensors of a file as float32, and what `save_weights` wrote about them."""
    if file.suffix == ".safetensors":
        tensors, kept = _read_safetensors(file)
    elif file.suffix in (".pth", ".pt", ".bin"):
        tensors, kept = _read_pickle(file), {}
    else:
        raise InputError(f"{file}: must be a .safetensors file, or a .pth or .pt one")
    narrow = sorted({str(x.dtype) for x in tensors.values() if x.dtype.itemsize == 2})
    if narrow:
        log.warning("%s: numbers are %s, kept as float32", file.name, " and ".join(narrow))
    wide = lambda x: x if x.dtype.kind in "iub" else x.astype(np.float32)  # noqa: E731
    return {key: wide(x) for key, x in tensors.items()}, kept


def _read_safetensors(file: pathlib.Path) -> tuple[Tensors, dict[str, Any]]:
    import safetensors

    try:
        with safetensors.safe_open(file, framework="flax") as opened:  # of all frameworks the one that knows bfloat16
            kept = json.loads((opened.metadata() or {}).get(OWN, "{}"))
            return {key: np.asarray(opened.get_tensor(key)) for key in opened.keys()}, kept  # noqa: SIM118
    except (safetensors.SafetensorError, OSError, ValueError, TypeError) as error:
        raise InputError(f"{file}: no sound safetensors file ({reason(error)}); get it again") from error


def _read_pickle(file: pathlib.Path) -> Tensors:
    try:
        import torch
    except ImportError as error:
        raise InputError(f"{file}: reading a {file.suffix} file needs torch; install it, or get the weights as .safetensors") from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever the unpickler finds; its own words say how to run the code all the same
        raise InputError(f"{file}: holds more than tensors, or is damaged; nothing in it was run, get .safetensors") from error
    for key in ("state_dict", "model", "model_state"):
        state = state[key] if isinstance(state, dict) and isinstance(state.get(key), dict) else state
    if not isinstance(state, dict) or not all(isinstance(x, torch.Tensor) for x in state.values()):
        raise InputError(f"{file}: no state dict, a mapping of names to tensors")
    return {key: (x.float() if x.dtype == torch.bfloat16 else x).numpy() for key, x in state.items()}  # NumPy has no bfloat16


def _beside(file: pathlib.Path) -> Preprocessing | None:
    """What timm says in a `config.json` in the same folder."""
    try:
        return from_timm(json.loads((file.parent / "config.json").read_text()))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _few(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
