"""Augmentation on the device: functions `(key, batch) -> batch` on whole batches, with random draws per global row.

Transforms that only move pixels keep the dtype; those that interpolate or blend return float32 0..1. Masks and boxes in
the batch follow every spatial transform (see `SpatialTargets`).
"""

from jaxcnn.augment.blur import gaussian_blur
from jaxcnn.augment.color import color_jitter, grayscale
from jaxcnn.augment.core import Transform, compose, on_field, one_of, sometimes
from jaxcnn.augment.crops import box_crop, scale_jitter
from jaxcnn.augment.erase import cutout, erase, pixel_dropout
from jaxcnn.augment.geometry import affine, flip, flip_vertical, pad_crop, random_resized_crop, shift
from jaxcnn.augment.mix import cutmix, mixup
from jaxcnn.augment.mosaic import mosaic
from jaxcnn.augment.policy import rand_augment, trivial_augment
from jaxcnn.augment.sound import add_noise, gain, mask_spectrogram, spec_augment, speed, time_shift
from jaxcnn.augment.spatial import SpatialTargets
from jaxcnn.augment.test_time import (
    PixelView,
    mirrored,
    moved,
    pixel_views,
    test_time_augmentation,
    test_time_views,
)

__all__ = [
    "PixelView", "SpatialTargets", "Transform", "add_noise", "affine", "box_crop", "color_jitter", "compose", "cutmix",
    "cutout", "erase", "flip", "flip_vertical", "gain", "gaussian_blur", "grayscale", "mask_spectrogram", "mirrored",
    "mixup", "mosaic", "moved", "on_field", "one_of", "pad_crop", "pixel_dropout", "pixel_views", "rand_augment",
    "random_resized_crop", "scale_jitter", "shift", "sometimes", "spec_augment", "speed", "test_time_augmentation",
    "test_time_views", "time_shift", "trivial_augment",
]  # fmt: skip
