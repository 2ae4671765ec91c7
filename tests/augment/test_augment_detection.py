"""Changes of scale, crops that keep boxes, and mosaics: boxes and masks follow the pixels."""

import importlib

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn import InputError, augment
from jaxcnn.augment import crops
from jaxcnn.core.collectives import AXIS

MOSAIC = importlib.import_module("jaxcnn.augment.mosaic")  # as an attribute, the name is the function
KEY = jax.random.key(7)
ALL = augment.SpatialTargets(visible=0)
H, W, B = 24, 20, 16
CHANGES = {
    "scale_jitter": augment.scale_jitter((0.5, 2.0), follow=ALL),
    "box_crop": augment.box_crop((30, 16), probability=1, follow=ALL),
    "mosaic": augment.mosaic(max_boxes=6, follow=ALL),
}


def fast(change):
    run = jax.jit(change, compiler_options={"xla_backend_optimization_level": 0})
    return lambda *args: jax.tree.map(np.asarray, run(*args))


def drawn(rng):
    """Images with one object each, in the brightness of its label, and a second box that is padding."""
    low = np.stack([rng.integers(0, n - 8, B) for n in (H, W)], 1)
    size = rng.integers(6, 10, (B, 2))
    boxes = np.concatenate([low, np.minimum(low + size, (H, W))], 1)
    label = 1 + np.arange(B) % 4
    mask = np.zeros((B, H, W), np.int32)
    for i, (y0, x0, y1, x1) in enumerate(boxes):
        mask[i, y0:y1, x0:x1] = label[i]
    share = boxes / [H, W, H, W]
    return {
        "image": np.repeat(mask[..., None] * 50, 3, -1).astype(np.uint8),
        "mask": mask,
        "boxes": np.stack([share, np.full((B, 4), np.nan)], 1).astype(np.float32),
        "box_label": np.stack([label, np.full(B, 9)], 1),
        "box_mask": np.asarray([[1, 0]] * B, np.float32),
        "box_crowd": np.asarray([[0, 1]] * B),
        "name": np.arange(B),
    }


@pytest.mark.parametrize("name", CHANGES)
def test_boxes_labels_and_masks_follow_the_pixels(name, rng):
    batch = drawn(rng)
    out = fast(CHANGES[name])(KEY, batch)
    h, w = (30, 16) if name == "box_crop" else (H, W)
    n = 6 if name == "mosaic" else 2
    assert out["image"].shape == (B, h, w, 3) and out["image"].dtype == np.float32 and out["mask"].shape == (B, h, w)
    assert {k: out[k].shape[1] for k in out if k.startswith("box")} == dict.fromkeys(
        ("boxes", "box_label", "box_mask", "box_crowd"), n
    )
    chex.assert_trees_all_equal(out["name"], batch["name"])
    sharp = np.abs(out["image"][..., 0] * 255 / 50 - out["mask"]) < 0.1
    assert sharp.mean() > 0.75 and (out["box_mask"].sum(1) > 0).any()
    count = 0
    for mask, boxes, labels, there in zip(out["mask"], out["boxes"], out["box_label"], out["box_mask"], strict=True):
        assert not boxes[there == 0].any()
        covered = np.zeros((h, w), bool)
        for (y0, x0, y1, x1), label in zip(boxes[there > 0] * [h, w, h, w], labels[there > 0], strict=True):
            y, x = np.arange(h)[:, None] + 0.5, np.arange(w)[None] + 0.5
            inside = (y > y0) & (y < y1) & (x > x0) & (x < x1)
            assert inside.sum() < 12 or (mask[inside] == label).mean() > 0.6
            covered |= (y > y0 - 1.5) & (y < y1 + 1.5) & (x > x0 - 1.5) & (x < x1 + 1.5)
            count += 1
        if name != "box_crop":  # which drops boxes whose centre is outside
            assert not mask[~covered].any()
    assert count > B // 2


