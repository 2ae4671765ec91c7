"""Common corruptions: determined by seed and row, stronger with severity, and the error relative to a baseline."""

import io

import jax
import numpy as np
import pytest
from PIL import Image

import jaxcnn as jc
from jaxcnn.data import CORRUPTIONS, corrupt, corrupted
from jaxcnn.data.corruption_kinds import _smooth, _streak, _zoomed, defocus_blur, fog
from jaxcnn.metrics import mean_corruption_error


def photo(side, channels=3, seed=0):
    """Smooth shapes with edges, like a photo."""
    y, x = np.mgrid[:side, :side] / side
    planes = [
        0.5 + 0.3 * np.sin(9 * x + k) * np.cos(7 * y) + 0.2 * (np.hypot(x - 0.5, y - 0.4) < 0.3) for k in range(3)
    ]
    return (np.stack(planes[:channels], -1).clip(0, 1) * 255).astype(np.uint8)


@pytest.mark.parametrize("side, channels", [(28, 1), (32, 3), (64, 3), (112, 3)])
def test_every_corruption_takes_images_of_any_size(side, channels):
    image = photo(side, channels)
    for name in CORRUPTIONS:
        found = corrupt(image, name, 3)
        assert found.shape == image.shape and found.dtype == np.uint8, name
        assert not np.array_equal(found, image), name


def test_strength_grows():
    """The mean distance from the image; published strengths of elastic transforms and glass do not all grow."""
    images = {32: [photo(32), photo(28), photo(40)], 112: [photo(112)]}
    for name in CORRUPTIONS:
        for some in images.values():
            far = [
                np.mean([np.square(corrupt(x, name, s, row=i) / 255 - x / 255).mean() for i, x in enumerate(some)])
                for s in (1, 5)
            ]
            assert name in ("elastic_transform", "glass_blur") or far[1] > 1.2 * far[0], (name, far)


def test_a_row_is_a_function_of_seed_and_number():
    image = photo(32)
    for name in ("gaussian_noise", "snow", "elastic_transform", "frost"):
        first = corrupt(image, name, 2, seed=1, row=5)
        np.testing.assert_array_equal(first, corrupt(image, name, 2, seed=1, row=5))
        assert not np.array_equal(first, corrupt(image, name, 2, seed=1, row=6))
        assert not np.array_equal(first, corrupt(image, name, 2, seed=2, row=5))
    np.testing.assert_array_equal(
        corrupt(image, "contrast", 4), corrupt(image.astype(np.float32) / 255, "contrast", 4, row=9)
    )


def test_statistics_of_noise():
    grey = np.full((64, 64, 3), 128, np.uint8)
    assert (corrupt(grey, "gaussian_noise", 2) / 255.0).std() == pytest.approx(0.06, rel=0.05)
    assert (corrupt(grey, "shot_noise", 5) / 255.0).std() == pytest.approx(np.sqrt(0.5 / 50), rel=0.05)
    assert (corrupt(grey, "impulse_noise", 5) != 128).mean() == pytest.approx(0.07, abs=0.01)
    assert set(np.unique(corrupt(grey, "impulse_noise", 5))) == {0, 128, 255}


