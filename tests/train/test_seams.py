"""The three seams: unusual training runs through the unchanged loop, on one device and on eight."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxcnn as jc
from jaxcnn.core.collectives import all_sum, draw
from jaxcnn.layers import Conv, Network
from jaxcnn.losses.classification import cross_entropy
from jaxcnn.tasks import from_model, prepare
from tests.small import Plain, distance, rows, task

SLOW = [pytest.param(*case, marks=pytest.mark.slow) for case in (("jit", 1), ("pmap", 8))]
EVERYWHERE = pytest.mark.parametrize("strategy, devices", [("sharded", 8), *SLOW])


def train(step, state, strategy, devices, steps=30, data=None):
    return jc.fit(jc.compile_step(step, strategy, devices), state, data or rows(), batch_size=24, steps=steps, every=10)


# --- a step of one's own: two players, two optimisers, the state's params hold both


class Discriminator(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(1)(nn.relu(nn.Dense(16)(x.reshape(x.shape[0], -1))))


class Generator(nn.Module):
    @nn.compact
    def __call__(self, z):
        return nn.sigmoid(nn.Dense(64)(nn.relu(nn.Dense(16)(z)))).reshape(-1, 8, 8, 1)


def two_players():
    g, d, tx = Generator(), Discriminator(), {"g": jc.optim.adam(1e-3), "d": jc.optim.adam(1e-3)}
    bce = lambda logits, target: optax.sigmoid_binary_cross_entropy(logits, jnp.full_like(logits, target))

    def step(state, batch):
        image = prepare(batch["image"])
        noise = draw(jax.random.normal, jc.stream(state, "noise"), (image.shape[0], 4))

        def d_loss(p):
            return bce(d.apply(p["d"], image), 1.0).sum() + bce(d.apply(p["d"], g.apply(p["g"], noise)), 0.0).sum()

        def g_loss(p):
            return bce(d.apply(p["d"], g.apply(p["g"], noise)), 1.0).sum()

        n = all_sum(jnp.float32(image.shape[0]))
        params, opt_state, sums = state.params, state.opt_state, {}
        for name, loss in (("d", d_loss), ("g", g_loss)):
            total, grads = jax.value_and_grad(loss)(params)
            updates, own = tx[name].update(
                jax.tree.map(lambda x: x / n, all_sum(grads[name])), opt_state[name], params[name]
            )
            params, opt_state = params | {name: optax.apply_updates(params[name], updates)}, opt_state | {name: own}
            sums[f"{name}_loss"] = jc.Mean(total, jnp.float32(image.shape[0]))
        return state.replace(step=state.step + 1, params=params, opt_state=opt_state), sums

    keys = jax.random.split(jax.random.key(0))
    params = {"g": g.init(keys[0], jnp.zeros((1, 4))), "d": d.init(keys[1], jnp.zeros((1, 8, 8, 1)))}
    state = jc.State(jnp.int32(0), params, {}, {k: t.init(params[k]) for k, t in tx.items()}, jax.random.key(1))
    return step, state


def test_two_players():
    step, state = two_players()
    with jax.numpy_rank_promotion("allow"):  # flax.linen's own Dense promotes
        fits = [train(step, state, *where) for where in (("jit", 1), ("sharded", 8), ("pmap", 8))]
    assert {"train/d_loss", "train/g_loss"} <= set(fits[0].history[0])
    assert fits[0].history[-1]["train/d_loss"] < fits[0].history[0]["train/d_loss"]
    assert all(distance(fits[0].state.params, f.state.params) < 1e-4 for f in fits[1:])


# --- a per-pixel task


class Pixels(Network):
    num_classes: int = 2

    def setup(self):
        self.conv = Conv(8)
        self.logits = Conv(2, (1, 1))

    def features(self, x, *, train=False, row_mask=None):
        return {"x": nn.relu(self.conv(x))}

    def head(self, features, *, train=False):
        return self.logits(features["x"])


def pixels():
    def criterion(logits, batch):
        known = batch["label"] != 255
        return cross_entropy(logits, jnp.where(known, batch["label"], 0)), known.astype(jnp.float32)

    def accuracy(logits, batch):
        values, weights = (
            (logits.argmax(-1) == batch["label"]).astype(jnp.float32),
            (batch["label"] != 255).astype(jnp.float32),
        )
        weights = weights * batch.get("row_mask", jnp.ones(len(values)))[:, None, None]
        return jc.Mean((values * weights).sum(), weights.sum())

    return from_model(Pixels(), criterion, {"accuracy": accuracy}, lambda batch: prepare(batch["image"]))


@EVERYWHERE
def test_a_per_pixel_task(strategy, devices):
    image = rows().arrays["image"]
    label = (image[..., 0] > 110).astype(np.int32)
    label[:, 0] = 255
    data = jc.data.Resident({"image": image, "label": label})
    t, tx = pixels(), jc.optim.adam(3e-2)
    fitted = train(jc.make_train_step(t, tx), jc.init_state(t, tx, data.example()), strategy, devices, 60, data)
    values = jc.evaluate(
        jc.compile_step(jc.make_eval_step(t), strategy, devices),
        fitted.best.variables,
        data,
        batch_size=40,
    )
    assert values["accuracy"] > 0.9 and values["count"] == 96


# --- wrap the loss: adversarial training by one signed step (Goodfellow et al., 2014, arXiv:1412.6572)


def adversarial(loss, epsilon):
    def attacked(params, model_state, batch, key):
        image = prepare(batch["image"])
        up = jax.grad(lambda x: loss(params, model_state, {**batch, "image": x}, key)[0].total)(image)
        return loss(params, model_state, {**batch, "image": jnp.clip(image + epsilon * jnp.sign(up), 0, 1)}, key)

    return attacked


@EVERYWHERE
def test_adversarial_training(strategy, devices):
    t, tx = jc.tasks.classification(Plain(4)), jc.optim.adam(1e-2)
    hard = t._replace(loss=adversarial(t.loss, 0.1))
    state = jc.init_state(t, tx, rows().example())
    fitted = train(jc.make_train_step(hard, tx), state, strategy, devices)
    clean = train(jc.make_train_step(t, tx), state, strategy, devices)
    batch, key = {k: jnp.asarray(v) for k, v in rows().arrays.items()}, jax.random.key(0)
    attacked = lambda f: hard.loss(f.state.params, {}, batch, key)[0].compute()
    assert attacked(fitted) < attacked(clean)


# --- choose the gradient estimator


@EVERYWHERE
def test_accumulation(strategy, devices):
    t, tx = jc.tasks.classification(Plain(4)), jc.optim.adam(1e-2)
    state = jc.init_state(t, tx, rows().example())
    whole, parts = (
        train(jc.make_train_step(t, tx, g), state, strategy, devices, 10).state for g in (jc.plain, jc.accumulate(3))
    )
    assert distance(whole.params, parts.params) < 1e-5


# --- wrap the step


def test_wrappers_compose():
    """A wrapper counts in `extras`; EMA and augmentation run inside it."""

    def counted(step):
        def wrapped(state, batch):
            state, sums = step(state, batch)
            return state.replace(extras=state.extras | {"seen": state.extras["seen"] + all_sum(sums["count"].n)}), sums

        return wrapped

    t, tx = task(), jc.optim.sgd(0.05)
    step = counted(jc.with_ema(jc.augmented(jc.make_train_step(t, tx), jc.augment.shift(1)), 0.9))
    state = jc.start_ema(jc.init_state(t, tx, rows().example()))
    state = state.replace(extras=state.extras | {"seen": jnp.zeros(())})
    one, eight = train(step, state, "jit", 1), train(step, state, "pmap", 8)
    assert float(one.state.extras["seen"]) == float(eight.state.extras["seen"]) == 30 * 24
    chex.assert_trees_all_close(
        jax.device_get(one.state.extras["ema"]), jax.device_get(eight.state.extras["ema"]), rtol=1e-3, atol=1e-5
    )
