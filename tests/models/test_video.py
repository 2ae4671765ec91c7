"""Networks for videos and volumes: published sizes, gradients, and padding that changes nothing."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcnn as jc
from jaxcnn import InputError
from jaxcnn.models import VIDEO
from jaxcnn.runs.described import check_build
from jaxcnn.runs.load import example

CNN = {"name": "cnn", "options": {"widths": [4, 6]}}
SMALL = {
    "c3d": functools.partial(VIDEO["c3d"], widths=(4, 6), convs=(1, 2), hidden=(8,), dropout=0.0),
    "cnn3d": functools.partial(VIDEO["cnn3d"], widths=(4, 6), first_pool=(1, 2, 2)),
    "cnn_gru": functools.partial(VIDEO["cnn_gru"], backbone=CNN, hidden=6, bidirectional=True, layers=2),
    "cnn_gru flat": functools.partial(VIDEO["cnn_gru"], backbone=CNN, hidden=6, flatten=7, cell="lstm"),
    "r2plus1d_18": functools.partial(VIDEO["r2plus1d_18"], width=4, blocks=(1, 1)),
}
SHAPE = (5, 24, 24, 1)


def clips(rows=3):
    return jax.random.uniform(jax.random.key(0), (rows, *SHAPE))


@functools.cache
def made(name):
    model = SMALL[name](3)
    return model, jax.jit(functools.partial(model.init, train=False))(jax.random.key(1), clips())


def parameters(model):
    x = jax.ShapeDtypeStruct((1, *model.default_image), jnp.float32)
    variables = jax.eval_shape(lambda x: model.init(jax.random.key(0), x), x)
    return sum(x.size for x in jax.tree.leaves(variables["params"]))


@pytest.mark.parametrize("name, classes, size", [("c3d", 101, 78_409_573), ("r2plus1d_18", 400, 31_505_325)])
def test_sizes_are_the_published_ones(name, classes, size):
    assert parameters(VIDEO[name](classes)) == size


def test_every_network_is_in_the_table_and_tested():
    assert {name.split()[0] for name in SMALL} == set(VIDEO) <= set(jc.models.NETWORKS)


@pytest.mark.parametrize("name", SMALL)
def test_shapes_and_gradients(name):
    model, variables = made(name)
    state = {k: v for k, v in variables.items() if k != "params"}

    @jax.jit
    def loss(params):
        y, _ = model.apply({"params": params, **state}, clips(), train=True, mutable=["batch_stats"])
        return (y.astype(jnp.float32) ** 3).sum(), y

    slopes, y = jax.grad(loss, has_aux=True)(variables["params"])
    assert y.shape == (3, 3) and y.dtype == jnp.float32 and np.isfinite(y).all()
    still = [k for k, g in jax.tree_util.tree_leaves_with_path(slopes) if not np.abs(g).max() > 0]
    assert not still, still


@pytest.mark.parametrize(
    "name, train",
    [("cnn3d", False), ("cnn3d", True), ("cnn_gru", False), ("r2plus1d_18", False)]
    + [pytest.param(*case, marks=pytest.mark.slow) for case in (("cnn_gru", True), ("r2plus1d_18", True))]
    + [pytest.param("cnn_gru flat", train, marks=pytest.mark.slow) for train in (False, True)],
)
def test_padding_frames_and_rows_change_nothing(name, train):
    """Clips of 5, 3 and no frames within 6, with noise behind them, give what the clips of 5 and 3 frames give."""
    model, variables = made(name)
    x = clips()
    padded = jnp.concatenate([x, x[:, :1]], 1).at[1, 3:].set(0.7).at[2].set(jnp.nan)
    rows, length = jnp.array([1.0, 1, 0]), jnp.array([5, 3, 4])
    run = functools.partial(model.apply, variables, train=train, mutable=["batch_stats"] if train else [])
    y, state = jax.jit(run)(padded, length=length, row_mask=rows)
    if not train:
        for i in range(2):
            alone, _ = jax.jit(run)(x[i : i + 1, : length[i]])
            np.testing.assert_allclose(y[i : i + 1], alone, rtol=2e-5, atol=2e-6)
        return
    longer = jnp.concatenate([padded, jnp.full_like(padded[:, :2], 9.0)], 1)[:2]  # other padding, and no third row
    other, after = jax.jit(run)(longer, length=length[:2])
    np.testing.assert_allclose(y[:2], other, rtol=2e-4, atol=2e-5)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=2e-4, atol=1e-5), state, after)


def test_c3d_with_hidden_layers_ignores_what_lies_behind_the_length():
    model, variables = made("c3d")
    x, length = clips(), jnp.array([5, 3, 2])
    changed = x.at[1, 3:].set(0.9).at[2, 2:].set(jnp.nan)
    found = [model.apply(variables, one, length=length) for one in (x, changed)]
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize("name", ["cnn3d", "cnn_gru"])
def test_a_length_out_of_range_is_refused_or_nan(name):
    model, variables = made(name)
    for wrong in (6, 0):
        with pytest.raises(InputError, match=f"length={wrong}: must be [01] to 5, the number of steps in x"):
            model.apply(variables, clips(), length=jnp.array([wrong, 1, 1]))
    y = jax.jit(lambda n: model.apply(variables, clips(), length=n))(jnp.array([0, 1, 1]))
    assert np.isnan(y[0]).all() and np.isfinite(y[1:]).all()
    rows = jnp.array([0.0, 1, 1])  # padding may have no length
    assert np.isfinite(model.apply(variables, clips(), length=jnp.array([0, 1, 1]), row_mask=rows)[1:]).all()
    y = jax.jit(lambda n: model.apply(variables, clips(), length=n))(jnp.array([6, 1, 1]))
    assert np.isnan(y[0]).all() and np.isfinite(y[1:]).all()


@pytest.mark.parametrize("name", ["c3d", "cnn_gru flat", "r2plus1d_18"])
def test_summaries_count_what_there_is(name):
    model, variables = made(name)
    found = jc.summary(model, SHAPE)
    assert found.parameters == sum(x.size for x in jax.tree.leaves(variables["params"])) and found.flop > 0
    assert found.input == (1, *SHAPE)
    if name == "cnn_gru flat":  # products of five frames, and of five steps with the state
        rows = {row.name: row.flop for row in found.rows}
        assert rows["recurrent_0"] == 5 * 4 * 6 * 7 + 5 * 4 * 6 * 6 and rows["logits"] == 3 * 6


def described(name):
    options = {"num_classes": 3, **json.loads(json.dumps(SMALL[name].keywords))}
    return {
        "model": {"name": name, "options": options},
        "task": {"name": "classification", "options": {"dims": 3, "also": ["length"]}},
        "image": {"shape": list(SHAPE), "dtype": "uint8"}, "inputs": {"length": {"shape": [], "dtype": "int32"}},
    }  # fmt: skip


def test_a_description_builds_them():
    build = described("cnn_gru")
    check_build(build, "here", 3)
    task = jc.runs.build(build)[1]
    batch = example(build)
    assert batch["image"].shape == (1, *SHAPE) and batch["length"].shape == (1,)
    _, variables = made("cnn_gru")
    like = jax.eval_shape(lambda: task.init(jax.random.key(0), batch))
    assert jax.tree.map(jnp.shape, like) == jax.tree.map(jnp.shape, variables)
    image = np.zeros((2, *SHAPE), np.uint8)
    y = task.predict(variables, {"image": image, "length": np.array([5, 2], np.int32)})
    assert y.shape == (2, 3)
    with pytest.raises(InputError, match="must have 5 axes"):
        task.predict(variables, {"image": image[0], "length": np.array([5], np.int32)})


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cnn3d", "cnn_gru"])
def test_a_run_holds_and_loads_them(name, tmp_path):
    label = np.arange(12, dtype=np.int32) % 3
    image = np.random.default_rng(0).integers(0, 80, (12, *SHAPE)).astype(np.uint8)
    image[label == 1, :2] += 150
    image[label == 2, 3:] += 150
    rows = jc.data.Resident({"image": image, "label": label, "length": np.full(12, 5, np.int32)}, tuple("abc"))
    build = described(name)
    task = jc.runs.build(build)[1]
    plan = jc.Plan(
        task, jc.data.Splits(rows, rows, rows), lambda steps: jc.optim.adam(1e-2), batch_size=8, steps=4, build=build
    )
    summary = jc.train_run(plan, tmp_path / "run")
    loaded = jc.load_run(tmp_path / "run")
    again = jc.runs.evaluate(loaded, rows)
    assert again["count"] == 12 and again["loss"] == pytest.approx(summary["test"]["loss"], rel=1e-5)


def test_values_out_of_range_are_refused_in_one_line():
    for make, line in (
        (lambda: VIDEO["c3d"](2, widths=(4,), convs=(1, 1)), "widths and convs must have one value for each stage"),
        (lambda: VIDEO["c3d"](2, first_pool=(2, 2)), "first_pool=.2, 2.: must be three numbers"),
        (lambda: VIDEO["r2plus1d_18"](2, width=0), "width=0: must be at least 1"),
        (lambda: VIDEO["cnn_gru"](2, cell="rnn"), "cell='rnn': must be one of gru, lstm"),
        (lambda: VIDEO["cnn_gru"](2, hidden=0), "hidden=0, layers=1, flatten=0: must be at least 1"),
        (lambda: VIDEO["cnn_gru"](2, backbone="cm"), "'cm': not one of jaxcnn.models.MODELS"),
        (lambda: VIDEO["cnn3d"](2, dropout=1.0), "dropout=1.0: must be at least 0 and below 1"),
        (lambda: jc.summary("cnn3d", (28, 28, 1)), r"input=.28, 28, 1.: must be .depth, height, width, channels."),
    ):
        with pytest.raises(InputError, match=line):
            make()
    model, variables = made("cnn3d")
    with pytest.raises(InputError, match=r"must have 5 axes, \[batch, depth or time, height, width, channels\]"):
        model.apply(variables, clips()[0])
