"""FCOS: losses and detections equal torchvision's on given outputs; padding, crowds, head norms, one program."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcnn as jc
from jaxcnn.layers import ConvNorm, Network
from jaxcnn.models import dense
from tests.fixtures import pseudo

GOLDEN = json.loads((pathlib.Path(__file__).parents[1] / "fixtures" / "detectors.json").read_text())["fcos"]
SIDES, CLASSES, SIZE = GOLDEN["sides"], 3, 128
CPU = {"xla_backend_optimization_level": 0}


class Body(Network):
    """Three convolutions, each with half the resolution of the one before."""

    def setup(self):
        self.convs = [ConvNorm(width, (3, 3), 2, 1) for width in (8, 16, 16)]

    def features(self, x, *, train=False, row_mask=None):
        found = {}
        for i, conv in enumerate(self.convs):
            found[f"conv{i}"] = x = conv(x, train=train, row_mask=row_mask)
        return found


def tiny(num_classes=3, **options):
    """A detector of images of 32 pixels, with strides of 4, 8 and 16."""
    options = {"width": 16, "depth": 1, "levels": (2, 3), "extra": 1, "max_detections": 10} | options
    return jc.models.fcos(num_classes, Body(), **options)


def given():
    """Outputs of five levels for two images of 128 pixels."""
    logits, distances, centerness = pseudo.places(sum(n * n for n in SIDES), CLASSES)
    outputs, at = {}, 0
    for level, n in enumerate(SIDES, 3):
        part = slice(at, at + n * n)
        outputs[f"p{level}"] = {
            "logits": jnp.asarray(logits[:, part].reshape(2, n, n, -1)),
            "distances": jnp.asarray(distances[:, part].reshape(2, n, n, 4)),
            "centerness": jnp.asarray(centerness[:, part].reshape(2, n, n)),
            "anchors": dense.cells((2, n, n), 2**level, (SIZE, SIZE)),
        }
        at += n * n
    return outputs


def truth(padding=2, fill=np.nan):
    """The boxes of both images, padded."""
    most = max(map(len, GOLDEN["boxes"])) + padding
    boxes, label, mask = np.full((2, most, 4), fill, np.float32), np.full((2, most), 99), np.zeros((2, most))
    for i, rows in enumerate(np.array(rows) for rows in GOLDEN["boxes"]):
        boxes[i, : len(rows)], label[i, : len(rows)], mask[i, : len(rows)] = rows[:, :4] / SIZE, rows[:, 4], 1
    return {"boxes": jnp.asarray(boxes), "box_label": jnp.asarray(label), "box_mask": jnp.asarray(mask)}


def test_losses_equal_torchvisions():
    model = jc.models.fcos(CLASSES)
    found = jax.jit(model.losses)(given(), truth())
    each = np.stack([found[name] for name in ("classification", "box", "centerness")], -1)
    np.testing.assert_allclose(each, GOLDEN["losses"], rtol=1e-5)
    grad = jax.jit(jax.grad(lambda outputs, batch: sum(v.sum() for v in model.losses(outputs, batch).values())))
    filled, broken = grad(given(), truth(fill=0)), grad(given(), truth())
    for name, level in filled.items():
        for part in ("logits", "distances", "centerness"):
            assert np.isfinite(level[part]).all()
            np.testing.assert_array_equal(broken[name][part], level[part])  # whatever the padding holds


def test_detections_equal_torchvisions():
    model = jc.models.fcos(CLASSES, candidates=GOLDEN["candidates"], max_detections=40, score_threshold=0.25)
    found = jax.jit(model.detections)(given())
    for i, rows in enumerate(np.array(rows) for rows in GOLDEN["detections"]):
        n = len(rows)
        assert 20 <= n <= int(found["box_mask"][i].sum())
        np.testing.assert_allclose(found["boxes"][i, :n], rows[:, :4], atol=1e-6)
        np.testing.assert_allclose(found["scores"][i, :n], rows[:, 4], rtol=1e-5)
        np.testing.assert_array_equal(found["labels"][i, :n], rows[:, 5])
    few = jax.jit(jc.models.fcos(CLASSES, score_threshold=0.6).detections)(given())
    kept = np.asarray(few["box_mask"])
    assert 0 < kept.sum() < kept.size and (np.asarray(few["scores"])[kept] > 0.6).all()
    assert all(not np.asarray(few[name])[~kept].any() for name in ("boxes", "scores", "labels"))
    assert (np.diff(np.where(kept, few["scores"], 0)) <= 0).all()


def test_images_without_boxes_learn_that_there_is_nothing():
    model, outputs = jc.models.fcos(CLASSES), given()
    none = {"boxes": jnp.zeros((2, 0, 4)), "box_label": jnp.zeros((2, 0), jnp.int32)}
    masked = truth() | {"box_mask": jnp.zeros((2, 5))}
    for batch in (none, masked):
        found = jax.jit(model.losses)(outputs, batch)
        logits = np.concatenate([level["logits"].reshape(2, -1) for level in outputs.values()], 1).astype(np.float64)
        p = 1 / (1 + np.exp(-logits))
        np.testing.assert_allclose(found["classification"], (-0.75 * p**2 * np.log1p(-p)).sum(1), rtol=1e-5)
        assert not found["box"].any() and not found["centerness"].any()


def test_places_in_a_crowd_count_neither_way():
    model, outputs, batch = jc.models.fcos(CLASSES), given(), truth(padding=1, fill=0)
    last = lambda name, value: {name: batch.get(name, jnp.zeros((2, 4))).at[:, -1].set(value)}
    whole = batch | last("boxes", jnp.array([0.0, 0.0, 1.0, 1.0])) | last("box_mask", 1) | last("box_label", 0)
    found = jax.jit(model.losses)
    crowd, before, object_ = found(outputs, whole | last("box_crowd", 1)), found(outputs, batch), found(outputs, whole)
    for name in ("box", "centerness"):
        np.testing.assert_array_equal(crowd[name], before[name])
        assert (object_[name] != before[name]).all()
    grad = jax.jit(
        jax.grad(lambda outputs: sum(x.sum() for x in found(outputs, whole | last("box_crowd", 1)).values()))
    )
    for level in grad(outputs).values():
        learns, positive = np.asarray(level["logits"]).any(-1), np.asarray(level["centerness"]) != 0
        outside = np.zeros_like(positive)
        outside[:, 0], outside[:, :, 0] = True, True  # the first places lie on the border of the image
        np.testing.assert_array_equal(learns, positive | outside)


def test_a_place_predicts_the_smallest_box_around_its_centre_that_fits_its_level():
    """Places of stride 8 in an image of 64 pixels; the box of 8..40 pixels has its centre at 24."""
    anchors = dense.cells((1, 8, 8), 8, (64, 64)).reshape(1, -1, 4)
    large, small = [8.0, 8.0, 40.0, 40.0], [20.0, 20.0, 30.0, 30.0]
    boxes = jnp.array([[large, small]]) / 64
    limits, all_kept, none = (jnp.zeros(64), jnp.full(64, 8.0)), jnp.ones((1, 2), bool), jnp.zeros((1, 2), bool)
    index, _ = dense.assigned(anchors, limits, boxes, all_kept, none, 1.5)
    expected = np.full((8, 8), -1)
    expected[2:5, 2:5] = 0  # 16, 24 and 32 lie less than 1.5 strides from the centre
    expected[3, 3] = 1
    np.testing.assert_array_equal(index.reshape(8, 8), expected)
    index, _ = dense.assigned(anchors, (limits[0], jnp.full(64, 2.5)), boxes, all_kept, none, 1.5)
    np.testing.assert_array_equal(index.reshape(8, 8), np.where(expected == 1, 1, -1))  # 24 pixels are 3 strides
    index, _ = dense.assigned(anchors, (jnp.full(64, 4.0), limits[1]), boxes, all_kept, none, 1.5)
    assert (np.asarray(index) == -1).all()  # no side of either box is 4 strides away


def test_a_prediction_is_one_program_whose_answer_stays(rng):
    model, image = tiny(norm="batch"), jnp.asarray(rng.normal(size=(2, 32, 32, 3)), jnp.float32)
    variables = jax.jit(lambda key: model.init(key, image, train=False), compiler_options=CPU)(jax.random.key(0))
    np.testing.assert_allclose(jax.nn.sigmoid(variables["params"]["logits"]["bias"]), 0.01, rtol=1e-5)
    assert {"norm_0_p2", "norm_0_p3", "norm_0_p4"} < variables["params"]["classify"].keys()
    traces = []

    @jax.jit
    def predict(variables, image):
        traces.append(1)
        return model.detections(model.apply(variables, image))

    first, second = predict(variables, image), predict(variables, image)
    assert len(traces) == 1 and predict.lower(variables, image).as_text().count("func.func public @main") == 1
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), first, second))
    assert first["boxes"].shape == (2, 10, 4) and first["labels"].dtype == jnp.int32
    assert (first["boxes"] >= 0).all() and (first["boxes"] <= 1).all()


@pytest.mark.parametrize(
    "options, message",
    [
        ({"num_classes": 0}, "num_classes=0: must be at least 1"),
        ({"norm": "layer"}, "norm='layer': must be one of group, batch"),
        ({"radius": 0.0}, "radius=0.0: must be above 0"),
        ({"iou_threshold": 1.5}, "iou_threshold=1.5: must be in 0..1"),
        ({"candidates": 0}, "candidates=0: must be at least 1"),
        ({"depth": -1}, "depth=-1: must be at least 0"),
        ({"backbone": "resnet81"}, "'resnet81': not one of"),
        ({"backbone": jc.layers.Conv(3)}, r"backbone=Conv: has no features\(\)"),
    ],
)
def test_what_is_wrong_is_one_line(options, message):
    with pytest.raises(jc.InputError, match=message):
        jc.models.fcos(**{"num_classes": 3} | options)


def test_the_body_by_name_and_options():
    body = {"name": "resnet20", "options": {"width": 4}}
    assert jc.models.fcos(2, body).backbone == jc.models.resnet20(width=4)
    assert jc.models.unet(2, body, widths=(4, 4, 4)).encoder.width == 4 and jc.models.fcn(2, "resnet20").encoder.width
    for wrong, line in (
        ({"name": "resnet2"}, "'resnet2': not one of .* did you mean resnet20"),
        ({"options": {}}, "must be a name, a network, or"),
        ({"name": "cnn", "x": 1}, "must be a name, a network, or"),
    ):
        with pytest.raises(jc.InputError, match=line):
            jc.models.fcos(2, wrong)
