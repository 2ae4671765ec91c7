"""Forecasting: the quantile loss, metrics that add, missing values, normalisation, and the evaluation of origins."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn import metrics as oracle

import jaxcnn as jc
from jaxcnn.core.types import InputError, add, compute

QUANTILES = (0.1, 0.5, 0.9)


def batch_of(rng, rows=6, steps=12, horizon=4, channels=2):
    series = rng.normal(50, 3, (rows, steps, channels)).astype(np.float32)
    target = rng.normal(50, 3, (rows, horizon)).astype(np.float32)
    series[0, 3], series[1, -1, 0], target[2, 1], target[3] = np.nan, np.nan, np.nan, np.nan
    return {"series": series, "target": target, "naive_error": np.full(rows, 2, np.float32)}


def made(**options):
    task = jc.tasks.forecasting(jc.models.tcn(4, 3, widths=(4, 4), kernel_size=2), mase=True, **options)
    return task._replace(init=jax.jit(task.init), predict=jax.jit(task.predict))


def test_the_quantile_loss(rng):
    outputs, target = rng.normal(size=(5, 4, 3)), rng.normal(size=(5, 4))
    found = jc.losses.pinball(jnp.asarray(outputs), jnp.asarray(target), QUANTILES)
    each = [oracle.mean_pinball_loss(target, outputs[..., k], alpha=q) for k, q in enumerate(QUANTILES)]
    assert found.shape == (5, 4)
    np.testing.assert_allclose(found.mean(), np.mean(each), rtol=1e-5)
    assert jc.losses.pinball(jnp.array([[2.0]]), jnp.array([5.0]), (0.9,)).tolist() == pytest.approx([2.7])
    for quantiles, shape in (((), (1,)), ((0.5, 0.5), (1,)), ((0.0, 0.5), (1,)), (QUANTILES, (4,))):
        with pytest.raises(InputError):
            jc.losses.pinball(jnp.zeros((1, 3)), jnp.zeros(shape), quantiles)


def test_metrics_add_and_count_observed_steps_only(rng):
    batch = batch_of(rng)
    outputs = np.sort(rng.normal(50, 3, (6, 4, 3)), -1).astype(np.float32)
    measures = jc.metrics.forecast_metrics(QUANTILES, mase=True)

    def sums(rows):
        part = {name: x[rows] for name, x in batch.items()}
        return {name: metric(outputs[rows], part) for name, metric in measures.items()}

    found = compute(add(sums(slice(0, 2)), sums(slice(2, 6))))
    known = ~np.isnan(batch["target"])
    y, f = batch["target"][known].astype(np.float64), outputs[known].astype(np.float64)
    error = np.abs(f[:, 1] - y)
    expected = {
        "mae": error.mean(), "rmse": np.sqrt((error**2).mean()), "mase": error.mean() / 2,
        "smape": (2 * error / (np.abs(f[:, 1]) + np.abs(y))).mean(),
        "coverage": ((f[:, 0] <= y) & (y <= f[:, 2])).mean(),
        "pinball": np.mean([oracle.mean_pinball_loss(y, f[:, k], alpha=q) for k, q in enumerate(QUANTILES)]),
    }  # fmt: skip
    assert found == pytest.approx(expected, rel=1e-5)
    padded = {name: np.concatenate([x, np.full_like(x[:1], 9)]) for name, x in batch.items()}
    padded["row_mask"] = np.array([1] * 6 + [0], np.float32)
    more = np.concatenate([outputs, np.full_like(outputs[:1], np.nan)])
    assert compute({k: m(more, padded) for k, m in measures.items()}) == pytest.approx(expected, rel=1e-5)
    with pytest.raises(InputError, match="naive_error"):
        measures["mase"](outputs, {"target": batch["target"]})


@pytest.mark.parametrize("how", ["window", "last", "scale"])
def test_forecasts_follow_the_units_of_the_series(how, rng):
    task, batch = made(normalise=how), batch_of(rng)
    variables = task.init(jax.random.key(0), batch)
    found = task.predict(variables, batch)
    assert found.shape == (6, 4, 3) and np.isfinite(found).all() and (np.diff(found, axis=-1) >= 0).all()
    moved = 0 if how == "scale" else 7
    other = {**batch, "series": batch["series"] * 4 + moved, "target": batch["target"] * 4 + moved}
    np.testing.assert_allclose(task.predict(variables, other), found * 4 + moved, rtol=1e-4)
    losses = [task.metrics["loss"](task.predict(variables, x), x).compute() for x in (batch, other)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_missing_values_are_masked_and_told(rng):
    task, batch = made(), batch_of(rng)
    variables = task.init(jax.random.key(0), batch)
    kernel = variables["params"]["blocks_0"]["conv1"]["direction"]
    assert kernel.shape[1] == 4  # two channels, and whether each was observed
    filled = {**batch, "series": np.nan_to_num(batch["series"], nan=50.0)}
    before, after = task.predict(variables, batch), task.predict(variables, filled)
    np.testing.assert_array_equal(before[2:], after[2:])
    assert (np.abs(before[:2] - after[:2]).max((1, 2)) > 0).all()
    # what lies in padding is nothing
    task = made(also=("length",))
    batch["length"] = np.full(6, 9)
    other = {**batch, "series": np.where(np.arange(12)[None, :, None] < 9, batch["series"], np.nan)}
    np.testing.assert_array_equal(task.predict(variables, batch), task.predict(variables, other))


def test_gradients_are_finite_with_missing_values_and_padding(rng):
    task, batch = made(), batch_of(rng)
    variables = task.init(jax.random.key(0), batch)

    def loss(params, batch):
        value, _ = task.loss(params, {}, batch, jax.random.key(1))
        return value.total / value.weight

    value, gradient = jax.jit(jax.value_and_grad(loss))(variables["params"], batch)
    padded = {name: np.concatenate([x, np.full_like(x[:1], np.nan)]) for name, x in batch.items()}
    padded["row_mask"] = np.array([1] * 6 + [0], np.float32)
    again, same = jax.jit(jax.value_and_grad(loss))(variables["params"], padded)
    assert value == pytest.approx(float(again), rel=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), gradient, same)
    direction = jax.tree.map(jnp.ones_like, gradient)
    forward = jax.jit(lambda p: jax.jvp(lambda p: loss(p, batch), (p,), (direction,))[1])(variables["params"])
    np.testing.assert_allclose(forward, sum(x.sum() for x in jax.tree.leaves(gradient)), rtol=1e-3, atol=1e-5)


def test_impossible_rows_are_refused_or_nan(rng):
    task, batch = made(), batch_of(rng)
    variables = task.init(jax.random.key(0), batch)
    task.check(batch)
    empty, infinite = batch["series"].copy(), batch["target"].copy()
    empty[4, :, 0], infinite[5, 0] = np.nan, np.inf
    for wrong in (
        {"series": empty},
        {"target": infinite},
        {"series": batch["series"][0]},
        {"target": np.ones((6, 4), int)},
    ):
        with pytest.raises(InputError):
            task.check({**batch, **wrong})
    found = task.predict(variables, {**batch, "series": empty})
    assert np.isnan(found[4]).all() and np.isfinite(np.delete(found, 4, 0)).all()
    values = {"loss": task.metrics["loss"](found, {**batch, "target": infinite})}
    assert np.isnan(compute(values)["loss"])
    for options in ({"quantiles": (0.1, 0.9)}, {"quantiles": (0.5,)}, {"normalise": "x"}, {"also": ("series",)}):
        with pytest.raises(InputError):
            made(**options)
    with pytest.raises(InputError, match="forecasts 4 steps"):
        task.loss(variables["params"], {}, {**batch, "target": batch["target"][:, :2]}, jax.random.key(0))


def test_metrics_of_other_quantiles_are_refused(rng):
    for metric in jc.metrics.forecast_metrics(QUANTILES, mase=True).values():
        with pytest.raises(InputError, match=r"\(6, 4, 2\): the last axis must have the 3 quantiles"):
            metric(np.zeros((6, 4, 2)), batch_of(rng))


def test_the_seasonal_naive_forecast():
    history = np.array([1, 2, 3, 4, 5, np.nan, 7.0])
    np.testing.assert_array_equal(jc.metrics.seasonal_naive(history, 5, 3), [5, 3, 7, 5, 3])
    np.testing.assert_array_equal(jc.metrics.seasonal_naive(history, 2), [7, 7])
    assert jc.metrics.naive_error(np.array([1, 5, np.nan, 8, 7]), 2) == 3
    for period in (0, 5):
        with pytest.raises(InputError):
            jc.metrics.naive_error(np.ones(4), period)
    with pytest.raises(InputError, match="a training value is infinite"):
        jc.metrics.naive_error(np.array([1.0, 2.0, np.inf]))
    with pytest.raises(InputError, match="ascending"):
        jc.metrics.forecast_metrics((0.9, 0.5, 0.1))
    with pytest.raises(InputError):
        jc.metrics.seasonal_naive(history, 1, 8)


def test_rolling_origins():
    values = np.arange(20.0)[:, None]
    values[17] = np.nan
    seen = []

    def predict(windows):
        seen.append(windows)
        return windows[:, -1] + [1, 1]  # right for the first step, and one too low for the second

    found = jc.metrics.rolling_origin(predict, values, start=10, context=3, horizon=2, period=2, every=3)
    np.testing.assert_array_equal(seen[0][..., 0], [[7, 8, 9], [10, 11, 12], [13, 14, 15]])
    assert found["origins"] == 3 and found["steps"] == 5
    assert found["mae_by_step"] == [0, 1] and found["naive_mae_by_step"] == [2, 2]
    assert found["mae"] == pytest.approx(0.4) and found["mase"] == pytest.approx(0.2) and found["naive_mase"] == 1
    for options in ({"start": 2}, {"start": 19}, {"every": 0}):
        with pytest.raises(InputError):
            given = {"start": 10, "context": 3, "horizon": 2} | options
            jc.metrics.rolling_origin(predict, values, **given)
    with pytest.raises(InputError, match="finite"):
        jc.metrics.rolling_origin(lambda x: x[:, :2, 0] * np.nan, values, start=10, context=3, horizon=2)
