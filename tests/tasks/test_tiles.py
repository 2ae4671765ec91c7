"""Prediction in tiles: what it equals, one program, bounded memory, and views that undo themselves."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcnn as jc
from jaxcnn import augment
from jaxcnn.tasks import predict_tiled
from jaxcnn.tasks.tiles import WINDOWS


def convolved(kernels, batch):
    """Outputs per pixel, of a network of convolutions of 3 pixels per axis."""
    x = batch["image"].astype(jnp.float32)
    axes = "DHW"[-(x.ndim - 2) :]
    for kernel in kernels:
        layout = (f"N{axes}C", f"{axes}IO", f"N{axes}C")
        x = jnp.tanh(jax.lax.conv_general_dilated(x, kernel, (1,) * (x.ndim - 2), "SAME", dimension_numbers=layout))
    return x


def kernels(rng, dims, *widths):
    pairs = itertools.pairwise(widths)
    return [rng.normal(size=(*[3] * dims, a, b)).astype(np.float32) / 3 for a, b in pairs]


def pointwise(scale, batch):
    return batch["image"].astype(jnp.float32) * scale + 1


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("tile, overlap", [((8, 5), 0), (8, 3), (40, 8)])
def test_values_that_need_no_surroundings_are_those_of_the_whole(window, tile, overlap, rng):
    image = rng.normal(size=(24, 15, 3)).astype(np.float32)
    found = predict_tiled(pointwise, 2.0, image, tile=tile, overlap=overlap, window=window, over="logits")
    exact = overlap == 0 or window == "nearest"
    np.testing.assert_allclose(found, pointwise(2.0, {"image": image}), rtol=0 if exact else 1e-6, atol=1e-6)
    assert found.dtype == np.float32
    other = predict_tiled(pointwise, 2.0, jnp.asarray(image), tile=tile, overlap=overlap, window=window, over="logits")
    np.testing.assert_array_equal(other, found)
    shares = predict_tiled(pointwise, 2.0, image, tile=tile, overlap=overlap, window=window)
    np.testing.assert_allclose(shares.sum(-1), 1, atol=1e-5)


@pytest.mark.parametrize("sides", [(37, 50), (18, 19, 22), (41,)])
def test_where_the_receptive_field_fits_it_is_the_whole(sides, rng):
    dims = len(sides)
    image, weights = rng.normal(size=(*sides, 2)).astype(np.float32), kernels(rng, dims, 2, 4, 3)
    whole = np.asarray(convolved(weights, {"image": image[None]}))[0]
    tiled = functools.partial(predict_tiled, convolved, weights, image, tile=11, overlap=4, over="logits")
    np.testing.assert_allclose(tiled(window="nearest"), whole, atol=1e-5)  # two pixels are seen in each direction
    for window in ("hann", "flat"):
        found = tiled(window=window)
        alone = tuple(slice(0, 11 - 4 - 2) for _ in sides)
        np.testing.assert_allclose(found[alone], whole[alone], atol=1e-5)
        assert np.abs(found - whole).max() > 1e-3
    smooth, plain = (np.abs(tiled(window=window) - whole).mean() for window in ("hann", "flat"))
    assert smooth < plain  # edges of tiles, where the network sees a border of zeros, weigh less


def test_the_mean_by_hand(rng):
    image, weights = rng.normal(size=(20, 14, 1)).astype(np.float32), kernels(rng, 2, 1, 2)
    begins = [(0, 5, 10, 12), (0, 5, 6)]
    total, weight = np.zeros((20, 14, 2)), np.zeros((20, 14, 1))
    one = np.sin(np.pi * (np.arange(8) + 0.5) / 8) ** 2
    for y, x in itertools.product(*begins):
        part = np.asarray(convolved(weights, {"image": image[None, y : y + 8, x : x + 8]}))[0]
        part = np.exp(part) / np.exp(part).sum(-1, keepdims=True)
        total[y : y + 8, x : x + 8] += part * np.outer(one, one)[..., None]
        weight[y : y + 8, x : x + 8] += np.outer(one, one)[..., None]
    found = predict_tiled(convolved, weights, image, tile=8, overlap=3, batch_size=5)
    np.testing.assert_allclose(found, total / weight, atol=1e-5)


class Slices:
    """An image that cannot be read whole."""

    def __init__(self, pixels):
        self.pixels, self.shape, self.most = pixels, pixels.shape, 0

    def __getitem__(self, at):
        part = self.pixels[at]
        self.most = max(self.most, part.size)
        return part


def test_one_program_for_all_tiles_of_all_images(rng):
    seen = []

    def predict(scale, batch):
        seen.append(batch["image"].shape)
        return pointwise(scale, batch)

    for size in ((64, 48), (30, 90), (16, 200)):
        image = Slices(rng.normal(size=(*size, 2)).astype(np.float32))
        predict_tiled(predict, 1.0, image, tile=16, overlap=4, batch_size=3)
        assert image.most == 16 * 16 * 2
    assert seen == [(3, 16, 16, 2)]


def test_images_smaller_than_a_tile_are_mirrored(rng):
    image, weights = rng.normal(size=(5, 30, 1)).astype(np.float32), kernels(rng, 2, 1, 2)
    padded = np.pad(image, ((0, 11), (0, 0), (0, 0)), "reflect")
    found, whole = (
        predict_tiled(convolved, weights, x, tile=16, overlap=8, window="nearest", over="logits")
        for x in (image, padded)
    )
    assert found.shape == (5, 30, 2)
    np.testing.assert_array_equal(found, whole[:5])


def test_a_u_net_in_tiles(rng):
    model = jc.models.unet(3, widths=(4, 8))
    task = jc.tasks.segmentation(model, mean=0.5, std=0.3)
    image = rng.integers(0, 256, (96, 64, 1)).astype(np.uint8)
    variables = jax.jit(task.init)(jax.random.key(0), {"image": image[None]})
    once = jax.jit(task.predict)
    whole = np.asarray(once(variables, {"image": image[None]}))[0]
    options = {"tile": 48, "overlap": 32, "over": "logits"}
    found = predict_tiled(task.predict, variables, image, window="nearest", **options)
    np.testing.assert_allclose(found, whole, atol=1e-4)
    assert (predict_tiled(task.predict, variables, image, **options).argmax(-1) == whole.argmax(-1)).mean() > 0.99
    with pytest.raises(jc.InputError, match="divide by 255"):
        predict_tiled(task.predict, variables, image.astype(np.float32), tile=48)
    views = augment.pixel_views(flip=(-1, -2), rotate=True)
    mean = augment.test_time_augmentation(task.predict, views)
    each = [view.undo(once(variables, view({"image": image[None, :48, :48]}))) for view in views]
    tiled = predict_tiled(mean, variables, image[:48, :48], tile=48, over="logits")
    np.testing.assert_allclose(tiled, np.mean(each, 0)[0], atol=1e-4)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"tile": 0}, "tile=0: must be at least 1"),
        ({"tile": (8, 8, 8)}, "must be a whole number, at least 1, or 2 of them"),
        ({"tile": 8, "overlap": 8}, "overlap=8: must be less than tile=8"),
        ({"tile": 8, "overlap": -1}, "overlap=-1"),
        ({"tile": 8, "window": "gauss"}, "window='gauss': must be one of hann, flat, nearest"),
        ({"tile": 8, "over": "sigmoid"}, "over='sigmoid'"),
        ({"tile": 8, "batch_size": 0}, "batch_size=0"),
        ({"tile": 8, "predict": lambda v, batch: batch["image"].mean((1, 2))}, "must have values for each pixel"),
        ({"tile": 8, "predict": lambda v, batch: {"a": batch["image"]}}, "outputs dict for tiles"),
        ({"tile": 8, "image": np.zeros((3,))}, "must be"),
        ({"tile": 8, "image": np.zeros((0, 8, 1))}, "must be"),
    ],
)
def test_what_is_wrong_is_one_line(options, message):
    predict, image = options.pop("predict", pointwise), options.pop("image", np.zeros((9, 9, 2), np.float32))
    with pytest.raises(jc.InputError, match=message) as error:
        predict_tiled(predict, 1.0, image, **options)
    assert "\n" not in str(error.value)


def looking_right(variables, batch):
    """Each pixel's right neighbour, and the one below it: outputs that tell views apart."""
    image = batch["image"][..., 0]
    return jnp.stack([jnp.roll(image, -1, -1), jnp.roll(image, -1, -2)], -1)


