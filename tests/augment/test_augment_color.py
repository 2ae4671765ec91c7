"""Colour changes equal torchvision's formulas and Pillow's operations; erased rectangles equal their draws."""

import colorsys
import math

import chex
import jax
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps
from scipy.ndimage import gaussian_filter

from jaxcnn import InputError, augment
from jaxcnn.augment import color, policy

KEY = jax.random.key(7)
IMAGE = np.zeros((1, 4, 4, 1))


def fast(change):
    run = jax.jit(change, compiler_options={"xla_backend_optimization_level": 0})
    return lambda *args: jax.tree.map(np.asarray, run(*args))


def images(rng, b=4, channels=3):
    image = rng.integers(0, 256, (b, 9, 8, channels), np.uint8)
    image[1] = image[1] // 3 + 40
    image[-1] = image[-1, ..., :1]  # grey
    return image


def grey(x):
    return 0.2989 * x[..., :1] + 0.587 * x[..., 1:2] + 0.114 * x[..., 2:]


def turned(x, by):
    pixels = [colorsys.rgb_to_hsv(*p) for p in x.reshape(-1, 3).tolist()]
    return np.array([colorsys.hsv_to_rgb((h + by) % 1, s, v) for h, s, v in pixels]).reshape(x.shape)


REFERENCE = (
    lambda x, f: np.clip(x * f, 0, 1),
    lambda x, f: np.clip(x * f + grey(x).mean((1, 2, 3), keepdims=True) * (1 - f), 0, 1),
    lambda x, f: np.clip(x * f + grey(x) * (1 - f), 0, 1),
    turned,
)


@pytest.mark.parametrize(
    "op, amount", [(0, 0.3), (0, 1.7), (1, 0.3), (1, 1.7), (2, 0.0), (2, 1.7), (3, -0.5), (3, 0.13), (3, 0.4)]
)
def test_one_change_of_colour(op, amount, rng):
    image = images(rng)
    given = [0.0] * 4
    given[op] = (amount, amount)
    out = fast(augment.color_jitter(*given))(KEY, {"image": np.asarray(image)})["image"]
    np.testing.assert_allclose(out, REFERENCE[op](image / 255.0, amount), atol=2e-6)


def test_jitter_does_its_changes_in_an_order_of_each_image(rng):
    image = np.repeat(images(rng)[:1], 24, 0)
    amounts = [(0.7, 0.7), (1.4, 1.4), (0.5, 0.5), (0.2, 0.2)]
    out = np.asarray(fast(augment.color_jitter(*amounts))(KEY, {"image": np.asarray(image)})["image"])
    possible = []
    for order in np.array(list(np.ndindex(4, 4, 4, 4))):
        if len(set(order)) == 4:
            x = image[:1] / 255.0
            for op in order:
                x = REFERENCE[op](x, amounts[op][0])
            possible.append(x[0])
    far = np.abs(out[:, None] - np.stack(possible)[None]).max((2, 3, 4))  # [24 rows, 24 orders]
    assert far.min(1).max() < 2e-6
    assert len(set(far.argmin(1))) > 8


def test_blur_is_that_of_scipy(rng):
    image = images(rng)
    out = fast(augment.gaussian_blur(5, (1.3, 1.3)))(KEY, {"image": image})["image"]
    want = gaussian_filter(image / 255.0, 1.3, mode="mirror", radius=2, axes=(1, 2))
    np.testing.assert_allclose(out, want, atol=2e-6)
    drawn = fast(augment.gaussian_blur(5, (0.1, 2.0)))(KEY, {"image": np.repeat(image[:1], 8, 0)})["image"]
    assert len(np.unique(drawn.reshape(8, -1), axis=0)) == 8


def test_some_rows_lose_their_colour(rng):
    image = np.repeat(images(rng)[:1], 400, 0)
    out = fast(augment.grayscale(0.25))(KEY, {"image": image})["image"]
    without = np.broadcast_to(grey(image / 255.0), image.shape)
    changed = np.abs(out - without).max((1, 2, 3)) < 2e-6
    assert 0.15 < changed.mean() < 0.35
    np.testing.assert_allclose(out[~changed], image[~changed] / 255.0, atol=1e-6)


