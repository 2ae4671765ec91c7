"""The parts of networks besides convolutions: attention over channels and positions, norms, stochastic depth."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn import InputError, ops
from jaxcnn.layers import CBAM, DropPath, LayerNorm, LayerScale, SqueezeExcite


def drawn(module, x, rng, **options):
    """Variables with numbers that are all different."""
    shapes = jax.eval_shape(lambda key: module.init(key, x, **options), jax.random.key(0))
    draw = lambda s: rng.uniform(0.2, 1.0, s.shape).astype(np.float32) * rng.choice([-1, 1], s.shape)
    variables = jax.tree.map(draw, shapes)
    if "batch_stats" in variables:
        variables["batch_stats"] = jax.tree.map(np.abs, variables["batch_stats"])
    return variables


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def mixed(p, pooled):
    hidden = np.maximum(pooled @ p["reduce"]["kernel"].reshape(pooled.shape[-1], -1) + p["reduce"]["bias"], 0)
    return hidden @ p["expand"]["kernel"].reshape(hidden.shape[-1], -1) + p["expand"]["bias"]


def test_squeeze_and_excitation_by_hand(rng):
    x = rng.normal(size=(2, 5, 4, 6)).astype(np.float32)
    module = SqueezeExcite(3)
    variables = drawn(module, x, rng)
    gate = sigmoid(mixed(variables["params"], x.mean((1, 2))))
    np.testing.assert_allclose(module.apply(variables, x), x * gate[:, None, None], rtol=1e-5)


def test_cbam_by_hand(rng):
    x = rng.normal(size=(2, 9, 8, 6)).astype(np.float32)
    module = CBAM(3)
    variables = drawn(module, x, rng, train=False)
    p, stats = variables["params"], variables["batch_stats"]["places"]["norm"]
    gate = sigmoid(mixed(p, x.mean((1, 2))) + mixed(p, x.max((1, 2))))
    y = x * gate[:, None, None]
    both = np.pad(np.stack([y.mean(-1), y.max(-1)], -1), ((0, 0), (3, 3), (3, 3), (0, 0)))
    kernel = p["places"]["conv"]["kernel"][..., 0]  # [7, 7, 2]
    seen = np.array(
        [[[np.sum(both[b, i : i + 7, j : j + 7] * kernel) for j in range(8)] for i in range(9)] for b in range(2)]
    )
    norm = p["places"]["norm"]
    places = sigmoid((seen - stats["mean"]) / np.sqrt(stats["var"] + 1e-5) * norm["scale"] + norm["bias"])
    np.testing.assert_allclose(module.apply(variables, x, train=False), y * places[..., None], rtol=2e-4, atol=1e-5)


def test_layer_norm_equals_numpy_far_from_zero(rng):
    x = rng.normal(1000, 1, (3, 4, 16)).astype(np.float32)
    module = LayerNorm()
    variables = drawn(module, x, rng)
    wide = x.astype(np.float64)
    expected = (wide - wide.mean(-1, keepdims=True)) / np.sqrt(wide.var(-1, keepdims=True) + 1e-6)
    expected = expected * variables["params"]["scale"] + variables["params"]["bias"]
    np.testing.assert_allclose(module.apply(variables, x), expected, atol=2e-4)
    assert module.apply(variables, x.astype(jnp.bfloat16)).dtype == jnp.bfloat16


def test_layer_scale_begins_small(rng):
    x = rng.normal(size=(2, 3, 4)).astype(np.float32)
    np.testing.assert_allclose(LayerScale(0.25).init_with_output(jax.random.key(0), x)[0], x / 4)


def test_stochastic_depth_drops_whole_rows():
    x = jnp.ones((400, 3, 2))
    y = np.asarray(DropPath(0.25).apply({}, x, train=True, rngs={"dropout": jax.random.key(0)}))
    rows = y.reshape(400, -1)
    assert set(np.unique(rows)) == {0.0, np.float32(1 / 0.75)} and (np.ptp(rows, 1) == 0).all()
    assert 0.68 < (rows[:, 0] > 0).mean() < 0.82
    np.testing.assert_array_equal(DropPath(0.25).apply({}, x, train=False), x)
    with pytest.raises(InputError, match="drop_path=1.0: must be at least 0 and below 1"):
        DropPath(1.0).apply({}, x, train=False)


@pytest.mark.parametrize("n", [1, 3, 7, 12, 15])
@pytest.mark.parametrize("size", [1, 4, 7])
def test_adaptive_pooling_equals_means_of_slices(n, size, rng):
    x = rng.normal(size=(2, n, 5, 3)).astype(np.float32)
    first, last = [i * n // size for i in range(size)], [-(-(i + 1) * n // size) for i in range(size)]
    expected = np.stack([x[:, a:b].mean(1) for a, b in zip(first, last, strict=True)], 1)
    np.testing.assert_allclose(ops.adaptive_avg_pool(x, (size, 5)), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("window, stride, padding", [(3, 2, 0), (2, 2, 0), (3, 1, 1), (3, 2, 1), (2, 3, 1)])
def test_windows_that_hang_over(window, stride, padding, rng):
    """The rule of PyTorch's `ceil_mode`: rounded up, but the last window begins inside or in the padding before."""
    for n in (window, 7, 8, 12, 15):
        x = rng.normal(size=(1, n, 1)).astype(np.float32)
        count = -(-(n + 2 * padding - window) // stride) + 1
        count -= (count - 1) * stride >= n + padding
        starts = [i * stride - padding for i in range(count)]
        expected = [x[0, max(s, 0) : s + window, 0].max() for s in starts]
        np.testing.assert_array_equal(
            ops.max_pool(x, window, strides=stride, padding=padding, ceil=True)[0, :, 0], expected
        )
    assert ops.max_pool(jnp.ones((1, 2, 1)), 3, strides=2, ceil=True).shape == (1, 1, 1)
    with pytest.raises(InputError, match="smaller than the window"):
        ops.max_pool(jnp.ones((1, 1, 1)), 3, strides=2, ceil=True)
