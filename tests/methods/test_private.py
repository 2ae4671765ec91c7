"""Private training: clipped rows by hand, noise, Poisson sampling, accounting against published values."""

import dataclasses
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import special

import jaxcnn as jc
from jaxcnn.methods.private import DRAWN, Poisson, epsilon, noise_for, private, room, with_epsilon
from tests.small import Plain, distance, rows

pytest.importorskip("dp_accounting")


@pytest.fixture(scope="module")
def small():
    data = rows(24)
    task = jc.tasks.classification(Plain())
    return data, task, task.init(jax.random.key(0), data.example())


def gradient(task, variables, batch, estimator, seed=0):
    def objective(params, model_state, batch, key):
        loss, (outputs, state) = task.loss(params, model_state, batch, key)
        return loss.total, (state, loss.weight, {"loss": loss})

    batch = {k: jnp.asarray(v) for k, v in batch.items()}
    return jax.jit(estimator(objective))(variables["params"], {}, batch, jax.random.key(seed))


def test_each_row_is_clipped_on_its_own(small):
    data, task, variables = small
    batch = {k: v[:6] for k, v in data.arrays.items()}
    each = [gradient(task, variables, {k: v[i : i + 1] for k, v in batch.items()}, jc.plain)[0] for i in range(6)]
    sizes = [float(optax.tree.norm(g)) for g in each]
    clip = float(np.median(sizes))
    expected = jax.tree.map(lambda *g: sum(x * min(1, clip / n) for x, n in zip(g, sizes, strict=True)) / 6, *each)
    for parts in (1, 3, 4):  # the last part of four has two rows of padding
        found, _, sums = gradient(task, variables, batch, private(clip, 0.0, 6, parts=parts))
        chex.assert_trees_all_close(found, expected, rtol=1e-4, atol=1e-7)
        assert float(sums["loss"].weight) == 6


def test_no_noise_and_no_clipping_is_the_plain_gradient(small):
    data, task, variables = small
    found = gradient(task, variables, data.arrays, private(math.inf, 0.0, 24))[0]
    chex.assert_trees_all_close(found, gradient(task, variables, data.arrays, jc.plain)[0], rtol=1e-4, atol=1e-7)


def test_dropout_is_that_of_the_batch():
    data, task = rows(24), jc.tasks.classification(jc.models.mlp(num_classes=4, widths=(8,), dropout=0.5))
    variables = task.init(jax.random.key(0), data.example())
    plain = gradient(task, variables, data.arrays, jc.plain)[0]
    for parts in (1, 5):
        found = gradient(task, variables, data.arrays, private(math.inf, 0.0, 24, parts=parts))[0]
        chex.assert_trees_all_close(found, plain, rtol=1e-4, atol=1e-7)


def test_a_row_whose_gradient_is_not_finite_adds_nothing(small):
    data, task, variables = small
    good = data.arrays | {"image": data.arrays["image"] / np.float32(255)}
    bad = good | {"image": np.where(np.arange(24)[:, None, None, None] == 3, np.float32(np.inf), good["image"])}
    mask = {"row_mask": (np.arange(24) != 3).astype(np.float32)}
    found, some = (gradient(task, variables, x, private(0.1, 0.0, 24))[0] for x in (bad, good | mask))
    chex.assert_trees_all_close(found, some, rtol=1e-4, atol=1e-8)


def test_padding_adds_nothing_and_the_divisor_stays(small):
    data, task, variables = small
    mask = np.array([1.0] * 10 + [0.0] * 14, np.float32)
    found = gradient(task, variables, data.arrays | {"row_mask": mask}, private(0.1, 0.0, 24))[0]
    some = gradient(task, variables, {k: v[:10] for k, v in data.arrays.items()}, private(0.1, 0.0, 24))[0]
    chex.assert_trees_all_close(found, some, rtol=1e-4, atol=1e-8)
    empty = gradient(task, variables, data.arrays | {"row_mask": 0 * mask}, private(0.1, 0.0, 24))[0]
    assert float(optax.tree.norm(empty)) == 0


