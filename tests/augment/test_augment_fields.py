"""Transforms change the entry of the batch that `field` names as they change `"image"`, and leave the others alone."""

import functools

import jax
import numpy as np
import pytest

from jaxcnn import InputError, augment

KEY = jax.random.key(5)
MAKE = {
    "shift": functools.partial(augment.shift, 2),
    "pad_crop": functools.partial(augment.pad_crop, 1, "reflect"),
    "affine": functools.partial(augment.affine, degrees=10),
    "random_resized_crop": functools.partial(augment.random_resized_crop, 8),
    "scale_jitter": functools.partial(augment.scale_jitter, (1.0, 1.5)),
    "box_crop": augment.box_crop,
    "mosaic": augment.mosaic,
    "color_jitter": functools.partial(augment.color_jitter, 0.4),
    "grayscale": functools.partial(augment.grayscale, 0.5),
    "gaussian_blur": augment.gaussian_blur,
    "sometimes": functools.partial(augment.sometimes, augment.flip, 0.5),
    "trivial_augment": augment.trivial_augment,
    "rand_augment": augment.rand_augment,
    "cutout": functools.partial(augment.cutout, 3),
    "erase": augment.erase,
    "pixel_dropout": augment.pixel_dropout,
    "mixup": functools.partial(augment.mixup, 0.4, num_classes=3),
    "cutmix": functools.partial(augment.cutmix, 1.0, num_classes=3),
    "flip": lambda **options: functools.partial(augment.flip, **options),
    "flip_vertical": lambda **options: functools.partial(augment.flip_vertical, **options),
    "one_of": lambda **options: augment.one_of(augment.flip, **options),
    "mirrored": lambda **options: lambda key, batch: augment.mirrored(batch, **options),
    "moved": lambda **options: lambda key, batch: augment.moved(1, -1, **options)(batch),
    "pixel_views": lambda **options: lambda key, batch: augment.pixel_views(**options)[-1](batch),
    "test_time_views": lambda **options: lambda key, batch: augment.test_time_views(shift=1, **options)[-1](batch),
}


def rows(name):
    rng = np.random.default_rng(0)
    batch = {"label": np.arange(6) % 3, "image": rng.integers(0, 256, (6, 10, 9, 3)).astype(np.uint8)}
    mask = rng.integers(0, 4, (6, 10, 9)).astype(np.int32)
    if name == "mosaic":  # which refuses one label per image
        batch["label"] = mask + 1
    return batch if name == "mixup" else batch | {"mask": mask}


def test_the_table_is_complete():
    assert set(MAKE) == set(augment.__all__) - {
        "PixelView", "Transform", "SpatialTargets", "compose", "on_field", "test_time_augmentation",
        "add_noise", "gain", "mask_spectrogram", "spec_augment", "speed", "time_shift",  # of sounds
    }  # fmt: skip


@pytest.mark.parametrize("name", MAKE)
def test_a_field_is_changed_like_the_image(name):
    batch = rows(name)
    expected = MAKE[name]()(KEY, batch)
    other = np.full((6, 4, 4, 1), 7, np.uint8)
    given = {k: x for k, x in batch.items() if k != "image"} | {"left": batch["image"], "image": other}
    found = dict(MAKE[name](field="left")(KEY, given))
    assert found.pop("image") is other
    found["image"] = found.pop("left")
    assert set(found) == set(expected)
    for k, x in expected.items():
        np.testing.assert_array_equal(np.asarray(found[k]), np.asarray(x), err_msg=k)
    assert not np.array_equal(np.asarray(found["image"]), batch["image"])


@pytest.mark.parametrize("name", MAKE)
def test_a_field_that_is_not_there(name):
    with pytest.raises(InputError, match="^field='left': must be an entry of the batch, which has label, image"):
        MAKE[name](field="left")(KEY, rows(name))
