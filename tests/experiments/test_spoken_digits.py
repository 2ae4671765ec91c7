"""Spoken digits: the parts of each split, what is refused, and a run as a user starts it."""

import json
import zipfile

import numpy as np
import pytest

import jaxcnn as jc
from experiments import spoken_digits
from tests.experiments.test_experiments import folder, run

sf = pytest.importorskip("soundfile")
SPEAKERS = ("george", "theo")


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    return tones(tmp_path_factory.mktemp("digits"))


def tones(top):
    """Write an archive of tones whose height is the digit."""
    rng = np.random.default_rng(0)
    with zipfile.ZipFile(top / "fsdd.zip", "w") as made:
        made.writestr("recordings/README.md", "of no use")
        for digit in range(3):
            for speaker in SPEAKERS:
                for n in (0, 4, 5, 9, 10, 11):
                    place = np.arange(1500 + 100 * n)
                    tone = 0.3 * np.sin(place * (0.1 + 0.2 * digit)) + 0.01 * rng.standard_normal(len(place))
                    sf.write(top / "a.wav", tone, 8000)
                    made.write(top / "a.wav", f"recordings/{digit}_{speaker}_{n}.wav")
    return top / "fsdd.zip"


def parts(archive, tmp_path, **options):
    config = spoken_digits.Config(data=str(archive), unpacked=str(tmp_path), **options)
    splits = jc.data.sounds(**spoken_digits.source(config))
    return [sorted({name.split("/")[-1][2:-4] for name in part.names}) for part in splits], splits


def test_the_official_split(archive, tmp_path):
    found, splits = parts(archive, tmp_path)
    numbers = [{int(name.split("_")[1]) for name in part} for part in found]
    assert numbers == [{10, 11}, {5, 9}, {0, 4}] and [part.size for part in splits] == [12, 12, 12]
    assert splits.train.arrays["audio"].shape == (12, 8000)


def test_settings_are_chosen_without_the_speaker_of_the_test(archive, tmp_path):
    found, splits = parts(archive, tmp_path, held_out="yweweler", tune=True)
    assert found[2] == sorted(f"george_{n}" for n in (0, 4, 5, 9, 10, 11)) and splits.test.size == 18
    assert found[:2] == [[f"theo_{n}" for n in (10, 11, 5, 9)], ["theo_0", "theo_4"]]
    with pytest.raises(jc.InputError, match="--tune: needs --held-out"):
        parts(archive, tmp_path, tune=True)


def test_a_speaker_is_held_out(archive, tmp_path):
    found, splits = parts(archive, tmp_path, held_out="theo")
    assert found[2] == sorted(f"theo_{n}" for n in (0, 4, 5, 9, 10, 11)) and splits.test.size == 18
    assert not any("theo" in name for name in (*found[0], *found[1]))
    assert found[1] == ["george_0", "george_4"] and splits.train.size == 12
    parts(archive, tmp_path)  # beside it, not into it
    assert parts(archive, tmp_path, held_out="theo")[0] == found


def test_refused(archive, tmp_path):
    with pytest.raises(jc.InputError, match="--held-out 'thea'"):
        parts(archive, tmp_path, held_out="thea")
    with pytest.raises(jc.InputError, match="--held-out theo: needs the archive"):
        parts(tmp_path, tmp_path, held_out="theo")
    with pytest.raises(jc.InputError, match="give the archive or the folder"):
        parts("", tmp_path)
    config = spoken_digits.Config(data=str(archive), unpacked=str(tmp_path), model="cnn")
    with pytest.raises(jc.InputError, match="--model 'cnn'"):
        spoken_digits.plan(config)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["sound_cnn", "wave_cnn"])
def test_a_run_is_trained_evaluated_and_used(archive, tmp_path, model):
    flags = ("--unpacked", str(tmp_path / "data"), "--workdir", str(tmp_path / "runs"), "--model", model)
    run(archive, "--smoke", "--strength", "0", *flags, name="spoken_digits")
    place = folder(tmp_path / "runs")
    values = json.loads(run("--evaluate", "--checkpoint", place, name="spoken_digits")[0].splitlines()[-1])
    assert values["count"] == 12 and values["own_test_data"]
    long = tmp_path / "long.flac"
    sf.write(long, np.tile(0.3 * np.sin(np.arange(44_100) * 0.1), (2, 1)).T, 22_050)
    answers = run("--predict", long, "--checkpoint", place, name="spoken_digits")[0].splitlines()
    assert json.loads(answers[-1])["windows"] == 3 and json.loads(answers[-1])["class"] in "012"
