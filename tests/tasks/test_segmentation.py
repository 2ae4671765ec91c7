"""Segmentation: the U-Net's shapes, the meaning of labels, and training on squares in two and three dimensions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcnn as jc
from jaxcnn.core.types import compute
from jaxcnn.losses import tversky_loss


def shape_of(model, *shape):
    image = jax.ShapeDtypeStruct(shape, jnp.float32)
    variables = jax.eval_shape(lambda key, x: model.init(key, x, train=False), jax.random.key(0), image)
    logits = jax.eval_shape(lambda v, x: model.apply(v, x, train=False), variables, image)
    return logits.shape, sum(x.size for x in jax.tree.leaves(variables["params"]))


def test_the_usual_network_has_its_number_of_parameters():
    # weights: 2 convolutions a level and side, transposed convolutions, norms (2 per channel), one logit
    widths = (32, 64, 128, 256, 512)
    pair = lambda c, w: 9 * c * w + 9 * w * w + 4 * w  # noqa: E731
    down = sum(pair(c, w) for c, w in zip((1, *widths), widths, strict=False))
    up = sum(4 * d * w + w + pair(2 * w, w) for d, w in zip(widths[1:], widths, strict=False))
    assert shape_of(jc.models.unet(1), 1, 64, 64, 1) == ((1, 64, 64, 1), down + up + 33)


@pytest.mark.parametrize(
    "options, shape",
    [
        ({}, (2, 37, 50, 3)),
        ({"residual": True, "dims": 3}, (2, 9, 11, 12, 1)),
        ({"dims": 1}, (2, 30, 2)),
        ({"encoder": jc.models.resnet20()}, (2, 33, 30, 3)),
        ({"encoder": jc.models.resnet18(), "widths": (4, 4, 8, 8, 8)}, (2, 65, 90, 3)),
        ({"encoder": jc.models.mobilenet_v2(), "widths": (4, 4, 8, 8, 8)}, (2, 64, 64, 3)),
    ],
)
def test_logits_have_the_size_of_the_image(options, shape):
    model = jc.models.unet(3, **{"widths": (4, 8, 16)} | options)
    assert shape_of(model, *shape)[0] == (*shape[:-1], 3)


def test_levels_of_an_encoder_are_counted_where_sizes_are_rounded():
    model, image = jc.models.unet(2, encoder=jc.models.resnet18(), widths=(4, 4, 8, 8, 8)), jnp.zeros((1, 65, 65, 3))
    variables = jax.eval_shape(lambda key: model.init(key, image, train=False), jax.random.key(0))
    found = jax.eval_shape(lambda v: model.apply(v, image, method="features"), variables)
    assert [found[f"level{i}"].shape[1] for i in range(1, 6)] == [33, 17, 9, 5, 3]


@pytest.mark.parametrize(
    "model, shape, message",
    [
        (jc.models.unet(2, widths=(4, 8, 16)), (1, 3, 9, 1), "at least 4 pixels a side"),
        (jc.models.unet(2, dims=3), (1, 16, 16, 1), "must have 5 axes"),
        (jc.models.unet(2, widths=(4,), encoder=jc.models.resnet18()), (1, 64, 64, 3), "has 5 levels"),
        (jc.models.unet(2, encoder=jc.models.vit_tiny_patch16_224()), (1, 224, 224, 3), "must have features"),
    ],
)
def test_networks_that_do_not_fit_are_one_line(model, shape, message):
    with pytest.raises(jc.InputError, match=message):
        shape_of(model, *shape)


class Pixelwise(jc.layers.Network):
    """Logits that are the pixels themselves, so that the losses are known."""

    num_classes: int = 3

    def features(self, x, *, train=False, row_mask=None):
        return {"x": x}

    def head(self, features, *, train=False):
        return features["x"]


def loss_of(batch, **options):
    task = jc.tasks.segmentation(Pixelwise(), **options)
    return float(task.loss({}, {}, batch, jax.random.key(0))[0].compute())


def test_the_loss_is_the_mean_over_the_pixels_that_count(rng):
    logits = rng.random((3, 4, 5, 3)).astype(np.float32)
    label = rng.integers(0, 3, (3, 4, 5)).astype(np.uint8)
    label[0, :2], label[2] = 255, 255  # the last image has no label at all
    weight = rng.random((3, 4, 5)).astype(np.float32) + 0.5
    batch = {"image": logits, "label": label, "pixel_weight": weight}
    known = label != 255
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    each = -np.take_along_axis(log_p, np.where(known, label, 0).astype(int)[..., None], -1)[..., 0]
    factor = np.array([1.0, 2.0, 0.5])[np.where(known, label, 0)] * known * weight
    cross = (each * factor).sum((1, 2))[:2] / factor.sum((1, 2))[:2]
    overlap = np.asarray(tversky_loss(logits, jnp.where(known, label, 0).astype(jnp.int32), known, alpha=0.3, beta=0.7))
    options = {"ignore_label": 255, "class_weights": (1, 2, 0.5), "cross_entropy": 0.7, "dice": 1.5, "beta": 0.7}
    assert loss_of(batch, **options) == pytest.approx((0.7 * cross + 1.5 * overlap[:2]).mean(), rel=1e-5)


def test_every_form_of_the_labels_gives_the_same(rng):
    image, label = rng.random((2, 4, 5, 3)).astype(np.float32), rng.integers(0, 3, (2, 4, 5))
    wanted = loss_of({"image": image, "label": label})
    for batch in ({"mask": label.astype(np.uint8)}, {"label": label[..., None]}, {"mask": label, "label": label}):
        assert loss_of({"image": image, **batch}) == pytest.approx(wanted)
    label[0, 0] = -1
    ignoring = loss_of({"image": image, "label": label}, ignore_label=-1)
    assert loss_of({"image": image, "label": label.astype(np.uint8)}, ignore_label=-1) == pytest.approx(ignoring)


@pytest.mark.parametrize(
    "label, options, message",
    [
        (np.full((1, 4, 5), 7), {}, "'label' has the values 7: classes are 0 to 2; give it as ignore_label"),
        (np.full((1, 4, 5), -1), {}, "has the values -1"),
        (np.array([[[3, 9, 255, 0, 1]] * 4]), {"ignore_label": 255}, "has the values 3, 9"),
        (np.zeros((1, 4, 4), int), {}, "must have a class per pixel"),
        (np.zeros((1, 4, 5)), {}, "must be integers"),
        (None, {}, "no 'label' or 'mask'"),
        (np.zeros((1, 4, 5), int), {"ignore_label": 1}, "is one of the classes"),
        (np.zeros((1, 4, 5), int), {"dice": -1.0}, "dice=-1"),
        (np.zeros((1, 4, 5), int), {"cross_entropy": 0.0}, "not both 0"),
        (np.zeros((1, 4, 5), int), {"beta": 1.0}, "beta=1"),
        (np.zeros((1, 4, 5), int), {"class_weights": (1, 1)}, "must be 3 finite numbers"),
        (np.zeros((1, 4, 5), int), {"class_weights": (1, float("nan"), 1)}, "must be 3 finite numbers"),
        (np.zeros((1, 4, 5), int), {"class_weights": {0: 1, 1: 1, 2: 1}}, "give them in a list"),
        (np.full((1, 4, 5), 200, np.uint8), {"ignore_label": 456}, "has the values 200"),
        (np.zeros((1, 4, 5), np.uint8), {"ignore_label": -255}, "stands for class 1 in labels of uint8"),
    ],
)
def test_what_is_wrong_is_one_line(label, options, message):
    batch = {"image": np.zeros((1, 4, 5, 3), np.float32)} | ({} if label is None else {"label": label})
    with pytest.raises(jc.InputError, match=message):
        loss_of(batch, **options)


def test_an_invalid_label_makes_a_compiled_loss_nan():
    task = jc.tasks.segmentation(Pixelwise())
    batch = {"image": jnp.zeros((1, 4, 5, 3)), "label": jnp.full((1, 4, 5), 7)}
    assert jnp.isnan(jax.jit(lambda b: task.loss({}, {}, b, jax.random.key(0))[0].total)(batch))


def squares(n, side, dims, seed):
    """Noise with a brighter block, which is class 1; a border of unknown pixels around it."""
    rng = np.random.default_rng(seed)
    image, mask = rng.integers(0, 120, (n, *[side] * dims, 1)), np.zeros((n, *[side] * dims), np.uint8)
    for i, corner in enumerate(rng.integers(1, side // 2, (n, dims))):
        inner = tuple(slice(c, c + side // 3) for c in corner)
        mask[(i, *(slice(s.start - 1, s.stop + 1) for s in inner))] = 255
        mask[(i, *inner)] = 1
        image[(i, *inner)] += 100
    return jc.data.Resident({"image": image.astype(np.uint8), "mask": mask}, ("background", "block"), seed)


@pytest.mark.parametrize("dims, strategy", [(2, "sharded"), (3, "jit")])
def test_it_learns_squares(dims, strategy):
    side = {2: 16, 3: 8}[dims]
    train, test = squares(32, side, dims, 0), squares(20, side, dims, 1)
    task = jc.tasks.segmentation(
        jc.models.unet(2, widths=(8, 16), dims=dims), ignore_label=255, dice=1.0, mean=0.25, std=0.2
    )
    tx = jc.optim.adamw(1e-2)
    run = jc.compile_step(jc.make_train_step(task, tx), strategy)
    ev = jc.compile_step(jc.make_eval_step(task), strategy)
    state = jc.init_state(task, tx, train.example())
    fitted = jc.fit(run, state, train, batch_size=16, steps=30, log=None)
    values = jc.evaluate(ev, fitted.state.variables, test, batch_size=8)
    assert values["iou"] > 0.9 and values["accuracy"] > 0.97 and values["count"] == 20
    single = jc.compile_step(jc.make_eval_step(task), "jit", 1)
    alone = jc.evaluate(single, fitted.state.variables, test, batch_size=7)
    np.testing.assert_array_equal(alone["confusion"], values["confusion"])
    known = np.asarray(test.arrays["mask"]) != 255
    logits, _ = jc.collect(task.predict, fitted.state.variables, test)
    assert (np.asarray(logits).argmax(-1) == test.arrays["mask"])[known].mean() == pytest.approx(values["accuracy"])
    assert compute({"x": task.metrics["overlap"](jnp.asarray(logits), dict(test.arrays))})["iou"] == values["iou"]