@pytest.mark.parametrize("name", CHANGES)
def test_draws_do_not_depend_on_the_spread_of_rows(name, rng):
    batch = {key: jnp.asarray(x) for key, x in drawn(rng).items()}

    def both(batch):
        spread = jax.tree.map(lambda x: x.reshape(4, 4, *x.shape[1:]), batch)
        parts = jax.vmap(lambda rows: CHANGES[name](KEY, rows), axis_name=AXIS)(spread)
        return jax.tree.map(lambda x: x.reshape(B, *x.shape[2:]), parts), CHANGES[name](KEY, batch)

    spread, whole = fast(both)(batch)
    chex.assert_trees_all_close(spread, whole, atol=1e-5)
    assert len(np.unique(whole["image"].reshape(B, -1), axis=0)) > B // 2


def at(monkeypatch, module, *values):
    """Let every draw give these numbers."""
    monkeypatch.setattr(
        module, "draw", lambda sampler, key, shape: jnp.broadcast_to(jnp.asarray(values, jnp.float32), shape)
    )


def test_scale_jitter_by_hand(monkeypatch):
    image = np.arange(1, 65).reshape(1, 8, 8, 1).astype(np.float32) / 64
    batch = {"image": image, "mask": np.ones((1, 8, 8), int), "boxes": np.float32([[[0.25, 0.25, 0.75, 0.5]]])}
    same = fast(augment.scale_jitter((1, 1)))(KEY, batch)
    np.testing.assert_allclose(same["image"], image, atol=1e-6)
    np.testing.assert_allclose(same["boxes"], batch["boxes"], atol=1e-6)
    at(monkeypatch, crops, 0, 0, 1)  # the smallest factor, at the top, at the right
    small = fast(augment.scale_jitter((0.5, 2), value=0.5, follow=augment.SpatialTargets(fill=255)))(KEY, batch)
    frame = np.full((8, 8), 255)
    frame[:4, 4:] = 1
    np.testing.assert_array_equal(small["mask"][0], frame)
    assert (small["image"][0, ..., 0][frame == 255] == 0.5).all()
    inner = image[0, ..., 0].reshape(4, 2, 4, 2).mean((1, 3))
    np.testing.assert_allclose(small["image"][0, 1:3, 5:7, 0], inner[1:3, 1:3], atol=1e-6)
    np.testing.assert_allclose(small["boxes"], [[[0.125, 0.625, 0.375, 0.75]]], atol=1e-6)
    at(monkeypatch, crops, 1, 0, 0)  # the largest factor, the upper left quarter
    large = fast(augment.scale_jitter((0.5, 2)))(KEY, batch)
    np.testing.assert_allclose(large["boxes"], [[[0.5, 0.5, 1, 1]]], atol=1e-6)
    np.testing.assert_array_equal(large["mask"], 1)


