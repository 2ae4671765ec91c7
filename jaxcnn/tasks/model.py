"""Build a `Task` from a Linen model and a per-example criterion; every supervised task does."""

import functools
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer

from jaxcnn.core.precision import promote_float32
from jaxcnn.core.types import (
    Batch,
    FrozenState,
    InputError,
    Mean,
    Metric,
    MetricState,
    Task,
    accept,
    align,
    check_whole,
    row_mask,
    whole_numbers,
)
from jaxcnn.metrics import count
from jaxcnn.models.adapt import accepted
from jaxcnn.tasks.pixels import check_layout
from jaxcnn.tasks.weighting import check_weights

Array = jax.Array
WIDEST = 10.0  # a larger mean or standard deviation is one of pixels in 0..255
Criterion = Callable[[Any, Batch], tuple[Array, Array]]  # (outputs, batch) -> values [B, ...] and their weights
# batch -> the batch with targets in one form, and which rows have invalid targets, [B]
Targets = Callable[[Batch], tuple[Batch, Array]]


def prepare(
    image: Array,
    mean: float | Sequence[float] = 0.0,
    std: float | Sequence[float] = 1.0,
    size: tuple[int, int] | None = None,
    resize: int | None = None,
    interpolation: str = "bilinear",
    dims: int = 2,
) -> Array:
    """Prepare pixels for a model, on the device: scale to 0..1, resize, then normalise.

    Args:
        image: `[B, H, W, C]`, or `[B, *spatial, C]` with other `dims`; uint8 0..255 or float 0..1.
        mean: mean of the training pixels, in 0..1: one number or one per channel.
        std: standard deviation of the training pixels, above 0, in the same form.
        size: height and width to resize to, or to crop from the centre; None keeps those of the image.
        resize: length of the shorter side before the crop, as published weights expect it; None for no crop.
        interpolation: `"bilinear"` or `"bicubic"`, with antialiasing when the image gets smaller.
        dims: number of spatial axes; only two can be resized.

    Returns:
        `[B, H', W', C]` float32.

    Raises:
        InputError: the rank, layout or dtype is wrong, `resize` is smaller than `size`, or `mean` or `std` has the
            wrong number of channels, or does not describe pixels in 0..1.

    """
    if image.ndim != dims + 2:
        axes = {1: "length", 2: "height, width", 3: "depth, height, width"}.get(dims, f"{dims} spatial axes")
        raise InputError(f"image shape {tuple(image.shape)}: must have {dims + 2} axes, [batch, {axes}, channels]")
    if size is not None and dims != 2:
        raise InputError(f"size={size}: only images of two dimensions are resized; resize the data")
    check_layout(image.shape)
    if image.dtype == jnp.uint8:
        image = image.astype(jnp.float32) / 255
    elif not jnp.issubdtype(image.dtype, jnp.floating):
        raise InputError(f"image dtype {image.dtype}: must be uint8 0..255 or float 0..1")
    if interpolation not in ("bilinear", "bicubic"):
        raise InputError(f"interpolation={interpolation!r}: must be 'bilinear' or 'bicubic'")
    if size is not None:
        if np.ndim(size) == 0:
            raise InputError(f"size={size!r}: must be (height, width)")
        height, width = whole_numbers("size", size, 2)
        image = _sized(image, (height, width), resize, interpolation)
    return (image - _per_channel("mean", mean, image)) / _per_channel("std", std, image)


