"""Forecasting: quantiles of the next values of a time series."""

import functools
from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn import losses, metrics
from jaxcnn.core.precision import promote_float32
from jaxcnn.core.types import Batch, InputError, Task, row_mask
from jaxcnn.losses.quantile import check_quantiles
from jaxcnn.metrics.forecast import observed
from jaxcnn.models.adapt import accepted
from jaxcnn.tasks import pixels
from jaxcnn.tasks.fields import entry
from jaxcnn.tasks.model import from_model

Array = jax.Array
Normalise = Literal["window", "last", "scale", "none"]
NORMALISE = ("window", "last", "scale", "none")
SMALL = 1e-6  # of a window's largest value: a smaller spread is rounding


def forecasting(
    model: Any,
    *,
    quantiles: Sequence[float] = (0.1, 0.5, 0.9),
    normalise: Normalise = "last",
    mase: bool = False,
    field: str = "series",
    also: Sequence[str] = (),
) -> Task:
    """Make a task that forecasts the next values of a series.

    A batch holds `"series"` float `[B, T, C]`, whose first channel is the series to forecast, and `"target"` float
    `[B, H]`, its next values. NaN is a missing value in both. The model gets `[B, T, 2 C]`: the normalised values, 0
    where they are missing, and then 1 where a value was observed and 0 elsewhere. Its outputs are brought back to the
    units of the series, and sorted, so that quantiles never cross (Chernozhukov et al., 2010, doi:10.3982/ECTA7880).

    Args:
        model: a Linen module from `[B, T, 2 C]` to `[B, H, Q]`, such as `models.tcn`.
        quantiles: the Q quantiles, ascending; 0.5 must be among them and is the forecast itself.
        normalise: how each window is normalised, channel by channel. `"window"`: by the mean and the standard deviation
            of its observed values (Kim et al., 2022, RevIN, without its affine part). `"last"`: by the last observed
            value (NLinear of Zeng et al., 2023, arXiv:2205.13504) and the standard deviation. `"scale"`: by the mean
            absolute value (Salinas et al., 2020, arXiv:1704.04110). `"none"`: not at all.
        mase: add the metric `mase`; batches must have `"naive_error"` `[B]`, as those of `data.forecast` do.
        field: the entry of the batch with the series.
        also: further entries that the model gets as keyword arguments, such as `("length",)`; steps from `length` on
            count as missing in the normalisation.

    Returns:
        A `Task` whose outputs are `[B, H, Q]` in units of the series, with the metrics `loss` (the quantile loss in
        normalised units, a mean over observed steps), `count` and those of `metrics.forecast_metrics`. It refuses
        infinite values and series without any observed value; in a compiled program, these give NaN.

    Raises:
        InputError: quantiles that are not ascending, without 0.5 or not as many as the model's; or an unknown way to
            normalise.

    """
    quantiles = tuple(quantiles)
    check_quantiles(quantiles)
    if 0.5 not in quantiles:
        raise InputError(f"quantiles={quantiles}: must contain 0.5, which is the forecast itself")
    if getattr(model, "quantiles", len(quantiles)) != len(quantiles):
        raise InputError(f"quantiles={quantiles}: {len(quantiles)} values, but the model has {model.quantiles}")
    if normalise not in NORMALISE:
        raise InputError(f"normalise={normalise!r}: must be one of {', '.join(NORMALISE)}")
    if field in also or len(set(also)) < len(also):
        raise InputError(f"field={field!r}, also={tuple(also)}: each entry of a batch must be named once")
    wrapped = _Normalised(model, normalise, len(quantiles))

    def criterion(outputs: Array, batch: Batch) -> tuple[Array, Array]:
        if outputs.shape[:2] != batch["target"].shape:
            raise InputError(f"'target' of shape {batch['target'].shape}: the model forecasts {outputs.shape[1]} steps")
        target, known = observed(batch)
        unit = jax.lax.stop_gradient(
            _normal(batch[field], batch["length"] if "length" in also else None, normalise).scale[:, 0]
        )
        values = losses.pinball(outputs / unit[:, None, None], target / unit[:, None], quantiles)
        return values, known.astype(jnp.float32)

    def keywords(batch: Batch) -> dict[str, Array]:
        return {name: entry(batch, name) for name in also}

    task = from_model(
        wrapped, criterion, metrics.forecast_metrics(quantiles, mase=mase), lambda batch: entry(batch, field),
        targets=_canonical, check=functools.partial(_check_rows, field), keywords=keywords,
    )  # fmt: skip
    return task._replace(headline=("loss", "mae", "coverage"))


class _Normal:
    """What a window is normalised by: `[B, C]` each, and where its values `[B, T, C]` were observed."""

    def __init__(self, center: Array, scale: Array, known: Array, sound: Array):
        self.center, self.scale, self.known, self.sound = center, scale, known, sound