def test_a_crop_keeps_a_box_with_the_overlap(rng):
    """The boxes after the crop tell where it was."""
    rows = 200
    boxes = np.concatenate([rng.uniform(0, 0.6, (rows, 3, 2)), rng.uniform(0.1, 0.4, (rows, 3, 2))], -1)
    boxes[..., 2:] += boxes[..., :2]
    corners = np.broadcast_to(np.float64([[[0, 0, 1, 1]]]), (rows, 1, 4))  # a crowd, which is only clipped
    batch = {
        "image": np.zeros((rows, 40, 40, 1), np.uint8),
        "boxes": np.concatenate([boxes, corners], 1).astype(np.float32),
        "box_crowd": np.asarray([[0, 0, 0, 1]] * rows),
    }
    seen = {}

    def run(key, batch):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(crops, "transform_spatial", lambda b, i, m, move, v: seen.update(moved=move(b["boxes"]), b=b))
            augment.box_crop(overlaps=(0.3,), probability=0.9)(key, batch)
        return seen["moved"], seen["b"]["box_mask"]

    moved, kept = fast(run)(KEY, batch)
    y0, x0, y1, x1 = moved[:, 3].T  # the whole image, as seen from the rectangle
    start = np.stack([-y0 / (y1 - y0), -x0 / (x1 - x0)], 1)
    cut = np.concatenate([start, start + np.stack([1 / (y1 - y0), 1 / (x1 - x0)], 1)], 1)
    whole = np.abs(cut - [0, 0, 1, 1]).max(1) < 1e-4
    assert 0.08 * rows < whole.sum() < 0.5 * rows and (cut > -1e-4).all() and (cut < 1 + 1e-4).all()
    low, high = np.maximum(boxes[..., :2], cut[:, None, :2]), np.minimum(boxes[..., 2:], cut[:, None, 2:])
    shared = np.prod(np.maximum(high - low, 0), -1)
    overlap = shared / (
        np.prod(boxes[..., 2:] - boxes[..., :2], -1) + np.prod(cut[:, 2:] - cut[:, :2], -1)[:, None] - shared
    )
    centre = (boxes[..., :2] + boxes[..., 2:]) / 2
    inside = ((centre > cut[:, None, :2]) & (centre < cut[:, None, 2:])).all(-1)
    np.testing.assert_array_equal(kept[:, :3], inside)
    assert kept[:, 3].all() and ((overlap > 0.3 - 1e-4) & inside).any(-1)[~whole].all()
    share = np.prod(cut[~whole, 2:] - cut[~whole, :2], -1)
    assert share.min() < 0.12 and np.ptp(share) > 0.2


def test_crops_of_images_without_boxes_and_boxes_that_nothing_suits():
    batch = {"image": np.ones((8, 10, 12, 1), np.float32), "boxes": np.zeros((8, 2, 4), np.float32)}
    cropped = fast(augment.box_crop(5, probability=1))(KEY, batch)
    np.testing.assert_allclose(cropped["image"], np.ones((8, 5, 5, 1)), atol=1e-6)
    assert not cropped["box_mask"].any()
    small = {**batch, "boxes": np.float32([[[0.4, 0.4, 0.5, 0.5]]] * 8)}  # no rectangle overlaps it by 0.9
    whole = fast(augment.box_crop(probability=1, overlaps=(0.9,)))(KEY, small)
    np.testing.assert_allclose(whole["boxes"], small["boxes"], atol=1e-6)
    crowd = {**small, "box_crowd": np.ones((8, 1))}
    assert not np.allclose(fast(augment.box_crop(probability=1, overlaps=(0.9,)))(KEY, crowd)["boxes"], small["boxes"])


def test_a_mosaic_by_hand(monkeypatch):
    """Divided in the middle at full scale; the parts show the upper left quarter of their images."""
    at(monkeypatch, MOSAIC, 0.5, 0.5, 0, 0, 0, 0, 0, 0)
    grid = np.arange(64).reshape(8, 8)
    image = (np.arange(4)[:, None, None] * 64 + grid)[..., None].astype(np.uint8)
    boxes = np.float32([[[0, 0, 0.25, 0.5], [0.25, 0, 0.75, 0.125]], [[0.5, 0.5, 1, 1], [0, 0, 0.5, 0.5]]] * 2)
    batch = {
        "image": image, "label": image[..., 0].astype(int), "boxes": boxes, "box_label": np.arange(8).reshape(4, 2),
        "box_id": np.arange(16).reshape(4, 2, 2),
    }  # fmt: skip
    out = fast(augment.mosaic(max_boxes=9, follow=ALL))(KEY, batch)
    row = out["label"][3]
    for i, part in enumerate((row[:4, :4], row[:4, 4:], row[4:, :4], row[4:, 4:])):
        np.testing.assert_array_equal(part, image[3 - i, :4, :4, 0])
    np.testing.assert_allclose(out["image"][3, ..., 0], row / 255, atol=1e-6)
    there = out["box_mask"][3] > 0
    assert there.tolist() == [True] * 6 + [False] * 3
    expected = {  # the second boxes of rows 1 and 3 fill their part; what is outside is gone
        7: [0, 0, 0.5, 0.5], 3: [0.5, 0, 1, 0.5], 4: [0, 0.5, 0.25, 1], 0: [0.5, 0.5, 0.75, 1],
        5: [0.25, 0.5, 0.5, 0.625], 1: [0.75, 0.5, 1, 0.625],
    }  # fmt: skip
    assert out["box_label"][3][there].tolist() == list(expected)
    np.testing.assert_allclose(out["boxes"][3][there], list(expected.values()), atol=1e-6)
    np.testing.assert_array_equal(out["box_id"][3, :6, 1], out["box_label"][3, :6] * 2 + 1)
    two = fast(augment.mosaic(follow=ALL))(KEY, batch)  # as many as there were, the largest
    assert two["boxes"].shape == (4, 2, 4) and two["box_label"][3].tolist() == [7, 3]
    half = fast(augment.mosaic(follow=augment.SpatialTargets(visible=0.6), max_boxes=8))(KEY, batch)
    assert set(half["box_label"][3][half["box_mask"][3] > 0].tolist()) == {7, 3, 4, 0}


