"""FixMatch: its batches, its loss by hand, training without the other rows, and the same on any devices."""

import chex
import jax
import numpy as np
import optax
import pytest

import jaxcnn as jc
from jaxcnn.methods import fixmatch, semi_supervised
from tests.small import Plain, distance, rows, task


def same(key, batch):
    del key
    return batch


def darker(key, batch):
    del key
    return {**batch, "image": batch["image"] / np.float32(255) * 0.5}


WEAK = jc.augment.compose(jc.augment.flip, jc.augment.shift(1))
STRONG = jc.augment.compose(WEAK, jc.augment.cutout(4))


@pytest.fixture(scope="module")
def mixed():
    data = rows(64)
    return semi_supervised(data.take(np.arange(20)), data, ratio=3)


def shapes(strong, data):
    loss = fixmatch(task(), same, strong).loss
    return jax.eval_shape(lambda batch, key: loss({}, {}, batch, key), data.chunk(2, 0, 1, 1).at(0), jax.random.key(0))


def fit(made, data, steps, *how, wrap=lambda step: step):
    tx = optax.sgd(0.05)
    run = jc.compile_step(wrap(jc.make_train_step(made, tx)), *how)
    return jc.fit(run, jc.init_state(made, tx, data.example()), data, batch_size=12, steps=steps, log=None)


def test_batches_have_labelled_rows_with_others_beside_them(mixed):
    plain = mixed.take(np.arange(20))
    whole, later = mixed.chunk(4, 0, 16, 16), mixed.chunk(4, 5, 3, 8)
    np.testing.assert_array_equal(whole.index[5:8], later.index[:3])  # batch t depends on the seed and t alone
    labelled = jc.data.Resident(plain.arrays, plain.classes).chunk(4, 0, 16, 16)
    np.testing.assert_array_equal(whole.index[..., 0], labelled.index)
    others = whole.index[..., 1:].reshape(-1)
    for k in range(0, len(others), 64):
        assert sorted(others[k : k + 64]) == list(range(64))  # each once per pass
    batch = whole.at(2)
    assert batch["image"].shape == (4, 8, 8, 1) and batch["unlabelled"].shape == (4, 3, 8, 8, 1)
    np.testing.assert_array_equal(batch["unlabelled"][1], np.asarray(mixed.unlabelled)[whole.index[2, 1, 1:]])
    chunk = mixed.chunk(4, 0, 2, 2, 8)
    assert chunk.index.shape == (2, 8, 4) and chunk.row_mask.tolist() == [[1] * 4 + [0] * 4] * 2
    chex.assert_trees_all_equal_shapes_and_dtypes(mixed.example(), mixed.chunk(1, 0, 1, 1).at(0))


def test_the_loss_by_hand(mixed):
    made = jc.tasks.classification(Plain())
    variables = made.init(jax.random.key(1), mixed.example())
    batch = {**mixed.chunk(4, 0, 1, 1).at(0), "row_mask": np.array([1.0, 1, 1, 0], np.float32)}

    def logits(image):
        return np.asarray(made.predict(variables, {"image": image}), np.float64)

    def log_p(x):
        return x - np.log(np.exp(x).sum(-1, keepdims=True))

    own = -log_p(logits(batch["image"]))[np.arange(4), batch["label"]][:3]
    others = batch["unlabelled"][:3].reshape(9, 8, 8, 1)
    guess = np.exp(log_p(logits(others)))
    learned = -log_p(logits(others.astype(np.float32) / 255 * 0.5))[np.arange(9), guess.argmax(1)]
    threshold = float(np.sort(guess.max(1))[3:5].mean())
    sure = guess.max(1) >= threshold
    assert sure.sum() == 5
    wrapped = fixmatch(made, same, darker, weight=0.7, threshold=threshold)
    mean, (outputs, _) = jax.jit(wrapped.loss)(variables["params"], {}, batch, jax.random.key(0))
    assert mean.compute() == pytest.approx(own.mean() + 0.7 * (learned * sure).mean(), rel=1e-4)
    found = wrapped.metrics["confident"](outputs, batch)
    assert found.compute() == pytest.approx(sure.mean()) and float(found.weight) == 9
    plain = wrapped.metrics["confident"](wrapped.predict(variables, batch), batch)
    assert plain.compute() == pytest.approx((np.exp(log_p(logits(batch["image"])))[:3].max(1) >= threshold).mean())


