"""Every kind of damage to a checkpoint is found and named, and what is restored is the newest sound one."""

import logging

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcnn as jc
from jaxcnn.train.checkpoint import Checkpoints, unflatten
from tests.faults.fault_injection import DAMAGES


def state(seed):
    params = {"dense": {"kernel": jax.random.normal(jax.random.key(seed), (96, 96))}}
    return jc.State(
        jnp.int32(seed), params, {}, {"m": jax.random.normal(jax.random.key(-seed), (3,))}, jax.random.key(7)
    )


SEEDS = [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 6))]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("bad", [(3,), (3, 2)], ids=["latest", "older"])
@pytest.mark.parametrize("damage", DAMAGES, ids=lambda f: f.__name__)
def test_damage_is_found_and_the_one_before_restored(tmp_path, caplog, damage, bad, seed):
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    for step in (1, 2, 3):
        checkpoints.save(step, state(step), {"step": step, "best_step": 1}, [1])
    checkpoints.close()
    rng = np.random.default_rng([seed, len(bad)])
    for step in bad:
        damage(tmp_path / "checkpoints" / str(step), rng)
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    with caplog.at_level(logging.WARNING, "jaxcnn"):
        step, flat, loop = checkpoints.newest()
    good = 3 - len(bad)
    assert (step, loop["step"]) == (good, good)
    chex.assert_trees_all_equal(unflatten(state(9), flat).params, state(good).params)
    assert all(f"checkpoint {step} " in caplog.text for step in bad), caplog.text
    for step in bad:  # their numbers are free again
        assert checkpoints.save(step, state(step), {"step": step, "best_step": 1}, [1])
    checkpoints.close()
    assert Checkpoints(tmp_path / "checkpoints").newest()[0] == 3
