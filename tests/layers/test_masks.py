"""Masks of places, of any rank, in batch norm and global pooling: as if the places left out were not there."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxcnn import InputError, ops
from jaxcnn.core.collectives import AXIS
from jaxcnn.layers import CBAM, BatchNorm, SqueezeExcite
from jaxcnn.ops.pooling import align_mask
from tests.layers.test_layers import norm_variables

CASES = {  # shape of x, of the mask, of the mask as leading axes
    "rows": ((8, 3, 2, 5), (8,), (8,)),
    "rows, trailing ones": ((8, 3, 2, 5), (8, 1, 1, 1), (8,)),
    "steps": ((8, 6, 5), (8, 6), (8, 6)),
    "steps, trailing one": ((8, 6, 5), (8, 6, 1), (8, 6)),
    "steps of a spectrogram": ((8, 6, 3, 5), (8, 6), (8, 6)),
    "pixels": ((8, 4, 3, 5), (8, 4, 3), (8, 4, 3)),
    "pixels, trailing one": ((8, 4, 3, 5), (8, 4, 3, 1), (8, 4, 3)),
    "voxels": ((8, 2, 3, 2, 5), (8, 2, 3, 2), (8, 2, 3, 2)),
    "sides of one pixel": ((8, 1, 3, 5), (8, 1, 3), (8, 1, 3)),
}


def drawn(rng, name, dtype=np.float32):
    shape, mask, lead = CASES[name]
    mask = rng.random(mask) < 0.6
    mask.flat[:2] = True, False
    return rng.normal(1, 3, shape).astype(dtype), mask, mask.reshape(lead)


def applied(v, x, mask, **options):
    return BatchNorm(**options).apply(v, x, train=True, mask=mask, mutable=["batch_stats"])


FEW = [n if n in ("steps", "pixels") else pytest.param(n, marks=pytest.mark.slow) for n in CASES]


@pytest.mark.parametrize("name", CASES)
def test_batch_norm_equals_the_places_that_count(name, rng):
    variables, (x, mask, lead) = norm_variables(5, rng), drawn(rng, name)
    broken = np.where(
        lead.reshape(lead.shape + (1,) * (x.ndim - lead.ndim)), x, np.nan
    )  # what is left out may be anything
    y, changed = applied(variables, broken, mask)
    kept, expected = applied(variables, x[lead].reshape(-1, 5), None)
    np.testing.assert_allclose(y[lead].reshape(-1, 5), kept, atol=1e-5)
    chex.assert_trees_all_close(changed, expected, rtol=1e-5)  # the variance is unbiased by the places that count
    assert jnp.isfinite(y).all()


@pytest.mark.parametrize(
    "name",
    ["pixels", *(pytest.param(n, marks=pytest.mark.slow) for n in ("steps", "steps of a spectrogram", "voxels"))],
)
def test_batch_norm_gradient_of_masked_places(name, rng):
    with jax.enable_x64(True):
        variables = jax.tree.map(lambda v: jnp.asarray(v, jnp.float64), norm_variables(5, rng))
        x, mask, lead = drawn(rng, name, np.float64)
        towards = rng.normal(size=x.shape)

        def loss(params, x, mask, towards):
            y, changed = applied({**variables, "params": params}, x, mask)
            stats = changed["batch_stats"]
            return (jnp.sin(y) * towards).sum() + 3 * stats["mean"].sum() + (stats["var"] ** 2).sum()

        grads = jax.grad(loss, (0, 1))
        weights = towards * lead.reshape(lead.shape + (1,) * (x.ndim - lead.ndim))
        got, dx = grads(variables["params"], x, mask, weights)
        expected, kept = grads(variables["params"], x[lead].reshape(-1, 5), None, towards[lead].reshape(-1, 5))
        chex.assert_trees_all_close((got, dx[lead].reshape(-1, 5)), (expected, kept), rtol=1e-10, atol=1e-10)
        assert not dx[~lead].any()


@pytest.mark.parametrize("name", ["steps", "pixels"])
def test_masks_agree_however_rows_are_spread(name, rng):
    variables, (x, mask, _) = norm_variables(5, rng), drawn(rng, name)
    mask[2:3] = False  # a device where nothing counts
    devices = Mesh(np.array(jax.devices()), (AXIS,))
    run = functools.partial(applied, variables)
    one = jax.jit(run)(x, mask)
    sharded = jax.jit(run)(*jax.device_put((x, mask), NamedSharding(devices, P(AXIS))))
    pmapped = jax.pmap(run, AXIS, out_axes=(0, None))(*(a[:, None] for a in (x, mask)))
    for y, changed in (sharded, (pmapped[0].reshape(x.shape), pmapped[1])):
        chex.assert_trees_all_close((y, changed), one, atol=1e-5)


@pytest.mark.parametrize("name", FEW)
def test_where_nothing_counts_the_running_statistics_stay(name, rng):
    variables, (x, mask, _) = norm_variables(5, rng), drawn(rng, name)
    loss = lambda x: jnp.square(applied(variables, x, jnp.zeros_like(mask))[0]).sum()
    y, changed = applied(variables, x, np.zeros_like(mask))
    chex.assert_trees_all_equal(changed["batch_stats"], variables["batch_stats"])
    assert jnp.isfinite(y).all() and jnp.isfinite(jax.grad(loss)(jnp.asarray(x))).all()


@pytest.mark.parametrize("name", FEW)
def test_global_pooling_equals_the_places_that_count(name, rng):
    x, mask, lead = drawn(rng, name)
    lead[0] = True
    lead[1] = False
    mean, largest = ops.global_avg_pool(x, mask), ops.global_max_pool(x, mask)
    for i in range(len(x)):
        places = x[i][lead[i]].reshape(-1, 5)
        np.testing.assert_allclose(mean[i], places.mean(0) if len(places) else np.zeros(5), atol=1e-5)
        np.testing.assert_allclose(largest[i], places.max(0) if len(places) else np.zeros(5))
    for pool in (ops.global_avg_pool, ops.global_max_pool):
        assert jnp.isfinite(jax.grad(lambda x, pool=pool: jnp.square(pool(x, mask)).sum())(x)).all()
        np.testing.assert_allclose(pool(x, np.ones_like(mask)), pool(x), atol=1e-6)
    assert ops.global_avg_pool(jnp.asarray(x, jnp.bfloat16), mask).dtype == jnp.bfloat16


@pytest.mark.parametrize(
    "shape", [(), (4,), (1,), (8, 3), (8, 4, 4), (8, 4, 1, 3), (8, 4, 3, 5), (8, 4, 3, 1, 1), (8, 1, 3), (4, 3)]
)
def test_masks_of_another_shape_are_refused(shape):
    x, mask = jnp.ones((8, 4, 3, 5)), jnp.ones(shape)
    for use in (
        lambda: applied(norm_variables(5, np.random.default_rng(0)), x, mask),
        lambda: BatchNorm().apply(norm_variables(5, np.random.default_rng(0)), x, train=False, mask=mask),
        lambda: ops.global_avg_pool(x, mask),
        lambda: ops.global_max_pool(x, mask),
    ):
        with pytest.raises(InputError) as refused:
            use()
        assert f"mask shape {shape}" in str(refused.value) and "\n" not in str(refused.value)


def test_axes_of_one_element_are_read_from_the_front():
    assert align_mask(jnp.ones((8, 1)), jnp.ones((8, 1, 3, 5))).shape == (8, 1, 1, 1)
    assert align_mask(jnp.ones((8, 1)), jnp.ones((8, 5))).shape == (8, 1)
    assert align_mask(jnp.ones((8, 4, 1)), jnp.ones((8, 4, 3, 5))).shape == (8, 4, 1, 1)


@pytest.mark.parametrize("module", [pytest.param(SqueezeExcite(2), marks=pytest.mark.slow), CBAM(2)])
def test_attention_over_channels_leaves_masked_places_out(module, rng):
    x = rng.normal(size=(2, 4, 3, 5)).astype(np.float32)
    mask = np.ones((2, 4, 3), np.float32)
    mask[:, :, 2] = 0
    variables = module.init(jax.random.key(0), x, train=False)
    other = np.where(mask[..., None] > 0, x, 7).astype(np.float32)
    shared = lambda x, mask: module.apply(variables, x, train=False, mask=mask)[:, 1, 0]
    if isinstance(module, SqueezeExcite):
        np.testing.assert_allclose(
            shared(other, mask), module.apply(variables, x[:, :, :2], train=False)[:, 1, 0], rtol=1e-5
        )
    rows = module.apply(variables, x, train=False, mask=np.ones(2))
    np.testing.assert_allclose(rows, module.apply(variables, x, train=False), rtol=1e-6)
    assert not np.allclose(
        module.apply(variables, other, train=False), module.apply(variables, other, train=False, mask=mask)
    )
