"""Spectrograms of sound: products of windowed frames with the matrix of the Fourier transform, and mel filters.

Slices and products have derivatives of any order in both modes, and are fast on every platform.
"""

import functools
import math
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxcnn.core.precision import promote_float32
from jaxcnn.core.types import InputError, check_numbers, check_whole

Array = jax.Array
Form = Literal["htk", "slaney"]
FLOOR = 1e-6  # power added before the logarithm; about 96 dB below a full-scale tone in 256 samples
LINEAR, STEP = 200 / 3, math.log(6.4) / 27  # Hz per mel below 1,000 Hz, and growth per mel above, of Slaney (1998)


def frame_count(length: Any, *, n_fft: int, hop: int, centred: bool = True) -> Any:
    """Return how many frames a sound has.

    Args:
        length: samples, an integer or integers `[B]`.
        n_fft: samples of a frame.
        hop: samples from one frame to the next.
        centred: as in `stft`.

    Returns:
        `1 + length // hop` frames if centred, and otherwise those that lie wholly inside the sound, perhaps none.

    """
    check_frames(n_fft, hop)
    if centred:
        return 1 + length // hop
    count = 1 + (length - n_fft) // hop
    return max(count, 0) if isinstance(count, int) else count.clip(0)


def check_frames(n_fft: int, hop: int) -> None:
    """Refuse frames of fewer than two samples, and steps of none."""
    check_whole("n_fft", n_fft, 2)
    check_whole("hop", hop, 1)


def check_audio(audio: Array) -> None:
    """Refuse anything but floating-point samples `[B, T]`."""
    if audio.ndim != 2 or not audio.shape[1]:
        raise InputError(f"audio of shape {tuple(audio.shape)}: must be [batch, samples], at least one sample")
    if not jnp.issubdtype(audio.dtype, jnp.floating):
        raise InputError(
            f"audio of dtype {audio.dtype}: must be floats in -1..1; divide integers by their bound, as in x / 32768"
        )


def stft(audio: Array, *, n_fft: int = 256, hop: int = 80, centred: bool = True) -> Array:
    """Short-time Fourier transform with a periodic Hann window.

    Args:
        audio: `[B, T]`, floats.
        n_fft: samples of a frame; any number, not only powers of 2.
        hop: samples from one frame to the next.
        centred: put the middle of frame `i` at sample `i * hop`, with zeros around the sound, as librosa does;
            otherwise frame `i` begins there, and only whole frames count.

    Returns:
        Complex `[B, frames, n_fft // 2 + 1]`, not scaled.

    Raises:
        InputError: a value out of range, or a sound that is shorter than a frame and not centred.

    """
    return lax.complex(*_parts(audio, n_fft, hop, centred))


def spectrogram(
    audio: Array, *, n_fft: int = 256, hop: int = 80, power: Literal[1, 2] = 2, centred: bool = True
) -> Array:
    """Power or magnitude of the short-time Fourier transform, `[B, frames, n_fft // 2 + 1]`.

    Args:
        audio: `[B, T]`, floats.
        n_fft: as in `stft`.
        hop: as in `stft`.
        power: 2 for power, 1 for magnitude, whose gradient is 0 where the magnitude is.
        centred: as in `stft`.

    Raises:
        InputError: as in `stft`, or another power.

    """
    if power not in (1, 2):
        raise InputError(f"power={power}: must be 2, or 1 for the magnitude")
    real, imaginary = _parts(audio, n_fft, hop, centred)
    squared = jnp.square(real) + jnp.square(imaginary)
    if power == 2:
        return squared
    return jnp.where(squared == 0, 0, jnp.sqrt(jnp.where(squared == 0, 1, squared)))


def log_mel(
    audio: Array,
    *,
    rate: int,
    n_fft: int = 256,
    hop: int = 80,
    n_mels: int = 40,
    low: float = 0.0,
    high: float | None = None,
    form: Form = "htk",
    centred: bool = True,
) -> Array:
    """Logarithm of the power in mel bands, `[B, T]` to `[B, frames, n_mels]`.

    Args:
        audio: floats in -1..1.
        rate: samples per second.
        n_fft: as in `stft`.
        hop: as in `stft`.
        n_mels: number of bands.
        low: lowest frequency of the bands in Hz.
        high: highest frequency of the bands in Hz; by default half the rate.
        form: as in `mel_filters`.
        centred: as in `stft`.

    Returns:
        The natural logarithm of power + 1e-6.

    Raises:
        InputError: as in `stft` and `mel_filters`.

    """
    filters = mel_filters(rate, n_fft, n_mels, low, high, form)
    power = spectrogram(audio, n_fft=n_fft, hop=hop, centred=centred)
    return jnp.log(jnp.matmul(power, jnp.asarray(filters, power.dtype), precision=lax.Precision.HIGHEST) + FLOOR)


