"""fit, evaluate and collect; a resumed run is bit-identical."""

import json
import shutil
import threading

import chex
import jax
import numpy as np
import optax
import pytest

import jaxcnn as jc
from jaxcnn.train import batches
from jaxcnn.train.checkpoint import reading
from tests.small import distance, rows, task


def setting(dropout=0.3, ema=True, strategy="jit", devices=1, rate=1e-2):
    t, tx = task(dropout=dropout), jc.optim.adamw(jc.optim.cosine(rate, steps=24))
    step, state = jc.make_train_step(t, tx), jc.init_state(t, tx, rows().example())
    if ema:
        step, state = jc.with_ema(step), jc.start_ema(state)
    ev = jc.compile_step(jc.make_eval_step(t), strategy, devices)
    valid = rows(40, seed=1)
    validate = lambda s: {
        f"validation/{k}": v for k, v in jc.evaluate(ev, s.extras.get("ema", s.variables), valid).items()
    }
    return jc.compile_step(step, strategy, devices), state, validate


def fit(workdir=None, steps=24, run=None, train=None, **options):
    made, state, validate = setting()
    defaults = {"batch_size": 16, "every": 6, "validate": validate, "monitor": "validation/loss"}
    return jc.fit(run or made, state, train or rows(), steps=steps, workdir=workdir, **defaults | options)


def test_learns_and_reports():
    seen, lines = [], []
    fitted = fit(progress=lambda step, values: seen.append((step, values["count"])), log=lines.append)
    assert [row["step"] for row in fitted.history] == [6, 12, 18, 24] and fitted.history == lines
    assert sum(n for _, n in seen) == 24 * 16 and seen[-1][0] == 24
    assert fitted.history[-1]["train/loss"] < fitted.history[0]["train/loss"]
    assert {"seconds", "learning_rate", "train/accuracy", "train/f1_macro", "validation/loss"} <= set(fitted.history[0])
    singles = [jc.types.scalars(row) for row in fitted.history]
    assert json.loads(json.dumps(singles)) == singles
    assert fitted.history[0]["train/confusion"].sum() == 6 * 16
    best = min(fitted.history, key=lambda row: row["validation/loss"])
    assert int(fitted.best.step) == best["step"]


def test_the_callers_state_survives():
    run, state, _ = setting()
    jc.fit(run, state, rows(), batch_size=16, steps=2)
    assert not any(x.is_deleted() for x in jax.tree.leaves(state))
    assert int(state.step) == 0


def test_resume_is_the_same_run_bit_for_bit(tmp_path):
    straight = fit(tmp_path / "a")
    fit(tmp_path / "b", steps=12)
    resumed = fit(tmp_path / "b")
    chex.assert_trees_all_equal(jax.device_get(straight.state.params), jax.device_get(resumed.state.params))
    chex.assert_trees_all_equal(jax.device_get(straight.best.extras), jax.device_get(resumed.best.extras))
    summed = lambda name: name == "seconds" or name.startswith("train/")
    pick = lambda rows, wanted: [
        {k: v for k, v in row.items() if summed(k) is wanted and k != "seconds"} for row in rows
    ]
    chex.assert_trees_all_equal(pick(straight.history, False), pick(resumed.history, False))
    # sums within a dispatch are float32, and where it is cut depends on the clock
    chex.assert_trees_all_close(pick(straight.history, True), pick(resumed.history, True), rtol=1e-5)


def test_stop_between_validations_and_resume(tmp_path):
    straight = fit()
    seen = []
    with pytest.raises(jc.StoppedError) as stopped:
        fit(tmp_path, progress=lambda step, _: seen.append(step), stop=lambda: len(seen) == 2)
    assert stopped.value.step == 2  # dispatches start with one step each
    replayed = []
    resumed = fit(tmp_path, log=replayed.append)
    chex.assert_trees_all_equal(jax.device_get(straight.state.params), jax.device_get(resumed.state.params))
    assert [r["train/count"] for r in resumed.history] == [96] * 4
    assert [r["train/loss"] for r in resumed.history] == pytest.approx(
        [r["train/loss"] for r in straight.history], rel=1e-6
    )


def test_earlier_rows_come_again_after_a_resume(tmp_path):
    fit(tmp_path, steps=12)
    lines = []
    assert [r["step"] for r in fit(tmp_path, log=lines.append).history] == [r["step"] for r in lines] == [6, 12, 18, 24]