def _sized(image: Array, size: tuple[int, int], resize: int | None, interpolation: str) -> Array:
    """Resize `[B, H, W, C]` to `size`, or the shorter side to `resize` and crop `size` from the centre."""
    if resize is not None:
        check_whole("resize", resize)
        if resize < max(size):
            raise InputError(f"resize={resize}: must be at least {max(size)}, the longer side of size={size}")
    b, *sides, c = image.shape
    whole = size if resize is None else tuple(max(size[i], round(n * resize / min(sides))) for i, n in enumerate(sides))
    if whole != (*sides,):
        image = jax.image.resize(image, (b, *whole, c), interpolation).clip(0, 1)
    top, left = ((n - m) // 2 for n, m in zip(whole, size, strict=True))
    return image[:, top : top + size[0], left : left + size[1]]


def _per_channel(name: str, values: float | Sequence[float], image: Array) -> Array:
    out = jnp.asarray(values, jnp.float32)
    if out.ndim > 1 or out.size not in (1, image.shape[-1]):
        raise InputError(f"{name}={values}: must be one number, or one for each of the {image.shape[-1]} channels")
    if not any(isinstance(x, Tracer) for x in jax.tree.leaves(values)):
        found = np.asarray(values)
        if not (np.abs(found) <= WIDEST).all() or name == "std" and not (found > 0).all():
            line = f"{name}={values}: must describe pixels in 0..1{' and be above 0' if name == 'std' else ''}"
            raise InputError(f"{line}; divide statistics of pixels in 0..255 by 255")
    return lax.broadcast_to_rank(out, image.ndim)


def training_pass(
    model: Any,
    params: Any,
    model_state: Any,
    key: Array,
    *inputs: Any,
    keywords: Mapping[str, Any] = types.MappingProxyType({}),
    **options: Any,
) -> tuple[Any, Any]:
    """Apply a model with `train=True`.

    Args:
        model: a Linen module, or what `models.from_functions` or `models.from_nnx` returned.
        params: its parameters.
        model_state: its other collections, such as `batch_stats`. A `FrozenState` does not change.
        key: random key for dropout.
        *inputs: positional arguments of the model.
        keywords: keyword arguments that the model must accept.
        **options: keyword arguments of the model; those that it does not accept are dropped.

    Returns:
        The outputs, at least float32, and the new model state.

    """
    kept, variables = isinstance(model_state, FrozenState), {"params": params, **model_state}
    mutable = [] if kept else list(model_state)
    given = {**keywords, **accepted(model, {"train": True, **options})}
    outputs, changed = model.apply(variables, *inputs, rngs={"dropout": key}, mutable=mutable, **given)
    return promote_float32(outputs), model_state if kept else {**model_state, **changed}


def nothing(batch: Batch) -> dict[str, Any]:
    """Return no further keywords."""
    del batch
    return {}


def from_model(
    model: Any,
    criterion: Criterion,
    metrics: Mapping[str, Metric],
    inputs: Callable[[Batch], Array],
    auxiliary: float = 0.0,
    *,
    targets: Targets | None = None,
    check: Callable[[Batch], None] = accept,
    given: Callable[[Batch], Mapping[str, Any]] = nothing,
    keywords: Callable[[Batch], Mapping[str, Any]] = nothing,
) -> Task:
    """Build a task from a model, a criterion and metrics.

    The model is called as `apply(variables, x, train=, row_mask=)`, without the keywords that it does not accept.
    Outputs narrower than float32 are cast to float32, so losses and metrics are float32 at any compute dtype. If a
    batch has `"sample_weight"` `[B]`, the loss is the weighted mean.

    Args:
        model: a Linen module, or what `models.from_functions` or `models.from_nnx` returned.
        criterion: `(outputs, batch) -> (values, weights)`, `[B]` or `[B, ...]`. It need not handle padding.
        metrics: dict from name to metric, in addition to `loss` and `count`.
        inputs: `batch -> x`: selects and prepares the model's input.
        auxiliary: weight of each auxiliary loss in training, for a model with `with_auxiliary`; 0 leaves them out.
        targets: brings the targets into the form that criterion and metrics read, and sets `"row_mask"` to 0 where a
            row has none. If the targets of any row are invalid, means are NaN, because a compiled program cannot refuse
            them.
        check: refuses invalid rows on the host, as in `Task`.
        given: `batch -> {name: array}`: further keywords of the model in training; those that it does not accept are
            dropped.
        keywords: `batch -> {name: array}`: further inputs of the model, as keywords that it must accept.

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
        return model.init({"params": key}, inputs(batch), **keywords(batch), **accepted(model, {"train": False}))

    def loss(params: Any, model_state: Any, batch: Batch, key: Array) -> tuple[Mean, tuple[Any, Any]]:
        called = {**given(batch), "row_mask": batch.get("row_mask")} | (
            {"method": "with_auxiliary"} if auxiliary else {}
        )
        x = _without_padding(inputs(batch), batch)
        outputs, model_state = training_pass(model, params, model_state, key, x, keywords=keywords(batch), **called)
        outputs, extra = outputs if auxiliary else (outputs, ())
        value = weighed(outputs, batch)
        further = sum(weighed(other, batch).total for other in extra)
        return Mean(value.total + auxiliary * further, value.weight), (outputs, model_state)

    def predict(variables: Any, batch: Batch) -> Any:
        called = {**keywords(batch), **accepted(model, {"train": False})}
        return promote_float32(model.apply(variables, inputs(batch), **called))

    measured = {"count": count, **metrics}
    if targets is not None:
        measured = {name: _meaning(metric, targets) for name, metric in measured.items()}

    def checked(rows: Batch) -> None:
        check_weights("sample_weight", rows)
        if check is not None:
            check(rows)

    return Task(init, loss, predict, {"loss": weighed, **measured}, checked)


def _without_padding(x: Any, batch: Batch) -> Any:
    """Let padding hold the first row that counts: if it holds NaN, its gradient is NaN times 0."""
    if "row_mask" not in batch:
        return x
    inside = row_mask(batch) > 0
    first = inside.argmax()

    def filled(value: Array) -> Array:
        one = jnp.where(inside.any(), value[first], jnp.zeros((), value.dtype))
        return jnp.where(align(inside, value), value, one[None])

    return jax.tree.map(filled, x)


def _as_they_are(batch: Batch) -> tuple[Batch, None]:
    return batch, None


def _meaning(metric: Metric, targets: Targets) -> Metric:
    """Give a metric targets in one form; a mean becomes NaN if the targets of any row are invalid."""

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
