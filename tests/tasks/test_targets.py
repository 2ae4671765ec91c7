"""Labels and pixels in other forms are read correctly or refused: by tasks, fit, evaluate and compiled programs."""

import functools
import pathlib

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxcnn as jc
from jaxcnn import InputError, augment, losses
from jaxcnn.core.types import compute
from jaxcnn.data import Indexed, Resident
from jaxcnn.methods import group_dro
from jaxcnn.tasks import classification, expecting

KEY = jax.random.key(3)
ROWS, CLASSES = 12, 7
LOGITS = np.random.default_rng(0).normal(size=(ROWS, CLASSES)).astype(np.float32) * 3
LABEL = np.random.default_rng(1).integers(0, CLASSES, ROWS).astype(np.int32)
TWO = (LABEL % 2).astype(np.int32)
MANY = (np.random.default_rng(2).random((ROWS, CLASSES)) < 0.4).astype(np.int32)
HEADS = {"softmax": (CLASSES, LABEL), "sigmoid": (1, TWO), "multilabel": (CLASSES, MANY)}


class Table(nn.Module):
    """A model whose logits are looked up by the first pixel, the number of the row."""

    num_classes: int = CLASSES

    @nn.compact
    def __call__(self, x, *, train=False, row_mask=None):
        row = jnp.round(x[:, 0, 0, 0] * 255).astype(jnp.int32)
        return self.param("table", lambda key: jnp.asarray(LOGITS[:, : self.num_classes]))[row]


def rows(label, **more):
    return {
        "image": np.arange(ROWS, dtype=np.uint8)[:, None, None, None] * np.ones((1, 6, 6, 1), np.uint8),
        "label": label,
        **more,
    }


def made(head="softmax", classes=None, **options):
    return classification(Table(HEADS[head][0] if classes is None else classes), head=head, **options)


@functools.lru_cache(maxsize=64)
def _program(head, classes, options, traced):
    task = made(head, classes, **dict(options))
    start = {"table": jnp.asarray(LOGITS[:, : classes or HEADS[head][0]])}

    def measured(batch):
        def total(params):
            mean, (outputs, _) = task.loss(params, {}, batch, KEY)
            return mean.total / mean.weight, (mean, outputs)

        slope, (mean, outputs) = jax.grad(total, has_aux=True)(start)
        return slope["table"], {name: metric(outputs, batch) for name, metric in task.metrics.items()} | {"loss": mean}

    return jax.jit(measured) if traced else measured


def measured(batch, head="softmax", classes=None, traced=True, **options):
    """Return the gradient and the metrics of a batch, as in a training step."""
    slope, sums = _program(head, classes, tuple(sorted(options.items())), traced)(batch)
    return np.asarray(slope), compute(jax.device_get(sums))


def same(found, expected, **tolerance):
    np.testing.assert_allclose(found[0], expected[0], **tolerance)
    assert found[1].keys() == expected[1].keys()
    for name, value in expected[1].items():
        np.testing.assert_allclose(found[1][name], value, err_msg=name, **tolerance)


def refused(words, fn, *args, **options):
    with pytest.raises(InputError) as caught:
        fn(*args, **options)
    assert words in str(caught.value) and "\n" not in str(caught.value), str(caught.value)


FORMS = {
    "sigmoid": [
        lambda y: y.astype(np.float32),
        lambda y: y.astype(bool),
        lambda y: y[:, None],
        lambda y: y.astype(np.float64)[:, None],
        lambda y: y.astype(bool)[:, None],
        lambda y: jnp.asarray(y, jnp.bfloat16),
        lambda y: np.eye(2, dtype=np.int64)[y],
    ],
    "softmax": [
        lambda y: y.astype(np.float64),
        lambda y: y.astype(np.uint8)[:, None],
        lambda y: y.astype(np.float32)[:, None],
        lambda y: np.eye(CLASSES, dtype=bool)[y],
        lambda y: np.eye(CLASSES, dtype=np.float32)[y],
    ],
    "multilabel": [lambda y: y.astype(bool), lambda y: y.astype(np.float32)],
}


