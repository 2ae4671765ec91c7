"""Data that a reader could take for other data: they are meant as they are written, or refused in one line."""

import csv
import gzip
import logging

import jax
import numpy as np
import pytest
from PIL import Image

import jaxcnn as jc
from jaxcnn.core.types import InputError
from jaxcnn.data import order
from jaxcnn.data.yolo import class_names
from tests.data.boxes_on_disk import make_coco, make_yolo


def pictures(top, *names):
    for k, name in enumerate(names):
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((4, 4), 10 * k, np.uint8)).save(top / name)


def listed(top, *rows, header=("file", "label")):
    with (top / "list.csv").open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return top / "list.csv"


@pytest.mark.parametrize("moved", [False, True])
def test_a_mask_of_the_rows_counts_on_the_device_too(moved):
    mask = np.array([1, 1, 0, 0, 1, 1, 1], np.float32)
    data = jc.data.Resident({"image": np.zeros((7, 4, 4, 1), np.uint8), "label": np.arange(7), "row_mask": mask})
    data = data.put(jax.device_put) if moved else data
    (chunk,) = data.once(8, multiple=8)
    assert np.asarray(chunk.at(0)["row_mask"]).tolist() == [*mask, 0]
    drawn = order.train_rows(0, 7, 7, 0, 1)[0]
    assert np.asarray(data.chunk(7, 0, 1, 1, multiple=8).at(0)["row_mask"]).tolist() == [*mask[drawn], 0]


@pytest.mark.parametrize("rows", [np.array([0, 0, 1], bool), [0.0, 1.0], [-1], [3]])
def test_only_numbers_of_rows_are_taken(rows):
    data = jc.data.Resident({"label": np.arange(3)})
    for some in (data, jc.data.Indexed(lambda index: {"label": index}, 3)):
        with pytest.raises(InputError, match="take: "):
            some.take(np.asarray(rows))
        assert some.take([2, 0]).size == 2


@pytest.mark.parametrize("parts", [("Train", "Val"), ("train2017", "val2017")])
def test_parts_of_yolo_in_other_letters_or_with_a_year(tmp_path, parts):
    make_yolo(tmp_path)
    for kind, ending in (("images", "png"), ("labels", "txt")):
        for part, names in zip(parts, ("ab", "cd"), strict=True):
            (tmp_path / kind / part).mkdir()
            for name in names:
                file = tmp_path / kind / f"{name}.{ending}"
                if file.exists():
                    file.rename(tmp_path / kind / part / file.name)
    (tmp_path / "labels" / parts[0]).rename(tmp_path / "labels" / parts[0].lower())
    splits = jc.data.yolo(tmp_path, size=32, validation_fraction=0.0)
    assert [len(part.names) for part in splits] == [2, 0, 2] and splits.test.names[0].endswith("c.png")
    (tmp_path / "images" / "train2014").mkdir()
    if "2017" in parts[0]:
        both = "images/train2014 and .*images/train2017"
        with pytest.raises(InputError, match=f"{both} are both the train part; move one of them away"):
            jc.data.yolo(tmp_path, size=32)


@pytest.mark.parametrize("text", ["names: ['a', 'b #1', c]", 'names:\n  "0": a\n  "1": "b #1"\n  "2": c\n'])
def test_names_in_yaml_with_quotes_and_signs(tmp_path, text):
    (tmp_path / "data.yaml").write_text(text)
    assert class_names(tmp_path) == ("a", "b #1", "c")


def test_a_key_of_coco_that_is_there_twice(tmp_path):
    file = make_coco(tmp_path) / "annotations/instances_all.json"
    text = file.read_text()
    file.write_text(text[:-1] + ', "annotations": []}')
    with pytest.raises(InputError, match="has 'annotations' twice; leave one out"):
        jc.data.coco(tmp_path, size=32)
    file.write_text(text.replace('"b.png"', '"./a.png"'))
    with pytest.raises(InputError, match="the file_name 'a.png' is there twice"):
        jc.data.coco(tmp_path, size=32)


