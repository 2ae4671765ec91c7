"""Group normalisation equals its definition, row by row, and leaves masked places out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn import InputError
from jaxcnn.layers import ConvNorm, GroupNorm, LayerNorm
from jaxcnn.models import resnet
from tests.layers.test_blocks import drawn


def by_hand(x, groups, params, mask=None):
    out = np.zeros(x.shape)
    size = x.shape[-1] // groups
    for b in range(len(x)):
        for g in range(0, x.shape[-1], size):
            part = x[b, ..., g : g + size].astype(np.float64)
            kept = part if mask is None else part[mask[b]]
            out[b, ..., g : g + size] = (part - kept.mean()) / np.sqrt(kept.var() + 1e-5)
    return out * params["scale"] + params["bias"]


@pytest.mark.parametrize("shape, groups, used", [((2, 5, 4, 12), 4, 4), ((3, 7, 6), 32, 2), ((2, 3, 3, 2, 5), 1, 1)])
def test_it_equals_numpy_far_from_zero(shape, groups, used, rng):
    x = rng.normal(100, 1, shape).astype(np.float32)
    module = GroupNorm(groups)
    variables = drawn(module, x, rng)
    np.testing.assert_allclose(module.apply(variables, x), by_hand(x, used, variables["params"]), atol=2e-4)
    assert module.apply(variables, x.astype(jnp.bfloat16)).dtype == jnp.bfloat16


def test_masked_places_have_no_effect_whatever_they_hold(rng):
    x, mask = rng.normal(3, 2, (3, 4, 5, 6)).astype(np.float32), rng.random((3, 4, 5)) < 0.6
    mask[2] = False
    module = GroupNorm(2)
    variables = drawn(module, x, rng)
    broken = np.where(mask[..., None], x, np.nan)
    y = module.apply(variables, broken, mask=mask)
    expected = by_hand(x[:2], 2, variables["params"], mask[:2])
    np.testing.assert_allclose(y[:2][mask[:2]], expected[mask[:2]], atol=1e-5)
    loss = lambda x: jnp.square(module.apply(variables, x, mask=mask)).sum()
    assert jnp.isfinite(y).all() and jnp.isfinite(jax.grad(loss)(jnp.asarray(broken))).all()


def test_it_stands_in_for_batch_norm(rng):
    x = rng.normal(size=(2, 6, 6, 3)).astype(np.float32)
    module = ConvNorm(8, norm=GroupNorm)
    variables = module.init(jax.random.key(0), x, train=False)
    assert list(variables) == ["params"]
    alone = module.apply(variables, x[:1], train=True)
    masked = module.apply(variables, x, train=True, row_mask=jnp.array([1.0, 0.0]))
    np.testing.assert_allclose(masked[:1], alone, atol=1e-6)  # rows do not mix
    with pytest.raises(InputError, match="groups=0: must be at least 1"):
        GroupNorm(0).init(jax.random.key(0), x)


@pytest.mark.parametrize("norm", [GroupNorm, LayerNorm])
def test_a_residual_block_may_begin_as_the_identity(norm):
    model = resnet.ResNet(2, (1,), False, cifar_stem=True, width=4, zero_init_residual=True, norm=norm)
    params = model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))["params"]["stages_0_0"]
    assert params["conv1"]["norm"]["scale"].all() and not params["conv2"]["norm"]["scale"].any()
