"""What a folder of a run may go on with, and which data and plans a run does not take for its own."""

import json

import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxcnn as jc
from jaxcnn import runs
from jaxcnn.core.types import InputError
from jaxcnn.runs.signals import Signals

RNG = np.random.default_rng(0)
IMAGES, LABELS = RNG.integers(0, 255, (64, 4, 4, 1), np.uint8), RNG.integers(0, 2, 64)


def rows(classes=("a", "b"), flipped=False):
    return jc.data.Resident({"image": IMAGES, "label": LABELS ^ flipped}, classes)


def plan(*, activation="relu", mean=0.0, **changes):
    model = {"name": "plain", "options": {"num_classes": 2, "widths": [2], "activation": activation}}
    build = {
        "model": model, "task": {"name": "classification", "options": {"mean": [mean], "std": [0.25]}},
        "image": {"shape": [4, 4, 1], "dtype": "uint8"},
    }  # fmt: skip
    data = jc.data.Splits(rows(), rows(), rows())
    given = {"optimizer": lambda steps: optax.sgd(0.05), "build": build, "batch_size": 16, "epochs": 2} | changes
    return jc.Plan(given.pop("task", runs.build(build)[1]), given.pop("data", data), **given)


class Stops(Signals):
    """Stops a run after its first dispatches."""

    def __init__(self):
        super().__init__()
        self.asked = 0

    def stop(self):
        self.asked += 1
        return self.asked > 3


def stopped(folder, **changes):
    with pytest.raises(jc.StoppedError):
        jc.train_run(plan(**changes), folder, signals=Stops(), show=False)


def test_an_unfinished_run_goes_on_with_its_network_alone(tmp_path):
    stopped(tmp_path / "run", epochs=50)
    for other in ({"activation": "tanh"}, {"mean": 0.5}):
        with pytest.raises(InputError, match="was started with a different (build|task) .see its config.json."):
            jc.train_run(plan(epochs=50, **other), tmp_path / "run", show=False)
    summary = jc.train_run(plan(epochs=4), tmp_path / "run", show=False)
    config = json.loads((tmp_path / "run/config.json").read_text())
    assert config["settings"]["epochs"] == 4 and config["settings"]["steps"] >= summary["steps"]
    assert jc.train_run(plan(epochs=4), tmp_path / "run", show=False)["steps"] == summary["steps"]


@pytest.mark.parametrize("change, part", [
    ({"optimizer": lambda steps: optax.adam(0.9)}, "the step"),
    ({"wrap": lambda step: jc.augmented(step, jc.augment.flip)}, "the step"),
    ({"begin": lambda state: state.replace(params={k: v for k, v in state.params.items()}, extras={"x": jnp.ones(2)})},
     "the initial weights"),
])  # fmt: skip
def test_a_finished_run_is_the_result_of_its_own_plan(tmp_path, change, part):
    done = jc.train_run(plan(), tmp_path / "run", show=False)
    assert jc.train_run(plan(), tmp_path / "run", show=False)["params_sha256"] == done["params_sha256"]
    with pytest.raises(InputError, match=f"is finished, and differs from this run in .*{part}.*; give another folder"):
        jc.train_run(plan(**change), tmp_path / "run", show=False)


def test_data_with_classes_in_another_order_are_refused(tmp_path):
    jc.train_run(plan(), tmp_path / "run", show=False)
    loaded = jc.load_run(tmp_path / "run")
    assert runs.evaluate(loaded, rows())["count"] == runs.evaluate(loaded, rows(("0", "1")))["count"] == 64
    with pytest.raises(InputError, match="the data have the classes b, a and the run has a, b"):
        runs.evaluate(loaded, rows(("b", "a"), flipped=True))
    with pytest.raises(InputError, match="3 classes"):
        runs.evaluate(loaded, rows(("a", "b", "c")))
    mixed = jc.data.Splits(rows(), rows(), rows(("b", "a"), flipped=True))
    with pytest.raises(InputError, match="train has the classes a, b, and test has b, a; they must be the same"):
        jc.train_run(plan(data=mixed), tmp_path / "other", show=False)
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("options, line", [
    ({"monitor": "accuracy"}, "monitor='accuracy': is not the task's own metric; also give mode='max' or mode='min'"),
    ({"epochs": float("nan")}, "epochs=nan: must be a number"), ({"epochs": "3"}, "epochs='3': must be a number"),
    ({"epochs": float("inf")}, "epochs=inf: must be a number"), ({"epochs": -1}, "epochs=-1: must be a number"),
    ({"validations": -2}, "validations=-2: must be at least 0"), ({"every": float("inf")}, "every=inf: must be"),
])  # fmt: skip
def test_numbers_of_a_plan(tmp_path, options, line):
    with pytest.raises(InputError) as error:
        jc.train_run(plan(**options), tmp_path / "run", show=False)
    assert line in str(error.value) and not (tmp_path / "run").exists()


def test_a_state_that_has_all_its_steps_is_not_trained_in_silence():
    task = plan().task
    run = jc.compile_step(jc.make_train_step(task, optax.sgd(0.1)), "jit")
    fitted = jc.fit(
        run, jc.init_state(task, optax.sgd(0.1), rows().example()), rows(), batch_size=16, steps=3, log=None
    )
    with pytest.raises(InputError, match="steps=3: the state is already at step 3, so no steps are left; give more"):
        jc.fit(run, fitted.state, rows(), batch_size=16, steps=3, log=None)
    again = fitted.state.replace(step=jnp.int32(0))
    assert int(jc.fit(run, again, rows(), batch_size=16, steps=3, log=None).state.step) == 3
    with pytest.raises(InputError, match="variables: got a State; pass state.variables"):
        jc.evaluate(jc.compile_step(jc.make_eval_step(task), "jit"), fitted.state, rows())
    with pytest.raises(InputError, match="save_seconds=nan"):
        jc.fit(run, again, rows(), batch_size=16, steps=3, log=None, save_seconds=float("nan"))
