"""Frozen parameters stay the same to the bit; a head on cached features equals the head of the whole network."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcnn as jc
from jaxcnn import InputError, optim
from jaxcnn.core.types import named
from jaxcnn.layers import apply_block
from jaxcnn.methods import transfer
from tests.small import Small, distance, rows, task

PARAMS = {
    "stem": {"conv": {"kernel": jnp.ones((2, 2))}, "norm": {"scale": jnp.ones(2)}},
    "logits": {"kernel": jnp.ones((2, 3))},
}
GRADS = jax.tree.map(lambda p: 0.5 * p, PARAMS)


def updated(tx, params=PARAMS, steps=1, state=None):
    state = tx.init(params) if state is None else state
    for _ in range(steps):
        updates, state = tx.update(GRADS, state, params)
        params = jax.tree.map(jnp.add, params, updates)
    return params, state


# --- patterns


@pytest.mark.parametrize(
    "pattern, found",
    [
        ("stem", ["stem.conv.kernel", "stem.norm.scale"]),
        ("ste", None),
        (".*norm", ["stem.norm.scale"]),
        (".*kernel", ["logits.kernel", "stem.conv.kernel"]),
        ("stem|logits", ["logits.kernel", "stem.conv.kernel", "stem.norm.scale"]),
        ("stem.conv.kernel", ["stem.conv.kernel"]),
    ],
)
def test_a_pattern_names_parameters_or_what_holds_them(pattern, found):
    if found is None:
        with pytest.raises(InputError, match=f"pattern '{pattern}': names no parameter; near it are stem"):
            optim.which(PARAMS, [[pattern]])
    else:
        assert [name for name, k in named(optim.which(PARAMS, [[pattern]])) if k == 0] == found


def test_the_first_group_that_names_a_parameter_has_it():
    assert dict(named(optim.which(PARAMS, [["logits"], [".*kernel"]]))) == {
        "logits.kernel": 0, "stem.conv.kernel": 1, "stem.norm.scale": -1,
    }  # fmt: skip


# --- optimisers


@pytest.mark.parametrize("name", optim.OPTIMIZERS)
def test_the_frozen_stay_and_the_others_move_as_if_alone(name):
    make = lambda: optim.OPTIMIZERS[name](optim.cosine(0.1, steps=9), weight_decay=0.3, clip=0.5)
    params, state = updated(optim.freeze(make(), ["stem"]), steps=3)
    chex.assert_trees_all_equal(params["stem"], PARAMS["stem"])
    alone, alone_state = {"logits": PARAMS["logits"]}, make().init({"logits": PARAMS["logits"]})
    for _ in range(3):
        updates, alone_state = make().update({"logits": GRADS["logits"]}, alone_state, alone)
        alone = jax.tree.map(jnp.add, alone, updates)
    chex.assert_trees_all_equal(params["logits"], alone["logits"])
    assert (
        optim.learning_rate(state)
        == optim.learning_rate(alone_state)
        == pytest.approx(float(optim.cosine(0.1, steps=9)(2)))
    )
    # frozen parameters have no gradient
    assert [x.shape for x in jax.tree.leaves(state)] == [x.shape for x in jax.tree.leaves(alone_state)]


def test_rates_fall_with_depth():
    groups = [["logits"], ["stem.norm"], ["stem"]]
    moved = lambda tx: jax.tree.map(jnp.subtract, updated(tx)[0], PARAMS)
    plain, scaled = (
        moved(optim.sgd(1.0, weight_decay=0.1)),
        moved(optim.layerwise_lr_decay(optim.sgd(1.0, weight_decay=0.1), groups, 0.5)),
    )
    factors = {"stem": {"conv": {"kernel": 0.25}, "norm": {"scale": 0.5}}, "logits": {"kernel": 1.0}}
    chex.assert_trees_all_close(scaled, jax.tree.map(lambda u, f: u * f, plain, factors))
    assert optim.learning_rate(optim.layerwise_lr_decay(optim.sgd(0.7), groups, 0.5).init(PARAMS)) == pytest.approx(0.7)


def test_groups_begin_at_their_steps():
    tx = optim.gradual_unfreezing(optim.sgd(1.0), [["logits"], ["stem"]], [0, 2])
    kernels, state, params = [], None, PARAMS
    for _ in range(4):
        params, state = updated(tx, params, 1, state)
        kernels.append(
            [
                float(params[name].get("kernel", params[name].get("conv", {}).get("kernel"))[0, 0])
                for name in ("logits", "stem")
            ]
        )
    assert kernels == [[0.5, 1.0], [0.0, 1.0], [-0.5, 0.5], [-1.0, 0.0]]


def test_freezing_gradual_unfreezing_and_layerwise_decay_together():
    tx = optim.gradual_unfreezing(
        optim.layerwise_lr_decay(optim.freeze(optim.adam(0.1), [".*norm"]), [["logits"], ["stem"]], 0.5),
        [["logits"], ["stem"]],
        [0, 1],
    )
    first, state = updated(tx)
    chex.assert_trees_all_equal(first["stem"], PARAMS["stem"])
    second, _ = updated(tx, first, 1, state)
    assert float(second["stem"]["conv"]["kernel"][0, 0]) == pytest.approx(1 - 0.05, abs=1e-5)
    chex.assert_trees_all_equal(second["stem"]["norm"], PARAMS["stem"]["norm"])


BAD = {
    "pattern 'lgits': names no parameter; near it are logits": lambda: optim.freeze(optim.sgd(0.1), ["lgits"]).init(
        PARAMS
    ),
    "pattern '(': not a regular expression": lambda: optim.freeze(optim.sgd(0.1), ["("]).init(PARAMS),
    "groups: stem.norm.scale is in none of the 2": lambda: optim.layerwise_lr_decay(
        optim.sgd(0.1), [["logits"], [".*conv"]], 0.5
    ).init(PARAMS),
    "factors=[1]: 1 for 2 groups": lambda: optim.by_group(optim.sgd(0.1), [["logits"], ["stem"]], [1]),
    "decay=0.0: must be above 0 and at most 1": lambda: optim.layerwise_lr_decay(optim.sgd(0.1), [["logits"]], 0.0),
    "starts=[0, -1]: must be at least 0": lambda: optim.gradual_unfreezing(
        optim.sgd(0.1), [["logits"], ["stem"]], [0, -1]
    ),
    "per_class=0: must be at least 1": lambda: transfer.few_shot_subset(rows(8), 0),
    "labels float32 of shape (8, 2): must be integers [N]": lambda: transfer.few_shot_subset(
        jc.data.Resident({"label": np.eye(2, dtype=np.float32)[np.arange(8) % 2]}, ("a", "b")), 1
    ),
    "the data have no classes": lambda: transfer.few_shot_subset(jc.data.Resident({"label": np.arange(8)}), 1),
    "per_class=2.5: must be a whole number": lambda: transfer.few_shot_subset(rows(8), 2.5),
    "class 'a' has only": lambda: transfer.few_shot_subset(rows(8), 8),
}


@pytest.mark.parametrize("words", BAD)
def test_bad_values_are_refused(words):
    with pytest.raises(InputError) as caught:
        BAD[words]()
    assert words in str(caught.value) and "\n" not in str(caught.value)


# --- losses


def lossy(wrap, **options):
    t = task(**options)
    variables = t.init(jax.random.key(0), rows().example())
    batch = {k: jnp.asarray(v) for k, v in rows(24).arrays.items()}
    params, state = variables["params"], {"batch_stats": jax.tree.map(lambda x: x + 0.3, variables["batch_stats"])}
    loss = wrap(t.loss)
    fn = jax.jit(
        jax.grad(
            lambda p: (lambda mean, rest: (mean.total, rest))(*loss(p, state, batch, jax.random.key(1))), has_aux=True
        )
    )
    return t, params, state, batch, *fn(params)


def test_kept_statistics_are_used_and_stay():
    t, params, state, batch, grads, (outputs, left) = lossy(transfer.keep_stats)
    chex.assert_trees_all_equal(left, state)
    chex.assert_trees_all_close(outputs, t.predict({"params": params, **state}, batch), rtol=1e-5, atol=1e-5)
    plain_grads, (plain_outputs, moved) = lossy(lambda loss: loss)[-2:]
    assert distance(outputs, plain_outputs) > 0.1 and distance(state, moved) > 0.01
    assert distance(grads, plain_grads) > 0.1


def test_dropout_goes_on_with_kept_statistics():
    t, params, state, batch, _, (outputs, _) = lossy(transfer.keep_stats, dropout=0.5)
    assert distance(outputs, t.predict({"params": params, **state}, batch)) > 0.1


class Anew(Small):
    remat: bool = True

    def features(self, x, *, train=False, row_mask=None):
        return {"stem": apply_block(self.conv, x, train=train, row_mask=row_mask, remat=self.remat)}


def test_kept_statistics_with_stages_computed_anew():
    """The backward pass traces a stage again, and must see the same norms."""
    results = []
    for model in (Small(), Anew()):
        t = jc.tasks.classification(model)
        variables = t.init(jax.random.key(0), rows().example())
        params, state = variables["params"], {"batch_stats": jax.tree.map(lambda x: x + 0.3, variables["batch_stats"])}
        batch = {k: jnp.asarray(v) for k, v in rows(24).arrays.items()}
        total = lambda p: transfer.keep_stats(t.loss)(p, state, batch, jax.random.key(1))[0].total  # noqa: B023
        results.append(jax.jit(jax.grad(total))(params))
    chex.assert_trees_all_close(*results, rtol=1e-4, atol=1e-5)


def test_what_is_constant_has_no_gradient():
    frozen, plain = (
        lossy(wrap)[-2] for wrap in (lambda loss: transfer.stop_gradient_on(loss, ["conv"]), lambda loss: loss)
    )
    assert all(not x.any() for x in jax.tree.leaves(frozen["conv"])) and any(
        x.any() for x in jax.tree.leaves(plain["conv"])
    )
    chex.assert_trees_all_close(frozen["logits"], plain["logits"], rtol=1e-5)


# --- networks


def test_groups_follow_what_depends_on_what():
    found = transfer.groups(jc.models.resnet18(cifar_stem=True, width=8), (16, 16, 3))
    stages = {f"stage{i}": (f"stages_{i - 1}_0", f"stages_{i - 1}_1") for i in (4, 3, 2, 1)}
    assert found == {"head": ("logits",), **stages, "stem": ("stem",)} and list(found) == ["head", *stages, "stem"]
    assert transfer.groups(jc.models.lenet5(), (28, 28, 1))["head"] == ("dense1", "dense2", "logits")


SMALL = ("cnn", "lenet5", "mlp", "resnet18", "tutorial")


@pytest.mark.parametrize(
    "name", [name if name in SMALL else pytest.param(name, marks=pytest.mark.slow) for name in jc.models.MODELS]
)
def test_every_parameter_of_the_zoo_is_in_one_group(name):
    model = jc.models.MODELS[name](num_classes=3)
    shape = (28, 28, 1) if name in ("lenet5", "tutorial") else (64, 64, 3)
    groups = transfer.groups(model, shape)
    params = jax.eval_shape(lambda key: model.init(key, jnp.zeros((1, *shape)), train=False), jax.random.key(0))[
        "params"
    ]
    for patterns in groups.values():
        assert min(jax.tree.leaves(optim.which(params, [g for g in groups.values() if g != patterns]))) == -1
    assert min(jax.tree.leaves(optim.which(params, list(groups.values())))) == 0 and "head" in groups


def variables_of(model, size=8):
    return jax.tree.map(
        np.asarray, model.init(jax.random.key(model.num_classes), jnp.zeros((1, size, size, 1)), train=False)
    )


def test_adopt_takes_all_but_the_head():
    new, old = variables_of(Small(4)), jax.tree.map(lambda x: x + 1, variables_of(Small(7)))
    taken = transfer.load_pretrained(new, old)
    chex.assert_trees_all_equal(taken["params"]["conv"], old["params"]["conv"])
    chex.assert_trees_all_equal(taken["batch_stats"], old["batch_stats"])
    chex.assert_trees_all_equal(taken["params"]["logits"], new["params"]["logits"])


@pytest.mark.parametrize(
    "old, head, line",
    [
        (Small(7), (), "differ in 2 of 7 arrays, first logits.bias, [4] in the new one and [7] in the pretrained one"),
        (jc.models.mlp(4), transfer.LAST_LAYER, "which the pretrained one lacks"),
        (Small(7), ("head",), "pattern 'head': names no parameter"),
    ],
)
def test_adopt_refuses_another_network(old, head, line):
    with pytest.raises(InputError) as caught:
        transfer.load_pretrained(variables_of(Small(4)), variables_of(old), head)
    assert line in str(caught.value) and "\n" not in str(caught.value)


# --- training only the head


def trained(t, tx, variables, data, strategy="jit", devices=1, steps=9, **options):
    run = jc.compile_step(jc.make_train_step(t, tx), strategy, devices)
    return jc.fit(
        run, jc.init_state(t, tx, data.example(), 3, variables), data, batch_size=24, steps=steps, **options
    ).state


def inputs(batch):
    return jc.tasks.prepare(batch["image"], 0.3, 0.3)


@pytest.mark.parametrize("dropout", [0.0, pytest.param(0.5, marks=pytest.mark.slow)])
def test_the_head_on_cached_features_is_that_of_the_frozen_network(dropout):
    model, data = Small(dropout=dropout), jc.data.Resident(rows().arrays, tuple("abcd"), seed=5)
    t, frozen = task(dropout=dropout), ["conv"]
    make = lambda: optim.freeze(optim.adamw(optim.cosine(1e-2, steps=9), weight_decay=0.1), frozen)
    variables = t.init(jax.random.key(7), data.example())
    whole = trained(t._replace(loss=transfer.keep_stats(t.loss)), make(), variables, data)
    kept = transfer.cached(model, variables, data, inputs, batch_size=40)
    assert kept.arrays["features"].shape == (96, 4, 4, 8) and kept.seed == 5
    alone = trained(transfer.head_task(model, t, (8, 8, 1)), make(), variables, kept)
    assert distance(whole.params["logits"], alone.params["logits"]) < 1e-5
    assert distance(alone.params["logits"], variables["params"]["logits"]) > 0.1
    chex.assert_trees_all_equal(jax.device_get(alone.params["conv"]), jax.device_get(variables["params"]["conv"]))
    chex.assert_trees_all_equal(
        jax.device_get(alone.model_state), jax.device_get({"batch_stats": variables["batch_stats"]})
    )
    batch = {k: jnp.asarray(v) for k, v in data.arrays.items()}
    own = transfer.head_task(model, t, (8, 8, 1)).predict(
        alone.variables, {"features": jnp.asarray(kept.arrays["features"])}
    )
    chex.assert_trees_all_close(own, t.predict(alone.variables, batch), rtol=1e-4, atol=1e-5)


def test_cached_rows_keep_their_weights_and_are_checked():
    model, t, data = Small(), task(), rows()
    variables = t.init(jax.random.key(7), data.example())
    weights = np.arange(data.size, dtype=np.float32)
    some = jc.data.Resident({**data.arrays, "sample_weight": weights})
    np.testing.assert_array_equal(transfer.cached(model, variables, some, inputs).arrays["sample_weight"], weights)
    bright = jc.data.Resident({**data.arrays, "image": data.arrays["image"].astype(np.float32)})
    with pytest.raises(InputError, match="divide by 255, or give uint8"):
        transfer.cached(model, variables, bright, inputs)


def test_gradual_unfreezing_resumes_exactly(tmp_path):
    t, groups = task(), list(transfer.groups(Small(), (8, 8, 1)).values())
    tx = optim.gradual_unfreezing(optim.layerwise_lr_decay(optim.adam(1e-2), groups, 0.5), groups, [0, 4])
    variables = t.init(jax.random.key(7), rows().example())
    straight = trained(t, tx, variables, rows())
    trained(t, tx, variables, rows(), steps=3, workdir=tmp_path)
    cut = trained(t, tx, variables, rows(), workdir=tmp_path)
    chex.assert_trees_all_equal(jax.device_get(straight.params), jax.device_get(cut.params))
    early = trained(t, tx, variables, rows(), steps=4)
    chex.assert_trees_all_equal(jax.device_get(early.params["conv"]), jax.device_get(variables["params"]["conv"]))
    assert distance(straight.params["conv"], variables["params"]["conv"]) > 1e-3


@pytest.mark.parametrize("strategy", ["sharded", "pmap"])
def test_on_eight_devices(strategy):
    t, groups = task(dropout=0.3), list(transfer.groups(Small(), (8, 8, 1)).values())
    t = t._replace(loss=transfer.keep_stats(transfer.stop_gradient_on(t.loss, [".*norm"])))
    variables = t.init(jax.random.key(7), rows().example())
    tx = optim.gradual_unfreezing(optim.freeze(optim.sgd(0.05, momentum=0.9), [".*norm"]), groups, [0, 2])
    one, eight = trained(t, tx, variables, rows(), steps=4), trained(t, tx, variables, rows(), strategy, 8, steps=4)
    assert distance(one.params, eight.params) < 1e-5
    chex.assert_trees_all_equal(
        jax.device_get(eight.model_state), jax.device_get({"batch_stats": variables["batch_stats"]})
    )


def test_few_draws_as_many_of_each_class():
    data = jc.data.Resident({"image": np.arange(40)[:, None], "label": np.arange(40) % 4}, tuple("abcd"))
    drawn = [transfer.few_shot_subset(data, 3, seed) for seed in (0, 0, 1)]
    assert all(np.bincount(d.label).tolist() == [3] * 4 and len(np.unique(d.arrays["image"])) == 12 for d in drawn)
    assert np.array_equal(drawn[0].arrays["image"], drawn[1].arrays["image"])
    assert not np.array_equal(drawn[0].arrays["image"], drawn[2].arrays["image"])
    streamed = jc.data.Indexed(
        lambda index: {"image": index[:, None], "label": index % 4}, 40, tuple("abcd"), label=np.arange(40) % 4
    )
    assert np.array_equal(transfer.few_shot_subset(streamed, 3).read(np.arange(12))["image"], drawn[0].arrays["image"])
