"""Recipes take the steps that optax's aliases or a pencil give; decay spares biases; schedules pass known points."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxcnn as jc
from jaxcnn import InputError, optim

MASK = {"kernel": True, "bias": False, "norm": {"scale": False}}
RATE, DECAY = 0.1, 0.3
OWN = {
    "sgd": optim.sgd(RATE, momentum=0.9, nesterov=True, weight_decay=DECAY),
    "adam": optim.adam(RATE, b1=0.8, b2=0.9, eps=1e-3, weight_decay=DECAY),
    "adamw": optim.adamw(RATE, b1=0.8, b2=0.9, eps=1e-3, weight_decay=DECAY),
    "lamb": optim.lamb(RATE, b1=0.8, b2=0.9, eps=1e-3, weight_decay=DECAY),
}
REFERENCE = {
    "sgd": optax.chain(optax.add_decayed_weights(DECAY, MASK), optax.sgd(RATE, 0.9, True)),
    "adam": optax.chain(optax.add_decayed_weights(DECAY, MASK), optax.adam(RATE, 0.8, 0.9, 1e-3)),
    "adamw": optax.adamw(RATE, 0.8, 0.9, 1e-3, weight_decay=DECAY, mask=MASK),
    "lamb": optax.lamb(RATE, 0.8, 0.9, 1e-3, weight_decay=DECAY, mask=MASK),
}


def tree(rng):
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
    return {"kernel": draw(3, 2), "bias": draw(2), "norm": {"scale": draw(2)}}


def updated(tx, params, *gradients):
    state = tx.init(params)
    for grads in gradients:
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
    return params, state


def test_the_tables_are_complete():
    assert set(OWN) == set(REFERENCE) == set(optim.OPTIMIZERS)


@pytest.mark.parametrize("name", OWN)
def test_updates_equal_optax(name, rng):
    params, *gradients = tree(rng), tree(rng), tree(rng), tree(rng)
    both = (OWN[name], REFERENCE[name])
    own, reference = (jax.jit(lambda p, *g, tx=tx: updated(tx, p, *g)[0])(params, *gradients) for tx in both)
    chex.assert_trees_all_close(own, reference, rtol=1e-6)


def first_step(name, p, g, decay):
    """The first update of the defaults, worked out by hand: Adam's moments then cancel but for the sign."""
    sign = g / (np.abs(g) + (1e-6 if name == "lamb" else 1e-8))
    if name == "sgd":
        return p - RATE * (g + decay * p)
    if name == "adam":
        return p - RATE * np.sign(g + decay * p)
    step = sign + decay * p
    return p - RATE * step * (np.linalg.norm(p) / np.linalg.norm(step) if name == "lamb" else 1)