def test_the_learning_rate_in_force_is_logged_and_survives_a_resume(tmp_path):
    schedule = jc.optim.cosine(1e-2, steps=24)
    fit(tmp_path, steps=12)
    history = fit(tmp_path, steps=18).history
    assert [r["learning_rate"] for r in history] == pytest.approx(
        [float(schedule(t - 1)) for t in (6, 12, 18)], rel=1e-6
    )


def test_resume_without_the_best_checkpoint(tmp_path, caplog):
    values = iter([1.0, 2.0, 3.0, 4.0])
    options = {"validate": lambda s: {"v": next(values)}, "monitor": "v"}
    fit(tmp_path, steps=18, **options)
    shutil.rmtree(tmp_path / "6" / "state")
    fitted = fit(tmp_path, **options)
    assert int(fitted.best.step) == 24 and "the best checkpoint, 6, is damaged" in caplog.text


def test_nothing_to_measure():
    t = task()
    run = jc.compile_step(jc.make_eval_step(t), "jit")
    with pytest.raises(jc.InputError, match="no rows"):
        jc.evaluate(run, t.init(jax.random.key(0), rows().example()), rows().take(np.arange(0)))


def test_resume_on_other_devices(tmp_path):
    straight = fit()
    fit(tmp_path, steps=12)
    run, _, _ = setting(strategy="sharded", devices=8)
    assert distance(straight.state.params, fit(tmp_path, run=run).state.params) < 1e-5


def test_early_stopping_counts_over_a_resume(tmp_path):
    worse = iter([1.0, 2.0, 3.0, 4.0])
    values = {"validate": lambda s: {"v": next(worse)}, "monitor": "v", "patience": 3}
    fit(tmp_path, steps=12, **values)
    fitted = fit(tmp_path, **values)
    assert [r["v"] for r in fitted.history] == [1.0, 2.0, 3.0, 4.0] and int(fitted.best.step) == 6
    assert len(fit(tmp_path, **values).history) == 4  # it stays stopped


def test_mode_max():
    values = iter([0.1, 0.9, 0.5, 0.2])
    assert int(fit(validate=lambda s: {"v": next(values)}, monitor="v", mode="max").best.step) == 12


def test_every_may_be_a_fraction():
    assert [r["step"] for r in fit(every=4.5, steps=20).history] == [5, 9, 14, 18, 20]


def streamed(data):
    return jc.data.Indexed(lambda i: {k: v[i] for k, v in data.arrays.items()}, data.size, data.classes)


@pytest.mark.parametrize("kind", [lambda data: data, streamed])
def test_a_retrace_is_an_error(kind):
    """Odd tails, validation between, other rows to measure at the end: one trace of each step."""
    chex.clear_trace_counter()  # it goes by name, and other tests count steps too
    t, tx = task(), jc.optim.sgd(0.1)
    run = jc.compile_step(chex.assert_max_traces(jc.make_train_step(t, tx), n=1), "jit")
    ev = jc.compile_step(chex.assert_max_traces(jc.make_eval_step(t), n=1), "jit")
    validate = lambda s: jc.evaluate(ev, s.variables, kind(rows(45, seed=1)), batch_size=8)
    fitted = jc.fit(
        run, jc.init_state(t, tx, rows().example()), kind(rows()), batch_size=16, steps=11, every=4, validate=validate
    )
    assert jc.evaluate(ev, fitted.state.variables, kind(rows(61, seed=2)), batch_size=8)["count"] == 61


@pytest.mark.parametrize("kind", [lambda data: data, streamed])
def test_the_length_of_dispatches_changes_no_bit(kind, monkeypatch):
    ends = []
    for seconds in (0.0, 1e9):
        monkeypatch.setattr(batches, "SECONDS", seconds)
        lengths, run = [], setting()[0]
        counted = run._replace(
            call=lambda s, c, call=run.call, lengths=lengths: lengths.append(int(c.count)) or call(s, c)
        )
        ends.append(
            (jax.device_get(fit(run=counted, train=kind(rows()), steps=18, every=18).state.params), max(lengths))
        )
    chex.assert_trees_all_equal(ends[0][0], ends[1][0])
    assert ends[0][1] == 1 and ends[1][1] > 2


