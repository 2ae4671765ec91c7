"""TFDS sets with boxes and with masks: rows by the names of their features, and records that are not what they say."""

import json

import numpy as np
import pytest
import tensorflow_datasets as library

from jaxcnn.core.types import InputError
from jaxcnn.data import Indexed, Resident, tfds_boxes, tfds_masks, unletterbox
from tests.data.boxes_on_disk import OBJECTS, SHAPES, picture

NAMES = ("ant", "cat", "dog")


class _Made(library.core.GeneratorBasedBuilder, skip_registration=True):
    VERSION = library.core.Version("1.0.0")
    SPLITS = {"train": "abcd", "validation": "bd", "test": "ad"}

    def _info(self):
        features = library.features.FeaturesDict({"image": library.features.Image(), **self.more()})
        return library.core.DatasetInfo(builder=self, features=features)

    def _split_generators(self, _):
        return {split: self._generate_examples(split, names) for split, names in self.SPLITS.items()}

    def _generate_examples(self, split, names):
        for name in names:
            yield name, {"image": np.asarray(picture(name)), **self.values(split, name)}


class JcBoxes(_Made, skip_registration=True):
    """The features of `voc`."""

    def more(self):
        box = {"bbox": library.features.BBoxFeature(), "label": library.features.ClassLabel(names=NAMES)}
        return {
            "image/filename": library.features.Text(),
            "objects": library.features.Sequence({**box, "is_difficult": np.bool_}),
        }

    def values(self, split, name):
        height, width = SHAPES[name]
        found = [
            {
                "bbox": library.features.BBox(y0 / height, x0 / width, y1 / height, x1 / width),
                "label": label,
                "is_difficult": label == "dog",
            }
            for (y0, x0, y1, x1), label in OBJECTS[name]
        ]
        return {"image/filename": f"{name}.png", "objects": found}


class JcUnpublished(JcBoxes, skip_registration=True):
    """A test split without annotations, as that of `coco`."""

    def values(self, split, name):
        return super().values(split, "c" if split == "test" else name) | {"image/filename": f"{name}.png"}


class JcRegions(_Made, skip_registration=True):
    """The features of `oxford_iiit_pet`: values from 1 on."""

    SPLITS = {"train": "abcd", "test": "ad"}

    def more(self):
        return {
            "segmentation_mask": library.features.Image(shape=(None, None, 1)),
            "file_name": library.features.Text(),
        }

    def values(self, split, name):
        return {"segmentation_mask": 1 + (np.asarray(picture(name))[..., :1] > 125), "file_name": f"{name}.jpg"}

    def _generate_examples(self, split, names):
        for key, row in super()._generate_examples(split, names):
            yield key, row | {"segmentation_mask": row["segmentation_mask"].astype(np.uint8)}