def mel_filters(
    rate: int, n_fft: int, n_mels: int, low: float = 0.0, high: float | None = None, form: Form = "htk"
) -> np.ndarray:
    """Return triangular filters whose centres are equally far apart on the mel scale.

    Args:
        rate: samples per second.
        n_fft: samples of a frame.
        n_mels: number of filters.
        low: where the first filter begins, in Hz.
        high: where the last filter ends, in Hz; by default half the rate.
        form: `"htk"`: the scale `2595 log10(1 + f / 700)`, and filters that peak at 1, torchaudio's default;
            `"slaney"`: a scale that is linear below 1,000 Hz, and filters of equal area, librosa's default.

    Returns:
        float32 `[n_fft // 2 + 1, n_mels]`.

    Raises:
        InputError: a value out of range, or a filter so narrow that no frequency of the transform is in it.

    """
    check_numbers(low=low)
    if high is not None:
        check_numbers(high=high)
    check_whole("rate", rate)
    high = rate / 2 if high is None else high
    if not 0 <= low < high <= rate / 2:
        raise InputError(f"low={low}, high={high}: must be from 0 to {rate / 2:g} Hz, half the rate, low below high")
    check_whole("n_mels", n_mels, 1)
    if form not in ("htk", "slaney"):
        raise InputError(f"form={form!r}: must be 'htk' or 'slaney'")
    check_frames(n_fft, 1)
    to_mel, to_hertz = (_htk, _htk_hertz) if form == "htk" else (_slaney, _slaney_hertz)
    first, last = to_mel(np.array([low, high], np.float64))
    edges = to_hertz(np.linspace(first, last, n_mels + 2))
    frequencies = np.arange(n_fft // 2 + 1)[:, None] * (rate / n_fft)
    rising = (frequencies - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - frequencies) / (edges[2:] - edges[1:-1])
    filters = np.maximum(np.minimum(rising, falling), 0)
    if form == "slaney":
        filters = filters * (2 / (edges[2:] - edges[:-2]))
    empty = np.flatnonzero(filters.max(0) == 0)
    if len(empty):
        raise InputError(
            f"n_mels={n_mels}: band {empty[0]} lies between two frequencies of n_fft={n_fft} at {rate} Hz; give fewer "
            "bands or longer frames"
        )
    return filters.astype(np.float32)


def _htk(hertz: np.ndarray) -> np.ndarray:
    return 2595 * np.log10(1 + hertz / 700)


def _htk_hertz(mel: np.ndarray) -> np.ndarray:
    return 700 * (10 ** (mel / 2595) - 1)


def _slaney(hertz: np.ndarray) -> np.ndarray:
    return np.where(hertz < 1000, hertz / LINEAR, 1000 / LINEAR + np.log(np.maximum(hertz, 1000) / 1000) / STEP)


def _slaney_hertz(mel: np.ndarray) -> np.ndarray:
    top = 1000 / LINEAR
    return np.where(mel < top, mel * LINEAR, 1000 * np.exp(STEP * (np.maximum(mel, top) - top)))


def _parts(audio: Array, n_fft: int, hop: int, centred: bool) -> tuple[Array, Array]:
    """Return the real and the imaginary part of the transform."""
    framed = frames(promote_float32(audio), n_fft, hop, centred)
    bins = n_fft // 2 + 1
    basis = jnp.asarray(_basis(n_fft), framed.dtype)
    both = jnp.matmul(framed, basis, precision=lax.Precision.HIGHEST)
    return both[..., :bins], both[..., bins:]


def frames(audio: Array, n_fft: int, hop: int, centred: bool = True) -> Array:
    """Cut sounds `[B, T]` into overlapping frames `[B, frames, n_fft]`; see `stft`.

    Pieces of `hop` samples lie side by side, shifted by one frame each: slices, whose transpose is much faster than
    that of a gather.
    """
    check_audio(audio)
    count = frame_count(audio.shape[1], n_fft=n_fft, hop=hop, centred=centred)
    if count < 1:
        raise InputError(
            f"audio of {audio.shape[1]} samples: shorter than a frame, n_fft={n_fft}; pad it, or use centred=True"
        )
    pieces = -(-n_fft // hop)
    before, whole = n_fft // 2 if centred else 0, (count - 1 + pieces) * hop
    room = lax.pad(audio, jnp.zeros((), audio.dtype), ((0, 0, 0), (before, whole - before - audio.shape[1], 0)))
    cut = room.reshape(audio.shape[0], -1, hop)
    side = [lax.slice_in_dim(cut, i, i + count, axis=1) for i in range(pieces)]
    return jnp.concatenate(side, -1)[..., :n_fft]


@functools.lru_cache(maxsize=16)
def _basis(n_fft: int) -> np.ndarray:
    """Return cosines and negative sines of each frequency, times the window, `[n_fft, 2 (n_fft // 2 + 1)]`."""
    place, frequency = np.arange(n_fft)[:, None], np.arange(n_fft // 2 + 1)[None]
    angle = 2 * np.pi * ((place * frequency) % n_fft) / n_fft  # reduced first, which keeps digits
    window = 0.5 - 0.5 * np.cos(2 * np.pi * place / n_fft)
    return np.concatenate([window * np.cos(angle), -window * np.sin(angle)], 1)