def test_noise_has_its_deviation_and_another_draw_in_each_step(small):
    data, task, variables = small
    batch = {**data.arrays, DRAWN: np.full(24, 12, np.int32)}
    wanted = [gradient(task, variables, batch, private(0.5, n, 12), seed)[0] for n, seed in ((0, 0), (2, 0), (2, 1))]
    flat = [np.concatenate([np.ravel(x) for x in jax.tree.leaves(g)]) for g in wanted]
    noise = 12 * (flat[1] - flat[0])
    assert noise.std() == pytest.approx(2 * 0.5, rel=0.1) and abs(noise.mean()) < 0.2
    assert np.abs(np.corrcoef(noise, 12 * (flat[2] - flat[0]))[0, 1]) < 0.2


def test_batch_normalisation_is_refused():
    with pytest.raises(jc.InputError, match="batch_stats.* use GroupNorm"):
        private(1.0, 1.0, 24)(lambda *_: None)({}, {"batch_stats": {"mean": jnp.zeros(3)}}, {}, jax.random.key(0))


def test_steps_refuse_what_would_tell_of_a_row(small):
    _, task, _ = small
    step = with_epsilon(jc.make_train_step(task, optax.sgd(0.1), jc.with_norm(private(1.0, 1.0, 8))), float)
    change = jc.augment
    for mixes in (change.mixup(), change.compose(change.flip, change.cutmix()), change.one_of(change.mixup())):
        with pytest.raises(jc.InputError, match="mixes rows"):
            jc.augmented(step, mixes)
        jc.augmented(jc.make_train_step(task, optax.sgd(0.1)), mixes)
    with pytest.raises(jc.InputError, match="on_nan='skip'"):
        jc.train.skip_nonfinite(jc.augmented(step, change.compose(change.flip)))
    run, begin = jc.compile_step(step, "jit"), jc.init_state(task, optax.sgd(0.1), small[0].example())
    with pytest.raises(jc.InputError, match="on_nan='rollback'"):
        jc.fit(run, begin, small[0], batch_size=8, steps=1, on_nan="rollback")
    # 24 rows of a shuffled batch, and of one that is drawn for another epsilon
    for data, size in ((small[0], 8), (Poisson(rows(200).arrays), 60)):
        with pytest.raises(jc.InputError, match="Poisson sampling of 8 does not draw; use methods.private.Poisson"):
            jc.fit(run, begin, data, batch_size=size, steps=1)
    with pytest.raises(jc.InputError, match="which Poisson sampling of 8 does not draw"):  # its room, but shuffled
        jc.fit(run, begin, small[0], batch_size=20, steps=1)


@pytest.mark.parametrize("strategy, devices", [("jit", 1), ("sharded", 8), ("pmap", 8)])
def test_poisson_batches_of_another_size_stop_training(small, strategy, devices):
    data, task, _ = small
    run = jc.compile_step(jc.make_train_step(task, optax.sgd(0.1), private(1.0, 1.0, 8)), strategy, devices)
    state = jc.init_state(task, optax.sgd(0.1), data.example())
    held = Poisson(data.arrays, data.classes)  # so few rows that batches of 8 and of 16 have one form
    jc.fit(run, state, held, batch_size=8, steps=1)
    with pytest.raises(jc.DivergedError):
        jc.fit(run, jc.init_state(task, optax.sgd(0.1), data.example()), held, batch_size=16, steps=1)


def test_a_run_goes_on_with_its_noise_alone(small, tmp_path, caplog):
    data, task, variables = small
    drawn = Poisson(**{f.name: getattr(data, f.name) for f in dataclasses.fields(data)})

    def fit(noise, steps, rate=0.1, data=drawn):
        tx = jc.optim.sgd(rate)
        run = jc.compile_step(jc.make_train_step(task, tx, private(1.0, noise, 8)), "jit")
        state = jc.init_state(task, tx, data.example(), variables=variables)
        return jc.fit(run, state, data, batch_size=8, steps=steps, workdir=tmp_path, log=None)

    fit(1.0, 2)
    for wrong in ({"noise": 5.0}, {"noise": 1.0, "data": dataclasses.replace(drawn, arrays=rows(24, seed=1).arrays)}):
        with pytest.raises(jc.InputError, match="epsilon would count its steps like those of this one"):
            fit(steps=3, **wrong)
    assert int(fit(1.0, 3).state.step) == 3 and "cannot be told" not in caplog.text