@pytest.mark.parametrize("head", FORMS)
def test_every_form_of_the_same_labels_gives_the_same_numbers(head):
    expected = measured(rows(HEADS[head][1]), head)
    task = made(head)
    for form in FORMS[head]:
        given = rows(form(HEADS[head][1]))
        task.check(given)
        exact = np.asarray(given["label"]).shape[-1] != CLASSES or head == "multilabel"
        same(measured(given, head), expected, rtol=0 if exact else 1e-6)
    same(measured(rows(FORMS[head][0](HEADS[head][1])), head, traced=False), expected, rtol=1e-6)


def test_probabilities_of_one_logit_are_those_of_class_1():
    p = np.linspace(0, 1, ROWS).astype(np.float32)
    z = LOGITS[:, 0].astype(np.float64)
    right = np.mean(p * np.log1p(np.exp(-z)) + (1 - p) * np.log1p(np.exp(z)))
    for label in (p, p[:, None], np.stack([1 - p, p], -1)):
        found = measured(rows(label), "sigmoid")[1]
        assert found["loss"] == pytest.approx(right, rel=1e-6) and found["count"] == ROWS == found["confusion"].sum()
        assert found["accuracy"] == pytest.approx(np.mean((z > 0) == (p > 0.5)))


@pytest.mark.parametrize("make", [augment.mixup, pytest.param(augment.cutmix, marks=pytest.mark.slow)])
def test_mixed_labels_of_one_logit(make):
    change = jax.jit(make(1.0, num_classes=2))
    expected = change(KEY, rows(TWO))
    for form in FORMS["sigmoid"][:5]:
        chex.assert_trees_all_equal(change(KEY, rows(form(TWO))), expected)
    chex.assert_trees_all_equal(jax.jit(make(1.0))(KEY, rows(np.eye(2, dtype=int)[TWO])), expected)
    p, z = np.asarray(expected["label"], np.float64)[:, 1], LOGITS[:, 0].astype(np.float64)
    right = np.mean(p * np.log1p(np.exp(-z)) + (1 - p) * np.log1p(np.exp(z)))
    found = measured(rows(expected["label"]), "sigmoid")[1]
    assert found["loss"] == pytest.approx(right, rel=1e-6) and found["count"] == ROWS
    assert ((0 < p) & (p < 1)).any()


@pytest.mark.parametrize("make", [augment.mixup, augment.cutmix])
def test_rows_without_a_label_are_not_mixed(make):
    label = np.where(np.arange(ROWS) % 3 == 0, 255, LABEL).astype(np.uint8)
    out = jax.jit(make(1.0, num_classes=CLASSES))(KEY, rows(label))
    assert (out["label"][::3] == 0).all()
    np.testing.assert_allclose(out["label"].sum(-1), label != 255, atol=1e-6)
    np.testing.assert_array_equal(out["label"][1::3], np.eye(CLASSES)[LABEL[1::3]])  # whose partner has none
    assert (out["label"][2::3].max(-1) < 1).any()
    kept = label != 255
    found, expected = (
        measured(rows(y, row_mask=kept.astype(np.float32)), ignore_label=255) for y in (out["label"], LABEL)
    )
    assert found[1]["count"] == expected[1]["count"] == kept.sum()
    assert np.isnan(measured(rows(out["label"]))[1]["loss"])  # which labels to ignore was not stated