@pytest.mark.parametrize(
    "options, shape, count",
    [
        ({}, (2, 5, 6, 1), 2),
        ({"flip": ()}, (2, 5, 6, 1), 1),
        ({"flip": (-1, -2)}, (2, 5, 6, 1), 4),
        ({"rotate": True}, (2, 5, 5, 1), 8),
        ({"flip": (-2, -1), "rotate": True}, (2, 5, 5, 1), 8),
        ({"flip": (), "rotate": True}, (2, 5, 5, 1), 4),
        ({"flip": (-1, -2, -3)}, (2, 3, 5, 6, 1), 8),
    ],
)
def test_views_undo_themselves(options, shape, count, rng):
    batch = {"image": rng.normal(size=shape).astype(np.float32), "row_mask": np.ones(2)}
    views = augment.pixel_views(**options)
    seen = [np.asarray(view(batch)["image"]) for view in views]
    assert len(views) == count and len({x.tobytes() for x in seen}) == count
    np.testing.assert_array_equal(seen[0], batch["image"])
    for view, pixels in zip(views, seen, strict=True):
        np.testing.assert_array_equal(view.undo(pixels), batch["image"])
    same = augment.test_time_augmentation(pointwise, views)
    np.testing.assert_allclose(same(2.0, batch), pointwise(2.0, batch), rtol=1e-6, atol=1e-6)
    found = jax.jit(augment.test_time_augmentation(looking_right, views))(None, batch)
    each = [np.asarray(view.undo(looking_right(None, view(batch)))) for view in views]
    np.testing.assert_allclose(found, np.mean(each, 0), atol=1e-6)
    if options == {}:  # left and right neighbours
        np.testing.assert_allclose(each[1][..., 0], np.roll(batch["image"][..., 0], 1, -1))


