"""Mixed labels match their pixels; every change is equal under jit, sharded and pmap; views are averaged."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from jaxcnn import InputError, augment
from jaxcnn.core.collectives import AXIS, previous

KEY = jax.random.key(11)
DEVICES = jax.devices()[:4]


def fast(change):
    run = jax.jit(change, compiler_options={"xla_backend_optimization_level": 0})
    return lambda *args: jax.tree.map(np.asarray, run(*args))


def numbered(b, h=8, w=6):
    """Image i has the constant value i / b and the label i, so that pixels reveal their mixture."""
    return {
        "image": np.broadcast_to(np.arange(b)[:, None, None, None] / b, (b, h, w, 2)).astype(np.float32),
        "label": np.arange(b),
    }


@pytest.mark.parametrize("alpha", [1.0, 0.3])
def test_mixup_labels_match_the_pixels(alpha):
    b = 400
    out = fast(augment.mixup(alpha, num_classes=b))(KEY, numbered(b))
    label = np.asarray(out["label"], np.float64)
    assert label.shape == (b, b)
    np.testing.assert_allclose(label.sum(1), 1, atol=1e-6)
    np.testing.assert_allclose(label @ np.arange(b) / b, out["image"][:, 0, 0, 0], atol=1e-6)
    share, partner = label[np.arange(b), np.arange(b)], label[np.arange(b), np.arange(b) - 1]
    np.testing.assert_allclose(share + partner, 1, atol=1e-6)
    assert share.mean() == pytest.approx(0.5, abs=0.06)
    assert share.var() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.15)  # of Beta(alpha, alpha)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_cutmix_labels_match_the_pixels(dtype):
    b = 240
    batch = numbered(b)
    image = np.round(batch["image"] * b).astype(np.uint8) if dtype == np.uint8 else batch["image"]
    out = fast(augment.cutmix(num_classes=b))(KEY, {**batch, "image": image, "mask": image[..., 0]})
    assert out["image"].dtype == dtype
    label = np.asarray(out["label"])
    own = np.asarray(out["image"] == image)[..., 0]
    np.testing.assert_allclose(label.sum(1), 1, atol=1e-6)
    np.testing.assert_allclose(label[np.arange(b), np.arange(b)], own.mean((1, 2)), atol=1e-6)
    partner = np.asarray(out["image"] == np.roll(image, 1, 0))[..., 0]
    assert (own ^ partner).all()
    chex.assert_trees_all_equal(out["mask"], out["image"][..., 0])
    sizes = [(rows.any(1).sum(), rows.any(0).sum()) for rows in partner]
    # one rectangle each
    assert all(rows.sum() == high * wide for rows, (high, wide) in zip(partner, sizes, strict=True))
    assert len(set(sizes)) > 12 and 0.1 < partner.mean() < 0.4


@pytest.mark.parametrize("change", [augment.mixup(1.0), augment.cutmix(1.0)])
def test_numbers_are_mixed_like_pixels(change):
    b = 60
    given = {"image": numbered(b)["image"], "target": np.arange(b, dtype=np.float32)}
    out = fast(change)(KEY, given)
    np.testing.assert_allclose(out["target"], out["image"].mean((1, 2, 3)) * b, atol=1e-3)
    with pytest.raises(InputError, match="cannot share a target"):
        augment.mosaic()(KEY, given)


def test_cutmix_pastes_labels_of_pixels():
    image = np.arange(4.0)[:, None, None, None] * np.ones((1, 6, 6, 1)) / 4
    out = fast(augment.cutmix())(KEY, {"image": image, "label": (image[..., 0] * 4).astype(np.int32)})
    chex.assert_trees_all_equal(out["label"], (out["image"][..., 0] * 4).astype(np.int32))
    assert (out["label"] != out["label"][:, :1, :1]).any()


@pytest.mark.parametrize("make", [augment.mixup, augment.cutmix])
def test_padding_is_not_mixed(make):
    batch = numbered(6)
    row_mask = np.array([1.0, 1, 1, 1, 0, 0])
    image = np.where(row_mask[:, None, None, None] > 0, batch["image"], np.nan)
    out = fast(make(1.0, num_classes=6))(KEY, {**batch, "image": image, "row_mask": row_mask})
    assert np.isfinite(out["image"][:4]).all()
    np.testing.assert_allclose(out["label"][:4, 4:], 0)
    chex.assert_trees_all_equal(out["image"][0], image[0])  # its predecessor is padding
    chex.assert_trees_all_equal(out["label"][np.array([0, 4, 5])], np.eye(6)[np.array([0, 4, 5])])
    assert (out["label"][1:4].max(1) < 1).any()
    chex.assert_trees_all_equal(out["row_mask"], row_mask)


@pytest.mark.parametrize("make", [augment.mixup, augment.cutmix])
def test_no_mixing_is_the_identity(make):
    batch = numbered(5)
    out = fast(make(0, num_classes=5))(KEY, batch)
    chex.assert_trees_all_equal(out, {"image": batch["image"], "label": np.eye(5, dtype=np.float32)})
    chex.assert_trees_all_equal(fast(make(0))(KEY, {**batch, "label": np.eye(5)}), out)


@pytest.mark.parametrize("make", [augment.mixup, augment.cutmix])
def test_labels_of_every_form_are_mixed_alike(make):
    batch = numbered(6)
    expected = fast(make(1.0, num_classes=6))(KEY, batch)
    for label in (
        batch["label"].astype(np.uint8),
        batch["label"][:, None],
        batch["label"].astype(np.float32),
        np.eye(6, dtype=int),
        np.eye(6),
    ):
        chex.assert_trees_all_equal(fast(make(1.0, num_classes=6))(KEY, {**batch, "label": label}), expected)
    # more classes than uint8 counts
    out = fast(make(1.0, num_classes=300))(KEY, {**batch, "label": np.arange(6).astype(np.uint8)})
    np.testing.assert_allclose(out["label"].sum(-1), 1, atol=1e-6)
    several = np.array([[0, 0, 0], [1, 1, 0]] * 3)  # yes or no each: a row may have none
    assert (fast(make(1.0))(KEY, {**batch, "label": several})["label"][::2].sum(-1) > 0).any()


def test_one_of_takes_one_change_for_the_whole_batch():
    batch = numbered(8)
    change = fast(augment.one_of(augment.mixup(1.0, num_classes=8), augment.cutmix(num_classes=8)))
    cut = [bool(np.isin(change(jax.random.key(i), batch)["image"], batch["image"]).all()) for i in range(24)]
    assert 5 < sum(cut) < 19


MIXED = augment.compose(augment.erase(value=None), augment.pixel_dropout(), augment.cutmix(num_classes=10))
EVERYTHING = augment.compose(
    augment.random_resized_crop(8),
    augment.flip_vertical,
    augment.color_jitter(0.4, 0.4, 0.4, 0.1),
    augment.trivial_augment(),
    augment.pad_crop(2, "reflect"),
    augment.erase(value=None),
    augment.cutout(3),
    augment.one_of(augment.cutmix(num_classes=10), augment.mixup(1.0, num_classes=10)),
)


@pytest.mark.parametrize(
    "change", [MIXED, pytest.param(EVERYTHING, marks=pytest.mark.slow)], ids=["mixed", "everything"]
)
def test_the_same_under_jit_sharded_and_pmap(change, rng):
    batch = {
        "image": np.asarray(rng.integers(0, 256, (16, 9, 9, 3)), np.uint8),
        "label": np.asarray(rng.integers(0, 10, 16)),
        "row_mask": np.asarray([1.0] * 14 + [0] * 2),
    }
    whole = fast(change)(KEY, batch)
    mesh = jax.make_mesh((4,), (AXIS,), devices=DEVICES, axis_types=(jax.sharding.AxisType.Auto,))
    sharded = fast(change)(KEY, jax.device_put(batch, NamedSharding(mesh, PartitionSpec(AXIS))))
    spread = jax.tree.map(lambda x: x.reshape(4, 4, *x.shape[1:]), batch)
    pmapped = jax.pmap(change, AXIS, in_axes=(None, 0), devices=DEVICES)(KEY, spread)
    pmapped = jax.tree.map(lambda x: x.reshape(16, *x.shape[2:]), pmapped)
    chex.assert_trees_all_close(jax.tree.map(np.asarray, sharded), jax.tree.map(np.asarray, whole), atol=1e-5)
    chex.assert_trees_all_close(jax.tree.map(np.asarray, pmapped), jax.tree.map(np.asarray, whole), atol=1e-5)
    assert (np.asarray(whole["label"]).max(1) < 1).any()


def test_previous_is_a_roll_of_the_global_batch():
    x = np.arange(12).reshape(4, 3)
    assert fast(jax.vmap(previous, axis_name=AXIS))(x).ravel().tolist() == [11, *range(11)]
    assert fast(previous)(x.ravel()).tolist() == [11, *range(11)]


@pytest.mark.parametrize(
    "change, extra, words",
    [
        (lambda: augment.mixup(-1), {}, "alpha=-1"),
        (lambda: augment.cutmix(float("nan")), {}, "alpha=nan"),
        (lambda: augment.cutmix(num_classes=1), {}, "num_classes=1"),
        (lambda: augment.mixup(), {}, "num_classes=None"),
        (lambda: augment.mixup(num_classes=4), {"label": np.zeros((4, 2), int)}, r"label int32\[4, 2\]"),
        (lambda: augment.mixup(num_classes=4), {"mask": np.zeros((4, 8, 6))}, "mask.*use cutmix"),
        (
            lambda: augment.mixup(num_classes=4),
            {"label": np.zeros((4, 3))},
            r"label float32\[4, 3\].* or \[B, 4\] with num_classes=4",
        ),
        (lambda: augment.cutmix(num_classes=4), {"boxes": np.zeros((4, 1, 4))}, "boxes"),
        (lambda: augment.one_of(), {}, r"one_of\(\)"),
    ],
)
def test_what_cannot_be_mixed_is_refused(change, extra, words):
    with pytest.raises(InputError, match=words) as caught:
        jax.eval_shape(change(), KEY, {**numbered(4), **extra})
    assert "\n" not in str(caught.value)


def logits_of_corners(variables, batch):
    """Two logits that differ between views: the upper left and the upper right pixel."""
    image = batch["image"]
    return jnp.stack([image[:, 0, 0, 0], image[:, 0, -1, 0]], -1) * variables


@pytest.mark.parametrize("over", ["logits", "softmax", "sigmoid"])
def test_averaged_is_the_mean_over_the_views(over, rng):
    batch = {"image": np.asarray(rng.normal(size=(3, 5, 5, 1)), np.float32), "row_mask": np.ones(3)}
    views, weights = augment.test_time_views(shift=1), [2, 1, 1, 2, 1, 1]
    out = fast(augment.test_time_augmentation(logits_of_corners, views, over=over, weights=weights))(2.0, batch)
    each = np.stack([fast(lambda batch, view=view: logits_of_corners(2.0, view(batch)))(batch) for view in views])
    to = {
        "logits": lambda x: x,
        "softmax": lambda x: np.exp(x) / np.exp(x).sum(-1, keepdims=True),
        "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    }[over]
    np.testing.assert_allclose(to(out), np.average(to(each), axis=0, weights=weights), atol=1e-6)


def test_views_move_and_mirror():
    image = np.arange(1, 31, dtype=np.float32).reshape(1, 5, 6, 1)
    places = {}
    for down, right in ((1, 2), (-1, 0), (0, 0)):
        padded = np.pad(image, ((0, 0), (2, 2), (2, 2), (0, 0)), "reflect")
        places[down, right] = padded[:, 2 - down : 7 - down, 2 - right : 8 - right]
        np.testing.assert_array_equal(fast(augment.moved(down, right))({"image": image})["image"], places[down, right])
    seen = [fast(view)({"image": image})["image"] for view in augment.test_time_views(shift=1)]
    assert len(seen) == 6 and len(augment.test_time_views()) == 2 and len(augment.test_time_views(flip=False)) == 1
    np.testing.assert_array_equal(seen[0], image)
    np.testing.assert_array_equal(seen[3], image[:, :, ::-1])


def test_a_model_that_does_not_care_about_views_predicts_as_before(rng):
    batch = {"image": np.asarray(rng.normal(size=(3, 4, 4, 1)), np.float32)}
    mean = lambda variables, batch: {"a": batch["image"].mean((1, 2)), "b": (batch["image"] ** 2).mean((1, 2, 3))}
    chex.assert_trees_all_close(
        fast(augment.test_time_augmentation(mean, augment.test_time_views()))(None, batch), mean(None, batch), atol=1e-6
    )


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: augment.test_time_augmentation(logits_of_corners, []), r"views=\[\]"),
        (
            lambda: augment.test_time_augmentation(logits_of_corners, augment.test_time_views(), over="mean"),
            "over='mean'",
        ),
        (
            lambda: augment.test_time_augmentation(logits_of_corners, augment.test_time_views(), weights=[1]),
            r"weights=\[1\]",
        ),
        (
            lambda: augment.test_time_augmentation(logits_of_corners, augment.test_time_views(), weights=[0, 0]),
            r"weights=\[0, 0\]",
        ),
        (lambda: augment.test_time_views(shift=-1), "shift=-1"),
    ],
)
def test_bad_views_are_refused(make, words):
    with pytest.raises(InputError, match=words) as caught:
        make()
    assert "\n" not in str(caught.value)
