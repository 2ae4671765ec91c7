"""A finished workdir: the same run returns its result, a different run is refused, and unknown changes are reported."""

import functools
import json
import logging
import os
import pathlib
import re
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest

import jaxcnn as jc
from jaxcnn import runs
from jaxcnn.train import fingerprint, rehearsal
from jaxcnn.train.checkpoint import Checkpoints, reading
from jaxcnn.train.stored import seal
from tests.small import compiled, fit, learning, rows, task

ROOT = pathlib.Path(__file__).parents[2]


def cosine(rate=1e-2, steps=24):
    return jc.optim.cosine(rate, steps=steps)


def described(
    made=None, tx=None, data=None, strategy="jit", devices=1, seed=0, wrap=lambda step: step, change=lambda state: state
):
    """The fingerprint of a run with one change."""
    made, tx, data = made or learning(), tx or jc.optim.adamw(cosine()), data or rows()
    state = change(jc.init_state(made, tx, data.example(), seed=seed))
    run = jc.compile_step(wrap(jc.make_train_step(made, tx)), strategy, devices)
    return fingerprint.describe(run, state, data, rehearsal.abstract(data.example(), 16))()


@functools.cache
def usual():
    return described()


def test_it_is_the_same_for_a_task_that_is_made_again_whatever_runs_it():
    """The strategies treat batch norm and dropout differently."""
    kinds = (("jit", 1), ("sharded", 8), ("pmap", 4))
    one, *others = (described(task(dropout=0.3), jc.optim.sgd(0.1), strategy=name, devices=n) for name, n in kinds)
    assert one["step"] and others == [one, one]
    assert described() == usual()


def test_it_is_the_same_in_another_process():
    script = "import tests.conftest, json; from tests.train import test_fingerprint as t; print(json.dumps(t.usual()))"
    environment = {**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == json.loads(json.dumps(usual()))


def brighter(by):
    """A custom step that closes over an array."""
    return lambda step: lambda state, batch: step(state, {**batch, "image": batch["image"] * by})


STEPS = {
    "rate of a schedule": lambda: described(tx=jc.optim.adamw(cosine(1.001e-2))),
    "length of a schedule": lambda: described(tx=jc.optim.adamw(cosine(steps=25))),
    "no schedule": lambda: described(tx=jc.optim.adamw(1e-2)),
    "weight decay": lambda: described(tx=jc.optim.adamw(cosine(), weight_decay=0.3)),
    "optimiser": lambda: described(tx=jc.optim.adam(cosine())),
    "label smoothing": lambda: described(learning(label_smoothing=0.1)),
    "preprocessing": lambda: described(learning(std=0.31)),
    "augmentation": lambda: described(wrap=lambda step: jc.augmented(step, jc.augment.flip)),
    "a constant array": lambda: described(wrap=brighter(np.uint8([[[[1]]]]))),
    "dropout": lambda: described(learning(dropout=0.31)),
    "model": lambda: described(learning(widths=(9,))),
    "precision": lambda: described(learning(dtype="bfloat16")),
}


LESS = {"no schedule", "weight decay", "optimiser", "preprocessing", "a constant array", "precision"}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in LESS else []) for name in STEPS]
)
def test_another_step_differs(name):
    assert fingerprint.differing(usual(), STEPS[name]())[0] == fingerprint.PARTS["step"]


def test_another_constant_array_differs():
    one, other = (described(wrap=brighter(np.full((1, 1, 1, 1), k, np.uint8))) for k in (1, 2))
    assert fingerprint.differing(one, other) == [fingerprint.PARTS["step"]]


def other_label():
    label = rows().arrays["label"].copy()
    label[7] = (label[7] + 1) % 4
    return jc.data.Resident({**rows().arrays, "label": label}, rows().classes)


OTHERS = {
    "optimizer": lambda: (described(tx=jc.optim.sgd(1e-2)), described(tx=jc.optim.sgd(1.001e-2))),
    "data": lambda: (usual(), described(data=other_label())),
    "seed": lambda: (usual(), described(change=lambda s: s.replace(rng=jax.random.key(1)))),
    "weights": lambda: (
        usual(),
        described(change=lambda s: s.replace(params=jax.tree.map(lambda x: x * 1.01, s.params))),
    ),
}


@pytest.mark.parametrize("part", OTHERS)
def test_what_differs_is_named(part):
    assert fingerprint.differing(*OTHERS[part]()) == [fingerprint.PARTS[part]]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    fit(folder)
    return folder


@pytest.fixture
def finished(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "run")


def params(fitted):
    return np.concatenate([np.ravel(x) for x in jax.tree.leaves(jax.device_get(fitted.state.params))])


def one_line(caplog):
    (record,) = [r for r in caplog.records if r.levelno >= logging.WARNING]
    assert "\n" not in record.getMessage()
    return record.getMessage()


def test_the_same_run_is_said_to_be_finished(finished, caplog):
    compiled.cache_clear()  # a new task, optimiser and compiled step
    first = fit(finished)
    assert first.saved == 2 and len(first.history) == 1
    assert one_line(caplog) == f"{finished}: finished at step 2, nothing trained"
    caplog.clear()
    np.testing.assert_array_equal(params(fit(finished, steps=1)), params(first))
    assert one_line(caplog) == f"{finished}: finished at step 2, beyond steps=1, nothing trained"


