"""Time series from text files: what is read, what is refused in one line, and that windows do not leak."""

import logging

import numpy as np
import pytest

import jaxcnn as jc
from jaxcnn import runs
from jaxcnn.core.types import InputError
from jaxcnn.runs.source import read_described

TS = "#a comment\n@problemName x\n@timeStamps false\n@classLabel true a b\n@data\n"


def written(folder, text, name="x.csv", encoding="utf-8"):
    (folder / name).write_bytes(text.encode(encoding))
    return folder / name


def rows(*lines, repeat=4):
    return "\n".join(lines * repeat) + "\n"


def everything(splits):
    """All rows of the parts by label: their values without padding."""
    found = {}
    for part in splits:
        x = part.arrays
        for values, length, label in zip(x["series"], x["length"], x["label"], strict=True):
            found.setdefault(part.classes[label], []).append(values[:length, 0].tolist())
    return found


READ = {
    "numbers": (rows("1,1,2,3", "2,4,5,6"), {"1": [1, 2, 3], "2": [4, 5, 6]}),
    "floats as labels": (rows("1.0e+00,1,2,3", "2.0e+00,4,5,6"), {"1": [1, 2, 3], "2": [4, 5, 6]}),
    "names of figures": (rows("01,1,2,3", "2,4,5,6"), {"01": [1, 2, 3], "2": [4, 5, 6]}),
    "numbers that a float cannot tell apart": (
        rows("12345678901234567,1,2", "12345678901234568,3,4"),
        {"12345678901234567": [1, 2], "12345678901234568": [3, 4]},
    ),
    "a class that is called like a column": (rows("y,0,1.5", "n,1,2.5"), {"y": [0, 1.5], "n": [1, 2.5]}),
    "text and quotes": (rows('"a, b",1,2', "'c',3,4"), {"a, b": [1, 2], "c": [3, 4]}),
    "a mark at the start": ("\ufeff" + rows("a,1,2", "b,3,4"), {"a": [1, 2], "b": [3, 4]}),
    "semicolons": (rows("a;1;2", "b;3;4"), {"a": [1, 2], "b": [3, 4]}),
    "tabs": (rows("a\t1\t2", "b\t3\t4"), {"a": [1, 2], "b": [3, 4]}),
    "a header": ("label,t0,t1\n" + rows("a,1,2", "b,3,4"), {"a": [1, 2], "b": [3, 4]}),
    "a header of numbers": ("kind,0,1,2,3\n" + rows("a,1,2,3,4", "b,3,4"), {"a": [1, 2, 3, 4], "b": [3, 4]}),
    "empty lines": (rows("a,1,2", "", "b,3,4"), {"a": [1, 2], "b": [3, 4]}),
    "lengths": (rows("a,1,2,3", "b,3"), {"a": [1, 2, 3], "b": [3]}),
    "missing at the end": (rows("a,1,2,3", "b,3,NaN,"), {"a": [1, 2, 3], "b": [3]}),
    "missing between": (rows("a,1,,3", "b,?,3,7"), {"a": [1, 2, 3], "b": [3, 3, 7]}),
}


@pytest.mark.parametrize("name", READ)
def test_files_that_are_read(name, tmp_path, caplog):
    text, expected = READ[name]
    with caplog.at_level(logging.WARNING, "jaxcnn"):
        found = everything(jc.data.series(written(tmp_path, text), validation_fraction=0.25, test_fraction=0.25))
    assert found == {label: [values] * 4 for label, values in expected.items()}
    assert ("8 missing values in 8 series" in caplog.text) == (name == "missing between")


REFUSED = {
    "decimal commas": (rows("a;1,5;2", "b;3;4"), "'1,5': write 1.5"),
    "text": (rows("a,1,x", "b,3,4"), "line 1: value 2 is 'x'"),
    "infinite": (rows("a,1,inf", "b,3,4"), "must be a finite number"),
    "too large": (rows("a,1,1e39", "b,3,4"), "must be a finite number"),
    "a comment": (rows("a,1,2", "b,3,4", "#", repeat=1), "line 3: 1 cells"),
    "longer than its header": ("label,t0\n" + rows("a,1,2", "b,3"), "line 2: 3 cells"),
    "one class": (rows("a,1,2", "a,3,4"), "only the label 'a'"),
    "one row per class": (rows("a,1,2", "b,3,4", "c,5,6", repeat=1), "every row has a label of its own"),
    "one row per number": (rows("1,1,2", "2,3,4", "3,5,6", repeat=1), "each class has only one row"),
    "no label": (rows(",1,2", "b,3,4"), "line 1: no label"),
    "two spellings of a number": (rows("01,1,2", "1,3,4"), "the labels 1 and 01 are the same number"),
    "mixed labels": (rows("a,1,2", "1,3,4"), "mixes text"),
    "numbers to predict": (rows("1.5,1,2", "1,3,4"), "must be a class"),
    "an empty column": (rows("a,1,,2", "b,3,,4"), "value 2 is missing in every row"),
    "constant": (rows("a,1,1", "b,1,1"), "all values are 1"),
    "no values": (rows("a,,", "b,1,2"), "no value in a channel"),
    "nothing": ("\n", "no rows"),
    "quotes": (rows('a,"1,2', "b,3,4"), "is not a CSV file"),
    "NUL": (rows("a,1\0,2", "b,3,4"), ""),
}