def test_one_chunk_is_read_ahead_on_a_thread_that_ends_with_the_fit():
    run, read, called = setting()[0], [], []

    class Counted(jc.data.Indexed):
        def chunk(self, *args):
            read.append(threading.current_thread())
            return super().chunk(*args)

    indexed = streamed(rows())
    counted = Counted(indexed.read, indexed.size, indexed.classes)

    def call(state, c):
        called.append(len(read))
        return run.call(state, c)

    fit(run=run._replace(call=call), train=counted, steps=6, every=6)
    assert all(thread is not threading.main_thread() and not thread.is_alive() for thread in read)
    assert all(n - i <= 2 for i, n in enumerate(called))  # the current read, and one ahead


@pytest.mark.parametrize("where", ["read", "stop", "progress"])
def test_the_reading_thread_ends_with_an_error_too(where):
    data = rows()

    def fail(*args):
        raise jc.InputError("enough")

    bad = jc.data.Indexed(
        lambda i: fail() if where == "read" and len(i) > 1 else {k: v[i] for k, v in data.arrays.items()}, data.size
    )
    options = {} if where == "read" else {where: fail}
    with pytest.raises(jc.InputError, match="enough"):
        fit(train=bad, **options)
    assert not [t for t in threading.enumerate() if t.name.startswith("read ahead")]


def test_divergence_stops_with_the_steps_and_the_rate(tmp_path):
    t, tx = task(), jc.optim.sgd(1e12)
    run, state = jc.compile_step(jc.make_train_step(t, tx), "jit"), jc.init_state(t, tx, rows().example())
    with pytest.raises(jc.DivergedError, match=r"the loss is (nan|inf) at (one of steps|step) .*learning rate 1e\+12"):
        jc.fit(run, state, rows(), batch_size=16, steps=50, every=10, workdir=tmp_path)


def test_parameters_that_are_no_numbers_are_not_saved(tmp_path):
    """The loss would show it one step later, after the save."""
    t, tx = task(), jc.optim.sgd(0.05)
    good = jc.make_train_step(t, tx)

    def step(state, batch):
        state, sums = good(state, batch)
        spoil = lambda p: jax.numpy.where(state.step == 10, jax.numpy.nan, p)
        return state.replace(params=jax.tree.map(spoil, state.params)), sums

    run, state = jc.compile_step(step, "jit"), jc.init_state(t, tx, rows().example())
    with pytest.raises(jc.DivergedError, match="no longer finite after step 10, learning rate 0.05"):
        jc.fit(run, state, rows(), batch_size=16, steps=20, every=5, workdir=tmp_path)
    with reading(tmp_path) as checkpoints:
        assert checkpoints.newest()[0] == 5


def test_a_plain_optax_transform_will_do():
    t, tx = task(), optax.adam(1e-3)
    run, state = jc.compile_step(jc.make_train_step(t, tx), "jit"), jc.init_state(t, tx, rows().example())
    (row,) = jc.fit(run, state, rows(), batch_size=16, steps=2).history
    assert "learning_rate" not in row and row["step"] == 2


def test_a_step_that_forgets_its_counter():
    t, tx = task(), jc.optim.sgd(0.1)
    step = jc.make_train_step(t, tx)
    forgetful = lambda s, b: (step(s, b)[0].replace(step=s.step), step(s, b)[1])
    with pytest.raises(ValueError, match="step counter is 0 after 1 batches"):
        jc.fit(
            jc.compile_step(forgetful, "jit"), jc.init_state(t, tx, rows().example()), rows(), batch_size=16, steps=2
        )


