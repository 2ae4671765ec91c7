"""Boxes and masks follow their pixels; resized crops equal Pillow's."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jaxcnn import InputError, augment
from jaxcnn.augment import resample


def test_rows_that_are_not_chosen_keep_their_boxes():
    box = np.array([[[0.4, 0.4, 0.6, 0.6], [0, 0, 0, 0]]] * 6, np.float32)
    batch = {"image": np.zeros((6, 16, 16, 1), np.float32), "boxes": box, "box_label": np.zeros((6, 2), np.int32)}
    out = augment.sometimes(augment.affine(shift=1.0), 0.0)(jax.random.key(0), batch)
    np.testing.assert_array_equal(out["box_mask"], [[1, 0]] * 6)
    np.testing.assert_array_equal(out["boxes"], box)


KEY = jax.random.key(5)
ALL = augment.SpatialTargets(visible=0)
H, W, B = 24, 20, 16
MOVES = {
    "shift": augment.shift(6, follow=ALL),
    "pad_crop zero": augment.pad_crop(4, size=(22, 26), follow=ALL),
    "flip": augment.flip,
    "flip_vertical": augment.flip_vertical,
    "affine": augment.affine(degrees=40, scale=0.3, shear=0.2, shift=0.3, follow=ALL),
    "random_resized_crop": augment.random_resized_crop((30, 16), scale=(0.2, 0.8), follow=ALL),
    "trivial": augment.trivial_augment(follow=ALL),
}


def fast(change):
    run = jax.jit(change, compiler_options={"xla_backend_optimization_level": 0})
    return lambda *args: jax.tree.map(np.asarray, run(*args))


def filled(boxes):
    """One image a box, 1 inside it."""
    y, x = np.arange(H)[None, :, None] + 0.5, np.arange(W)[None, None] + 0.5
    y0, x0, y1, x1 = (boxes[:, i, None, None] * (H if i % 2 == 0 else W) for i in range(4))
    return (y > y0) & (y < y1) & (x > x0) & (x < x1)


def drawn(rng):
    low = np.stack([rng.integers(0, n - 6, B) for n in (H, W)], 1)
    size = np.stack([rng.integers(5, 10, B), rng.integers(5, 10, B)], 1)
    boxes = np.concatenate([low, np.minimum(low + size, (H, W))], 1) / (H, W, H, W)
    pixels = filled(boxes)
    others = np.zeros((B, 1, 4)) + [0.25, 0.25, 0.75, 0.75]
    return {
        "image": np.asarray(pixels[..., None].repeat(3, -1), np.float32),
        "mask": np.asarray(pixels, np.int32),
        "label": np.asarray(pixels * 2, np.uint8),
        "boxes": np.asarray(np.concatenate([boxes[:, None], others], 1), np.float32),
        "box_mask": np.asarray([[1, 0]] * B, np.float32),
    }


@pytest.mark.parametrize("name", MOVES)
def test_boxes_and_masks_follow_the_pixels(name, rng):
    batch = drawn(rng)
    out = jax.tree.map(np.asarray, fast(MOVES[name])(KEY, batch))
    assert out["mask"].dtype == np.int32 and out["label"].dtype == np.uint8
    chex.assert_trees_all_equal(out["label"], out["mask"].astype(np.uint8) * 2)
    image = out["image"][..., 0]
    if name != "trivial":  # changes of colour among them
        clear = np.abs(image - 0.5) > 0.49
        assert clear.mean() > 0.7
        chex.assert_trees_all_equal(image[clear] > 0.5, out["mask"][clear] == 1)
    h, w = image.shape[1:]
    moved = (out["boxes"][:, 0] != np.asarray(batch["boxes"])[:, 0]).any(1)
    assert moved.sum() > (2 if name == "trivial" else 3)
    for mask, box, row_mask in zip(out["mask"], out["boxes"][:, 0], out["box_mask"][:, 0], strict=True):
        ys, xs = np.nonzero(mask)
        if not row_mask:
            assert len(ys) <= 1 and (box == 0).all()
        elif len(ys):
            around = np.array([ys.min(), xs.min(), ys.max() + 1, xs.max() + 1])
            slant = 1.3 if name in ("affine", "trivial") else 0.75 * max(1, h / (0.2 * H))  # corners between pixels
            np.testing.assert_allclose(box * [h, w, h, w], around, atol=min(slant, 2.5))
    assert (out["box_mask"][:, 1] == 0).all() and (out["boxes"][:, 1] == 0).all()  # padding stays padding


def test_boxes_left_with_too_small_a_part_are_gone(monkeypatch):
    # 4 up
    monkeypatch.setattr(
        augment.geometry, "draw", lambda sampler, key, shape: jnp.broadcast_to(jnp.array([[14, 10]]), shape)
    )
    boxes = np.array([[[0.0, 0, 0.5, 1], [0, 0, 0.9, 0.5], [0, 0, 0.4, 0.4], [0.5, 0.5, 1, 1], [0.7, 0.7, 0.7, 0.7]]])
    batch = {"image": np.ones((1, 10, 10, 1)), "boxes": boxes}
    out = {v: fast(augment.shift(10, follow=augment.SpatialTargets(visible=v)))(KEY, batch) for v in (0.0, 0.1, 0.5)}
    assert {v: o["box_mask"][0].tolist() for v, o in out.items()} == {
        0.0: [1, 1, 0, 1, 0],
        0.1: [1, 1, 0, 1, 0],
        0.5: [0, 1, 0, 1, 0],
    }
    expected = [[0, 0, 0.1, 1], [0, 0, 0.5, 0.5], [0] * 4, [0.1, 0.5, 0.6, 1], [0] * 4]
    np.testing.assert_allclose(out[0.0]["boxes"][0], expected, atol=1e-6)


@pytest.mark.parametrize("make", [lambda f: augment.shift(3, follow=f), lambda f: augment.affine(shift=0.4, follow=f)])
def test_what_comes_into_a_mask(make):
    batch = {"image": np.ones((8, 8, 8, 1)), "mask": np.ones((8, 8, 8, 1), np.uint8)}
    out = fast(make(augment.SpatialTargets(fill=255)))(KEY, batch)
    assert set(np.unique(out["mask"])) == {1, 255}
    chex.assert_trees_all_equal(out["mask"][out["image"] == 1], np.ones_like(out["mask"][out["image"] == 1]))


def test_labels_that_are_no_maps_stay():
    for image, label in (((2, 8, 8, 1), (2,)), ((2, 8, 3), (2, 8))):
        label = np.arange(np.prod(label)).reshape(label).astype(np.float32 if len(label) > 1 else np.int32)
        out = fast(augment.shift(2))(KEY, {"image": np.ones(image, np.float32), "label": label})
        chex.assert_trees_all_equal(out["label"], label)


def test_a_label_of_each_step_follows_a_series():
    x = np.repeat(np.arange(12) > 5, 2).reshape(12, 2).T.astype(np.float32)[..., None]
    out = fast(augment.shift(4))(KEY, {"image": x, "label": (x[..., 0] > 0.5).astype(np.int32)})
    np.testing.assert_array_equal(out["label"], out["image"][..., 0] > 0.5)
    assert (out["label"] != (x[..., 0] > 0.5)).any()


@pytest.mark.parametrize("dtype, fill, held", [
    (np.uint8, -1, 255), (np.int32, -1, -1), (bool, 1, True), (np.float32, -1, -1.0),
])  # fmt: skip
def test_a_mask_is_filled_with_what_its_dtype_holds(dtype, fill, held):
    batch = {"image": np.ones((1, 4, 4, 1), np.float32), "mask": np.zeros((1, 4, 4), dtype)}
    moved = augment.pad_crop(3, size=10, follow=augment.SpatialTargets(fill=fill))
    assert fast(moved)(KEY, batch)["mask"][0, 0, 0] == held


@pytest.mark.parametrize("dtype, fill", [(bool, 255), (np.int8, 255), (np.uint8, 256), (np.uint8, 0.5)])
def test_a_fill_that_no_mask_holds(dtype, fill):
    batch = {"image": np.ones((1, 4, 4, 1), np.float32), "mask": np.zeros((1, 4, 4), dtype)}
    with pytest.raises(InputError, match=f"fill={fill}: out of range for masks of"):
        augment.pad_crop(3, follow=augment.SpatialTargets(fill=fill))(KEY, batch)


def test_one_of_gives_the_same_form_whatever_is_chosen():
    boxes = np.tile(np.array([0.1, 0.2, 0.6, 0.7], np.float32), (2, 1, 1))
    batch = {"image": np.ones((2, 8, 8, 1), np.float32), "boxes": boxes}
    out = fast(augment.one_of(augment.cutout(2), augment.flip))(KEY, batch)
    assert out["box_mask"].tolist() == [[1], [1]]
    labelled = {"image": np.ones((2, 8, 8, 1), np.float32), "label": np.array([0, 1])}
    with pytest.raises(InputError, match="one_of: 'label' becomes float32.* or int.*, depending on the transform"):
        augment.one_of(augment.mixup(num_classes=3), augment.flip)(KEY, labelled)


def test_a_pixel_of_the_mean_may_be_an_array():
    out = augment.cutout(8, value=np.array([0.1, 0.2, 0.3]))(KEY, {"image": np.ones((1, 8, 8, 3), np.float32)})
    assert any(np.allclose(pixel, [0.1, 0.2, 0.3]) for pixel in out["image"][0].reshape(-1, 3))
    with pytest.raises(InputError, match="must be in 0..1"):
        augment.cutout(8, value=np.array([0.1, 25.0, 0.3]))


@pytest.mark.parametrize(
    "extra, words",
    [
        ({"target": np.zeros((2, 8, 8, 1))}, "target: has a value per pixel, which does not follow"),
        ({"mask": np.zeros((2, 7, 8))}, r"mask shape \(2, 7, 8\).*\(2, 8, 8\)"),
        ({"boxes": np.zeros((2, 4))}, r"boxes shape \(2, 4\).*\[B, N, 4\]"),
    ],
)
def test_what_cannot_follow_is_refused(extra, words):
    with pytest.raises(InputError, match=words):
        jax.eval_shape(augment.flip, KEY, {"image": np.zeros((2, 8, 8, 1)), **extra})


@pytest.mark.parametrize(
    "top, left, high, wide, size", [(3, 2, 13, 11, (24, 20)), (0, 0, 24, 20, (11, 7)), (1, 4, 20, 9, (8, 16))]
)
def test_resize_equals_pillow(top, left, high, wide, size, rng):
    image = rng.integers(0, 256, (1, H, W, 3), np.uint8)
    part = Image.fromarray(image[0, top : top + high, left : left + wide])
    expected = np.asarray(part.resize(size[::-1], Image.Resampling.BILINEAR), np.float32)
    place = [(np.array([a], np.float32), np.array([b], np.float32)) for a, b in ((top, left), (high, wide))]
    out = fast(lambda image: resample.resize(image, *place, size))(np.asarray(image, np.float32))
    assert np.abs(out[0] - expected).max() < 1.01  # Pillow rounds twice


def test_random_resized_crop_of_everything_is_the_identity(rng):
    image = np.asarray(rng.integers(0, 256, (2, 9, 7, 3)), np.uint8)
    out = fast(augment.random_resized_crop((9, 7), scale=(1, 1), ratio=(7 / 9, 7 / 9)))(KEY, {"image": image})["image"]
    chex.assert_trees_all_close(out, image.astype(np.float32) / 255, atol=1e-6)


def test_random_resized_crop_draws_areas_and_ratios():
    """The boxes reveal the position of the crop."""
    corners = np.broadcast_to(np.array([[-9.0, -9, 10, 10]]), (4000, 1, 4))
    batch = {"image": np.zeros((4000, 40, 40, 1)), "boxes": corners}
    crop = augment.random_resized_crop(1, scale=(0.1, 0.5), ratio=(0.5, 2))
    seen = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            augment.geometry,
            "transform_spatial",
            lambda batch, image, mask, boxes, visible: seen.update(boxes=boxes(batch["boxes"])),
        )
        boxes = fast(lambda key, batch: crop(key, batch) or seen["boxes"])(KEY, batch)
    y0, x0, y1, x1 = np.asarray(boxes[:, 0], np.float64).T * 40
    high, wide = 19 * 40 * 40 / (y1 - y0), 19 * 40 * 40 / (x1 - x0)
    top, left = -(y0 * high / 40 + 360), -(x0 * wide / 40 + 360)
    share, ratio = high * wide / 1600, wide / high
    assert 0.08 < share.min() < 0.12 and 0.48 < share.max() < 0.53 and share.mean() == pytest.approx(0.3, abs=0.01)
    assert 0.45 < ratio.min() < 0.53 and 1.9 < ratio.max() < 2.2 and np.log(ratio).mean() == pytest.approx(0, abs=0.03)
    for start, length in ((top, high), (left, wide)):
        assert start.min() == pytest.approx(0, abs=0.1) and (start + length).max() == pytest.approx(40, abs=0.1)
        free = length < 39
        assert (start[free] / (40 - length[free])).mean() == pytest.approx(0.5, abs=0.02)


def test_a_ratio_that_never_fits_gives_the_central_crop():
    image = np.arange(8.0)[None, :, None, None] * np.ones((1, 1, 4, 1)) / 8
    out = fast(augment.random_resized_crop((4, 4), scale=(1, 1), ratio=(1, 1)))(KEY, {"image": image})["image"]
    chex.assert_trees_all_close(out, image[:, 2:6], atol=1e-6)


@pytest.mark.parametrize("border, mode", [("zero", "constant"), ("reflect", "reflect"), ("edge", "edge")])
def test_pad_crop_cuts_windows_out_of_the_padded_image(border, mode):
    image = np.asarray(np.arange(1, 31).reshape(1, 5, 6, 1).repeat(40, 0), np.uint8)
    out = fast(augment.pad_crop(2, border, size=(4, 6)))(KEY, {"image": image, "mask": image})
    padded = np.pad(np.asarray(image[0]), ((2, 2), (2, 2), (0, 0)), mode)
    windows = {padded[i : i + 4, j : j + 6].tobytes() for i in range(6) for j in range(5)}
    seen = {np.asarray(row).tobytes() for row in out["image"]}
    assert out["image"].dtype == np.uint8 and seen <= windows and len(seen) > 15
    chex.assert_trees_all_equal(out["mask"], out["image"])


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda: augment.pad_crop(-1), "pixels=-1"),
        (lambda: augment.pad_crop(1, "wrap"), "border='wrap'"),
        (lambda: jax.eval_shape(augment.pad_crop(1, size=11), KEY, {"image": np.zeros((1, 8, 8, 1))}), "size=11"),
        (
            lambda: jax.eval_shape(augment.pad_crop(1, size=(4, 4, 4)), KEY, {"image": np.zeros((1, 8, 8, 1))}),
            r"size=\(4, 4, 4\)",
        ),
        (lambda: jax.eval_shape(augment.pad_crop(8, "reflect"), KEY, {"image": np.zeros((1, 8, 8, 1))}), "pixels=8"),
        (lambda: augment.random_resized_crop(0), "size=0"),
        (lambda: augment.random_resized_crop((3, 2.5)), r"size=\(3, 2.5\)"),
        (lambda: augment.random_resized_crop(8, scale=(0.5, 0.1)), r"scale=\(0.5, 0.1\)"),
        (lambda: augment.random_resized_crop(8, scale=(0.5, 1.1)), r"scale=\(0.5, 1.1\)"),
        (lambda: augment.random_resized_crop(8, ratio=(0, 1)), r"ratio=\(0, 1\)"),
        (lambda: augment.random_resized_crop(8, ratio=2), "ratio=2"),
        (
            lambda: jax.eval_shape(augment.random_resized_crop(8), KEY, {"image": np.zeros((8, 8, 1))}),
            r"image shape \(8, 8, 1\)",
        ),
        (
            lambda: jax.eval_shape(augment.random_resized_crop(8), KEY, {"image": np.zeros((1, 8, 8, 1), np.int32)}),
            "image dtype int32",
        ),
        (lambda: augment.shift(1, follow=augment.SpatialTargets(visible=2)), "visible=2"),
    ],
)
def test_bad_amounts_are_refused(change, words):
    with pytest.raises(InputError, match=words) as caught:
        change()
    assert "\n" not in str(caught.value)


def test_boxes_in_pixels_are_refused():
    batch = {"image": np.zeros((1, 8, 10, 1), np.uint8), "boxes": np.float32([[[1, 2, 3, 7]]])}
    with pytest.raises(InputError, match="boxes from 0 to 7: must be shares of the image"):
        augment.flip(jax.random.key(0), batch)


@pytest.mark.parametrize("change", [augment.flip, augment.affine(degrees=5), augment.cutmix(num_classes=2)])
def test_weights_of_pixels_would_stay_behind(change):
    batch = {"image": np.ones((2, 8, 8, 1)), "mask": np.ones((2, 8, 8), np.uint8), "pixel_weight": np.ones((2, 8, 8))}
    with pytest.raises(augment.core.InputError, match="pixel_weight: does not follow"):
        change(KEY, batch)
