"""Networks for time series: padding changes nothing, no output reads the future, and both modes of derivatives work."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn import models
from jaxcnn.core.types import InputError

SMALL = {
    "inception_time": {"num_classes": 3, "filters": 2, "depth": 3, "kernel_sizes": (6, 3), "bottleneck": 2},
    "series_resnet": {"num_classes": 3, "widths": (2, 3), "kernel_sizes": (4, 3)},
    "tcn": {"horizon": 2, "quantiles": 3, "widths": (3, 4), "kernel_size": 2},
}


def made(name, steps=9, channels=2, rows=3):
    model = models.SERIES[name](**SMALL[name])
    x = jax.random.normal(jax.random.key(1), (rows, steps, channels))
    return model, jax.jit(model.init)(jax.random.key(0), x), x


def test_every_network_is_tried():
    assert SMALL.keys() == models.SERIES.keys() and models.NETWORKS.keys() >= models.SERIES.keys()


@pytest.mark.parametrize("name", SMALL)
def test_padding_changes_nothing(name):
    model, variables, x = made(name)
    length = jnp.array([9, 5, 1])
    noise = jnp.where(jnp.arange(9)[None, :, None] < length[:, None, None], x, jnp.nan)
    apply = jax.jit(model.apply)  # eagerly, every operation of every shape would be compiled alone
    found = apply(variables, noise, length=length)
    longer = jnp.pad(noise, ((0, 0), (0, 6), (0, 0)), constant_values=7)
    np.testing.assert_allclose(apply(variables, longer, length=length), found, rtol=1e-5, atol=1e-6)
    for row, n in enumerate(length.tolist()):
        alone = apply(variables, x[row : row + 1, :n])
        np.testing.assert_allclose(found[row : row + 1], alone, rtol=1e-5, atol=1e-6)
    assert np.ptp(np.asarray(found)) > 0


@pytest.mark.parametrize("name", ["inception_time", pytest.param("series_resnet", marks=pytest.mark.slow)])
def test_padding_does_not_count_in_the_statistics_of_norms(name):
    model, variables, x = made(name)
    length, row_mask = jnp.array([4, 4, 9]), jnp.array([1, 1, 0])

    @jax.jit
    def trained(x, **options):
        return model.apply(variables, x, train=True, mutable=["batch_stats"], **options)

    logits, state = trained(x, length=length, row_mask=row_mask)
    alone, expected = trained(x[:2, :4])
    np.testing.assert_allclose(logits[:2], alone, rtol=1e-4, atol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), state, expected)


def test_no_output_of_the_tcn_reads_a_later_step():
    model, variables, x = made("tcn", rows=16)

    def blocks(one):
        return model.apply(variables, one[None], method="features")["block2"][0].sum(-1)  # [T]

    for derivative in (jax.jacrev, jax.jacfwd):
        reads = np.abs(np.asarray(jax.jit(jax.vmap(derivative(blocks)))(x))).sum((0, -1)) > 0  # [T, T], output by input
        assert not np.triu(reads, 1).any()
        seen = 1 + 2 * (2 - 1) * (2**2 - 1)
        assert reads[8, 9 - seen :].all() and not reads[8, : 9 - seen].any()


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n == "series_resnet")) for n in SMALL])
def test_derivatives_agree_in_both_modes_and_reach_every_parameter(name):
    model, variables, x = made(name)
    rest = {k: v for k, v in variables.items() if k != "params"}

    def loss(params):
        out = model.apply({"params": params, **rest}, x, train=True, length=jnp.array([9, 7, 8]), mutable=list(rest))
        return jnp.square(out[0] - 1).sum()

    gradient = jax.jit(jax.grad(loss))(variables["params"])
    for path, leaf in jax.tree.leaves_with_path(gradient):
        assert np.isfinite(leaf).all() and np.abs(leaf).max() > 0, path
    direction = jax.tree.map(lambda p: jnp.cos(jnp.arange(p.size, dtype=p.dtype)).reshape(p.shape), gradient)
    forward = jax.jit(lambda p, d: jax.jvp(loss, (p,), (d,))[1])(variables["params"], direction)
    backward = sum(jnp.vdot(a, b) for a, b in zip(*map(jax.tree.leaves, (gradient, direction)), strict=True))
    np.testing.assert_allclose(forward, backward, rtol=1e-3)


def test_impossible_lengths_are_nan():
    for name in SMALL:
        model, variables, x = made(name)
        found = np.asarray(jax.jit(model.apply)(variables, x, length=jnp.array([0, 10, 9]))).reshape(3, -1)
        assert np.isnan(found[:2]).all() and np.isfinite(found[2]).all()


def test_published_sizes():
    """Counted by hand from the papers' layers, with one channel and one class."""

    def parameters(model, x):
        shapes = jax.eval_shape(model.init, jax.random.key(0), x)["params"]
        return sum(leaf.size for leaf in jax.tree.leaves(shapes))

    x = jax.ShapeDtypeStruct((1, 64, 1), jnp.float32)
    first, later = 32 * 70 + 32 + 256, 128 * 32 + 32 * 32 * 70 + 128 * 32 + 256
    assert parameters(models.inception_time(5), x) == first + 5 * later + (128 + 256) + (128**2 + 256) + 129 * 5
    assert parameters(models.series_resnet(5), x) == (
        64 * 8 + 64 * 64 * 8 + 128 * 3 + 64 + 128  # the first block with its shortcut
        + 64 * 128 * 8 + 128 * 128 * 8 + 256 * 3 + 64 * 128 + 256
        + 128 * 128 * 16 + 256 * 3 + 128 * 128 + 256 + 129 * 5
    )  # fmt: skip


def test_wrong_inputs_are_refused_in_one_line():
    model, variables, x = made("inception_time")
    for series, length in ((x[..., 0], None), (x.astype(int), None), (x, jnp.ones(2, int)), (x, jnp.ones(3))):
        with pytest.raises(InputError, match="must be"):
            model.apply(variables, series, length=length)
    for make in (
        lambda: models.inception_time(2, depth=0),
        lambda: models.inception_time(2, kernel_sizes=()),
        lambda: models.series_resnet(2, widths=(0,)),
        lambda: models.tcn(0),
        lambda: models.tcn(1, 3, widths=(1,) * 25),
    ):
        with pytest.raises(InputError):
            make()
