"""Classification heads: literal losses, weights, padding, and the pixels that a model sees."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn import InputError
from jaxcnn.core.types import compute
from jaxcnn.layers import BatchNorm
from jaxcnn.tasks import TASKS, classification, prepare, probabilities, regression

LOG2, LOG3 = 0.6931472, 1.0986123


class Echo(nn.Module):
    """A model whose logits `[B, K]` are pixels `[B, 1, K, 2]`: the parts above and below zero, from `drawn`."""

    num_classes: int = 3

    @nn.compact
    def __call__(self, x, *, train=False, row_mask=None):
        return shown(x) * self.param("gain", nn.initializers.ones, ())


def drawn(logits):
    """Logits as pixels in 0..1, exactly."""
    return jnp.stack([jnp.maximum(logits, 0), jnp.maximum(-logits, 0)], -1)[:, None] / 64


def shown(image):
    return (image[:, 0, :, 0] - image[:, 0, :, 1]) * 64


class Normed(nn.Module):
    num_classes: int = 2

    @nn.compact
    def __call__(self, x, *, train=False, row_mask=None):
        return BatchNorm()(x.mean((1, 2)), train=train, mask=row_mask)[:, :2]


def batch(logits, labels, row_mask=None):
    logits = np.asarray(logits, np.float32)
    out = {"image": drawn(jnp.asarray(logits)), "label": jnp.asarray(labels)}
    return out if row_mask is None else out | {"row_mask": jnp.asarray(row_mask, jnp.float32)}


def loss(task, batch):
    return jax.jit(lambda batch: task.loss({"gain": jnp.ones(())}, {}, batch, jax.random.key(0))[0])(batch)


def evaluated(task, batch):
    @jax.jit
    def sums(batch):
        outputs = task.predict({"params": {"gain": jnp.ones(())}}, batch)
        return {name: metric(outputs, batch) for name, metric in task.metrics.items()}

    return compute(sums(batch))


LOGITS = [[LOG2, 0.0, 0.0], [0.0, 0.0, LOG2], [0.0, LOG2, 0.0]]  # probabilities of a half and two quarters
HEADS = {  # head: number of logits, batch, loss, metrics
    "softmax": (3, batch(LOGITS, [0, 2, 0]), (2 * LOG2 + 2 * LOG2) / 3, {"count", "loss", "accuracy", "confusion"}),
    "sigmoid": (
        1,
        batch([[LOG3], [LOG3], [0.0]], [1, 0, 1]),
        (0.2876821 + 2 * LOG2 + LOG2) / 3,
        {"count", "loss", "accuracy", "confusion"},
    ),
    "multilabel": (
        2,
        batch([[LOG3, 0.0], [LOG3, -LOG3]], [[1, 0], [0, 0]]),
        (0.4904146 + 0.8369882) / 2,
        {"count", "loss", "accuracy"},
    ),
}


@pytest.mark.parametrize("head", HEADS)
def test_loss_and_metrics_of_each_head(head):
    logits, given, expected, names = HEADS[head]
    task = classification(Echo(logits), head=head)
    assert set(task.metrics) == names
    total = loss(task, given)
    assert total.weight == given["label"].shape[0]
    assert total.compute() == pytest.approx(expected, rel=1e-6)
    values = evaluated(task, given)
    assert values["loss"] == pytest.approx(expected, rel=1e-6)
    assert values["accuracy"] == pytest.approx({"softmax": 2 / 3, "sigmoid": 1 / 3, "multilabel": 3 / 4}[head])
    assert values["count"] == given["label"].shape[0]
    if head == "sigmoid":
        np.testing.assert_array_equal(values["confusion"], [[0, 1], [1, 1]])


def test_from_six_classes_on_there_is_top_5():
    task = classification(Echo(6))
    given = batch([[6, 5, 4, 3, 2, 1], [6, 5, 4, 3, 2, 1]], [4, 5])
    assert evaluated(task, given)["top_5"] == 0.5
    assert "top_5" not in classification(Echo(5)).metrics


def test_class_weights_of_mixed_labels_are_their_shares():
    task = classification(Echo(2), class_weights=[1.0, 9.0])
    label = jnp.array([[0.6, 0.4], [0.4, 0.6], [1, 0]])
    assert loss(task, batch(jnp.zeros((3, 2)), label)).weight == pytest.approx(4.2 + 5.8 + 1)


def test_class_weights_make_a_weighted_mean():
    task = classification(Echo(), class_weights=[3.0, 1.0, 0.5])
    total = loss(task, batch(LOGITS, [0, 2, 0]))
    assert total.weight == pytest.approx(6.5)
    assert total.compute() == pytest.approx((3 * LOG2 + 0.5 * LOG2 + 3 * 2 * LOG2) / 6.5, rel=1e-6)
    binary = classification(Echo(1), head="sigmoid", class_weights=[1.0, 4.0])
    assert loss(binary, batch([[LOG3], [LOG3]], [1, 0])).compute() == pytest.approx(
        (4 * 0.2876821 + 2 * LOG2) / 5, rel=1e-6
    )


def test_logit_adjustment_is_in_the_loss_alone():
    task = classification(Echo(), logit_adjustment=[LOG3, 0.0, -LOG2])
    moved = np.asarray(LOGITS, np.float32) + np.array([LOG3, 0.0, -LOG2], np.float32)
    expected = np.log(np.exp(moved).sum(-1)) - moved[np.arange(len(moved)), [0, 2, 0]]
    given = batch(LOGITS, [0, 2, 0])
    assert loss(task, given).compute() == pytest.approx(expected.mean(), rel=1e-5)
    chex.assert_trees_all_close(
        task.predict({"params": {"gain": jnp.ones(())}}, given), jnp.asarray(LOGITS, jnp.float32)
    )
    # one logit is the difference of two
    single = classification(Echo(1), head="sigmoid", logit_adjustment=[0.5, -1.0])
    double = classification(Echo(2), logit_adjustment=[0.5, -1.0])
    one, two = batch([[1.5], [-2.0]], [1, 0]), batch([[0.0, 1.5], [0.0, -2.0]], [1, 0])
    assert loss(single, one).compute() == pytest.approx(loss(double, two).compute(), rel=1e-6)
    shares = np.array([0.7, 0.2, 0.1])  # the loss is least where the adjusted prediction is that of the shares
    log_shares = np.log(shares)
    even = batch(np.zeros((10, 3)), [0] * 7 + [1] * 2 + [2])
    slope = jax.grad(
        lambda bias: (
            classification(Echo(), logit_adjustment=log_shares.tolist())
            .metrics["loss"](jnp.zeros((10, 3)) + bias[None], even)
            .total
        )
    )(jnp.zeros(3))
    np.testing.assert_allclose(slope, 0, atol=1e-5)


def test_label_smoothing():
    value = loss(classification(Echo(), label_smoothing=0.3), batch(LOGITS[:1], [0])).compute()
    assert value == pytest.approx(0.8 * LOG2 + 0.2 * 2 * LOG2, rel=1e-6)
    value = loss(classification(Echo(1), head="sigmoid", label_smoothing=0.2), batch([[LOG3]], [1])).compute()
    assert value == pytest.approx(0.9 * 0.2876821 + 0.1 * 2 * LOG2, rel=1e-6)


def test_focal_loss():
    value = loss(classification(Echo(), focal=2.0), batch(LOGITS[:1], [1])).compute()
    assert value == pytest.approx(0.75**2 * 2 * LOG2, rel=1e-6)
    value = loss(classification(Echo(1), head="sigmoid", focal=1.0), batch([[LOG3]], [0])).compute()
    assert value == pytest.approx(0.75 * 2 * LOG2, rel=1e-6)


def test_probabilities_as_labels():
    value = loss(classification(Echo()), batch(LOGITS[:1], [[0.5, 0.5, 0.0]])).compute()
    assert value == pytest.approx(1.5 * LOG2, rel=1e-6)


@pytest.mark.parametrize("weights", [None, [1.0, 2.0, 3.0]])
@pytest.mark.parametrize("head", HEADS)
def test_padding_is_left_out(head, weights):
    logits, given, _, _ = HEADS[head]
    weights = None if weights is None or head == "multilabel" else weights[: max(logits, 2)]
    task = classification(Echo(logits), head=head, class_weights=weights)
    padding = jax.tree.map(lambda x: jnp.concatenate([x, x[:1], 7 * jnp.ones_like(x[:1])]), given)
    padding["label"] = padding["label"].at[-1].set(0)
    padding["row_mask"] = jnp.array([1] * len(given["label"]) + [0, 0])
    chex.assert_trees_all_close(loss(task, padding), loss(task, given), rtol=1e-6)
    chex.assert_trees_all_close(evaluated(task, padding), evaluated(task, given), rtol=1e-6)


@pytest.mark.parametrize("head", HEADS)
def test_extreme_logits_are_finite(head):
    logits, given, _, _ = HEADS[head]
    task = classification(Echo(logits), head=head)
    for scale in (1e4, -1e4):
        extreme = given | {"image": given["image"] * scale}
        value, grads = jax.value_and_grad(lambda p, b=extreme: task.loss(p, {}, b, jax.random.key(0))[0].total)(
            {"gain": jnp.ones(())}
        )
        chex.assert_tree_all_finite((value, grads))
        p = probabilities(shown(extreme["image"]), head)
        assert (p >= 0).all() and (p <= 1).all()


def test_probabilities_sum_to_one(rng):
    logits = jnp.asarray(rng.normal(size=(5, 4)) * 5, jnp.float32)
    chex.assert_trees_all_close(probabilities(logits).sum(-1), jnp.ones(5), rtol=1e-6)
    chex.assert_trees_all_close(probabilities(logits), jax.nn.softmax(logits))
    two = probabilities(jnp.array([[0.0], [LOG3], [1e4], [-1e4]]), "sigmoid")
    chex.assert_trees_all_close(two, jnp.array([[0.5, 0.5], [0.25, 0.75], [0.0, 1.0], [1.0, 0.0]]), rtol=1e-6)
    chex.assert_trees_all_close(
        probabilities(jnp.array([[0.0, LOG3]]), "multilabel"), jnp.array([[0.5, 0.75]]), rtol=1e-6
    )


def test_model_state_changes_in_training_alone(rng):
    task = classification(Normed())
    given = {"image": jnp.asarray(rng.random((6, 4, 4, 3)), jnp.float32), "label": jnp.arange(6) % 2}
    variables = task.init(jax.random.key(0), given)
    params, state = variables["params"], {"batch_stats": variables["batch_stats"]}
    mean, (outputs, changed) = task.loss(params, state, given, jax.random.key(1))
    assert mean.weight == 6 and outputs.shape == (6, 2)
    chex.assert_trees_all_equal_shapes(changed, state)
    assert (changed["batch_stats"]["BatchNorm_0"]["mean"] != 0).all()
    unlabelled = task.predict(variables, {"image": given["image"]})
    chex.assert_trees_all_close(unlabelled, given["image"].mean((1, 2))[:, :2] / np.sqrt(1 + 1e-5), rtol=1e-5)


def test_padding_does_not_reach_the_statistics(rng):
    task = classification(Normed())
    given = {
        "image": jnp.asarray(rng.random((6, 4, 4, 3)), jnp.float32),
        "label": jnp.arange(6) % 2,
        "row_mask": jnp.ones(6).at[4:].set(0),
    }
    kept = {name: values[:4] for name, values in given.items() if name != "row_mask"}
    variables = task.init(jax.random.key(0), given)
    params, state = variables["params"], {"batch_stats": variables["batch_stats"]}
    padded, filtered = (task.loss(params, state, b, jax.random.key(1)) for b in (given, kept))
    chex.assert_trees_all_close((padded[0], padded[1][1]), (filtered[0], filtered[1][1]), rtol=1e-5)


def test_prepare_scales_and_normalises():
    image = jnp.array([[[[0, 51, 255]]]], jnp.uint8)  # 0, 0.2, 1
    chex.assert_trees_all_close(prepare(image), jnp.array([[[[0.0, 0.2, 1.0]]]]))
    chex.assert_trees_all_close(prepare(image, 0.5, 0.25), jnp.array([[[[-2.0, -1.2, 2.0]]]]), rtol=1e-6)
    by_channel = prepare(image, [0.0, 0.1, 0.5], [1.0, 0.1, 0.5])
    chex.assert_trees_all_close(by_channel, jnp.array([[[[0.0, 1.0, 1.0]]]]), rtol=1e-5)
    chex.assert_trees_all_close(prepare(prepare(image)), prepare(image))
    chex.assert_trees_all_close(prepare(image, [0.5], [0.25]), prepare(image, 0.5, 0.25))


@pytest.mark.parametrize(
    "given, line",
    [
        ({"mean": 128}, "mean=128: must describe pixels in 0..1; divide statistics"),
        ({"mean": [0.1, np.nan]}, "mean="),
        ({"std": 0.0}, "std=0.0: must describe pixels in 0..1 and be above 0"), ({"std": [0.2, -0.2]}, "std="),
        ({"std": 64}, "std=64: must describe pixels in 0..1"),
    ],
)  # fmt: skip
def test_prepare_refuses_statistics_of_other_pixels(given, line):
    with pytest.raises(InputError, match=line):
        prepare(jnp.zeros((1, 2, 2, 2)), **given)


def test_prepare_cuts_the_middle():
    ramp = jnp.broadcast_to(jnp.arange(8.0)[None, None, :, None] / 8, (1, 4, 8, 1))
    chex.assert_trees_all_equal(prepare(ramp, size=(4, 4), resize=4), ramp[:, :, 2:6])
    assert prepare(ramp, size=(2, 2), resize=3, interpolation="bicubic").shape == (1, 2, 2, 1)
    checks = jnp.tile(jnp.array([[0.0, 1.0], [1.0, 0.0]]), (4, 4))[None, ..., None]
    larger = prepare(checks, size=(20, 20), interpolation="bicubic")
    assert (larger.min(), larger.max()) == (0, 1)  # bicubic weights reach beyond, pixels do not
    with pytest.raises(InputError, match="resize=3: must be at least 4"):
        prepare(ramp, size=(4, 4), resize=3)
    with pytest.raises(InputError, match="interpolation='cubic': must be 'bilinear' or 'bicubic'"):
        prepare(ramp, size=(4, 4), interpolation="cubic")


def test_prepare_resizes():
    ramp = jnp.broadcast_to(jnp.linspace(0, 1, 8)[None, None, :, None], (2, 6, 8, 1))
    small = prepare(ramp, size=(3, 4))
    chex.assert_shape(small, (2, 3, 4, 1))
    assert (jnp.diff(small[0, 0, :, 0]) > 0).all()
    chex.assert_trees_all_equal(prepare(ramp, size=(6, 8)), ramp)
    chex.assert_trees_all_close(
        prepare(jnp.full((1, 4, 4, 2), 51, jnp.uint8), size=(7, 9)), jnp.full((1, 7, 9, 2), 0.2), rtol=1e-6
    )


BAD = {
    "head='sotfmax'": lambda: classification(Echo(), head="sotfmax"),
    "num_classes=3": lambda: classification(Echo(3), head="sigmoid"),
    "label_smoothing=1.0": lambda: classification(Echo(), label_smoothing=1.0),
    "label_smoothing=-0.1": lambda: classification(Echo(), label_smoothing=-0.1),
    "focal=-1.0": lambda: classification(Echo(), focal=-1.0),
    "class_weights=[1.0, 2.0]": lambda: classification(Echo(), class_weights=[1.0, 2.0]),
    "class_weights=[1.0, -2.0, 1.0]": lambda: classification(Echo(), class_weights=[1.0, -2.0, 1.0]),
    "class_weights=[1.0, 1.0]": lambda: classification(Echo(2), head="multilabel", class_weights=[1.0, 1.0]),
    "logit_adjustment=[1.0, 2.0]": lambda: classification(Echo(), logit_adjustment=[1.0, 2.0]),
    "logit_adjustment=[0.0, nan]": lambda: classification(Echo(2), logit_adjustment=[0.0, float("nan")]),
    "logit_adjustment=[0.0, 1.0]": lambda: classification(Echo(2), head="multilabel", logit_adjustment=[0.0, 1.0]),
    "image shape (4, 4, 1)": lambda: prepare(jnp.zeros((4, 4, 1))),
    "image dtype int32": lambda: prepare(jnp.zeros((1, 4, 4, 1), jnp.int32)),
    "mean=[0.1, 0.2, 0.3]": lambda: prepare(jnp.zeros((1, 4, 4, 1)), mean=[0.1, 0.2, 0.3]),
    "std=[1.0, 2.0]": lambda: prepare(jnp.zeros((1, 4, 4, 3)), std=[1.0, 2.0]),
}


@pytest.mark.parametrize("words", BAD)
def test_bad_values_are_refused_in_one_line(words):
    with pytest.raises(InputError) as caught:
        BAD[words]()
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_tasks_by_name():
    known = {"classification", "detection", "embedding", "forecasting", "regression", "segmentation", "sequence"}
    assert set(TASKS) == known
    assert TASKS["regression"] is regression


def test_a_model_without_its_number_of_logits_is_refused():
    class Bare(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(3)(x.reshape(x.shape[0], -1))

    with pytest.raises(InputError, match="^model=Bare: has no num_classes, the number of its logits; give"):
        classification(Bare())


def test_binary_cross_entropy_of_classes():
    logits = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)
    mixed = np.array([[0.7, 0.3, 0], [0, 1, 0], [0.1, 0, 0.9], [0.15, 0.85, 0]], np.float32)
    for label, present, options in (
        (np.array([0, 1, 2, 1]), np.eye(3)[[0, 1, 2, 1]], {}),
        (mixed, mixed, {}),
        (mixed, np.array([[1, 1, 0], [0, 1, 0], [0, 0, 1], [0, 1, 0]]), {"target_threshold": 0.2}),
    ):
        task = classification(Echo(), loss="binary_cross_entropy", **options)
        batch = {"image": drawn(logits), "label": jnp.asarray(label)}
        value = task.loss({"gain": jnp.ones(())}, {}, batch, jax.random.key(0))[0].compute()
        want = (np.log1p(np.exp(-logits)) * present + np.log1p(np.exp(logits)) * (1 - present)).mean()
        assert float(value) == pytest.approx(want, rel=1e-5)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"loss": "hinge"}, "loss='hinge': must be 'cross_entropy' or 'binary_cross_entropy'"),
        ({"loss": "binary_cross_entropy", "head": "multilabel"}, "has this loss already"),
        ({"target_threshold": 0.2}, "with loss='binary_cross_entropy'"),
        ({"loss": "binary_cross_entropy", "target_threshold": 1.0}, "at least 0 and below 1"),
    ],
)
def test_options_of_the_loss(options, message):
    with pytest.raises(InputError, match=message):
        classification(Echo(), **options)