def test_the_class_that_is_learned_has_no_gradient(mixed):
    """With equal changes, the slope is that of the mean of both losses at fixed classes."""
    made = jc.tasks.classification(Plain())
    variables = made.init(jax.random.key(1), mixed.example())
    batch = mixed.chunk(4, 0, 1, 1).at(0)
    both = fixmatch(made, same, same, threshold=1e-3)

    def value(params):
        mean = both.loss(params, {}, batch, jax.random.key(0))[0]
        return mean.total / mean.weight

    others = batch["unlabelled"].reshape(12, 8, 8, 1)
    guess = np.asarray(made.predict(variables, {"image": others})).argmax(1)

    def fixed(params):
        one, two = (
            made.loss(params, {}, {"image": x, "label": y}, jax.random.key(0))[0]
            for x, y in ((batch["image"], batch["label"]), (others, guess))
        )
        return one.total / one.weight + two.total / two.weight

    slopes = jax.jit(lambda params: (jax.grad(value)(params), jax.grad(fixed)(params)))(variables["params"])
    chex.assert_trees_all_close(*slopes, rtol=1e-4, atol=1e-6)


def test_a_weight_of_zero_is_training_on_the_labelled_rows(mixed):
    labelled = jc.data.Resident(dict(mixed.arrays), mixed.classes)
    made = task(dropout=0.3)
    semi = fit(fixmatch(made, WEAK, STRONG, weight=0.0), mixed, 4, "jit")
    plain = fit(made, labelled, 4, "jit")
    chex.assert_trees_all_equal(semi.state.params, plain.state.params)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["sharded", "pmap"])
def test_the_same_on_eight_devices(mixed, strategy):
    made = fixmatch(task(dropout=0.3), WEAK, STRONG, threshold=0.3)

    def wrap(step):
        return jc.augmented(step, WEAK)

    one, eight = ([fit(made, mixed, n, *how, wrap=wrap) for n in (1, 20)] for how in (("jit", 1), (strategy, 8)))
    assert distance(one[0].state.params, eight[0].state.params) < 1e-5
    assert one[1].history[-1]["train/loss"] == pytest.approx(eight[1].history[-1]["train/loss"], rel=1e-3)
    assert one[1].history[-1]["train/count"] == eight[1].history[-1]["train/count"] == 240


def test_unlabelled_rows_are_part_of_what_a_run_is_recognised_by(mixed, tmp_path):
    from jaxcnn.runs.ready import data_digest

    assert data_digest(mixed) != data_digest(semi_supervised(mixed.take(np.arange(20)), mixed.unlabelled[:-1], ratio=3))


@pytest.mark.parametrize(
    "pixels, line",
    [
        (lambda x: x * 255, "unlabelled: float images from 0 to .*; divide by 255"),
        (
            lambda x: np.where(np.arange(len(x))[:, None, None, None] == 3, np.nan, x),
            "unlabelled: float images from nan",
        ),
    ],
)
def test_rows_without_a_label_are_checked_before_training(pixels, line):
    data = rows(12)
    image = data.arrays["image"].astype(np.float32) / 255
    mixed = semi_supervised(jc.data.Resident({**data.arrays, "image": image}, data.classes), pixels(image), ratio=2)
    with pytest.raises(jc.InputError, match=line):
        fit(fixmatch(task(), same, same), mixed, 1, "jit", 1)


def test_a_check_of_ones_own_may_read_the_label():
    seen = []
    own = task()._replace(check=lambda rows: seen.append(rows["label"]))
    fit(fixmatch(own, same, same), semi_supervised(rows(12), rows(12), ratio=2), 1, "jit", 1)
    assert seen


@pytest.mark.parametrize(
    "wrong, line",
    [
        (lambda: fixmatch(task(), same, same, weight=-1.0), "weight=-1.0"),
        (lambda: fixmatch(task(), same, same, threshold=0.0), "threshold=0.0"),
        (lambda: fixmatch(jc.tasks.classification(Plain(), head="multilabel"), same, same), "several labels per row"),
        (lambda: semi_supervised(rows(4), rows(4), ratio=0), "ratio=0"),
        (lambda: semi_supervised(rows(4), rows(4), ratio=2.5), "ratio=2.5"),
        (lambda: semi_supervised(rows(4).arrays, rows(4)), "labelled=dict: must be rows in memory"),
        (lambda: semi_supervised(rows(4), rows(4, size=6)), "like the labelled ones"),
        (lambda: semi_supervised(rows(4), np.zeros((0, 8, 8, 1), np.uint8)), "0 rows"),
        (lambda: semi_supervised(rows(4), rows(4), field="volume"), "field='volume'"),
        (lambda: shapes(same, rows(4)), "no 'unlabelled', only image, label"),
        (
            lambda: shapes(jc.augment.random_resized_crop(4), semi_supervised(rows(4), rows(4), ratio=2)),
            "must keep the size",
        ),
    ],
)
def test_bad_values_are_one_line(wrong, line):
    with pytest.raises(jc.InputError, match=line) as caught:
        wrong()
    assert "\n" not in str(caught.value)
