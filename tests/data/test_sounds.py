"""Sounds from files: formats, rates and channels, damage, parts and splits, and rows for prediction."""

import logging
import struct

import numpy as np
import pytest

import jaxcnn as jc
from jaxcnn import InputError, runs
from jaxcnn.data import read_sound, sounds, windows
from jaxcnn.data.sound_file import soundfile
from jaxcnn.runs.source import read_described

sf = pytest.importorskip("soundfile")
TONE = (0.5 * np.sin(2 * np.pi * 440 * np.arange(800) / 8000)).astype(np.float32)


def write(path, audio=TONE, rate=8000, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    sf.write(path, audio, rate, **options)
    return path


def small(top, speakers=("ann", "bob", "cy"), each=3, classes="01"):
    """Sounds of different lengths, `<class>/<class>_<speaker>_<n>.wav`."""
    for k, name in enumerate(classes):
        for s, speaker in enumerate(speakers):
            for n in range(each):
                tone = TONE[: 400 + 10 * n + 100 * s] * (0.5 + 0.1 * n + 0.1 * k)
                write(top / name / f"{name}_{speaker}_{n}.wav", tone)
    return top


@pytest.mark.parametrize(
    "ending, subtype, error",
    [
        ("wav", "PCM_U8", 1 / 100), ("wav", "PCM_16", 1e-4), ("wav", "PCM_24", 1e-6), ("wav", "PCM_32", 1e-6),
        ("wav", "FLOAT", 1e-7), ("wav", "DOUBLE", 1e-7), ("wav", "ULAW", 0.02), ("flac", "PCM_S8", 1 / 100),
        ("flac", "PCM_16", 1e-4), ("flac", "PCM_24", 1e-6),
    ],
)  # fmt: skip
def test_every_kind_of_number(tmp_path, ending, subtype, error):
    path = write(tmp_path / f"a.{ending}", subtype=subtype)
    found = read_sound(path, 8000)
    assert found.dtype == np.float32 and found.shape == TONE.shape
    np.testing.assert_allclose(found, TONE, atol=error)


def test_other_kinds_of_headers(tmp_path):
    for form in ("WAVEX", "RF64"):
        np.testing.assert_allclose(read_sound(write(tmp_path / "a.wav", format=form), 8000), TONE, atol=1e-4)


@pytest.mark.parametrize("rate", [4000, 11025, 16000, 44100, 48000, 96000])
def test_other_rates(tmp_path, rate):
    place = np.arange(rate) / rate
    path = write(tmp_path / "a.wav", 0.5 * np.sin(2 * np.pi * 440 * place), rate, subtype="FLOAT")
    found = read_sound(path, 8000)
    assert len(found) == 8000
    np.testing.assert_allclose(found[200:-200], np.resize(TONE, 8000)[200:-200], atol=2e-3)
    assert len(read_sound(path, 8000, seconds=0.25)) == 2000
    np.testing.assert_allclose(read_sound(path, 8000, seconds=0.25), found[:2000], atol=1e-5)


def test_channels_are_averaged(tmp_path):
    both = np.stack([TONE, 0.2 * TONE], 1)
    np.testing.assert_allclose(read_sound(write(tmp_path / "a.wav", both), 8000), 0.6 * TONE, atol=1e-4)


def test_very_short_and_long_files(tmp_path):
    assert len(read_sound(write(tmp_path / "a.wav", TONE[:80]), 8000)) == 80
    assert len(read_sound(write(tmp_path / "b.wav", TONE[:1]), 8000)) == 1
    assert len(read_sound(write(tmp_path / "c.wav", TONE[:1]), 1000)) == 1
    assert len(read_sound(write(tmp_path / "d.flac", np.resize(TONE, 600 * 8000)), 8000)) == 600 * 8000


def test_overshoots_are_clipped(tmp_path):
    found = read_sound(write(tmp_path / "a.wav", 3 * TONE, subtype="FLOAT"), 8000)
    np.testing.assert_allclose(found, (3 * TONE).clip(-1, 1), atol=1e-6)


def damaged(path, change):
    data = bytearray(path.read_bytes())
    path.write_bytes(bytes(change(data) or data))
    return path


def put(data, at, given):
    data[at : at + len(given)] = given


def huge_flac(data):
    """State 2**36 - 1 samples in the header."""
    data[21:26] = bytes([data[21] | 0x0F, 255, 255, 255, 255])


BAD = {
    "empty": (lambda p: (p.touch(), p)[1], "the file is empty"),
    "text": (lambda p: (p.write_text("not a sound at all"), p)[1], "its beginning is neither that of WAV nor of FLAC"),
    "missing": (lambda p: p, "No such file"),
    "folder": (lambda p: (p.mkdir(), p)[1], "not a regular file"),
    "no samples": (lambda p: write(p, TONE[:0]), "has no samples"),
    "cut off": (lambda p: damaged(write(p), lambda d: d[:900]), "900 bytes, but its header states 1,644; it is cut"),
    "cut off, of 64 bits": (lambda p: damaged(write(p, format="RF64"), lambda d: d[:900]), "bytes of samples are"),
    "more samples stated": (
        lambda p: damaged(write(p), lambda d: put(d, 40, struct.pack("<I", 16_000))), "14,400 bytes of samples",
    ),
    "cut in the header": (lambda p: damaged(write(p), lambda d: d[:30]), "has 30 bytes, but its header states"),
    "not a number": (lambda p: write(p, np.append(TONE, np.nan), subtype="FLOAT"), "1 of 801 samples are not finite"),
    "infinite": (lambda p: write(p, TONE + np.float32(np.inf), subtype="FLOAT"), "samples are not finite"),
    "another scale": (lambda p: write(p, TONE * 32768, subtype="FLOAT"), "floats up to 16384, but sound is in -1..1"),
    "no rate": (lambda p: damaged(write(p), lambda d: put(d, 24, struct.pack("<I", 5))), "5 samples per second"),
    "no channels": (lambda p: damaged(write(p), lambda d: put(d, 22, b"\0\0")), "not a readable sound"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_one_line(tmp_path, name):
    make, line = BAD[name]
    path = tmp_path / "a.wav"
    make(path)
    with np.errstate(all="ignore"), pytest.raises(InputError, match=line) as caught:
        read_sound(path, 8000)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


@pytest.mark.parametrize("change, line", [
    (lambda d: d[:1500], "not a readable sound|cut off"),
    (huge_flac, "68,719,476,735 samples of 1 channels; at most"),
])  # fmt: skip
def test_damaged_flac(tmp_path, change, line):
    path = damaged(write(tmp_path / "a.flac", np.random.default_rng(0).uniform(-1, 1, 5000)), change)
    with pytest.raises(InputError, match=line):
        read_sound(path, 8000)


def test_a_stated_length_is_not_believed(tmp_path):
    small(tmp_path)
    write(tmp_path / "0" / "long.flac")
    damaged(tmp_path / "0" / "long.flac", huge_flac)
    with pytest.raises(InputError, match="long.flac: 8,589,935 seconds; give seconds="):
        sounds(tmp_path)
    with pytest.raises(InputError, match="long.flac: (ends after 800 of 68,719,476,735 samples|not a readable sound)"):
        sounds(tmp_path, seconds=1.0)


def test_without_the_package(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "soundfile", None)
    with pytest.raises(InputError, match="sounds need soundfile: pip install"):
        soundfile()


def test_a_folder_of_classes(tmp_path):
    splits = sounds(small(tmp_path), validation_fraction=0.25, test_fraction=0.2)
    assert [part.size for part in splits] == [10, 4, 4] and splits.train.classes == ("0", "1")
    row = splits.train.example()
    assert row["audio"].shape == (1, 620) and row["audio"].dtype == np.float32 and row["length"].dtype == np.int32
    for part in splits:
        for name, audio, length, label in zip(
            part.names, part.arrays["audio"], part.arrays["length"], part.arrays["label"], strict=True
        ):
            kept = read_sound(tmp_path / name, 8000)
            assert len(kept) == length and int(name[0]) == label
            np.testing.assert_array_equal(audio[:length], kept)
            assert not audio[length:].any()
    again = sounds(tmp_path, validation_fraction=0.25, test_fraction=0.2)
    assert [part.names for part in again] == [part.names for part in splits]
    assert sounds(tmp_path, seed=1).test.names != splits.test.names


def test_parts_by_speaker(tmp_path):
    small(tmp_path)
    splits = sounds(tmp_path, group=r"_(\w+)_", validation_fraction=0.5, test_fraction=0.33)
    people = [{name.split("_")[1] for name in part.names} for part in splits]
    assert all(people) and sum(map(len, people)) == 3 and set.union(*people) == {"ann", "bob", "cy"}
    below = tmp_path / "below"
    for name in "01":
        for who in "abc":
            write(below / name / who / "x.wav", TONE[: 100 + ord(who) + int(name)])
    splits = sounds(below, group=r"^[^/]+/([^/]+)/", validation_fraction=0.5, test_fraction=0.33)
    assert [len({name.split("/")[1] for name in part.names}) for part in splits] == [1, 1, 1]
    with pytest.raises(InputError, match="has no match"):
        sounds(tmp_path, group="nobody", classes=("0", "1"))


def test_folders_of_parts(tmp_path):
    for part in ("train", "valid", "test"):
        small(tmp_path / part, each=1 + (part == "train"))
    splits = sounds(tmp_path, seconds=0.2)
    assert [part.size for part in splits] == [12, 6, 6] and splits.test.arrays["audio"].shape == (6, 1600)
    assert all(name.startswith("test/") for name in splits.test.names)


def test_longer_sounds(tmp_path, caplog):
    small(tmp_path)
    with caplog.at_level(logging.WARNING, "jaxcnn"):
        splits = sounds(tmp_path, seconds=0.06)
    assert splits.train.arrays["audio"].shape[1] == 480 == splits.train.arrays["length"].max()
    assert "12 of 18 sounds have more than 0.06 seconds, and are cropped" in caplog.text
    with pytest.raises(InputError, match="0.06 seconds, more than seconds=0.06"):
        sounds(tmp_path, seconds=0.06, longer="refuse")
    bad = []
    splits = sounds(
        tmp_path, seconds=0.06, longer="refuse", validation_fraction=0.3, on_bad=lambda line, n: bad.append(line)
    )
    assert len(bad) == 12 and sum(part.size for part in splits) == 6


def test_sounds_that_are_needed_are_read(tmp_path):
    small(tmp_path)
    held, needed = sounds(tmp_path), sounds(tmp_path, resident_bytes=0, on_bad=lambda *_: None)
    assert needed.train.names == held.train.names
    (tmp_path / needed.train.names[0]).write_bytes(b"RIFF")
    rows = needed.train.read(np.arange(3))
    assert rows["row_mask"].tolist() == [0, 1, 1] and rows["length"][0] == 1 and not rows["audio"][0].any()
    for name in ("audio", "length", "label"):
        np.testing.assert_array_equal(rows[name][1:], held.train.arrays[name][1:3])


def test_bad_sounds_are_left_out_or_stop(tmp_path, caplog):
    small(tmp_path)
    (tmp_path / "0" / "bad.wav").write_bytes(b"RIFF\0\0\0\0")
    write(tmp_path / "1" / "nan.wav", TONE * np.nan, subtype="FLOAT")
    write(tmp_path / "1" / "silent.wav", TONE * 0)
    write(tmp_path / "1" / "clipped.wav", (TONE * 10).clip(-1, 1))
    (tmp_path / "1" / "notes.txt").write_text("x")
    with pytest.raises(InputError, match="bad.wav: .* leave out unreadable sounds with on_bad="):
        sounds(tmp_path)
    bad = []
    with caplog.at_level(logging.WARNING, "jaxcnn"):
        splits = sounds(tmp_path, on_bad=lambda line, n: bad.append(line))
    assert len(bad) == 2 and sum(part.size for part in splits) == 20
    assert "of 21 sounds, 1 clipped and 1 silent" in caplog.text and "left out: 1 .txt" in caplog.text


def test_rates_that_differ(tmp_path):
    small(tmp_path)
    write(tmp_path / "1" / "z.wav", TONE, 16000)
    with pytest.raises(InputError, match="z.wav: 16,000 samples per second, but 0_ann_0.wav has 8,000; give rate="):
        sounds(tmp_path)
    splits = sounds(tmp_path, rate=4000)
    assert splits.train.arrays["audio"].shape[1] == 310 and sum(part.size for part in splits) == 19


@pytest.mark.parametrize(
    "options, line",
    [
        ({"rate": 8000.0}, "rate=8000.0: must be an integer"), ({"rate": 10}, "rate=10"),
        ({"seconds": 0}, "seconds=0: must be above 0"), ({"seconds": float("nan")}, "seconds=nan"),
        ({"seconds": 1e9}, "seconds=1000000000.0"), ({"longer": "tile"}, "longer='tile': must be 'crop' or 'refuse'"),
        ({"classes": ("0", "7")}, "no class folder '7'"), ({"validation_fraction": 1.0}, "validation_fraction=1.0"),
        ({"group": "("}, "not a regular expression"),
    ],
)  # fmt: skip
def test_options_refused(tmp_path, options, line):
    with pytest.raises(InputError, match=line):
        sounds(small(tmp_path), **options)


def test_folders_without_sounds(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        sounds(tmp_path / "nowhere")
    with pytest.raises(InputError, match="needs <class>/<sound> inside"):
        sounds(tmp_path)
    (tmp_path / "a").mkdir()
    write(tmp_path / "b" / "x.wav")
    with pytest.raises(InputError, match=r"no sounds \(.flac .wav\)"):
        sounds(tmp_path)


def test_a_run_describes_and_reads_it_again(tmp_path):
    small(tmp_path)
    assert runs.find(str(tmp_path)) == ("sounds", {"path": str(tmp_path)})
    options = {"path": str(tmp_path), "seconds": 0.05, "rate": 8000, "group": r"_(\w+)_", "classes": ["0", "1"]}
    described = runs.source("sounds", options)
    again, first = read_described(described), sounds(**options)
    assert [part.names for part in again] == [part.names for part in first]
    with pytest.raises(InputError, match="source"):
        read_described({**described, "options": options | {"longer": "tile"}})


def test_windows():
    rows, length = windows(np.arange(1, 11), 4, 3)
    assert rows.tolist() == [[1, 2, 3, 4], [4, 5, 6, 7], [7, 8, 9, 10]] and length.tolist() == [4, 4, 4]
    rows, length = windows(np.arange(1, 12), 4, 3)
    assert rows[-1].tolist() == [10, 11, 0, 0] and length.tolist() == [4, 4, 4, 2]
    rows, length = windows(np.arange(1, 4), 6)
    assert rows.tolist() == [[1, 2, 3, 0, 0, 0]] and length.tolist() == [3]
    for given, line in (
        ((np.zeros(0), 4), "at least one"),
        ((TONE, 0), "size=0"),
        ((TONE, 4, 5), "hop=5"),
        ((TONE[None], 4), "shape"),
    ):
        with pytest.raises(InputError, match=line):
            windows(*given)


def test_spoken_digits(shared, tmp_path):
    import zipfile

    with zipfile.ZipFile(shared / "fsdd" / "fsdd_recordings.zip") as archive:
        for name in archive.namelist():
            file = name.rsplit("/")[-1]
            if file.endswith("_0.wav") or file.endswith("_5.wav"):
                place = tmp_path / ("test" if "_0." in file else "train") / file[0] / file
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(archive.read(name))
    splits = jc.data.sounds(tmp_path, validation_fraction=0.17)
    assert splits.train.size + splits.valid.size == 60 == splits.test.size and len(splits.train.classes) == 10
    assert np.abs(splits.test.arrays["audio"]).max() <= 1