def test_nothing_is_chosen_by_private_rows(small):
    data, task, variables = small
    step = jc.make_train_step(task, optax.sgd(0.1), private(1.0, 2.0, 8))
    state = jc.init_state(task, optax.sgd(0.1), data.example(), variables=variables)
    with pytest.raises(jc.InputError, match="monitor='train/loss': depends on the private rows"):
        jc.fit(jc.compile_step(step, "jit"), state, data, batch_size=8, steps=2, monitor="train/loss")


def test_poisson_batches_have_every_row_with_one_probability():
    data = Poisson({"x": np.arange(50)}, seed=3)
    chunk = data.chunk(10, 0, 400, 400)
    inside = np.asarray(chunk.row_mask[:400]) > 0
    picked = np.asarray(chunk.index[:400])
    assert inside.shape[1] == room(10, 50) == 44
    sizes = inside.sum(1)
    assert abs(sizes.mean() - 10) < 0.5 and abs(sizes.var() - 10 * 0.8) < 1.5  # binomial
    counts = np.bincount(picked[inside], minlength=50)
    assert abs(counts.mean() - 80) < 5 and counts.min() > 40
    assert all(len(set(p[m])) == m.sum() for p, m in zip(picked, inside, strict=True))  # no row twice
    later = data.chunk(10, 7, 3, 400)
    chex.assert_trees_all_equal(later.index[:3], chunk.index[7:10])  # a batch depends on seed and step alone
    assert not np.array_equal(Poisson({"x": np.arange(50)}, seed=4).chunk(10, 0, 1, 1).index, chunk.index[:1])


def test_empty_batches_are_steps_of_noise_alone():
    small = rows(24)
    data = Poisson(small.arrays, small.classes, seed=0)
    task, tx = jc.tasks.classification(Plain()), optax.sgd(0.1)
    step = with_epsilon(
        jc.make_train_step(task, tx, private(1.0, 1.0, 1)), lambda steps: epsilon(1.0, 1 / 24, steps, 1e-3)
    )
    sizes = [int((np.asarray(data.chunk(1, i, 1, 1).row_mask) > 0).sum()) for i in range(8)]
    assert 0 in sizes
    result = jc.fit(jc.compile_step(step, "jit"), jc.init_state(task, tx, small.example()), data, batch_size=1, steps=8)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(result.state.params))
    assert result.history[-1]["train/epsilon"] == pytest.approx(epsilon(1.0, 1 / 24, 8, 1e-3))


def renyi(noise, rate, order):
    """Renyi divergence of one step for an integer order: Mironov et al., 2019, arXiv:1908.10530, section 3.3."""
    k = np.arange(order + 1)
    terms = special.gammaln(order + 1) - special.gammaln(k + 1) - special.gammaln(order - k + 1)
    terms += (order - k) * np.log1p(-rate) + k * np.log(rate) + (k * k - k) / (2 * noise**2)
    return special.logsumexp(terms) / (order - 1)


# batches of 256 of 60,000 rows, delta 1e-5: noise, epochs and epsilon in the tutorials of TensorFlow Privacy
PUBLISHED = [(1.12, 60, 2.92), (1.2, 10, 1.20)]


@pytest.mark.parametrize("noise, epochs, published", PUBLISHED)
def test_epsilon_is_that_of_published_tables(noise, epochs, published):
    """They convert Renyi divergences as Mironov (2017); dp-accounting as Canonne et al. (2020), which gives less."""
    rate, steps, delta = 256 / 60_000, epochs * 60_000 // 256, 1e-5
    a = np.arange(2, 64)
    divergence = steps * np.array([renyi(noise, rate, int(order)) for order in a])
    assert min(divergence - np.log(delta) / (a - 1)) == pytest.approx(published, abs=0.02)
    newer = min(divergence + np.log1p(-1 / a) - np.log(delta * a) / (a - 1))
    assert epsilon(noise, rate, steps, delta) == pytest.approx(newer, abs=0.02)
    assert epsilon(noise, rate, steps, delta, "pld") < epsilon(noise, rate, steps, delta) < published