def prepare(builder, root, kind="array_record"):
    config = library.download.DownloadConfig(num_shards=1)
    builder(data_dir=root, file_format=kind).download_and_prepare(download_config=config)
    return root


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Folder with all three sets."""
    root = tmp_path_factory.mktemp("tfds")
    for builder in (JcBoxes, JcUnpublished, JcRegions):
        prepare(builder, root)
    return root


def order(names):
    """TFDS shuffles the rows of a split."""
    return [name.split("/")[-1][0] for name in names]


@pytest.mark.parametrize("resize", ["pad", "squash"])
def test_boxes_are_rows(made, resize):
    splits = tfds_boxes("jc_boxes", data_dir=made, size=48, resize=resize)
    assert [part.size for part in splits] == [4, 2, 2] and splits.train.classes == NAMES
    train = splits.train
    assert isinstance(train, Resident) and set(train.arrays) == {
        "image", "boxes", "box_label", "box_mask", "box_crowd", "image_size", "image_box",
    }  # fmt: skip
    for i, name in enumerate(order(train.names)):
        row = {key: x[i] for key, x in train.arrays.items()}
        there = row["box_mask"] > 0
        assert tuple(row["image_size"]) == SHAPES[name]
        boxes = unletterbox(row["boxes"], row["image_size"], row["image_box"])[there]
        np.testing.assert_allclose(boxes, np.reshape([box for box, _ in OBJECTS[name]], (-1, 4)), atol=1e-3)
        labels = [NAMES[k] for k in row["box_label"][there]]
        assert labels == [label for _, label in OBJECTS[name]]
        np.testing.assert_array_equal(row["box_crowd"][there], [label == "dog" for label in labels])
        bright = row["image"][..., 0] > 125
        inside = np.zeros_like(bright)
        for y0, x0, y1, x1 in np.rint(row["boxes"] * 48).astype(int):
            inside[y0:y1, x0:x1] = True
        assert (inside != bright).mean() < 0.06


def test_boxes_are_read_as_needed(made):
    held = tfds_boxes("jc_boxes", data_dir=made, size=48, max_boxes=3).train
    read = tfds_boxes("jc_boxes", data_dir=made, size=48, max_boxes=3, resident_bytes=0).train
    assert isinstance(read, Indexed) and read.names == held.names
    for name, x in read.read(np.arange(4)).items():
        np.testing.assert_array_equal(x, held.arrays[name])


def test_a_test_split_without_objects(made, caplog):
    splits = tfds_boxes("jc_unpublished", data_dir=made, size=32, validation_fraction=0.25)
    assert [part.size for part in splits] == [3, 1, 2] and sorted(order(splits.test.names)) == ["b", "d"]
    assert "no object in its test split, so the validation split is the test part" in caplog.text


def test_masks_are_rows(made):
    splits = tfds_masks(
        "jc_regions",
        data_dir=made,
        values=(2, 1),
        classes=("pet", "rest"),
        size=64,
        resize="pad",
        validation_fraction=0.25,
    )
    assert [part.size for part in splits] == [3, 1, 2]
    for part in (splits.train, splits.test):
        image, mask = part.arrays["image"], part.arrays["mask"]
        inside = mask != 255
        assert ((image[..., 0] > 125) != (mask == 0))[inside].mean() < 0.05 and part.classes == ("pet", "rest")
    read = tfds_masks("jc_regions", data_dir=made, size=64, resident_bytes=0, validation_fraction=0).train
    held = tfds_masks("jc_regions", data_dir=made, size=64, validation_fraction=0).train
    assert isinstance(read, Indexed) and read.classes == ("0", "1", "2") and read.names == held.names
    for name, x in read.read(np.arange(4)).items():
        np.testing.assert_array_equal(x, held.arrays[name])


@pytest.mark.parametrize(
    "read, name, options, message",
    [
        (tfds_boxes, "jc_regions", {"size": 8}, "needs 'objects' with a 'bbox' and a 'label'"),
        (tfds_masks, "jc_boxes", {"size": 8}, "needs a 'segmentation_mask' of one channel"),
        (tfds_boxes, "jc_boxes", {}, "images of several sizes; give an image size"),
        (tfds_boxes, "jc_boxes", {"size": 8, "resize": "crop"}, "would cut boxes"),
        (tfds_boxes, "jc_nothing", {"size": 8}, "unknown to TFDS"),
        (tfds_masks, "jc_regions", {"size": 8, "classes": ("a", "b")}, "the value 2 is no class"),
        (tfds_masks, "jc_regions", {"size": 8, "classes": ("a",), "values": (1, 2)}, "1 names for 2 values"),
        (tfds_masks, "jc_regions", {"size": 8, "ignore_label": 300}, "ignore_label=300"),
    ],
)
def test_what_does_not_fit_is_one_line(made, read, name, options, message):
    with pytest.raises(InputError, match=message) as error:
        read(name, data_dir=made, download=False, **options)
    assert "\n" not in str(error.value)


def test_another_format(tmp_path):
    prepare(JcBoxes, tmp_path, "tfrecord")
    with pytest.raises(InputError, match="as tfrecord; prepare it as array_record"):
        tfds_boxes("jc_boxes", data_dir=tmp_path, size=8)


class JcBad(JcBoxes, skip_registration=True):
    """Boxes that cannot be meant."""

    def more(self):
        box = {
            "bbox": library.features.BBoxFeature(bbox_format=None),
            "label": library.features.ClassLabel(names=NAMES),
        }
        return {"objects": library.features.Sequence(box)}

    def values(self, split, name):
        boxes = [(0.1, 0.1, 0.5, 0.5), (0.1, 0.1, 0.1, 0.5), (0.5, 0.5, 0.2, 0.6), (0.2, 0.2, 1.5, 1.5), (2, 2, 3, 3)]
        return {"objects": [{"bbox": np.float32(box), "label": 0} for box in boxes]}


def test_boxes_that_cannot_be_meant(tmp_path, caplog):
    prepare(JcBad, tmp_path)
    with pytest.raises(InputError, match="boxes in the format None; must be REL_YXYX"):
        tfds_boxes("jc_bad", data_dir=tmp_path, size=32)
    (file,) = tmp_path.rglob("features.json")
    text = json.loads(file.read_text())
    box = text["featuresDict"]["features"]["objects"]["sequence"]["feature"]["featuresDict"]["features"]["bbox"]
    box["boundingBox"] = {"shape": box["boundingBox"]["shape"], "dtype": "float32", "bboxFormat": "REL_YXYX"}
    file.write_text(json.dumps(text))
    train = tfds_boxes("jc_bad", data_dir=tmp_path, size=32).train
    assert (train.arrays["box_mask"].sum(1) == 2).all()
    assert "24 of 40 boxes are left out" in caplog.text and "8 reach over the border" in caplog.text


def test_records_that_are_not_readable(tmp_path, made):
    import shutil

    shutil.copytree(made / "jc_boxes", tmp_path / "jc_boxes")
    shard = next(tmp_path.rglob("*train*"))
    shard.write_bytes(shard.read_bytes()[:-200])
    with pytest.raises(InputError, match="train"):
        tfds_boxes("jc_boxes", data_dir=tmp_path, size=32)


def test_an_image_that_is_not_readable(made, monkeypatch):
    def decode(encoded, *more):
        raise OSError("broken data stream")

    monkeypatch.setattr("jaxcnn.data.tfds_dense.decode", decode)
    with pytest.raises(InputError, match="split train: record 0 is not readable .*broken data stream"):
        tfds_boxes("jc_boxes", data_dir=made, size=32)
    told = []
    read = tfds_boxes(
        "jc_boxes", data_dir=made, size=32, resident_bytes=0, on_bad=lambda line, n: told.append(line)
    ).train
    rows = read.read(np.arange(2))
    assert not rows["row_mask"].any() and not rows["box_mask"].any() and len(told) == 2
