"""Spectrograms against SciPy, mel filters against librosa, and every derivative."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.signal

from jaxcnn import InputError, ops

MEL = json.loads((pathlib.Path(__file__).parents[1] / "fixtures" / "mel.json").read_text())["cases"]


def sound(samples):
    """The same as in `fixtures/make_mel.py`."""
    place = np.arange(samples)
    return (0.5 * np.sin(place**2 / 900) + 0.25 * np.cos(place / 3)).astype(np.float32)


def expected(audio, n_fft, hop, centred):
    """The frames of SciPy: it begins at sample 0, whatever is asked, and scales by the sum of the window."""
    x = np.pad(audio, n_fft // 2) if centred else audio
    window = scipy.signal.get_window("hann", n_fft)
    _, _, found = scipy.signal.stft(x, window=window, nperseg=n_fft, noverlap=n_fft - hop, boundary=None, padded=False)
    return found.T * window.sum()


@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize("samples, n_fft, hop", [(1000, 256, 80), (999, 100, 100), (731, 75, 7), (640, 64, 32)])
def test_stft_is_that_of_scipy(samples, n_fft, hop, centred):
    audio = np.stack([sound(samples), sound(samples)[::-1]])
    found = np.asarray(jax.jit(lambda x: ops.stft(x, n_fft=n_fft, hop=hop, centred=centred))(audio))
    for row, x in zip(found, audio, strict=True):
        wanted = expected(x, n_fft, hop, centred)
        assert row.shape[0] == ops.frame_count(samples, n_fft=n_fft, hop=hop, centred=centred)
        assert wanted.shape[0] >= row.shape[0] - 1
        n = min(len(row), len(wanted))
        np.testing.assert_allclose(row[:n], wanted[:n], atol=1e-4 * np.abs(wanted).max())


def test_steps_longer_than_a_frame():
    audio = sound(1000)[None]
    every = np.asarray(ops.stft(audio, n_fft=64, hop=10))
    np.testing.assert_allclose(ops.stft(audio, n_fft=64, hop=150), every[:, ::15], atol=1e-5)
    ahead = np.asarray(ops.stft(audio, n_fft=64, hop=10, centred=False))
    np.testing.assert_allclose(ops.stft(audio, n_fft=64, hop=150, centred=False), ahead[:, ::15], atol=1e-5)


def test_power_and_magnitude():
    audio = sound(500)[None]
    whole = np.abs(np.asarray(ops.stft(audio)))
    np.testing.assert_allclose(ops.spectrogram(audio), whole**2, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(ops.spectrogram(audio, power=1), whole, rtol=1e-4, atol=1e-4)
    silence = jnp.zeros((1, 300))
    slope = jax.grad(lambda x: ops.spectrogram(x, power=1).sum())(silence)
    np.testing.assert_array_equal(slope, 0)


def test_frame_count():
    lengths = jnp.array([0, 1, 79, 80, 256, 1000])
    assert ops.frame_count(lengths, n_fft=256, hop=80).tolist() == [1, 1, 1, 2, 4, 13]
    assert ops.frame_count(lengths, n_fft=256, hop=80, centred=False).tolist() == [0, 0, 0, 0, 1, 10]
    assert [ops.frame_count(n, n_fft=256, hop=80, centred=False) for n in (255, 256, 336)] == [0, 1, 2]


@pytest.mark.parametrize("form", ["htk", "slaney"])
@pytest.mark.parametrize("name", MEL)
def test_mel_is_that_of_librosa(name, form):
    rate, n_fft, n_mels, low, high = MEL[name]["options"]
    wanted = np.zeros((n_fft // 2 + 1, n_mels))
    for band, (first, values) in enumerate(MEL[name][form]["filters"]):
        wanted[first : first + len(values), band] = values
    found = ops.mel_filters(rate, n_fft, n_mels, low, high, form)
    np.testing.assert_allclose(found, wanted, atol=1e-4 * wanted.max())
    options = {"rate": rate, "n_fft": n_fft, "hop": 100, "n_mels": n_mels, "low": low, "high": high, "form": form}
    logs = jax.jit(lambda x: ops.log_mel(x, **options))(sound(1000)[None])
    np.testing.assert_allclose(logs[0][jnp.array([0, 5, 10])], MEL[name][form]["spectrogram"], atol=1e-4, rtol=1e-4)


def test_derivatives_of_any_order_in_both_modes():
    with jax.enable_x64(True):
        x, v = jnp.asarray(sound(90)[None], jnp.float64), jnp.asarray(sound(95)[None, 5:], jnp.float64)
        f = jax.jit(lambda x: jnp.exp(ops.log_mel(x, rate=800, n_fft=32, hop=12, n_mels=5)))  # a square, so exact
        slope = jax.jit(lambda x: jax.jvp(f, (x,), (v,))[1])
        np.testing.assert_allclose(slope(x), (f(x + v) - f(x - v)) / 2, rtol=1e-9)
        weight = jnp.cos(jnp.arange(40.0, dtype=jnp.float64)).reshape(1, 8, 5)
        back = jax.jit(jax.grad(lambda x: (f(x) * weight).sum()))
        np.testing.assert_allclose((back(x) * v).sum(), (slope(x) * weight).sum(), rtol=1e-9)
        twice = jax.jit(lambda x: jax.jvp(back, (x,), (v,))[1])
        np.testing.assert_allclose(twice(x), (back(x + v) - back(x - v)) / 2, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(jax.vmap(f)(x[None])[0], f(x), rtol=1e-9)


@pytest.mark.parametrize(
    "call, line",
    [
        (lambda: ops.log_mel(jnp.zeros((1, 100), jnp.int16), rate=8000), "dtype int16: must be floats in -1..1"),
        (lambda: ops.log_mel(jnp.zeros(100), rate=8000), r"shape \(100,\): must be \[batch, samples\]"),
        (lambda: ops.stft(jnp.zeros((1, 0))), "at least one sample"),
        (lambda: ops.stft(jnp.zeros((1, 100)), centred=False), "100 samples: shorter than a frame, n_fft=256"),
        (lambda: ops.stft(jnp.zeros((1, 100)), n_fft=1), "n_fft=1: must be at least 2"),
        (lambda: ops.stft(jnp.zeros((1, 100)), hop=0), "hop=0"),
        (lambda: ops.spectrogram(jnp.zeros((1, 100)), power=3), "power=3: must be 2, or 1"),
        (lambda: ops.mel_filters(8000, 256, 40, 0, 4001), "high=4001: must be from 0 to 4000 Hz"),
        (lambda: ops.mel_filters(8000, 256, 40, 4000), "low=4000, high=4000.0"),
        (lambda: ops.mel_filters(8000, 256, 0), "n_mels=0: must be at least 1"),
        (lambda: ops.mel_filters(8000, 256, 128), "n_mels=128: band 0 lies between two frequencies of n_fft=256"),
        (lambda: ops.mel_filters(8000, 256, 8, form="bark"), "form='bark': must be 'htk' or 'slaney'"),
    ],
)
def test_refused(call, line):
    with pytest.raises(InputError, match=line):
        call()
