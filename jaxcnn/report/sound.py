"""Sounds in reports: a picture of the spectrogram, and the sound itself as a `data:` address for `<audio>`."""

import base64
import io
import wave

import jax
import numpy as np

from jaxcnn.core.types import InputError, check_whole
from jaxcnn.ops.spectrogram import spectrogram

RANGE = 80.0  # decibels from the loudest point of a picture down to black
# colours from quiet to loud, RGB in 0..1, of evenly growing lightness
COLOURS = (
    (0.0, 0.0, 0.02),
    (0.25, 0.05, 0.4),
    (0.65, 0.13, 0.42),
    (0.95, 0.4, 0.2),
    (0.98, 0.75, 0.2),
    (1.0, 1.0, 0.8),
)
MOST = 30.0  # seconds of a sound in a page


def spectrogram_picture(audio: np.ndarray, rate: int, *, height: int = 96, width: int = 320) -> np.ndarray:
    """Draw the power of a sound over time, to the right, and frequency, upwards, in decibels.

    Args:
        audio: `[T]`, floats in -1..1, at least one sample; what pads it is left out by the caller.
        rate: samples per second.
        height: pixels, and the number of frequencies from 0 to half the rate.
        width: most pixels; a short sound has a narrower picture.

    Returns:
        uint8 `[height, at most width, 3]`. The loudest point is the brightest, and what is 80 decibels below is black.

    Raises:
        InputError: no samples, some that are not finite, or a size below 2 pixels.

    """
    audio = _checked(audio, rate)
    if min(height, width) < 2:
        raise InputError(f"height={height}, width={width}: must be at least 2 pixels")
    n_fft = 2 * (height - 1)
    hop = max(-(-len(audio) // (width - 1)), n_fft // 8, 1)
    power = np.asarray(jax.jit(lambda x: spectrogram(x, n_fft=n_fft, hop=hop))(audio[None]))[0]
    top = power.max()
    decibels = 10 * np.log10(np.maximum(power, 1e-30) / max(top, 1e-30)) if top > 0 else np.full_like(power, -RANGE)
    level = np.clip(1 + decibels / RANGE, 0, 1).T[::-1]
    place = np.linspace(0, 1, len(COLOURS))
    colours = np.stack([np.interp(level, place, channel) for channel in np.transpose(COLOURS)], -1)
    return (colours * 255).round().astype(np.uint8)


def audio_uri(audio: np.ndarray, rate: int, *, seconds: float = 10.0) -> str:
    """Return a sound as the address of an `<audio>` element: a 16-bit WAV file, in base64.

    Args:
        audio: `[T]`, floats in -1..1; values beyond are clipped.
        rate: samples per second.
        seconds: the most that is kept, from the beginning, 30 at most, so that the page stays small.

    Raises:
        InputError: no samples, some that are not finite, or a value out of range.

    """
    audio = _checked(audio, rate)
    if not 0 < seconds <= MOST:
        raise InputError(f"seconds={seconds}: must be above 0, and at most {MOST:g}")
    kept = audio[: max(int(seconds * rate), 1)]
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((kept.clip(-1, 1) * 32767).round().astype("<i2").tobytes())
    return "data:audio/wav;base64," + base64.b64encode(buffer.getvalue()).decode()


def _checked(audio: np.ndarray, rate: int) -> np.ndarray:
    audio = np.asarray(audio)
    if audio.ndim != 1 or not audio.size or audio.dtype.kind != "f":
        raise InputError(
            f"audio of shape {audio.shape} and dtype {audio.dtype}: must be floats [samples], at least one"
        )
    if not np.isfinite(audio).all():
        raise InputError("audio: has samples that are not finite; leave it out")
    check_whole("rate", rate, 1)
    return audio.astype(np.float32)
