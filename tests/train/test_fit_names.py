"""Names are checked before the first step, and later errors lose no trained weights."""

import logging
import re

import jax
import numpy as np
import pytest

import jaxcnn as jc
from jaxcnn.train.checkpoint import reading
from tests.small import fit, rows, task


def params(state):
    return np.concatenate([np.ravel(x) for x in jax.tree.leaves(jax.device_get(state.params))])


def untrained(**options):
    """The one line that `fit` refuses to begin with."""
    seen = []
    with pytest.raises(jc.InputError) as error:
        fit(progress=lambda step, _: seen.append(step), **options)
    assert not seen and "\n" not in str(error.value)
    return str(error.value)


def confused(state):
    return {"confusion": np.eye(4), "loss": 1.0}


@pytest.mark.parametrize(
    "options, line",
    [
        ({"monitor": "val_loss", "validate": lambda s: {"loss": 1.0}}, "monitor='val_loss': .* did you mean loss"),
        (
            {"monitor": "train/los"},
            "monitor='train/los': neither validate nor training returns it; did you mean train/loss",
        ),
        ({"monitor": "loss"}, "monitor='loss': .* did you mean train/loss"),
        ({"monitor": "zzz", "validate": lambda s: {"a": 1, "b": 2.0}}, "monitor='zzz': .* give one of a, b, train/"),
        (
            {"monitor": "confusion", "validate": confused},
            r"monitor='confusion': is an array of shape \[4, 4\], and must be a single number",
        ),
        ({"monitor": "train/confusion"}, r"monitor='train/confusion': is an array of shape \[4, 4\]"),
        (
            {"monitor": "word", "validate": lambda s: {"word": "good"}},
            "monitor='word': is str, and must be a single number",
        ),
        (
            {"monitor": "none", "validate": lambda s: {"none": None}},
            "monitor='none': is NoneType, and must be a single number",
        ),
        ({"monitor": 3}, "monitor=3"),
        ({"monitor": ["loss"]}, "must be a single name"),
        ({"monitor": "train/loss", "mode": "MAX"}, "mode='MAX': must be 'min' or 'max'"),
        ({"monitor": "train/loss", "mode": None}, "mode=None"),
        ({"validate": lambda s: {"step": 1}}, "validate returned 'step', a name that fit itself uses; rename it"),
        ({"validate": lambda s: {"seconds": 1.0}}, "validate returned 'seconds'"),
        ({"validate": lambda s: {"learning_rate": 1.0}}, "validate returned 'learning_rate'"),
        ({"validate": lambda s: {"train/loss": 1.0}}, "validate returned 'train/loss'"),
        ({"validate": lambda s: {"train/new": 1.0}}, "validate returned 'train/new'"),
        ({"validate": lambda s: 1.0}, "validate returned float; it must return a dict"),
        ({"validate": lambda s: [("loss", 1.0)]}, "validate returned list"),
        ({"validate": lambda s: None}, "validate returned NoneType"),
        ({"validate": lambda s: {1: 2.0}}, "validate returned dict"),
    ],
)
def test_names_are_checked_before_the_first_step(options, line):
    assert re.search(line, untrained(**options))


def test_the_names_of_evaluate_are_known_without_a_pass_over_the_data():
    made = task()
    ev = jc.compile_step(jc.make_eval_step(made), "jit")
    ev = ev._replace(call=lambda *_: pytest.fail("measured"))
    variables = made.init(jax.random.key(0), rows().example())

    def validate(state):
        return {f"valid/{k}": v for k, v in jc.evaluate(ev, variables, rows()).items()}

    assert "did you mean valid/loss" in untrained(validate=validate, monitor="val/loss")
    assert "an array of shape [4, 4]" in untrained(validate=validate, monitor="valid/confusion")


def test_what_validate_counts_and_prints_does_not_count_the_call_for_its_names(capsys):
    values, calls = iter([3.0, 2.0, 1.0]), []

    def validate(state):
        calls.append(int(state.step))
        print(calls[-1])
        return {"v": next(values)}

    fitted = fit(steps=3, every=1, validate=validate, monitor="v", log=None)
    assert [row["v"] for row in fitted.history] == [3.0, 2.0, 1.0] and calls == [1, 2, 3]
    assert capsys.readouterr().out == "1\n2\n3\n"