@pytest.mark.parametrize(
    "run, message",
    [
        (lambda b: augment.test_time_augmentation(pointwise, augment.test_time_views())(1.0, b), "use pixel_views"),
        (
            lambda b: augment.test_time_augmentation(
                lambda v, b: {"boxes": jnp.zeros((len(b["image"]), 5, 4))}, augment.test_time_views()
            )(1.0, b),
            "outputs have boxes",
        ),
        (
            lambda b: augment.test_time_augmentation(lambda v, b: b["image"].mean((1, 2)), augment.pixel_views())(1, b),
            "are not per pixel; use test_time_views",
        ),
        (
            lambda b: augment.test_time_augmentation(pointwise, [*augment.pixel_views(), augment.mirrored]),
            "2 of 3 undo themselves",
        ),
        (lambda b: augment.pixel_views(rotate=True)[1](b), "height and width must be the same"),
        (lambda b: augment.pixel_views(flip=(-3,))[1](b), r"flip=\(-3,\): image shape"),
        (lambda b: augment.pixel_views(flip=(1,)), r"flip=\(1,\): must be some of"),
        (lambda b: augment.pixel_views(flip=(-1, -1)), r"flip=\(-1, -1\)"),
    ],
)
def test_wrong_views_are_refused(run, message):
    with pytest.raises(jc.InputError, match=message) as error:
        run({"image": jnp.zeros((2, 4, 5, 1))})
    assert "\n" not in str(error.value)


def test_views_of_a_run_are_those_of_its_task(rng):
    options = {"num_classes": 2, "widths": [2, 2]}
    description = {
        "model": {"name": "unet", "options": options}, "task": {"name": "segmentation", "options": {}},
        "image": {"shape": [8, 12, 3], "dtype": "float32"}, "views": {"flip": [-1]},
    }  # fmt: skip
    jc.runs.check_build(description, "here")
    model, task = jc.runs.build(description)
    image = rng.uniform(size=(2, 8, 12, 3)).astype(np.float32)
    variables = model.init(jax.random.key(0), image)
    one, other = (jax.nn.softmax(model.apply(variables, x)) for x in (image, image[:, :, ::-1]))
    shares = (one + other[:, :, ::-1]) / 2
    np.testing.assert_allclose(np.exp(task.predict(variables, {"image": image})), shares, atol=1e-5)
    for wrong, line in (({"shift": 1}, "shift: no such option"), ({"flip": 1}, "flip: .*list")):
        with pytest.raises(jc.InputError, match=line):
            jc.runs.check_build(description | {"views": wrong}, "here")
    boxes = {"model": {"name": "fcos", "options": {}}, "task": {"name": "detection", "options": {}}}
    with pytest.raises(jc.InputError, match="boxes of several views cannot be averaged"):
        jc.runs.check_build(description | boxes | {"views": {}}, "here")
