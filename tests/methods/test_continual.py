"""Continual learning: each method by hand, neutral settings, the same on eight devices, and figures of a matrix."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxcnn as jc
from jaxcnn.methods import consolidation, continual, replay
from tests.small import Plain, distance, rows

GROUPS = ((0, 1), (2, 3))
TABLE = continual.head_table(GROUPS)


@pytest.fixture(scope="module")
def small():
    data = continual.sequence(rows(48), GROUPS, "class")
    task = jc.tasks.classification(Plain())
    return data, task, task.init(jax.random.key(0), data.example())


def fit(task, data, tx=None, steps=3, strategy="jit", devices=1, state=None, batch_size=12):
    tx = tx or jc.optim.adam(1e-2)
    run = jc.compile_step(jc.make_train_step(task, tx), strategy, devices)
    state = state or jc.init_state(task, tx, data.example())
    steps += int(state.step)
    return jc.fit(run, state, data, batch_size=batch_size, steps=steps, log=None)


def batch_of(data):
    return {k: jnp.asarray(v) for k, v in data.arrays.items()}


def value(task, state, batch):
    mean, _ = jax.jit(task.loss)(state.params, state.model_state, batch, jax.random.key(1))
    return mean.compute()


# scenarios and figures


def test_the_scenarios_label_the_rows():
    data = rows(48)
    label = data.label
    made = {name: continual.sequence(data, ((0, 2), (3, 1)), name) for name in continual.SCENARIOS}
    for one in made.values():
        np.testing.assert_array_equal(one.arrays["task"], np.array([0, 1, 0, 1])[label])
    np.testing.assert_array_equal(made["class"].label, label)
    np.testing.assert_array_equal(made["domain"].label, np.array([0, 1, 1, 0])[label])
    assert made["domain"].classes == ("a/d", "c/b") and made["task"].classes == tuple("abcd")
    parts = [continual.rows_of(made["class"], t) for t in range(2)]
    assert sorted(np.concatenate(parts).tolist()) == list(range(48)) and set(label[parts[0]]) == {0, 2}
    assert continual.divided(6, 3) == ((0, 1, 2), (3, 4, 5))


def test_one_head_per_task_is_a_classifier_of_its_classes(small):
    data, task, variables = small
    two, batch = continual.heads(task, TABLE), batch_of(small[0])
    logits = np.asarray(task.predict(variables, batch))
    own = np.where(TABLE[data.arrays["task"]], logits, -np.inf)
    np.testing.assert_array_equal(np.asarray(two.predict(variables, batch)).argmax(-1), own.argmax(-1))
    log_p = own[np.arange(48), data.label] - np.log(np.exp(own).sum(-1))
    mean, (outputs, _) = two.loss(variables["params"], {}, batch, jax.random.key(0))
    assert mean.compute() == pytest.approx(-log_p.mean(), rel=1e-5)
    np.testing.assert_allclose(outputs, logits, rtol=1e-5)  # all of them, for methods that compare outputs
    values = jc.evaluate(jc.compile_step(jc.make_eval_step(two), "jit"), variables, data)
    assert values["accuracy"] == pytest.approx((own.argmax(-1) == data.label).mean()) and values["count"] == 48
    slope = jax.grad(lambda p: two.loss(p, {}, {k: v[:1] for k, v in batch.items()}, jax.random.key(0))[0].total)(
        variables["params"]
    )
    bias = np.asarray(slope["logits"]["bias"])
    assert (bias[~TABLE[data.arrays["task"][0]]] == 0).all() and (bias[TABLE[data.arrays["task"][0]]] != 0).all()
    wrong = two.predict(variables, batch | {"task": jnp.full(48, 2)})
    assert np.isnan(wrong).all()


def test_figures_of_a_matrix_by_hand():
    matrix = [[0.9, 0.1, 0.2], [0.5, 0.8, 0.3], [0.6, 0.4, 0.7]]
    found = continual.scores(matrix, start=[0.1, 0.2, 0.25])
    assert found.accuracy == pytest.approx((0.6 + 0.4 + 0.7) / 3)
    assert found.forgetting == pytest.approx(((0.9 - 0.6) + (0.8 - 0.4)) / 2)
    assert found.backward == pytest.approx(((0.6 - 0.9) + (0.4 - 0.8)) / 2)
    assert found.forward == pytest.approx(((0.1 - 0.2) + (0.3 - 0.25)) / 2)
    assert continual.scores([[0.9]]) == (0.9, 0.0, 0.0, None)
    # better before the last task than right after its own
    assert continual.scores([[0.5, 0, 0], [0.9, 0.5, 0], [0.4, 0.5, 0.5]]).forgetting == pytest.approx(0.25)
    assert continual.bytes_of({"a": np.zeros((3, 2), np.float32), "b": np.zeros(5, np.uint8)}) == 29


# EWC


def test_fisher_is_the_mean_of_squared_gradients(small):
    data, task, variables = small
    batch = batch_of(data)

    def one(params, i):
        return optax.softmax_cross_entropy_with_integer_labels(
            task.predict({"params": params}, batch)[i], batch["label"][i]
        )

    each = jax.vmap(jax.grad(one), (None, 0))(variables["params"], jnp.arange(48))
    expected = jax.tree.map(lambda g: np.square(g).mean(0), each)
    weighted = dataclasses.replace(data, arrays=data.arrays | {"sample_weight": np.arange(48, dtype=np.float32)})
    for some, options in ((data, {"batch_size": 7}), (weighted, {}), (data, {"strategy": "pmap", "devices": 8})):
        found = consolidation.fisher(task, variables, some, labels="true", **options)
        chex.assert_trees_all_close(found, expected, rtol=1e-4, atol=1e-8)


def test_drawn_labels_give_the_information_of_the_prediction(small):
    data, task, variables = small
    many = data.take(np.tile(np.arange(48), 40))
    found = consolidation.fisher(task, variables, many, batch_size=480)
    logits, x = np.asarray(task.predict(variables, batch_of(data))), data.arrays["image"].reshape(48, -1) / 255
    p = np.asarray(jax.nn.softmax(logits))
    # for a linear layer: E (p_k - y_k)^2 = p_k (1 - p_k), times the square of the input
    expected = (np.square(x)[:, :, None] * (p * (1 - p))[:, None]).mean(0)
    np.testing.assert_allclose(found["logits"]["kernel"], expected, rtol=0.5, atol=1e-3)
    assert np.corrcoef(found["logits"]["kernel"].ravel(), expected.ravel())[0, 1] > 0.97
    again = consolidation.fisher(task, variables, many, batch_size=480)
    chex.assert_trees_all_equal(found, again)
    for options in (
        {"class_weights": [10] * 4},
        {"focal": 2.0, "label_smoothing": 0.2},
        {"loss": "binary_cross_entropy"},
    ):
        same = consolidation.fisher(jc.tasks.classification(Plain(), **options), variables, many, batch_size=480)
        chex.assert_trees_all_close(found, same, rtol=1e-5)


def test_one_anchor_stands_for_the_penalties_of_all_tasks(small):
    data, task, _ = small
    own, batch = consolidation.ewc(task, 3.0), batch_of(data)
    state = jc.init_state(own, jc.optim.adam(1e-2), data.example())
    rng, pieces = np.random.default_rng(0), []
    for _ in range(2):
        importance = jax.tree.map(lambda p: rng.random(p.shape, np.float32), state.params)
        pieces.append((state.params, importance))
        state = consolidation.ewc_after_task(state, importance)
        state = state.replace(params=jax.tree.map(lambda p: p + rng.normal(size=p.shape), state.params))

    def mean(task, held):
        def loss(p):
            found = task.loss(p, held, batch, jax.random.key(1))[0]
            return found.total / found.weight

        return jax.grad(loss)(state.params)

    pulls = [
        jax.tree.map(lambda f, p, a: 3.0 * f * (p - a), importance, state.params, anchor)
        for anchor, importance in pieces
    ]
    expected = jax.tree.map(lambda g, a, b: g + a + b, mean(task, {}), *pulls)
    chex.assert_trees_all_close(mean(own, state.model_state), expected, rtol=1e-3, atol=1e-4)


def test_ewc_holds_the_parameters_that_matter(small):
    data, task, _ = small
    own = consolidation.ewc(task, 1e4)
    state = fit(own, data.take(continual.rows_of(data, 0))).state
    half = jax.tree.map(lambda p: (jnp.arange(p.size) % 2).reshape(p.shape).astype(p.dtype), state.params)
    after = fit(own, data.take(continual.rows_of(data, 1)), state=consolidation.ewc_after_task(state, half), steps=60)
    moved = jax.tree.map(lambda a, b: np.abs(np.asarray(a - b)), after.state.params, state.params)
    kernel, held = moved["logits"]["kernel"], np.asarray(half["logits"]["kernel"]) > 0
    assert kernel[held].max() < 0.1 * kernel[~held].max()


# synaptic intelligence


def test_the_path_adds_up_what_each_parameter_contributes(small):
    data, task, variables = small
    tx, batch = consolidation.synaptic(optax.sgd(0.1, momentum=0.5), 2.0), batch_of(data)
    first = jc.init_state(task, tx, data.example(), variables=variables)
    state, path, importance = first, jax.tree.map(jnp.zeros_like, first.params), None
    trace, anchor = jax.tree.map(jnp.zeros_like, first.params), first.params
    params, step = first.params, jax.jit(jc.make_train_step(task, tx))
    for number in range(4):
        if number == 2:
            state = consolidation.si_after_task(state, damping=0.2)
            gone = jax.tree.map(lambda p, a: p - a, params, anchor)
            importance = jax.tree.map(lambda w, d: np.maximum(w, 0) / (d**2 + 0.2), path, gone)
            path, anchor = jax.tree.map(jnp.zeros_like, path), params
        g = jax.grad(lambda p: task.loss(p, {}, batch, jax.random.key(0))[0].total / 48)(params)
        pull = g
        if importance is not None:
            pull = jax.tree.map(lambda g, f, p, a: g + 2 * 2.0 * f * (p - a), g, importance, params, anchor)
        trace = jax.tree.map(lambda t, g: 0.5 * t + g, trace, pull)
        change = jax.tree.map(lambda t: -0.1 * t, trace)
        path = jax.tree.map(lambda w, g, c: w - g * c, path, g, change)
        params = jax.tree.map(lambda p, c: p + c, params, change)
        state, _ = step(state, batch)
    chex.assert_trees_all_close(state.params, params, rtol=1e-4, atol=1e-6)
    chex.assert_trees_all_close(state.opt_state.path, path, rtol=1e-3, atol=1e-7)
    chex.assert_trees_all_close(state.opt_state.importance, importance, rtol=1e-3, atol=1e-7)


def test_the_path_integral_is_the_fall_of_the_loss(small):
    data, task, _ = small
    tx, batch = consolidation.synaptic(optax.sgd(1e-3), 1.0), batch_of(data)
    state = jc.init_state(task, tx, data.example())
    step, before = jax.jit(jc.make_train_step(task, tx)), value(task, state, batch)
    for _ in range(100):
        state, _ = step(state, batch)
    total = sum(float(x.sum()) for x in jax.tree.leaves(state.opt_state.path))
    assert total == pytest.approx(before - value(task, state, batch), rel=0.02) and total > 0


# learning without forgetting


@pytest.mark.parametrize("scenario", ["task", "class"])
def test_the_old_outputs_are_distilled_by_hand(small, scenario):
    data, task, _ = small
    task = continual.heads(task, TABLE) if scenario == "task" else task
    own = consolidation.lwf(task, heads=2, strength=0.7, temperature=3.0)
    state = jc.init_state(own, jc.optim.adam(1e-2), data.example())
    batch, old = batch_of(data), state.params
    table = np.array([[1, 1, 0, 0], [0, 0, 1, 1]])
    state = consolidation.lwf_after_task(state, table)
    state = state.replace(params=jax.tree.map(lambda p: p + 0.3 * jnp.sin(jnp.arange(p.size)).reshape(p.shape), old))
    raw = task.outputs or task.predict
    new, then = (np.asarray(raw({"params": p}, batch)) / 3.0 for p in (state.params, old))
    far = 0.0
    for head in table > 0:
        p, q = (np.asarray(jax.nn.log_softmax(x[:, head])) for x in (then, new))
        far += (np.exp(p) * (p - q)).sum(-1).mean()
    assert value(own, state, batch) == pytest.approx(value(task, state.replace(model_state={}), batch) + 0.7 * 9 * far)
    none = consolidation.lwf_after_task(state, 0 * table)
    assert value(own, none, batch) == pytest.approx(value(task, state.replace(model_state={}), batch))


# replay


def test_batches_have_their_share_of_kept_rows(small):
    data = small[0]
    now, kept = continual.rows_of(data, 1), continual.rows_of(data, 0)[:5]
    made = replay.replay(data, now, kept, share=0.25)
    chunk = made.chunk(12, 0, 40, 40)
    index = np.asarray(chunk.index)
    assert index.shape == (40, 12) and set(index[:, :9].ravel()) == set(now) and set(index[:, 9:].ravel()) == set(kept)
    assert np.bincount(index[:, 9:].ravel()).max() == 24  # 3 * 40 / 5: each as often as the others
    chex.assert_trees_all_equal(made.chunk(12, 7, 3, 40).index[:3], chunk.index[7:10])
    assert made.chunk(12, 0, 1, 1, multiple=8).row_mask.tolist() == [[1.0] * 12 + [0.0] * 4]
    np.testing.assert_array_equal(np.flatnonzero(made.arrays["replayed"]), kept)
    assert sum(int(c.at(0)["row_mask"].sum()) for c in made.once(48)) == 48


def test_rows_to_keep():
    label = np.array([0] * 10 + [1] * 3 + [2] * 10)
    chosen = replay.per_class(label, 4, rows=np.arange(2, 23), seed=1)
    assert np.bincount(label[chosen]).tolist() == [4, 3, 4] and chosen.min() >= 2
    counts, seen = np.zeros(30), 600
    for seed in range(seen):
        kept = replay.reservoir([], 0, np.arange(12), 5, seed=seed)
        kept = replay.reservoir(kept, 12, np.arange(12, 30), 5, seed=seed)
        counts[kept] += 1
        assert len(set(kept.tolist())) == 5
    assert abs(counts - seen / 6).max() < 5 * (seen / 6 * 5 / 6) ** 0.5
    assert replay.reservoir([], 0, [4, 2], 5).tolist() == [4, 2]


def test_der_adds_the_old_outputs_and_labels(small):
    data, task, variables = small
    now, kept = continual.rows_of(data, 1), continual.rows_of(data, 0)[:5]
    then = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    made = replay.replay(data, now, kept, outputs=then)
    index = np.concatenate([now[:6], kept])
    mask = np.array([1.0] * 9 + [0.0] * 2, np.float32)  # the last two kept rows are padding
    batch = {k: jnp.asarray(v[index]) for k, v in made.arrays.items()} | {"row_mask": jnp.asarray(mask)}
    mean, _ = replay.derpp(task, 0.3, 0.6).loss(variables["params"], {}, batch, jax.random.key(0))
    logits = np.asarray(task.predict(variables, batch))
    each = np.asarray(optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"]))
    expected = each[:6].mean() + 0.3 * np.square(logits[6:9] - then[:3]).mean() + 0.6 * each[6:9].mean()
    assert mean.compute() == pytest.approx(expected, rel=1e-5)


# all methods


def methods(task):
    """Each method with its optimiser, and what it does at the end of the first task."""
    adam, ewc = jc.optim.adam(1e-2), consolidation.ewc(task, 50.0)

    def informed(state, data):
        return consolidation.ewc_after_task(state, consolidation.fisher(ewc, state.variables, data))

    return {
        "ewc": (ewc, adam, informed),
        "si": (task, consolidation.synaptic(adam, 0.5), lambda state, data: consolidation.si_after_task(state)),
        "lwf": (
            consolidation.lwf(task), adam,
            lambda state, data: consolidation.lwf_after_task(state, [[1, 1, 0, 0]]),
        ),
        "replay": (task, adam, None),
        "derpp": (replay.derpp(task, 0.5, 0.5), adam, None),
    }  # fmt: skip


def parts(data, name, state=None, task=None):
    """The rows of the first task, or of the second with what is kept of the first."""
    outputs = np.zeros((0, 4)) if name == "derpp" else None
    if state is None:
        return replay.replay(data, continual.rows_of(data, 0), outputs=outputs)
    if name not in ("replay", "derpp"):
        return replay.replay(data, continual.rows_of(data, 1))
    kept = replay.per_class(data.label, 4, rows=continual.rows_of(data, 0))
    if name == "derpp":
        outputs = np.asarray(task.predict(state.variables, batch_of(data.take(kept))))
    return replay.replay(data, continual.rows_of(data, 1), kept, outputs=outputs)


@pytest.mark.parametrize("name", ["ewc", "si", "lwf", "replay", "derpp"])
def test_in_the_first_task_nothing_changes(small, name):
    data, task, _ = small
    own, tx, _ = methods(task)[name]
    found = fit(own, parts(data, name), tx)
    plain = fit(task, parts(data, "naive"))
    chex.assert_trees_all_close(found.state.params, plain.state.params, rtol=1e-5, atol=1e-6)
    assert found.history[-1]["train/loss"] == pytest.approx(plain.history[-1]["train/loss"], rel=1e-5)


def test_neutral_weights_change_nothing_in_later_tasks(small):
    data, task, _ = small
    now = data.take(continual.rows_of(data, 1))
    first = fit(task, data.take(continual.rows_of(data, 0))).state
    plain = fit(task, now, state=first).state.params
    ewc, lwf = consolidation.ewc(task, 0.0), consolidation.lwf(task, strength=0.0)
    begun = [jc.init_state(one, jc.optim.adam(1e-2), data.example()) for one in (ewc, lwf)]
    states = [first.replace(model_state=state.model_state) for state in begun]
    ones = jax.tree.map(jnp.ones_like, first.params)
    states = [
        consolidation.ewc_after_task(states[0], ones), consolidation.lwf_after_task(states[1], [[1, 1, 0, 0]]),
    ]  # fmt: skip
    for one, state in zip((ewc, lwf), states, strict=True):
        chex.assert_trees_all_close(fit(one, now, state=state).state.params, plain, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("strategy", ["sharded", "pmap"])
@pytest.mark.parametrize("name", ["ewc", "si", "lwf", "replay", "derpp"])
def test_the_same_on_eight_devices(small, name, strategy):
    data, task, _ = small
    own, tx, after = methods(task)[name]
    first = fit(own, parts(data, name), tx).state
    begun = after(first, data.take(continual.rows_of(data, 0))) if after else first
    later = parts(data, name, first, task)
    for steps in (1, 20):
        one, eight = (fit(own, later, tx, steps, *how, state=begun) for how in (("jit", 1), (strategy, 8)))
        assert steps > 1 or distance(one.state.params, eight.state.params) < 1e-5
        assert eight.history[-1]["train/loss"] == pytest.approx(one.history[-1]["train/loss"], rel=1e-3)


def test_replay_keeps_what_naive_training_forgets(small):
    data, task, _ = small
    ev = jc.compile_step(jc.make_eval_step(task), "jit")
    old = data.take(continual.rows_of(data, 0))
    first = fit(task, parts(data, "naive"), steps=60).state
    naive, kept = (
        jc.evaluate(ev, fit(task, parts(data, name, first, task), steps=100, state=first).state.variables, old)
        for name in ("naive", "replay")
    )
    assert naive["accuracy"] < 0.3 and kept["accuracy"] > 0.8


def labelled(data, label):
    """Return data whose first row has another label."""
    changed = np.concatenate([[label], data.label[1:]])
    return jc.data.Resident({**data.arrays, "label": changed}, data.classes)


@pytest.mark.parametrize(
    "wrong, line",
    [
        (lambda d, t: continual.divided(10, 3), "per_task=3"),
        (lambda d, t: continual.sequence(d, GROUPS, "clas"), "scenario='clas'"),
        (lambda d, t: continual.sequence(d, ((0, 1), (1, 2)), "class"), "each class from 0 to 3 exactly once"),
        (lambda d, t: continual.sequence(d, ((0,), (1, 2, 3)), "domain"), "equally many classes"),
        (lambda d, t: continual.rows_of(rows(8), 0), "the rows have no 'task', only image, label"),
        (lambda d, t: continual.heads(t, np.zeros((2, 4))), "at least one class in each"),
        (lambda d, t: continual.heads(t, TABLE).metrics["loss"](jnp.zeros((2, 4)), {}), "no column 'task'"),
        (lambda d, t: continual.heads(t, TABLE).metrics["loss"](jnp.zeros((2, 3)), {"task": 0}), "3 logits"),
        (lambda d, t: continual.scores(np.zeros((2, 3))), r"matrix of shape \(2, 3\)"),
        (lambda d, t: continual.scores([[1.5]]), "must be accuracies in 0..1"),
        (lambda d, t: continual.scores([[np.nan]]), "must be accuracies in 0..1"),
        (lambda d, t: continual.scores([[1.0]], [0.1, 0.2]), r"start of shape \(2,\)"),
        (lambda d, t: consolidation.ewc(t, -1.0), "strength=-1.0"),
        (lambda d, t: consolidation.ewc(t, 1.0).loss({}, {}, {}, None), "ewc: the model state has only nothing"),
        (lambda d, t: consolidation.ewc_after_task(begun(consolidation.ewc(t, 1.0), d), {}), "importance: has not"),
        (lambda d, t: consolidation.fisher(t, {}, d, labels="all"), "labels='all'"),
        (lambda d, t: consolidation.fisher(t, {}, jc.data.Indexed(None, 3)), "must be rows in memory"),
        (lambda d, t: consolidation.synaptic(optax.sgd(0.1), float("nan")), "strength=nan"),
        (lambda d, t: consolidation.si_after_task(begun(t, d)), "wrap it with synaptic"),
        (lambda d, t: consolidation.si_after_task(None, damping=0.0), "damping=0.0"),
        (lambda d, t: consolidation.lwf(t, temperature=0.0), "temperature=0.0"),
        (lambda d, t: consolidation.lwf_after_task(begun(consolidation.lwf(t), d), [[1, 1]]), "heads of shape"),
        (lambda d, t: consolidation.lwf_after_task(begun(consolidation.lwf(t), d), [[1, 0, 0, 0]]), "at least two"),
        (lambda d, t: replay.replay(d, []), "current: has no rows"),
        (lambda d, t: replay.replay(d, [0], [48]), "memory: row numbers from 48 to 48; there are 48 rows"),
        (lambda d, t: replay.replay(d, d.label == 0), "current: bool of shape .*np.flatnonzero"),
        (lambda d, t: replay.replay(d, [0.9, 1.9]), "current: float64 of shape"),
        (lambda d, t: replay.per_class(d.label, 2, rows=d.label == 0), "rows: bool"),
        (lambda d, t: replay.reservoir([], 0, d.label == 0, 5), "rows: bool"),
        (lambda d, t: continual.sequence(labelled(d, -1), GROUPS, "domain"), "label -1: must be from 0 to 3"),
        (lambda d, t: continual.sequence(labelled(d, 4), GROUPS, "class"), "label 4: must be from 0 to 3"),
        (lambda d, t: replay.replay(d, [0, 1], [1]), "memory: has row 1"),
        (lambda d, t: replay.replay(d, [0], [1], share=1.0), "share=1.0"),
        (lambda d, t: replay.replay(d, [0], [1], outputs=np.zeros((2, 4))), r"outputs of shape \(2, 4\)"),
        (lambda d, t: replay.replay(d, [0], [1]).chunk(1, 0, 1, 1), "must leave both"),
        (lambda d, t: replay.replay(d, [0], [1]).take([0]), "choose rows before replay"),
        (lambda d, t: replay.per_class(d.label, 0), "count=0"),
        (lambda d, t: replay.reservoir([1, 2], 1, [], 5), "seen=1"),
        (lambda d, t: replay.derpp(t, 1.0, -1.0), "beta=-1.0"),
        (lambda d, t: replay.derpp(t, 1.0, 1.0).loss({}, {}, {}, None), "no 'replayed'"),
    ],
)
def test_bad_values_are_one_line(small, wrong, line):
    with pytest.raises(jc.InputError, match=line) as caught:
        wrong(small[0], small[1])
    assert "\n" not in str(caught.value)


def begun(task, data):
    return jc.init_state(task, jc.optim.adam(1e-2), data.example())


def test_heads_refuse_what_they_would_misread(small):
    data, task, variables = small
    batch = batch_of(data)
    own = continual.heads(task, TABLE)
    with pytest.raises(jc.InputError, match=r"column 'task' is int32 of shape \(48, 1\); must be integers \[48\]"):
        own.predict(variables, batch | {"task": batch["task"][:, None]})
    with pytest.raises(jc.InputError, match="column 'task' is bool"):
        own.predict(variables, batch | {"task": batch["task"] > 0})
    with pytest.raises(jc.InputError, match="make it with head_table"):
        continual.heads(task, [[0, 1], [2, 1]])
    with pytest.raises(jc.InputError, match="label smoothing spreads over the classes of other tasks"):
        continual.heads(jc.tasks.classification(Plain(), label_smoothing=0.1), TABLE)
    with pytest.raises(jc.InputError, match="task=9: has no rows; the rows are of tasks up to 1"):
        continual.rows_of(data, 9)
    with pytest.raises(jc.InputError, match="groups=.*must have the classes of each task"):
        continual.sequence(data, (0, 1), "class")


def test_a_label_of_another_head_makes_the_loss_nan_but_not_in_padding(small):
    data, task, variables = small
    batch = batch_of(data)
    own, logits = continual.heads(task, TABLE), task.predict(variables, batch)
    wrong = batch | {"label": batch["label"].at[0].set((batch["label"][0] + 2) % 4)}
    assert np.isnan(own.metrics["loss"](logits, wrong).compute())
    padded = wrong | {"row_mask": jnp.ones(48).at[0].set(0)}
    assert np.isfinite(own.metrics["loss"](logits, padded).compute())
    shares, right = jax.nn.one_hot(wrong["label"], 4), jax.nn.one_hot(batch["label"], 4)
    for label in (wrong["label"][:, None], wrong["label"].astype(jnp.float32), 0.5 * (shares + right)):
        assert np.isnan(own.metrics["loss"](logits, wrong | {"label": label}).compute())
    assert np.isfinite(own.metrics["loss"](logits, batch | {"label": right}).compute())


def test_lwf_weights_rows_as_the_task_does(small):
    data, task, _ = small
    learner = consolidation.lwf(task, strength=1.0, temperature=1.0)
    state = consolidation.lwf_after_task(jc.init_state(learner, optax.sgd(0.1), data.example()), np.ones((1, 4)))
    moved = state.replace(params=jax.tree.map(lambda x: 1.5 * x, state.params))
    batch = batch_of(data) | {"sample_weight": jnp.arange(48.0)}
    old, new = (jax.nn.log_softmax(task.predict({"params": s.params}, batch)) for s in (state, moved))
    far = (jnp.exp(old) * (old - new)).sum(-1)
    plain = task.loss(moved.params, {}, batch, jax.random.key(1))[0]
    expected = plain.compute() + np.average(far, weights=np.arange(48.0))
    assert value(learner, moved, batch) == pytest.approx(expected, rel=1e-4)


def test_rows_that_are_left_out_do_not_count_in_the_fisher_information(small):
    data, _, variables = small
    task = jc.tasks.classification(Plain(), ignore_label=-1)
    half = np.where(np.arange(48) % 2, -1, data.label)
    every = dataclasses.replace(data, arrays=data.arrays | {"label": half})
    found = consolidation.fisher(task, variables, every, labels="true")
    chosen = consolidation.fisher(task, variables, data.take(np.arange(0, 48, 2)), labels="true")
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-9), found, chosen)
    adjusted = jc.tasks.classification(Plain(), logit_adjustment=[0.1, 0.2, 0.3, 0.4])
    with pytest.raises(jc.InputError, match="use labels='true'"):
        consolidation.fisher(adjusted, variables, data)


def test_other_rows_of_the_same_data_are_another_run(small, tmp_path, caplog):
    data, task, _ = small
    tx = jc.optim.adam(1e-2)
    run = jc.compile_step(jc.make_train_step(task, tx), "jit")

    def fit(t, steps):
        held = replay.replay(data, continual.rows_of(data, t))
        jc.fit(run, begun(task, data), held, batch_size=8, steps=steps, workdir=tmp_path, log=None)

    fit(0, 2)
    with pytest.raises(
        jc.InputError, match="holds a run that finished at step 2 and differs from this one in the train"
    ):
        fit(1, 2)
    fit(1, 3)
    assert "this run differs from the one before in the training data" in caplog.text


def test_outputs_of_absent_classes_are_not_kept(small):
    data, task, variables = small
    own = continual.heads(task, TABLE)
    rows_, batch = continual.rows_of(data, 0), batch_of(data)
    with pytest.raises(jc.InputError, match="of absent classes; keep those of task.outputs"):
        replay.replay(data, continual.rows_of(data, 1), rows_, outputs=own.predict(variables, batch)[rows_])
    replay.replay(data, continual.rows_of(data, 1), rows_, outputs=own.outputs(variables, batch)[rows_])


def test_a_kept_row_is_kept_once(small):
    with pytest.raises(jc.InputError, match="memory: has row 4 twice"):
        replay.replay(small[0], [0], [4, 4])