@pytest.mark.parametrize("name", optim.OPTIMIZERS)
def test_first_step_by_hand(name, rng):
    params, grads = tree(rng), tree(rng)
    new, _ = updated(optim.OPTIMIZERS[name](RATE, weight_decay=DECAY), params, grads)
    decays = jax.tree.map(lambda decayed: DECAY * decayed, MASK)
    expected = jax.tree.map(lambda p, g, d: first_step(name, np.asarray(p), np.asarray(g), d), params, grads, decays)
    chex.assert_trees_all_close(new, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", optim.OPTIMIZERS)
def test_decay_touches_kernels_alone(name, rng):
    params = tree(rng)
    zero = jax.tree.map(jnp.zeros_like, params)
    new, _ = updated(optim.OPTIMIZERS[name](RATE, weight_decay=DECAY), params, zero)
    chex.assert_trees_all_equal((new["bias"], new["norm"]), (params["bias"], params["norm"]))
    assert (jnp.abs(new["kernel"]) < jnp.abs(params["kernel"])).all()
    still, _ = updated(optim.OPTIMIZERS[name](RATE, weight_decay=0.0), params, zero)
    chex.assert_trees_all_equal(still, params)
    assert optim.decay_mask(params) == MASK


@pytest.mark.parametrize("name", jc.models.MODELS)
def test_decay_touches_the_kernels_of_every_network(name):
    model = jc.models.MODELS[name](num_classes=10)
    image = jax.ShapeDtypeStruct((1, *model.default_image), jnp.float32)
    params = jax.eval_shape(lambda key, x: model.init(key, x, train=False), jax.random.key(0), image)["params"]
    mask = dict(jc.types.named(optim.decay_mask(params)))
    kernels = {path for path in mask if path.split(".")[-1] == "kernel"}
    assert {path for path, decayed in mask.items() if decayed} == kernels
    assert any(mask.values()) and not all(mask.values())


def test_decay_goes_by_name_whatever_the_rank(rng):
    other = {"bias": (3, 4), "scale": (1, 1, 4), "embedding": (9, 4), "positions": (1, 9, 4)}
    other |= {"gamma": (4,), "weight": (4,)}
    kernel = {"kernel": (4, 4), "w": (3, 4), "weight": (3, 4)}
    params = {"a": {k: jnp.zeros(v) for k, v in other.items()}, "b": [{k: jnp.zeros(v)} for k, v in kernel.items()]}
    assert optim.decay_mask(params) == {"a": dict.fromkeys(other, False), "b": [{k: True} for k in kernel]}
    assert optim.decay_mask({"embedding": jnp.zeros((2, 2))}) == {"embedding": False}


@pytest.mark.parametrize("name", optim.OPTIMIZERS)
def test_a_mask_of_ones_own(name):
    params = {"u": jnp.ones((2, 2)), "v": jnp.ones((2, 2))}
    zero = jax.tree.map(jnp.zeros_like, params)
    with pytest.warns(UserWarning, match=r"touches nothing: none of kernel, weight, w among u, v; give mask="):
        optim.OPTIMIZERS[name](RATE, weight_decay=DECAY).init(params)
    for mask in ({"u": True, "v": False}, lambda params: {k: k == "u" for k in params}):
        new, _ = updated(optim.OPTIMIZERS[name](RATE, weight_decay=DECAY, mask=mask), params, zero)
        assert (new["u"] < 1).all() and (new["v"] == 1).all()


@pytest.mark.parametrize("name", optim.OPTIMIZERS)
def test_the_state_of_an_old_run_still_fits(name, rng):
    """Which parameters are decayed is no part of the state: as with the mask by rank that older runs had."""
    params = {**tree(rng), "positions": jnp.ones((1, 2, 2))}
    by_rank = lambda params: jax.tree.map(lambda p: p.ndim > 1, params)
    first, old = (optim.OPTIMIZERS[name](RATE, weight_decay=DECAY, **more) for more in ({}, {"mask": by_rank}))
    assert jax.tree.structure(first.init(params)) == jax.tree.structure(old.init(params))


@pytest.mark.parametrize("scale", [0.5, 4.0])
def test_clipping_bounds_the_global_norm(scale, rng):
    params, grads = tree(rng), tree(rng)
    norm = np.sqrt(sum(float(jnp.square(g).sum()) for g in jax.tree.leaves(grads)))
    new, _ = updated(optim.sgd(1.0, clip=norm * scale), params, grads)
    expected = jax.tree.map(lambda p, g: p - min(scale, 1) * g, params, grads)
    chex.assert_trees_all_close(new, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", optim.OPTIMIZERS)
def test_learning_rate_is_that_of_the_last_update(name, rng):
    params, grads = tree(rng), tree(rng)
    schedule = optim.cosine(0.2, steps=8, warmup=3)
    tx = optim.OPTIMIZERS[name](schedule, weight_decay=0.1, clip=1.0)
    state = tx.init(params)
    assert optim.learning_rate(state) == pytest.approx(schedule(0))
    update = jax.jit(tx.update)
    for k in range(6):
        _, state = update(grads, state, params)
        assert optim.learning_rate(state) == pytest.approx(schedule(k))


def test_the_rate_in_force_scales_the_update(rng):
    params, grads = tree(rng), tree(rng)
    tx = optim.sgd(optim.step(1.0, boundaries={1: 0.5, 2: 0.1}))
    state = tx.init(params)
    for rate in (1.0, 0.5, 0.05):
        updates, state = tx.update(grads, state, params)
        chex.assert_trees_all_close(updates, jax.tree.map(lambda g, rate=rate: -rate * g, grads), rtol=1e-6)
    assert optim.learning_rate(optim.adam(0.3).init(params)) == pytest.approx(0.3)


def test_a_state_without_a_rate_is_refused(rng):
    with pytest.raises(InputError, match="no learning rate"):
        optim.learning_rate(optax.sgd(0.1).init(tree(rng)))


COS = lambda share: (1 + np.cos(np.pi * share)) / 2
SCHEDULES = {  # schedule, step -> rate
    "constant": (optim.constant(0.4), {0: 0.4, 1000: 0.4}),
    "constant, warmup": (optim.constant(0.4, warmup=4), {0: 0.1, 2: 0.3, 3: 0.4, 4: 0.4, 99: 0.4}),
    "step": (optim.step(1.0, boundaries={5: 0.1, 8: 0.5}), {0: 1, 4: 1, 5: 0.1, 7: 0.1, 8: 0.05, 99: 0.05}),
    "step, warmup": (optim.step(1.0, boundaries={2: 0.5, 5: 0.1}, warmup=2), {0: 0.5, 1: 1.0, 2: 0.5, 4: 0.5, 5: 0.05}),
    "cosine": (optim.cosine(2.0, steps=10), {0: 2, 5: 1, 7: 2 * COS(0.7), 10: 0, 50: 0}),
    "cosine, warmup": (optim.cosine(2.0, steps=12, warmup=2, end=0.5), {0: 1, 1: 2, 2: 2, 7: 1.25, 12: 0.5, 13: 0.5}),
    "one cycle": (optim.one_cycle(1.0, steps=10, start=0.2, end=0.1), {0: 0.2, 3: 1, 10: 0.1, 99: 0.1}),
    "one cycle, warmup": (optim.one_cycle(3.0, steps=12, warmup=4), {0: 0.12, 2: 1.56, 4: 3, 8: 1.5, 12: 0}),
    "one cycle at once": (optim.one_cycle(1.0, steps=4, warmup=0), {0: 1, 2: 0.5, 4: 0}),
    "a single step": (optim.cosine(1.0, steps=1), {0: 1}),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_pass_through_known_points(name):
    schedule, points = SCHEDULES[name]
    rates = jax.jit(jax.vmap(schedule))(jnp.array(list(points)))
    chex.assert_trees_all_close(rates, jnp.array(list(points.values()), jnp.float32), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", optim.OPTIMIZERS)
@pytest.mark.parametrize(
    "rate, options, words",
    [
        (0.0, {}, "learning_rate=0.0"),
        (float("nan"), {}, "learning_rate=nan"),
        (float("inf"), {}, "learning_rate=inf"),
        (0.1, {"weight_decay": -1.0}, "weight_decay=-1.0"),
        (0.1, {"weight_decay": float("nan")}, "weight_decay=nan"),
        (0.1, {"clip": 0.0}, "clip=0.0"),
        (0.1, {"clip": float("nan")}, "clip=nan"),
    ],
)
def test_bad_values_are_refused(name, rate, options, words):
    with pytest.raises(InputError) as caught:
        optim.OPTIMIZERS[name](rate, **options)
    assert words in str(caught.value) and "\n" not in str(caught.value)


BAD = {
    "momentum=1.0": lambda: optim.sgd(0.1, momentum=1.0),
    "b1=-0.1": lambda: optim.adam(0.1, b1=-0.1),
    "b2=1": lambda: optim.adamw(0.1, b2=1),
    "b1=2": lambda: optim.lamb(0.1, b1=2),
    "learning_rate=0": lambda: optim.cosine(0, steps=10),
    "learning_rate=-1": lambda: optim.constant(-1),
    "learning_rate=nan": lambda: optim.one_cycle(float("nan"), steps=10),
    "learning_rate=inf": lambda: optim.step(float("inf"), boundaries={}),
    "warmup=-1": lambda: optim.constant(1.0, warmup=-1),
    "warmup=-2": lambda: optim.one_cycle(1.0, steps=10, warmup=-2),
    "steps=0": lambda: optim.one_cycle(1.0, steps=0),
    "steps=5": lambda: optim.cosine(1.0, steps=5, warmup=6),
    "end=-0.5": lambda: optim.cosine(0.1, steps=10, end=-0.5),  # would climb the loss
    "end=0.5": lambda: optim.cosine(0.1, steps=10, end=0.5),
    "end=nan": lambda: optim.cosine(0.1, steps=10, end=float("nan")),
    "start=-0.1": lambda: optim.one_cycle(0.1, steps=10, start=-0.1),
    "end=1.5": lambda: optim.one_cycle(0.1, steps=10, end=1.5),
    "boundaries={3: 0.1, 5: 0.1}": lambda: optim.step(1.0, boundaries={3: 0.1, 5: 0.1}, warmup=5),
}


@pytest.mark.parametrize("words", BAD)
def test_bad_options_are_refused(words):
    with pytest.raises(InputError) as caught:
        BAD[words]()
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_muon_turns_kernels_by_an_orthogonal_step(rng):
    """The momentum gets singular values near one, and the kernel keeps the square root of its filters as its length."""
    params = {"kernel": jnp.asarray(rng.normal(size=(3, 3, 4, 8)), jnp.float32), "norm": {"bias": jnp.ones(8)}}
    gradients = [jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape), jnp.float32), params) for _ in range(2)]
    tx = optim.muon(0.5, optim.sgd(RATE), momentum=0.0, steps=12)
    new, state = jax.jit(lambda p, g: updated(tx, p, g))(params, gradients[0])
    u, _, v = np.linalg.svd(np.asarray(gradients[0]["kernel"]).reshape(36, 8), full_matrices=False)
    turned = np.asarray(params["kernel"]).reshape(36, 8) - 0.5 * u @ v
    found = np.asarray(new["kernel"]).reshape(36, 8)
    assert np.linalg.norm(found) == pytest.approx(np.sqrt(8), rel=1e-5)
    # the iteration brings singular values to 0.7 to 1.2, not to one
    assert np.linalg.norm(found / np.linalg.norm(found) - turned / np.linalg.norm(turned)) < 0.1
    np.testing.assert_allclose(new["norm"]["bias"], 1 - RATE * gradients[0]["norm"]["bias"], rtol=1e-6)
    assert optim.learning_rate(state) == pytest.approx(0.5)
    with pytest.raises(InputError, match="momentum=1: must be at least 0 and below 1"):
        optim.muon(0.5, optim.sgd(RATE), momentum=1)
    with pytest.raises(InputError, match="learning_rate=0: must be a positive number"):
        optim.muon(0, optim.sgd(RATE))
