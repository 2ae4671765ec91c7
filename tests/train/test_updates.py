"""updates: a loop of one's own trains what `fit` trains, and whatever ends it loses nothing."""

import chex
import jax
import numpy as np
import pytest

import jaxcnn as jc
from jaxcnn.train.checkpoint import reading
from tests.small import rows
from tests.train.test_loop import fit, setting

STEPS, EVERY = 24, 6


def begun(workdir=None, **options):
    run, state, _ = setting()
    return jc.updates(
        run, state, rows(), **{"batch_size": 16, "steps": STEPS, "every": EVERY, "workdir": workdir} | options
    )


def params(state):
    return jax.device_get(state.params)


def trained(workdir=None, **options):
    """Follow a loop to its end: the last parameters."""
    return [params(update.state) for update in begun(workdir, **options)][-1]


def test_updates_are_what_fit_is_made_of():
    straight, found = fit(log=None), list(begun())
    assert [u.first for u in found] == [1, *(u.last + 1 for u in found[:-1])] and found[-1].last == STEPS
    ends = [u for u in found if u.boundary]
    assert [u.last for u in ends] == [6, 12, 18, 24]
    assert sum(u.sums["count"].compute() for u in found) == STEPS * 16
    assert [u.total["count"].compute() for u in ends] == [96] * 4
    assert [u.total["loss"].compute() for u in ends] == pytest.approx(
        [r["train/loss"] for r in straight.history], rel=1e-5
    )
    assert all(u.seconds > 0 for u in found)
    chex.assert_trees_all_equal(trained(), params(straight.state))


def test_arguments_are_refused_at_the_call():
    with pytest.raises(jc.InputError, match="batch_size=0"):
        begun(batch_size=0)
    with pytest.raises(jc.InputError, match="on_nan='no'"):
        begun(on_nan="no")


@pytest.mark.parametrize("at", [4, 12])
def test_a_loop_that_is_left_goes_on_where_it_was(tmp_path, at):
    for update in begun(tmp_path):
        if update.last >= at:
            break
    last = update.last
    with reading(tmp_path) as saved:
        assert saved.steps()[0] == last
    found = [(u.first, u.last, u.boundary, params(u.state)) for u in begun(tmp_path)]
    assert found[0][0] == last + 1 and found[-1][1] == STEPS
    chex.assert_trees_all_equal(found[-1][3], trained())


def test_a_body_that_raises_loses_nothing(tmp_path):
    loop = begun(tmp_path)
    with pytest.raises(RuntimeError, match="body"):
        for update in loop:
            if update.boundary:
                raise RuntimeError("body")
    loop.close()
    again = list(begun(tmp_path))
    assert again[0].first == 7 and again[0].last == 6 and again[0].boundary  # that boundary comes once more
    assert again[0].total["count"].compute() == 96 and again[-1].last == STEPS


def test_a_finished_run_gives_its_state(tmp_path):
    end = trained(tmp_path)
    (update,) = begun(tmp_path)
    assert (update.first, update.last, update.sums, update.boundary) == (STEPS + 1, STEPS, {}, True)
    chex.assert_trees_all_equal(params(update.state), end)


def test_stop_ends_the_loop(tmp_path):
    seen = []
    for update in begun(tmp_path, stop=lambda: len(seen) == 2):
        seen.append(update.last)
    assert len(seen) == 2
    chex.assert_trees_all_equal(trained(tmp_path), trained())


def test_rows_that_cannot_be_read_lose_nothing(tmp_path, caplog):
    run, state, _ = setting()
    data = rows()

    def read(index):
        if reads.append(1) or len(reads) == 9:
            raise OSError("gone")
        return {k: v[index] for k, v in data.arrays.items()}

    reads = []
    broken = jc.data.Indexed(read, data.size, data.classes)
    last = 0
    with pytest.raises(OSError, match="gone"):
        for update in jc.updates(run, state, broken, batch_size=16, steps=STEPS, every=EVERY, workdir=tmp_path):
            last = update.last
    with reading(tmp_path) as saved:
        assert saved.steps()[0] == last > 0


def test_history_keeps_arrays_over_a_resume(tmp_path):
    straight = fit(log=None)
    fit(tmp_path, steps=12, log=None)
    resumed = fit(tmp_path, log=None)
    for one, other in zip(straight.history, resumed.history, strict=True):
        assert (
            isinstance(other["train/confusion"], np.ndarray)
            and other["train/confusion"].dtype == one["train/confusion"].dtype
        )
        np.testing.assert_array_equal(one["train/confusion"], other["train/confusion"])


def test_large_arrays_are_no_part_of_a_row():
    history = fit(
        validate=lambda s: {"v": 1.0, "few": np.ones(3), "many": np.zeros(10_001)}, monitor="v", log=None
    ).history
    assert "many" not in history[0] and history[0]["few"].tolist() == [1, 1, 1]


def test_fit_prints_a_line_per_validation(capsys):
    fit(steps=12)
    first, second = capsys.readouterr().out.splitlines()
    assert (
        first.startswith("step 6  ")
        and " train/loss " in first
        and " validation/loss " in first
        and second.startswith("step 12  ")
    )
    assert len(first) <= 120
    fit(steps=6, log=None)
    assert capsys.readouterr().out == ""