def _normal(series: Array, length: Array | None, how: str) -> _Normal:
    x = promote_float32(series)
    steps = jnp.arange(x.shape[1])[None]
    real = jnp.broadcast_to(True if length is None else steps < length[:, None], x.shape[:2])[..., None]
    known = real & jnp.isfinite(x)
    sound = known[..., 0].any(1) & ~(real & jnp.isinf(x)).any((1, 2))
    x, count = jnp.where(known, x, 0), jnp.maximum(known.sum(1), 1)
    mean, size = x.sum(1) / count, jnp.abs(x).sum(1) / count
    spread = jnp.sqrt(jnp.where(known, jnp.square(x - mean[:, None]), 0).sum(1) / count)
    constant = spread <= SMALL * jnp.abs(x).max(1)
    one, zero = jnp.ones_like(mean), jnp.zeros_like(mean)
    last = jnp.where(known, steps[..., None], -1).argmax(1)  # [B, C]
    if how == "none":
        return _Normal(zero, one, known, sound)
    if how == "scale":
        return _Normal(zero, jnp.where(size > 0, size, 1), known, sound)
    center = mean if how == "window" else jnp.take_along_axis(x, last[:, None], 1)[:, 0]
    return _Normal(center, jnp.where(constant, one, spread), known, sound)


class _Normalised:
    """A model whose inputs are normalised and whose outputs `[B, H, Q]` are in units of the series, in order."""

    def __init__(self, model: Any, how: str, quantiles: int):
        self.model, self.how, self.quantiles = model, how, quantiles

    def init(self, keys: Any, series: Array, **options: Any) -> Any:
        return self.model.init(keys, self._inputs(series, options)[0], **self._accepted(options))

    def apply(self, variables: Any, series: Array, *, mutable: Any = False, rngs: Any = None, **options: Any) -> Any:
        x, by = self._inputs(series, options)
        found = self.model.apply(variables, x, mutable=mutable, rngs=rngs, **self._accepted(options))
        outputs, changed = (found, None) if mutable is False else found
        if outputs.ndim != 3 or outputs.shape[-1] != self.quantiles:
            raise InputError(
                f"outputs of shape {outputs.shape}: must be [batch, steps, {self.quantiles}], one a quantile"
            )
        scale, center = by.scale[:, :1, None], by.center[:, :1, None]
        outputs = jnp.sort(promote_float32(outputs), -1) * scale + center
        outputs = jnp.where(by.sound[:, None, None], outputs, jnp.nan)
        return outputs if mutable is False else (outputs, changed)

    def _inputs(self, series: Array, options: dict[str, Any]) -> tuple[Array, _Normal]:
        if series.ndim != 3 or not jnp.issubdtype(series.dtype, jnp.floating):
            raise InputError(
                f"series of shape {series.shape} and dtype {series.dtype}: must be floats [batch, time, channels]"
            )
        by = _normal(series, options.get("length"), self.how)
        clean = jnp.where(by.known, promote_float32(series), by.center[:, None])
        x = (clean - by.center[:, None]) / by.scale[:, None]
        return jnp.concatenate([x, by.known.astype(x.dtype)], -1), by

    def _accepted(self, options: dict[str, Any]) -> dict[str, Any]:
        """Leave out what a user's own module does not take; the entries of `also` it must take."""
        own = {name: options[name] for name in ("train", "row_mask") if name in options}
        return {**{k: v for k, v in options.items() if k not in own}, **accepted(self.model, own)}


def _canonical(batch: Batch) -> tuple[Batch, Array]:
    """Leave rows out whose targets are infinite; they are invalid."""
    bad = (row_mask(batch) > 0) & jnp.isinf(entry(batch, "target")).any(-1)
    return {**batch, "row_mask": row_mask(batch) * ~bad}, bad


def _check_rows(field: str, rows: Batch) -> None:
    for name, axes in ((field, 3), ("target", 2)):
        value = entry(rows, name)
        if value.ndim != axes or not jnp.issubdtype(value.dtype, jnp.floating):
            shape = "[N, time, channels]" if axes == 3 else "[N, steps]"
            raise InputError(f"{name!r} of shape {value.shape} and dtype {value.dtype}: must be floats {shape}")
    if not all(pixels.concrete(rows[name]) for name in (field, "target")):
        return
    real = np.asarray(rows["row_mask"]) > 0 if "row_mask" in rows else np.ones(len(rows["target"]), bool)
    series, target = (np.asarray(rows[name])[real] for name in (field, "target"))
    if np.isinf(target).any() or np.isinf(series).any():
        raise InputError(f"{field!r} or 'target' has an infinite value: must be finite, or NaN where it is missing")
    if np.isnan(series[..., 0]).all(1).any():
        row = int(np.isnan(series[..., 0]).all(1).argmax())
        raise InputError(f"{field!r} of row {row}: no observed value in its first channel; leave such rows out")
