"""RoIAlign equals its definition in plain NumPy, and so do its derivatives."""

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn import InputError, ops

roi_align = jax.jit(ops.roi_align, static_argnames=("size", "sampling_ratio", "aligned"))

H, W, C = 6, 9, 3
BOXES = np.array(
    [
        [[0.1, 0.2, 0.8, 0.7], [0, 0, 1, 1], [-0.3, 0.5, 0.4, 1.4], [0.5, 0.5, 0.52, 0.9]],
        [[0.9, 0.9, 1.6, 1.9], [0.3, 0.1, 0.35, 0.12], [0.2, 0.2, 0.2, 0.2], [0.0, 0.4, 0.5, 0.6]],
    ],
    np.float32,
)  # some of them partly or wholly outside, smaller than a pixel, or without a size

TORCHVISION = {
    False: [
        [[10.15789, 7.84141], [10.24398, 7.24172]], [[9.69531, 6.74219], [7.96875, 6.53125]],
        [[9.425, 13.0], [7.20211, 6.825]],
    ],
    True: [
        [[8.0439, 9.59508], [11.62867, 7.12312]], [[7.75, 8.27344], [9.04688, 4.875]],
        [[11.425, 13.0], [7.62867, 6.825]],
    ],
}  # fmt: skip


def sampled(image, y, x):
    """Blend the four neighbours of a place, which is moved to the border first."""
    y, x = np.clip(y, 0, image.shape[0] - 1), np.clip(x, 0, image.shape[1] - 1)
    top, left = int(y), int(x)
    low, right = min(top + 1, image.shape[0] - 1), min(left + 1, image.shape[1] - 1)
    v, h = y - top, x - left
    above = (1 - h) * image[top, left] + h * image[top, right]
    return (1 - v) * above + v * ((1 - h) * image[low, left] + h * image[low, right])


def plain(image, box, size, ratio, aligned):
    """One box, in float64: a grid of cells, and the mean over a regular grid of samples in each."""
    h, w = image.shape[:2]
    y0, x0, y1, x1 = np.float64(box) * [h, w, h, w] - (0.5 if aligned else 0)
    high, wide = (y1 - y0, x1 - x0) if aligned else (max(y1 - y0, 1), max(x1 - x0, 1))
    out = np.zeros((*size, image.shape[2]))
    for i, j in np.ndindex(*size):
        for p, q in np.ndindex(ratio, ratio):
            y = y0 + (i + (p + 0.5) / ratio) * high / size[0]
            out[i, j] += sampled(image, y, x0 + (j + (q + 0.5) / ratio) * wide / size[1]) / ratio**2
    return out


def both(features, size, ratio, aligned):
    return np.array([[plain(f, b, size, ratio, aligned) for b in row] for f, row in zip(features, BOXES, strict=True)])


@pytest.mark.parametrize("size, ratio, aligned", [((3, 2), 2, False), ((2, 3), 1, True), ((2, 2), 3, True)])
def test_it_equals_the_definition(size, ratio, aligned, rng):
    features = rng.normal(size=(2, H, W, C)).astype(np.float32)
    out = roi_align(features, BOXES, size=size, sampling_ratio=ratio, aligned=aligned)
    np.testing.assert_allclose(out, both(features, size, ratio, aligned), atol=2e-5)


def test_torchvision_says_the_same():
    """Values of the Python form in torchvision 0.29's `ops/roi_align.py`, rounded to five digits."""
    features = (np.arange(H * W) ** 2 % 17).reshape(1, H, W, 1).astype(np.float32)
    for aligned, expected in TORCHVISION.items():
        out = roi_align(features, BOXES[:1, :3], size=(2, 2), aligned=aligned)
        np.testing.assert_allclose(out[0, ..., 0], expected, atol=1e-4)


def test_levels_of_a_pyramid(rng):
    maps = [rng.normal(size=(2, h, w, C)).astype(np.float32) for h, w in ((H, W), (1, 5))]
    level = np.array([[0, 1, 1, 1], [1, 0, 1, 0]])
    out = roi_align(maps, BOXES, size=2, level=level)
    alone = np.stack([roi_align(m, BOXES, size=2) for m in maps])
    np.testing.assert_allclose(out, np.take_along_axis(alone, level[None, ..., None, None, None], 0)[0], atol=1e-6)


