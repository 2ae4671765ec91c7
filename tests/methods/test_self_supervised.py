"""SimCLR and SimSiam: what they learn, the views of evaluation, the way to a classifier, and any devices."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxcnn as jc
from jaxcnn.losses import nt_xent
from jaxcnn.methods import encoder, simclr, simsiam, standard_views
from tests.small import Small, distance, rows

VIEW = jc.augment.compose(jc.augment.flip, jc.augment.shift(2))
MAKE = {
    "simclr": lambda: simclr(Small(num_classes=16, dropout=0.2), VIEW, width=8, temperature=0.2),
    "simsiam": lambda: simsiam(Small(num_classes=16, dropout=0.2), VIEW, width=8, hidden=4),
}


def fit(task, data, steps, *how):
    tx = optax.sgd(0.02)
    run = jc.compile_step(jc.make_train_step(task, tx), *how)
    return jc.fit(run, jc.init_state(task, tx, data.example()), data, batch_size=16, steps=steps, log=None)


def test_the_loss_compares_projections_of_two_views():
    data, task = rows(12), simclr(Small(num_classes=16), VIEW, width=8, temperature=0.2)
    variables, batch = jax.jit(task.init)(jax.random.key(0), data.example()), dict(data.arrays)
    state = {name: x for name, x in variables.items() if name != "params"}
    mean, (outputs, new) = jax.jit(task.loss)(variables["params"], state, batch, jax.random.key(3))
    assert outputs.first.shape == outputs.second.shape == (12, 8)
    values, _ = nt_xent(outputs.first, outputs.second, None, 0.2)
    assert mean.compute() == pytest.approx(float(values.mean()), rel=1e-5) and float(mean.weight) == 12
    np.testing.assert_allclose(np.mean([outputs.first, outputs.second], (0, 1)), 0, atol=1e-5)  # the last norm
    changed = jax.tree.map(lambda a, b: bool((a != b).any()), dict(state), dict(new))
    assert all(jax.tree.leaves(changed))


def test_a_row_alone_is_refused():
    data, task = rows(4), simclr(Small(num_classes=16), VIEW, width=8)
    with pytest.raises(jc.InputError, match="has one row and no other to contrast it with"):
        run = jc.compile_step(jc.make_train_step(task, optax.sgd(0.02), jc.accumulate(4)), "jit", 1)
        state = jc.init_state(task, optax.sgd(0.02), data.example())
        jc.fit(run, state, data, batch_size=4, steps=1, log=None)


def test_it_learns_to_tell_rows_apart_and_its_encoder_begins_a_classifier():
    data, task = rows(64), MAKE["simclr"]()
    fitted = fit(task, data, 60, "jit")
    ev = jc.compile_step(jc.make_eval_step(task), "jit")
    before = jc.evaluate(ev, jax.jit(task.init)(jax.random.key(0), data.example()), data)
    after = jc.evaluate(ev, fitted.state.variables, data, batch_size=24)
    assert after["separation"] > before["separation"] + 0.1 and "loss" not in after and after["count"] == 64
    other = jc.evaluate(ev, fitted.state.variables, data, batch_size=64)
    assert after["same_cosine"] == pytest.approx(other["same_cosine"], abs=1e-5)  # views depend on the pixels alone

    classifier = jc.tasks.classification(Small())
    start = jax.jit(classifier.init)(jax.random.key(1), data.example())
    begun = jc.transfer.load_pretrained(start, encoder(fitted.state.variables))
    learned = fitted.state.params["encoder"]
    assert distance(learned["conv"], begun["params"]["conv"]) == 0
    assert distance(start["params"]["logits"], begun["params"]["logits"]) == 0
    vectors = task.predict(fitted.state.variables, data.arrays)
    direct = Small(num_classes=16).apply(encoder(fitted.state.variables), data.arrays["image"] / np.float32(255))
    np.testing.assert_allclose(vectors, direct, atol=1e-5)


def test_cosines_by_hand():
    from jaxcnn.methods.self_supervised import Projected, _view_cosines

    x = jnp.array([[2.0, 0.0], [0.0, 1.0], [3.0, 0.0], [9.0, 9.0]])
    y = jnp.array([[1.0, 0.0], [0.0, -1.0], [0.0, 5.0], [1.0, 1.0]])
    found = _view_cosines(Projected(x, y), {"row_mask": jnp.array([1.0, 1, 1, 0])}).compute()
    assert found["same_cosine"] == pytest.approx((1 - 1 + 0) / 3) and found["other_cosine"] == pytest.approx(1 / 3)
    for zero in (jnp.zeros((4, 2)), x.at[0].set(0)):  # projections without a direction are no gain
        found = _view_cosines(Projected(zero, zero), {"row_mask": jnp.ones(4)}).compute()
        unit = np.asarray(zero) / np.maximum(np.linalg.norm(zero, axis=1, keepdims=True), 1e-12)
        pairs = (unit @ unit.T)[~np.eye(4, dtype=bool)]
        assert found["other_cosine"] == pytest.approx(pairs.mean())


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["sharded", "pmap"])
@pytest.mark.parametrize("name", MAKE)
def test_the_same_on_eight_devices(name, strategy):
    data, task = rows(64), MAKE[name]()
    one, eight = ([fit(task, data, n, *how) for n in (1, 20)] for how in (("jit", 1), (strategy, 8)))
    assert distance(one[0].state.params, eight[0].state.params) < 1e-5
    assert one[1].history[-1]["train/loss"] == pytest.approx(eight[1].history[-1]["train/loss"], rel=1e-3)
    both = [
        jc.evaluate(jc.compile_step(jc.make_eval_step(task), *how), one[1].state.variables, data)
        for how in (("jit", 1), (strategy, 8))
    ]
    assert both[0]["count"] == both[1]["count"] == 64
    for key in both[0]:
        assert both[0][key] == pytest.approx(both[1][key], abs=1e-5)


@pytest.mark.slow
def test_the_views_of_the_paper():
    image = np.random.default_rng(0).integers(0, 256, (8, 16, 16, 3)).astype(np.uint8)
    found = jax.jit(standard_views(12, blur=3))(jax.random.key(0), {"image": image})["image"]
    assert found.shape == (8, 12, 12, 3) and 0 <= float(found.min()) < float(found.max()) <= 1


@pytest.mark.parametrize("name", MAKE)
def test_predictions_refuse_pixels_above_1(name):
    task, image = MAKE[name](), np.float32(rows(4).arrays["image"])
    with pytest.raises(jc.InputError, match="floats must be in 0..1"):
        task.predict(task.init(jax.random.key(0), {"image": image / 255}), {"image": image})


@pytest.mark.parametrize(
    "wrong, line",
    [
        (lambda: simclr(Small(), VIEW, temperature=0.0), "temperature=0.0"),
        (lambda: simclr(Small(), VIEW, width=0), "width=0"),
        (lambda: simsiam(Small(), VIEW, hidden=0), "hidden=0"),
        (lambda: simclr(object(), VIEW), "num_classes=None of the model"),
        (lambda: standard_views(8, strength=-1.0), "strength=-1.0"),
        (lambda: standard_views(8, blur=4), "kernel_size=4"),
        (lambda: encoder({"params": {"conv": 0}}), "not those of simclr or simsiam"),
        (lambda: encoder(None), "give state.variables of such a run"),
        (lambda: MAKE["simclr"]().init(jax.random.key(0), {"text": np.zeros((1, 4))}), "no 'image', only text"),
    ],
)
def test_bad_values_are_one_line(wrong, line):
    with pytest.raises(jc.InputError, match=line) as caught:
        wrong()
    assert "\n" not in str(caught.value)
