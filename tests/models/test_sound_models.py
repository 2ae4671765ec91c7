"""Networks for sound: padding changes nothing, and bad values are refused or become NaN."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcnn as jc
from jaxcnn import InputError, models
from tests.small import distance

SMALL = {
    "sound_cnn": {"rate": 800, "n_fft": 32, "hop": 10, "n_mels": 8, "widths": (4, 6)},
    "wave_cnn": {"widths": (4, 6, 8), "window": 10, "stride": 4, "pool": 3},
}
PARAMETERS = {  # kernels, scales and shifts of norms, and the last layer
    "sound_cnn": 9 * (32 + 32 * 32 + 32 * 64 + 64 * 64 + 64 * 128 + 128 * 128) + 4 * (32 + 64 + 128) + 129 * 10,
    "wave_cnn": 80 * 128 + 3 * (128 * 128 + 128 * 256 + 256 * 512) + 2 * (128 + 128 + 256 + 512) + 513 * 10,
}
KEY = {"dropout": jax.random.key(0)}
SLOW = pytest.mark.slow
NETS = pytest.mark.parametrize(
    "name, options",
    [
        ("sound_cnn", {"normalise": "running"}), ("wave_cnn", {}), pytest.param("sound_cnn", {}, marks=SLOW),
        pytest.param("sound_cnn", {"normalise": "bands"}, marks=SLOW),
    ],
)  # fmt: skip


def sounds(samples=137, rows=4, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.uniform(-1, 1, (rows, samples)).astype(np.float32)
    length = np.array([samples, 1, 37, 100][:rows], np.int32)
    return np.where(np.arange(samples) < length[:, None], x, 0).astype(np.float32), length


@functools.cache
def made(name, **options):
    model = models.SOUNDS[name](3, **SMALL[name] | options)
    x, length = sounds()
    return model, jax.jit(lambda: model.init(jax.random.key(1), x, length=length))()


def test_the_table():
    assert models.SOUNDS.keys() == PARAMETERS.keys() and models.SOUNDS.items() <= models.NETWORKS.items()


@pytest.mark.parametrize("name", PARAMETERS)
def test_number_of_parameters(name):
    model = models.SOUNDS[name]()
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, *model.default_image)))
    assert sum(x.size for x in jax.tree.leaves(shapes["params"])) == PARAMETERS[name]


@pytest.mark.parametrize("name, options", [("sound_cnn", {}), ("wave_cnn", {})])
def test_padding_changes_nothing(name, options):
    model, variables = made(name, **options)
    x, length = sounds()
    apply = jax.jit(lambda x, length: model.apply(variables, x, length=length))
    logits = np.asarray(apply(x, length))
    assert np.isfinite(logits).all() and np.ptp(logits, 0).min() > 1e-3
    padded = np.pad(x, ((0, 0), (0, 41)), constant_values=np.nan)
    np.testing.assert_allclose(apply(padded, length), logits, atol=1e-5)
    alone = jax.jit(lambda x: model.apply(variables, x))(x[2:3, : length[2]])
    np.testing.assert_allclose(alone[0], logits[2], atol=1e-5)


@pytest.mark.slow
@NETS
def test_padding_of_any_length_changes_nothing(name, options):
    model, variables = made(name, **options)
    x, length = sounds()
    apply = jax.jit(lambda x, length: model.apply(variables, x, length=length))
    logits = np.asarray(apply(x, length))
    for further in (1, 2, 3, 5, 7, 40):
        padded = np.pad(x, ((0, 0), (0, further)), constant_values=np.nan)
        np.testing.assert_allclose(apply(padded, length), logits, atol=1e-5)
    for row, n in zip(range(4), length, strict=True):
        np.testing.assert_allclose(apply(x[row : row + 1, :n], length[row : row + 1])[0], logits[row], atol=1e-5)


@NETS
def test_padding_changes_nothing_in_training(name, options):
    model, variables = made(name, **options)
    x, length = sounds()
    key = {"dropout": jax.random.key(3)}
    run = jax.jit(
        lambda x, length, mask: model.apply(
            variables, x, length=length, train=True, row_mask=mask, rngs=key, mutable=["batch_stats"]
        )
    )
    logits, state = run(x, length, jnp.ones(4))
    more = np.concatenate([np.pad(x, ((0, 0), (0, 9))), np.full((2, 146), 7, np.float32)])
    padded, other = run(more, np.append(length, [0, 146]).astype(np.int32), jnp.array([1.0, 1, 1, 1, 0, 0]))
    np.testing.assert_allclose(padded[:4], logits, atol=1e-5)
    assert distance(state, other) < 1e-5


@NETS
def test_each_parameter_has_a_gradient(name, options):
    model, variables = made(name, **options)
    x, length = sounds()

    def loss(params):
        given = {**variables, "params": params}
        return jnp.square(model.apply(given, x, length=length, train=True, rngs=KEY, mutable=["batch_stats"])[0]).sum()

    grads = jax.jit(jax.grad(loss))(variables["params"])
    assert all(np.isfinite(g).all() and np.abs(g).max() > 0 for g in jax.tree.leaves(grads))


@SLOW
@pytest.mark.parametrize("name", SMALL)
def test_derivatives(name):
    with jax.enable_x64(True):
        model = models.SOUNDS[name](3, **SMALL[name], dtype="float64")
        rng, length = np.random.default_rng(0), np.array([41, 23], np.int32)
        x, v = (jnp.asarray(rng.uniform(-1, 1, (2, 41))) for _ in range(2))
        variables = jax.jit(lambda: model.init(jax.random.key(1), x, length=length))()
        f = jax.jit(lambda x: model.apply(variables, x, length=length))
        slope = jax.jit(lambda x: jax.jvp(f, (x,), (v,))[1])(x)
        step = 1e-7  # rectifiers have kinks
        np.testing.assert_allclose(slope, (f(x + step * v) - f(x - step * v)) / (2 * step), rtol=1e-4, atol=1e-4)
        back = jax.grad(lambda x: f(x)[:, 0].sum())
        twice, first = jax.jit(lambda x: jax.jvp(back, (x,), (v,))[::-1])(x)
        np.testing.assert_allclose((first * v).sum(), slope[:, 0].sum(), rtol=1e-6)
    assert np.isfinite(twice).all()
    assert not np.asarray(first)[1, 23:].any()


@pytest.mark.parametrize("name", SMALL)
def test_impossible_values_become_nan(name):
    model, variables = made(name)
    x, _ = sounds()
    x[2, 50] = np.nan
    apply = jax.jit(lambda x, length: model.apply(variables, x, length=length))
    found = [np.isnan(apply(x, np.array(n, np.int32))).all(1).tolist() for n in ([0, 138, 60, 100], [-1, 137, 50, 1])]
    assert found == [[True, True, True, False], [True, False, False, False]]
    assert np.isfinite(apply(x, np.array([1, 1, 50, 1], np.int32))).all()


@pytest.mark.parametrize("name", SMALL)
def test_wrong_inputs(name):
    model, variables = made(name)
    x, length = sounds()
    for given, more, line in (
        (x[..., None], {}, r"audio of shape \(4, 137, 1\): must be \[batch, samples\]"),
        ((x * 32767).astype(np.int16), {}, "audio of dtype int16: must be floats in -1..1"),
        (x, {"length": length[:2]}, r"length of shape \(2,\) and dtype int32: must be \(4,\), integers"),
        (x, {"length": length.astype(np.float32)}, "dtype float32"),
    ):
        with pytest.raises(InputError, match=line):
            model.apply(variables, given, **more)


@pytest.mark.parametrize(
    "name, options, line",
    [
        ("sound_cnn", {"normalise": "all"}, "normalise='all'"),
        ("sound_cnn", {"widths": ()}, "widths"),
        ("sound_cnn", {"n_mels": 200}, "n_mels=200: band 0"),
        ("sound_cnn", {"high": 5000.0}, "high=5000.0"),
        ("sound_cnn", {"hop": 0}, "hop=0"),
        ("sound_cnn", {"time_masks": -1}, "time_masks=-1"),
        ("sound_cnn", {"dropout": 1.0}, "dropout=1.0"),
        ("wave_cnn", {"pool": 1}, "pool=1"),
        ("wave_cnn", {"window": 3}, "window=3, stride=4"),
    ],
)
def test_options_refused(name, options, line):
    with pytest.raises(InputError, match=line):
        models.SOUNDS[name](3, **options)


def test_loudness_changes_nothing():
    x, length = sounds()
    x[1] = x[0]
    model, variables = made("sound_cnn")
    apply = jax.jit(lambda x: model.apply(variables, x, length=length))
    np.testing.assert_allclose(apply(0.5 * x), apply(x), atol=1e-3)


def test_masks_are_for_training_only():
    model, variables = made("sound_cnn", time_masks=2, mel_masks=2, time_width=5, mel_width=3)
    x, length = sounds()
    trained = jax.jit(
        lambda key: model.apply(
            variables, x, length=length, train=True, rngs={"dropout": key}, mutable=["batch_stats"], method="features"
        )[0]["spectrogram"]
    )
    first, again, other = (np.asarray(trained(jax.random.key(k))) for k in (0, 0, 1))
    plain = jax.jit(lambda: model.apply(variables, x, length=length, method="features")["spectrogram"])()
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other) and (first != 0).sum() < (plain != 0).sum()
    np.testing.assert_array_equal(np.where(first == 0, 0, plain), first)


def rows(n=48):
    rng = np.random.default_rng(0)
    label, length = rng.integers(0, 3, n).astype(np.int32), rng.integers(60, 138, n).astype(np.int32)
    tone = np.sin(np.arange(137) * (0.3 + 0.6 * label[:, None])) * 0.5 + 0.05 * rng.standard_normal((n, 137))
    audio = np.where(np.arange(137) < length[:, None], tone, 0).astype(np.float32)
    return jc.data.Resident({"audio": audio, "length": length, "label": label}, ("a", "b", "c"))


def stepped(task, tx, strategy, devices):
    change = jc.augment.compose(jc.augment.time_shift(10), jc.augment.add_noise(), jc.augment.gain())
    step = jc.compile_step(jc.augmented(jc.make_train_step(task, tx), change), strategy, devices)
    state = jc.init_state(task, tx, rows().example())
    return jc.fit(step, state, rows(), batch_size=24, steps=6, every=6, log=None)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["pmap", "sharded"])
@pytest.mark.parametrize("name", SMALL)
def test_devices_agree(name, strategy):
    masks = {"time_masks": 1, "mel_masks": 1} if name == "sound_cnn" else {}
    model = models.SOUNDS[name](3, **SMALL[name] | masks, dropout=0.2)
    task, tx = jc.tasks.classification(model, field="audio", also=("length",)), jc.optim.adam(1e-2)
    alone, several = stepped(task, tx, "jit", 1), stepped(task, tx, strategy, 2)
    assert distance(alone.state.params, several.state.params) < 1e-4


def test_parts_of_a_batch_are_masked_and_normalised_like_the_whole():
    model, variables = made("sound_cnn", normalise="running", time_masks=2, mel_masks=1, dropout=0.2)
    x, length = sounds()

    def run(x, length):
        return model.apply(variables, x, length=length, train=True, rngs=KEY, mutable=["batch_stats"])

    whole, state = jax.jit(run)(x, length)
    parts = [a.reshape(2, 2, *a.shape[1:]) for a in (x, length)]
    split, states = jax.pmap(run, axis_name="data", devices=jax.devices()[:2])(*parts)
    np.testing.assert_allclose(split.reshape(4, 3), whole, atol=1e-4)
    assert distance(state, jax.tree.map(lambda a: a[0], states)) < 1e-5