REFUSED = {
    "labels are 1 to 7, with 7 classes they must be 0 to 6: subtract 1": ("softmax", np.arange(ROWS) % 7 + 1),
    "labels are -1 to 6, with 7 classes they must be 0 to 6: use ignore_label=-1": (
        "softmax",
        np.where(np.arange(ROWS) % 2, LABEL, -1),
    ),
    "labels are 0 to 255, with 7 classes they must be 0 to 6: use ignore_label=255": (
        "softmax",
        np.append(LABEL[1:] % 2, 255),
    ),
    "labels are 1 to 91, with 7 classes": ("softmax", np.arange(ROWS) % 10 * 10 + 1),
    "labels are 0 to 4.29497e+09": ("softmax", np.append(LABEL[1:] % 2, 2**32 + 1)),  # 1 once it is int32
    "label 0.5: labels [N] must be whole numbers from 0 to 6": (
        "softmax",
        LABEL + 0.5 * (np.arange(ROWS) == 0) - LABEL[0],
    ),
    "label nan: must be a finite number": ("softmax", np.where(np.arange(ROWS) == 3, np.nan, LABEL)),
    "label inf: must be a finite number": ("sigmoid", np.where(np.arange(ROWS) == 3, np.inf, TWO)),
    "labels of dtype <U3: must be whole numbers from 0 to 6; number them with": ("softmax", np.array(["cat"] * ROWS)),
    "labels of dtype complex128": ("softmax", LABEL * 1j),
    "labels of dtype object": ("softmax", LABEL.astype(object)),
    "labels of shape (12, 3): head 'softmax' needs [N] from 0 to 6, or probabilities [N, 7]": (
        "softmax",
        np.zeros((ROWS, 3)),
    ),
    "labels of shape (12, 2, 2)": ("softmax", np.zeros((ROWS, 2, 2), int)),
    "labels of shape ()": ("softmax", np.int32(1)),
    "row 0 sums to 3; probabilities must not be negative and must sum to 1; "
    'for several labels per row use head="multilabel"': (
        "softmax",
        np.ones((ROWS, 1), int) * np.array([1, 1, 1, 0, 0, 0, 0]),
    ),
    "row 0 has -0.5; probabilities must not be negative": (
        "softmax",
        np.ones((ROWS, 1)) * np.array([-0.5, 1.5, 0, 0, 0, 0, 0]),
    ),
    "labels are -1 to 1, with 2 classes they must be 0 to 1: use (label + 1) // 2": ("sigmoid", TWO * 2 - 1),
    "labels are 1 to 2, with 2 classes they must be 0 to 1: subtract 1": ("sigmoid", TWO + 1),
    "labels are 0 to 255, with 2 classes": ("sigmoid", TWO.astype(np.uint8) * 255),
    "labels are -1 to 1, must be 0 or 1": ("sigmoid", TWO * 2.0 - 1),
    "labels of shape (12, 7): head 'sigmoid' needs [N]": ("sigmoid", MANY),
    "labels are 0 to 2, must be 0 or 1, or between them": ("multilabel", MANY * 2),
    "labels are -1 to 1, must be 0 or 1, or between them": ("multilabel", np.where(MANY, 1, -1)),
    "labels are -1 to 1, must be 0 or 1, or between them: use ignore_label=-1": (
        "multilabel",
        np.where(np.eye(ROWS, 7), -1, MANY),
    ),
    "labels of shape (12,): head 'multilabel' with 7 classes needs [N, 7], each 0 to 1; for one class per row": (
        "multilabel",
        LABEL,
    ),
}


@pytest.mark.parametrize("words", REFUSED)
def test_labels_that_cannot_be_meant_are_refused_on_the_host(words):
    head, label = REFUSED[words]
    refused(words, made(head).check, rows(label))
    if label.dtype.kind in "iufb" and label.ndim:  # the same where a step is called with arrays
        refused(
            words,
            jc.make_eval_step(made(head)),
            {"params": {"table": jnp.asarray(LOGITS[:, : HEADS[head][0]])}},
            rows(label),
        )


def test_rows_of_padding_may_hold_anything():
    label, row_mask = np.where(np.arange(ROWS) < 8, LABEL, 99), (np.arange(ROWS) < 8).astype(np.float32)
    made().check(rows(label, row_mask=row_mask))
    same(
        measured(rows(label, row_mask=row_mask)),
        measured(rows(np.where(label == 99, 0, label), row_mask=row_mask)),
        rtol=1e-6,
    )
    assert np.isfinite(measured(rows(label, row_mask=row_mask), label_smoothing=0.1)[0]).all()


BROKEN = {
    "softmax": [np.where(np.arange(ROWS) == 4, bad, LABEL) for bad in (-1, 7, 255, 0.5, np.nan)]
    + [np.where(np.arange(ROWS)[:, None] == 4, bad, np.eye(CLASSES)[LABEL]) for bad in (0.0, 1.0, np.nan)],
    "sigmoid": [np.where(np.arange(ROWS) == 4, bad, TWO) for bad in (-1, 2, -1.0, np.nan)],
    "multilabel": [np.where(np.eye(ROWS, 7), bad, MANY) for bad in (-1, 2, np.nan)],
}


