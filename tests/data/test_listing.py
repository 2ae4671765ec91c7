"""Which files in a folder of images count as data (splits, classes, hidden names, links), and what is reported."""

import logging
import os
import socket

import numpy as np
import pytest
from PIL import Image

from jaxcnn.data import folder
from jaxcnn.data.folder import class_names
from tests.data.test_data import refused
from tests.data.test_sources import fill, picture, sizes, values


@pytest.fixture
def lines(caplog):
    """The lines that reading gives, without the folder."""
    caplog.set_level(logging.INFO, "jaxcnn")
    return lambda path: [r.getMessage().removeprefix(f"{path}: ") for r in caplog.records]


@pytest.mark.parametrize(
    "hidden", [".ipynb_checkpoints", ".Trash-1000", "__MACOSX", "@eaDir", "$RECYCLE.BIN", ".git", ".a/b", "sub/.thumbs"]
)
def test_hidden_folders_are_no_data(tmp_path, lines, hidden):
    fill(tmp_path)
    rows = sorted(sum(map(values, folder(tmp_path)), []))
    for place in (tmp_path, tmp_path / "ant", tmp_path / "bee"):
        (place / hidden).mkdir(parents=True)
        picture(99).save(place / hidden / "00-checkpoint.png")
    (tmp_path / "sub").is_dir() and (tmp_path / "sub").rename(tmp_path / "ant" / "sub" / "deeper")
    for name in (".DS_Store", "Thumbs.db", "desktop.ini"):
        (tmp_path / "ant" / name).write_text("")
        (tmp_path / name).write_text("")
    assert class_names(tmp_path) == ("ant", "bee")
    assert sorted(sum(map(values, folder(tmp_path)), [])) == rows
    assert not [line for line in lines(tmp_path) if "left out" in line]


def test_what_is_left_out_is_counted_in_one_line(tmp_path, lines):
    fill(tmp_path)
    for i in range(12):
        (tmp_path / "ant" / f"{i}.HEIC").write_text("")
    for name in ("bee/a.txt", "bee/b.txt", "labels.csv", "bee/README", "ant/x.\x1b[2J", "ant/x.averyverylongending"):
        (tmp_path / name).write_text("")
    picture(0).save(tmp_path / "loose.png")
    os.mkfifo(tmp_path / "ant" / "pipe.png")
    (tmp_path / "ant" / "gone.png").symlink_to("nowhere.png")
    with socket.socket(socket.AF_UNIX) as s:
        s.bind(str(tmp_path / "ant" / "s.png"))
        assert sizes(folder(tmp_path)) == (14, 2, 4)
    left = [line for line in lines(tmp_path) if "left out" in line]
    assert left == [
        "left out: 12 .heic, 2 .txt, 2 pipe(s), socket(s) or device(s), 1 .\\x1b[2j, 1 .csv, 1 broken link(s), "
        "1 image(s) beside the class folders, 1 with a long ending, 1 of other kinds"
    ]