@pytest.mark.parametrize("name", REFUSED)
def test_files_that_are_refused_in_one_line(name, tmp_path):
    text, line = REFUSED[name]
    with pytest.raises(InputError) as error:
        jc.data.series(written(tmp_path, text))
    assert line in str(error.value) and "\n" not in str(error.value)


def test_missing_values_can_be_refused_and_encodings_are_checked(tmp_path):
    path = written(tmp_path, rows("a,1,,3", "b,3,4,5"))
    with pytest.raises(InputError, match="line 1: 1 missing values"):
        jc.data.series(path, missing="refuse")
    with pytest.raises(InputError, match="UTF-8"):
        jc.data.series(written(tmp_path, rows("é,1,2", "b,3,4"), encoding="latin-1"))
    with pytest.raises(InputError, match="no column 'kind'"):
        jc.data.series(written(tmp_path, rows("a,1,2", "b,3,4")), label="kind")


def test_official_parts_of_ts_files_with_channels(tmp_path):
    written(tmp_path, TS + rows("1,2:3,4:a", "5:6:b"), "X_TRAIN.ts")
    test = written(tmp_path, TS + "7,8,9:1,1,?:b\n", "X_TEST.ts")
    splits = jc.data.series(tmp_path, standardise=False)
    assert [part.size for part in splits] == [6, 2, 1] and splits.test.classes == ("a", "b")
    assert splits.train.arrays["series"].shape == (6, 3, 2)
    np.testing.assert_array_equal(splits.test.arrays["series"][0], [[7, 1], [8, 1], [9, 1]])
    scaled = jc.data.series(tmp_path, standardise=True).train.arrays
    long = scaled["series"][scaled["length"] == 2]
    np.testing.assert_allclose(long[:, :2].mean(1), 0, atol=1e-6)
    np.testing.assert_allclose(long[:, :2].std(1), 1, rtol=1e-6)
    assert not scaled["series"][scaled["length"] == 1].any()
    again = runs.source("series", {"path": str(tmp_path)})
    np.testing.assert_array_equal(read_described(again).test.arrays["series"], splits.test.arrays["series"])
    for wrong, line in (
        ("7,8,9:1,1,1:c\n", "class 'c' has no training row"),
        ("7,8,9:1,1:b\n", "channels of one length"),
        ("(0,1),(2,3):b\n", "must be a finite number"),
        ("7,8,9:b\n", "channels"),
    ):
        written(tmp_path, TS + wrong, test.name)
        with pytest.raises(InputError, match=line):
            jc.data.series(tmp_path)
    test.write_text("7,8:1,2:a\n")
    with pytest.raises(InputError, match="no line @data"):
        jc.data.series(tmp_path)


def days(count):
    return np.datetime64("2001-01-01") + np.arange(count)


def table(values, times=None, header="time,y"):
    times = days(len(values)) if times is None else times
    return header + "\n" + "".join(f"{t},{v}\n" for t, v in zip(times, values, strict=True))


def test_windows_follow_the_order_of_time_and_never_leak(tmp_path):
    path = written(tmp_path, table(range(100), header="time,y"))
    splits = jc.data.forecast(path, context=10, horizon=5, period=7, validation_fraction=0.2, test_fraction=0.2)
    train, valid, test = (part.arrays for part in splits)
    assert max(train["series"].max(), train["target"].max()) == 59  # the last row before those to validate on
    assert valid["target"].min() == 60 and valid["target"].max() == 79 and valid["series"].max() < 79
    assert test["target"].min() == 80 and test["target"].max() == 99
    assert [len(x["target"]) for x in (train, valid, test)] == [46, 16, 16]
    for x in (train, valid, test):
        np.testing.assert_array_equal(x["series"][:, -1, 0] + 1, x["target"][:, 0])
        np.testing.assert_array_equal(x["naive_error"], 7)
    assert splits.test.names[0] == str(days(81)[80])
    again = runs.source("forecast", {"path": str(path), "context": 10, "horizon": 5, "stride": 5})
    assert read_described(again).train.size == 12


