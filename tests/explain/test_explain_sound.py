"""Explanations over time and frequency: they find the tone that decides, and padding stays blank."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn import InputError, explain, models


@pytest.fixture(scope="module")
def network():
    model = models.sound_cnn(3, rate=800, n_fft=32, hop=10, n_mels=8, widths=(4, 6))
    audio = np.random.default_rng(0).uniform(-1, 1, (2, 200)).astype(np.float32)
    length = np.array([200, 90], np.int32)
    variables = jax.jit(lambda: model.init(jax.random.key(1), audio, length=length))()
    return model, variables, audio, length


def test_maps_over_time_and_bands(network):
    model, variables, audio, length = network

    @jax.jit
    def explained(variables, audio):
        seen, image = explain.on_spectrogram(model, variables, audio, length)
        given = (seen, variables, image)
        plain = model.apply(variables, audio, length=length)
        cam = explain.grad_cam(*given, layer="stage1")
        return image, seen.apply(variables, image), plain, explain.input_gradient(*given), cam

    image, logits, plain, gradient, cam = (np.asarray(x) for x in explained(variables, audio))
    np.testing.assert_allclose(logits, plain, atol=1e-5)
    assert image.shape == gradient.shape == (2, 21, 8, 1) and cam.shape == (2, 21, 8)
    assert not image[1, 10:].any() and not gradient[1, 10:].any() and not cam[1, 10:].any()
    assert (cam >= 0).all() and cam.any() and gradient[1, :10].any()


@pytest.mark.slow
def test_relevance_adds_up(network):
    model, variables, audio, length = network

    @jax.jit
    def explained(variables, audio):
        given = explain.on_spectrogram(model, variables, audio, length)
        return explain.integrated_gradients(given[0], variables, given[1], steps=64, chunk=2)

    found = explained(variables, audio)
    gap = 0.05 * np.abs(found.difference).max()
    np.testing.assert_allclose(found.relevance.sum((1, 2, 3)), found.difference, atol=gap)


class _Steps:
    """A network that reads the steps 10 to 14 alone."""

    num_classes = 2

    def apply(self, variables, x, train=False, length=None):
        total = x[:, 10:15].sum((1, 2)) if x.ndim == 3 else x[:, 10:15].sum(1)
        return jnp.stack([total, -total], -1)


def test_a_map_over_time_does_not_depend_on_padding():
    x = np.ones((1, 100), np.float32)
    longer = np.concatenate([x, np.zeros((1, 1900), np.float32)], 1)
    alone = explain.over_time(_Steps(), {}, x, target=0)
    padded = explain.over_time(_Steps(), {}, longer, np.array([100]), target=0)
    np.testing.assert_allclose(padded[:, :100], alone, atol=1e-6)
    assert alone[0, 10:15].sum() > 0.5 * alone.sum()


def test_networks_without_a_spectrogram():
    with pytest.raises(InputError, match="WaveCNN has no spectrogram"):
        explain.on_spectrogram(models.wave_cnn(), {}, jnp.zeros((1, 100)))


@pytest.mark.parametrize("options, line", [
    ({"target": [0, 1]}, "must be one integer, or one for each of 3 rows"), ({"target": 1.7}, "must be one integer"),
    ({"length": [4.0, 4.0, 4.0]}, "length of dtype float64: must be integers"),
])  # fmt: skip
def test_classes_and_lengths_are_integers(options, line):
    with pytest.raises(InputError, match=line):
        explain.over_time(None, {}, np.zeros((3, 8)), **options)
