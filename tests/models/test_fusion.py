"""A network of several inputs: what is absent changes nothing, training drops either, and mistakes are refused."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcnn as jc
from jaxcnn import InputError, runs
from jaxcnn.layers import BatchNorm, Dense
from jaxcnn.models.fusion import left_out
from tests.small import distance

ALSO = ("sound", "length", "present")


class Branch(nn.Module):
    """The mean of what is there, a norm over rows, and a layer."""

    num_classes: int = 4

    @nn.compact
    def __call__(self, x, *, length=None, train=False, row_mask=None):
        x = x.reshape(x.shape[0], -1)
        if length is not None:
            x = jnp.where(jnp.arange(x.shape[1])[None] < length[:, None], x, 0)
        x = BatchNorm()(Dense(6)(x), train=train, mask=row_mask)
        return Dense(self.num_classes)(x)


def net(**options):
    branches = {"image": Branch(), "sound": Branch(3)}
    return jc.models.fusion(3, branches, {"sound": ["length"]}, **options)


def rows(n=6, present=None):
    rng = np.random.default_rng(0)
    batch = {"image": rng.random((n, 2, 2, 1), np.float32), "sound": rng.normal(size=(n, 5)).astype(np.float32)}
    there = np.ones((n, 2), np.float32) if present is None else np.array(present, np.float32)
    return {**batch, "length": np.full(n, 4, np.int32), "present": there, "label": np.arange(n, dtype=np.int32) % 3}


@functools.cache
def made():
    task = jc.tasks.classification(net(), field="image", also=ALSO)
    return task, jax.jit(task.init)(jax.random.key(0), rows()), jax.jit(task.predict)


PRESENT = [[1, 1], [1, 0], [0, 1], [0, 1], [1, 0], [1, 1]]


def test_what_is_absent_changes_nothing():
    _, variables, predict = made()
    batch = rows(present=PRESENT)
    logits = np.asarray(predict(variables, batch))
    sound, image = batch["sound"].copy(), batch["image"].copy()
    sound[[1, 4]], image[[2, 3]] = np.nan, 0.5
    changed = {**batch, "sound": sound, "image": image, "length": np.array([4, -9, 4, 4, 99, 4], np.int32)}
    np.testing.assert_array_equal(predict(variables, changed), logits)
    assert np.isfinite(logits).all()
    all_there = np.asarray(predict(variables, rows()))
    np.testing.assert_allclose(logits[[0, 5]], all_there[[0, 5]], rtol=1e-6)
    assert np.abs(logits[1:5] - all_there[1:5]).max(1).min() > 1e-3  # and what is there does


def test_absent_inputs_do_not_reach_the_statistics_or_the_gradient():
    task, variables, _ = made()
    params, state = variables["params"], {k: v for k, v in variables.items() if k != "params"}

    def trained(batch):
        def total(p):
            mean, (_, changed) = task.loss(p, state, batch, jax.random.key(1))
            return mean.total, changed

        (_, changed), gradient = jax.jit(jax.value_and_grad(total, has_aux=True))(params)
        return changed, gradient

    batch = rows(present=PRESENT)
    other = {**batch, "sound": np.where(batch["present"][:, 1:] == 1, batch["sound"], np.nan)}
    (state_a, grad_a), (state_b, grad_b) = trained(batch), trained(other)
    assert distance(state_a, state_b) == 0 and distance(grad_a, grad_b) == 0
    kept = batch["present"][:, 1] == 1
    norm = state_a["batch_stats"]["branches_sound"]["BatchNorm_0"]["mean"]
    alone = Branch(3).apply(
        {"params": params["branches_sound"], "batch_stats": state["batch_stats"]["branches_sound"]},
        batch["sound"][kept], length=batch["length"][kept], train=True, mutable=["batch_stats"],
    )[1]["batch_stats"]["BatchNorm_0"]["mean"]  # fmt: skip
    np.testing.assert_allclose(norm, alone, rtol=1e-5, atol=1e-6)


def test_rows_without_an_input_and_other_values_are_nan():
    _, variables, predict = made()
    present = np.ones((6, 2), np.float32)
    present[1], present[2, 0], present[3, 1] = 0, 0.5, np.nan
    nan = np.isnan(predict(variables, rows(present=present))).all(1)
    assert nan.tolist() == [False, True, True, True, False, False]


def test_training_leaves_out_one_input_at_a_time():
    there = jnp.array([[1, 1, 1], [1, 0, 1], [0, 1, 0], [1, 1, 0]], bool).repeat(4000, 0)
    left = np.asarray(left_out(jax.random.key(0), there, 0.4)).reshape(4, 4000, 3)
    assert not (left & ~np.asarray(there).reshape(left.shape)).any() and left.any(-1).all()
    lost = np.asarray(there).reshape(left.shape).sum(-1) - left.sum(-1)
    assert lost.max() == 1 and not lost[2].any()
    np.testing.assert_allclose(lost.mean(1), [0.4, 0.4, 0, 0.4], atol=0.03)
    np.testing.assert_allclose(1 - left[0].mean(0), [0.4 / 3] * 3, atol=0.02)
    np.testing.assert_allclose(1 - left[1].mean(0), [0.2, 1, 0.2], atol=0.02)


@pytest.mark.parametrize("strategy", ["sharded", "pmap"])
def test_the_same_on_eight_devices(strategy):
    task = jc.tasks.classification(net(absent=0.5, dropout=0.2), field="image", also=ALSO)
    data, tx, found = jc.data.Resident(rows(16, PRESENT + [[1, 1]] * 10)), jc.optim.sgd(0.1), []
    for how in (("jit", 1), (strategy, 8)):
        run = jc.compile_step(jc.make_train_step(task, tx), *how)
        state = run.put(jc.init_state(task, tx, data.example()))
        state, _ = run.call(state, data.put(run.replicate).chunk(16, 0, 3, 3))
        found.append(jax.device_get(state.params))
    assert distance(*found) < 1e-5
    plain = jc.init_state(task, tx, data.example()).params
    assert distance(plain, found[0]) > 1e-3


def test_it_is_built_from_a_description():
    options = {
        "num_classes": 3, "absent": 0.2, "takes": {"sound": ["length"]},
        "branches": {
            "image": {"name": "mlp", "options": {"num_classes": 4, "widths": [4]}},
            "sound": {"name": "sound_cnn", "options": {"num_classes": 4, "widths": [4, 4]}},
        },
    }  # fmt: skip
    entry = {"shape": [8, 8, 1], "dtype": "uint8"}
    build = {
        "model": {"name": "fusion", "options": options}, "image": entry,
        "task": {"name": "classification", "options": {"field": "image", "also": list(ALSO)}},
        "inputs": {"sound": {"shape": [800], "dtype": "float32"}},
    }  # fmt: skip
    runs.schema.check_build(build, "here", 3)
    assert runs.build(build)[0].takes["sound"] == ("length",)
    for name, line in (("lenet6", "no such model"), ("unet", "no such model")):
        options["branches"]["image"] = {"name": name, "options": {}}
        with pytest.raises(InputError, match=line):
            runs.schema.check_build(build, "here", 3)
    options["branches"]["image"] = {"name": "mlp", "options": {"widths": [10**9]}}
    with pytest.raises(InputError, match="must be 0 to 65,536"):
        runs.schema.check_build(build, "here", 3)
    options["branches"]["image"] = {"name": "cnn_gru", "options": {"backbone": {"name": "mlp", "options": {"x": 1}}}}
    with pytest.raises(InputError, match="no such option"):
        runs.schema.check_build(build, "here", 3)


@pytest.mark.parametrize("branches, takes, options, line", [
    ({"image": "cnn"}, None, {}, "at least two"),
    ({"image": "cnn", "present": "cnn"}, None, {}, "'present': cannot be the name of an input"),
    ({"image": "cnn", "a b": "cnn"}, None, {}, "'a b': cannot be the name"),
    ({"image": "cnn", "audio": "sound_cn"}, None, {}, "did you mean sound_cnn"),
    ({"image": "cnn", "audio": "cnn"}, {"sound": ["length"]}, {}, "takes: 'sound' does not fit"),
    ({"image": "cnn", "audio": "cnn"}, {"audio": ["image"]}, {}, "takes: 'image' does not fit"),
    (None, None, {"absent": 1.5}, "absent=1.5: must be in 0..1"),
    (None, None, {"dropout": 1.0}, "dropout=1.0"),
])  # fmt: skip
def test_wrong_options_are_one_line(branches, takes, options, line):
    with pytest.raises(InputError, match=line):
        jc.models.fusion(3, branches, takes, **options)


@pytest.mark.parametrize("change, line", [
    ({"length": None}, "'length' is missing"), ({"other": np.zeros(6)}, "'other' is taken by no branch"),
    ({"present": np.ones((6, 3))}, r"present of shape \(6, 3\): must be \(6, 2\)"),
    ({"sound": np.zeros((5, 5))}, r"'sound' of shape \(5, 5\): must have 6 rows"),
])  # fmt: skip
def test_wrong_inputs_are_one_line(change, line):
    batch = rows()
    given = {k: v for k, v in ({k: batch[k] for k in ALSO} | change).items() if v is not None}
    with pytest.raises(InputError, match=line):
        net().init(jax.random.key(0), batch["image"], **given)


def test_one_vector_per_row():
    class Flat(nn.Module):
        @nn.compact
        def __call__(self, x):
            return x

    with pytest.raises(InputError, match=r"branches\['b'\]: returned \(2, 3, 3\)"):
        jc.models.fusion(2, {"a": Branch(), "b": Flat()}).init(
            jax.random.key(0), jnp.ones((2, 4)), b=jnp.ones((2, 3, 3))
        )