def test_columns_missing_values_and_months(tmp_path, caplog):
    months = [f"20{y:02}-{m:02}" for y in range(3) for m in range(1, 13)]
    text = "when;a;b\n" + "".join(f"{t};{i if i != 4 else ''};{2 * i}\n" for i, t in enumerate(months))
    path = written(tmp_path, text)
    with caplog.at_level(logging.WARNING, "jaxcnn"):
        splits = jc.data.forecast(path, context=3, horizon=2, target="a", validation_fraction=0.2)
    assert "1 of 72 values are missing" in caplog.text
    x = splits.train.arrays
    assert x["series"].shape[1:] == (3, 2) and np.isnan(x["series"][2, 2, 0]) and x["series"][2, 2, 1] == 8
    assert jc.data.read_times(path, target="b").columns == ["b", "a"] and jc.data.read_times(path).step == "1 month"


STAMPS = {
    "twice": (["2001-01-01", "2001-01-02", "2001-01-02", "2001-01-03"], "the same as in line 3"),
    "backwards": (["2001-01-01", "2001-01-03", "2001-01-02", "2001-01-04"], "sort the rows"),
    "a gap": (["2001-01-01", "2001-01-02", "2001-01-04", "2001-01-05"], "line 4: .* add missing rows"),
    "a gap of a month": (["2001-01-31", "2001-02-28", "2001-04-30", "2001-05-31"], "add missing rows"),
    "local": (["01/02/2001", "01/03/2001", "01/04/2001", "01/05/2001"], "write it as 2001-02-03"),
    "text": (["a", "b", "c", "d"], "must be a time"),
    "empty": (["2001-01-01", "", "2001-01-03", "2001-01-04"], "must be a time"),
    "zones": (["2001-01-01T00Z", "2001-01-02", "2001-01-03", "2001-01-04"], "time zone"),
    "months without a line": (["200111", "200112", "200201", "200202"], "add missing rows"),
}


@pytest.mark.parametrize("name", STAMPS)
def test_time_stamps_that_are_refused(name, tmp_path):
    times, line = STAMPS[name]
    with pytest.raises(InputError, match=line):
        jc.data.read_times(written(tmp_path, table([1, 2, 3, 4], times)))


@pytest.mark.parametrize(
    ("times", "step"),
    [
        (["2001-01-31", "2001-02-28", "2001-03-31", "2001-04-30"], "1 month"),
        (["2001-01-15", "2001-04-15", "2001-07-15", "2001-10-15"], "3 months"),
        (["20010101", "20010108", "20010115", "20010122"], "7 days, 0:00:00"),
        (["2001-01-01 00:00", "2001-01-01 01:00", "2001-01-01 02:00", "2001-01-01 03:00"], "1:00:00"),
        (["1998", "1999", "2000", "2001"], "1"),
    ],
)
def test_time_stamps_that_are_read(times, step, tmp_path):
    assert jc.data.read_times(written(tmp_path, table([1, 2, 3, 4], times))).step == step


def test_tables_that_are_refused(tmp_path):
    good = table(range(20))
    for text, options, line in (
        ("time,y\n2001-01-01,1,2\n", {}, "3 cells for 2 columns"),
        (table([1] * 20), {}, "is 1 everywhere"),
        (table([""] * 20), {}, "has no value"),
        (table(["a"] * 20), {}, "y is 'a'"),
        (good.split("\n", 1)[1], {}, "add a header"),
        (good, {"target": "z"}, "target='z': no such column"),
        (good, {"time": "z"}, "time='z': no such column"),
        (good, {"context": 30}, "no window in the 14 rows of the train part"),
        (good, {"horizon": 5}, "no window in the 2 rows of the valid part"),
        (good, {"horizon": 0}, "must be at least 1"),
        (good, {"test_fraction": 1.0}, "test_fraction=1.0"),
        (good, {"period": 19}, "no two of the 14 training values"),
        ("time,y,y\n2001-01-01,1,2\n", {}, "two columns with the same name"),
    ):
        with pytest.raises(InputError) as error:
            jc.data.forecast(written(tmp_path, text), **{"context": 2, "horizon": 1} | options)
        assert line in str(error.value) and "\n" not in str(error.value)
