"""From a Linen model and a per-example criterion to a `Task`: the plumbing that every supervised task shares."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxcnn.core.precision import promote_float32
from jaxcnn.core.types import Batch, FrozenState, InputError, Mean, Metric, MetricState, Task, accept, align, row_mask
from jaxcnn.metrics import count
from jaxcnn.models.adapt import accepted
from jaxcnn.tasks.pixels import check_layout

Array = jax.Array
Criterion = Callable[[Any, Batch], tuple[Array, Array]]  # (outputs, batch) -> values [B, ...] and their weights
Targets = Callable[
    [Batch], tuple[Batch, Array]
]  # batch -> the same with targets of one form, and [B], whether a row's have no meaning


def prepare(
    image: Array,
    mean: float | Sequence[float] = 0.0,
    std: float | Sequence[float] = 1.0,
    size: tuple[int, int] | None = None,
    resize: int | None = None,
    interpolation: str = "bilinear",
) -> Array:
    """Pixels as the model wants them, on the device: scaled to 0..1, enlarged or reduced, then normalised.

    Args:
        image: `[B, H, W, C]`, uint8 0..255 or float 0..1.
        mean: of the training pixels in 0..1, one number or one a channel.
        std: likewise, the standard deviation.
        size: height and width to resize to, or to cut from the middle; None leaves them.
        resize: what the shorter side is brought to before the cut, as published weights want it; None for no cut.
        interpolation: `"bilinear"` or `"bicubic"`, with antialiasing where it reduces.

    Returns:
        `[B, H', W', C]` float32.

    Raises:
        InputError: another rank, layout or dtype, or a mean or deviation for another number of channels.

    """
    if image.ndim != 4:
        raise InputError(f"image shape {tuple(image.shape)}: must have 4 axes, [batch, height, width, channels]")
    check_layout(image.shape)
    if image.dtype == jnp.uint8:
        image = image.astype(jnp.float32) / 255
    elif not jnp.issubdtype(image.dtype, jnp.floating):
        raise InputError(f"image dtype {image.dtype}: must be uint8 0..255 or float 0..1")
    if interpolation not in ("bilinear", "bicubic"):
        raise InputError(f"interpolation={interpolation!r}: must be 'bilinear' or 'bicubic'")
    if size is not None:
        height, width = size
        image = _sized(image, (height, width), resize, interpolation)
    return (image - _per_channel("mean", mean, image)) / _per_channel("std", std, image)


def _sized(image: Array, size: tuple[int, int], resize: int | None, interpolation: str) -> Array:
    """`[B, H, W, C]` brought to `size`: as a whole, or the middle of it once its shorter side is `resize`."""
    if resize is not None and resize < max(size):
        raise InputError(f"resize={resize}: must be at least the {max(size)} pixels of size={size}")
    b, *sides, c = image.shape
    whole = size if resize is None else tuple(max(size[i], round(n * resize / min(sides))) for i, n in enumerate(sides))
    if whole != (*sides,):
        image = jax.image.resize(image, (b, *whole, c), interpolation).clip(0, 1)
    top, left = ((n - m) // 2 for n, m in zip(whole, size, strict=True))
    return image[:, top : top + size[0], left : left + size[1]]


def _per_channel(name: str, values: float | Sequence[float], image: Array) -> Array:
    out = jnp.asarray(values, jnp.float32)
    if out.ndim > 1 or out.size not in (1, image.shape[-1]):
        raise InputError(
            f"{name}={values}: needs one number, or one for each of the {image.shape[-1]} channels of the image"
        )
    return lax.broadcast_to_rank(out, image.ndim)


def training_pass(
    model: Any, params: Any, model_state: Any, key: Array, *inputs: Any, **options: Any
) -> tuple[Any, Any]:
    """Apply a model with `train=True`: its outputs, and the model state that it leaves; one that is `FrozenState` stays."""
    kept, variables = isinstance(model_state, FrozenState), {"params": params, **model_state}
    mutable = [] if kept else list(model_state)
    given = accepted(model, {"train": True, **options})
    outputs, changed = model.apply(variables, *inputs, rngs={"dropout": key}, mutable=mutable, **given)
    return promote_float32(outputs), model_state if kept else {**model_state, **changed}


def from_model(
    model: Any,
    criterion: Criterion,
    metrics: Mapping[str, Metric],
    inputs: Callable[[Batch], Array],
    auxiliary: float = 0.0,
    *,
    targets: Targets | None = None,
    check: Callable[[Batch], None] = accept,
) -> Task:
    """Join a model, a criterion and metrics; the model is called as `apply(variables, x, train=, row_mask=)`, as far as it takes these.

    Outputs narrower than float32 are cast to it, so losses and metrics are float32 whatever the model computes in. Where a batch has
    `"sample_weight"` `[B]`, the loss is the mean weighted by it.

    Args:
        model: a Linen module, or what `models.from_functions` or `models.from_nnx` made.
        criterion: `(outputs, batch) -> (values, weights)`, `[B]` or `[B, ...]`; padding is weighed out here.
        metrics: what to measure besides `loss` and `count`.
        inputs: `batch -> x`, what of the batch the model sees, prepared.
        auxiliary: what the loss of each auxiliary head counts in training, for a model with `with_auxiliary`; 0 leaves them out.
        targets: brings the targets to the form that criterion and metrics read, with `"row_mask"` 0 where a row has none. Means over rows whose
            targets have no meaning are NaN: a compiled program cannot refuse them.
        check: as in `Task`.

    """
    meant = targets or _as_they_are

    def weighed(outputs: Any, batch: Batch) -> Mean:
        batch, bad = meant(batch)
        values, weights = criterion(outputs, batch)
        weights = jnp.broadcast_to(weights, values.shape) * align(row_mask(batch), values)
        weights = weights * align(_per_row(batch), values) if "sample_weight" in batch else weights
        total = jnp.where(weights == 0, 0, values * weights).sum()  # padding may hold anything
        return Mean(total if bad is None else jnp.where(bad.any(), jnp.nan, total), weights.sum())

    def init(key: Array, batch: Batch) -> Any:
        return model.init({"params": key}, inputs(batch), **accepted(model, {"train": False}))

    def loss(params: Any, model_state: Any, batch: Batch, key: Array) -> tuple[Mean, tuple[Any, Any]]:
        called = {"row_mask": batch.get("row_mask")} | ({"method": "with_auxiliary"} if auxiliary else {})
        outputs, model_state = training_pass(model, params, model_state, key, inputs(batch), **called)
        outputs, extra = outputs if auxiliary else (outputs, ())
        value = weighed(outputs, batch)
        further = sum(weighed(other, batch).total for other in extra)
        return Mean(value.total + auxiliary * further, value.weight), (outputs, model_state)

    def predict(variables: Any, batch: Batch) -> Any:
        return promote_float32(model.apply(variables, inputs(batch), **accepted(model, {"train": False})))

    measured = (
        {"count": count, **metrics}
        if targets is None
        else {k: _meaning(m, targets) for k, m in {"count": count, **metrics}.items()}
    )
    return Task(init, loss, predict, {"loss": weighed, **measured}, check)


def _as_they_are(batch: Batch) -> tuple[Batch, None]:
    return batch, None


def _meaning(metric: Metric, targets: Targets) -> Metric:
    """Let a metric see targets of one form; a mean over rows of which one's have no meaning is NaN."""

    @functools.wraps(metric)
    def measured(outputs: Any, batch: Batch) -> MetricState:
        batch, bad = targets(batch)
        found = metric(outputs, batch)
        return found._replace(total=jnp.where(bad.any(), jnp.nan, found.total)) if isinstance(found, Mean) else found

    return measured


def _per_row(batch: Batch) -> Array:
    weight, count = batch["sample_weight"], row_mask(batch).shape
    if weight.shape != count:
        raise InputError(f"sample_weight of shape {weight.shape}: must be {count}, one number per row")
    return weight