def test_two_files_for_one_part_of_an_idx_set(tmp_path):
    for part in ("train", "t10k"):
        for kind, shape in (("images-idx3", (6, 4, 4)), ("labels-idx1", (6,))):
            values = np.arange(np.prod(shape), dtype=np.uint8) % 2
            header = bytes([0, 0, 8, len(shape)]) + np.array(shape, ">u4").tobytes()
            (tmp_path / f"{part}-{kind}-ubyte").write_bytes(header + values.tobytes())
    labels = (tmp_path / "t10k-labels-idx1-ubyte").read_bytes()
    (tmp_path / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(labels))  # the same one, packed
    assert jc.data.idx(tmp_path, validation_fraction=0.0).test.label.tolist() == [0, 1] * 3
    (tmp_path / "t10k-labels.idx1-ubyte").write_bytes(labels)  # a copy, as one published archive has it
    assert jc.data.idx(tmp_path, validation_fraction=0.0).test.label.tolist() == [0, 1] * 3
    (tmp_path / "t10k-labels.idx1-ubyte").write_bytes(labels[:-1] + b"\0")
    with pytest.raises(InputError, match="t10k-labels-idx1-ubyte and t10k-labels.idx1-ubyte are the same part"):
        jc.data.idx(tmp_path)


def test_keys_of_yaml_that_are_there_twice(tmp_path):
    (tmp_path / "data.yaml").write_text("nc: 1\nnc: 2\nnames: {0: a, 1: b}\n")  # not read
    assert class_names(tmp_path) == ("a", "b")
    for text, where in (
        ("names: {0: a, 0: b}", "names: has the key '0'"),
        ("names: [a]\nnames: [b]", "names: is there"),
    ):
        (tmp_path / "data.yaml").write_text(text)
        with pytest.raises(InputError, match=f"{where} twice; remove one"):
            class_names(tmp_path)


def test_yaml_that_is_cut_off(tmp_path):
    make_yolo(tmp_path)
    (tmp_path / "data.yaml").write_text("names: ['a', 'b")
    with pytest.raises(InputError, match="data.yaml: not YAML .*; correct it, or give classes="):
        jc.data.yolo(tmp_path, size=32)


def test_numbers_with_underscores_are_none(tmp_path):
    root = make_yolo(tmp_path)
    (root / "labels/a.txt").write_text("1_1 0.5 0.5 0.2 0.2\n")
    with pytest.raises(InputError, match="line 1: '1_1 .*must be numbers"):
        jc.data.yolo(root, size=32)
    pictures(tmp_path, "0.png", "1.png")
    with pytest.raises(InputError, match="target is '1_0': must be a finite number"):
        jc.data.table(listed(tmp_path, ("0.png", "1_0"), ("1.png", "2"), header=("file", "target")))


def test_a_file_with_two_labels(tmp_path):
    names = [f"{k}.png" for k in range(20)]
    pictures(tmp_path, *names)
    rows = [(name, "ab"[k % 2]) for k, name in enumerate(names)]
    assert jc.data.table(listed(tmp_path, *rows)).train.classes == ("a", "b")
    (tmp_path / "link.png").symlink_to("0.png")
    with pytest.raises(
        InputError, match=r"line 22: .*link.png has another label in line 2; for several labels per image"
    ):
        jc.data.table(listed(tmp_path, *rows, ("link.png", "b")))
    targets = [(name, k) for k, (name, _) in enumerate(rows)]
    jc.data.table(listed(tmp_path, *targets, ("0.png", 3), header=("file", "target")))  # several numbers may be meant


def test_a_class_of_which_no_row_is_learned(tmp_path):
    names = [f"{k}.png" for k in range(6)]
    pictures(tmp_path, *names)
    parts = ("train", "train", "train", "train", "test", "test")
    rows = [(name, label, part) for name, label, part in zip(names, "ababac", parts, strict=True)]
    with pytest.raises(InputError, match="the class 'c' has no training row; add some, or leave the class out"):
        jc.data.table(listed(tmp_path, *rows, header=("file", "label", "split")))


def test_labels_of_one_value_in_two_spellings(tmp_path):
    names = [f"{k}.png" for k in range(8)]
    pictures(tmp_path, *names)
    with pytest.raises(InputError, match="the labels 1 and 01 are the same number; write them the same way"):
        jc.data.table(listed(tmp_path, *zip(names, ["1", "01", "2", "3"] * 2, strict=True)))
    with pytest.raises(InputError, match="mixes text .*--1"):
        jc.data.table(listed(tmp_path, *zip(names, ["1", "--1", "2", "3"] * 2, strict=True)))


