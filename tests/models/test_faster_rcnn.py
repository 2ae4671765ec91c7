"""Faster R-CNN: anchors, proposals, losses and detections equal torchvision's; padding changes nothing; it learns."""

import functools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcnn as jc
from jaxcnn.models import anchors, matching, rpn
from jaxcnn.models.faster_rcnn import placed
from tests.fixtures import pseudo
from tests.models import rectangles

GOLDEN = json.loads((pathlib.Path(__file__).parents[1] / "fixtures" / "anchored.json").read_text())["ends"]
BOXES, SIZE, CLASSES, EVERYTHING = GOLDEN["boxes"], GOLDEN["size"], 3, 10**6
SIDES = {i: tuple(-(-n // 2**i) for n in SIZE) for i in range(2, 7)}


def tiny(num_classes=2, **options):
    """A detector of images of 32 pixels, with strides of 4, 8 and 16."""
    options = {"levels": (2, 3), "width": 16, "hidden": 64, "anchor_size": 2.0} | options
    options = {"candidates": 32, "proposals": 32, "sampled": 32, "max_detections": 10} | options
    return jc.models.faster_rcnn(num_classes, rectangles.Body(), **options)


def propose(outputs, counts, *options):
    return jax.jit(lambda x: rpn.propose(x, counts, *options), compiler_options=rectangles.CPU)(outputs)


@functools.cache
def first():
    """Given outputs of the first stage for two images, and the number of anchors per level."""
    levels = anchors.pyramid_anchors(SIDES, SIZE, {i: (8 * 2**i,) for i in SIDES}, (0.5, 1.0, 2.0))
    joined = np.concatenate(list(levels.values()))
    _, offsets, objectness = map(jnp.asarray, pseudo.anchored(len(joined), 1))
    outputs = {"objectness": objectness, "offsets": offsets, "anchors": jnp.broadcast_to(joined, (2, *joined.shape))}
    return outputs, [len(x) for x in levels.values()]


@functools.cache
def second():
    """Given outputs of both stages."""
    outputs, counts = first()
    boxes, mask = propose(outputs, counts, SIZE, GOLDEN["candidates"], 40)
    logits, deltas, _ = map(jnp.asarray, pseudo.anchored(40 * (CLASSES + 1), CLASSES + 1))
    deltas = deltas.reshape(2, 40, CLASSES + 1, 4)
    return outputs | {"proposals": boxes, "proposal_mask": mask, "logits": logits[:, ::4], "deltas": deltas}


def test_anchors_equal_torchvisions_also_where_the_last_level_is_rounded_up():
    outputs, _ = first()
    assert SIDES[6] == (2, 2)  # torchvision puts them 48 pixels apart along the side of 96
    pixels = np.asarray(outputs["anchors"][0]) * np.array([*SIZE, *SIZE])
    np.testing.assert_allclose(pixels[::97].ravel(), GOLDEN["anchors"], atol=1e-4)


def test_proposals_equal_torchvisions():
    outputs = second()
    assert outputs["proposal_mask"].all()
    np.testing.assert_allclose(outputs["proposals"], GOLDEN["proposals"], atol=2e-6)
    outputs, counts = first()
    more, mask = propose(outputs, counts, SIZE, 10, 60)
    assert not mask.all() and not np.asarray(more)[~np.asarray(mask)].any()


def test_objects_among_anchors_and_losses_equal_torchvisions():
    """With everything sampled: torchvision's samples are random."""
    model = jc.models.faster_rcnn(CLASSES, sampled=EVERYTHING)

    @functools.partial(jax.jit, compiler_options=rectangles.CPU)
    def run(outputs, batch):
        known = matching.truths(batch)
        overlap = matching.overlaps(known, outputs["anchors"])
        found = matching.match(known, outputs["anchors"], overlap, high=rpn.HIGH, low=rpn.LOW)
        first = rpn.proposal_losses(outputs, known, EVERYTHING)
        return matching.claim_ties(found, overlap), first, model.losses(outputs, batch)

    found, first, parts = run(second(), rectangles.padded(BOXES, padding=2))
    for i in range(2):
        assert np.flatnonzero(found.positive[i]).tolist() == GOLDEN["objects"][i]
        assert np.flatnonzero(~(found.positive | found.negative)[i]).tolist() == GOLDEN["ignored"][i]
    np.testing.assert_allclose(np.stack([first["objectness"], first["proposal_box"]], -1), GOLDEN["first"], rtol=1e-5)
    each = np.stack([parts["classification"], parts["box"]], -1)
    np.testing.assert_allclose(each, GOLDEN["second"], rtol=1e-5, atol=1e-7)


def test_detections_equal_torchvisions():
    detections = jax.jit(jc.models.faster_rcnn(CLASSES, max_detections=120).detections)
    found = detections(second())
    rectangles.check_detections(found, GOLDEN["detections"])
    rectangles.check_padding_of_detections(found)
    none = detections(second() | {"proposal_mask": jnp.zeros((2, 40), bool)})
    assert not none["box_mask"].any()


def test_padding_changes_nothing_and_images_without_boxes_teach_what_is_background():
    model, learned = jc.models.faster_rcnn(CLASSES, sampled=20), ("objectness", "offsets", "logits", "deltas")
    # a proposal that overlaps a box, so that there are objects
    outputs = second() | {"proposals": second()["proposals"].at[:, 0].set(jnp.array([b[0][:4] for b in BOXES]))}
    parts = rectangles.checked_padding(model, outputs, learned, rectangles.padded(BOXES, padding=0, fill=0))
    assert not parts["box"].any() and not parts["proposal_box"].any()
    background = -np.asarray(jax.nn.log_softmax(outputs["logits"]))[..., 0].mean(1)
    np.testing.assert_allclose(parts["classification"], background, rtol=1e-5)


def test_true_boxes_join_the_sample_and_a_quarter_of_it_are_objects():
    model, known = tiny(sampled=12), matching.truths(rectangles.rectangles())
    corners = jax.random.uniform(jax.random.key(0), (8, 20, 2)) / 2
    proposals = jnp.concatenate([corners, corners + 0.3], -1)
    mask = jnp.ones((8, 20), bool).at[:, 15:].set(False)

    @functools.partial(jax.jit, compiler_options=rectangles.CPU)
    def run(key):
        given = proposals, mask, known
        drawn = model.apply({}, *given, method="sample", rngs={"dropout": key})
        return drawn, model.apply({}, *given, method="sample")

    (first, best), (second, _) = run(jax.random.key(0)), run(jax.random.key(1))
    assert not np.array_equal(first[0], second[0])
    for boxes, kept in (first, best):
        assert boxes.shape == (8, 12, 4) and not np.asarray(boxes)[~np.asarray(kept)].any()
        overlap = np.asarray(jc.ops.boxes.iou(boxes, known.boxes)).max(-1)
        objects = ((overlap >= 0.5) & np.asarray(kept)).sum(1)
        assert objects.max() <= 3 and objects.min() >= 1  # a true box overlaps itself
        assert not (np.asarray(boxes)[:, :, None] == np.asarray(proposals)[:, None, 15:]).all(-1).any()


def test_boxes_are_sampled_from_the_level_of_their_size():
    boxes = jnp.array([[[0, 0, s, s] for s in (0.01, 0.22, 0.23, 0.44, 0.46, 1.0)]])
    levels = {i: jnp.zeros((1, -(-1000 // 2**i), -(-1000 // 2**i), 1)) for i in (3, 4, 5)}
    level, scaled = placed(boxes, levels, (1000, 1000))
    assert level[0].tolist() == [0, 0, 1, 1, 2, 2]  # 224 pixels are those of level 4, 448 of level 5
    np.testing.assert_allclose(scaled[0, -1], [0, 0, 1000 / 1024, 1000 / 1024])


def test_frozen_norms_do_not_change():
    model = jc.models.fasterrcnn_resnet50_fpn(2, backbone="resnet18", width=8, hidden=8, proposals=4, candidates=4)
    x = jnp.ones((1, 64, 64, 3))
    norm = jc.layers.BatchNorm(frozen=True, epsilon=0.0)
    variables = norm.init(jax.random.key(0), x, train=True)
    variables["batch_stats"] = {"mean": jnp.full(3, 2.0), "var": jnp.full(3, 4.0)}

    def total(params):
        y, state = norm.apply({**variables, "params": params}, x, train=True, mutable=["batch_stats"])
        return y.sum(), (y, state)

    grads, (y, state) = jax.grad(total, has_aux=True)(variables["params"])
    np.testing.assert_allclose(y, -0.5)
    jax.tree.map(np.testing.assert_array_equal, state["batch_stats"], variables["batch_stats"])
    assert not any(np.any(g) for g in jax.tree.leaves(grads))
    assert model.backbone.norm.keywords == {"frozen": True, "epsilon": 0.0}


def test_parameters_of_torchvision():
    model = jc.models.fasterrcnn_resnet50_fpn()
    like = jax.eval_shape(lambda key: model.init(key, jnp.zeros((1, 64, 64, 3))), jax.random.key(0))
    norms = [x.size for path, x in jc.types.named(like["params"]["backbone"]) if ".norm." in path]
    assert sum(x.size for x in jax.tree.leaves(like["params"])) - sum(norms) == 41_755_286  # theirs are frozen


@pytest.mark.parametrize("strategy", ["sharded", "pmap"])
def test_one_device_equals_eight(strategy):
    rectangles.check_devices(tiny(), strategy)


def test_a_row_that_is_padding_changes_no_gradient():
    rectangles.check_row_padding(tiny())


def test_the_loss_falls():
    _, losses = rectangles.trained(tiny(), steps=12, rate=4e-3)
    assert losses[-1] < 0.8 * losses[0]


def test_it_is_a_task():
    rectangles.check_task(tiny(), {"objectness", "proposal_box", "classification", "box"})


def test_it_learns_a_few_rectangles():
    variables, _ = rectangles.trained(tiny(), steps=200, rate=4e-3)
    rectangles.check_found(rectangles.found_by(tiny(), variables), least=0.8)  # of a network this small


@pytest.mark.parametrize(
    "model, side, message",
    [
        (lambda: tiny(levels=(3, 4)), 32, "levels=.3, 4.: the backbone has no level 4, only 1, 2, 3"),
        (lambda: tiny(0), 32, "num_classes=0: must be at least 1"),
        (lambda: tiny(sampled=0), 32, "sampled=0: must be at least 1"),
        (lambda: tiny(), 7, "must be at least 8x8"),
        (lambda: jc.models.fasterrcnn_resnet50_fpn(2, backbone="resnet81"), 32, "'resnet81': not one of"),
    ],
)
def test_what_is_wrong_is_one_line(model, side, message):
    with pytest.raises(jc.InputError, match=message):
        made = model()
        jax.eval_shape(lambda key: made.init(key, jnp.zeros((1, side, side, 3))), jax.random.key(0))
