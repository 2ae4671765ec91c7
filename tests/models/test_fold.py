"""Folding batch norms into convolutions: the same predictions, without the norms that can go."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcnn as jc
from jaxcnn.layers import BatchNorm, Conv


def trained(model, image):
    """Variables with statistics, factors and biases that differ per channel, some of the factors negative."""
    variables = jax.jit(lambda key: model.init(key, image, train=False))(jax.random.key(0))
    keys = iter(jax.random.split(jax.random.key(1), 1000))
    moved = jax.tree.map(lambda x: x + 0.1 * jax.random.normal(next(keys), x.shape), variables)
    return {**moved, "batch_stats": jax.tree.map(lambda x: jnp.abs(x) + 0.5, moved["batch_stats"])}


def both(model, image):
    variables = trained(model, image)
    apply, folded = jc.models.fold_batchnorm(model, variables, image)
    want = jax.jit(lambda v, x: model.apply(v, x, train=False))(variables, image)
    return np.asarray(want), np.asarray(jax.jit(apply)(folded, image)), folded


def names(tree):
    return [[key.key for key in path] for path, _ in jax.tree_util.tree_leaves_with_path(tree)]


@pytest.mark.parametrize(
    "name, size",
    [("resnet20", 16), ("cnn", 28), ("cbam_resnet20", 16), ("mobilenet_v3_small", 40), ("densenet121", 40)],
)
def test_predictions_stay(name, size):
    model = jc.models.MODELS[name](num_classes=5)
    channels = 1 if name == "cnn" else 3
    want, got, folded = both(model, jax.random.normal(jax.random.key(2), (2, size, size, channels)))
    np.testing.assert_allclose(got, want, atol=2e-5 * np.abs(want).max())
    assert "batch_stats" not in folded
    if name == "resnet20":  # each norm follows a convolution
        assert not any(path[-1] == "scale" for path in names(folded))


class Odd(nn.Module):
    """A result that something else reads, a pooled one, a convolution that is used twice, and a norm of the input."""

    @nn.compact
    def __call__(self, x, *, train):
        def norm(x, name):
            return BatchNorm(name=name)(x, train=train)

        x = norm(x, "first")
        y = Conv(4, name="read_twice")(x)
        x = norm(y, "of_read_twice") + y
        x = norm(Conv(4, pool=2, name="pooled")(x), "of_pooled")
        twice = Conv(4, name="twice")
        x = norm(twice(x), "of_twice") + norm(twice(nn.relu(x)), "of_twice_again")
        return norm(Conv(4, use_bias=True, name="free")(x), "of_free")


def test_what_cannot_be_folded_stays():
    want, got, folded = both(Odd(), jax.random.normal(jax.random.key(2), (2, 8, 8, 3)))
    np.testing.assert_allclose(got, want, atol=1e-5 * np.abs(want).max())
    kept = {path[1] for path in names(folded) if path[-1] == "scale"}
    assert kept == {"first", "of_read_twice", "of_pooled", "of_twice", "of_twice_again"}


class SharedNorm(nn.Module):
    """One norm after two convolutions, and a norm of Flax's own."""

    @nn.compact
    def __call__(self, x, *, train):
        norm = BatchNorm(name="shared")
        x = norm(Conv(4, name="one")(x), train=train) + norm(Conv(4, name="two")(x), train=train)
        return nn.BatchNorm(use_running_average=not train, name="other")(Conv(4, name="three")(x))


def test_a_shared_norm_and_norms_of_other_libraries_stay():
    want, got, folded = both(SharedNorm(), jax.random.normal(jax.random.key(2), (2, 8, 8, 3)))
    np.testing.assert_allclose(got, want, atol=1e-5 * np.abs(want).max())
    assert ["params", "shared", "scale"] in names(folded) and list(folded["batch_stats"]) == ["other"]


def test_a_network_without_statistics_is_refused():
    model, image = jc.models.lenet5(), np.zeros((1, 28, 28, 1), np.float32)
    variables = jax.eval_shape(lambda key: model.init(key, image, train=False), jax.random.key(0))
    with pytest.raises(jc.InputError, match="no 'batch_stats'"):
        jc.models.fold_batchnorm(model, variables, image)