@pytest.mark.parametrize("resident_bytes", [2**30, 1])
def test_files_that_are_listed_twice_are_told(tmp_path, caplog, resident_bytes):
    names = [f"{k}.png" for k in range(20)]
    pictures(tmp_path, *names)
    rows = [(name, "ab"[k % 2]) for k, name in enumerate(names)]
    with caplog.at_level(logging.WARNING, "jaxcnn"):
        jc.data.table(listed(tmp_path, *rows, *rows), resident_bytes=resident_bytes)
    assert "are among the training" in caplog.text


@pytest.mark.parametrize("resident_bytes", [2**30, 1])
def test_masks_to_measure_on_that_were_learned_are_told(tmp_path, caplog, resident_bytes):
    for part in ("train", "test"):
        pictures(tmp_path, *(f"{part}/images/{k}.png" for k in range(4)))
        for k in range(4):
            (tmp_path / part / "masks").mkdir(exist_ok=True)
            Image.fromarray(np.eye(4, dtype=np.uint8)).save(tmp_path / part / f"masks/{k}.png")
    for k in range(4):
        (tmp_path / f"test/images/{k}.png").unlink()
        (tmp_path / f"test/images/{k}.png").symlink_to(tmp_path / f"train/images/{k}.png")
    with caplog.at_level(logging.WARNING, "jaxcnn"):
        jc.data.masks(tmp_path, validation_fraction=0.0, resident_bytes=resident_bytes)
    assert "4 of 4 test" in caplog.text


def test_groups_that_the_parts_of_a_set_share_are_told(tmp_path, caplog):
    for part, speakers in (("train", "ab"), ("test", "bc")):
        pictures(tmp_path, *(f"{part}/images/{who}_{k}.png" for who in speakers for k in range(3)))
        pictures(tmp_path, *(f"{part}/masks/{who}_{k}.png" for who in speakers for k in range(3)))
    options = {"values": [0, 10, 20, 30, 40, 50], "validation_fraction": 0.0}
    with caplog.at_level(logging.WARNING, "jaxcnn"):
        jc.data.masks(tmp_path, **options, group="(.)_[0-9]")
    assert "3 of 6 test rows belong to groups of training rows" in caplog.text
    with pytest.raises(InputError, match="not a regular expression"):
        jc.data.masks(tmp_path, **options, group="(")


def test_test_rows_in_another_form(tmp_path):
    (tmp_path / "x_TRAIN.csv").write_text("a,1,2\nb,2,3\n" * 3)
    (tmp_path / "x_TEST.tsv").write_text("a\t1\t2\n")
    with pytest.raises(InputError, match="the test file x_TEST.tsv has another format"):
        jc.data.series(tmp_path / "x_TRAIN.csv")


def test_images_of_pillow_and_lists_of_arrays_stay_bytes():
    image = Image.new("RGB", (4, 3))
    for given in (image, [np.zeros((3, 4), np.uint8)] * 2):
        assert jc.data.dataset([(given, 1)] * 2).example()["image"].dtype == np.uint8


@pytest.mark.parametrize("value", [2**32 + 1, 2**63, -(2**31) - 1])
def test_whole_numbers_beyond_32_bits(value):
    rows = jc.data.dataset([(np.zeros((2, 2, 1), np.uint8), value)] * 2)
    with pytest.raises(InputError, match=f"row 0: label: {value} does not fit into 32 bits"):
        rows.example()


def test_rows_that_are_not_read_by_number():
    class Loader:
        def __len__(self):
            return 3

    class Few(Loader):
        def __getitems__(self, index):
            return [(np.zeros(2), 0)] * (len(index) - 1)

    with pytest.raises(InputError, match=r"Loader: must support rows\[i\]; pass batches to jc.data.Batches"):
        jc.data.dataset(Loader())
    with pytest.raises(InputError, match="__getitems__ returned 0 rows for 1 row numbers"):
        jc.data.dataset(Few()).example()
    stream = jc.data.Batches(lambda: iter([{"image": np.zeros((2, 4, 4, 1), np.uint8)}]), size=2)
    with pytest.raises(InputError, match="Batches: rows cannot be read by number"):
        jc.data.corrupted(stream, "fog", 1)