@pytest.mark.parametrize(
    "change, part",
    [
        (lambda: {"rate": 2e-2}, "the step (loss,"),
        (lambda: {"data": other_label()}, "the training data;"),
        (lambda: {"state": compiled()[1].replace(rng=jax.random.key(9))}, "the seed of the state;"),
    ],
)
def test_another_run_in_a_finished_workdir_is_refused(finished, change, part):
    with pytest.raises(
        jc.InputError,
        match="holds a run that finished at step 2 and differs from this one in .*give a different workdir",
    ) as e:
        fit(finished, **change())
    assert part in str(e.value) and "\n" not in str(e.value) and str(finished) in str(e.value)


def test_an_unfinished_run_goes_on_with_another_step_and_says_so(finished, caplog):
    fitted = fit(finished, steps=3, rate=2e-2)
    assert int(
        fitted.state.step
    ) == 3 and "going on from step 2, but this run differs from the one before in the step (loss" in one_line(caplog)
    caplog.clear()
    fit(finished, steps=3, rate=2e-2)  # the settings of the finished run
    assert "nothing trained" in one_line(caplog)
    with pytest.raises(jc.InputError, match="differs"):
        fit(finished, steps=3)


def resealed(folder, change):
    """Write the newest record again, as anyone who knows the format can."""
    path = folder / str(Checkpoints(folder, read_only=True).steps()[0]) / "loop" / "metadata"
    record = json.loads(path.read_text())
    change(record["loop"])
    path.write_text(json.dumps({**record, "digest": seal(record["parts"], record["loop"])}))


@pytest.mark.parametrize(
    "change, why",
    [
        (lambda loop: loop.pop("fingerprint"), "it has no fingerprint, because an older version of jaxcnn wrote it"),
        (
            lambda loop: loop["fingerprint"]["versions"].update(jax="0.1.2"),
            "it was trained with .*jax 0.1.2.*, and this is .*jax",
        ),
        (lambda loop: loop["fingerprint"].update(versions=None), "it was trained with unknown"),
    ],
)
def test_what_cannot_be_compared_is_said_and_loads(finished, caplog, change, why):
    resealed(finished, change)
    fit(finished, rate=2e-2)
    assert one_line(caplog).startswith(
        f"{finished}: finished at step 2, nothing trained; whether it is the same run cannot be told: "
    )
    assert re.search(why, one_line(caplog))


@pytest.mark.parametrize(
    "value",
    [{"step": 5}, {"optimizer": {"sums": "x"}}, {"weights": {"sums": [[], {}]}}, {"data": ["a:b"]}, {"seed": True}],
)
def test_a_fingerprint_of_other_types_is_another_one(finished, value):
    resealed(finished, lambda loop: loop["fingerprint"].update(value))
    with pytest.raises(jc.InputError, match="differs from this one in"):
        fit(finished)


def test_a_run_of_an_older_version_that_is_finished_loads(tmp_path, caplog):
    sys.path.insert(0, str(ROOT / "tests" / "fixtures"))
    try:
        import make_run
    finally:
        sys.path.pop(0)
    shutil.copytree(ROOT / "tests" / "fixtures" / "run-format-2" / "checkpoints", tmp_path / "checkpoints")
    _, made = runs.build(make_run.BUILD)
    tx, data = jc.optim.adamw(1e-2), make_run.rows()
    run, state = (
        jc.compile_step(jc.with_ema(jc.make_train_step(made, tx), 0.9), "jit"),
        jc.start_ema(jc.init_state(made, tx, data.example())),
    )
    options = {"batch_size": 4, "steps": 6, "every": 3, "validate": lambda s: {"loss": 0.0}, "monitor": "loss"}
    fitted = jc.fit(run, state, data, workdir=tmp_path / "checkpoints", **options)
    assert int(fitted.state.step) == 6 and "it has no fingerprint" in one_line(caplog)


def test_it_costs_no_second_trace(tmp_path):
    """The step is traced once for the fingerprint, the names, the shapes and the program together."""
    made, tx, seen = learning(), jc.optim.sgd(0.1), []
    step = jc.make_train_step(made, tx)
    run = jc.compile_step(lambda state, batch: (seen.append(1), step(state, batch))[1], "jit")
    jc.fit(
        run, jc.init_state(made, tx, rows().example()), rows(), batch_size=16, steps=1, workdir=tmp_path,
        monitor="train/loss",
    )  # fmt: skip
    assert len(seen) == 1
    with reading(tmp_path) as checkpoints:
        assert checkpoints.load(1)[1]["fingerprint"]["step"]


def test_a_step_that_cannot_be_traced_alone_is_said_not_to_be_compared(tmp_path, caplog):
    def bound(state, batch):
        return state, jax.lax.axis_index("an axis that only its strategy binds")

    for _ in range(2):
        fit(tmp_path, run=compiled()[0]._replace(step=bound))
    assert (
        "nothing trained; whether it is the same run cannot be told: its step cannot be traced on its own"
        in one_line(caplog)
    )


def test_data_of_a_kind_that_nobody_foresaw_costs_no_save(tmp_path, monkeypatch):
    monkeypatch.setattr(fingerprint, "_data", None)  # calling it raises
    assert fit(tmp_path).saved == 2
    with reading(tmp_path) as checkpoints:
        kept = checkpoints.load(2)[1]["fingerprint"]
    assert kept["data"] is None and kept["step"]
