"""What a network has learned: first filters, feature maps, images that maximise a unit, linear probes of each layer."""

from collections.abc import Mapping
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from jaxcnn.core.types import InputError, Tree, check_whole
from jaxcnn.explain.gradients import logits
from jaxcnn.explain.interpreter import named_features, trace

Array = jax.Array


def filters(model: Any, variables: Tree, image: Array) -> Array:
    """Return the weights of the first layer, `[K, h, w, C]`; those of a dense layer have the size of the image.

    Args:
        model: a Linen module with `features` and `head`.
        variables: variables of the model.
        image: any image of the right shape, `[B, H, W, C]`.

    Raises:
        InputError: the first layer is neither a convolution nor dense.

    """
    program = trace(model, variables, image)
    first = next((op for op in program.ops if op.name in ("conv", "dot_general")), None)
    kernels = [program.constants[n] for n in first.inputs if n in program.constants] if first else []
    if len(kernels) == 1 and kernels[0].ndim == 4:
        return jnp.moveaxis(kernels[0], -1, 0)
    if len(kernels) == 1 and kernels[0].ndim == 2 and len(kernels[0]) == image[0].size:
        return kernels[0].T.reshape(-1, *image.shape[1:])
    raise InputError(
        f"{type(model).__name__}: its first layer is neither a convolution of images nor dense, so it has no filters "
        "to show"
    )


