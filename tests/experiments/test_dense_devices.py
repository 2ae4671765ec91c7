"""Dense experiments on real data: the same on one device and on eight, and after a kill as without one."""

import dataclasses
import functools
import json
import pathlib

import jax
import numpy as np
import pytest

import jaxcnn as jc
from experiments import blood_cells, hippocampus, membrane, roads
from tests.experiments.test_experiments import folder, run, start
from tests.faults.fault_injection import after, committed
from tests.small import distance

SHARED = pathlib.Path(__file__).parents[3] / "shared" / "data"
UNET = {"widths": (4, 8, 8), "crop": 32, "batch_size": 8}
CASES = {
    "membrane": (membrane, "membrane/membrane.zip", UNET),
    "roads": (roads, "camvid_every6th/camvid_every6th.zip", UNET),
    "hippocampus": (hippocampus, "hippocampus/hippocampus.tar", {**UNET, "crop": 16}),
    **{
        name: (blood_cells, "bccd/bccd_voc.zip", {"model": name, "width": 4, "height": 96, "batch_size": 8})
        for name in blood_cells.OPTIONS
    },
}
pytestmark = pytest.mark.slow
STEPS, ROWS = 20, 13  # rows do not divide among eight devices


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("unpacked")


@functools.cache
def plan(name, place):
    module, archive, options = CASES[name]
    if not (SHARED / archive).exists():
        pytest.skip("no shared data")
    config = module.Config(data=str(SHARED / archive), unpacked=str(place / name), limit_examples=24, **options)
    made = module.plan(config)
    if name in blood_cells.OPTIONS:
        made = dataclasses.replace(made, data=jc.data.Splits(*(jc.runs.limited(part, 24) for part in made.data)))
    return made


@functools.cache
def trained(name, place, strategy, devices, steps):
    made = plan(name, place)
    tx = jc.optim.sgd(1e-3, momentum=0.9)  # Adam divides gradients near zero by their own size
    run = jc.compile_step(made.wrap(jc.make_train_step(made.task, tx)), strategy, devices)
    data = made.data.train
    state = run.put(jax.jit(lambda rows: jc.init_state(made.task, tx, rows))(data.example()))
    data, losses = data.put(run.replicate), []
    for at in range(steps):
        state, sums = run.call(state, data.chunk(8, at, 1, 1))
        losses.append(float(jax.device_get(sums["loss"]).compute()))
    return jax.device_get(state), losses


@pytest.mark.parametrize("strategy", ["sharded", "pmap"])
@pytest.mark.parametrize("name", CASES)
def test_training_agrees(name, strategy, place):
    (one, _), (many, _) = (trained(name, place, *how, 1) for how in (("jit", 1), (strategy, 8)))
    assert distance(one.params, many.params) < 1e-5
    (_, one), (_, many) = (trained(name, place, *how, STEPS) for how in (("jit", 1), (strategy, 8)))
    np.testing.assert_allclose(many, one, rtol=1e-3)


@pytest.mark.parametrize("strategy", ["sharded", "pmap"])
@pytest.mark.parametrize("name", CASES)
def test_evaluation_agrees(name, strategy, place):
    made, found = plan(name, place), []
    state, _ = trained(name, place, "jit", 1, STEPS)
    for how in (("jit", 1), (strategy, 8)):
        run = jc.compile_step(jc.make_eval_step(made.task), *how, donate=False)
        found.append(jc.evaluate(run, state.variables, made.data.test.take(np.arange(ROWS)), batch_size=8))
    one, many = found
    assert one["count"] == many["count"] == ROWS and one.keys() == many.keys()
    for key in one:
        np.testing.assert_allclose(many[key], one[key], rtol=1e-5, atol=1e-5, err_msg=key)


@pytest.mark.parametrize("name", CASES)
def test_killed_and_resumed(name, place, tmp_path):
    module, archive, options = CASES[name]
    if not (SHARED / archive).exists():
        pytest.skip("no shared data")
    experiment = module.__name__.split(".")[-1]
    more = ["--model", name] if experiment == "blood_cells" else []
    place = place / experiment
    flags = [
        SHARED / archive, "--smoke", "--epochs", 6, "--max-steps", 12, "--limit-examples", 4, "--unpacked", place,
        "--checkpoint-seconds", 0.2, *more,
    ]  # fmt: skip
    run(*flags, "--workdir", tmp_path / "whole", name=experiment)
    process = start(*flags, "--workdir", tmp_path / "killed", name=experiment)
    while not [step for step in committed(tmp_path / "killed") if step >= 3] and process.poll() is None:
        after(process, 0.01)
    process.kill()
    process.communicate()
    assert not (folder(tmp_path / "killed") / "summary.json").exists()
    run("--resume", "--workdir", tmp_path / "killed", name=experiment)
    whole, killed = (json.loads((folder(tmp_path / x) / "summary.json").read_text()) for x in ("whole", "killed"))
    assert whole["params_sha256"] == killed["params_sha256"] and whole["test"] == killed["test"]