@pytest.mark.parametrize(
    "options, message",
    [
        ({"batch_size": 0}, "batch_size=0: must be from 1 to the 96 training rows"),
        ({"batch_size": 97}, "batch_size=97"),
        ({"steps": -1}, "steps=-1"),
        ({"every": 0.5}, "every=0.5"),
        ({"mode": "best"}, "mode='best'"),
        ({"patience": 0}, "patience=0"),
        ({"monitor": "nonsense"}, "monitor='nonsense'"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(jc.InputError, match=message):
        fit(**options)


@pytest.mark.parametrize("strategy", ["sharded", "pmap"])
def test_batches_that_do_not_divide_are_padded(strategy):
    one, state, _ = setting()
    three, *_ = setting(strategy=strategy, devices=3)
    train = lambda run, data: jax.device_get(jc.fit(run, state, data, batch_size=16, steps=9, every=4).state)
    for data in (rows(), streamed(rows())):
        a, b = train(one, data), train(three, data)
        assert distance(a.params, b.params) < 1e-5 and distance(a.model_state, b.model_state) < 1e-5


def test_another_run_in_the_same_folder_is_refused(tmp_path):
    fit(tmp_path, steps=6)
    with pytest.raises(jc.InputError, match="batch_size was 16 and is now 8"):
        fit(tmp_path, batch_size=8)
    t, tx = task(), jc.optim.sgd(0.1, momentum=0.9)
    run, state = jc.compile_step(jc.make_train_step(t, tx), "jit"), jc.init_state(t, tx, rows().example())
    with pytest.raises(jc.InputError, match="a different model or optimiser"):
        jc.fit(run, state, rows(), batch_size=16, steps=12, every=6, workdir=tmp_path, monitor="validation/loss")


def test_collect_gives_every_row_in_order():
    t, data = task(), rows(97)
    variables = t.init(jax.random.key(0), data.example())
    logits, kept = jc.collect(t.predict, variables, data, keep=("label",), batch_size=40)
    np.testing.assert_allclose(logits, t.predict(variables, dict(data.arrays)), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(kept["label"], data.arrays["label"])


def test_streamed_rows_train_as_resident_ones_do():
    data = rows()
    indexed = streamed(data)
    run, state, validate = setting()
    a, b = (jc.fit(run, state, d, batch_size=16, steps=10, every=5, validate=validate).state for d in (data, indexed))
    assert distance(a.params, b.params) < 1e-6


def cut(workdir, stop=None, **options):
    """A run that ends early, in several ways."""
    with pytest.raises(jc.StoppedError) as stopped:
        fit(workdir, stop=stop, **options)
    return stopped.value.step


def test_saves_by_time_go_on_to_the_same_run(tmp_path):
    straight, seen = fit(), []
    cut(tmp_path, lambda: len(seen) == 2, progress=lambda step, _: seen.append(step), save_seconds=0.0)
    with reading(tmp_path) as saved:
        assert saved.steps()[0] == 2 and saved.newest()[2]["partial"]
    resumed = fit(tmp_path, save_seconds=0.0)
    chex.assert_trees_all_equal(jax.device_get(straight.state.params), jax.device_get(resumed.state.params))
    assert [r["train/count"] for r in resumed.history] == [96] * 4


def test_stopped_in_a_validation_that_is_then_made(tmp_path):
    straight, validate, asked = fit(), setting()[2], []

    def interrupted(state):
        asked.append(int(state.step))
        if len(asked) == 2:
            raise jc.Interrupted
        return validate(state)

    assert cut(tmp_path, validate=interrupted) == 12
    resumed = fit(tmp_path, validate=interrupted)
    assert asked == [6, 12, 12, 18, 24]
    chex.assert_trees_all_equal(jax.device_get(straight.state.params), jax.device_get(resumed.state.params))
    pick = lambda fitted: [(r["step"], r["train/count"], r["validation/loss"]) for r in fitted.history]
    assert pick(straight) == pick(resumed)


def test_stopped_while_compiling_and_while_reading(tmp_path):
    release, quick = threading.Event(), setting()[0]

    def slow(state, chunk):
        release.wait(2)
        return quick.call(state, chunk)

    assert cut(tmp_path / "a", lambda: True, run=quick._replace(call=slow)) == 0

    class Slow(jc.data.Resident):
        def chunk(self, *arguments):
            if arguments[1] >= 2:
                release.wait(2)
            return super().chunk(*arguments)

    data, seen = Slow(rows().arrays, rows().classes), []
    assert cut(tmp_path / "b", lambda: len(seen) == 2, train=data, progress=lambda step, _: seen.append(step)) == 2
    release.set()


def test_evaluation_can_be_stopped():
    t = task()
    ev, data = jc.compile_step(jc.make_eval_step(t), "jit"), rows()
    with pytest.raises(jc.Interrupted):
        jc.evaluate(ev, t.init(jax.random.key(0), data.example()), data, stop=lambda: True)
