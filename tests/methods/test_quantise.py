"""Rounding to 8-bit integers: values and derivatives, where arrays are rounded, grids, and training that sees it."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.traverse_util import flatten_dict

import jaxcnn as jc
from jaxcnn import InputError
from jaxcnn.methods import quantise, quantise_points
from jaxcnn.ops.quantise import fake_quantise, fake_quantise_kernel
from tests.fixtures import pseudo
from tests.small import rows, task

GRID = np.array([0.5, 3], np.float32)  # values -1.5 to 126


def test_values_and_derivative_of_a_rounding():
    x = jnp.array([-9.0, -1.5, -0.25, 0.0, 0.25, 0.75, 0.8, 126.0, 999.0])
    np.testing.assert_array_equal(fake_quantise(x, GRID), [-1.5, -1.5, 0, 0, 0, 1, 1, 126, 126])  # halves to even
    slope = jax.grad(lambda x: fake_quantise(x, GRID).sum())(x)
    np.testing.assert_array_equal(slope, [0, 1, 1, 1, 1, 1, 1, 1, 0])
    _, pushed = jax.jvp(lambda x: fake_quantise(x, GRID), (x,), (2 * jnp.ones_like(x),))
    np.testing.assert_array_equal(pushed, 2 * slope)
    once = fake_quantise(x * 0.37, GRID)
    np.testing.assert_array_equal(fake_quantise(once, GRID), once)
    assert fake_quantise(x.astype(jnp.bfloat16), GRID).dtype == jnp.bfloat16


def test_a_kernel_has_a_step_for_each_channel_which_norms_do_not_change():
    kernel = np.random.default_rng(0).standard_normal((3, 3, 4, 5)).astype(np.float32)
    kernel[..., 2] = 0
    got = np.asarray(fake_quantise_kernel(jnp.asarray(kernel)))
    step = np.abs(kernel).max((0, 1, 2)) / 127
    want = np.round(kernel / np.where(step > 0, step, 1)) * step
    np.testing.assert_allclose(got, want, atol=1e-6)
    factor = np.array([0.3, -2, 7, 1e-3, -5], np.float32)  # of a norm behind the convolution
    np.testing.assert_allclose(fake_quantise_kernel(jnp.asarray(kernel * factor)), got * factor, rtol=1e-5, atol=1e-9)
    slope = jax.grad(lambda k: (fake_quantise_kernel(k) * kernel).sum())(jnp.asarray(kernel))
    np.testing.assert_allclose(slope, kernel, rtol=1e-6)


class Kinds(nn.Module):
    """A result before GELU, one whose maximum is taken, a sum, a result for two readers, and a last convolution."""

    @nn.compact
    def __call__(self, x, *, train=False):
        def conv(name, x):
            return jc.layers.Conv(4, name=name)(x)

        x = nn.gelu(jc.layers.BatchNorm(name="norm")(conv("before_gelu", x), train=train))
        x = jc.ops.max_pool(nn.relu(conv("pooled", x)))
        y = jc.layers.ConvNorm(4, name="block")(x, train=train)
        x = nn.relu(conv("summed", y) + y)
        return conv("last", x)


def test_where_a_network_is_rounded():
    x = np.zeros((1, 8, 8, 4), np.float32)
    variables = Kinds().init(jax.random.key(0), x)
    found = quantise_points.find(lambda v, b: Kinds().apply(v, b["x"]), variables, {"x": x})
    assert found.made == {("norm",), ("block",), ("summed",)}
    assert found.read == {
        ("before_gelu",): None, ("pooled",): None, ("block", "conv"): None, ("summed",): ("block",), ("last",): None,
    }  # fmt: skip


@pytest.mark.parametrize("name, made, tied", [("resnet20", 27, 18), ("cnn", 4, 3), ("speednet", 6, 0)])
def test_convolutions_of_networks_read_and_make_what_is_rounded(name, made, tied):
    model = jc.models.MODELS[name](num_classes=10, **({"width": 4} if name == "resnet20" else {}))
    shape = model.default_image
    variables = pseudo.variables(model, shape)
    x = np.zeros((1, *shape), np.float32)
    found = quantise_points.find(lambda v, b: model.apply(v, b["x"], train=False), variables, {"x": x})
    assert sum(source is not None for source in found.read.values()) == tied, found
    assert len(found.made) == made, found
    assert {path[-1] for path in found.read} <= {"conv", "conv1", "conv2", "logits"}


def test_grids_cover_what_matters_and_hold_zero():
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 3, (64, 6)).astype(np.float32)
    model = jc.layers.Dense(2)
    variables = model.init(jax.random.key(0), x)
    predict = lambda v, b: model.apply(v, b["x"])

    def grid(x):
        (found,) = flatten_dict(quantise.calibrate(predict, variables, {"x": x}, batch_size=500)["grids"]).values()
        return np.asarray(found)

    step, zero = grid(x)
    assert step == pytest.approx(4 / 255, rel=0.05) and zero == pytest.approx(64, abs=2) and zero == round(zero)
    tailed = rng.standard_t(2, (2048, 6)).astype(np.float32)
    wide = np.array([np.ptp(tailed) / 255, np.round(-tailed.min() / (np.ptp(tailed) / 255))], np.float32)
    gaps = [float(np.square(fake_quantise(jnp.asarray(tailed), g) - tailed).sum()) for g in (grid(tailed), wide)]
    assert gaps[0] < 0.99 * gaps[1] and grid(tailed)[0] < wide[0]  # the many matter more than the few
    assert grid(np.abs(x) + 5)[1] == 0 and grid(-np.abs(x) - 5)[1] == 255 and grid(0 * x).tolist() == [1, 0]


def test_grids_that_cannot_be_chosen():
    t, data = task(), rows(8).arrays
    variables = t.init(jax.random.key(0), data)
    with pytest.raises(InputError, match="rows: 0"):
        quantise.calibrate(t.predict, variables, {"image": data["image"][:0]})
    with pytest.raises(InputError, match="arrays of 1 and 8 rows"):
        quantise.calibrate(t.predict, variables, {**data, "label": data["label"][:1]})
    pixels = np.float32(data["image"])
    with pytest.raises(InputError, match="floats must be in 0..1"):
        quantise.calibrate(t.predict, variables, {"image": pixels})
    pixels = pixels / 255
    pixels[5, 0, 0, 0] = np.nan  # in the second batch
    with pytest.raises(InputError, match="not finite"):
        quantise.calibrate(lambda v, b: t.predict(v, b), variables, {"image": pixels}, batch_size=4)
    with pytest.raises(InputError, match="nothing to quantise"):
        quantise.calibrate(lambda v, b: b["image"] * 2.0, variables, data)
    broken = jax.tree.map(lambda x: x * jnp.nan, variables)
    with pytest.raises(InputError, match="not finite"):
        quantise.calibrate(t.predict, broken, data)
    with pytest.raises(InputError, match="no 'grids'"):
        quantise.simulated(t.predict)(variables, data)
    with pytest.raises(InputError, match="no 'grids'"):
        quantise.quantised(t).loss(variables["params"], {"batch_stats": variables["batch_stats"]}, data, None)


def test_training_with_roundings_learns_and_is_what_is_predicted():
    t, data = task(), rows(96)
    q, tx = quantise.quantised(t), optax.adam(1e-2)
    fresh = q.init(jax.random.key(0), data.example())
    variables = quantise.calibrate(t.predict, t.init(jax.random.key(0), data.example()), data.arrays)
    assert jax.tree.structure(fresh) == jax.tree.structure(variables)
    assert all(np.isnan(x).all() for x in jax.tree.leaves(fresh["grids"]))
    ev = jc.compile_step(jc.make_eval_step(q), "jit")
    before = jc.evaluate(ev, variables, data)
    state = jc.init_state(q, tx, data.example(), variables=variables)
    fitted = jc.fit(jc.compile_step(jc.make_train_step(q, tx), "jit"), state, data, batch_size=32, steps=30, log=None)
    after = jc.evaluate(ev, fitted.state.variables, data)
    assert after["loss"] < 0.5 * before["loss"]
    for old, new in zip(
        jax.tree.leaves(variables["grids"]), jax.tree.leaves(fitted.state.model_state["grids"]), strict=True
    ):
        np.testing.assert_array_equal(old, new)
    moved = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), variables["params"], fitted.state.params)
    assert min(jax.tree.leaves(moved)) > 0
    plain = t.predict({k: v for k, v in fitted.state.variables.items() if k != "grids"}, data.arrays)
    rounded = q.predict(fitted.state.variables, data.arrays)
    gap = float(jnp.abs(plain - rounded).max() / jnp.abs(plain).max())
    assert 0 < gap < 0.1
