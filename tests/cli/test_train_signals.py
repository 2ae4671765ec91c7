"""Sounds and series from the command line: training, prediction, measuring, explanation, the report, refusals."""

import base64
import csv
import json
import re
import shutil

import jax
import numpy as np
import pytest

import jaxcnn as jc
from jaxcnn.cli import layouts
from jaxcnn.cli.main import main
from jaxcnn.deploy.serving import Limits
from tests.serving import serving

RATE, PARTS = 4000, ("low", "high")


def tone(k, seconds, rng, rate=RATE):
    place = np.arange(int(seconds * rate)) / rate
    wave = np.sin(2 * np.pi * (300 + 900 * k + rng.integers(60)) * place + 6 * rng.random())
    return (0.4 * wave + 0.02 * rng.normal(size=len(place))).astype(np.float32)


def tones(top, each=10, seed=0, **options):
    sf, rng = pytest.importorskip("soundfile"), np.random.default_rng(seed)
    for k, name in enumerate(PARTS):
        (top / name).mkdir(parents=True)
        for i in range(each):
            sf.write(top / name / f"{i}.wav", tone(k, 0.1 + 0.05 * rng.random(), rng), RATE, **options)
    return top


def waves(path, each=12, seed=0, head=True, labels=PARTS, **options):
    """A table of sines, as a spreadsheet writes it: quotes, and a mark of UTF-8; some cells are missing."""
    rng, steps = np.random.default_rng(seed), 24
    rows = [
        [labels[k], *np.sin((0.25 + 0.6 * k) * np.arange(steps) + 6 * rng.random()).round(4)]
        for _ in range(each)
        for k in (0, 1)
    ]
    rows[2][5], rows[3][7] = "", "NaN"
    with open(path, "w", encoding="utf-8-sig", newline="") as file:
        written = csv.writer(file, quoting=csv.QUOTE_ALL, **options)
        written.writerows([["label", *(f"t{i}" for i in range(steps))], *rows] if head else rows)
    return path


def train(data, here, *flags):
    about = ("--epochs", "8", "--batch-size", "16", "--devices", "1", "--workdir", str(here / "runs"))
    assert main(["train", str(data), *about, *flags]) == 0
    return max((here / "runs").iterdir())


@pytest.fixture(scope="module")
def heard(tmp_path_factory):
    here = tmp_path_factory.mktemp("sounds")
    return train(tones(here / "tones"), here, "--augment", "none")


@pytest.fixture(scope="module")
def watched(tmp_path_factory):
    here = tmp_path_factory.mktemp("series")
    return train(waves(here / "waves.csv"), here)


def answer(capsys, *arguments):
    assert main([*map(str, arguments)]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]


def refused(capsys, *arguments):
    assert main([*map(str, arguments)]) == 2
    *others, line = capsys.readouterr().err.strip().splitlines()
    assert line.startswith(f"jaxcnn {arguments[0]}: ") and "Traceback" not in " ".join(others)
    return line


def test_a_run_keeps_its_rate_length_and_spectrogram(heard):
    config, summary = (json.loads((heard / f"{name}.json").read_text()) for name in ("config", "summary"))
    size = config["build"]["inputs"]["audio"]["shape"][0]
    assert config["source"]["options"]["rate"] == RATE and config["source"]["options"]["seconds"] == size / RATE
    assert config["build"]["model"] == {
        "name": "sound_cnn",
        "options": {"num_classes": 2, "rate": RATE, "n_fft": 128, "hop": 40, "n_mels": 21, "widths": [16, 32, 64]},
    }
    assert summary["test"]["accuracy"] == 1 and summary["test"]["count"] == 4
    assert jc.runs.evaluate(jc.load_run(heard))["accuracy"] == 1  # its own rows, read again