def test_derivatives(rng):
    features, other = (jnp.asarray(rng.normal(size=(2, H, W, C)), jnp.float32) for _ in range(2))
    weight = jnp.asarray(rng.normal(size=(2, 4, 2, 3, C)), jnp.float32)

    def run(x, boxes=BOXES):
        return ops.roi_align(x, boxes, size=(2, 3))

    @jax.jit
    def derived(x, t, weight):
        tangent, back = jax.jvp(run, (x,), (t,))[1], jax.vjp(run, x)[1](weight)[0]
        (again,) = jax.vjp(lambda w: jax.vjp(run, x)[1](w)[0], weight)[1](t)
        return tangent, back, again, jax.vmap(run)(jnp.stack([x, t])), jax.grad(lambda b: run(x, b).sum())(BOXES)

    tangent, back, again, many, by_box = derived(features, other, weight)
    plain = roi_align(other, BOXES, size=(2, 3))
    for same in (tangent, again, many[1]):  # it is linear
        np.testing.assert_allclose(same, plain, atol=1e-6)
    assert float((back * other).sum()) == pytest.approx(float((weight * plain).sum()), abs=1e-3)
    assert not by_box.any()


def test_the_forms_of_all_platforms_agree(rng):
    module = importlib.import_module("jaxcnn.ops.roi_align")  # as an attribute, the name is the function
    features = rng.normal(size=(2, H * W, C)).astype(np.float32)

    @jax.jit
    def forms(features, boxes):
        (y, down), (x, right) = (
            module._taps(boxes[..., i], boxes[..., i + 2], jnp.full((2, 4), n), 3, 2, True)
            for i, n in enumerate((H, W))
        )
        taps = (y * W, down, x, right)
        values = [module._each_box(mapping, features, *taps) for mapping in (jax.vmap, module._in_turn)]
        back = [scatter(values[0], *taps, pixels=H * W) for scatter in (module._scatter, module._scatter_in_turn)]
        return values, back

    for one, other in forms(features, BOXES):
        assert np.abs(one).max() > 0.1
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_boxes_that_are_not_finite_change_nothing(rng):
    features = jnp.asarray(rng.normal(size=(2, H, W, C)), jnp.float32)
    bad = BOXES.copy()
    bad[0, 1], bad[1, 2, 3] = np.nan, np.inf
    kept = np.isfinite(bad).all(-1)
    out, back = jax.vjp(lambda x: roi_align(x, bad), features)
    assert not np.asarray(out)[~kept].any()
    np.testing.assert_array_equal(np.asarray(out)[kept], np.asarray(roi_align(features, BOXES))[kept])
    assert np.isfinite(back(jnp.ones_like(out))[0]).all()


def test_low_precision_is_close(rng):
    features = jnp.asarray(rng.normal(size=(2, H, W, C)), jnp.float32)
    out = roi_align(features.astype(jnp.bfloat16), BOXES)
    assert out.dtype == jnp.bfloat16
    np.testing.assert_allclose(out.astype(jnp.float32), roi_align(features, BOXES), atol=0.03)


FEATURES = np.zeros((2, H, W, C), np.float32)


@pytest.mark.parametrize(
    "options, words",
    [
        ({"features": FEATURES[0]}, r"features of shapes \[\(6, 9, 3\)\]: must be \[B, H, W, C\]"),
        ({"features": [FEATURES, FEATURES[:1]], "level": np.zeros((2, 4), int)}, "with the same B and C"),
        ({"features": [FEATURES, FEATURES]}, "level=None: must say which of the 2 maps"),
        ({"features": FEATURES.astype(np.uint8)}, r"features\[0\] \(2, 6, 9, 3\) is uint8: must be floating point"),
        ({"boxes": BOXES[:1]}, r"boxes of shape \(1, 4, 4\): must be \[2, N, 4\]"),
        ({"level": np.zeros((2, 4), np.float32)}, r"level float32\[2, 4\]: must be integers \[2, 4\]"),
        ({"sampling_ratio": 0}, "sampling_ratio=0: must be at least 1"),
        ({"size": 0}, "size=0"),
    ],
)
def test_bad_input_is_one_line(options, words):
    with pytest.raises(InputError, match=words) as caught:
        ops.roi_align(**{"features": FEATURES, "boxes": BOXES, **options})
    assert "\n" not in str(caught.value)