def test_epsilon_at_the_edges():
    # Abadi et al., 2016, section 5: 1.26 by moments for q = 0.01, noise 4, 10,000 steps, delta 1e-5
    assert 0.99 < epsilon(4.0, 0.01, 10_000, 1e-5) < 1.26
    assert epsilon(0.0, 0.1, 1, 1e-5) == math.inf and epsilon(1.0, 0.1, 0, 1e-5) == 0


def test_the_noise_for_an_epsilon_spends_it():
    noise = noise_for(3.0, 0.01, 1000, 1e-5)
    assert epsilon(noise, 0.01, 1000, 1e-5) == pytest.approx(3.0, abs=0.01)


@pytest.mark.parametrize("strategy", ["sharded", "pmap"])
def test_rows_of_convolutions_are_clipped_alike_on_eight_devices(strategy):
    """Gradients per row of a convolution whose rows are divided among devices."""
    data, out = rows(24), []
    model = jc.models.plain(num_classes=4, widths=(4,), pools=1, hidden=4, activation="tanh", dropout=0.5)
    task, tx = jc.tasks.classification(model), optax.sgd(1.0)
    for how, devices in (("jit", 1), (strategy, 8)):
        run = jc.compile_step(jc.make_train_step(task, tx, private(0.05, 0.0, 24, parts=2)), how, devices)
        out.append(jc.fit(run, jc.init_state(task, tx, data.example()), data, batch_size=24, steps=2).state.params)
    begun = jc.init_state(task, tx, data.example()).params
    assert distance(begun, out[0]) > 1e-3 and distance(*out) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["sharded", "pmap"])
def test_the_same_on_eight_devices(small, strategy):
    data, task, _ = small
    data, tx, out = Poisson(data.arrays, data.classes), optax.sgd(0.1), []
    for how, devices in (("jit", 1), (strategy, 8)):
        step = with_epsilon(jc.make_train_step(task, tx, private(0.5, 1.0, 12)), lambda steps: float(steps))
        run = jc.compile_step(step, how, devices)
        result = jc.fit(run, jc.init_state(task, tx, data.example()), data, batch_size=12, steps=3)
        out.append((result.state.params, result.history[-1]["train/epsilon"]))
    assert distance(out[0][0], out[1][0]) < 1e-5 and out[0][1] == out[1][1] == 3.0


@pytest.mark.parametrize(
    "wrong, line",
    [
        (lambda: private(0.0, 1.0, 8), "clip=0.0"),
        (lambda: private(math.inf, 1.0, 8), "0 without clipping"),
        (lambda: private(1.0, -1.0, 8), "noise=-1.0"),
        (lambda: private(1.0, 1.0, 0), "batch_size=0"),
        (lambda: Poisson({"x": np.arange(4)}).chunk(4, 0, 1, 1), "batch_size=4"),
        (lambda: epsilon(1.0, 1.5, 10, 1e-5), "rate=1.5"),
        (lambda: epsilon(1.0, 0.5, 10, 0.0), "delta=0.0"),
        (lambda: epsilon(1.0, 0.5, 10, 1e-5, "prv"), "accountant='prv'"),
        (lambda: noise_for(0.0, 0.5, 10, 1e-5), "target=0.0"),
        (lambda: noise_for(1.0, 0.5, 10.5, 1e-5), "steps=10.5"),
        (lambda: noise_for(1e-3, 1.0, 1000, 1e-10), "no noise was found"),
        (lambda: epsilon(1.0, 0.5, math.inf, 1e-5), "steps=inf"),
    ],
)
def test_bad_values_are_one_line(wrong, line):
    with pytest.raises(jc.InputError, match=line) as caught:
        wrong()
    assert "\n" not in str(caught.value)
