"""Augmentation only moves pixels, row by row, as a function of the key."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn import InputError, augment
from jaxcnn.core.collectives import AXIS

KEY = jax.random.key(3)


def fast(f):
    return jax.jit(f, compiler_options={"xla_backend_optimization_level": 0})


def apply(change, image):
    return np.asarray(fast(lambda image: change(KEY, {"image": image})["image"])(image))


def numbered(*shape, dtype=np.uint8):
    """Images whose pixels are all different and not zero."""
    return np.arange(1, np.prod(shape) + 1).reshape(shape).astype(dtype)


def moved(image, by):
    """`image` `[*spatial, C]` moved by whole pixels, zeros coming in."""
    out = np.zeros_like(image)
    to, of = (
        tuple(slice(max(s * d, 0), max(n + min(s * d, 0), 0)) for d, n in zip(by, image.shape, strict=False))
        for s in (1, -1)
    )
    out[to] = image[of]
    return out


def blob(n=32):
    y, x = np.mgrid[:n, :n] - (n - 1) / 2
    return np.exp(-(y**2 + 2 * x**2) / 18)[None, :, :, None].astype(np.float32)


CHANGES = {
    "shift": augment.shift(2),
    "flip": augment.flip,
    "affine": augment.affine(degrees=20, scale=0.2, shear=0.1, shift=0.1),
    "sometimes": augment.sometimes(augment.gaussian_blur(3, (0.5, 2.0)), 0.5),
    "compose": augment.compose(augment.flip, augment.shift(1), augment.affine(degrees=5)),
}


@pytest.mark.parametrize("spatial, dtype", [((9,), np.float32), ((6, 5), np.uint8), ((4, 5, 3), np.float32)])
def test_shift_moves_whole_pixels(spatial, dtype):
    image = np.broadcast_to(numbered(*spatial, 2, dtype=dtype), (30, *spatial, 2))
    out = apply(augment.shift(2), image)
    assert out.dtype == dtype
    possible = {
        moved(np.asarray(image[0]), tuple(i - 2 for i in by)).tobytes() for by in np.ndindex(*(5,) * len(spatial))
    }
    seen = {np.asarray(row).tobytes() for row in out}
    assert seen <= possible and len(seen) >= min(4, len(possible))


def test_shift_reaches_its_bounds():
    out = apply(augment.shift(1), np.broadcast_to(numbered(3, 3, 1), (60, 3, 3, 1)))
    assert len(np.unique(np.asarray(out).reshape(60, -1), axis=0)) == 9


def test_shift_of_nothing_is_the_identity():
    image = numbered(2, 4, 4, 1)
    chex.assert_trees_all_equal(apply(augment.shift(0), image), image)


def test_flip_mirrors_about_half_of_the_rows():
    image = numbered(100, 2, 3, 1, dtype=np.int32)
    out = apply(augment.flip, image)
    mirrored = (out == image[:, :, ::-1]).all((1, 2, 3))
    assert (mirrored | (out == image).all((1, 2, 3))).all()
    assert 30 < mirrored.sum() < 70


@pytest.mark.parametrize("shape", [(2, 7, 7, 1), (2, 8, 5, 3)])
def test_affine_of_nothing_is_the_identity(shape, rng):
    image = rng.integers(0, 256, shape).astype(np.uint8)
    for given in (image, image.astype(np.float32) / 255):
        out = apply(augment.affine(), given)
        chex.assert_trees_all_close(out, image.astype(np.float32) / 255, atol=1e-6)


def drawn(monkeypatch, *values):
    """Let every draw give these shares of the largest amounts: angle, scale y, scale x, shear, shift y, shift x."""
    monkeypatch.setattr(
        augment.geometry,
        "draw",
        lambda sampler, key, shape: jnp.broadcast_to(jnp.array(values, jnp.float32)[None], shape),
    )


@pytest.mark.parametrize("share", [1, -1])
def test_affine_turns(share, monkeypatch):
    drawn(monkeypatch, share, 0, 0, 0, 0, 0)
    image = numbered(1, 6, 6, 2, dtype=np.float32)
    out = apply(augment.affine(degrees=90), image)
    chex.assert_trees_all_close(out, np.rot90(image, -share, (1, 2)), atol=1e-3)


@pytest.mark.parametrize("down, right", [(2, 0), (-2, 4), (4, -6), (10, 0), (-10, -10), (0, 30)])
def test_affine_moves_and_lets_zeros_in(down, right, monkeypatch):
    drawn(monkeypatch, 0, 0, 0, 0, down / 40, right / 40)
    image = numbered(1, 8, 8, 1, dtype=np.float32)
    out = apply(augment.affine(shift=5.0), image)
    chex.assert_trees_all_close(out[0], moved(np.asarray(image[0]), (down, right)), atol=1e-3)


def test_affine_scales_and_shears(monkeypatch):
    drawn(monkeypatch, 0, 1, -1, 0, 0, 0)
    scaled = np.asarray(apply(augment.affine(scale=0.2), blob()))[0, :, :, 0]
    assert scaled.sum() == pytest.approx(float(blob().sum()) * 1.2 * 0.8, rel=0.01)
    rows, columns = scaled.sum(1), scaled.sum(0)
    place = np.arange(32) - 15.5
    variance = lambda mass: (mass * place**2).sum() / mass.sum()
    assert variance(rows) == pytest.approx(9 * 1.2**2, rel=0.05) and variance(columns) == pytest.approx(
        4.5 * 0.8**2, rel=0.1
    )
    drawn(monkeypatch, 0, 0, 0, 1, 0, 0)
    sheared = np.asarray(apply(augment.affine(shear=0.3), blob()))[0, :, :, 0]
    tilt = (sheared * place[:, None] * place[None]).sum() / sheared.sum()
    assert tilt == pytest.approx(-0.3 * 9, rel=0.05)


@pytest.mark.parametrize("amounts", [{"degrees": 30}, {"shear": 0.2}, {"shift": 0.1}])
def test_affine_keeps_the_mass_of_pixels(amounts):
    image = np.repeat(blob(), 16, 0)
    out = apply(augment.affine(**amounts), image)
    chex.assert_trees_all_close(out.sum((1, 2, 3)), image.sum((1, 2, 3)), rtol=0.01)
    assert out.min() >= 0 and out.max() <= 1


@pytest.mark.parametrize("name", CHANGES)
def test_changes_are_drawn_per_row_from_the_key(name):
    change = fast(CHANGES[name])
    batch = {
        "image": np.broadcast_to(numbered(8, 8, 1), (16, 8, 8, 1)),
        "label": np.arange(16),
        "row_mask": np.ones(16, np.float32),
    }
    out = change(KEY, batch)
    chex.assert_trees_all_equal(out, change(KEY, batch))
    assert (out["image"] != change(jax.random.key(4), batch)["image"]).any()
    assert len(np.unique(np.asarray(out["image"]).reshape(16, -1), axis=0)) > 1
    chex.assert_trees_all_equal(
        {k: out[k] for k in ("label", "row_mask")}, {k: batch[k] for k in ("label", "row_mask")}
    )
    chex.assert_equal_shape([out["image"], batch["image"]])


@pytest.mark.parametrize("name", CHANGES)
def test_changes_do_not_depend_on_the_spread_of_rows(name):
    image = np.broadcast_to(numbered(8, 8, 1), (8, 8, 8, 1))
    change = lambda image: CHANGES[name](KEY, {"image": image})["image"]
    spread, whole = fast(lambda x: (jax.vmap(change, axis_name=AXIS)(x.reshape(4, 2, 8, 8, 1)), change(x)))(image)
    chex.assert_trees_all_close(spread.reshape(image.shape), whole, atol=1e-6)


def test_compose_gives_each_change_its_own_key():
    batch = {"image": numbered(4, 6, 6, 1)}
    one, two = augment.shift(1), augment.shift(2)
    expected = fast(lambda key, batch: two(jax.random.fold_in(key, 1), one(jax.random.fold_in(key, 0), batch)))(
        KEY, batch
    )
    chex.assert_trees_all_equal(fast(augment.compose(one, two))(KEY, batch), expected)


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: augment.shift(-1), "pixels=-1"),
        (lambda: augment.shift(1.5), "pixels=1.5"),
        (lambda: augment.affine(degrees=-5), "degrees=-5"),
        (lambda: augment.affine(scale=1), "scale=1"),
        (lambda: augment.affine(shear=float("nan")), "shear=nan"),
    ],
)
def test_bad_amounts_are_refused(make, words):
    with pytest.raises(InputError, match=words) as caught:
        make()
    assert "\n" not in str(caught.value)
