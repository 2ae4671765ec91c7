"""Every model of the zoo: shape, size, gradients, and that nothing depends on how it is called."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import parameterized

from jaxcnn import InputError
from jaxcnn.models import MODELS
from jaxcnn.tasks import classification

SIZE, CLASSES = 28, 10


def dense(*widths):
    return sum(a * b + b for a, b in zip(widths, widths[1:], strict=False))


def cnn_size(widths):
    """No biases before a norm, which has a scale and a bias; the head sees a mean and a maximum."""
    kernels = 5 * 5 * widths[0] + sum(3 * 3 * a * b for a, b in zip(widths, widths[1:], strict=False))
    return kernels + 2 * sum(widths) + dense(2 * widths[-1], CLASSES)


PARAMETERS = {
    "cnn": cnn_size(MODELS["cnn"]().widths),
    "lenet5": 61_706,
    "mlp": dense(SIZE * SIZE, 256, 128, CLASSES),
    "tutorial": 693_962,
}


@functools.cache
def images(channels=1):
    return np.random.default_rng(0).integers(0, 256, (4, SIZE, SIZE, channels), np.uint8)


@functools.cache
def ran(name):
    """Variables and everything a compiled model gives, from one compilation."""
    model = MODELS[name](CLASSES)
    task = classification(model)
    batch = {"image": jnp.asarray(images()), "label": jnp.arange(4)}

    @functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})  # half the time to compile
    def run(batch):
        variables = task.init(jax.random.key(0), batch)
        params, state = variables["params"], {k: v for k, v in variables.items() if k != "params"}
        grads = jax.grad(lambda p: task.loss(p, state, batch, jax.random.key(1))[0].total)(params)
        floats = {"image": batch["image"].astype(jnp.float32) / 255}
        features = model.apply(variables, floats["image"], method="features")
        out = {
            "logits": task.predict(variables, batch),
            "from_floats": task.predict(variables, floats),
            "features": features,
            "head": model.apply(variables, features, method="head"),
            "grads": grads,
        }
        return variables, out

    return model, task, *run(batch)


@pytest.mark.parametrize("name", MODELS)
def test_logits_are_finite_and_of_the_right_shape(name):
    _, _, _, out = ran(name)
    chex.assert_shape(out["logits"], (4, CLASSES))
    assert out["logits"].dtype == jnp.float32
    chex.assert_tree_all_finite(out)
    assert np.ptp(out["logits"], 0).min() > 0  # no logit is the same for every image


@pytest.mark.parametrize("name", MODELS)
def test_parameter_count(name):
    _, _, variables, _ = ran(name)
    assert sum(p.size for p in jax.tree.leaves(variables["params"])) == PARAMETERS[name]


@pytest.mark.parametrize("name", MODELS)
def test_every_parameter_gets_a_gradient(name):
    _, _, variables, out = ran(name)
    chex.assert_trees_all_equal_shapes_and_dtypes(out["grads"], variables["params"])
    for path, grad in jax.tree_util.tree_leaves_with_path(out["grads"]):
        assert np.abs(grad).max() > 1e-6, jax.tree_util.keystr(path)


@pytest.mark.parametrize("name", MODELS)
def test_features_and_head_are_the_model(name):
    _, _, _, out = ran(name)
    chex.assert_trees_all_close(out["head"], out["logits"], rtol=1e-5, atol=1e-6)
    assert len(out["features"]) >= 1 and all(f.shape[0] == 4 for f in out["features"].values())


@pytest.mark.parametrize("name", MODELS)
def test_bytes_and_floats_give_the_same(name):
    _, _, _, out = ran(name)
    chex.assert_trees_all_close(out["from_floats"], out["logits"], rtol=1e-6, atol=1e-6)


class EagerTest(chex.TestCase):
    @chex.variants(with_jit=True, without_jit=True)
    @parameterized.parameters(*MODELS)
    def test_jit_equals_eager_and_twice_is_once(self, name):
        _, task, variables, out = ran(name)
        predict = self.variant(task.predict)
        once, twice = (predict(variables, {"image": jnp.asarray(images())}) for _ in range(2))
        chex.assert_trees_all_equal(once, twice)
        chex.assert_trees_all_close(once, out["logits"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_options(name):
    model = MODELS[name](3, dropout=0.5, dtype=jnp.bfloat16)
    x = jnp.zeros((2, 32, 32, 3))
    variables = jax.eval_shape(functools.partial(model.init, train=False), jax.random.key(0), x)
    chex.assert_trees_all_equal_dtypes(variables, jax.tree.map(lambda _: jnp.zeros(()), variables))  # kept in float32
    logits = jax.eval_shape(functools.partial(model.apply, train=False), variables, x)
    assert logits.shape == (2, 3)
    rngs = {"dropout": jax.random.key(0)}
    train = functools.partial(model.apply, train=True, rngs=rngs, mutable=["batch_stats"], real=jnp.ones(2))
    assert jax.eval_shape(train, variables, x)[0].shape == (2, 3)


@pytest.mark.parametrize("name", MODELS)
def test_dropout_acts_in_training_alone(name):
    _, _, variables, out = ran(name)
    model, x = MODELS[name](CLASSES, dropout=0.5), jnp.asarray(images(), jnp.float32) / 255
    train = jax.jit(lambda key: model.apply(variables, x, train=True, rngs={"dropout": key}, mutable=["batch_stats"])[0])
    assert (train(jax.random.key(0)) != train(jax.random.key(1))).any()
    chex.assert_trees_all_equal(train(jax.random.key(0)), train(jax.random.key(0)))
    chex.assert_trees_all_close(classification(model).predict(variables, {"image": jnp.asarray(images())}), out["logits"], atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(
    "image, words",
    [
        (jnp.zeros((SIZE, SIZE, 1)), "image shape"),
        (jnp.zeros((2, SIZE, SIZE, 1), jnp.uint8), "image dtype uint8"),
        (jnp.zeros((2, SIZE, SIZE, 3)), "channels"),
    ],
    ids=["rank", "dtype", "channels"],
)
def test_wrong_images_are_refused(name, image, words):
    model, _, variables, _ = ran(name)
    with pytest.raises(InputError) as caught:
        jax.eval_shape(model.apply, variables, image)
    assert words in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["lenet5", "mlp", "tutorial"])
def test_another_image_size_is_refused(name):
    model, _, variables, _ = ran(name)
    with pytest.raises(InputError, match="inputs to a dense layer"):
        jax.eval_shape(model.apply, variables, jnp.zeros((2, SIZE + 12, SIZE, 1)))


def test_cnn_takes_any_size():
    model, _, variables, _ = ran("cnn")
    for shape in ((2, 40, 33, 1), (1, 32, 28, 1)):
        assert jax.eval_shape(model.apply, variables, jnp.zeros(shape)).shape == (shape[0], CLASSES)


def test_lenet_pads_to_32_pixels():
    model, _, variables, out = ran("lenet5")
    padded = jnp.pad(jnp.asarray(images(), jnp.float32) / 255, ((0, 0), (2, 2), (2, 2), (0, 0)))
    chex.assert_trees_all_close(jax.jit(model.apply)(variables, padded), out["logits"], atol=1e-5)


def test_tables_are_complete():
    assert set(PARAMETERS) == set(MODELS)