def test_a_sound_of_any_length_rate_and_form_is_predicted(heard, tmp_path, capsys):
    import soundfile as sf

    rng = np.random.default_rng(1)
    fine = np.concatenate([tone(0, 0.3, rng, 44100), tone(1, 1.2, rng, 44100)])
    sf.write(tmp_path / "long.flac", np.stack([fine, fine / 2], 1), 44100, subtype="PCM_24")  # two channels
    sf.write(tmp_path / "short.wav", tone(1, 0.01, rng), RATE, subtype="FLOAT")
    sf.write(tmp_path / "loud.wav", np.sign(tone(0, 0.2, rng)), RATE, subtype="PCM_U8")
    sf.write(tmp_path / "still.wav", np.zeros(500), RATE)
    long, loud, short, still = answer(
        capsys, "predict", heard, *(tmp_path / x for x in ("long.flac", "loud.wav", "short.wav", "still.wav"))
    )
    size = json.loads((heard / "config.json").read_text())["build"]["inputs"]["audio"]["shape"][0]
    windows, loaded = long.pop("windows"), jc.load_run(heard)
    audio = jc.data.read_sound(tmp_path / "long.flac", RATE)
    rows, length = jc.data.windows(audio, size)
    logits = loaded.task.predict(loaded.variables, {"audio": rows, "length": length})
    shares = np.asarray(jc.tasks.probabilities(logits))
    mean = np.average(shares, axis=0, weights=length)
    np.testing.assert_allclose(list(long["probabilities"].values()), mean, atol=2e-5)
    assert [w["class"] for w in windows] == [loaded.config["classes"][k] for k in shares.argmax(1)]
    assert windows[0]["start"] == 0 and windows[-1]["end"] == pytest.approx(1.5, abs=1e-3)
    assert windows[1]["start"] == round(size // 2 / RATE, 3) and windows[0]["end"] == round(size / RATE, 3)
    assert windows[0]["class"] == "low" and long["class"] == windows[-1]["class"] == "high"
    assert loud["class"] == "low" and "windows" not in short and np.isfinite(still["probability"])


def test_a_server_answers_sounds_as_predict_does(heard, tmp_path, capsys):
    import soundfile as sf

    rng, paths = np.random.default_rng(2), [tmp_path / "long.wav", tmp_path / "short.flac"]
    sf.write(paths[0], np.concatenate([tone(0, 0.4, rng), tone(1, 0.3, rng)]), RATE)
    sf.write(paths[1], tone(1, 0.05, rng), RATE)
    known = [{k: v for k, v in one.items() if k != "file"} for one in answer(capsys, "predict", heard, *paths)]
    sounds = [path.read_bytes() for path in paths]
    with serving(heard, Limits(sound_seconds=1.0, rows=4, queue=8, per_client=4)) as server:
        about = server.ask("GET", "/about")[1]
        assert about["takes"] == "audio" and not about["explains"] and about["limits"]["sound_seconds"] == 1
        status, both = server.files(*sounds)
        body = json.dumps({"audio": [base64.b64encode(one).decode() for one in sounds]})
        also = server.ask("POST", "/predict", body, {"content-type": "application/json"})[1]
        raw = server.ask("POST", "/predict", sounds[1], {"content-type": "audio/flac"})[1]
        for found in (both, also):
            assert [{k: v for k, v in one.items() if k != "file"} for one in found["predictions"]] == known
        assert status == 200 and raw["predictions"][0]["class"] == "high" and len(known[0]["windows"]) > 2
        sf.write(tmp_path / "longer.wav", np.zeros(RATE + 40), RATE)
        assert server.files((tmp_path / "longer.wav").read_bytes()) == (
            413, {"error": "0.png: 1.0 seconds; at most 1 are read"}
        )  # fmt: skip
        assert server.files(sounds[0][:-100])[0] == server.files(b"text")[0] == 422
        assert server.ask("POST", "/explain", sounds[0], {"content-type": "audio/wav"})[0] == 422
        assert server.ask("POST", "/predict", sounds[0], {"content-type": "image/png"})[0] == 415
        assert b'id="sound"' in server.ask("GET", "/")[1]


def test_many_windows_are_those_of_the_whole_sound(heard, tmp_path):
    import soundfile as sf

    config = jc.runs.read_config(heard)
    size = config["build"]["inputs"]["audio"]["shape"][0]
    for count in (1, size - 1, size, size + 1, 17 * size, 17 * size + size // 2 + 1):
        audio = np.random.default_rng(count).uniform(-0.9, 0.9, count).astype(np.float32)
        sf.write(tmp_path / "a.wav", audio, RATE, subtype="FLOAT")
        found = list(jc.runs.single.sound_rows(config, tmp_path / "a.wav"))
        rows, length = jc.data.windows(audio, size)
        np.testing.assert_array_equal(np.stack([row["audio"] for _, row in found]), rows)
        assert [int(row["length"]) for _, row in found] == length.tolist()
        assert found[-1][0][1] == count / RATE


def test_bad_sounds_are_one_line(heard, tmp_path, capsys):
    (tmp_path / "text.wav").write_text("no sound at all")
    whole = next((heard.parents[1] / "tones" / "low").glob("*.wav")).read_bytes()
    (tmp_path / "cut.wav").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "head.wav").write_bytes(whole[:20] + b"\xff" * 12 + whole[32:])
    for name, line in (("text", "neither that of WAV nor of FLAC"), ("cut", "cut off"), ("head", "not a readable")):
        assert line in refused(capsys, "predict", heard, tmp_path / f"{name}.wav")
    good = heard.parents[1] / "tones" / "low" / "1.wav"
    found = answer(capsys, "predict", heard, tmp_path, good, "--on-bad-example", "skip")
    assert len(found) == 1
    assert "is not on texts" in refused(capsys, "predict", heard, "--text", "a")
    assert "not on series" in refused(capsys, "predict", heard, tmp_path / "text.wav", "--label-column", "first")


def test_other_sounds_are_measured(heard, tmp_path, capsys):
    other = tones(tmp_path / "other", 3, 5, subtype="FLOAT")
    found = answer(capsys, "evaluate", heard, other)[0]
    assert found["count"] == 6 and found["accuracy"] == 1 and found["part"] == "all sounds"
    parts = tmp_path / "parts"
    shutil.copytree(other, parts / "train")
    shutil.copytree(other, parts / "test")
    (parts / "test" / "low" / "1.wav").unlink()
    assert answer(capsys, "evaluate", heard, parts)[0]["count"] == 5
    assert "a run on sounds is not measured on such data (series)" in refused(
        capsys, "evaluate", heard, waves(tmp_path / "a.csv")
    )
    (other / "low").rename(other / "lower")
    assert "classes (high, lower)" in refused(capsys, "evaluate", heard, other)


def test_folders_that_are_refused(tmp_path, capsys):
    from PIL import Image

    here = tones(tmp_path / "tones", 2)
    Image.new("L", (8, 8)).save(here / "low" / "a.png")
    assert "its classes have sounds and 1 images" in refused(capsys, "train", here, "--workdir", tmp_path)
    with pytest.raises(jc.InputError, match="its classes have images and 2 sounds"):
        for name in PARTS:
            Image.new("L", (8, 8)).save(here / name / "a.png")
        for name in ("0.wav", "1.wav"):
            (here / "low" / name).unlink()
        jc.data.folder(here)
    empty = tones(tmp_path / "empty", 2)
    (empty / "none").mkdir()
    assert "none: no sounds (.flac .wav)" in refused(capsys, "train", empty, "--workdir", tmp_path)
    flat = tmp_path / "flat"
    shutil.copytree(empty / "low", flat)
    assert "<class>/<image, sound or text>" in refused(capsys, "train", flat, "--workdir", tmp_path)
    (flat / "list.csv").write_text("file,label\n0.wav,a\n1.wav,b\n")
    assert "lists sounds, which are read from folders" in refused(
        capsys, "train", flat / "list.csv", "--workdir", tmp_path
    )


@pytest.mark.parametrize(
    "flags, line",
    [
        (("--model", "resnet18"), "--model resnet18: is not for sounds; use one of sound_cnn, wave_cnn"),
        (("--image-size", "64"), "--image-size 64: applies to images, and these are sounds"),
        (("--unit", "bytes"), "--unit bytes: applies to texts"), (("--table", "series"), "--table series: applies"),
        (("--rate", "500"), "rate=500: must be an integer from 1,000"), (("--rate", "96000"), "must be at most 48,000"),
        (("--seconds", "5000"), "seconds=5000.0: must be above 0"), (("--seconds", "-1"), "must be at least 0"),
    ],
)  # fmt: skip
def test_flags_of_sounds(tmp_path, capsys, flags, line):
    assert line in refused(capsys, "train", tones(tmp_path / "t", 6), "--workdir", tmp_path / "r", *flags)
    assert not (tmp_path / "r").exists()


def test_the_form_of_sounds_follows_their_headers(tmp_path):
    import soundfile as sf

    from jaxcnn.cli.inputs import KINDS
    from jaxcnn.data.sounds import usual_form

    top = tones(tmp_path / "t", 10)
    rate, seconds = usual_form(top)
    assert rate == RATE and 0.14 < seconds < 0.151
    for k in range(11):
        sf.write(top / "low" / f"fine{k}.wav", np.zeros(44100 // 5), 44100)
    sf.write(top / "low" / "long.wav", np.zeros(44100 * 20), 44100)
    rate, seconds = usual_form(top)
    assert rate == RATE and seconds == pytest.approx(0.2, abs=1 / RATE)  # 20 have 4,000, and 12 have 44,100
    for rate in (1000, 2000, 8000, 11025, 16000, 22050, 44100, 48000):
        for size in (10, rate, 10 * rate):
            splits = jc.data.Splits(jc.data.Resident({"audio": np.zeros((1, size), np.float32)}), None, None)
            for name, make in jc.models.SOUNDS.items():
                make(num_classes=2, **KINDS["sounds"].options(splits, {"options": {"rate": rate}}, name))


def test_series_are_predicted_with_or_without_labels(watched, tmp_path, capsys):
    config = jc.runs.read_config(watched)
    assert config["source"]["options"]["label"] == "label" and config["classes"] == ["high", "low"]
    table = waves(tmp_path / "more.csv", 4, 1)
    found = answer(capsys, "predict", watched, table)
    assert [one["class"] for one in found] == ["low", "high"] * 4 and found[0]["file"].endswith("more.csv:2")
    rows = [line.split(",", 1) for line in table.read_text("utf-8-sig").splitlines()[1:]]
    bare = tmp_path / "bare.csv"
    bare.write_text("\n".join(row[1] for row in rows))
    probabilities = [one["probabilities"] for one in found]
    assert [one["probabilities"] for one in answer(capsys, "predict", watched, bare)] == probabilities
    last = tmp_path / "last.csv"
    last.write_text("\n".join(f"{row[1]},{i % 2}" for i, row in enumerate(rows)))
    line = refused(capsys, "predict", watched, last)
    assert "25 values, and the run's series have 24; shorten it, or name the column of labels with" in line
    labelled = answer(capsys, "predict", watched, last, "--label-column", "last")
    assert [one["probabilities"] for one in labelled] == probabilities
    assert "value 2 is 'x'" in refused(capsys, "predict", watched, written(tmp_path / "x.csv", "1,x,2\n"))
    assert "the run is on series" in refused(capsys, "predict", watched, written(tmp_path / "x.wav", "1"))


def written(path, text):
    path.write_text(text, "utf-8")
    return path


def test_labels_of_a_table_without_a_header_stay_labels(tmp_path, capsys):
    run = train(waves(tmp_path / "a.tsv", head=False, labels=("0", "1"), delimiter="\t"), tmp_path)
    rng = np.random.default_rng(0)
    lines = [[i % 2, *np.sin((0.25 + 0.6 * (i % 2)) * np.arange(12) + 6 * rng.random()).round(4)] for i in range(6)]
    first = written(tmp_path / "b.tsv", "\n".join("\t".join(map(str, x)) for x in lines))
    line = refused(capsys, "predict", run, first)
    assert "the first value of every series is a class name" in line
    labelled = answer(capsys, "predict", run, first, "--label-column", "first")
    assert len(labelled) == 6 and answer(capsys, "predict", run, first, "--label-column", "none") != labelled
    assert answer(capsys, "evaluate", run, first)[0]["count"] == 6


def test_other_series_are_measured(watched, tmp_path, capsys):
    found = answer(capsys, "evaluate", watched, waves(tmp_path / "b.csv", 3, 2))[0]
    assert found["count"] == 6 and found["accuracy"] == 1 and found["part"] == "all series"
    line = refused(capsys, "evaluate", watched, written(tmp_path / "c.csv", "label,t0,t1,t2\nlow,1,2,3\nup,2,3,4\n"))
    assert "classes (low, up)" in line


NUMBERS = "0.5,0.1,0.7,0.2"


@pytest.mark.parametrize(
    "text, flags, label",
    [
        (f"a,{NUMBERS}\nb,{NUMBERS}\na,{NUMBERS}\n", {}, "first"), (f"{NUMBERS},a\n{NUMBERS},b\n", {}, "last"),
        (f"1,{NUMBERS}\n2,{NUMBERS}\n1,{NUMBERS}\n2,{NUMBERS}\n", {}, "first"),
        (f"{NUMBERS},1\n{NUMBERS},2\n{NUMBERS},1.0\n", {}, "last"),
        (f"y,0,1,2,3\n7,{NUMBERS}\n8,{NUMBERS}\n", {}, "y"),
        (f"a;{NUMBERS}\nb;{NUMBERS}\n".replace(",", ";"), {}, "first"),
        ("a,1,2,,4\nb,1,?,3,4\n", {}, "first"), ("a,1,2,3,4\nb,1,2\n", {}, "first"),
        ("1,2,3,1\n2,3,4,2\n1,2,3,1\n", {"label": "last"}, "last"),
        ("w,h,species\n1,2,a\n2,3,b\n", {"table": "series"}, "last"),
    ],
)  # fmt: skip
def test_tables_of_series(tmp_path, text, flags, label):
    found = layouts.look(str(written(tmp_path / "a.csv", text)), **flags)
    assert found.kind == "series" and found.options["label"] == label


@pytest.mark.parametrize(
    "text, flags, line",
    [
        ("1,2,3,1\n2,3,4,2\n1,2,3,1\n", {}, "both its first and its last column .* --label-column first or last"),
        ("0.1,0.2,0.3,0.4\n0.2,0.3,0.4,0.5\n", {}, "neither its first nor its last"),
        ("w,h,d,species\n1,2,3,a\n2,3,4,b\n", {}, "for series, give --table series"),
        ("a,b,c,label\nx,1,2,0\ny,1,2,1\n", {"table": "series"}, "is no table of series"),
        ("a,b,c,d\n1,x,y,z\n", {}, "it is not clear which of"),
        ("a,0.5,0.2,0.3\nb,0.5,0.2,0.3\n", {"label": "zz"}, "no column 'zz'"),
    ],
)
def test_tables_that_are_not_clear(tmp_path, text, flags, line):
    with pytest.raises(jc.InputError, match=line):
        layouts.look(str(written(tmp_path / "a.csv", text)), **flags)


def test_tables_of_texts_and_of_images_stay_what_they_are(tmp_path):
    texts = "text,1,2,3\ngood,1,0,0\nbad,0,1,1\n"
    assert layouts.look(str(written(tmp_path / "a.csv", texts)), text="text").kind == "texts"
    assert layouts.look(str(written(tmp_path / "a.csv", texts)), table="texts").kind == "texts"
    assert layouts.look(str(written(tmp_path / "a.csv", "text,label\n12,0\n13,1\n12,0\n"))).kind == "texts"
    assert jc.data.table_format(written(tmp_path / "a.csv", "file,label,1,2\na.png,0,1,2\n")) == "csv"
    (tmp_path / "b_TRAIN.ts").write_text("@classLabel true 0 1\n@data\n1,2,3:0\n2,3,4:1\n2,3,4:1\n1,2,2:0\n")
    for path in (tmp_path / "b_TRAIN.ts", tmp_path):
        assert layouts.look(str(path)).kind == jc.runs.find(str(path))[0] == "series"


@pytest.mark.parametrize(
    "text, line",
    [
        ("label,t0,t1,t2\na,1,2,3\nb,1,,3\na,,,\nb,1,2,3\n", "no value in a channel"),
        ("label,t0,t1,t2\na,1,2,3\n,1,2,3\nb,1,2,3\na,2,2,2\n", "no label"),
        ("label,t0,t1,t2\na,1,2,3\na,1,3,3\na,1,2,3\n", "only the label 'a'"),
        ('label,t0,t1,t2\na,"1,5",2,3\nb,1,2,3\n', "it is not clear which of"),
    ],
)
def test_bad_tables_are_one_line(tmp_path, capsys, text, line):
    path = written(tmp_path / "a.csv", text)
    assert line in refused(capsys, "train", path, "--workdir", tmp_path / "r")


def test_signals_are_described(tmp_path, capsys):
    for data, line in ((tones(tmp_path / "t", 4), "4,000 samples per second"), (waves(tmp_path / "a.csv"), "24 steps")):
        assert main(["data", str(data), "--output", str(tmp_path / "a.png")]) == 0
        out = capsys.readouterr().out
        assert line in out and "high" in out and (tmp_path / "a.png").stat().st_size > 1000


def test_pictures_of_series():
    from jaxcnn.data.drawn_series import series_picture

    sheet = series_picture(np.array([0.0, 1.0, 0.0]), np.array([1.0, 0.0, -1.0]), height=32, width=30)
    assert sheet.shape == (32, 30, 3) and sheet.dtype == np.uint8
    assert sheet[0, 0, 0] > sheet[0, 0, 2] and sheet[0, -1, 2] > sheet[0, -1, 0] and (sheet[0, 13] == 255).all()
    peak = np.zeros(20_000)
    peak[777] = 1
    assert (series_picture(peak, width=100)[:10] != 255).any()  # one value of many is still seen
    assert (series_picture(np.full((5, 2), 3.0)) != 255).any()
    for bad in (np.zeros(0), np.array([np.nan]), np.zeros((2, 2, 2))):
        with pytest.raises(jc.InputError, match="series of shape"):
            series_picture(bad)


def test_a_covered_span_shows_where_a_class_is():
    from jaxcnn.explain.over_time import over_time

    class Late:
        def apply(self, variables, x, *, length, train):
            known = np.arange(x.shape[1])[None] < length[:, None]
            late = (x[..., 0] * known)[:, 12:].sum(1)
            return jax.numpy.stack([-late, late], 1)

    x = np.repeat(np.float32([0, 1, -1]), [12, 8, 4])[None, :, None]
    found = over_time(Late(), {}, x, [20], 1)
    assert (found[0, :11] == 0).all() and (found[0, 12:20] > 0).all() and (found[0, 20:] == 0).all()
    with pytest.raises(jc.InputError, match="must be 1 to 24"):
        over_time(Late(), {}, x, [25], 1)


def test_sounds_are_explained_over_time_and_frequency(heard, tmp_path, capsys):
    import soundfile as sf

    rng = np.random.default_rng(3)
    sf.write(tmp_path / "long.wav", np.concatenate([tone(1, 0.3, rng), tone(0, 0.5, rng)]), RATE)
    found = answer(capsys, "explain", heard, tmp_path / "long.wav", "--target", "high", "--output", tmp_path / "out")
    assert found[0]["explained"] == "high" and found[0]["end"] <= 0.4
    assert (tmp_path / "out" / "long.png").stat().st_size > 5000


def test_series_are_explained(watched, tmp_path, capsys):
    found = answer(capsys, "explain", watched, waves(tmp_path / "a.csv", 2, 4), "--output", tmp_path / "out")
    assert len(found) == len(list((tmp_path / "out").glob("*.png"))) == 4
    line = refused(capsys, "explain", watched, waves(tmp_path / "b.csv", 20, 4))
    assert "40 series; at most 32" in line


def test_reports_show_and_play(heard, watched, capsys):
    for folder in (heard, watched):
        assert main(["report", str(folder)]) == 0
    page, other = ((folder / "report.html").read_text() for folder in (heard, watched))
    played = re.findall(r'<audio controls preload="none" src="data:audio/wav;base64,', page)
    assert len(played) == 4 and "Spectrogram in mel bands" in page and "<script" not in page
    assert "<audio" not in other and "Covered spans of time" in other


def test_the_sounds_of_a_page_are_bounded():
    from jaxcnn.report.heard import seen

    config = {"source": {"options": {"rate": 16000}}}
    audio = np.random.default_rng(0).uniform(-1, 1, 20 * 16000).astype(np.float32)
    for count, most in ((1, 10.0), (24, 3 * 2**20 / 24 / 32000)):
        found = seen(config, audio, len(audio), count)
        assert float(found["seconds"]) == round(most, 1) and len(found["audio"]) * count < 4.3e6


def test_raw_samples_on_eight_devices(tmp_path, capsys):
    flags = ("--model", "wave_cnn", "--strategy", "sharded", "--max-steps", "2", "--epochs", "1", "--batch-size", "8")
    for devices in (8, 1):
        where = ("--workdir", str(tmp_path / str(devices)), "--devices", str(devices))
        data = tmp_path / "t" if devices == 1 else tones(tmp_path / "t", 5)
        assert main(["train", str(data), *where, *flags]) == 0
    one, eight = (
        [
            json.loads(line)["loss"]
            for line in (next((tmp_path / n).iterdir()) / "metrics.jsonl").read_text().splitlines()
        ]
        for n in ("1", "8")
    )
    np.testing.assert_allclose(one, eight, rtol=1e-3)
    found = answer(capsys, "explain", next((tmp_path / "8").iterdir()), tmp_path / "t" / "low" / "1.wav")
    assert found[0]["picture"].endswith("1.png")


def test_a_stopped_run_goes_on_to_the_same_weights(tmp_path):
    data = tones(tmp_path / "t", 5)
    whole = train(data, tmp_path / "a", "--max-steps", "6")
    config = json.loads((whole / "config.json").read_text())
    again = tmp_path / "again"
    shutil.copytree(whole, again)
    for path in (again / "checkpoints").iterdir():
        if path.name.isdigit() and int(path.name) == 6:
            shutil.rmtree(path)
    (again / "summary.json").unlink()
    assert main(["train", "--resume", str(again)]) == 0
    assert json.loads((again / "config.json").read_text())["source"]["options"] == config["source"]["options"]
    for a, b in zip(*(map(np.asarray, jax.tree.leaves(jc.load_run(x).variables)) for x in (whole, again)), strict=True):
        np.testing.assert_array_equal(a, b)
