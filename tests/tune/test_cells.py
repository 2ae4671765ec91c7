"""Cells: a path through shared weights is the network of its operations, and a search ranks paths by validation."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcnn as jc
from jaxcnn.models.cell import EDGES, OPERATIONS, PATH, Edge, check_operations, connected
from jaxcnn.ops import native_lowering
from jaxcnn.tune import cells
from tests.small import rows

pytest.importorskip("optuna")
SOME = ("conv3", "pool", "conv1", "skip", "zero", "conv3")


def plan_of(**options):
    data = rows(48)
    model = {"name": "cell", "options": {"num_classes": 4, "width": 4, "operations": list(SOME), **options}}
    build = {
        "model": model, "task": {"name": "classification", "options": {"mean": 0.3, "std": 0.3}},
        "image": {"shape": [8, 8, 1], "dtype": "uint8"},
    }  # fmt: skip

    def optimizer(steps):
        return jc.optim.adamw(jc.optim.constant(3e-3))

    return jc.Plan(
        jc.runs.build(build)[1], jc.data.Splits(data, data, data), optimizer, batch_size=16, steps=3, build=build,
        strategy="jit",
    )  # fmt: skip


def initial(**options):
    model = jc.models.cell(4, width=4, **options)
    with native_lowering():
        return model, jax.jit(model.init)(jax.random.key(0), jnp.zeros((2, 8, 8, 1)))


def numbers(operations):
    return {PATH: {"numbers": jnp.asarray([OPERATIONS.index(name) for name in operations], jnp.int32)}}


def part(shared, own):
    """The weights of a network of few operations out of those of all."""
    return {k: part(shared[k], v) if isinstance(v, dict) else shared[k] for k, v in own.items()}


def test_a_path_is_the_network_of_its_operations():
    (mixed, shared), (one, own) = initial(mixed=True), initial(operations=SOME)
    x = jax.random.normal(jax.random.key(1), (5, 8, 8, 1))
    variables = {name: part(shared[name], own[name]) for name in ("params", "batch_stats")}
    with native_lowering():
        for train in (False, True):
            how = {"train": train, "mutable": ["batch_stats"]}
            wanted, stats = one.apply(variables, x, **how)
            found, theirs = mixed.apply(shared | numbers(SOME), x, **how)
            chex.assert_trees_all_close(found, wanted, rtol=1e-5, atol=1e-5)
            chex.assert_trees_all_close(theirs["batch_stats"], stats["batch_stats"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_are_what_their_names_say(name):
    x = jax.random.normal(jax.random.key(0), (2, 5, 6, 3))
    edge = Edge(3, name)
    variables = edge.init(jax.random.key(1), x)
    out = edge.apply(variables, x)
    if name in ("zero", "skip"):
        wanted = 0 * x if name == "zero" else x
    elif name == "pool":
        wide = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        wanted = sum(wide[:, i : i + 5, j : j + 6] for i in range(3) for j in range(3)) / 9
    else:
        kernel = variables["params"][name]["kernel"]
        assert kernel.shape[:2] == ((1, 1) if name == "conv1" else (3, 3))
        wanted = jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    chex.assert_trees_all_close(out, jnp.asarray(wanted, jnp.float32), rtol=1e-4, atol=1e-5)


def test_only_the_path_gets_a_gradient_and_it_is_drawn_uniformly():
    plan = cells.shared_plan(plan_of())
    batch = {k: jnp.asarray(v[:8]) for k, v in plan.data.train.arrays.items()}
    with native_lowering():
        variables = plan.task.init(jax.random.key(0), batch)
        state = {k: v for k, v in variables.items() if k != "params"}

        @jax.jit
        def step(key):
            def loss(params):
                mean, (_, after) = plan.task.loss(params, state, batch, key)
                return mean.total, after[PATH]["numbers"]

            return jax.grad(loss, has_aux=True)(variables["params"])

        found = [jax.device_get(step(key)) for key in jax.random.split(jax.random.key(1), 40)]
    for grads, path in found[:10]:
        names = [OPERATIONS[k] for k in path]
        alive = connected(names)
        for k, name in enumerate(names):
            edge = grads["stages_0_0"][f"edges_{k}"]
            for kind in ("conv1", "conv3"):
                if kind != name:
                    assert not np.any(edge[kind]["kernel"])
        assert np.any(grads["stem"]["conv"]["kernel"]) == alive
    drawn = np.stack([path for _, path in found])
    share = [(drawn == k).mean() for k in range(len(OPERATIONS))]
    assert np.allclose(share, 0.2, atol=0.11)  # 240 draws: four standard deviations
    assert all(len(set(column)) == len(OPERATIONS) for column in drawn.T)


@pytest.mark.slow
def test_the_best_candidate_is_the_best_by_the_shared_weights(tmp_path):
    plan, lines = plan_of(), []
    found = cells.search(plan, tmp_path, trials=6, sampler="random", log=lines.append)
    assert "12 updates, each of one path" in lines[0]  # four times three
    done = [row for row in found.rows if row["state"] == "complete"]
    assert found.value == min(row["value"] for row in done) and found.updates == 12 and found.metric == ("loss", "min")
    check_operations(cells.operations_of(found.best))
    cut = [row for row in found.rows if row["state"] == "failed"]
    assert all("cut the output off" in row["error"] for row in cut) and len(done) + len(cut) == 6
    # what a candidate is measured by: its path, with the statistics of the batch of all validation rows
    shared = cells.shared_plan(plan)
    ready = jc.runs.prepare(shared)
    again = cells.fit(
        ready.run, ready.state, ready.splits.train, batch_size=16, steps=12, workdir=tmp_path / "shared",
        log=None,
    )  # fmt: skip
    model = jc.runs.build(shared.build)[0]
    x = jc.tasks.prepare(plan.data.valid.arrays["image"], mean=0.3, std=0.3)
    variables = again.state.variables | numbers(cells.operations_of(found.best))
    logits, _ = model.apply(variables, x, train=True, mutable=["batch_stats"])
    label = plan.data.valid.arrays["label"]
    loss = -np.asarray(jax.nn.log_softmax(logits))[np.arange(len(label)), label].mean()
    assert found.value == pytest.approx(loss, rel=1e-4)
    more = cells.search(plan, tmp_path, trials=7, sampler="random")  # goes on, and trains nothing again
    assert more.rows[:6] == found.rows and len(more.rows) == 7


@pytest.mark.parametrize("wrong", [{"trials": 0}, {"sampler": "tpee"}, {"seconds": -60}, {"seed": -1}])
def test_bad_settings_are_refused_before_the_shared_training(tmp_path, wrong):
    with pytest.raises(jc.InputError, match=next(iter(wrong))):
        cells.search(plan_of(), tmp_path / "study", **{"trials": 1} | wrong)
    assert not (tmp_path / "study").exists()


def test_another_network_is_refused():
    plan = plan_of()
    other = dataclasses.replace(plan, build=plan.build | {"model": {"name": "cnn", "options": {}}})
    with pytest.raises(jc.InputError, match="model=cnn: must be cell"):
        cells.shared_plan(other)


@pytest.mark.parametrize(
    "operations, line",
    [
        (("conv3",) * 5, "5 names; must be 6"),
        (("conv5",) * 6, "'conv5' is unknown; must be one of zero"),
        (("conv3", "zero", "zero", "zero", "zero", "conv3"), "cut the output off"),
    ],
)
def test_other_operations_are_refused(operations, line):
    with pytest.raises(jc.InputError, match=line):
        check_operations(operations)
    assert len(EDGES) == 6
