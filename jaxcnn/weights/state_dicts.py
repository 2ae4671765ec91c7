"""State dicts of torchvision, timm and our own: names and shapes there and here, other classes, channels and sizes."""

import functools
import logging
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn.core.text import visible
from jaxcnn.core.types import InputError, Tree
from jaxcnn.models import MODELS
from jaxcnn.weights.preprocessing import Preprocessing, for_channels, published
from jaxcnn.weights.tensors import Tensors

log = logging.getLogger("jaxcnn")
LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
COUNTER = "num_batches_tracked"  # of PyTorch's batch norm; nothing depends on it
COUNTERS = (COUNTER, "n_averaged")  # the other is of its averages of weights
# torchvision's files keep names that its code changed later
RENAMED = ((re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12])\."), r"\1\2."),)
OWN = "jaxcnn"
SHOWN = 6


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
        super().__init__(
            f"{title}: {'; '.join(f'{len(names)} {kind} ({_few(names)})' for kind, names in kinds.items() if names)}"
        )
        self.missing, self.unexpected, self.shapes = missing, unexpected, shapes


def to_state_dict(name: str, variables: Tree, **options: Any) -> Tensors:
    """Return the variables as a state dict of the first of the network's sources, or with our own paths."""
    model = MODELS[name](**options)
    source = (*model.sources, OWN)[0]
    mine = {
        name: variables[name] for name in ("params", "batch_stats") if name in variables
    }  # a loss may have kept more beside them
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
    return adapted(name, tensors, num_classes, channels, image, options, lambda source: None)[:3]


def adapted(
    name: str,
    tensors: Tensors,
    num_classes: int | None,
    channels: int | None,
    image: Sequence[int] | None,
    options: Mapping[str, Any],
    stated: Callable[[str], Preprocessing | None],
) -> tuple[Any, Tree, str, Preprocessing, int]:
    """Do what `from_state_dict` does, and tell what the images must go through and how many classes the file has.

    Args:
        name: as are the next five, see `load_weights`.
        tensors: float32 by the file's names.
        num_classes: of the network.
        channels: of the images.
        image: height and width.
        options: of the constructor.
        stated: gives what the images of a source's weights went through, or None where nothing says it.

    """
    make = MODELS[name]
    model = make(**options)
    height, width, depth = (*(image or model.default_image), model.default_image[2])[:3]
    like = _like(model, (height, width, depth))
    source, names, tensors = _recognise(model, tensors, like)
    head = tensors.get(names["params.logits.bias"])
    in_file = model.num_classes if head is None or head.ndim != 1 or not len(head) else len(head)

    shape, classes = (height, width, channels or depth), num_classes or in_file
    if (classes, channels) != (model.num_classes, None):
        model = make(**{**options, "num_classes": classes})
        like = _like(model, shape)
    new = {path for path in like if ".logits." in path} if model.num_classes != in_file else set()
    values = {
        path: _ours(tensors[there], path, like[path].shape, source) for path, there in names.items() if there in tensors
    }
    said = stated(source)
    pixels = for_channels(said or published(name, source), shape[2])
    if channels:
        values = _other_channels(values, like, said or pixels, pixels)
    _refuse_misfits(
        name, model, source, tensors, names, {path: leaf for path, leaf in like.items() if path not in new}, values
    )
    _refuse_unusable({names[path]: x for path, x in values.items()})
    if new:
        log.info("%s: a new last layer for %d classes; the file has one for %d", name, model.num_classes, in_file)
    filled = _filled(model, shape, like, {path: x for path, x in values.items() if path not in new})
    return model, filled, source, pixels, in_file


