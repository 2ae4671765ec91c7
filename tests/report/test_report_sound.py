"""Sounds in pages: a picture that shows a tone where it is, and a WAV file that can be played."""

import base64
import io
import wave

import numpy as np
import pytest

from jaxcnn import InputError, report

TONE = (0.5 * np.sin(2 * np.pi * 1000 * np.arange(8000) / 8000)).astype(np.float32)


def test_a_tone_is_a_bright_line():
    picture = report.spectrogram_picture(TONE, 8000, height=65, width=100)
    assert picture.dtype == np.uint8 and picture.shape[0] == 65 and 50 < picture.shape[1] <= 100
    light = picture.astype(int).sum(2)[:, 10:-10]
    assert (light.argmax(0) == 48).all()  # 1,000 of 4,000 Hz from below
    assert light[48].min() > 2 * light[10].max()
    assert report.spectrogram_picture(TONE[:1], 8000).shape[0] == 96
    assert (report.spectrogram_picture(0 * TONE, 8000) == report.spectrogram_picture(0 * TONE, 8000)[0, 0]).all()


def test_a_sound_to_play():
    head, text = report.audio_uri(TONE, 8000, seconds=0.25).split(",")
    assert head == "data:audio/wav;base64"
    with wave.open(io.BytesIO(base64.b64decode(text))) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (8000, 1, 2)
        found = np.frombuffer(file.readframes(9999), "<i2") / 32767
    np.testing.assert_allclose(found, TONE[:2000], atol=1e-4)


@pytest.mark.parametrize(
    "call, line",
    [
        (lambda: report.audio_uri(TONE, 8000, seconds=31), "seconds=31: must be above 0, and at most 30"),
        (lambda: report.audio_uri(TONE[:0], 8000), r"shape \(0,\)"),
        (lambda: report.audio_uri(TONE * np.nan, 8000), "not finite"),
        (lambda: report.audio_uri(TONE, 8000.0), "rate=8000.0"),
        (lambda: report.spectrogram_picture(TONE[None], 8000), r"shape \(1, 8000\)"),
        (lambda: report.spectrogram_picture((TONE * 9).astype(int), 8000), "dtype int64"),
        (lambda: report.spectrogram_picture(TONE, 8000, height=1), "height=1"),
    ],
)
def test_refused(call, line):
    with pytest.raises(InputError, match=line):
        call()
