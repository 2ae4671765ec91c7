"""The embedding task: unit vectors, its metrics, class vectors among the parameters, devices, and what it refuses."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxcnn as jc

LOSSES = ("arcface", "triplet", "contrastive")


def task(loss="arcface", width=4, **options):
    return jc.tasks.embedding(jc.models.mlp(num_classes=width, widths=(6,)), loss=loss, **{"classes": 3} | options)


def rows(count=12, seed=0, **more):
    rng = np.random.default_rng(seed)
    label = np.arange(count) % 3
    image = (80 * label[:, None, None, None] + rng.integers(0, 60, (count, 4, 4, 1))).astype(np.uint8)
    return {"image": image, "label": label.astype(np.int32), **more}


@functools.cache
def made(loss):
    built = task(loss)
    return built, built.init(jax.random.key(0), rows())


@pytest.mark.parametrize("loss", LOSSES)
def test_vectors_have_length_one(loss):
    built, variables = made(loss)
    found = np.asarray(built.predict(variables, rows()))
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-5)
    assert found.shape == (12, 4) and ("class_vectors" in variables["params"]) == (loss == "arcface")
    values = jc.types.compute(jc.make_eval_step(built)(variables, rows())[1])
    scores, same = jc.metrics.pair_scores(found, rows()["label"])
    assert values["separation"] == pytest.approx(scores[same].mean() - scores[~same].mean(), abs=1e-5)
    assert values["count"] == 12 and ("loss" in values) == (loss == "arcface")


def test_arcface_measures_the_nearest_class_vector():
    built, variables = made("arcface")
    vectors, label = np.asarray(variables["params"]["class_vectors"]), rows()["label"]
    assert vectors.shape == (3, 4)
    cosines = np.asarray(built.predict(variables, rows())) @ (vectors / np.linalg.norm(vectors, axis=1)[:, None]).T
    values = jc.types.compute(jc.make_eval_step(built)(variables, rows())[1])
    assert values["accuracy"] == pytest.approx((cosines.argmax(1) == label).mean())
    want = jc.losses.arcface(jnp.asarray(cosines), jnp.asarray(label), 64.0, 0.5)
    assert values["loss"] == pytest.approx(float(want.mean()), rel=1e-4)


@pytest.mark.parametrize("loss", [pytest.param(x, marks=pytest.mark.slow) if x != "triplet" else x for x in LOSSES])
def test_strategies_agree(loss):
    """Seven rows on four devices: one of eight is padding."""
    built, data = task(loss, scale=8.0), jc.data.Resident(rows(14))
    tx, found = optax.sgd(0.3), {}
    for strategy, devices in (("jit", 1), ("sharded", 4), ("pmap", 4)):
        run = jc.compile_step(jc.make_train_step(built, tx), strategy, devices)
        state = jc.init_state(built, tx, data.example())
        fitted = jc.fit(run, state, data, batch_size=7, steps=3, every=3, log=None)
        found[strategy] = jax.device_get(fitted.state.params), fitted.history[-1]["train/loss"]
    for other in ("sharded", "pmap"):
        assert found[other][1] == pytest.approx(found["jit"][1], abs=1e-5)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), found[other][0], found["jit"][0])


def test_it_learns_and_recall_is_measured():
    built, data = task("contrastive"), rows(30)
    tx = jc.optim.adam(2e-2)
    run = jc.compile_step(jc.make_train_step(built, tx), devices=1)
    validate = jc.tasks.recall_validation(built, rows(15, seed=1))
    fitted = jc.fit(
        run, jc.init_state(built, tx, rows()), data, batch_size=15, steps=40, every=40, validate=validate, log=None
    )
    assert validate(fitted.state)["recall_at_1"] > 0.9 and fitted.history[-1]["recall_at_1"] > 0.9
    vectors = np.asarray(built.predict(fitted.state.variables, rows(15, seed=1)))
    assert jc.metrics.retrieval(vectors, rows(15)["label"], ranks=(1,))["map"] == validate(fitted.state)["map"]


def episodes(**options):
    data = rows(60)
    data["label"] = (np.arange(60) % 3 + 10 * (np.arange(60) % 2)).astype(np.int32)
    return jc.data.Episodes(data | {"group": data["label"] // 10}, **{"ways": 3, "queries": 2, "episodes": 5} | options)


def test_episodes_depend_on_seed_and_number_alone():
    data = episodes()
    first, again = data.chunk(9, 3, 2, 4), episodes().chunk(9, 4, 1, 4)
    for name, x in again.at(0).items():
        np.testing.assert_array_equal(x, first.at(1)[name])
    one = first.at(0)
    assert one["label"].tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2] and one["support"].tolist() == [1, 0, 0] * 3
    assert set(one) == {"image", "label", "support"} and int(first.count) == 2
    numbers = [data.rows(t) for t in range(40)]
    labels = data.held["label"][np.array(numbers)]
    assert all(len(set(n)) == 9 for n in numbers) and (np.ptp(labels // 10, axis=1) == 0).all()
    assert (labels.reshape(40, 3, 3).std(-1) == 0).all() and len(set(map(tuple, labels))) > 4
    assert not np.array_equal(numbers[0], episodes(seed=1).rows(0))
    parts = list(data.once(1000, 4))
    assert sum(int(part.count) for part in parts) == 5
    assert np.asarray(parts[0].at(0)["row_mask"]).tolist() == [1] * 9 + [0] * 3


def test_prototypes_on_any_devices():
    built = task("prototypical", classes=4, unit=False)
    tx, data, found = optax.sgd(0.1), episodes(), {}
    for strategy, devices in (("jit", 1), ("pmap", 2)):
        run = jc.compile_step(jc.make_train_step(built, tx), strategy, devices)
        state = jc.init_state(built, tx, data.example())
        fitted = jc.fit(run, state, data, batch_size=9, steps=4, every=4, log=None)
        ev = jc.compile_step(jc.make_eval_step(built), strategy, devices)
        found[strategy] = fitted.history[-1]["train/loss"], jc.evaluate(ev, fitted.state.variables, data)
    assert found["pmap"][0] == pytest.approx(found["jit"][0], abs=1e-5)
    values = found["jit"][1]
    assert values["loss"] == pytest.approx(found["pmap"][1]["loss"], abs=1e-5)
    assert values["accuracy"] == found["pmap"][1]["accuracy"] > 0.4
    assert values["count"] == 45 and built.monitor == ("accuracy", "max")


def test_a_run_is_loaded_by_its_description(tmp_path):
    build = {
        "model": {"name": "mlp", "options": {"num_classes": 4, "widths": [6]}},
        "task": {"name": "embedding", "options": {"classes": 3, "loss": "arcface", "scale": 16.0, "margin": 0.2}},
        "image": {"shape": [4, 4, 1], "dtype": "uint8"},
    }
    model, built = jc.runs.build(build)
    variables = built.init(jax.random.key(0), rows())
    parts = jc.data.Splits(*(jc.data.Resident(rows(n), ("a", "b", "c")) for n in (12, 6, 6)))
    plan = jc.Plan(built, parts, lambda steps: jc.optim.adam(1e-2), batch_size=6, steps=2, build=build, devices=1)
    summary = jc.train_run(plan, tmp_path / "run", show=False)
    loaded = jc.load_run(tmp_path / "run")
    vectors = jc.runs.predict(loaded, {"image": rows()["image"]})
    assert vectors.shape == (12, 4) and 0 <= summary["test"]["accuracy"] <= 1
    assert jc.runs.evaluate(loaded, jc.data.Resident(rows(6)))["accuracy"] == summary["test"]["accuracy"]
    # the model takes the variables as they are
    jc.models.mlp(num_classes=4, widths=(6,)).apply(loaded.variables, jnp.zeros((1, 4, 4, 1)), train=False)
    assert jax.tree.structure(variables) == jax.tree.structure(loaded.variables) and model.num_classes == 4
    build["views"] = {"shift": 0}
    with pytest.raises(jc.InputError, match="build.views.*leave it out"):
        jc.runs.check_build(build, "here")


def test_in_a_compiled_program_a_label_that_is_no_class_makes_the_loss_nan():
    built, variables = made("arcface")
    sums = jax.jit(jc.make_eval_step(built))(variables, rows() | {"label": jnp.full(12, 3)})[1]
    values = jc.types.compute(sums)
    assert np.isnan(values["loss"]) and np.isnan(values["accuracy"])


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: task("cosine"), "loss='cosine': must be one of arcface, triplet, contrastive, prototypical"),
        (lambda: task(classes=1), "classes=1: must be at least 2"),
        (lambda: task(width=1), "num_classes=1 of the model: must be the length of a vector"),
        (lambda: task("contrastive", margin=0.2), "margin=0.2: loss='contrastive' has none"),
        (lambda: task("triplet", margin=-1.0), "margin=-1.0: must be at least 0"),
        (lambda: task(scale=0.0), "scale=0.0: must be positive"),
        (lambda: task("contrastive", temperature=0.0), "temperature=0.0: must be positive"),
        (lambda: task(unit=False), "unit=False: loss='arcface' compares directions"),
        (lambda: task().check(rows() | {"label": np.full(12, 3)}), "labels are 3 to 3, with 3 classes"),
        (lambda: task().check(rows() | {"label": np.ones((12, 3))}), r"labels of shape \(12, 3\): an embedding needs"),
        (lambda: task().check(rows() | {"image": np.full((12, 4, 4, 1), 9.0)}), "floats must be in 0..1"),
        (lambda: episodes(ways=9), "ways=9: no group has more than 3 classes"),
        (lambda: episodes(queries=10), "class 0: has 10 rows, and an episode needs 11"),
        (lambda: episodes(shots=0), "shots=0: must be at least 1"),
        (lambda: episodes().chunk(8, 0, 1, 1), "batch_size=8: an episode has 9 rows"),
        (lambda: jc.tasks.recall_validation(task(), {"image": np.zeros(3)}), "data: has no 'label', only image"),
    ],
)
def test_bad_input_is_one_line(call, message):
    with pytest.raises(jc.InputError, match=message) as error:
        call()
    assert "\n" not in str(error.value)
