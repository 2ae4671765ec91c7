"""Every augmentation handles the rank of its input correctly, or refuses it in one line that names the shape."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn import InputError, augment
from jaxcnn.augment import core

KEY = jax.random.key(3)
SHAPES = {
    "colour": (4, 8, 6, 3), "gray": (4, 8, 6, 1), "volume": (4, 3, 8, 6, 1), "sound": (4, 20, 2),
    "square without channels": (4, 8, 8), "uint8 without channels": (4, 8, 6), "one image": (8, 6),
    "four spatial axes": (2, 2, 2, 8, 6, 1),
}  # fmt: skip
IMAGES, PIXELS = {"colour", "gray"}, {"colour", "gray", "volume"}
PLACES = PIXELS | {"sound", "four spatial axes"}
view = lambda change: lambda key, batch: change(batch)
CHANGES = {  # name: change, what it takes
    "flip": (augment.flip, PIXELS),
    "flip_vertical": (augment.flip_vertical, PIXELS),
    "shift": (augment.shift(2), PLACES),
    "pad_crop": (augment.pad_crop(1, "reflect"), PLACES),
    "affine": (augment.affine(degrees=10, shift=0.1), IMAGES),
    "random_resized_crop": (augment.random_resized_crop((8, 6)), IMAGES),
    "scale_jitter": (augment.scale_jitter(), IMAGES),
    "box_crop": (augment.box_crop(), IMAGES),
    "mosaic": (augment.mosaic(), IMAGES),
    "color_jitter": (augment.color_jitter(0.4, 0.4, 0.4, 0.1), IMAGES),
    "grayscale": (augment.grayscale(), IMAGES),
    "gaussian_blur": (augment.gaussian_blur(), IMAGES),
    "sometimes": (augment.sometimes(augment.flip, 0.5), PIXELS),
    "trivial_augment": (augment.trivial_augment(), IMAGES),
    "rand_augment": (augment.rand_augment(), IMAGES),
    "cutout": (augment.cutout(3), IMAGES),
    "erase": (augment.erase(), IMAGES),
    "pixel_dropout": (augment.pixel_dropout(), PIXELS),
    "one_of": (augment.one_of(augment.flip, augment.affine(degrees=5)), IMAGES),
    "compose": (augment.compose(augment.flip, augment.shift(1)), PIXELS),
    "mirrored": (view(augment.mirrored), PIXELS),
    "moved": (view(augment.moved(1, -1)), PIXELS),
    "pixel_views": (view(augment.pixel_views(flip=(-1, -2))[-1]), PIXELS),
    "test_time_views": (view(augment.test_time_views(shift=1)[-1]), PIXELS),
}


def test_the_table_is_complete():
    others = {"PixelView", "Transform", "SpatialTargets", "test_time_augmentation", "mixup", "cutmix", "on_field"}
    others |= {"add_noise", "gain", "mask_spectrogram", "spec_augment", "speed", "time_shift"}  # of sounds
    assert set(CHANGES) == set(augment.__all__) - others


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("kind", SHAPES)
def test_a_rank_is_meant_or_refused(name, kind):
    change, takes = CHANGES[name]
    shape = SHAPES[kind]
    for dtype in (
        (np.uint8,) if kind.startswith("uint8") else (np.float32,) if kind == "sound" else (np.uint8, np.float32)
    ):
        batch = {"image": jax.ShapeDtypeStruct(shape, dtype)}
        if kind in takes:
            assert jax.eval_shape(change, KEY, batch)["image"].shape == shape
            continue
        with pytest.raises(InputError) as refused:
            jax.eval_shape(change, KEY, batch)
        assert str(shape) in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("change, axis", [(augment.flip, 3), (augment.flip_vertical, 2)])
def test_a_volume_is_mirrored_as_a_whole_and_its_masks_follow(change, axis, dtype):
    volume = np.arange(1, 16 * 30 + 1).reshape(16, 2, 3, 5, 1).astype(dtype)
    batch = {"image": volume, "mask": volume[..., 0].astype(np.int32), "label": volume.repeat(2, -1).astype(np.uint8)}
    out = jax.tree.map(np.asarray, change(KEY, batch))
    flipped = np.flip(volume, axis)
    chosen = [(a == b).all() for a, b in zip(out["image"], flipped, strict=True)]
    assert 2 < sum(chosen) < 14
    np.testing.assert_array_equal(out["image"], np.where(np.reshape(chosen, (-1, 1, 1, 1, 1)), flipped, volume))
    np.testing.assert_array_equal(out["mask"].astype(dtype), out["image"][..., 0])
    np.testing.assert_array_equal(out["label"], out["image"].repeat(2, -1).astype(np.uint8))


def test_a_volume_loses_single_voxels():
    out = np.asarray(
        augment.pixel_dropout(probability=1, share=(0.5, 0.5), value=0.25)(KEY, {"image": jnp.ones((2, 6, 8, 7, 2))})[
            "image"
        ]
    )
    assert set(np.unique(out)) == {0.25, 1} and (out[..., 0] == out[..., 1]).all()
    lost = (out[..., 0] < 1).mean((2, 3))
    assert out[..., 0].size // 3 < (out[..., 0] < 1).sum() < out[..., 0].size * 2 // 3 and lost.std() > 0


def test_views_of_a_volume_are_those_of_its_slices():
    volume = np.arange(2 * 3 * 6 * 5).reshape(2, 3, 6, 5, 1).astype(np.float32)
    for change in (augment.mirrored, augment.moved(2, -1)):
        slices = np.asarray(change({"image": volume.reshape(6, 6, 5, 1)})["image"])
        np.testing.assert_array_equal(change({"image": volume})["image"], slices.reshape(volume.shape))


def test_labels_with_classes_for_each_pixel_follow():
    image = np.arange(8 * 4 * 5.0).reshape(8, 4, 5, 1)
    out = augment.flip(KEY, {"image": image, "label": image.repeat(2, -1)})
    np.testing.assert_array_equal(out["label"], np.asarray(out["image"]).repeat(2, -1))
    with pytest.raises(InputError, match=r"mask shape \(8, 4, 5, 1, 2\)"):
        augment.flip(KEY, {"image": image, "mask": np.zeros((8, 4, 5, 1, 2))})
    with pytest.raises(InputError, match="add the channels"):
        core.height_width(np.zeros((2, 8, 8)))