def _recognise(model: Any, tensors: Tensors, like: Mapping[str, Any]) -> tuple[str, dict[str, str], Tensors]:
    """Return the source that most names of the file are of, what it calls each of our paths, and the tensors by these names."""
    named = {source: _names(model, source, like) for source in (*model.sources, OWN)}
    given = {key: x for key, x in tensors.items() if key.rpartition(".")[2] not in COUNTERS}
    tensors = {_current(key): x for key, x in given.items()}
    if len(tensors) < len(given):
        twice = [key for key in given if _current(key) != key and _current(key) in given]
        raise InputError(
            f"{len(twice)} tensors are there in an old and a new spelling ({_few(twice)}); get the file again"
        )
    forms = [tensors]  # as they are, and without the first part of all names, the first two, ...
    while (
        len(forms) < 8 and len({key.split(".")[0] for key in forms[-1]}) == 1 and all("." in key for key in forms[-1])
    ):
        forms.append({key.partition(".")[2]: x for key, x in forms[-1].items()})
    return max(
        ((source, names, form) for form in forms for source, names in named.items()),
        key=lambda f: len(f[2].keys() & set(f[1].values())),
    )


def _current(key: str) -> str:
    """Return today's name of a tensor that torchvision's published files call otherwise."""
    for old, new in RENAMED:
        key = old.sub(new, key)
    return key


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
    extra = (
        [there for here, there in model.torch_names(source).items() if here.startswith("extra_")]
        if source != OWN
        else []
    )
    return any(key.startswith(f"{there}.") for there in extra)


def _refuse_misfits(
    name: str,
    model: Any,
    source: str,
    tensors: Tensors,
    names: Mapping[str, str],
    like: Mapping[str, Any],
    values: Tensors,
) -> None:
    """Compare what was found with what is needed; a mismatch is told in the file's own shapes."""
    missing = [names[path] for path in like if path not in values]
    unexpected = sorted(key for key in tensors.keys() - set(names.values()) if not _optional(model, source, key))
    wrong = [path for path, leaf in like.items() if path in values and values[path].shape != leaf.shape]
    needed = {path: _theirs(_shaped(like[path].shape), names[path], source).shape for path in wrong}
    if missing or unexpected or wrong:
        raise WeightsError(
            name, missing, unexpected, {names[path]: (tensors[names[path]].shape, needed[path]) for path in wrong}
        )


def _refuse_unusable(tensors: Tensors) -> None:
    whole = [key for key, x in tensors.items() if x.dtype.kind != "f"]
    if whole:
        raise InputError(
            f"weights of type {tensors[whole[0]].dtype} in {_few(whole)}; must be floating-point, not quantised"
        )
    bad = {key: np.count_nonzero(~np.isfinite(x)) for key, x in tensors.items() if not np.isfinite(x).all()}
    if bad:
        raise InputError(
            f"numbers that are not finite in {_few([f'{key}: {n}' for key, n in bad.items()])}; get the file again"
        )
    negative = [key for key, x in tensors.items() if key.endswith(("running_var", ".var")) and (x < 0).any()]
    if negative:
        raise InputError(f"negative variances in {_few(negative)}; get the file again")


def _ours(x: np.ndarray, path: str, shape: tuple[int, ...], source: str) -> np.ndarray:
    """Channels last; dense kernels that are written as convolutions, and factors with empty axes, become what they are.

    What cannot become that stays as it is, and is then found to be of another shape.
    """
    if source != OWN and path.endswith(".kernel"):
        if x.ndim < 2 or not x.size or (len(shape) != 2 and x.ndim != len(shape)):
            return x
        x = x.reshape(len(x), -1).T if len(shape) == 2 else x.transpose(*range(2, x.ndim), 1, 0)
    elif len(shape) == 1:
        x = x.reshape(-1)
    return _other_grid(x, shape) if path.endswith(".positions") and x.ndim == 3 else x


def _theirs(x: np.ndarray, name: str, source: str) -> np.ndarray:
    """Channels first."""
    if source == OWN:
        return x
    if name.endswith("layer_scale"):  # torchvision's, which has axes for the places
        return x[:, None, None]
    return x.transpose(-1, -2, *range(x.ndim - 2)) if name.endswith(".weight") and x.ndim > 1 else x