@pytest.mark.parametrize(
    "options", [{}, *(pytest.param(o, marks=pytest.mark.slow) for o in ({"label_smoothing": 0.1}, {"focal": 2.0}))]
)
@pytest.mark.parametrize("head", BROKEN)
def test_in_a_compiled_program_a_label_without_meaning_is_not_taken_for_another(head, options):
    for label in BROKEN[head]:
        slope, found = measured(rows(label), head, **options)
        assert np.isnan(found["loss"]) and np.isnan(found["accuracy"]), (label, found)
        assert not np.nan_to_num(slope[4]).any()
        assert "confusion" not in found or found["confusion"].sum() == ROWS - 1


def test_public_losses_do_not_take_a_label_for_another():
    for smoothing, focal in ((0.0, 0.0), (0.1, 0.0), (0.0, 2.0)):
        for bad in (-1, CLASSES, 255):
            values = losses.cross_entropy(jnp.asarray(LOGITS[:2]), jnp.array([0, bad]), smoothing, focal)
            assert np.isnan(values).tolist() == [False, True]
        values = losses.binary_cross_entropy(jnp.zeros((3, 1)), jnp.array([[1.0], [-1.0], [2.0]]), smoothing, focal)
        assert np.isnan(values).tolist() == [False, True, True]
    refused("labels of shape (3,)", losses.binary_cross_entropy, jnp.zeros((3, 1)), jnp.zeros(3))
    refused("labels of shape (3,), bool", losses.cross_entropy, jnp.zeros((3, 3)), jnp.zeros(3, bool))
    refused("labels of shape (3, 1)", losses.cross_entropy, jnp.zeros((3, 3)), jnp.zeros((3, 1), jnp.int32))


IGNORED = {
    "plain": ("softmax", -1, {}),
    "smoothed": ("softmax", 255, {"label_smoothing": 0.1}),
    "weighed and focal": ("softmax", -1, {"class_weights": (1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0), "focal": 1.5}),
    "one logit": ("sigmoid", 255, {"class_weights": (1.0, 3.0)}),
    "several": ("multilabel", -1, {"label_smoothing": 0.1}),
    "several, focal": ("multilabel", 255, {"focal": 2.0}),
}


@pytest.mark.parametrize(
    "name", [n if n in ("plain", "one logit") else pytest.param(n, marks=pytest.mark.slow) for n in IGNORED]
)
def test_ignored_rows_count_nowhere(name):
    head, value, options = IGNORED[name]
    label, kept = HEADS[head][1], np.arange(ROWS) % 3 > 0
    given = np.where(kept if label.ndim == 1 else kept[:, None], label, value)
    task = made(head, ignore_label=value, **options)
    task.check(rows(given))
    expected = measured(rows(label, row_mask=kept.astype(np.float32)), head, **options)
    assert expected[1]["count"] == kept.sum()
    weight = {"sample_weight": np.arange(1, ROWS + 1).astype(np.float32)}
    weighed = measured(rows(label, row_mask=kept.astype(np.float32), **weight), head, **options)
    for kind in (np.int32, np.float32):
        same(measured(rows(given.astype(kind)), head, ignore_label=value, **options), expected, rtol=1e-5, atol=1e-7)
        same(
            measured(rows(given.astype(kind), **weight), head, ignore_label=value, **options),
            weighed,
            rtol=1e-5,
            atol=1e-7,
        )
    nothing = measured(rows(np.full_like(label, value)), head, ignore_label=value, **options)
    assert np.isnan(nothing[1]["loss"]) and nothing[1]["count"] == 0


def test_what_is_ignored_need_not_fit_the_dtype():
    expected = measured(rows(LABEL))
    for kind, value in ((np.uint8, -1), (np.uint32, -1), (np.int8, 70_000)):
        label = LABEL.astype(kind)
        made(ignore_label=value).check(rows(label))
        same(measured(rows(label), ignore_label=value), expected, rtol=1e-6)
    column = np.where(np.arange(ROWS) % 3 > 0, LABEL, -1)[:, None]
    assert measured(rows(column), ignore_label=-1)[1]["count"] == 8


