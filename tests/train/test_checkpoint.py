"""Checkpoints: which are kept, how damage is found, and the error for a model that does not fit."""

import json
import logging
import os
import pathlib
import shutil

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcnn as jc
from jaxcnn.parallel.mesh import layout, make_mesh, put, split_all
from jaxcnn.train import checkpoint, stored
from jaxcnn.train.checkpoint import Checkpoints, DamagedError, digest, flatten, reading, unflatten


def state(seed=0, width=64):
    return jc.State(
        jnp.int32(3),
        {"dense": {"kernel": jax.random.normal(jax.random.key(seed), (width, width))}},
        {},
        {"m": jnp.zeros(3)},
        jax.random.key(7),
    )


def saved(folder, steps=(1, 2, 3), best=1):
    checkpoints = Checkpoints(folder)
    for step in steps:
        checkpoints.save(step, state(step), {"step": step, "best_step": best}, [best])
    checkpoints.close()


def arrays(folder, step):
    return sorted(
        (p for p in (folder / str(step) / "state").rglob("*") if p.is_file() and p.stat().st_size > 2000),
        key=lambda p: p.stat().st_size,
    )


def flip(path):
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)


def cut(path):
    os.truncate(path, path.stat().st_size // 2)


def test_round_trip_with_random_keys():
    a = state()
    b = unflatten(state(1), flatten(a))
    chex.assert_trees_all_equal(a.params, b.params)
    assert int(jax.random.bits(a.rng)) == int(jax.random.bits(b.rng))


def test_flatten_copies():
    a = {"x": jnp.zeros(4)}
    flat = flatten(a)
    jax.jit(lambda t: jax.tree.map(lambda x: x + 1, t), donate_argnums=0)(a)
    np.testing.assert_array_equal(flat["x"], 0)


def test_digest_sees_value_name_shape_and_dtype():
    x = np.arange(6, dtype=np.float32)
    others = [{"b": x}, {"a": x.reshape(2, 3)}, {"a": x.view(np.int32)}, {"a": x + np.float32(1e-6)}, {"a": x, "b": x}]
    assert len({digest(d) for d in [{"a": x}, *others]}) == 6
    assert digest({"a": x, "b": x}) == digest({"b": x, "a": x})


def test_the_newest_two_and_the_best_are_kept(tmp_path):
    saved(tmp_path, steps=(1, 2, 3, 4, 5), best=2)
    with reading(tmp_path) as checkpoints:
        assert checkpoints.steps() == [5, 4, 2]


@pytest.mark.parametrize("damage", [flip, cut, os.remove])
def test_a_damaged_latest_falls_back_and_says_so(tmp_path, damage, caplog):
    saved(tmp_path)
    damage(arrays(tmp_path, 3)[-1])
    checkpoints = Checkpoints(tmp_path)
    with caplog.at_level(logging.WARNING, "jaxcnn"):
        step, flat, loop = checkpoints.newest()
    assert (step, loop["step"]) == (2, 2)
    chex.assert_trees_all_equal(unflatten(state(), flat).params, state(2).params)
    assert "checkpoint 3 is damaged" in caplog.text
    checkpoints.save(3, state(9), {"step": 3, "best_step": 1}, [1])  # its number is free again
    checkpoints.close()
    with reading(tmp_path) as again:
        assert again.newest()[0] == 3


def test_reading_changes_nothing(tmp_path):
    saved(tmp_path)
    flip(arrays(tmp_path, 3)[-1])
    before = sorted(p for p in tmp_path.rglob("*"))
    with reading(tmp_path) as checkpoints:
        assert checkpoints.newest()[0] == 2
    assert sorted(p for p in tmp_path.rglob("*")) == before


def test_all_damaged(tmp_path):
    saved(tmp_path, steps=(1,))
    flip(arrays(tmp_path, 1)[-1])
    with reading(tmp_path) as checkpoints:
        with pytest.raises(DamagedError):
            checkpoints.load(1)
        assert checkpoints.newest() is None


@pytest.mark.parametrize(
    "like, message",
    [
        (state(width=32), r"has params.dense.kernel float32\[64, 64\], this model float32\[32, 32\]"),
        (state().replace(model_state={"stats": jnp.zeros(1)}), "lacks model_state.stats"),
        (state().replace(params={}), "has params.dense.kernel"),
    ],
)
def test_another_model_is_refused(like, message):
    with pytest.raises(jc.InputError, match=message):
        unflatten(like, flatten(state()))


def test_a_changed_loop_record_is_found(tmp_path, caplog):
    saved(tmp_path)
    record = tmp_path / "3" / "loop" / "metadata"
    record.write_text(record.read_text().replace('"step": 3', '"step": 4'))
    with reading(tmp_path) as checkpoints:
        assert checkpoints.newest()[0] == 2


def test_the_best_before_the_newest_save_is_kept_too(tmp_path):
    """Should the newest be damaged, the one before still finds the best that it knew."""
    checkpoints = Checkpoints(tmp_path)
    for step, best in ((1, 1), (2, 1), (3, 1), (4, 1), (5, 5)):
        checkpoints.save(step, state(step), {"step": step, "best_step": best}, [best])
    checkpoints.close()
    flip(arrays(tmp_path, 5)[-1])
    with reading(tmp_path) as again:
        step, _, loop = again.newest()
        assert (step, loop["best_step"]) == (4, 1)
        again.load(1)


def test_a_run_that_an_earlier_version_wrote(tmp_path):
    """`fixtures/make_run.py` wrote it; it is loaded, and it is gone on with."""
    kept = pathlib.Path(__file__).parents[1] / "fixtures" / "run-format-2"
    expected = json.loads((kept / "expected.json").read_text())
    loaded = jc.load_run(kept)
    assert loaded.step == expected["step"]
    for path, x in flatten(loaded.variables).items():
        np.testing.assert_array_equal(x, np.float32(expected["weights"][path]))
    shutil.copytree(kept / "checkpoints", tmp_path / "checkpoints")
    step, flat, loop = Checkpoints(tmp_path / "checkpoints").newest()
    assert step == 6 and len(loop["history"]) == 2 and flat["step"] == 6


def test_another_format_is_refused(tmp_path, monkeypatch):
    saved(tmp_path)
    monkeypatch.setattr(checkpoint, "FORMAT", checkpoint.FORMAT - 1)
    with (
        reading(tmp_path) as checkpoints,
        pytest.raises(jc.InputError, match="has format 3, newer than this program's 2"),
    ):
        checkpoints.newest()


def test_several_of_the_best_are_kept(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep_best=3)
    for step, ranking in (
        (1, [1]), (2, [1, 2]), (3, [1, 3, 2]), (4, [4, 1, 3, 2]), (5, [4, 1, 3, 2]), (6, [4, 1, 3, 2]),
        (7, [4, 1, 3, 2]),
    ):  # fmt: skip
        checkpoints.save(step, state(step), {"step": step}, ranking)
    checkpoints.close()
    with reading(tmp_path) as again:
        assert again.steps() == [7, 6, 4, 3, 1]


def test_a_step_is_replaced_and_stays_until_it_is(tmp_path, monkeypatch):
    folder = tmp_path / "checkpoints"
    saved(folder)
    checkpoints = Checkpoints(folder)
    checkpoints.save(3, state(9), {"step": 33}, [1])
    checkpoints.close()
    with reading(folder) as again:
        assert again.newest()[2]["step"] == 33 and not (folder / "replaced").exists()
    checkpoints = Checkpoints(folder)

    def killed(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(type(checkpoints.manager), "save", killed)
    with pytest.raises(KeyboardInterrupt):
        checkpoints.save(3, state(8), {"step": 34}, [1])
    assert not (folder / "3").exists() and (folder / "replaced" / "3").exists()
    monkeypatch.undo()
    assert Checkpoints(folder).newest()[2]["step"] == 33


def test_parts_of_a_divided_array_are_checked_wherever_it_is_read(tmp_path):
    mesh = make_mesh(jax.devices(), 2)
    whole = state(5)
    divided = put(whole.params, layout(whole.params, split_all, mesh))
    assert len({str(s.index) for s in divided["dense"]["kernel"].addressable_shards}) == 8
    x, flat = divided["dense"]["kernel"], flatten(whole.params)
    parts = {"dense.kernel": [str(x.dtype), list(x.shape), stored.digests(x)]}
    assert len(parts["dense.kernel"][2]) == 8 and stored.changed(flat, parts) is None
    flat["dense.kernel"][40, 40] += 1e-6
    assert stored.changed(flat, parts) == "dense.kernel"