def _shaped(shape: tuple[int, ...]) -> np.ndarray:
    return np.broadcast_to(np.bool_(0), shape)


def _other_channels(values: Tensors, like: Mapping[str, Any], file: Preprocessing, wanted: Preprocessing) -> Tensors:
    """Change the first convolution from colour images to gray ones, or the other way round, so that gray pixels give the same.

    Of a gray pixel g, colour kernels w make `sum_c w_c (g - m_c) / s_c`. With one mean m and deviation s this is
    `k (g - m) / s + sum_c w_c (m - m_c) / s_c` for the kernel `k = s sum_c w_c / s_c`. What is constant goes into the bias, or
    the mean of the norm behind it.
    """
    path = next((path for path, x in values.items() if _is_other(x.shape, like[path].shape)), None)
    if path is None:
        return values
    x = values[path].astype(np.float64)
    if x.shape[-2] == 1:
        return values | {path: np.repeat(x / 3, 3, -2).astype(np.float32)}
    (m, s), (means, stds) = ((np.asarray(p.mean, np.float64), np.asarray(p.std, np.float64)) for p in (wanted, file))
    kernel = (x * (s / stds)[:, None]).sum(-2, keepdims=True)
    constant = (x * ((m - means) / stds)[:, None]).sum(tuple(range(x.ndim - 1)))
    values = values | {path: kernel.astype(np.float32)}
    bias, norm = (
        path.removesuffix("kernel") + "bias",
        path.removesuffix("conv.kernel").replace("params.", "batch_stats.", 1) + "norm.mean",
    )
    if bias in values:
        return values | {bias: (values[bias] + constant).astype(np.float32)}
    return values | ({norm: (values[norm] - constant).astype(np.float32)} if norm in values else {})


def _is_other(shape: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    """Whether two shapes are those of a first convolution for 3 channels and for 1."""
    return (
        len(shape) > 2 and {shape[-2], wanted[-2]} == {1, 3} and (*shape[:-2], shape[-1]) == (*wanted[:-2], wanted[-1])
    )


def _other_grid(x: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Positions `[1, 1 + n * n, C]` of a transformer for another square of patches, resampled as in Dosovitskiy et al., 2020."""
    if x.shape[1] < 1:
        return x
    n, m = math.isqrt(x.shape[1] - 1), math.isqrt(shape[1] - 1)
    if x.shape == shape or (n * n, m * m, x.shape[2]) != (x.shape[1] - 1, shape[1] - 1, shape[2]):
        return x
    grid = jax.image.resize(jnp.asarray(x[:, 1:]).reshape(n, n, -1), (m, m, x.shape[2]), "bicubic")
    return np.concatenate([x[:, :1], np.asarray(grid).reshape(1, m * m, -1)], 1)


def values_of(name: str, image: Sequence[int] | None, options: Mapping[str, Any]) -> int:
    """Count the values of a network's variables."""
    model = MODELS[name](**options)
    shape = (*(image or model.default_image), model.default_image[2])[:3]
    return sum(math.prod(leaf.shape) for leaf in _like(model, shape).values())


def _like(model: Any, shape: Sequence[int]) -> Mapping[str, Any]:
    """Shapes of all variables by path."""
    try:
        hash(model)
    except TypeError:  # an option is a list
        return _traced.__wrapped__(model, tuple(shape))
    return _traced(model, tuple(shape))


@functools.lru_cache(8)
def _traced(model: Any, shape: tuple[int, ...]) -> Mapping[str, Any]:
    """Shapes of all variables by path, from tracing alone, which takes seconds for a large network."""
    return _flat(jax.eval_shape(lambda key: model.init(key, jnp.zeros((1, *shape)), train=False), jax.random.key(0)))


def _flat(tree: Tree) -> dict[str, Any]:
    return {
        jax.tree_util.keystr(p, simple=True, separator="."): leaf
        for p, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


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


def _few(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(visible(name)[:100] for name in names[:SHOWN]) + more