def grid(tiles: Any, columns: int | None = None, gap: int = 1) -> np.ndarray:
    """Arrange pictures in a grid, each scaled to 0..1: `[N, h, w]` or `[N, h, w, C]` to `[H, W]` or `[H, W, C]`.

    Args:
        tiles: the pictures; for a number of channels other than one or three, their mean is shown.
        columns: pictures per row; by default the grid is about square.
        gap: white pixels between pictures.

    """
    tiles = np.asarray(tiles, np.float32)
    if tiles.ndim == 4 and tiles.shape[-1] != 3:
        tiles = tiles.mean(-1)
    n, h, w = tiles.shape[:3]
    low, high = (f(tiles.reshape(n, -1), axis=1).reshape(n, *(1,) * (tiles.ndim - 1)) for f in (np.min, np.max))
    tiles = (tiles - low) / np.where(high > low, high - low, 1)
    columns = columns or int(np.ceil(np.sqrt(n)))
    rows = -(-n // columns)
    out = np.ones((rows * (h + gap) - gap, columns * (w + gap) - gap, *tiles.shape[3:]), np.float32)
    for i, tile in enumerate(tiles):
        top, left = i // columns * (h + gap), i % columns * (w + gap)
        out[top : top + h, left : left + w] = tile
    return out


def feature_maps(model: Any, variables: Tree, image: Array) -> dict[str, Array]:
    """Return the spatial ones of `model.features`, by name, each `[B, h, w, C]`; `grid` shows channels of one image.

    Args:
        model: a Linen module with `features` and `head`.
        variables: variables of the model.
        image: `[B, H, W, C]` in the form that the model takes.

    Raises:
        InputError: the model has no features.

    """
    return {name: x for name, x in named_features(model, variables, image).items() if x.ndim == 4}


def maximise(
    model: Any,
    variables: Tree,
    shape: tuple[int, int, int],
    unit: int,
    *,
    key: Array,
    layer: str | None = None,
    steps: int = 128,
    learning_rate: float = 0.05,
    jitter: int = 2,
    decay: float = 1e-3,
    roughness: float = 1e-2,
) -> Array:
    """Find an image `[H, W, C]`, in the form that the model takes, that maximises a unit.

    This is gradient ascent with Adam from faint noise. Each step moves the image by a few pixels (Mordvintsev et al.,
    2015), and large values and differences between neighbours are penalised.

    Reference: Erhan et al., 2009, "Visualizing higher-layer features of a deep network", Montreal, technical report
    1341.

    Args:
        model: a Linen module with `features` and `head`.
        variables: variables of the model.
        shape: shape of the image, `(H, W, C)`.
        unit: a channel of `layer`, whose mean over all positions is maximised, or a class; for a single logit 1, or 0
            for its negative.
        key: random key of the noise and the moves.
        layer: name of a feature; None for the logits.
        steps: number of steps of Adam.
        learning_rate: learning rate of Adam.
        jitter: largest move in pixels; the image wraps around its borders.
        decay: weight of the penalty on the mean square.
        roughness: weight of the penalty on the mean square difference between neighbours.

    Raises:
        InputError: the layer does not exist or has no such unit, or a number is out of range.

    """
    check_whole("steps", steps, 1)
    check_whole("jitter", jitter, 0)
    first, rest = jax.random.split(key)
    start = 0.1 * jax.random.normal(first, (1, *shape))

    def read(image):
        return _class_logits(model, variables, image) if layer is None else _features_of(model, variables, image, layer)

    units = jax.eval_shape(read, start).shape[-1]
    if not 0 <= unit < units:
        raise InputError(f"unit={unit}: must be from 0 to {units - 1}, the channels of {layer or 'the logits'}")
    tx = optax.adam(learning_rate)

    def cost(image: Array, moves: Array) -> Array:
        value = read(jnp.roll(image, moves, (1, 2)))[..., unit].mean()
        rough = jnp.square(jnp.diff(image, axis=1)).mean() + jnp.square(jnp.diff(image, axis=2)).mean()
        return -value + decay * jnp.square(image).mean() + roughness * rough

    def step(carry: tuple[Array, Any], key: Array) -> tuple[tuple[Array, Any], None]:
        image, state = carry
        updates, state = tx.update(jax.grad(cost)(image, jax.random.randint(key, (2,), -jitter, jitter + 1)), state)
        return (image + cast(Array, updates), state), None

    return lax.scan(step, (start, tx.init(start)), jax.random.split(rest, steps))[0][0][0]


def _class_logits(model: Any, variables: Tree, image: Array) -> Array:
    outputs = logits(model, variables, image)
    return jnp.concatenate([-outputs, outputs], -1) if outputs.shape[-1] == 1 else outputs


def _features_of(model: Any, variables: Tree, image: Array, layer: str) -> Array:
    found = named_features(model, variables, image)
    if layer not in found:
        raise InputError(f"layer={layer!r}: {type(model).__name__} has no such layer; it has {', '.join(found)}")
    return found[layer]


def pooled_features(model: Any, variables: Tree, image: Array) -> dict[str, Array]:
    """Return the inputs of `linear_probe`, by name: `pixels`, `[B, H * W * C]`, and means of features, `[B, C]`.

    Args:
        model: a Linen module with `features` and `head`.
        variables: variables of the model.
        image: `[B, H, W, C]` in the form that the model takes.

    """
    means = {n: x.mean(tuple(range(1, x.ndim - 1))) for n, x in named_features(model, variables, image).items()}
    return {"pixels": image.reshape(len(image), -1)} | means


def linear_probe(
    train: Mapping[str, Any], train_label: Any, test: Mapping[str, Any], test_label: Any, *, ridge: float = 1e-2
) -> dict[str, float]:
    """Return the accuracy of a linear classifier on each layer, by name (Alain and Bengio, 2016, arXiv:1610.01644).

    The classifier is ridge regression on one-hot labels in closed form; features are standardised with mean and
    deviation of the training rows.

    Args:
        train: dict from name to features `[N, D]` of the training rows, as from `pooled_features`, with batches
            concatenated.
        train_label: int `[N]`.
        test: the same for the test rows.
        test_label: int `[M]`.
        ridge: penalty on squared coefficients, per row.

    Raises:
        InputError: rows and labels differ in number, or `train` and `test` in layers.

    """
    train_label, test_label = np.asarray(train_label), np.asarray(test_label)
    if min(train_label.min(initial=0), test_label.min(initial=0)) < 0:
        raise InputError("a label is below 0; leave out rows whose class is not known")
    if set(train) != set(test):
        raise InputError(f"train has the layers {', '.join(train)} and test {', '.join(test)}: give the same for both")
    answers = np.eye(int(max(train_label.max(), test_label.max())) + 1)[train_label]
    found = {}
    for name in train:
        a, b = np.asarray(train[name], np.float64), np.asarray(test[name], np.float64)
        if len(a) != len(train_label) or len(b) != len(test_label):
            raise InputError(
                f"{name}: {len(a)} and {len(b)} rows for {len(train_label)} and {len(test_label)} labels; "
                "give one label per row"
            )
        mean, deviation = a.mean(0), a.std(0)
        deviation = np.where(deviation > 0, deviation, 1)
        a, b = (a - mean) / deviation, (b - mean) / deviation
        centred = answers - answers.mean(0)
        if a.shape[1] <= len(a):
            weights = np.linalg.solve(a.T @ a + ridge * len(a) * np.eye(a.shape[1]), a.T @ centred)
        else:
            weights = a.T @ np.linalg.solve(a @ a.T + ridge * len(a) * np.eye(len(a)), centred)
        found[name] = float(((b @ weights + answers.mean(0)).argmax(1) == test_label).mean())
    return found
