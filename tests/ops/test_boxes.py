"""Boxes equal plain NumPy: overlaps, codecs, suppression with ties, and the conventions of other formats."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn import InputError
from jaxcnn.ops import boxes as ops

KINDS = ("iou", "giou", "diou")
FLAT = [[0.2, 0.2, 0.2, 0.6], [0.5, 0.5, 0.5, 0.5], [0.7, 0.1, 0.3, 0.9]]  # no height, a point, inverted


def drawn(rng, n, steps=None):
    """Random boxes; on a grid of `steps`, many overlaps and scores tie."""
    corners = rng.random((n, 2, 2)) if steps is None else rng.integers(0, steps, (n, 2, 2)) / steps
    low = corners.min(1)
    return np.concatenate([low, np.maximum(corners.max(1), low + 0.05)], 1).astype(np.float32)


def plain_iou(a, b, kind="iou"):
    """One pair, in float64, by the definitions."""
    (ay0, ax0, ay1, ax1), (by0, bx0, by1, bx1) = np.float64(a), np.float64(b)
    area_a, area_b = max(ay1 - ay0, 0) * max(ax1 - ax0, 0), max(by1 - by0, 0) * max(bx1 - bx0, 0)
    shared = max(min(ay1, by1) - max(ay0, by0), 0) * max(min(ax1, bx1) - max(ax0, bx0), 0)
    union = area_a + area_b - shared
    value = shared / union if union else 0.0
    h, w = max(ay1, by1) - min(ay0, by0), max(ax1, bx1) - min(ax0, bx0)
    if kind == "giou":
        return value - (h * w - union) / (h * w)
    if kind == "diou":
        gap = ((ay0 + ay1) / 2 - (by0 + by1) / 2) ** 2 + ((ax0 + ax1) / 2 - (bx0 + bx1) / 2) ** 2
        return value - gap / (h**2 + w**2)
    return value


def plain_nms(boxes, scores, iou_threshold, most, classes, mask, score_threshold, soft):
    """Greedy suppression over a list, the scores of the soft form in float64."""
    left = {i: float(s) for i, s in enumerate(scores) if mask[i] and s > score_threshold}
    kept = []
    while left and len(kept) < most:
        best = max(left, key=lambda i: (left[i], -i))
        kept.append((best, left.pop(best)))
        for i in list(left):
            overlap = plain_iou(boxes[best], boxes[i]) if classes[i] == classes[best] else 0
            if soft is not None:
                left[i] *= np.exp(-(overlap**2) / soft)
            if overlap > iou_threshold or left[i] <= score_threshold:
                del left[i]
    return kept


@functools.partial(jax.jit, static_argnames=("max_outputs", "soft"))
def run_nms(boxes, scores, classes, mask, iou_threshold, score_threshold, *, max_outputs, soft):
    one = functools.partial(
        ops.nms, iou_threshold=iou_threshold, max_outputs=max_outputs, score_threshold=score_threshold, soft=soft
    )
    return jax.vmap(lambda b, s, c, m: one(b, s, classes=c, mask=m))(boxes, scores, classes, mask)


@pytest.mark.parametrize("soft", [None, 0.3])
def test_nms_equals_a_plain_loop(soft, rng):
    cases, n, most = 40, 24, 12
    boxes = np.stack([drawn(rng, n, 8 if case % 2 else None) for case in range(cases)])
    scores = np.where(np.arange(cases)[:, None] % 2, rng.integers(0, 6, (cases, n)) / 5, rng.random((cases, n)))
    scores = scores.astype(np.float32)
    if soft is not None:  # decayed scores that should tie differ by rounding
        scores = rng.permuted(np.tile(np.linspace(0.05, 1, n, dtype=np.float32), (cases, 1)), axis=1)
    classes, mask = rng.integers(0, 3, (cases, n)), rng.random((cases, n)) < 0.8
    dirty = np.where(mask[..., None], boxes, np.nan)
    found = run_nms(dirty, np.where(mask, scores, np.nan), classes, mask, 0.41, 0.1, max_outputs=most, soft=soft)
    for case in range(cases):
        kept = plain_nms(boxes[case], scores[case], 0.41, most, classes[case], mask[case], np.float32(0.1), soft)
        index, values = np.array([i for i, _ in kept], int), np.array([s for _, s in kept])
        assert found.mask[case].sum() == len(kept) and np.asarray(found.mask[case])[: len(kept)].all()
        np.testing.assert_array_equal(found.index[case][: len(kept)], index, err_msg=str(case))
        np.testing.assert_allclose(found.scores[case][: len(kept)], values, rtol=1e-5, atol=0)
        assert not np.asarray(found.index[case])[len(kept) :].any()
        assert not np.asarray(found.scores[case])[len(kept) :].any()


def test_equal_boxes_and_scores_keep_the_first():
    boxes = jnp.array([[0, 0, 1, 1], [0, 0, 1, 1], [0, 0, 0.5, 0.5], [0.5, 0.5, 1, 1]])
    kept = ops.nms(boxes, jnp.array([0.5, 0.5, 0.9, 0.9]), iou_threshold=0.5, max_outputs=6)
    assert kept.index.tolist() == [2, 3, 0, 0, 0, 0] and kept.mask.tolist() == [True] * 3 + [False] * 3
    assert kept.index.dtype == jnp.int32
    same = ops.nms(boxes, jnp.ones(4), iou_threshold=1.0, max_outputs=4)  # nothing overlaps by more than 1
    assert same.index.tolist() == [0, 1, 2, 3] and same.mask.all()


def test_boxes_that_cannot_be_kept():
    boxes = jnp.array([[0, 0, 1, 1], [0, 0, 1, jnp.nan], [0, 0, 1, jnp.inf], [0.2, 0, 0.8, 1]])
    kept = ops.nms(boxes, jnp.array([jnp.nan, 0.9, 0.9, 0.1]), iou_threshold=0.5, max_outputs=2)
    assert kept.index.tolist() == [3, 0] and kept.mask.tolist() == [True, False]
    nothing = ops.nms(jnp.zeros((0, 4)), jnp.zeros(0), iou_threshold=0.5, max_outputs=2)
    assert not nothing.mask.any() and nothing.index.shape == (2,)
    logits = ops.nms(boxes[:1], jnp.array([-3.0]), iou_threshold=0.5, max_outputs=1, score_threshold=-jnp.inf)
    assert logits.mask.tolist() == [True] and logits.scores.tolist() == [-3]


def test_scores_of_hard_suppression_have_a_gradient():
    boxes = jnp.array([[0, 0, 1, 1], [0, 0, 0.9, 1], [0.0, 0, 0.1, 0.1]])

    def total(scores, boxes):
        return (ops.nms(boxes, scores, iou_threshold=0.5, max_outputs=3).scores * jnp.array([1.0, 2, 4])).sum()

    by_score, by_box = jax.grad(total, (0, 1))(jnp.array([0.4, 0.5, 0.3]), boxes)
    assert by_score.tolist() == [0, 1, 2] and not by_box.any()


def test_overlaps_equal_their_definitions(rng):
    a, b = (np.concatenate([drawn(rng, 30), drawn(rng, 20, 6), more]) for more in (FLAT, drawn(rng, 3)))
    a, b = a.astype(np.float32), b.astype(np.float32)

    @jax.jit
    def overlaps(a, b):
        pairs = [ops.paired_iou(a[:50], b[:50], kind) for kind in KINDS]
        return ops.iou(a, b), ops.iou(jnp.stack([a, b]), b), ops.iou(a * 640, b * 640), pairs

    expected = [[plain_iou(x, y) for y in b] for x in a]
    one, two, pixels, pairs = overlaps(a, b)
    for found in (one, two[0], pixels):
        np.testing.assert_allclose(found, expected, atol=1e-6)
    same = overlaps(b, b)
    np.testing.assert_allclose(np.diagonal(same[0]), 1, atol=1e-6)
    for kind, found, own in zip(KINDS, pairs, same[3], strict=True):
        expected = [plain_iou(x, y, kind) for x, y in zip(a[:50], b[:50], strict=True)]
        np.testing.assert_allclose(found, expected, atol=2e-6)
        np.testing.assert_allclose(own, 1, atol=1e-6)
    apart = ops.paired_iou(jnp.array(FLAT[1]), jnp.array([0.9, 0.9, 0.9, 0.9]), "giou")
    assert apart == -1 and ops.area(np.array(FLAT)).tolist() == [0, 0, 0]
    np.testing.assert_allclose(ops.intersection(np.array([[0, 0, 4, 4]]), np.array([[1, 3, 9, 9], FLAT[0]])), [[3, 0]])
    assert np.isnan(ops.iou(np.array([[0, 0, 1, np.nan]]), b[:1])).all()


@pytest.mark.parametrize("kind", ["iou", "giou", "diou"])
def test_gradients_are_finite_and_right(kind, rng):
    flat = jnp.array([*FLAT, [0, 0, 0, 0], [0, 0, 1, 1]], jnp.float32)
    pairs = [(x, y) for x in flat for y in flat]
    a, b = (jnp.stack(side) for side in zip(*pairs, strict=True))
    for side in (0, 1):
        grads = jax.grad(lambda a, b: ops.paired_iou(a, b, kind).sum(), side)(a, b)
        assert jnp.isfinite(grads).all()
    a, b = drawn(rng, 12), drawn(rng, 12)
    grads, step = jax.grad(lambda a: ops.paired_iou(a, b, kind).sum())(a), 1e-6
    for i in range(4):
        move = np.eye(4)[i] * step
        slope = [
            (plain_iou(x + move, y, kind) - plain_iou(x - move, y, kind)) / (2 * step)
            for x, y in zip(np.float64(a), np.float64(b), strict=True)
        ]
        np.testing.assert_allclose(grads[:, i], slope, rtol=2e-3, atol=2e-4)


def test_codecs_return_what_they_were_given(rng):
    boxes, anchors, points = drawn(rng, 50), drawn(rng, 50), rng.random((50, 2)).astype(np.float32)
    for scale in (1, 800):
        deltas = ops.encode_deltas(boxes * scale, anchors * scale)
        back = ops.decode_deltas(deltas, anchors * scale)
        np.testing.assert_allclose(back / scale, boxes, atol=1e-5)
        there = ops.encode_distances(points * scale, boxes * scale)
        np.testing.assert_allclose(ops.decode_distances(points * scale, there) / scale, boxes, atol=1e-6)
    inside = (np.asarray(ops.encode_distances(points, boxes)) > 0).all(-1)
    assert (inside == ((points > boxes[:, :2]) & (points < boxes[:, 2:])).all(-1)).all()


def test_deltas_by_hand():
    anchor, box = jnp.array([10.0, 20, 30, 60]), jnp.array([14.0, 10, 24, 90])
    deltas = ops.encode_deltas(box, anchor, weights=(1, 2, 3, 4))
    np.testing.assert_allclose(deltas, [-1 / 20, 2 * 10 / 40, 3 * np.log(0.5), 4 * np.log(2)], atol=1e-6)
    np.testing.assert_allclose(ops.decode_deltas(deltas, anchor, (1, 2, 3, 4)), box, rtol=1e-6)
    wild = ops.decode_deltas(jnp.array([0, 0, 1e6, -1e6]), jnp.array([0.0, 0, 16, 16]))
    np.testing.assert_allclose(wild, [8 - 500, 8, 8 + 500, 8], rtol=1e-6)


def test_padding_has_zero_deltas_and_finite_gradients():
    bad = jnp.array([[0.0, 0, 0, 0], [0.5, 0.5, 0.5, 0.7], [jnp.nan] * 4, [0, 0, jnp.inf, 1], [0.5, 0.5, 0.2, 0.7]])
    good = jnp.array([[0.1, 0.1, 0.6, 0.6]] * len(bad))

    @jax.jit
    def values_and_slopes(boxes, anchors):
        deltas = ops.encode_deltas(boxes, anchors)
        return deltas, jax.grad(lambda a, b: ops.encode_deltas(a, b).sum(), (0, 1))(boxes, anchors)

    for pair in ((bad, good), (good, bad)):
        assert all((x == 0).all() for x in jax.tree.leaves(values_and_slopes(*pair)))
    wide = jax.eval_shape(ops.encode_deltas, good[None, :, None], good[:, None, None])  # leading axes broadcast
    assert wide.shape == (5, 5, 1, 4)


def test_clip():
    boxes = jnp.array([[[-3.0, 2, 9, 30]], [[1, -1, 4, 5]]])
    assert ops.clip(boxes, 8, 20).tolist() == [[[0, 2, 8, 20]], [[1, 0, 4, 5]]]
    assert ops.clip(boxes, jnp.array([[8], [3]]), 4).tolist() == [[[0, 2, 8, 4]], [[1, 0, 3, 4]]]
    assert ops.clip(boxes)[0].tolist() == [[0, 1, 1, 1]]


def test_formats_by_hand():
    """A box of 3 x 2 pixels in an image 10 high and 20 wide: rows 4 and 5, columns 6, 7 and 8, counted from 0."""
    ours = [[0.4, 0.3, 0.6, 0.45]]
    np.testing.assert_allclose(ops.from_coco([[6, 4, 3, 2]], height=10, width=20), ours)
    np.testing.assert_allclose(ops.from_voc([[7, 5, 9, 6]], height=10, width=20), ours)
    np.testing.assert_allclose(ops.from_yolo([[0.375, 0.5, 0.15, 0.2]]), ours)


@pytest.mark.parametrize("xp", [np, jnp])
def test_formats_and_back(xp, rng):
    ours, size = xp.asarray(np.stack([drawn(rng, 9)] * 2)), {"height": 480, "width": xp.asarray([[640], [20]])}
    for there, back, options in (
        (ops.to_coco, ops.from_coco, size), (ops.to_voc, ops.from_voc, size), (ops.to_yolo, ops.from_yolo, {})
    ):  # fmt: skip
        other = there(ours, **options)
        assert isinstance(other, xp.ndarray) and not np.allclose(other, ours)
        np.testing.assert_allclose(back(other, **options), ours, atol=1e-6)
    assert ops.from_coco([], height=1, width=1).shape == (0, 4)
    jitted = jax.jit(lambda b, h: ops.from_coco(b, height=h, width=2))(jnp.array([[1, 2, 3, 4]]), 8)
    np.testing.assert_allclose(jitted, [[0.25, 0.5, 0.75, 2]])


BOX, SCORE = np.zeros((2, 4)), np.zeros(2)


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: ops.iou(np.zeros(4), BOX), r"boxes of shapes \(4,\) and \(2, 4\): must be \[..., N, 4\]"),
        (lambda: ops.iou(np.zeros((2, 5)), BOX), r"boxes of shape \(2, 5\): must be \[..., 4\]"),
        (lambda: ops.paired_iou(BOX, BOX, "ciou"), "kind='ciou': must be one of iou, giou, diou"),
        (lambda: ops.encode_deltas(BOX, BOX, (1, 1, 0, 1)), r"weights=\(1, 1, 0, 1\)"),
        (lambda: ops.encode_distances(BOX, BOX), r"points of shape \(2, 4\): must be \[..., 2\]"),
        (lambda: ops.nms(BOX[None], SCORE, iou_threshold=0.5, max_outputs=1), "use jax.vmap for more axes"),
        (lambda: ops.nms(BOX, SCORE[:1], iou_threshold=0.5, max_outputs=1), r"scores of shape \(1,\)"),
        (lambda: ops.nms(BOX, SCORE, iou_threshold=50, max_outputs=1), "iou_threshold=50: must be in 0..1"),
        (lambda: ops.nms(BOX, SCORE, iou_threshold=0.5, max_outputs=0), "max_outputs=0"),
        (lambda: ops.nms(BOX, SCORE, iou_threshold=0.5, max_outputs=1, soft=0), "soft=0: must be above 0"),
        (lambda: ops.nms(BOX, SCORE, iou_threshold=0.5, max_outputs=1, mask=BOX), r"mask of shape \(2, 4\)"),
        (lambda: ops.from_coco(BOX, height=0, width=5), "height=0: must be positive"),
        (lambda: ops.to_voc(np.zeros((2, 3)), height=1, width=5), r"boxes of shape \(2, 3\)"),
    ],
)
def test_bad_input_is_one_line(call, words):
    with pytest.raises(InputError, match=words) as caught:
        call()
    assert "\n" not in str(caught.value)