def test_single_answers_may_be_ignored():
    known = np.random.default_rng(5).random((ROWS, CLASSES)) < 0.7
    slope, found = measured(rows(np.where(known, MANY, -1)), "multilabel", ignore_label=-1)
    z = LOGITS.astype(np.float64)
    each = MANY * np.log1p(np.exp(-z)) + (1 - MANY) * np.log1p(np.exp(z))
    assert found["loss"] == pytest.approx(each[known].mean(), rel=1e-6)
    assert found["accuracy"] == pytest.approx(((z > 0) == MANY)[known].mean())
    assert not slope[~known].any() and slope[known].all()


def test_a_logit_that_is_nan_is_no_answer_where_some_are_ignored():
    task = made("multilabel", ignore_label=-1)
    start = {"table": jnp.asarray(LOGITS).at[0, 0].set(jnp.nan)}
    batch = rows(np.where(np.eye(ROWS, CLASSES, 1), -1, MANY))
    _, (outputs, _) = task.loss(start, {}, batch, KEY)
    assert np.isnan(compute({"accuracy": task.metrics["accuracy"](outputs, batch)})["accuracy"])


def test_ignored_rows_move_no_group():
    task, kept = made(ignore_label=-1), np.arange(ROWS) % 3 > 0
    robust = group_dro(task, 2, rate=0.5)
    group = (np.arange(ROWS) % 2).astype(np.int32)
    table, state = {"table": jnp.asarray(LOGITS)}, {"group_dro": {"log_shares": jnp.log(jnp.array([0.5, 0.5]))}}
    loss = jax.jit(lambda batch: (found := robust.loss(table, state, batch, KEY))[0:1] + (found[1][1],))
    given = loss(rows(np.where(kept, LABEL, -1), group=group))
    chex.assert_trees_all_close(given, loss(rows(LABEL, group=group, row_mask=kept.astype(np.float32))), rtol=1e-6)


def test_the_ignored_label_is_stated_rightly():
    for value, words in (
        (3, "ignore_label=3: is one of the labels 0 to 6"),
        (0.5, "ignore_label=0.5: must be an integer"),
    ):
        refused(words, made, ignore_label=value)
    refused("ignore_label=True", made, ignore_label=True)
    refused("ignore_label=1: is one of the labels 0 to 1", made, "multilabel", ignore_label=1)
    refused('num_classes=1: "softmax" needs at least two logits', classification, Table(1))
    refused(
        "with 7 classes they must be 0 to 6", made(ignore_label=-1).check, rows(np.where(np.arange(ROWS) % 2, -1, 7))
    )


def test_arrays_of_a_batch_that_do_not_belong_together():
    step = functools.partial(jc.make_eval_step(made()), {"params": {"table": jnp.asarray(LOGITS)}})
    refused("has shape (12, 6, 6, 1) but there are 1 labels", step, rows(LABEL[:1]))
    refused("the batch has no 'label', only image", step, {"image": rows(LABEL)["image"]})
    refused("the batch has no 'image', only label", step, {"label": LABEL})
    refused(
        "sample_weight of shape (12, 1): must be (12,)", step, rows(LABEL, sample_weight=np.ones((ROWS, 1), np.float32))
    )
    refused(
        "sample_weight from -1 to 1: must be finite and not negative",
        made().check,
        rows(LABEL, sample_weight=np.array([1, -1])),
    )


@pytest.fixture(scope="module")
def compiled():
    task, tx = made(), optax.sgd(0.1)
    state = jc.init_state(task, tx, {k: x[:1] for k, x in rows(LABEL).items()})
    return (
        jc.compile_step(jc.make_train_step(task, tx), "jit"),
        jc.compile_step(jc.make_eval_step(task), "jit"),
        state,
    )


def indexed(arrays, label=None):
    return Indexed(lambda index: {name: x[index] for name, x in arrays.items()}, ROWS, label=label)


