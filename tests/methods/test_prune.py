"""Pruning: of single weights against NumPy, gradually in training, and of whole filters."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

import jaxcnn as jc
from jaxcnn import InputError
from jaxcnn.methods import narrowed, prune
from tests.fixtures import pseudo
from tests.small import rows, task


def kernels(params):
    return {path: np.asarray(x) for path, x in flatten_dict(params).items() if path[-1] == "kernel"}


@pytest.mark.parametrize("scope", prune.SCOPES)
def test_the_smallest_weights_go(scope):
    rng = np.random.default_rng(0)
    params = {
        "a": {"kernel": rng.normal(size=(3, 3, 2, 4)).astype(np.float32), "bias": np.full(4, 1e-9, np.float32)},
        "b": {"kernel": 5 * rng.normal(size=(8, 3)).astype(np.float32)},
    }
    got = prune.magnitude(params, 0.6, scope)
    sizes = {name: np.abs(params[name]["kernel"]) for name in params}
    whole = np.sort(np.concatenate([x.ravel() for x in sizes.values()]))
    for name, x in sizes.items():
        bound = whole[int(0.6 * whole.size) - 1] if scope == "network" else np.sort(x.ravel())[int(0.6 * x.size) - 1]
        np.testing.assert_array_equal(got[name]["kernel"], np.where(x <= bound, 0, params[name]["kernel"]))
    np.testing.assert_array_equal(got["a"]["bias"], params["a"]["bias"])
    assert prune.sparsity(got) == pytest.approx(0.6, abs=0.02)
    assert prune.sparsity(prune.magnitude(params, 0.0, scope)) == 0
    traced = jax.jit(lambda p, s: prune.magnitude(p, s, scope))(params, 0.6)
    jax.tree.map(np.testing.assert_array_equal, traced, got)


def test_sparsity_rises_by_the_cube_and_stays():
    t, data, tx = task(), rows(64), optax.adam(1e-2)
    step = prune.gradual(jc.make_train_step(t, tx), 0.8, begin=2, end=12, every=5)
    state, step, seen = jc.init_state(t, tx, data.example()), jax.jit(step), []
    for k in range(15):
        before = kernels(state.params)
        state, _ = step(state, data.chunk(32, k, 1, 1).at(0))
        seen.append(prune.sparsity(state.params))
        for path, x in kernels(state.params).items():
            assert not x[before[path] == 0].any()
    want = {7: 0.8 * (1 - 0.5**3), 12: 0.8}  # after step 7 and in step 12
    share = 0.0
    for k, found in enumerate(seen, 1):
        share = want.get(k, share)
        assert found == pytest.approx(share, abs=0.01), (k, seen)


def test_the_last_pruning_comes_later_if_its_step_is_skipped():
    t, data, tx = task(), rows(64), optax.sgd(1e-2)
    inner = jc.make_train_step(t, tx)

    def fails(state, batch):
        new, sums = inner(state, batch)
        return new.replace(params=jax.tree.map(lambda p: jnp.where(state.step == 3, jnp.nan, p), new.params)), sums

    step = jax.jit(jc.train.skip_nonfinite(prune.gradual(fails, 0.8, begin=0, end=4, every=4)))
    state, seen = jc.init_state(t, tx, data.example()), []
    for k in range(6):
        state, _ = step(state, data.chunk(32, k, 1, 1).at(0))
        seen.append(prune.sparsity(state.params))
    assert seen[:4] == [0] * 4 and seen[4] == seen[5] == pytest.approx(0.8, abs=0.01)


@pytest.mark.parametrize(
    "make, line",
    [
        (lambda: prune.magnitude({"kernel": jnp.ones((2, 2))}, np.float32(1.5)), "sparsity=1.5"),
        (lambda: prune.magnitude({"kernel": jnp.ones((2, 2))}, jnp.float32(-1)), "sparsity=-1.0"),
        (lambda: prune.magnitude({"kernel": jnp.ones((2, 2))}, 1.0), "sparsity=1.0"),
        (lambda: prune.magnitude({"kernel": jnp.ones((2, 2))}, 0.5, "all"), "scope='all'"),
        (lambda: prune.magnitude({"bias": jnp.ones(2)}, 0.5), "no kernels"),
        (lambda: prune.magnitude({"kernel": jnp.full((2, 2), jnp.nan)}, 0.5), "a weight is NaN"),
        (lambda: prune.gradual(None, 1.0, begin=0, end=5), "final=1.0"),
        (lambda: prune.gradual(None, 0.5, begin=5, end=5), "begin=5, end=5"),
        (lambda: prune.gradual(None, 0.5, begin=0, end=5, every=0), "every=0"),
        (
            lambda: prune.gradual(None, 0.5, begin=0.1, end=0.7),
            "begin=0.1, end=0.7, every=100: must be numbers of steps",
        ),
        (lambda: prune.gradual(None, 0.5, begin=0, end=np.inf), "end=inf"),
        (lambda: narrowed(jc.models.cnn(), {}, np.zeros((1, 28, 28, 1)), 0.0), "keep=0.0"),
        (lambda: narrowed(jc.layers.Dense(3), {}, np.zeros((1, 4))), "no field"),
    ],
)
def test_what_is_refused(make, line):
    with pytest.raises(InputError, match=line):
        make()


NETWORKS = {
    "cnn": ((28, 28, 1), {"widths": (4, 6, 8, 8)}),
    "speednet": ((16, 16, 3), {"widths": (4, 8)}),
    "resnet18": ((32, 32, 3), {"width": 4}),
    "resnet20": ((16, 16, 3), {"width": 4}),
}


def silenced(variables, nested):
    """Variables in which half of the channels of each norm are always 0: the last ones.

    With `nested`, the first half of the channels of a stage are those of the stage before, as in `resnet20`.
    """

    def alive(n):
        return [*alive(n // 2), *range(n // 2, n // 2 + n // 4)] if nested and n > 4 else range(n // 2)

    flat = dict(flatten_dict(variables["params"]))
    for path, x in flat.items():
        if path[-1] in ("scale", "bias") and path[-2].startswith("norm"):
            flat[path] = np.where(np.isin(np.arange(x.size), [*alive(x.size)]), x, 0)
    return {**variables, "params": unflatten_dict(flat)}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_narrower_network_computes_the_same_without_channels_that_are_zero(name):
    shape, options = NETWORKS[name]
    model = jc.models.MODELS[name](num_classes=5, **options)
    variables = silenced(pseudo.variables(model, shape), name == "resnet20")
    x = np.random.default_rng(0).standard_normal((3, *shape)).astype(np.float32)
    small, fewer = narrowed(model, variables, x, 0.5)
    count = lambda tree: sum(x.size for x in jax.tree.leaves(tree["params"]))
    assert count(fewer) < 0.45 * count(variables)
    with jc.ops.native_lowering():
        want, got = (
            jax.jit(lambda v, x, m=m: m.apply(v, x, train=False))(v, x) for m, v in ((model, variables), (small, fewer))
        )
    np.testing.assert_allclose(got, want, atol=1e-5 * np.abs(want).max())


def test_the_whole_network_is_the_same():
    model = jc.models.cnn(widths=(4, 4))
    variables = pseudo.variables(model, (12, 12, 1))
    small, same = narrowed(model, variables, np.zeros((1, 12, 12, 1), np.float32), 1.0)
    assert small.widths == (4, 4)
    jax.tree.map(np.testing.assert_array_equal, same, variables)
