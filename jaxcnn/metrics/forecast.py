"""Metrics of forecasts: sums over steps that were observed, and host functions for evaluation over rolling origins."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn.core.types import Batch, InputError, Mean, Metric, check_whole, row_mask
from jaxcnn.losses import pinball
from jaxcnn.losses.quantile import check_quantiles
from jaxcnn.metrics.regression import RootMean
from jaxcnn.metrics.sums import entry, mean

Array = jax.Array


def forecast_metrics(quantiles: Sequence[float], *, mase: bool = False) -> dict[str, Metric]:
    """Return the metrics of forecasts `[B, H, Q]`, whose batches have `"target"` `[B, H]`, NaN where it is missing.

    Args:
        quantiles: the Q quantiles, ascending; 0.5, the forecast itself, must be among them.
        mase: add the scaled error of Hyndman and Koehler (2006, doi:10.1016/j.ijforecast.2006.03.001), which needs
            `"naive_error"` `[B]`, of `naive_error`, in the batch.

    Returns:
        `mae`, `rmse`, `smape` (0 to 2; 0 where both values are 0), `pinball`, `coverage` (share of targets between the
        lowest and the highest quantile, ends included) and perhaps `mase`. Each adds over batches, with the same weight
        for every observed step, and refuses (when traced) forecasts of another number of quantiles.

    Raises:
        InputError: the quantiles do not ascend within (0, 1), or lack 0.5.

    """
    check_quantiles(quantiles)
    if 0.5 not in quantiles:
        raise InputError(f"quantiles={tuple(quantiles)}: must have 0.5, the forecast itself")
    middle = tuple(quantiles).index(0.5)

    def measured(measure: Callable[[Array, Array], Array]) -> Metric:
        def metric(outputs: Array, batch: Batch) -> Mean:
            target, known = observed(batch)
            return mean(measure(outputs.astype(jnp.float32), target), batch, known)

        return metric

    def smape(outputs: Array, target: Array) -> Array:
        size = jnp.abs(outputs[..., middle]) + jnp.abs(target)
        return 2 * jnp.abs(outputs[..., middle] - target) / jnp.where(size > 0, size, 1)

    def rmse(outputs: Array, batch: Batch) -> RootMean:
        target, known = observed(batch)
        total = mean(jnp.square(outputs[..., middle].astype(jnp.float32) - target), batch, known)
        return RootMean(total.total[None], total.weight)

    def scaled(outputs: Array, batch: Batch) -> Mean:
        if "naive_error" not in batch:
            raise InputError("the batch has no 'naive_error', which mase=True needs; add it, or give mase=False")
        target, known = observed(batch)
        unit = jnp.asarray(batch["naive_error"])
        if unit.shape != target.shape[:1]:
            raise InputError(f"'naive_error' of shape {unit.shape}: must be {target.shape[:1]}, one number per row")
        return mean(jnp.abs(outputs[..., middle] - target) / unit[:, None], batch, known)

    def checked(metric: Metric) -> Metric:
        def of(outputs: Array, batch: Batch) -> Any:
            if outputs.shape[-1] != len(quantiles):
                line = f"forecasts {outputs.shape}: the last axis must have the {len(quantiles)} quantiles"
                raise InputError(f"{line} {tuple(quantiles)}")
            if jnp.shape(entry(batch, "target")) != outputs.shape[:-1]:
                line = f"'target' of shape {jnp.shape(batch['target'])}: must be {outputs.shape[:-1]}"
                raise InputError(f"{line}, one value per forecast step")
            return metric(outputs, batch)

        return of

    found: dict[str, Metric] = {
        "mae": measured(lambda outputs, target: jnp.abs(outputs[..., middle] - target)),
        "rmse": rmse,
        "smape": measured(smape),
        "pinball": measured(lambda outputs, target: pinball(outputs, target, quantiles)),
        "coverage": measured(lambda outputs, target: _between(outputs, target)),
    }
    return {name: checked(metric) for name, metric in (found | ({"mase": scaled} if mase else {})).items()}


def _between(outputs: Array, target: Array) -> Array:
    inside = (outputs[..., 0] <= target) & (target <= outputs[..., -1])
    return jnp.where(jnp.isnan(outputs).any(-1), jnp.nan, inside.astype(jnp.float32))


def observed(batch: Batch) -> tuple[Array, Array]:
    """Return the targets `[B, H]` with 0 for missing ones, and where they were observed."""
    target = batch["target"].astype(jnp.float32)
    known = ~jnp.isnan(target) & (row_mask(batch) > 0)[:, None]
    return jnp.where(known, target, 0), known


def seasonal_naive(history: np.ndarray, horizon: int, period: int = 1) -> np.ndarray:
    """Forecast each step by the last observed value of its place in the season.

    Args:
        history: `[..., T]`, NaN where it is missing.
        horizon: number of steps to forecast.
        period: steps of a season; 1 repeats the last observed value.

    Returns:
        `[..., horizon]` float64; NaN where a place in the season was never observed.

    Raises:
        InputError: the history is shorter than a season, or a number is below 1.

    """
    history = np.asarray(history, np.float64)
    for name, value in (("horizon", horizon), ("period", period)):
        check_whole(name, value)
    if min(period, horizon) < 1 or history.shape[-1] < period:
        raise InputError(
            f"period={period}, horizon={horizon}, {history.shape[-1]} steps: must be at least 1, and at least a season"
        )
    seasons = -(-history.shape[-1] // period)  # the first one may lack its beginning
    before = [(0, 0)] * (history.ndim - 1) + [(seasons * period - history.shape[-1], 0)]
    table = np.pad(history, before, constant_values=np.nan).reshape(*history.shape[:-1], seasons, period)
    last = table[..., 0, :]
    for season in range(1, seasons):
        last = np.where(np.isnan(table[..., season, :]), last, table[..., season, :])
    return last[..., np.arange(horizon) % period]


def naive_error(values: np.ndarray, period: int = 1) -> float:
    """Return the mean absolute difference of values one season apart, the unit of the MASE.

    Args:
        values: `[T]` training values, NaN where they are missing.
        period: steps of a season.

    Raises:
        InputError: no two values are one season apart, all differences are 0, or a value is infinite.

    """
    values = np.asarray(values, np.float64)
    if values.ndim != 1:
        raise InputError(f"values of shape {values.shape}: must be [T], one series; call it once per series")
    gaps = np.abs(values[period:] - values[:-period]) if 0 < period < len(values) else np.empty(0)
    if np.isinf(values).any():
        raise InputError("values: a training value is infinite; use NaN for missing ones")
    if not np.isfinite(gaps).any() or not np.nanmax(gaps):
        raise InputError(
            f"period={period}: no two of the {len(values)} training values are a season apart and differ; "
            "give a shorter period, or another target"
        )
    return float(np.nanmean(gaps))


def rolling_origin(
    predict: Callable[[np.ndarray], np.ndarray],
    values: np.ndarray,
    *,
    start: int,
    context: int,
    horizon: int,
    period: int = 1,
    every: int = 1,
    target: int = 0,
) -> dict[str, Any]:
    """Evaluate forecasts from one origin after another, as Tashman (2000, doi:10.1016/S0169-2070(00)00065-0) advises.

    The model is not trained again. The seasonal naive forecast sees all values before the origin.

    Args:
        predict: function from `[N, context, C]` to forecasts of the target `[N, horizon]`.
        values: `[T, C]` in order of time, NaN where they are missing.
        start: step of the first origin, which is the first step that is forecast; the values before it give the unit of
            the MASE.
        context: number of steps before the origin that `predict` gets.
        horizon: number of steps to forecast.
        period: steps of a season.
        every: distance of origins.
        target: the column that is forecast.

    Returns:
        `origins`, their number; `mae`, `mase` and `rmse`; the same of the seasonal naive forecast as `naive_mae` and so
        on; and by horizon, as lists, `mae_by_step`, `naive_mae_by_step` and `mase_by_step`.

    Raises:
        InputError: the shapes do not fit, no origin is left, or a forecast is not finite.

    """
    values = np.asarray(values)
    given = {"context": context, "horizon": horizon, "start": start, "period": period, "every": every, "target": target}
    for name, value in given.items():
        check_whole(name, value)
    first = max(context, period)
    if values.ndim != 2 or not first <= start <= len(values) - horizon or min(every, context, horizon, period) < 1:
        raise InputError(
            f"start={start}, context={context}, horizon={horizon}, every={every}, values of shape {values.shape}: must "
            f"be [steps, columns], with {first} steps before the first origin and {horizon} from it on"
        )
    if not 0 <= target < values.shape[1]:
        raise InputError(f"target={target}: must be one of the {values.shape[1]} columns, from 0")
    origins = np.arange(start, len(values) - horizon + 1, every)
    truth = np.stack([values[o : o + horizon, target] for o in origins]).astype(np.float64)
    found = np.asarray(predict(np.stack([values[o - context : o] for o in origins])), np.float64)
    if found.shape != truth.shape or not np.isfinite(found).all():
        raise InputError(f"forecasts of shape {found.shape}: must be {truth.shape}, and finite")
    naive = np.stack([seasonal_naive(values[:o, target], horizon, period) for o in origins])
    known, unit = ~np.isnan(truth) & ~np.isnan(naive), naive_error(values[:start, target], period)
    out: dict[str, Any] = {"origins": len(origins), "steps": int(known.sum())}
    for name, forecast in (("", found), ("naive_", naive)):
        error = np.where(known, np.abs(forecast - truth), np.nan)
        out[f"{name}mae"] = float(np.nanmean(error)) if known.any() else float("nan")
        out[f"{name}rmse"] = float(np.sqrt(np.nanmean(error**2))) if known.any() else float("nan")
        out[f"{name}mase"] = out[f"{name}mae"] / unit
        total, count = np.nansum(error, 0), known.sum(0)
        out[f"{name}mae_by_step"] = np.where(count > 0, total / np.maximum(count, 1), np.nan).tolist()
    return out | {"mase_by_step": [value / unit for value in out["mae_by_step"]]}
