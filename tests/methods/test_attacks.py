"""Attacks and robust training: hand-made cases, the relations that strong attacks keep, and equality over devices."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxcnn as jc
from jaxcnn.methods import adversarial, attacked, attacks, mart, ramped, square, trades
from jaxcnn.methods.attack_parts import difference
from tests.small import Plain, distance, rows

EPS = 0.1
WEIGHTS = jnp.asarray(np.random.default_rng(0).normal(size=(12, 4)), jnp.float32)
IMAGES = jnp.asarray(np.random.default_rng(1).uniform(size=(64, 2, 2, 3)), jnp.float32)
LABELS = jnp.asarray(np.random.default_rng(2).integers(0, 4, 64))


def linear(x):
    return 2 * x.reshape(len(x), -1) @ WEIGHTS


def curved(x):
    return jnp.tanh(3 * x.reshape(len(x), -1) @ WEIGHTS) @ jnp.eye(4) + jnp.sin(9 * x.reshape(len(x), -1)[:, :4])


def run(attack, logits_of, labels=None, seed=0):
    labels = LABELS if labels is None else labels
    return jax.jit(lambda x, y, key: attack(logits_of, x, y, key))(IMAGES, labels, jax.random.key(seed))


def right(logits_of, x, labels=LABELS):
    return np.asarray(logits_of(x).argmax(-1) == labels)


ALL = {
    "fgsm": attacks.fgsm(EPS),
    "pgd": attacks.pgd(EPS, steps=10),
    "restarts": attacks.pgd(EPS, steps=5, restarts=3, loss="dlr"),
    "l2": attacks.pgd(EPS, norm="l2", steps=10),
    "apgd": attacks.apgd(EPS, steps=20),
    "apgd l2": attacks.apgd(EPS, norm="l2", steps=10, restarts=2, loss="dlr"),
    "targets": attacks.apgd(EPS, steps=10, loss="dlr", targets=3),
    "square": square(EPS, steps=100),
}


@pytest.mark.parametrize("name", ALL)
def test_results_lie_within_the_distance_and_in_0_to_1(name):
    found = run(ALL[name], curved)
    change = np.asarray(found - IMAGES).reshape(64, -1)
    size = np.linalg.norm(change, axis=1) if "l2" in name else np.abs(change).max(1)
    assert size.max() <= EPS * (1 + 1e-5) and size.max() > 0.5 * EPS
    assert 0 <= np.asarray(found).min() and np.asarray(found).max() <= 1
    assert not (right(curved, found) & ~right(curved, IMAGES)).any() or name == "fgsm"


def test_the_step_of_n_fgsm_begins_within_noise():
    change = np.abs(run(attacks.noisy_fgsm(EPS), curved) - IMAGES)
    assert 2.5 * EPS < change.max() <= 3 * EPS * (1 + 1e-5)
    found = run(attacks.noisy_fgsm(EPS), curved)
    assert 0 <= found.min() and found.max() <= 1 and right(curved, found).sum() < right(curved, IMAGES).sum()
    chex.assert_trees_all_close(run(attacks.noisy_fgsm(EPS, noise=0), curved), run(ALL["fgsm"], curved))
    chex.assert_trees_all_equal(run(attacks.noisy_fgsm(0.0), curved), IMAGES)


def test_a_linear_network_is_attacked_as_well_as_it_can_be():
    """Of two classes, the best change of a value is `eps` against the sign of the difference of its weights."""

    def pair(x):
        return linear(x)[:, :2]

    labels = pair(IMAGES).argmax(-1)
    gap = np.asarray(WEIGHTS[:, 1] - WEIGHTS[:, 0])[None] * np.where(np.asarray(labels) == 0, 1, -1)[:, None]
    best = (np.asarray(IMAGES).reshape(64, -1) + EPS * np.sign(gap)).clip(0, 1).reshape(IMAGES.shape)
    expected = right(pair, jnp.asarray(best), labels)
    assert 0 < expected.mean() < 1
    for attack in (attacks.fgsm(EPS), attacks.pgd(EPS, steps=10), attacks.apgd(EPS, steps=20), square(EPS, steps=600)):
        found = run(attack, pair, labels)
        np.testing.assert_array_equal(right(pair, found, labels), expected)
    found = run(attacks.pgd(EPS, steps=10, targeted=True), pair, 1 - labels)
    np.testing.assert_array_equal(right(pair, found, labels), expected)


def test_more_steps_restarts_and_gradients_find_more():
    def share(attack):
        return right(curved, run(attack, curved, labels, 1), labels).mean()

    labels = curved(IMAGES).argmax(-1)
    few, many = share(attacks.pgd(EPS, steps=1)), share(attacks.pgd(EPS, steps=40, restarts=3))
    assert many < few
    assert share(attacks.apgd(EPS, steps=50)) <= few
    assert share(square(EPS, steps=300)) >= many
    assert share(attacks.pgd(1.0, steps=100, restarts=3)) == 0  # nothing resists any change


def test_the_difference_of_logits_by_hand():
    logits = jnp.array([[3.0, 1.0, 0.0, 2.0], [3.0, 1.0, 0.0, 2.0]])
    np.testing.assert_allclose(difference(logits, jnp.array([0, 3])), [-1 / 2, 1 / 2], rtol=1e-6)
    np.testing.assert_allclose(difference(100 * logits, jnp.array([0, 3])), [-1 / 2, 1 / 2], rtol=1e-6)


def test_checkpoints_of_auto_pgd_are_those_of_the_paper():
    assert attacks.checkpoints(100) == [22, 41, 57, 70, 80, 87, 93, 99]


def test_eps_0_changes_nothing():
    for attack in (attacks.fgsm(0.0), attacks.pgd(0.0, norm="l2"), attacks.apgd(0.0, steps=5), square(0.0, steps=5)):
        chex.assert_trees_all_equal(run(attack, curved), IMAGES)


def measure(task, variables, data, batch_size):
    step = jc.compile_step(jc.make_eval_step(task), "jit")
    return jc.evaluate(step, variables, data, batch_size=batch_size)


@pytest.fixture(scope="module")
def small():
    data = rows(24)
    task = jc.tasks.classification(Plain())
    return data, task, task.init(jax.random.key(0), data.example())


def test_accuracy_under_attack_counts_the_worst(small):
    data, task, variables = small
    named = {"fgsm": attacks.fgsm(0.02), "pgd": attacks.pgd(0.05, steps=3)}
    found = measure(attacked(task, named), variables, data, batch_size=7)
    assert found["robust_accuracy"] <= min(found["fgsm"], found["pgd"], found["accuracy"])
    assert found["count"] == 24 and found["pgd"] < found["accuracy"]
    plain = measure(task, variables, data, batch_size=7)
    assert found["loss"] == pytest.approx(plain["loss"]) and found["accuracy"] == plain["accuracy"]
    none = measure(attacked(task, {"fgsm": attacks.fgsm(0.0)}), variables, data, batch_size=7)
    assert none["fgsm"] == none["robust_accuracy"] == plain["accuracy"]


METHODS = {
    "adversarial": lambda task: adversarial(task, attacks.pgd(0.2, steps=2, early_stop=False)),
    "trades": lambda task: trades(task, 0.2, steps=2),
    "mart": lambda task: mart(task, attacks.pgd(0.2, steps=2, early_stop=False)),
}


@pytest.mark.parametrize("name", METHODS)
def test_without_a_distance_methods_are_what_they_wrap(small, name):
    data, task, variables = small
    batch = {k: jnp.asarray(v) for k, v in data.arrays.items()}
    state = {k: v for k, v in variables.items() if k != "params"}
    same = {
        "adversarial": adversarial(task, attacks.pgd(0.0)),
        "trades": trades(task, 0.0, steps=1),
        "mart": mart(task, attacks.pgd(0.0, steps=1), beta=0.0),
    }[name]
    key = jax.random.key(3)
    expected, _ = task.loss(variables["params"], state, batch, key)
    found, _ = same.loss(variables["params"], state, batch, key)
    if name == "mart":  # the boosted cross-entropy also pushes down the likeliest wrong class
        p = np.asarray(jax.nn.softmax(task.predict(variables, batch)))
        label = np.asarray(batch["label"])
        rival = np.where(np.eye(p.shape[1], dtype=bool)[label], 0, p).max(1)
        boosted = (-np.log(p[np.arange(24), label]) - np.log(1 - rival)).sum()
        assert float(found.total) == pytest.approx(boosted, rel=1e-4) and float(found.weight) == 24
    else:
        chex.assert_trees_all_close(found, expected, rtol=1e-6)


def test_rows_that_the_task_leaves_out_change_no_weight(small):
    data, task, variables = small
    ignoring = jc.tasks.classification(Plain(), ignore_label=255)
    batch = {k: jnp.asarray(v) for k, v in data.arrays.items()}
    few = batch | {"label": jnp.where(jnp.arange(24) < 3, batch["label"], 255)}
    state, key = {k: v for k, v in variables.items() if k != "params"}, jax.random.key(3)

    def added(beta):
        mean, _ = trades(ignoring, 0.1, beta=beta, steps=1).loss(variables["params"], state, few, key)
        assert float(mean.weight) == 3
        return float(mean.total / mean.weight)

    mean, _ = trades(task, 0.1, beta=6.0, steps=1).loss(variables["params"], state, batch, key)
    plain, _ = task.loss(variables["params"], state, batch, key)
    assert added(6.0) - added(0.0) == pytest.approx(float((mean.total - plain.total) / 24), rel=0.05)
    other = METHODS["mart"](ignoring).loss(variables["params"], state, few, key)[0]
    three = METHODS["mart"](task).loss(variables["params"], state, {k: v[:3] for k, v in batch.items()}, key)[0]
    assert float(other.weight) == 3 and np.isfinite(float(other.total)) and float(three.weight) == 3


TRAINED = METHODS | {"nfgsm": lambda task: adversarial(task, attacks.noisy_fgsm(0.1))}


@pytest.mark.parametrize("name", TRAINED)
def test_training_resists_more_than_without(small, name):
    data, task, variables = small
    batch = {k: jnp.asarray(v) for k, v in data.arrays.items()}
    tx = optax.adam(1e-2)

    def trained(task):
        step = jax.jit(jc.make_train_step(task, tx))
        state = jc.init_state(task, tx, data.example(), variables=variables)
        for _ in range(60):
            state, _ = step(state, batch)
        return state.variables

    measured = attacked(task, {"pgd": attacks.pgd(0.2, steps=5)})
    plain, robust = (measure(measured, trained(t), data, batch_size=24)["pgd"] for t in (task, TRAINED[name](task)))
    assert robust > plain


@pytest.mark.parametrize("name", METHODS)
def test_attacks_grow_in_the_first_updates(small, name):
    data, task, variables = small
    image, tx = 0.35 + 0.3 * jnp.asarray(data.arrays["image"], jnp.float32) / 255, optax.sgd(0.1)
    batch = {"image": image, "label": jnp.asarray(data.arrays["label"])}  # no change leaves 0..1
    # the whole change at a third of the strength is that of a third of the distance for one step of signs
    whole = {
        "adversarial": lambda eps: adversarial(task, attacks.fgsm(eps)),
        "trades": lambda eps: trades(task, eps, steps=1),
        "mart": lambda eps: mart(task, attacks.fgsm(eps)),
    }[name]
    begin = jc.init_state(task, tx, data.example(), variables=variables)

    def after(task, at, steps):
        step = jax.jit(ramped(jc.make_train_step(task, tx), steps))
        return step(begin.replace(step=jnp.int32(at)), batch)[0].params

    plain = jax.jit(jc.make_train_step(whole(0.0), tx))(begin, batch)[0].params
    chex.assert_trees_all_close(after(whole(0.3), 0, 6), plain, rtol=1e-5, atol=1e-6)
    chex.assert_trees_all_close(after(whole(0.3), 6, 6), after(whole(0.3), 6, 0), rtol=1e-6)
    assert distance(after(whole(0.3), 3, 6), plain) > 1e-4
    if name != "trades":  # its start is random
        chex.assert_trees_all_close(after(whole(0.3), 2, 6), after(whole(0.1), 2, 0), rtol=1e-3, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAINED)
@pytest.mark.parametrize("strategy", ["sharded", "pmap"])
def test_the_same_on_eight_devices(small, name, strategy):
    data, task, _ = small
    task, tx = TRAINED[name](task), optax.sgd(0.1)
    out = []
    for how, devices in (("jit", 1), (strategy, 8)):
        run = jc.compile_step(jc.make_train_step(task, tx), how, devices)
        out.append(jc.fit(run, jc.init_state(task, tx, data.example()), data, batch_size=24, steps=3).state.params)
    assert distance(*out) < 1e-5
    measured = attacked(task, {"pgd": attacks.pgd(0.05, steps=3), "square": square(0.05, steps=20)})
    found = []
    for how, devices in (("jit", 1), (strategy, 8)):
        run = jc.compile_step(jc.make_eval_step(measured), how, devices)
        found.append(jc.evaluate(run, {"params": out[0]}, data, batch_size=24))
    for key in ("count", "pgd", "square", "robust_accuracy"):
        assert found[0][key] == found[1][key]


def several():
    return jc.tasks.classification(Plain(), head="multilabel")


@pytest.mark.parametrize("name", ["fgsm", "pgd", "apgd", "targets", "square"])
@pytest.mark.parametrize(
    "images, labels, line",
    [
        (np.asarray(255 * IMAGES, np.uint8), LABELS, "images of uint8: attacks need floats in 0..1"),
        (255 * IMAGES, LABELS, "divide by 255"),
        (IMAGES[:0], LABELS[:0], r"images of shape \(0, 2, 2, 3\)"),
        (IMAGES, LABELS.at[3].set(9), "label 9: must be from 0 to 3, or -1 for none"),
        (IMAGES, jax.nn.one_hot(LABELS, 4), r"labels float32 of shape \(64, 4\)"),
        (IMAGES, LABELS[:3], r"labels int32 of shape \(3,\): must be integers \[64\]"),
    ],
)
def test_an_attack_refuses_what_it_would_misread(name, images, labels, line):
    with pytest.raises(jc.InputError, match=line) as caught:
        ALL[name](linear, images, labels, jax.random.key(0))
    assert "\n" not in str(caught.value)


def test_rows_without_a_label_stay_and_those_of_no_class_are_marked():
    found = run(ALL["pgd"], linear, LABELS.at[0].set(-1).at[1].set(9))  # traced, so that nothing can be refused
    np.testing.assert_array_equal(found[0], IMAGES[0])
    assert np.isnan(found[1]).all()
    np.testing.assert_array_equal(found[2:], run(ALL["pgd"], linear)[2:])


@pytest.mark.parametrize(
    "wrong, line",
    [
        (lambda t: attacks.pgd(-0.1), "eps=-0.1"),
        (lambda t: attacks.pgd(8), "8/255"),
        (lambda t: attacks.pgd(float("nan")), "eps=nan"),
        (lambda t: attacks.pgd(0.1, norm="l1"), "norm='l1'"),
        (lambda t: attacks.pgd(0.1, steps=0), "steps=0"),
        (lambda t: attacks.pgd(0.1, restarts=2, random_start=False), "restarts=2"),
        (lambda t: attacks.apgd(0.1, targets=3), "targets=3"),
        (lambda t: attacks.apgd(0.1, loss="hinge"), "loss='hinge'"),
        (lambda t: square(0.1, share=0.0), "share=0.0"),
        (lambda t: attacked(t, {}), "is empty"),
        (lambda t: attacked(t, {"loss": attacks.fgsm(0.1)}), "'loss'"),
        (lambda t: attacked(t, {"pgd": attacks.pgd(0.1, targeted=True)}), "is targeted"),
        (lambda t: attacked(t, {"one": attacks.noisy_fgsm(0.1)}), "'one' changes pixels by more than its eps"),
        (lambda t: attacks.noisy_fgsm(0.1, noise=-1), "noise=-1"),
        (lambda t: adversarial(t, attacks.fgsm(0.1, targeted=True)), "is targeted"),
        (lambda t: mart(t, attacks.fgsm(0.1, targeted=True)), "is targeted"),
        (lambda t: trades(t, 0.1, beta=-1), "beta=-1"),
        (lambda t: adversarial(several(), attacks.fgsm(0.1)), "adversarial: the task has several labels per row"),
        (lambda t: attacked(several(), {"fgsm": attacks.fgsm(0.1)}), "attacked: the task has several labels"),
        (lambda t: trades(several(), 0.1), "trades: the task has several labels"),
        (lambda t: mart(several(), attacks.fgsm(0.1)), "mart: the task has several labels"),
        (lambda t: ramped(lambda state, batch: (state, {}), -1), "steps=-1"),
    ],
)
def test_bad_values_are_one_line(small, wrong, line):
    with pytest.raises(jc.InputError, match=line.replace("(", r"\(")) as caught:
        wrong(small[1])
    assert "\n" not in str(caught.value)


def test_labels_of_any_integers_and_images_of_any_floats():
    attack = attacks.apgd(EPS, steps=3, restarts=2)
    expected = attack(linear, IMAGES, LABELS, jax.random.key(0))
    for kind in (np.uint8, np.uint32, np.int8):
        found = attack(linear, IMAGES, np.asarray(LABELS).astype(kind), jax.random.key(0))
        np.testing.assert_array_equal(found, expected)
    half = attacks.pgd(EPS, steps=3, restarts=2)(linear, IMAGES.astype(jnp.bfloat16), LABELS, jax.random.key(0))
    assert half.dtype == jnp.float32
    assert float(abs(half - IMAGES.astype(jnp.bfloat16)).max()) <= EPS + 1e-6


@pytest.mark.parametrize("name", ["pgd", "apgd", "square"])
def test_a_compiled_attack_marks_images_outside_0_to_1(name):
    wrong = jnp.where(jnp.arange(64)[:, None, None, None] % 2, IMAGES, 255 * IMAGES)
    found = jax.jit(lambda x, y, key: ALL[name](linear, x, y, key))(wrong, LABELS, jax.random.key(0))
    assert np.isnan(found[::2]).all() and np.isfinite(found[1::2]).all()


@pytest.mark.parametrize("name", ["trades", "mart"])
def test_padding_may_hold_anything(small, name):
    data, task, variables = small
    wrapped = METHODS[name](task)
    batch = {k: jnp.asarray(v) for k, v in data.arrays.items()}
    size = len(batch["label"])
    padded = {k: jnp.concatenate([v, v[:2]]) for k, v in batch.items()}
    padded["image"] = (padded["image"] / 255).at[size:].set(jnp.nan)
    padded["row_mask"] = jnp.ones(size + 2).at[size:].set(0)
    state = {k: v for k, v in variables.items() if k != "params"}
    loss, _ = jax.jit(wrapped.loss)(variables["params"], state, padded, jax.random.key(1))
    assert np.isfinite(loss.compute())