def test_simple_kinds_by_hand():
    image = photo(32)
    x = image / 255
    mean = x.mean((0, 1))
    found = corrupt(image, "contrast", 3) / 255.0
    np.testing.assert_allclose(found, mean + 0.4 * (x - mean), atol=0.003)
    bright = corrupt(image, "brightness", 2) / 255.0
    np.testing.assert_allclose(bright.max(-1), (x.max(-1) + 0.1).clip(0, 1), atol=0.003)
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=58)
    np.testing.assert_array_equal(corrupt(image, "jpeg_compression", 3), np.asarray(Image.open(file)))
    flat = np.full((32, 32, 3), 77, np.uint8)
    for name in ("defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "elastic_transform", "pixelate"):
        np.testing.assert_array_equal(
            corrupt(flat, name, 5), flat
        )  # what only moves light leaves a flat image as it is


def test_parts():
    kernel = _streak(6, 4, 0.0)  # published are taps at 0 to 12
    assert kernel[12, 12:].sum() == pytest.approx(kernel.sum()) and kernel[12, 12] > kernel[12, 20] > 0
    assert kernel[12, 20] / kernel[12, 14] == pytest.approx(np.exp((2**2 - 8**2) / 32), rel=0.05)
    x = photo(33) / 255
    np.testing.assert_allclose(_zoomed(x, 1.0), x, atol=1e-12)
    np.testing.assert_allclose(_zoomed(x, 2.0)[16, 16], x[16, 16])
    noise = _smooth(np.random.default_rng(0), (30, 50), 2.0)
    assert noise.shape == (30, 50) and noise.min() == 0 and noise.max() == 1
    steps = np.abs(np.diff(noise, axis=1)).mean()
    assert steps < 0.1 and np.abs(np.diff(_smooth(np.random.default_rng(0), (30, 50), 1.1), axis=1)).mean() > steps


def test_fog_of_half_the_size_is_weaker_by_the_decay_squared():
    x, draws = np.full((16, 16, 1), 0.5), np.random.default_rng
    noise = _smooth(draws(1), (16, 16), 9.0)[..., None]
    np.testing.assert_allclose(fog(x, draws(1), 1.0, 0.2, 3), (x + 0.2 * noise) * 0.5 / 0.7)


def test_a_disk_is_that_of_the_published_radius():
    """Pixels whose middle is within the radius count, and next to nothing of others; 0.1 softens nothing."""
    point = np.zeros((21, 21, 1))
    point[10, 10] = 1
    for radius in (1, 1.5, 3):
        spread = defocus_blur(point, None, 1.0, radius, 0.1)[..., 0]
        there = np.hypot(*(np.mgrid[:21, :21] - 10)) <= radius
        assert spread[there].min() > 0.85 / there.sum() and spread[there].sum() > 0.85


def test_a_wrapped_data_set_is_read_like_any_other():
    data = jc.data.Resident(
        {"image": np.stack([photo(32, seed=i) for i in range(7)]), "label": np.arange(7, dtype=np.int32)},
        tuple("abcdefg"),
    )
    found = corrupted(data, "snow", 3, seed=4)
    assert found.size == 7 and found.classes == data.classes and found.label.tolist() == list(range(7))
    read = [np.concatenate([np.asarray(c.at(k)["image"])[np.asarray(c.at(k)["row_mask"]) > 0] for c in found.once(size)
            for k in range(int(c.count))]) for size in (3, 7)]  # fmt: skip
    np.testing.assert_array_equal(*read)
    np.testing.assert_array_equal(read[0][4], corrupt(data.arrays["image"][4], "snow", 3, seed=4, row=4))
    task = jc.tasks.classification(jc.models.mlp(num_classes=7, widths=(4,)))
    variables = task.init(jax.random.key(0), data.example())
    run = jc.compile_step(jc.make_eval_step(task), "jit")
    assert jc.evaluate(run, variables, found, batch_size=3)["count"] == 7


def test_mean_corruption_error():
    ours, theirs = {"a": [0.1, 0.3], "b": [0.2, 0.2]}, {"a": [0.4, 0.4], "b": [0.2, 0.2]}
    assert mean_corruption_error(ours, theirs) == (0.75, {"a": pytest.approx(0.5), "b": pytest.approx(1.0)})
    assert mean_corruption_error(theirs, theirs).mean == 1
    found = mean_corruption_error(ours, theirs, clean=(0.1, 0.1))
    assert found.each == {"a": pytest.approx(0.2 / 0.6), "b": pytest.approx(1.0)}


@pytest.mark.parametrize(
    "wrong, line",
    [
        (lambda: corrupt(photo(8), "rain", 1), "name='rain'"),
        (lambda: corrupt(photo(8), "fog", 6), "severity=6"),
        (lambda: corrupt(photo(8)[..., 0], "fog", 1), r"\(8, 8\)"),
        (lambda: corrupt(photo(8).astype(int), "fog", 1), "int64"),
        (lambda: corrupted({"label": np.zeros(3)}, "fog", 1).example(), "no 'image'"),
        (lambda: corrupt(photo(8).astype(np.float32), "fog", 1), "must be in 0..1"),
        (lambda: mean_corruption_error({"a": [0.1]}, {"b": [0.1]}), "in one of them alone"),
        (lambda: mean_corruption_error({"a": [10.0]}, {"a": [20.0]}), "not in percent"),
        (lambda: mean_corruption_error({"a": [0.1]}, {"a": [0.0]}), "makes no mistakes"),
        (lambda: mean_corruption_error({"a": [0.5, 0.5]}, {"a": [0.2, 0.4]}, clean=(0.3, 0.3)), "makes no mistakes"),
        (lambda: mean_corruption_error({"a": [0.1]}, {"a": [0.1, 0.2]}), "strengths"),
    ],
)
def test_bad_values_are_one_line(wrong, line):
    with pytest.raises(jc.InputError, match=line) as caught:
        wrong()
    assert "\n" not in str(caught.value)


def test_rows_that_do_not_count_do_not_count_when_corrupted():
    data = {"image": np.stack([photo(8)] * 6), "label": np.arange(6) % 2, "row_mask": np.array([1, 1, 1, 0, 0, 0.0])}
    task = jc.tasks.classification(jc.models.mlp(num_classes=2))
    run = jc.compile_step(jc.make_eval_step(task))
    variables = task.init(jax.random.key(0), {k: v[:1] for k, v in data.items()})
    for rows in (data, corrupted(data, "contrast", 1)):
        assert jc.evaluate(run, variables, rows, batch_size=4)["count"] == 3


@pytest.mark.parametrize(
    "options, line",
    [({"severity": 3.0}, "severity=3.0"), ({"seed": None}, "seed=None"), ({"row": -1}, "row=-1")],
)
def test_numbers_of_a_corruption_are_whole(options, line):
    with pytest.raises(jc.InputError, match=line):
        corrupt(photo(8), "fog", **{"severity": 1, **options})


def test_rounding_below_zero_is_zero():
    assert not corrupt(np.full((2, 2, 1), -1e-9), "shot_noise", 1).any()