def test_parts_of_a_mosaic_are_filled_and_rows_with_padding_stay(rng):
    batch, row_mask = drawn(rng), np.ones(B, np.float32)
    row_mask[5] = 0
    spoiled = {**batch, "image": batch["image"] / np.float32(255), "row_mask": row_mask}
    spoiled["image"][..., 2], spoiled["image"][5] = 0.75, np.nan
    out = fast(augment.mosaic(probability=0.6, follow=ALL))(KEY, spoiled)
    stay = np.isin(np.arange(B), [5, 6, 7, 8])  # the padding, and those that would show it
    changed = (out["image"] != spoiled["image"]).any((1, 2, 3))
    assert 2 < changed[~stay].sum() < 12
    stay |= ~changed
    np.testing.assert_array_equal(out["image"][stay], spoiled["image"][stay])
    np.testing.assert_array_equal(out["boxes"][stay], np.nan_to_num(batch["boxes"][stay]))
    np.testing.assert_array_equal(out["box_label"][stay][:, 0], batch["box_label"][stay][:, 0])
    np.testing.assert_allclose(out["image"][~stay][..., 2], 0.75, atol=1e-5)  # no gaps


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: augment.scale_jitter((0, 1)), r"scale=\(0, 1\): must be \(smallest, largest\), numbers from 0.05"),
        (lambda: augment.scale_jitter((2, 1)), r"scale=\(2, 1\)"),
        (lambda: augment.scale_jitter(value=114), "value=114"),
        (lambda: augment.box_crop(0), "size=0"),
        (lambda: augment.box_crop(overlaps=()), r"overlaps=\(\): must be one or more"),
        (lambda: augment.box_crop(overlaps=(0.5, 2)), r"overlaps=\(0.5, 2\)"),
        (lambda: augment.box_crop(probability=2), "probability=2"),
        (lambda: augment.box_crop(ratio=(0, 1)), r"ratio=\(0, 1\)"),
        (lambda: augment.mosaic(centre=(0, 1)), r"centre=\(0, 1\)"),
        (lambda: augment.mosaic(probability=-1), "probability=-1"),
        (lambda: augment.mosaic(max_boxes=0), "max_boxes=0: must be at least 1"),
        (
            lambda: augment.mosaic()(KEY, {"image": np.zeros((4, 8, 8, 1)), "label": np.zeros(4, int)}),
            r"mosaic: four images cannot share a label \[B\]",
        ),
        (
            lambda: augment.mosaic()(KEY, {"image": np.zeros((4, 8, 8, 1)), "boxes": np.full((4, 1, 4), 9.0)}),
            "boxes from 0 to 9: must be shares",
        ),
        (
            lambda: augment.box_crop()(KEY, {"image": np.zeros((4, 8, 8, 1)), "boxes": np.full((4, 4), 0.5)}),
            r"boxes shape \(4, 4\): must be \[B, N, 4\]",
        ),
    ],
)
def test_bad_amounts_are_one_line(make, words):
    with pytest.raises(InputError, match=words) as caught:
        make()
    assert "\n" not in str(caught.value)
