"""What tests of experiments on several devices share: training, evaluation, and a kill beside an undisturbed run."""

import dataclasses
import functools
import json
import types

import jax
import numpy as np
import pytest

import jaxcnn as jc
from jaxcnn import runs
from tests.experiments.test_experiments import folder, run, start
from tests.faults.fault_injection import after, committed
from tests.small import distance

STEPS, ROWS = 20, 13  # rows do not divide among eight devices
STRATEGIES = ("sharded", "pmap")


def shortened(plan, rows=24):
    """The first rows of each part in memory; episodes stay what they are."""

    def few(part):
        if isinstance(part, jc.data.Episodes):
            return part
        part = runs.limited(part, rows) if part.size > rows else part
        if isinstance(part, jc.data.Resident):
            return part
        return jc.data.Resident(dict(part.read(np.arange(part.size))), part.classes)

    return dataclasses.replace(plan, data=jc.data.Splits(*map(few, plan.data)))


def batch_of(data):
    """Rows of a batch that divides among eight devices; an episode has rows of its own."""
    return data.width if isinstance(data, jc.data.Episodes) else 8


def trained(plan, strategy, devices, along=None, rate=1e-3):
    """The state before and after each of some steps of SGD, and the loss of each step.

    Args:
        plan: of an experiment.
        strategy: of `compile_step`.
        devices: number of devices.
        along: states at which the steps begin; by default, each begins where the one before ended.
        rate: learning rate.

    """
    tx = jc.optim.sgd(rate, momentum=0.9)  # Adam divides gradients near zero by their own size
    step = jc.compile_step(plan.wrap(jc.make_train_step(plan.task, tx)), strategy, devices, donate=False)
    data = plan.data.train
    states = [jax.device_get(jax.jit(lambda rows: jc.init_state(plan.task, tx, rows))(data.example()))]
    size, data, losses = batch_of(data), data.put(step.replicate), []
    for at in range(STEPS):
        state = step.put(along[at] if along else states[-1])
        state, sums = step.call(state, data.chunk(size, at, 1, 1, step.parts))
        states.append(jax.device_get(state))
        losses.append(float(jax.device_get(sums["loss"]).compute()))
    return states, losses


def training_agrees(plan, one, strategy, *, chosen=False, rate=1e-3):
    """Compare the parameters after one step, and the losses of many.

    Args:
        plan: of an experiment.
        one: `trained` on one device.
        strategy: of eight devices.
        chosen: whether the loss chooses some of the boxes by their rank (hard negatives, proposals), so that rounding
            alone leads to another training. Every step then begins at the same state, and in one step of ten, a box
            that stands beside a bound may fall on its other side, so that the loss differs by up to 1e-2.
        rate: learning rate, with which `one` was trained.

    """
    many = trained(plan, strategy, 8, one[0] if chosen else None, rate)
    for at in range(STEPS if chosen else 1):
        assert distance(one[0][at + 1].params, many[0][at + 1].params) < 1e-5, at
    np.testing.assert_allclose(many[1], one[1], rtol=1e-2 if chosen else 1e-3)
    # a batch in which no row counts, such as one without pairs, has no loss
    assert np.isclose(many[1], one[1], rtol=1e-3, equal_nan=True).mean() >= (0.9 if chosen else 1)


def evaluation_agrees(plan, variables, strategy):
    """Compare every metric of the same variables on rows that do not divide among the devices."""
    data, found = plan.data.test, []
    data = data if isinstance(data, jc.data.Episodes) else data.take(np.arange(min(ROWS, data.size)))
    for how in (("jit", 1), (strategy, 8)):
        step = jc.compile_step(jc.make_eval_step(plan.task), *how)
        found.append(jc.evaluate(step, variables, data, batch_size=8))
    one, many = found
    assert one["count"] == many["count"] > 0 and one.keys() == many.keys()
    if not isinstance(data, jc.data.Episodes):
        assert one["count"] == data.size
    for key in one:
        np.testing.assert_allclose(many[key], one[key], rtol=1e-5, atol=1e-5, err_msg=key)


def resumes_after_a_kill(name, flags, place):
    """Kill a run in the middle, resume it, and compare it with one that was not killed."""
    run(*flags, "--workdir", place / "whole", name=name)
    process = start(*flags, "--workdir", place / "killed", name=name)
    while not [step for step in committed(place / "killed") if step >= 3] and process.poll() is None:
        after(process, 0.01)
    process.kill()
    process.communicate()
    assert not (folder(place / "killed") / "summary.json").exists()
    run("--resume", "--workdir", place / "killed", name=name)
    whole, killed = (json.loads((folder(place / x) / "summary.json").read_text()) for x in ("whole", "killed"))
    assert whole["params_sha256"] == killed["params_sha256"] and whole["test"] == killed["test"]


def tests_of(cases, plan, chosen=(), rates=types.MappingProxyType({})):
    """Return the tests that training and evaluation agree, for the experiments of a file.

    Args:
        cases: their names.
        plan: `(name, place) -> plan`, which skips where there are no data.
        chosen: names of those whose loss chooses, see `training_agrees`.
        rates: learning rates by name; a loss that is a sum over symbols needs a lower one.

    """
    made = functools.cache(plan)
    rate = {name: rates.get(name, 1e-3) for name in cases}
    alone = functools.cache(lambda name, place: trained(made(name, place), "jit", 1, rate=rate[name]))

    @pytest.mark.parametrize("strategy", STRATEGIES)
    @pytest.mark.parametrize("name", cases)
    def test_training_agrees(name, strategy, place):
        training_agrees(made(name, place), alone(name, place), strategy, chosen=name in chosen, rate=rate[name])

    @pytest.mark.parametrize("strategy", STRATEGIES)
    @pytest.mark.parametrize("name", cases)
    def test_evaluation_agrees(name, strategy, place):
        evaluation_agrees(made(name, place), alone(name, place)[0][-1].variables, strategy)

    return test_training_agrees, test_evaluation_agrees