@pytest.mark.parametrize("value", [np.float32(0.5), np.float64(0.5), np.ones(()) / 2, jax.numpy.float32(0.5), 0.5])
def test_numbers_of_every_library_are_monitored(value):
    (row,) = fit(validate=lambda s: {"v": value}, monitor="v").history
    assert row["v"] == 0.5 and type(row["v"]) is float


def later(state):
    """The name is there at first."""
    return {"v": 1.0} if int(state.step) < 2 else {"w": 1.0}


def broken(step, error):
    def function(state, *_):
        if (int(state.step) if hasattr(state, "step") else state["step"] if isinstance(state, dict) else state) >= step:
            raise error
        return {"v": 1.0}

    return function


BROKEN = {
    "validate": (
        {"validate": broken(2, ZeroDivisionError("no rows"))},
        ZeroDivisionError,
        "ZeroDivisionError (no rows)",
    ),
    "monitor that vanishes": ({"validate": later, "monitor": "v"}, jc.InputError, "InputError (monitor='v'"),
    "name that comes later": (
        {"validate": lambda s: {"step": 1} if int(s.step) > 1 else {}},
        jc.InputError,
        "InputError (validate returned 'step'",
    ),
    "array that comes later": (
        {"validate": lambda s: {"v": np.zeros(2) if int(s.step) > 1 else 0}, "monitor": "v"},
        jc.InputError,
        "array of shape",
    ),
    "progress": ({"progress": broken(2, OSError(28, "No space left"))}, OSError, "No space left"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_raises_after_training_began_costs_nothing(tmp_path, caplog, name):
    options, kind, why = BROKEN[name]
    with pytest.raises(kind):
        fit(tmp_path, steps=4, every=1 if "later" in name or "vanishes" in name else 2, **options)
    (line,) = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    with reading(tmp_path) as checkpoints:
        newest = checkpoints.newest()[0]
    assert (
        newest >= 1
        and line.startswith(f"stopped after step {newest} by ")
        and why in line
        and "the state is saved" in line
    )
    caplog.clear()
    mended = {"validate": lambda s: {"v": 1.0}, "monitor": options.get("monitor")}
    straight, resumed = fit(steps=4, every=2), fit(tmp_path, steps=4, every=2, **mended)
    np.testing.assert_array_equal(params(straight.state), params(resumed.state))


def test_a_log_that_raises_costs_nothing(tmp_path):
    with pytest.raises(ZeroDivisionError):
        fit(tmp_path, steps=4, every=2, log=broken(2, ZeroDivisionError()))
    with reading(tmp_path) as checkpoints:
        step, _, loop = checkpoints.newest()
        assert step == 2 and len(loop["history"]) == 1  # the row is there as well


def test_without_a_workdir_the_exception_has_what_was_reached():
    with pytest.raises(ZeroDivisionError) as error:
        fit(steps=4, every=2, validate=broken(4, ZeroDivisionError()), monitor="v")
    reached = error.value.reached
    assert (
        int(reached.state.step) == 4 and [row["step"] for row in reached.history] == [2] and int(reached.best.step) == 2
    )
    assert not any(x.is_deleted() for x in jax.tree.leaves(reached) if isinstance(x, jax.Array))


@pytest.mark.parametrize("after", [0, 1, 2])
def test_stop_without_a_workdir_returns_what_was_reached(after):
    seen = [0]
    fitted = fit(steps=6, every=3, stop=lambda: seen[-1] >= after, progress=lambda step, _: seen.append(step))
    assert int(fitted.state.step) == seen[-1] >= after and fitted.saved is None
    np.testing.assert_array_equal(params(fitted.best), params(fitted.state))


def test_a_stop_that_raises_costs_nothing(tmp_path):
    seen = []
    with pytest.raises(ZeroDivisionError):
        fit(tmp_path, steps=4, stop=lambda: seen and 1 / 0, progress=lambda step, _: seen.append(step))
    with reading(tmp_path) as checkpoints:
        assert checkpoints.newest()[0] == max(seen)


def test_stop_in_a_validation_without_a_workdir():
    def validate(state):
        raise jc.Interrupted

    assert int(fit(steps=4, every=2, validate=validate).state.step) == 2