@pytest.mark.parametrize(
    "hold", [Resident, indexed, lambda arrays: indexed(arrays, arrays["label"])], ids=["held", "read", "labels known"]
)
def test_fit_and_evaluate_begin_with_the_check(compiled, hold):
    train, measure, state = compiled
    done = []
    fit = lambda data, steps=2: jc.fit(
        train, state, data, batch_size=4, steps=steps, progress=lambda step, _: done.append(step)
    )
    for label, words in (
        (LABEL + 1, "subtract 1"),
        (np.where(np.arange(ROWS) == 11, -1, LABEL), "use ignore_label=-1"),
    ):
        refused(words, fit, hold(rows(label)), 3)
        refused(words, jc.evaluate, measure, state.variables, hold(rows(label)))
    refused(
        "floats must be in 0..1 (uint8 in 0..255); divide by 255",
        fit,
        hold(rows(LABEL) | {"image": rows(LABEL)["image"].astype(np.float32)}),
    )
    assert jc.evaluate(measure, state.variables, hold(rows(LABEL)), batch_size=5)["count"] == ROWS
    fit(hold(rows(LABEL)))
    if hold is not indexed:  # refused before the first step; rows that are read are, before the step that reads them
        assert done == [1, 2] or done == [2]


def test_rows_on_the_device_are_checked_as_well(compiled):
    _, measure, state = compiled
    refused("subtract 1", jc.evaluate, measure, state.variables, Resident(rows(LABEL + 1)).put(measure.replicate))
    far = rows(LABEL) | {"image": rows(LABEL)["image"].astype(np.float32)}
    refused("float images from 0 to 11", jc.evaluate, measure, state.variables, Resident(far).put(measure.replicate))


def test_collect_begins_with_the_check(compiled):
    task, state = made(), compiled[2]
    for hold in (Resident, indexed):
        far = hold(rows(LABEL) | {"image": rows(LABEL)["image"].astype(np.float32)})
        refused("float images from 0 to 11: floats must", jc.collect, task.predict, state.variables, far)
    refused(
        "keep='lable': the rows have no such array",
        jc.collect,
        task.predict,
        state.variables,
        Resident(rows(LABEL)),
        keep=["lable"],
    )


PIXELS = np.random.default_rng(0).integers(0, 256, (3, 6, 6, 1)).astype(np.uint8)


@pytest.fixture(scope="module")
def network():
    task = classification(jc.models.mlp(num_classes=4, widths=(4,)), mean=0.5, std=0.25)
    return task, task.init(KEY, {"image": PIXELS})


@pytest.mark.parametrize("kind", [np.asarray, jnp.asarray])
def test_pixels_of_another_range_are_refused(network, kind):
    task, variables = network
    same = [
        task.predict(variables, {"image": kind(x)})
        for x in (PIXELS, PIXELS.astype(np.float32) / 255, PIXELS.astype(np.float64) / 255)
    ]
    chex.assert_trees_all_close(*same, atol=1e-5)
    far = {
        "floats must be in 0..1 (uint8 in 0..255); divide by 255": PIXELS.astype(np.float32),
        "float images from -": PIXELS.astype(np.float32) / 127.5 - 1,
        "float images from nan to nan": np.where(PIXELS > 250, np.nan, PIXELS / 255),
        "to inf": np.where(PIXELS > 250, np.inf, PIXELS / 255),
        "image dtype int32": PIXELS.astype(np.int32),
        "image dtype bool": PIXELS > 99,
        "image shape (6, 6, 1): must have 4 axes": PIXELS[0],
        "images of shape (2, 3, 6, 6): channels must come last, [N, H, W, C]; use image.transpose(0, 2, 3, 1)": np.ones(
            (2, 3, 6, 6)
        ),
        "images of shape (2, 1, 28, 28)": np.ones((2, 1, 28, 28), np.uint8),
    }
    for words, image in far.items():
        refused(words, task.predict, variables, {"image": kind(image)})
        refused(
            words.replace("nan to nan", "nan"),
            task.loss,
            variables["params"],
            {},
            {"image": image, "label": np.zeros(len(image), int)},
            KEY,
        )


