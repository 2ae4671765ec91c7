"""SSD: default boxes, matches, losses and detections equal torchvision's; padding changes nothing; it learns."""

import functools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcnn as jc
from jaxcnn.models import matching
from tests.fixtures import pseudo
from tests.models import rectangles

GOLDEN = json.loads((pathlib.Path(__file__).parents[1] / "fixtures" / "anchored.json").read_text())
BOXES, GOLDEN = GOLDEN["ends"]["boxes"], GOLDEN["ssd300_vgg16"]
CLASSES, GRIDS = 3, [(n, n) for n in (38, 19, 10, 5, 3, 1)]


def tiny(num_classes=2, **options):
    """A detector of images of 32 pixels, on maps of 8, 4 and 2 pixels."""
    options = {"levels": (2, 3), "extras": (8,), "scales": (0.25, 0.6), "ratios": (2.0,)} | options
    return jc.models.ssd(num_classes, rectangles.Body(), **options)


def given(**options):
    """Outputs for two images, and the model that they are of."""
    model = jc.models.ssd300_vgg16(CLASSES, **options)
    anchors = jnp.asarray(model.anchors(GRIDS))
    logits, deltas, _ = map(jnp.asarray, pseudo.anchored(len(anchors), CLASSES + 1))
    return model, {"logits": logits, "deltas": deltas, "anchors": jnp.broadcast_to(anchors, (2, *anchors.shape))}


def test_default_boxes_equal_torchvisions():
    anchors = jc.models.ssd300_vgg16().anchors(GRIDS)
    assert anchors.shape == (8732, 4)
    np.testing.assert_allclose(anchors[:: GOLDEN["every"]].ravel() * 300, GOLDEN["anchors"], rtol=1e-5, atol=1e-4)


def test_matches_and_losses_equal_torchvisions():
    model, outputs = given()
    batch = rectangles.padded(BOXES, padding=2)

    @functools.partial(jax.jit, compiler_options=rectangles.CPU)
    def run(outputs, batch):
        known = matching.truths(batch)
        overlap = matching.overlaps(known, outputs["anchors"])
        found = matching.match(known, outputs["anchors"], overlap, high=0.5, low=0.5)
        return matching.claim_best(found, overlap), model.losses(outputs, batch)

    found, parts = run(outputs, batch)
    for i, golden in enumerate(GOLDEN["matches"]):
        assert np.flatnonzero(found.positive[i]).tolist() == golden["anchor"]
        assert found.truth[i][found.positive[i]].tolist() == golden["box"]
    each = np.stack([parts["classification"], parts["box"]], -1)
    np.testing.assert_allclose(each, GOLDEN["losses"], rtol=1e-5)


def test_detections_equal_torchvisions():
    model, outputs = given(candidates=100, max_detections=50)
    found = jax.jit(model.detections)(outputs)
    rectangles.check_detections(found, GOLDEN["detections"])
    model, _ = given(score_threshold=0.85)
    rectangles.check_padding_of_detections(jax.jit(model.detections)(outputs))


def test_padding_changes_nothing_and_images_without_boxes_teach_what_is_background():
    model, outputs = given()
    outputs = jax.tree.map(lambda x: x[:, ::31], outputs)
    batch = rectangles.padded(BOXES, padding=0, fill=0)
    parts = rectangles.checked_padding(model, outputs, ("logits", "deltas"), batch)
    wrong = -np.asarray(jax.nn.log_softmax(outputs["logits"]))[..., 0]
    np.testing.assert_allclose(parts["classification"], np.sort(wrong, 1)[:, -3:].sum(1), rtol=1e-5)
    assert not parts["box"].any()


def test_parameters_of_torchvision():
    model = jc.models.ssd300_vgg16()
    like = jax.eval_shape(lambda key: model.init(key, jnp.zeros((1, 300, 300, 3))), jax.random.key(0))
    assert sum(x.size for x in jax.tree.leaves(like["params"])) == 35_641_826
    outputs = jax.eval_shape(lambda v: model.apply(v, jnp.zeros((2, 300, 300, 3))), like)
    assert {name: x.shape for name, x in outputs.items()} == {
        "logits": (2, 8732, 91), "deltas": (2, 8732, 4), "anchors": (2, 8732, 4),
    }  # fmt: skip


@pytest.mark.parametrize("strategy", ["sharded", "pmap"])
def test_one_device_equals_eight(strategy):
    rectangles.check_devices(tiny(), strategy)


def test_a_row_that_is_padding_changes_no_gradient():
    rectangles.check_row_padding(tiny())


def test_the_loss_falls():
    _, losses = rectangles.trained(tiny(), steps=12)
    assert losses[-1] < 0.7 * losses[0]


def test_it_is_a_task():
    rectangles.check_task(tiny(), {"classification", "box"})


def test_it_learns_a_few_rectangles():
    variables, _ = rectangles.trained(tiny(), steps=60)
    rectangles.check_found(rectangles.found_by(tiny(), variables))


@pytest.mark.parametrize(
    "model, side, message",
    [
        (lambda: tiny(levels=(2, 5)), 32, "levels=.2, 5.: the backbone has no level 5, only 1, 2, 3"),
        (lambda: tiny(0), 32, "num_classes=0: must be at least 1, without the background"),
        (lambda: tiny(candidates=0), 32, "candidates=0: must be at least 1$"),
        (lambda: tiny(score_threshold=1.5), 32, "score_threshold=1.5: must be in 0..1"),
        (lambda: jc.models.ssd(2, jc.layers.Conv(3)), 32, r"backbone=Conv: has no features\(\)"),
        (lambda: tiny(ratios=((2,), (2,))), 32, "for 2 levels, but there are 3"),
        (lambda: jc.models.ssd300_vgg16(2, width=0.02), 267, "must be at least 268x268"),
        (lambda: jc.models.ssd(2, "mobilenet"), 32, "'mobilenet': not one of"),
    ],
)
def test_what_is_wrong_is_one_line(model, side, message):
    with pytest.raises(jc.InputError, match=message):
        made = model()
        jax.eval_shape(lambda key: made.init(key, jnp.zeros((1, side, side, 3))), jax.random.key(0))
