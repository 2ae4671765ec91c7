"""Pascal VOC: layouts, lists, hostile XML, and blood cells."""

import numpy as np
import pytest

from jaxcnn.core.types import InputError
from jaxcnn.data import voc
from tests.data.boxes_on_disk import OBJECTS, make_voc, ones, picture, save, xml

LAUGHS = "".join(f'<!ENTITY l{i} "{f"&l{i - 1};" * 10}">' for i in range(1, 10))


def whole(path, **options):
    return voc(path, **{"validation_fraction": 0.0, "test_fraction": 0.0, "size": 32} | options).train


def lists(root, **parts):
    (root / "ImageSets/Main").mkdir(parents=True)
    for part, names in parts.items():
        (root / "ImageSets/Main" / f"{part}.txt").write_text("".join(f"{name}\n" for name in names))


def test_lists_name_the_rows_of_the_parts(tmp_path):
    root = make_voc(tmp_path / "VOCdevkit/VOC2012")
    (root / "Annotations/c.xml").unlink()  # in no list
    lists(root, train="ab", val="d", trainval="abd")
    splits = voc(tmp_path, size=32, validation_fraction=0.5)
    assert [part.size for part in splits] == [1, 1, 1]
    assert splits.test.names == ("VOCdevkit/VOC2012/JPEGImages/d.png",)
    lists(tmp_path / "x", train="a")
    (root / "ImageSets/Main/test.txt").write_text("b\n")
    assert [part.names[0][-5] for part in voc(root, size=32)] == ["a", "d", "b"]


def test_trainval_alone(tmp_path):
    root = make_voc(tmp_path)
    lists(root, trainval="abcd", test="a")
    assert [part.size for part in voc(root, size=32, validation_fraction=0.25)] == [3, 1, 1]


def test_files_beside_their_images(tmp_path):
    for part, names in (("train", "abc"), ("valid", "d")):
        for name in names:
            save(tmp_path / part / f"{name}.png", picture(name))
            (tmp_path / part / f"{name}.xml").write_text(xml(ones(OBJECTS[name])))
    assert [part.size for part in voc(tmp_path, size=32, validation_fraction=0.4)] == [2, 1, 1]
    assert whole(tmp_path / "train").size == 3


def test_two_sets_in_one_folder(tmp_path):
    make_voc(tmp_path / "VOC2007")
    make_voc(tmp_path / "VOC2012")
    with pytest.raises(InputError, match="VOC2012; give one of them"):
        whole(tmp_path)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda d: (d / "JPEGImages/b.png").unlink(), r"b.xml: no image of this name"),
        (lambda d: (d / "Annotations/b.xml").unlink(), r"b.png: no b.xml"),
        (lambda d: save(d / "JPEGImages/b.jpg", picture("b")), "b.png: b.jpg has the same name; remove one"),
        (lambda d: (d / "JPEGImages").rename(d / "x"), "no JPEGImages/"),
    ],
)
def test_files_without_the_other(tmp_path, change, message):
    root = make_voc(tmp_path)
    change(root)
    with pytest.raises(InputError, match=message) as error:
        whole(root)
    assert "\n" not in str(error.value)


def test_pairs_that_are_not_whole_may_be_left_out(tmp_path):
    root, told = make_voc(tmp_path), []
    (root / "JPEGImages/b.png").unlink()
    (root / "Annotations/a.xml").write_text("<annotation>")
    assert whole(root, on_bad=lambda line, n: told.append(line)).size == 2 and len(told) == 2


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "not a readable XML file"),
        ("<annotation><object>", "not a readable XML file"),
        ("<annotation>\x00</annotation>", "not a readable XML file"),
        ('<!DOCTYPE x [<!ENTITY l0 "lol">' + LAUGHS + "]><annotation>&l9;</annotation>", "has a DOCTYPE"),
        ('<!DOCTYPE x SYSTEM "file:///etc/passwd"><annotation/>', "has a DOCTYPE"),
        ("<annotation><object><name>cat</name></object></annotation>", "an object without bndbox"),
        ("<annotation><object><bndbox/></object></annotation>", "an object without name"),
        (xml([((1, 1, "x", 4), "cat")]), "ymax is 'x'; must be a number"),
        (xml([((1, 1, "", 4), "cat")]), "ymax is ''; must be a number"),
        (xml([((1, 1, 3, 4), "cat")]).replace("<difficult>0", "<difficult>yes"), "difficult is 'yes'"),
        (xml([], ("x", 4)), "height is 'x'"),
        (xml([((1, 1, 3, 4), "\x1b[2J")]), "not a readable XML file"),
        (xml([((1, 1, 9, 9), "a\u202eb")]), r"'a\\\\u202eb' is not in classes="),
    ],
)
def test_hostile_files_are_one_line(tmp_path, text, message):
    root = make_voc(tmp_path, ("a",))
    (root / "Annotations/a.xml").write_text(text)
    with pytest.raises(InputError, match=f"a.xml: .*{message}") as error:
        whole(root, classes=("cat", "dog"))
    assert "\n" not in str(error.value) and str(error.value).isprintable()


@pytest.mark.parametrize("data", [b"\xff\xfe<\0a\0", '<?xml version="1.0"?><a>\xe9</a>'.encode("latin-1")])
def test_other_encodings(tmp_path, data):
    root = make_voc(tmp_path, ("a",))
    (root / "Annotations/a.xml").write_bytes(data)
    with pytest.raises(InputError, match="a.xml: not UTF-8 text"):
        whole(root)


def test_a_doctype_cannot_hide_in_another_encoding(tmp_path):
    """Text is handed to the parser as UTF-8, whatever its declaration says."""
    root = make_voc(tmp_path, ("a",))
    hidden = b'<?xml version="1.0" encoding="cp037"?>' + '<!DOCTYPE x [<!ENTITY a "b">]><x>&a;</x>'.encode("cp037")
    (root / "Annotations/a.xml").write_bytes(hidden)
    with pytest.raises(InputError, match="a.xml: not"):
        whole(root)


def test_a_file_that_is_nested_deeply(tmp_path):
    root = make_voc(tmp_path, ("a",))
    (root / "Annotations/a.xml").write_text("<a>" * 100_000 + "</a>" * 100_000)
    assert not whole(root, classes=("cat",)).arrays["box_mask"].any()


def test_no_object_in_any_image(tmp_path):
    root = make_voc(tmp_path, ("c",))
    with pytest.raises(InputError, match="no object in any image"):
        whole(root)
    read = whole(root, classes=("cat",))
    assert read.arrays["boxes"].shape == (1, 1, 4) and not read.arrays["box_mask"].any()


def test_blood_cells(shared, tmp_path, caplog):
    import zipfile

    with zipfile.ZipFile(shared / "bccd/bccd_voc.zip") as archive:
        archive.extractall(tmp_path)
    splits = voc(tmp_path, size=(96, 128), max_boxes=40)
    assert [part.size for part in splits] == [205, 87, 72] and splits.train.classes == ("Platelets", "RBC", "WBC")
    there = [np.asarray(part.arrays["box_label"])[part.arrays["box_mask"] > 0] for part in splits]
    assert np.bincount(np.concatenate(there)).tolist() == [361, 4153, 372]
    assert splits.train.arrays["boxes"].shape == (205, 40, 4)
    assert "2 of 4888 boxes are left out: 2 without area" in caplog.text
    assert all((part.arrays["boxes"] >= 0).all() and (part.arrays["boxes"] <= 1).all() for part in splits)
