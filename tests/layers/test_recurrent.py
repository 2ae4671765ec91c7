"""GRU and LSTM: torch's numbers, both kinds of derivatives, and padding that changes nothing."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn import InputError
from jaxcnn.layers import GRU, LSTM
from tests.fixtures.pseudo import tensor

GOLDEN = json.loads((pathlib.Path(__file__).parents[1] / "fixtures/recurrent.json").read_text())
LENGTHS = np.array(GOLDEN["lengths"], np.int32)
KINDS = {"GRU": GRU, "LSTM": LSTM}
CASES = [(kind, both) for kind in KINDS for both in (False, True)]
X = 10 * tensor("x", (3, 5, 4))


def variables_of(kind, both):
    """Weights of torch's layer of this kind, under our names."""
    gates, found = {"GRU": 3, "LSTM": 4}[kind], {}
    for way, end in (("forward", ""), ("backward", "_reverse"))[: 1 + both]:
        for name, short, width in (("input", "ih", 4), ("state", "hh", 3)):
            kernel = tensor(f"{kind} weight_{short}_l0{end}", (gates * 3, width)).T
            bias = tensor(f"{kind} bias_{short}_l0{end}", (gates * 3,))
            found[f"{way}_{name}"] = {"kernel": jnp.asarray(kernel), "bias": jnp.asarray(bias)}
    return {"params": found}


@pytest.mark.parametrize("kind, both", CASES)
def test_values_and_gradients_are_those_of_torch(kind, both):
    model, variables, golden = KINDS[kind](3, both), variables_of(kind, both), GOLDEN[f"{kind} {both}"]
    made = model.init(jax.random.key(0), X)
    assert jax.tree.map(jnp.shape, made) == jax.tree.map(jnp.shape, variables)

    @jax.jit
    def run(variables, x):
        outputs, last = model.apply(variables, x, length=LENGTHS)
        return (outputs**2).sum(), (outputs, last)

    (slopes, slope), (outputs, last) = jax.grad(run, (0, 1), has_aux=True)(variables, X)
    np.testing.assert_allclose(outputs, golden["outputs"], atol=3e-6)
    np.testing.assert_allclose(last, golden["last"], atol=3e-6)
    np.testing.assert_allclose(slope, golden["slope"], atol=2e-5)
    found = slopes["params"]["forward_state"]["kernel"].T
    np.testing.assert_allclose(found, golden["slope_of_state"], atol=2e-5)


@pytest.mark.parametrize("kind, both", CASES)
def test_padding_changes_nothing_and_may_be_nan(kind, both):
    model, variables = KINDS[kind](3, both), variables_of(kind, both)
    rows = np.array([1, 1, 0], np.float32)
    padded = X.copy()
    padded[1, 2:], padded[2] = np.nan, np.nan

    @jax.jit
    def run(variables, x):
        outputs, last = model.apply(variables, x, length=LENGTHS, row_mask=rows)
        return (outputs**2).sum() + last.sum(), (outputs, last)

    (slopes, slope), (outputs, last) = jax.grad(run, (0, 1), has_aux=True)(variables, padded)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves((slopes, slope)))
    assert not outputs[2].any() and not last[2].any() and not outputs[1, 2:].any() and not slope[1, 2:].any()
    alone, end = model.apply(variables, X[1:2, :2])
    np.testing.assert_allclose(outputs[1:2, :2], alone, rtol=1e-6)
    np.testing.assert_allclose(last[1:2], end, rtol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_derivatives_forwards_and_backwards_agree(kind):
    with jax.enable_x64(True):
        model = KINDS[kind](3, True, dtype="float64")
        variables = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), variables_of(kind, True))
        x, v = jnp.asarray(X, jnp.float64), jax.random.normal(jax.random.key(1), X.shape, jnp.float64)

        def run(x):
            return jnp.sin(model.apply(variables, x, length=LENGTHS)[0]).sum()

        value, pushed = jax.jvp(run, (x,), (v,))
        slope = jax.grad(run)(x)
        step = 1e-6
        near = (run(x + step * v) - run(x - step * v)) / (2 * step)
        np.testing.assert_allclose(pushed, (slope * v).sum(), rtol=1e-10)
        np.testing.assert_allclose(pushed, near, rtol=1e-7)
        assert np.isfinite(value)


def test_impossible_input_is_refused_in_one_line_or_becomes_nan():
    model, variables = GRU(3), variables_of("GRU", False)
    with pytest.raises(InputError, match=r"length=6: must be 0 to 5, the number of steps in x"):
        model.apply(variables, X, length=np.array([5, 6, 1]))
    outputs, last = jax.jit(lambda n: model.apply(variables, X, length=n))(np.array([5, 6, -1]))
    assert np.isfinite(outputs[0]).all() and np.isnan(outputs[1:]).all() and np.isnan(last[1:]).all()
    with pytest.raises(InputError, match=r"length of shape \(2,\) and dtype int\d+: must be integers \(3,\), one per"):
        model.apply(variables, X, length=np.array([1, 2]))
    with pytest.raises(InputError, match=r"sequence of shape \(3, 5\) and dtype float32: must be floats \[batch, time"):
        model.apply(variables, X[..., 0])
    with pytest.raises(InputError, match=r"features=0: must be at least 1"):
        GRU(0).init(jax.random.key(0), X)


def test_half_precision_keeps_the_state_wide():
    model, variables = LSTM(3, dtype="bfloat16"), variables_of("LSTM", False)
    outputs, last = model.apply(variables, X)
    exact, _ = LSTM(3).apply(variables, X)
    assert outputs.dtype == last.dtype == jnp.bfloat16
    np.testing.assert_allclose(outputs.astype(np.float32), exact, atol=0.02)