def test_jitter_draws_factors():
    image = np.full((2000, 1, 1, 1), 0.4)
    out = np.asarray(fast(augment.color_jitter(brightness=0.5))(KEY, {"image": image})["image"]).ravel() / 0.4
    assert 0.5 <= out.min() < 0.51 and 1.49 < out.max() <= 1.5001 and out.mean() == pytest.approx(1, abs=0.02)
    out = np.asarray(fast(augment.color_jitter(brightness=1.5))(KEY, {"image": image})["image"])
    assert out.min() < 0.01 and (out == 0).mean() < 0.01  # factors from 0, not from -0.5


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_jitter_of_nothing_is_the_identity(dtype, rng):
    image = np.asarray(images(rng) if dtype == np.uint8 else images(rng) / 255, dtype)
    out = fast(augment.color_jitter())(KEY, {"image": image})["image"]
    np.testing.assert_allclose(out, image.astype(np.float32) / (255 if dtype == np.uint8 else 1), atol=1e-7)


def test_grey_images_have_no_colour_to_change(rng):
    image = np.asarray(images(rng, channels=1))
    out = fast(augment.color_jitter(saturation=(0, 0), hue=(0.3, 0.3)))(KEY, {"image": image})["image"]
    chex.assert_trees_all_close(out, image.astype(np.float32) / 255, atol=1e-6)


def affined(image, *numbers):
    return Image.fromarray(image).transform(
        image.shape[1::-1], Image.Transform.AFFINE, numbers, Image.Resampling.NEAREST
    )


def rotated(image, degrees):
    (h, w), cos, sin = image.shape[:2], math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return affined(image, cos, -sin, w / 2 - cos * w / 2 + sin * h / 2, sin, cos, h / 2 - sin * w / 2 - cos * h / 2)


PILLOW = {
    "identity": (0, lambda x, a: x),
    "shear_x": (0.43, lambda x, a: affined(x, 1, a, 0, 0, 1, 0)),
    "shear_y": (0.43, lambda x, a: affined(x, 1, 0, 0, a, 1, 0)),
    "translate_x": (3, lambda x, a: affined(x, 1, 0, -a, 0, 1, 0)),
    "translate_y": (3, lambda x, a: affined(x, 1, 0, 0, 0, 1, -a)),
    "rotate": (37, rotated),
    "brightness": (0.6, lambda x, a: ImageEnhance.Brightness(Image.fromarray(x)).enhance(1 + a)),
    "color": (0.6, lambda x, a: ImageEnhance.Color(Image.fromarray(x)).enhance(1 + a)),
    "contrast": (0.6, lambda x, a: ImageEnhance.Contrast(Image.fromarray(x)).enhance(1 + a)),
    "sharpness": (0.6, lambda x, a: ImageEnhance.Sharpness(Image.fromarray(x)).enhance(1 + a)),
    "posterize": (3, lambda x, a: ImageOps.posterize(Image.fromarray(x), abs(a))),
    "solarize": (0.6, lambda x, a: ImageOps.solarize(Image.fromarray(x), abs(a) * 255)),
    "autocontrast": (0, lambda x, a: ImageOps.autocontrast(Image.fromarray(x))),
    "equalize": (0, lambda x, a: ImageOps.equalize(Image.fromarray(x))),
}


def test_operations_equal_pillow(rng):
    """Every operation, with both signs, in one batch."""
    image = rng.integers(20, 220, (24, 20, 3), np.uint8)
    smooth = np.asarray(Image.fromarray(image).resize((20, 24), Image.Resampling.BICUBIC, box=(0, 0, 4, 5)))
    rows = [(op, sign * amount) for op, (amount, _) in PILLOW.items() for sign in (1, -1)]
    assert tuple(PILLOW) == policy.OPS
    ops, amounts = np.array([policy.OPS.index(op) for op, _ in rows]), np.array([a for _, a in rows], np.float32)
    for given in (image, smooth):
        batch = {"image": np.asarray(np.repeat(given[None], len(rows), 0))}
        out = np.asarray(fast(policy.apply)(batch, ops, amounts)["image"]) * 255
        for (op, amount), row in zip(rows, out, strict=True):
            off = np.abs(row - np.asarray(PILLOW[op][1](given, amount), np.float32))
            # Pillow rounds; a tie between two pixels may go the other way
            assert (off > 1.1).mean() < 0.005, (
                op,
                amount,
            )


def test_trivial_augment_draws_all_operations_evenly():
    op, strength, sign = fast(lambda key: policy._drawn(key, 14000))(KEY)
    counts = np.bincount(op, minlength=14)
    assert len(counts) == 14 and 850 < counts.min() and counts.max() < 1150
    assert (
        set(np.unique(strength)) == set(range(31)) and set(np.unique(sign)) == {-1.0, 1.0} and abs(sign.mean()) < 0.03
    )
    assert abs(np.corrcoef(op, strength)[0, 1]) < 0.03 and abs(np.corrcoef(op, sign)[0, 1]) < 0.03