def test_links_are_followed_and_each_real_file_is_read_once(tmp_path, lines):
    data, other = tmp_path / "data", tmp_path / "other"
    fill(data), fill(other, ("more",), n=3, offset=50)
    (data / "ant" / "more").symlink_to(other / "more")
    (data / "ant" / "again").symlink_to(other / "more")
    (data / "ant" / "sub").mkdir()
    for target, name in (("..", "up"), ("../..", "sub/top"), (".", "self"), ("../../..", "sub/far"), ("/", "root")):
        (data / "ant" / name).symlink_to(target)
    (data / "ant" / "aaa.png").symlink_to("00.png")
    os.link(data / "bee" / "00.png", data / "bee" / "hard.png")
    (tmp_path / "entry").symlink_to(data)
    expected = sorted([(v, v // 10) for v in range(20)] + [(50 + i, 0) for i in range(3)])
    for path in (data, tmp_path / "entry"):
        assert sorted(sum(map(values, folder(path)), [])) == expected
    left = (
        "left out: 6 link(s) to folders that hold them or are read already, 2 further name(s) of images that are read"
    )
    assert lines(data).count(left) == 1


def test_class_folders_may_be_links(tmp_path):
    fill(tmp_path / "store"), (tmp_path / "data").mkdir()
    for name in ("ant", "bee"):
        (tmp_path / "data" / name).symlink_to(tmp_path / "store" / name)
    assert sizes(folder(tmp_path / "data")) == (14, 2, 4)


def test_one_picture_in_two_classes_is_refused(tmp_path):
    fill(tmp_path)
    (tmp_path / "cat").symlink_to("bee")
    refused(r"bee/00.png and .*cat/00.png are the same file, in two classes; remove one of them", folder, tmp_path)
    assert sizes(folder(tmp_path, classes=("ant", "bee"))) == (14, 2, 4)
    (tmp_path / "cat").unlink()
    (tmp_path / "ant" / "x.png").symlink_to("../bee/03.png")
    refused(r"ant/x.png and .*bee/03.png are the same file, in two classes", folder, tmp_path)
    (tmp_path / "ant" / "x.png").unlink(), os.link(tmp_path / "bee" / "03.png", tmp_path / "ant" / "x.png")
    refused(r"ant/x.png and .*bee/03.png are the same file, in two classes", folder, tmp_path)


@pytest.mark.parametrize("resident_bytes", [2**30, 0])
def test_pictures_to_measure_on_that_were_learned_are_told(tmp_path, lines, resident_bytes):
    fill(tmp_path / "train"), fill(tmp_path / "test", n=4, offset=100)
    (tmp_path / "test" / "ant" / "x.png").symlink_to(tmp_path / "train" / "ant" / "03.png")
    splits = folder(tmp_path, resident_bytes=resident_bytes, validation_fraction=0.1)
    copied = 3 in [value for value, _ in values(splits.train)]
    told = [line for line in lines(tmp_path) if "among the training" in line]
    kind = (
        "files are among the training files too"
        if not resident_bytes
        else "images are among the training images too, value for value"
    )
    assert told == ([f"1 of 9 test {kind}"] if copied else [])


@pytest.mark.parametrize("name", ["val", "valid", "validation"])
def test_it_is_told_which_folder_is_which_part(tmp_path, lines, name):
    fill(tmp_path / "train"), fill(tmp_path / name, offset=50)
    folder(tmp_path)
    assert lines(tmp_path) == [
        f"{name}/ is the test part, because there is no test/; validation rows are cut from train/"
    ]
    fill(tmp_path / "test", offset=100), fill(tmp_path / "extra")
    (tmp_path / "README.md").write_text("")
    folder(tmp_path)
    assert lines(tmp_path)[1:] == ["left out: 1 .md, 1 folder(s) beside train/ (extra)"]


def test_cuts_are_told(tmp_path, lines):
    fill(tmp_path / "train")
    folder(tmp_path), folder(tmp_path / "train")
    assert lines(tmp_path / "train")[1:] == ["test rows, then validation rows are cut from the class folders"]
    fill(tmp_path / "test", offset=100)
    folder(tmp_path)
    told = lines(tmp_path)
    assert told[0] == "test rows, then validation rows are cut from train/" and told[2:] == [
        "validation rows are cut from train/"
    ]


def test_nothing_is_told_where_nothing_is_cut(tmp_path, lines):
    fill(tmp_path)
    data = folder(tmp_path, validation_fraction=0.0, test_fraction=0.0)
    assert data.test.size == data.valid.size == 0 and not any("cut" in line for line in lines(tmp_path))


def test_one_part_under_two_names_is_refused(tmp_path):
    for name in ("train", "test", "val", "valid"):
        fill(tmp_path / name)
    refused("val and valid name one part; rename one of them", folder, tmp_path)


def test_a_rare_class_is_learned(tmp_path):
    fill(tmp_path, n=20), fill(tmp_path, ("cat", "dog"), n=1)
    for seed in range(10):
        splits = folder(tmp_path, seed=seed)
        assert set(splits.train.label.tolist()) == {0, 1, 2, 3} and sizes(splits)[2] == round(0.2 * 42)


def test_classes_that_are_hardly_meant_are_told(tmp_path, lines):
    fill(tmp_path / "training"), fill(tmp_path / "testing", offset=50)
    folder(tmp_path)
    assert (
        lines(tmp_path)[0]
        == "the images of every class lie in folders of the same names (ant, bee): they count as the classes testing, "
        "training"
    )
    fill(tmp_path / "set", ("Ant", "ant", "bee"))
    folder(tmp_path / "set")
    assert (
        lines(tmp_path / "set")[2]
        == "class folders Ant and ant differ only in case or spelling, and are separate classes"
    )


def test_subfolders_of_a_class_belong_to_it(tmp_path):
    for name, where in (("ant", "ant/2019/a"), ("bee", "bee/b")):
        fill(tmp_path / "flat", (name,), offset=10 * (name == "bee"))
        (tmp_path / where).parent.mkdir(parents=True)
        (tmp_path / "flat" / name).rename(tmp_path / where)
    (tmp_path / "flat").rmdir()
    assert sizes(folder(tmp_path)) == (14, 2, 4)


def test_names_of_other_bytes(tmp_path):
    for name in (b"\xff\xfe", b"be\x1b[31me"):
        fill(tmp_path, (os.fsdecode(name),))
    assert folder(tmp_path, test_fraction=0.5).train.classes == ("be\x1b[31me", os.fsdecode(b"\xff\xfe"))
    (tmp_path / os.fsdecode(b"\xff\xfe") / "00.png").write_text("x")
    assert r"\udcff\udcfe/00.png: not a readable image" in refused("--on-bad-example skip", folder, tmp_path)


def test_an_image_that_is_another_once_decoded_is_refused(tmp_path):
    fill(tmp_path)
    splits = folder(tmp_path, resident_bytes=0)
    for name in ("ant", "bee"):
        for file in (tmp_path / name).iterdir():
            Image.new("RGB", (5, 5)).save(file)
    refused(r"png: \(5, 5\) pixels \(height, width\), not \(8, 8\) as before", splits.train.read, np.arange(3))


@pytest.mark.parametrize("resident_bytes", [2**30, 0])
def test_a_class_or_part_of_which_nothing_is_readable_is_named(tmp_path, resident_bytes):
    fill(tmp_path / "train"), fill(tmp_path / "test", offset=100)
    options = {"on_bad": lambda line, rows: None, "resident_bytes": resident_bytes}
    for file in (tmp_path / "test").rglob("*.png"):
        file.write_text("x")
    refused("test: no image is readable; replace them, or move the folder away", folder, tmp_path, **options)
    for file in (tmp_path / "train" / "bee").iterdir():
        file.write_text("x")
    refused(
        "train/bee: no image is readable; replace them, or leave the class out", folder, tmp_path / "train", **options
    )
