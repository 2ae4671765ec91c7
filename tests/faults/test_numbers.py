"""If a batch makes the loss NaN, the run stops, skips the batch, or goes back and leaves it out."""

import logging

import jax
import numpy as np
import pytest

import jaxcnn as jc
from jaxcnn.core.types import accept
from jaxcnn.data.order import train_rows
from tests.small import distance, rows, task

BATCH, STEPS, BAD = 16, 24, 8  # rows, updates, and the number of the batch that is spoilt


def spoilt(data):
    """The same rows as floats; the row that batch 8 begins with, and no earlier batch has, is NaN."""
    image = data.arrays["image"].astype(np.float32) / 255
    row = train_rows(data.seed, data.size, BATCH, BAD, 1)[0, 0]
    image[row] = np.nan
    return jc.data.Resident(data.arrays | {"image": image}, data.classes), row


def setting(strategy="jit", devices=1, wrap=lambda step: step):
    # the task's own check refuses the pixel before the first step
    t, tx = (
        task(dropout=0.2)._replace(check=accept),
        jc.optim.adam(1e-3),
    )
    data, row = spoilt(rows(BATCH * 12))
    run = jc.compile_step(wrap(jc.make_train_step(t, tx)), strategy, devices)
    return run, jc.init_state(t, tx, data.example()), data, row


@pytest.mark.parametrize(
    "strategy, devices", [("jit", 1), ("sharded", 8), ("pmap", 8), pytest.param("pmap", 3, marks=pytest.mark.slow)]
)
def test_skip(strategy, devices):
    run, state, data, row = setting(strategy, devices, jc.skip_nonfinite)
    fitted = jc.fit(run, state, data, batch_size=BATCH, steps=STEPS, every=12)
    assert [r["train/skipped"] for r in fitted.history] == [1, 1]
    assert [r["train/count"] for r in fitted.history] == [11 * BATCH] * 2
    assert int(fitted.state.step) == STEPS and all(np.isfinite(x).all() for x in jax.tree.leaves(fitted.state.params))
    reference = jax.jit(jc.make_train_step(task(dropout=0.2), jc.optim.adam(1e-3)))
    for t in range(STEPS):
        batch = data.chunk(BATCH, t, 1, 1)
        state = state.replace(step=state.step + 1) if row in batch.index else reference(state, batch.at(0))[0]
    assert distance(state.params, fitted.state.params) < 1e-5


def test_rollback_with_and_without_a_checkpoint(tmp_path, caplog):
    run, state, data, row = setting()
    for options, back in (({}, 0), ({"workdir": tmp_path, "every": 4}, 8)):
        with caplog.at_level(logging.WARNING, "jaxcnn"):
            fitted = jc.fit(run, state, data, batch_size=BATCH, steps=STEPS, on_nan="rollback", **options)
        assert int(fitted.state.step) == STEPS and all(
            np.isfinite(x).all() for x in jax.tree.leaves(fitted.state.params)
        )
        assert f"back to step {back}, without the batch of step {BAD + 1}" in caplog.text
    straight = jax.jit(jc.make_train_step(task(dropout=0.2), jc.optim.adam(1e-3)))
    batches = [t for t in range(2 * STEPS) if row not in data.chunk(BATCH, t, 1, 1).index]
    for t in batches[:STEPS]:
        state = straight(state, data.chunk(BATCH, t, 1, 1).at(0))[0]
    assert distance(state.params, fitted.state.params) < 1e-5
    again = jc.fit(run, setting()[1], data, batch_size=BATCH, steps=STEPS, on_nan="rollback", workdir=tmp_path, every=4)
    assert distance(again.state.params, fitted.state.params) == 0


def test_rollback_is_not_for_ever():
    run, state, data, _ = setting()
    data = jc.data.Resident(data.arrays | {"image": data.arrays["image"] * np.nan}, data.classes)
    with pytest.raises(jc.DivergedError):
        jc.fit(run, state, data, batch_size=BATCH, steps=STEPS, on_nan="rollback")


def test_the_norm_of_the_gradient_is_logged():
    t, tx, data = task(), jc.optim.sgd(1e-3), rows(BATCH)
    for strategy, devices in (("jit", 1), ("pmap", 4)):
        run = jc.compile_step(jc.make_train_step(t, tx, jc.with_norm(jc.plain)), strategy, devices)
        state = jc.init_state(t, tx, data.example())
        row = jc.fit(run, state, data, batch_size=BATCH, steps=1).history[0]

        def mean_loss(params, state=state):
            total, _ = t.loss(params, state.model_state, {k: v for k, v in data.arrays.items()}, jax.random.key(0))
            return total.total / total.weight

        grads = jax.jit(jax.grad(mean_loss))(state.params)
        norm = np.sqrt(sum(float((g**2).sum()) for g in jax.tree.leaves(grads)))
        assert row["train/gradient_norm"] == pytest.approx(norm, rel=1e-4)


@pytest.mark.parametrize("options", [{"on_nan": "ignore"}, {"keep_best": 0}, {"save_seconds": -1}])
def test_bad_options(options):
    run, state, data, _ = setting()
    with pytest.raises(jc.InputError, match=next(iter(options))):
        jc.fit(run, state, data, batch_size=BATCH, steps=1, **options)