@pytest.mark.parametrize(
    "make, channels, dtype",
    [(augment.trivial_augment, 1, np.float32), (lambda: augment.rand_augment(1, 15), 3, np.uint8)],
)
def test_policies_give_images(make, channels, dtype, rng):
    image = images(rng, 32, channels)
    image = np.asarray(image if dtype == np.uint8 else image / 255, dtype)
    out = fast(make())(KEY, {"image": image})["image"]
    assert out.dtype == np.float32 and out.shape == image.shape and out.min() >= 0 and out.max() <= 1
    same = (np.abs(out - image.astype(np.float32) / (255 if dtype == np.uint8 else 1)) < 1e-6).all((1, 2, 3))
    assert 1 <= same.sum() < 20


def test_strengths_of_rand_augment_are_drawn(rng):
    """Images that are moved are moved by one distance, or by one of their own each."""
    image = np.full((400, 64, 64, 1), 255, np.uint8)

    def borders(magnitude):
        out = np.asarray(fast(augment.rand_augment(1, magnitude))(KEY, {"image": image})["image"])[..., 0]
        rows = [(x == 0).all(1).sum() for x in out]  # rows that moving up or down leaves black
        return {int(n) for n in rows if 0 < n < 64}  # 64: inverted colours

    assert borders(9) == {8} and len(borders(None)) > 10 and max(borders(None)) > 20


def test_rand_augment_of_nothing_is_the_identity(rng):
    image = np.asarray(images(rng))
    np.testing.assert_allclose(
        fast(augment.rand_augment(0))(KEY, {"image": image})["image"], image.astype(np.float32) / 255, atol=1e-7
    )


def hole(image):
    """Return height, width and position of the zeros, which form one rectangle."""
    ys, xs = np.nonzero(np.asarray(image)[..., 0] == 0)
    if not len(ys):
        return None
    high, wide = ys.max() - ys.min() + 1, xs.max() - xs.min() + 1
    assert len(ys) == high * wide
    return high, wide, ys.min(), xs.min()


def test_cutout_is_a_square_cut_at_the_border():
    out = fast(augment.cutout(4))(KEY, {"image": np.ones((200, 8, 6, 1), np.uint8)})["image"]
    holes = np.array([hole(x) for x in out])
    assert out.dtype == np.uint8 and holes[:, :2].max() == 4 and holes[:, :2].min() == 2
    assert set(holes[holes[:, 0] == 4, 2]) == {0, 1, 2, 3, 4} and set(holes[holes[:, 1] == 4, 3]) == {0, 1, 2}


@pytest.mark.parametrize("value, seen", [(0.5, (128, 128, 128)), ((1, 0.2, 0), (255, 51, 0))])
def test_what_a_hole_is_filled_with(value, seen):
    out = fast(augment.cutout(16, value=value))(KEY, {"image": np.full((1, 4, 4, 3), 7, np.uint8)})["image"]
    chex.assert_trees_all_equal(out, np.broadcast_to(np.array(seen, np.uint8)[None, None, None], out.shape))
    out = fast(augment.cutout(16, value=value))(KEY, {"image": np.full((1, 4, 4, 3), 0.7)})["image"]
    np.testing.assert_allclose(out[0, 0, 0], np.array(seen) / 255, atol=0.002)


def test_erase_draws_rectangles():
    out = fast(augment.erase(probability=0.25, scale=(0.1, 0.3), ratio=(0.5, 2)))(
        KEY, {"image": np.ones((1000, 20, 20, 1))}
    )["image"]
    holes = np.array([h for h in map(hole, out) if h])
    assert 200 < len(holes) < 300
    share, ratio = holes[:, 0] * holes[:, 1] / 400, holes[:, 0] / holes[:, 1]
    assert 0.08 < share.min() < 0.12 and 0.27 < share.max() < 0.33 and share.mean() == pytest.approx(0.2, abs=0.015)
    assert ratio.min() > 0.4 and ratio.max() < 2.4 and np.log(ratio).mean() == pytest.approx(0, abs=0.1)


def test_erase_with_noise_and_with_nothing():
    image = np.zeros((4, 10, 10, 3), np.uint8)
    out = np.asarray(fast(augment.erase(probability=1, value=None, scale=(0.3, 0.3)))(KEY, {"image": image})["image"])
    assert 0.2 < (out > 0).mean() < 0.4 and out[out > 0].std() > 50
    chex.assert_trees_all_equal(fast(augment.erase(probability=0))(KEY, {"image": image + 1})["image"], image + 1)
    chex.assert_trees_all_equal(fast(augment.cutout(0))(KEY, {"image": image + 1})["image"], image + 1)