def test_a_compiled_program_does_not_answer_for_pixels_of_another_range(network):
    task, variables = network
    predict = jax.jit(task.predict)
    good = np.clip(PIXELS / 255 + np.random.default_rng(0).normal(size=PIXELS.shape) * 0.05, -0.2, 1.2).astype(
        np.float32
    )
    assert (
        np.isfinite(predict(variables, {"image": good})).all()
        and np.isfinite(predict(variables, {"image": PIXELS})).all()
    )
    for bad in (
        PIXELS[0].astype(np.float32),
        PIXELS[0] / 127.5 - 1,
        (PIXELS[0] / 255 - 0.13) / 0.3,
        np.full((6, 6, 1), np.nan),
    ):
        found = predict(variables, {"image": np.stack([good[0], bad, good[1]]).astype(np.float32)})
        assert np.isnan(found).any(-1).tolist() == [False, True, False]


def test_images_of_another_shape_than_a_network_was_trained_on():
    task = classification(Table())
    plain, resizing = expecting(task, (6, 6, 1)), expecting(task, (6, 6, 1), any_size=True)
    variables = {"params": {"table": jnp.asarray(LOGITS)}}
    for predict in (plain.predict, jax.jit(plain.predict)):
        assert predict(variables, rows(LABEL)).shape == (ROWS, CLASSES)
        message = "images of shape (6, 7, 1): the network was trained on (6, 6, 1); resize them to 6 x 6"
        refused(message, predict, variables, {"image": np.zeros((4, 6, 7, 1), np.uint8)})
    refused(
        "trained on (6, 6, 1); give 1 channels",
        resizing.predict,
        variables,
        {"image": np.zeros((4, 9, 9, 3), np.uint8)},
    )
    assert resizing.predict(variables, {"image": np.zeros((4, 9, 9, 1), np.uint8)}).shape == (4, CLASSES)
    refused("resize them to 6 x 6", plain.check, {"image": np.zeros((4, 6, 7, 1), np.uint8)})
    refused("subtract 1", plain.check, rows(LABEL + 1))
    refused(
        "resize them to 6 x 6",
        jc.collect,
        plain.predict,
        variables,
        Resident({"image": np.zeros((4, 6, 7, 1), np.uint8)}),
    )


def test_a_loaded_run_keeps_to_the_shape_that_it_was_trained_on():
    run = jc.load_run(pathlib.Path(__file__).parents[1] / "fixtures" / "run-format-2")
    assert run.task.predict(run.variables, {"image": np.zeros((2, 4, 4, 1), np.uint8)}).shape == (2, 3)
    for shape, fix in (((2, 2, 8, 1), "resize them to 4 x 4"), ((2, 4, 4, 3), "give 1 channels")):
        for predict in (run.task.predict, jax.jit(run.task.predict)):
            refused(f"images of shape {shape[1:]}: the network was trained on (4, 4, 1); {fix}", predict, run.variables,
                    {"image": np.zeros(shape, np.uint8)})  # fmt: skip


WEIGHED = {"ignore_label": -1, "class_weights": (1.0,) * 6 + (2.0,), "focal": 1.0}


@pytest.mark.parametrize("options", [pytest.param({"ignore_label": -1}, marks=pytest.mark.slow), WEIGHED])
def test_ignored_rows_under_jit_sharded_and_pmap(options):
    label = np.where(np.arange(ROWS) % 3 == 0, -1, LABEL)
    task, tx = made(**options), optax.sgd(0.1)
    step, data = (
        jc.augmented(jc.make_train_step(task, tx), augment.mixup(1.0, num_classes=CLASSES)),
        Resident(rows(label)),
    )
    found = {}
    for strategy, devices in (("jit", 1), ("sharded", 4), ("pmap", 4)):
        state = jc.init_state(task, tx, data.example())
        fitted = jc.fit(jc.compile_step(step, strategy, devices), state, data, batch_size=10, steps=3)
        found[strategy] = (
            jax.device_get(fitted.state.params),
            {k: v for k, v in fitted.history[-1].items() if k != "seconds"},
        )
        assert found[strategy][1]["train/count"] == pytest.approx(np.isin(label, range(7)).mean() * 30, abs=3)
    for other in ("sharded", "pmap"):
        chex.assert_trees_all_close(found[other], found["jit"], rtol=1e-5, atol=1e-6)
