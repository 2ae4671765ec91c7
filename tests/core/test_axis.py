"""Rows along an axis that is not called "data" are counted if it is named, and never left out silently."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from jaxcnn import InputError, augment
from jaxcnn.core import collectives
from jaxcnn.layers import BatchNorm, Dropout
from tests.layers.test_layers import norm_variables

KEY = jax.random.key(0)


def normalised(variables, x):
    return BatchNorm().apply(variables, x, train=True, mutable=["batch_stats"])


def dropped(x):
    return Dropout(0.5).apply({}, x, train=True, rngs={"dropout": KEY})


USES = {
    "batch norm": lambda x: normalised(norm_variables(3, np.random.default_rng(0)), x)[0],
    "dropout": dropped,
    "flip": lambda x: augment.flip(KEY, {"image": x[:, None, None]})["image"][:, 0, 0],
    "sum": lambda x: collectives.all_sum(x),
    "mean": lambda x: collectives.all_mean(x),
    "partners": collectives.previous,
    "keys": lambda x: jax.random.uniform(collectives.row_keys(KEY, len(x))[0], x.shape),
    "leader": lambda x: x * collectives.leader(),
}
BINDINGS = {
    "vmap": lambda f, name: jax.vmap(f, axis_name=name),
    "pmap": lambda f, name: jax.pmap(f, axis_name=name),
    "shard_map": lambda f, name: jax.shard_map(
        lambda x: f(x[0])[None], mesh=Mesh(np.array(jax.devices()), (name,)), in_specs=P(name), out_specs=P(name)
    ),
}


@pytest.mark.parametrize("binding", BINDINGS)
@pytest.mark.parametrize("use", USES)
def test_an_axis_that_nobody_named_is_refused(use, binding):
    with pytest.raises(InputError, match="axis 'batch': rows are expected along 'data'") as refused:
        jax.eval_shape(BINDINGS[binding](USES[use], "batch"), jnp.ones((8, 2, 3)))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("binding", BINDINGS)
@pytest.mark.parametrize(
    "use", ["batch norm", *(pytest.param(u, marks=pytest.mark.slow) for u in ("dropout", "flip", "partners"))]
)
def test_a_named_axis_gives_the_numbers_of_one_device(use, binding, rng):
    x = jnp.asarray(rng.normal(size=(8, 2, 3)), jnp.float32)
    with collectives.over("batch"):
        spread = BINDINGS[binding](USES[use], "batch")(x)
    chex.assert_trees_all_close(spread.reshape(16, 3), USES[use](x.reshape(16, 3)), atol=1e-5)


def test_rows_along_two_axes(rng):
    x, variables = jnp.asarray(rng.normal(size=(8, 2, 3)), jnp.float32), norm_variables(3, rng)
    with collectives.over("host", "chip"):
        each = jax.vmap(jax.vmap(lambda x: (normalised(variables, x), dropped(x)), axis_name="chip"), axis_name="host")
        (y, changed), drops = each(x.reshape(2, 4, 2, 3))
    (expected, stats), whole = normalised(variables, x.reshape(16, 3)), dropped(x.reshape(16, 3))
    chex.assert_trees_all_close((y.reshape(16, 3), drops.reshape(16, 3)), (expected, whole), atol=1e-5)
    chex.assert_trees_all_close(jax.tree.map(lambda s: s[1, 2], changed), stats, rtol=1e-5)


def test_members_of_an_ensemble_stand_for_themselves(rng):
    x, run = jnp.asarray(rng.normal(size=(4, 6, 3)), jnp.float32), functools.partial(normalised, norm_variables(3, rng))
    alone = jax.vmap(run)(x)
    with collectives.over():
        chex.assert_trees_all_close(jax.vmap(run, axis_name="ensemble")(x), alone, atol=1e-6)
        chex.assert_trees_all_close(jax.vmap(run, axis_name=collectives.AXIS)(x), alone, atol=1e-6)


def test_naming_ends_with_its_context():
    with pytest.raises(RuntimeError), collectives.over("batch"):
        raise RuntimeError
    assert collectives.axes() == () and not collectives.bound()
    with collectives.over("batch"):
        assert collectives.axes() == ()


def test_evaluation_asks_for_no_axis():
    x = jnp.ones((4, 2, 3))
    evaluate = lambda x: BatchNorm().apply(norm_variables(3, np.random.default_rng(0)), x, train=False)
    assert jax.vmap(evaluate, axis_name="batch")(x).shape == x.shape