def test_pixel_dropout_takes_whole_pixels_and_another_share_of_each_image():
    change = augment.pixel_dropout(probability=0.5, share=(0.2, 0.8), value=(1, 0, 0.2))
    out = np.asarray(fast(change)(KEY, {"image": np.full((1000, 16, 16, 3), 7, np.uint8)})["image"])
    lost = (out != 7).any(-1)
    assert out.dtype == np.uint8 and (out[lost] == (255, 0, 51)).all()
    share = lost.mean((1, 2))
    some = share[share > 0]
    assert (
        440 < len(some) < 560
        and some.mean() == pytest.approx(0.5, abs=0.02)
        and some.std() == pytest.approx(0.175, abs=0.02)
    )
    at = lost[share > 0].mean(0)
    # anywhere, and each different
    assert at.min() > 0.4 and at.max() < 0.6 and len({row.tobytes() for row in lost[share > 0]}) == len(some)
    plain = np.full((4, 5, 6, 1), 0.5, np.float32)
    none, all_ = (
        fast(augment.pixel_dropout(probability=p, share=(1, 1)))(KEY, {"image": plain})["image"] for p in (0, 1)
    )
    chex.assert_trees_all_equal(none, plain)
    chex.assert_trees_all_equal(all_, plain * 0)


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda: augment.color_jitter(brightness=-0.1), "brightness=-0.1"),
        (lambda: augment.grayscale(1.5), "probability=1.5"),
        (lambda: augment.gaussian_blur(4), "kernel_size=4"),
        (lambda: augment.gaussian_blur(3, (0.0, 1.0)), r"sigma=\(0.0, 1.0\)"),
        (
            lambda: jax.eval_shape(augment.gaussian_blur(9), KEY, {"image": np.zeros((1, 4, 4, 1))}),
            "kernel_size=9: too large",
        ),
        (
            lambda: jax.eval_shape(augment.sometimes(augment.random_resized_crop(3), 0.5), KEY, {"image": IMAGE}),
            "changes 'image'",
        ),
        (lambda: augment.color_jitter(brightness=float("inf")), r"brightness=\(0.0, inf\)"),
        (lambda: augment.color_jitter(contrast=(1.2, 0.8)), r"contrast=\(1.2, 0.8\)"),
        (lambda: augment.color_jitter(saturation=(-1, 1)), r"saturation=\(-1, 1\)"),
        (lambda: augment.color_jitter(hue=0.6), "hue=0.6"),
        (lambda: augment.color_jitter(hue=(-0.7, 0)), r"hue=\(-0.7, 0\)"),
        (
            lambda: jax.eval_shape(augment.color_jitter(0.1), KEY, {"image": np.zeros((1, 4, 4, 2))}),
            r"image shape \(1, 4, 4, 2\)",
        ),
        (
            lambda: jax.eval_shape(augment.trivial_augment(), KEY, {"image": np.zeros((1, 4, 4, 4))}),
            r"image shape \(1, 4, 4, 4\)",
        ),
        (lambda: augment.trivial_augment(follow=augment.SpatialTargets(visible=-1)), "visible=-1"),
        (lambda: augment.rand_augment(-1), "ops=-1"),
        (lambda: augment.rand_augment(2, 31), "magnitude=31"),
        (lambda: augment.cutout(-1), "pixels=-1"),
        (lambda: augment.cutout(1, value=255), "value=255"),
        (
            lambda: jax.eval_shape(augment.cutout(1, value=(0, 0)), KEY, {"image": np.zeros((1, 4, 4, 3))}),
            r"value=\(0, 0\)",
        ),
        (lambda: augment.erase(probability=1.5), "probability=1.5"),
        (lambda: augment.erase(scale=(0, 2)), r"scale=\(0, 2\)"),
        (lambda: augment.erase(ratio=(2, 1)), r"ratio=\(2, 1\)"),
        (lambda: augment.erase(value=(0, -1)), r"value=\(0, -1\)"),
        (lambda: augment.pixel_dropout(probability=-1), "probability=-1"),
        (lambda: augment.pixel_dropout(share=(0.5, 1.2)), r"share=\(0.5, 1.2\)"),
        (lambda: augment.pixel_dropout(value=128), "value=128"),
    ],
)
def test_bad_amounts_are_refused(change, words):
    with pytest.raises(InputError, match=words) as caught:
        change()
    assert "\n" not in str(caught.value)


def test_the_formulae_are_named_in_their_order():
    assert color.CHANGES == (color.brighten, color.contrast, color.saturate, color.turn_hue)
