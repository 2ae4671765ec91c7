"""Federated learning: one client is plain training, averages by hand, partitions, and masks that vanish."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import stats

import jaxcnn as jc
from jaxcnn.methods import secure_sum
from jaxcnn.methods.clients import by_group, clients, dirichlet, iid, shards
from jaxcnn.methods.federated import _cut, bytes_per_round, federated
from jaxcnn.methods.scaffold import scaffold
from tests.small import Plain, distance, rows
from tests.small import task as small_task

ONE = np.ones(2, np.uint32)


@pytest.fixture(scope="module")
def small():
    data = rows(24)
    task = jc.tasks.classification(Plain())
    return data, task, task.init(jax.random.key(0), data.example())


def fit(task, variables, data, tx, estimator, batch_size, steps, strategy="jit", devices=1):
    run = jc.compile_step(jc.make_train_step(task, tx, estimator), strategy, devices)
    state = jc.init_state(task, tx, data.example(), variables=variables)
    return jc.fit(run, state, data, batch_size=batch_size, steps=steps)


def test_one_client_with_one_update_is_a_step_of_sgd(small):
    data, task, variables = small
    tx = optax.sgd(1.0)
    plain = fit(task, variables, data, optax.sgd(0.1), jc.plain, 24, 3).state.params
    for options in ({}, {"proximal": 0.7}):  # at the server's parameters, the proximal term is 0
        own = federated(optax.sgd(0.1), 24, batch_size=24, **options)
        found = fit(task, variables, clients(data, [np.arange(24)]), tx, own, 1, 3).state.params
        chex.assert_trees_all_close(found, plain, rtol=1e-4, atol=1e-6)


def test_the_server_takes_the_mean_weighted_by_rows(small):
    data, task, variables = small
    parts = [np.arange(4), np.arange(4, 16)]

    def one(part):
        own = data.take(part)
        return fit(task, variables, own, optax.sgd(0.1), jc.plain, len(part), 2).state.params

    expected = jax.tree.map(lambda a, b: (4 * a + 12 * b) / 16, *map(one, parts))
    own = federated(optax.sgd(0.1), 12, batch_size=12, epochs=2)
    result = fit(task, variables, clients(data, parts), optax.sgd(1.0), own, 2, 1)
    chex.assert_trees_all_close(result.state.params, expected, rtol=1e-4, atol=1e-6)
    assert result.history[-1]["train/count"] == 16


def test_updates_that_are_not_full_count_no_row_twice(small):
    data, task, variables = small
    own = federated(optax.sgd(0.1), 8, batch_size=3, epochs=2)
    result = fit(task, variables, clients(data, iid(24, 3)), optax.sgd(1.0), own, 3, 1)
    assert result.history[-1]["train/count"] == 24

    def one(part):  # every row has the same gradient, so that the order does not matter
        params = variables["params"]
        for _ in range(6):
            run = jc.compile_step(jc.make_train_step(task, optax.sgd(0.1)), "jit")
            state = jc.init_state(task, optax.sgd(0.1), data.example(), variables={"params": params})
            params = jc.fit(run, state, data.take(part[:1]), batch_size=1, steps=1).state.params
        return params

    alike = data.take(np.zeros(8, int))
    found = fit(task, variables, clients(alike, [np.arange(8)]), optax.sgd(1.0), own, 1, 1).state.params
    chex.assert_trees_all_close(found, one(np.array([0])), rtol=1e-4, atol=1e-6)


def test_some_rows_of_clients_keep_their_clients(small):
    held = clients(small[0], [np.arange(4), np.arange(4, 16), np.arange(20, 24)])
    some = held.take(np.array([22, 5, 6, 20, 18]))
    assert [part.tolist() for part in some.parts] == [[1, 2], [0, 3]]
    assert some.arrays["client"].tolist() == [1, 0, 0, 1, -1]
    with pytest.raises(jc.InputError, match="at least one row"):
        held.take(np.array([18]))


@pytest.mark.slow
def test_clients_learn_in_small_updates_and_proximal_terms_hold_them(small):
    data, task, variables = small
    held = clients(data, iid(24, 3))

    def moved(**options):
        own = federated(optax.sgd(0.1), 8, batch_size=3, epochs=4, **options)
        result = fit(task, variables, held, optax.sgd(1.0), own, 3, 5)
        change = jax.tree.map(lambda a, b: a - b, result.state.params, variables["params"])
        return result.history[-1]["train/loss"], float(optax.tree.norm(change))

    (loss, far), (_, near) = moved(), moved(proximal=5.0)
    first = task.loss(variables["params"], {}, {k: jnp.asarray(v) for k, v in data.arrays.items()}, jax.random.key(0))[
        0
    ]
    assert loss < first.compute() and near < 0.7 * far


def test_changes_are_clipped_and_noisy(small):
    data, task, variables = small
    held = clients(data, iid(24, 4))

    def change(**options):
        own = federated(optax.sgd(1.0), 6, batch_size=6, **options)
        params = fit(task, variables, held, optax.sgd(1.0), own, 4, 1).state.params
        return jax.tree.map(lambda a, b: np.asarray(a - b), params, variables["params"])

    assert float(optax.tree.norm(change(clip=0.01))) <= 0.01
    broken = clients(jc.data.Resident(data.arrays | {"weight": np.full(24, np.inf, np.float32)}), iid(24, 4))
    own = federated(optax.sgd(1.0), 6, batch_size=6, clip=0.01)
    begin = jc.init_state(task, optax.sgd(1.0), data.example(), variables=variables)
    step = jax.jit(jc.make_train_step(weighted(task), optax.sgd(1.0), own))
    after = step(begin, {k: v[:24] for k, v in broken.arrays.items()})[0].params
    chex.assert_trees_all_equal(after, begin.params)


def weighted(task):
    def loss(params, model_state, batch, key):
        found, rest = task.loss(params, model_state, batch, key)
        return found._replace(total=found.total * batch["weight"].sum()), rest

    return task._replace(loss=loss)


def test_clients_of_poisson_sampling_are_hidden(small):
    data, task, variables = small
    held = clients(data, iid(24, 12), poisson=True)
    chunk = held.chunk(4, 0, 300, 300)
    there = np.asarray(chunk.row_mask[:300]).reshape(300, -1, held.room).max(2)
    assert there.shape[1] == 12 and abs(there.sum(1).mean() - 4) < 0.4 and abs(there.sum(1).var() - 8 / 3) < 0.8
    options = {"batch_size": 2, "clip": 0.01, "expected": 4}

    def after(noise, **more):
        own = federated(optax.sgd(1.0), held.room, noise=noise, **options | more)
        params = fit(task, variables, held, optax.sgd(1.0), own, 4, 1).state.params
        change = jax.tree.map(lambda a, b: np.ravel(a - b), params, variables["params"])
        return np.concatenate(jax.tree.leaves(change))

    noise = after(100.0) - after(1e-9)
    assert noise.std() == pytest.approx(100 * 0.01 / 4, rel=0.15)
    sampled = there[0].sum()
    assert np.linalg.norm(after(1e-9)) <= sampled * 0.01 / 4 * 1.001  # divided by the expected number
    with pytest.raises(jc.InputError, match="batches have 12 clients, which Poisson sampling of 12 does not draw"):
        fit(task, variables, clients(data, iid(24, 12)), optax.sgd(1.0),
            federated(optax.sgd(1.0), 2, noise=1.0, clip=1.0, expected=12), 12, 1)  # fmt: skip
    with pytest.raises(jc.InputError, match="which Poisson sampling of 4 does not draw"):  # its room, but shuffled
        fit(task, variables, clients(data, iid(24, 12)), optax.sgd(1.0),
            federated(optax.sgd(1.0), 2, noise=1.0, clip=1.0, expected=4), 8, 1)  # fmt: skip
    with pytest.raises(jc.DivergedError):
        own = federated(optax.sgd(1.0), 2, noise=1.0, clip=1.0, expected=2)
        fit(task, variables, held, optax.sgd(1.0), own, 4, 1)


@pytest.mark.parametrize("room", [3, 12])
@pytest.mark.parametrize("make", [lambda n: federated(optax.sgd(0.1), n), lambda n: scaffold(0.1, n)])
def test_another_room_for_clients_is_refused(small, make, room):
    data, task, variables = small
    held = clients(data, iid(24, 4))  # 4 clients of 6 rows, a batch of which 3 and 12 divide as well
    for estimator in (make(room), jc.with_norm(make(room))):
        with pytest.raises(jc.InputError, match=f"rows_per_client={room}: the clients have room for 6 rows"):
            fit(task, variables, held, optax.sgd(1.0), estimator, 4, 1)


@pytest.mark.parametrize("strategy, devices", [("jit", 1), ("sharded", 4)])
def test_clients_taken_apart_leave_no_network(small, strategy, devices):
    """A batch that no `fit` has checked."""
    data, task, variables = small
    step = jc.make_train_step(task, optax.sgd(1.0), federated(optax.sgd(0.1), 3, batch_size=3))
    run = jc.compile_step(lambda state, batch: step(state, batch), strategy, devices)
    state = jc.init_state(task, optax.sgd(1.0), data.example(), variables=variables)
    with pytest.raises(jc.DivergedError):
        jc.fit(run, state, clients(data, iid(24, 4)), batch_size=4, steps=1)


def test_sums_of_narrow_floats():
    sent = [np.array([0.001, -0.5, 0.25, 0.9], np.float16), np.array([0.0005, -0.25, 0.125, 0.45], np.float16)]
    hidden = [secure_sum.quantized({"w": jnp.asarray(x)}, 1.0, 2) for x in sent]
    np.testing.assert_allclose(secure_sum.total(hidden, 1.0, 2)["w"], sent[0].astype(float) + sent[1], atol=1e-6)


def test_noise_or_masks_beside_running_statistics_are_refused():
    for options in ({"clip": 1.0, "noise": 1.0, "expected": 2}, {"secure": 1.0}):
        own = federated(optax.sgd(0.1), 2, **options)
        with pytest.raises(jc.InputError, match="batch_stats.* use GroupNorm"):
            own(lambda *_: None)({}, {"batch_stats": {"mean": jnp.zeros(3)}}, {"x": jnp.zeros(4)}, jax.random.key(0))


def test_rounds_under_masks_are_those_without(small):
    data, task, variables = small
    held, tx = clients(data, iid(23, 4)), optax.sgd(1.0)
    plain, masked, small_scale = (
        fit(task, variables, held, tx, federated(optax.sgd(0.1), held.room, secure=scale), 3, 2)
        for scale in (0.0, 1.0, 1e-3)
    )
    chex.assert_trees_all_close(masked.state.params, plain.state.params, atol=1e-6)
    padded = fit(task, variables, held, tx, federated(optax.sgd(0.1), held.room, secure=1e-9), 3, 1, "sharded", 4)
    whole = fit(task, variables, held, tx, federated(optax.sgd(0.1), held.room, secure=1e-9), 3, 1)
    assert padded.history[-1]["train/cut"] == pytest.approx(whole.history[-1]["train/cut"])  # a client of padding
    assert masked.history[-1]["train/cut"] == 0 < small_scale.history[-1]["train/cut"] <= 1
    assert _cut({"w": jnp.array([0.5, -2.0, jnp.nan, jnp.inf])}, 1.0).compute() == 0.75


def test_masks_of_a_simulation_vanish_and_one_alone_is_uniform():
    key, values = jax.random.key(0), jnp.arange(40_000, dtype=jnp.uint32).reshape(2, -1)
    hidden = [secure_sum.masked_in_pairs({"w": values}, i, 4, key)["w"] for i in range(4)]
    chex.assert_trees_all_equal(sum(hidden[1:], hidden[0]), 4 * values)
    for one in hidden:
        counts = np.bincount(np.asarray(one).ravel() >> 24, minlength=256)
        assert stats.chisquare(counts).pvalue > 1e-4
    assert stats.chisquare(np.bincount(np.asarray(values).ravel() >> 24, minlength=256)).pvalue < 1e-9


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["sharded", "pmap"])
def test_the_same_on_eight_devices(strategy):
    data, task = rows(24), small_task(dropout=0.5)  # with batch norm, whose statistics are of one client's rows
    variables, held = task.init(jax.random.key(0), data.example()), clients(data, iid(24, 6))
    for secure in (0.0, 1.0):
        task = task if not secure else jc.tasks.classification(Plain())
        variables = task.init(jax.random.key(0), data.example())
        own = federated(optax.sgd(0.1), held.room, batch_size=2, epochs=2, secure=secure)
        one, eight = (
            fit(task, variables, held, optax.sgd(1.0), own, 4, 3, *how) for how in (("jit", 1), (strategy, 8))
        )
        assert distance(one.state.params, eight.state.params) < 1e-5
        if not secure:
            assert distance(one.state.model_state, eight.state.model_state) < 1e-5
        assert one.history[-1]["train/count"] == eight.history[-1]["train/count"] == 4 * 4 * 3


def test_partitions_have_every_row_once():
    label = np.arange(100) % 10
    for parts in (iid(100, 7), shards(label, 10), dirichlet(label, 9, 0.1), by_group(label)):
        assert sorted(np.concatenate(parts).tolist()) == list(range(100)) and min(map(len, parts)) > 0
    assert max(len(np.unique(label[part])) for part in shards(label, 10)) <= 4
    few = np.mean([len(np.unique(label[part])) for part in dirichlet(label, 9, 0.1)])
    assert few < np.mean([len(np.unique(label[part])) for part in dirichlet(label, 9, 100.0)])
    assert [label[part].tolist() for part in by_group(label)] == [[i] * 10 for i in range(10)]


def test_rounds_depend_on_seed_and_number_alone(small):
    held = clients(small[0], iid(24, 6))
    some, later = held.chunk(4, 0, 5, 8), held.chunk(4, 3, 2, 8)
    chex.assert_trees_all_equal(some.index[3:5], later.index[:2])
    assert bytes_per_round({"w": jnp.zeros((3, 2)), "b": jnp.zeros(2, jnp.bfloat16)}, 10) == 2 * 10 * (24 + 4)


def test_masks_vanish_in_the_sum_bit_for_bit():
    count, draws = 5, np.random.default_rng(0)
    updates = [{"w": jnp.asarray(draws.normal(size=(70, 30)), jnp.float32)} for _ in range(count)]
    shared = {(i, j): jax.random.key(10 * i + j) for i in range(count) for j in range(i + 1, count)}
    keys = [[None if i == j else shared[min(i, j), max(i, j)] for j in range(count)] for i in range(count)]
    whole = [secure_sum.quantized(u, 4.0, count) for u in updates]
    hidden = [secure_sum.masked(x, i, keys[i]) for i, x in enumerate(whole)]
    plain, found = secure_sum.total(whole, 4.0, count), secure_sum.total(hidden, 4.0, count)
    chex.assert_trees_all_equal(found, plain)
    np.testing.assert_allclose(found["w"], sum(u["w"] for u in updates), atol=1e-6)
    for x, h in zip(whole, hidden, strict=True):  # what is sent looks like nothing that is meant
        assert abs(np.corrcoef(np.asarray(x["w"], float).ravel(), np.asarray(h["w"], float).ravel())[0, 1]) < 0.1
    top = secure_sum.quantized({"w": jnp.full(3, 9.0)}, 4.0, 1)  # cut off, without overflow
    np.testing.assert_allclose(secure_sum.total([top], 4.0, 1)["w"], 4.0, rtol=1e-6)
    for count in (2, 3, 256, 1000, 2000):
        for value in (1.0, -1.0):
            all_ = [secure_sum.quantized({"w": jnp.full(1, value)}, 1.0, count)] * count
            np.testing.assert_allclose(secure_sum.total(all_, 1.0, count)["w"], value * count, rtol=1e-5)


@pytest.mark.parametrize(
    "wrong, line",
    [
        (lambda d: federated(optax.sgd(0.1), 0), "rows_per_client=0"),
        (lambda d: federated(optax.sgd(0.1), 8, proximal=-1), "proximal=-1"),
        (lambda d: federated(optax.sgd(0.1), 8, noise=1.0), "0 without clipping"),
        (lambda d: clients(d, []), "at least one row"),
        (lambda d: clients(d, [[0], []]), "at least one row"),
        (lambda d: clients(d, [[0, 24]]), "there are 24 rows"),
        (lambda d: clients(d, [[0, 1], [1]]), "belongs to two clients"),
        (lambda d: clients(d, [[0.5, 1.5]]), "parts: float64"),
        (lambda d: dirichlet([0.0, np.nan], 1, 1.0), "label: a value is missing"),
        (lambda d: shards(np.eye(4), 2), r"label of shape \(4, 4\)"),
        (lambda d: by_group(["a", None]), "group: a value is missing"),
        (lambda d: clients(d, [[0], [1]]).chunk(3, 0, 1, 1), "give at most 2"),
        (lambda d: clients(d, [[0], [1]], poisson=True).chunk(2, 0, 1, 1), "give at most 1"),
        (lambda d: federated(optax.sgd(0.1), 8, clip=1.0, noise=1.0), "expected=0"),
        (lambda d: federated(optax.sgd(0.1), 8, expected=4), "expected=4, noise=0.0: is read with noise"),
        (lambda d: federated(optax.sgd(0.1), 8, secure=-1.0), "secure=-1.0"),
        (lambda d: secure_sum.total([{"w": jnp.zeros(1, jnp.uint32)}], 1.0, 2), "1 clients of count=2"),
        (lambda d: secure_sum.total([{"w": ONE}, {"w": ONE[:1]}], 1.0, 2), "client 1 sent .* all must send the same"),
        (lambda d: secure_sum.total([{"w": ONE}, {"v": ONE}], 1.0, 2), "client 1 sent .* all must send the same"),
        (lambda d: secure_sum.quantized({"w": jnp.ones(2)}, 1.0, 2.5), "count=2.5: must be a whole number"),
        (lambda d: secure_sum.floats({"w": ONE}, "1", 2), "scale='1': must be a number"),
        (lambda d: secure_sum.masked({}, 0, [None, None]), "shares none with client 1"),
        (lambda d: iid(4, 5), "count=5"),
        (lambda d: shards(np.zeros(4), 4), "count=4, each=2: cut 8 pieces from 4 rows"),
        (lambda d: dirichlet(np.zeros(4), 2, 0.0), "alpha=0.0"),
        (lambda d: secure_sum.quantized({}, 0.0, 1), "scale=0.0"),
        (lambda d: secure_sum.quantized({"w": jnp.full(2, jnp.nan)}, 1.0, 1), "w: is NaN"),
        (lambda d: secure_sum.masked({}, 2, [None, None]), "client=2"),
        (lambda d: secure_sum.masked_in_pairs({}, 2, 2, jax.random.key(0)), "client=2: must be from 0 to 1"),
        (lambda d: secure_sum.masked({"w": jnp.ones(2)}, 0, [None, None]), "w: is float32; must be uint32"),
        (lambda d: secure_sum.masked_in_pairs(jnp.ones(2), 0, 2, jax.random.key(0)), "is float32; must be uint32"),
        (lambda d: secure_sum.floats({"w": jnp.ones(2)}, 1.0, 2), "w: is float32; must be uint32"),
    ],
)
def test_bad_values_are_one_line(small, wrong, line):
    with pytest.raises(jc.InputError, match=line) as caught:
        wrong(small[0])
    assert "\n" not in str(caught.value)
