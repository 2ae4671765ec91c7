"""A tiny real TFDS set gives the same rows in both formats; a set that cannot be read gives one line."""

import dataclasses
import functools
import gc
import io
import json
import os
import pathlib
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
import types
import zlib

import numpy as np
import pytest
import tensorflow_datasets
from PIL import Image

from jaxcnn.data import Indexed, Resident, array_record, shards, tfds, tfds_source, tfrecord
from jaxcnn.data.encoded import decode
from tests.data.test_data import check_once, check_training_order, refused, rows, trained

ROOT = pathlib.Path(__file__).resolve().parents[2]
FORMATS = ("array_record", "tfrecord")
STREAM = {"resident_bytes": 0}


def number(i, side=6):
    """Image number `i`: that gray all over, or a texture."""
    return np.full((side, side, 1), i, np.uint8)


class _Numbered(tensorflow_datasets.core.GeneratorBasedBuilder, skip_registration=True):
    """Images that are their row number all over, with label `number % 3`; subclasses say which splits there are."""

    VERSION = tensorflow_datasets.core.Version("1.0.0")
    SPLITS = {"train": 60, "test": 12}
    IMAGE = (6, 6, 1)

    def _info(self):
        features = {"image": tensorflow_datasets.features.Image(shape=self.IMAGE), "label": self.label()}
        return tensorflow_datasets.core.DatasetInfo(
            builder=self, features=tensorflow_datasets.features.FeaturesDict(features)
        )

    def label(self):
        return tensorflow_datasets.features.ClassLabel(names=["ant", "bee", "cat"])

    def _split_generators(self, _):
        return {name: self._generate_examples(n) for name, n in self.SPLITS.items()}

    def _generate_examples(self, n):
        for i in range(n):
            yield i, {"image": self.image(i), "label": i % 3}

    def image(self, i):
        return number(i)


class JcNumbered(_Numbered, skip_registration=True):
    """Train and test."""


class JcTrainOnly(_Numbered, skip_registration=True):
    """One split."""

    SPLITS = {"train": 60}


class JcThreeParts(_Numbered, skip_registration=True):
    """All three."""

    SPLITS = {"train": 9, "validation": 6, "test": 3}


class JcTextures(_Numbered, skip_registration=True):
    """Images of several sizes."""

    SPLITS = {"train": 9, "test": 3}
    IMAGE = (None, None, 3)

    def image(self, i):
        return np.random.default_rng(i).integers(0, 256, (20 + i, 30 - i, 3)).astype(np.uint8)


class JcNumbers(_Numbered, skip_registration=True):
    """A label that is no class."""

    SPLITS = {"train": 3}

    def label(self):
        return np.int64


class JcTestOnly(_Numbered, skip_registration=True):
    """No rows to learn from."""

    SPLITS = {"test": 3}


def prepare(builder, root, kind, shards=3):
    config = tensorflow_datasets.download.DownloadConfig(num_shards=shards)
    builder(data_dir=root, file_format=kind).download_and_prepare(download_config=config)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Folder of a format, with each set that a test asks for."""
    root = tmp_path_factory.mktemp("tfds")

    def get(builder, kind):
        if not (root / kind / builder.name).exists():
            prepare(builder, root / kind, kind)
        return root / kind

    return get


def everything(data):
    """Rows of a resident or streamed set, in order."""
    read = [(chunk.at(k), rows(chunk)[1][k] > 0) for chunk in data.once(8) for k in range(int(chunk.count))]
    return {
        name: np.concatenate([np.asarray(batch[name])[row_mask] for batch, row_mask in read])
        for name in ("image", "label")
    }


def numbers(*parts):
    return sorted(np.concatenate([everything(part)["image"][:, 0, 0, 0] for part in parts]).tolist())


@pytest.mark.parametrize("kind", FORMATS)
def test_resident(prepared, kind):
    splits = tfds("jc_numbered", data_dir=prepared(JcNumbered, kind), validation_fraction=0.2)
    assert all(isinstance(part, Resident) and part.classes == ("ant", "bee", "cat") for part in splits)
    assert [np.bincount(part.arrays["label"]).tolist() for part in splits] == [[16] * 3, [4] * 3, [4] * 3]
    assert numbers(splits.train, splits.valid) == list(range(60)) and numbers(splits.test) == list(range(12))
    assert splits.train.arrays["image"].shape == (48, 6, 6, 1) and (everything(splits.train)["label"] < 3).all()
    other = tfds("jc_numbered", data_dir=prepared(JcNumbered, kind), validation_fraction=0.2, seed=1)
    assert numbers(other.valid) != numbers(splits.valid) and numbers(other.test) == numbers(splits.test)


@pytest.mark.parametrize("kind", FORMATS)
def test_decoded_rows_are_kept(prepared, tmp_path, monkeypatch, kind):
    shutil.copytree(prepared(JcNumbered, kind) / "jc_numbered", tmp_path / "jc_numbered")
    options = {"data_dir": tmp_path, "validation_fraction": 0.25, "cache": tmp_path / "cache"}
    plain = tfds("jc_numbered", **options | {"cache": None})
    assert not (tmp_path / "cache").exists()
    first = tfds("jc_numbered", **options)
    held = tfds_source._held
    monkeypatch.setattr(tfds_source, "_held", lambda *args: pytest.fail("decoded again"))
    again = tfds("jc_numbered", **options)
    for splits in (first, again):
        for a, b in zip(plain, splits, strict=True):
            assert isinstance(b, Resident) and a.classes == b.classes
            assert all((x == b.arrays[name]).all() and x.dtype == b.arrays[name].dtype for name, x in a.arrays.items())
    monkeypatch.setattr(tfds_source, "_held", held)
    shard = sorted(tmp_path.rglob("*train*00001-of*"))[0]
    shard.write_bytes(shard.read_bytes()[:-9])  # different files give a different key
    refused("is not readable", tfds, "jc_numbered", **options)
    assert tfds("jc_numbered", **options | STREAM).train.size == 45


def test_formats_agree(prepared):
    for builder in (JcNumbered, JcTextures):
        size = (14, 18) if builder is JcTextures else None
        held = [tfds(builder.name, data_dir=prepared(builder, kind), size=size) for kind in FORMATS]
        streamed = [
            tfds(builder.name, data_dir=prepared(builder, kind), size=size, resident_bytes=0) for kind in FORMATS
        ]
        for a, b in zip(*held, strict=True):
            assert (a.arrays["label"] == b.arrays["label"]).all()
            # two libraries resize
            assert np.abs(a.arrays["image"].astype(int) - b.arrays["image"]).max() <= (1 if size else 0)
        a, b = streamed[0].test.read(np.arange(streamed[0].test.size)), streamed[1].test.everything()
        for x, y, z in ((a[name], b[name], held[0].test.arrays[name]) for name in a):
            assert (x == z).all() and np.abs(x.astype(int) - y).max() <= (1 if size else 0)


@pytest.mark.parametrize(("kind", "holder"), [("array_record", Indexed), ("tfrecord", tfrecord.Stream)])
def test_streamed(prepared, kind, holder, monkeypatch):
    monkeypatch.setattr(tfrecord, "BUFFER", 16)  # smaller than the set, as it would be
    splits = tfds("jc_numbered", data_dir=prepared(JcNumbered, kind), validation_fraction=0.25, **STREAM)
    assert all(isinstance(part, holder) for part in splits) and [part.size for part in splits] == [45, 15, 12]
    assert numbers(splits.train, splits.valid) == list(range(60))
    check_once(splits.test)
    without = tfds("jc_numbered", data_dir=prepared(JcNumbered, kind), validation_fraction=0.0, **STREAM)
    assert [part.size for part in without] == [60, 0, 12] and list(without.valid.once(8)) == []
    example = splits.test.example()
    assert example["image"].shape == (1, 6, 6, 1) and example["label"].dtype == np.int32
    kept = splits.test.take(np.array([7, 2, 9]))
    order = everything(splits.test)["image"][:, 0, 0, 0]
    assert everything(kept)["image"][:, 0, 0, 0].tolist() == order[[7, 2, 9]].tolist()


@pytest.mark.parametrize("kind", [FORMATS[0], *(pytest.param(kind, marks=pytest.mark.slow) for kind in FORMATS[1:])])
def test_streamed_training_order(prepared, kind, monkeypatch):
    monkeypatch.setattr(tfrecord, "BUFFER", 16)
    test = tfds("jc_numbered", data_dir=prepared(JcNumbered, kind), **STREAM).test
    if kind == "tfrecord":
        check_training_order(test)
    train = tfds("jc_numbered", data_dir=prepared(JcNumbered, kind), **STREAM).train
    assert (trained(dataclasses.replace(train), 16, 9, 3) == trained(train, 16, 0, 12)[9:]).all()


def test_a_stream_that_reads_on_is_not_begun_anew(prepared, monkeypatch):
    train, begun = tfds("jc_numbered", data_dir=prepared(JcNumbered, "tfrecord"), **STREAM).train, []
    endless = tfrecord.Stream._endless
    monkeypatch.setattr(tfrecord.Stream, "_endless", lambda self, *at: begun.append(at[:2]) or endless(self, *at))
    # as fit reads: one batch to compile for, then that and more
    for start, count in (
        (0, 1),
        (0, 3),
        (3, 1),
        (3, 8),
        (5, 2),
        (7, 9),
    ):
        train.chunk(4, start, count, 9)
    assert begun == [(4, 0)]
    train.chunk(4, 2, 1, 1), train.chunk(5, 3, 1, 1)
    assert begun == [(4, 0), (4, 2), (5, 3)]


def test_reading_ends_when_the_stream_is_dropped(prepared, monkeypatch):
    ended, batches = [], tfrecord.Stream._batches

    def told(self, *at):
        try:
            yield from batches(self, *at)
        finally:
            ended.append(True)

    monkeypatch.setattr(tfrecord.Stream, "_batches", told)
    train = tfds("jc_numbered", data_dir=prepared(JcNumbered, "tfrecord"), **STREAM).train
    train.chunk(4, 0, 2, 2)
    assert not ended
    gc.disable()  # or a collection could do it
    try:
        del train
        assert ended
    finally:
        gc.enable()


def example(image, label):
    """A serialised example, as TFDS writes them."""
    from tensorflow_datasets.proto import tf_example_pb2

    out = tf_example_pb2.Example()
    out.features.feature["image"].bytes_list.value.append(image)
    out.features.feature["label"].int64_list.value.append(label)
    return out.SerializeToString()


def encoded(i):
    out = io.BytesIO()
    Image.fromarray(number(i % 256)[..., 0]).save(out, "png")
    return out.getvalue()


def test_a_stream_does_not_read_ahead_without_end(monkeypatch):
    tf, read, size = tfrecord.tensorflow(), [], 5000

    def generate():
        for i in range(size):
            read.append(i)
            yield example(encoded(i), i % 3)

    def records(self, seed, told):
        return tf.data.Dataset.from_generator(generate, output_signature=tf.TensorSpec((), tf.string))

    builder = types.SimpleNamespace(
        info=types.SimpleNamespace(splits={"train": types.SimpleNamespace(num_examples=size)})
    )
    monkeypatch.setattr(tfrecord, "BUFFER", 50)
    monkeypatch.setattr(tfrecord.Stream, "_encoded", records)
    train = tfrecord.Stream(builder, "train", (6, 6, 1), ("a", "b", "c"))
    train.example()
    train.chunk(4, 0, 8, 8)
    next(train.once(4))
    assert 50 < len(read) < 1000


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("streamed", [{}, STREAM])
def test_other_splits(prepared, kind, streamed):
    splits = tfds("jc_train_only", data_dir=prepared(JcTrainOnly, kind), validation_fraction=0.25, **streamed)
    assert [part.size for part in splits] == [36, 12, 12]
    assert numbers(*splits) == list(range(60))  # no row is in two parts
    splits = tfds("jc_three_parts", data_dir=prepared(JcThreeParts, kind), **streamed)
    assert [part.size for part in splits] == [9, 6, 3] and numbers(splits.valid) == list(range(6))


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("fraction", [0.001, 0.999, 1.5])
@pytest.mark.parametrize("streamed", [{}, STREAM])
def test_bad_fraction(prepared, kind, fraction, streamed):
    folder = prepared(JcNumbered, kind)
    refused(
        f"^validation_fraction={fraction}: ",
        tfds,
        "jc_numbered",
        data_dir=folder,
        validation_fraction=fraction,
        **streamed,
    )


@pytest.mark.parametrize("kind", FORMATS)
def test_several_sizes(prepared, kind):
    refused(
        r"jc_textures: images of several sizes; give an image size to resize them to",
        tfds, "jc_textures", data_dir=prepared(JcTextures, kind),
    )  # fmt: skip
    # the check comes before a download
    refused("cats_vs_dogs: images of several sizes", tfds, "cats_vs_dogs", data_dir=prepared(JcTextures, kind))
    refused("size=-1: must be at least 1", tfds, "jc_textures", data_dir=prepared(JcTextures, kind), size=-1)
    splits = tfds("jc_textures", data_dir=prepared(JcTextures, kind), size=7)
    assert splits.test.arrays["image"].shape == (3, 7, 7, 3)


def test_crops_of_records(prepared):
    root = prepared(JcTextures, "array_record")
    data = tfds("jc_textures", data_dir=root, size=9, resize="crop", crop_ratio=0.8, random_crop=(0.2, 1), train_size=5)
    assert isinstance(data.train, Indexed) and isinstance(data.test, Resident)
    first, second = (np.asarray(data.train.chunk(data.train.size, e, 1, 1).at(0)["image"]) for e in (0, 1))
    assert first.shape[1:] == (5, 5, 3) and data.train.example()["image"].shape == (1, 9, 9, 3)
    assert not any((a == b).all() for a in first for b in second)
    (again,) = np.asarray(data.train.chunk(data.train.size, 1, 1, 1).batches["image"])
    np.testing.assert_array_equal(again, second)
    whole = Image.fromarray(JcTextures.image(None, 0))  # 20 x 30 pixels, of which 16 x 16 are shown
    want = np.asarray(whole.resize((9, 9), Image.Resampling.BILINEAR, box=(7, 2, 23, 18)))
    shown = tfds("jc_textures", data_dir=root, size=9, resize="crop", crop_ratio=0.8).test.arrays["image"]
    assert any((x == want).all() for x in shown)


@pytest.mark.parametrize("options", [{"resize": "crop"}, {"random_crop": (0.1, 1)}])
def test_a_stream_is_only_squashed(prepared, options):
    root = prepared(JcTextures, "tfrecord")
    refused(
        "only resized by squashing; prepare it as array_record", tfds, "jc_textures", data_dir=root, size=9, **options
    )


def test_resizing_averages_what_it_leaves_out():
    out = io.BytesIO()
    Image.fromarray((np.indices((240, 240)).sum(0) % 2 * 255).astype(np.uint8)).save(out, "png")
    assert np.abs(decode(out.getvalue(), (16, 20, 1), True).astype(int) - 127.5).max() < 3


def test_no_image_or_no_class(prepared):
    folder = prepared(JcNumbers, "array_record")
    refused("'jc_numbers': has .*; needs an 'image' with one class 'label'", tfds, "jc_numbers", data_dir=folder)
    # the error comes before a download
    refused("'voc/2007': has .*objects.*; needs an 'image'", tfds, "voc/2007", data_dir=folder)
    refused(
        "'jc_test_only': has the splits test; needs 'train'",
        tfds,
        "jc_test_only",
        data_dir=prepared(JcTestOnly, "array_record"),
    )


# names


def test_unknown_names(tmp_path, capfd):
    refused("'mnits': unknown to TFDS.*; did you mean 'mnist'", tfds, "mnits", data_dir=tmp_path)
    refused("'CIFAR_10': unknown to TFDS.*; did you mean 'cifar10'", tfds, "CIFAR_10", data_dir=tmp_path)
    for name in ("qqqqzz", "", "a b/c="):
        refused("unknown to TFDS.*; the names are on https://", tfds, name, data_dir=tmp_path)
    refused("'emnist/leters': no such configuration; it has byclass, bymerge", tfds, "emnist/leters", data_dir=tmp_path)
    message = refused(
        "cannot be loaded at version 9.9.9, only: 3.0.1.; correct the name", tfds, "mnist:9.9.9", data_dir=tmp_path
    )
    assert len(message) < 200 and capfd.readouterr() == ("", "")


def test_a_version_in_the_name(prepared):
    assert tfds("jc_numbered:1.0.0", data_dir=prepared(JcNumbered, "array_record")).test.size == 12


# TensorFlow


def test_tfrecord_without_tensorflow(prepared, monkeypatch):
    folders = {kind: prepared(JcNumbered, kind) for kind in FORMATS}
    find = tfds_source.importlib.util.find_spec
    monkeypatch.setattr(
        tfds_source.importlib.util, "find_spec", lambda name, *more: None if name == "tensorflow" else find(name, *more)
    )
    refused(
        r"as tfrecord, which needs TensorFlow: pip install -e '.\[tfds\]' in the clone",
        tfds,
        "jc_numbered",
        data_dir=folders["tfrecord"],
    )
    refused(
        r"mnist is not prepared in .*, and preparing it needs TensorFlow: pip install",
        tfds,
        "mnist",
        data_dir=folders["tfrecord"],
    )
    assert tfds("jc_numbered", data_dir=folders["array_record"]).test.size == 12


def test_array_record_imports_no_tensorflow(prepared):
    code = f"""
import sys
from jaxcnn.data import tfds
for bytes in (2**30, 0):
    splits = tfds("jc_numbered", data_dir={str(prepared(JcNumbered, "array_record"))!r}, resident_bytes=bytes)
    print(splits.test.size, splits.train.chunk(4, 0, 1, 1).at(0)["image"].shape, "tensorflow" in sys.modules)
"""
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert found.stdout == "12 (4, 6, 6, 1) False\n" * 2 and "OpenCV" not in found.stderr


def test_tensorflow_never_sees_a_gpu(prepared, monkeypatch):
    import tensorflow as tf

    hidden, order = tf.config.set_visible_devices, []
    monkeypatch.setattr(tf.config, "set_visible_devices", lambda *args: order.append(args) or hidden(*args))
    folder = prepared(JcNumbered, "tfrecord")
    test = tfds("jc_numbered", data_dir=folder, **STREAM).test
    test.example()
    assert order and set(map(str, order)) == {"([], 'GPU')"}
    order.clear()
    monkeypatch.setattr(tfds_source, "_answers", lambda *address: True)
    builder = types.SimpleNamespace(data_path="here", download_and_prepare=lambda: order.append("prepare"))
    tfds_source._prepare(builder, "mnist", True)
    assert order == [([], "GPU"), "prepare"]

    def in_use(*args):
        raise RuntimeError("Visible devices cannot be modified after being initialized")

    monkeypatch.setattr(tf.config, "set_visible_devices", in_use)
    assert tfrecord.tensorflow() is tf


# no data


def test_a_user_without_a_home(prepared, tmp_path, homeless, monkeypatch):
    words = (
        "no user here has the home folder that ~ means; set HOME to a folder, or set TFDS_DATA_DIR, or give a data_dir"
    )
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    monkeypatch.setattr(tensorflow_datasets.core.constants, "DATA_DIR", "~/tensorflow_datasets")
    for options in ({}, {"cache": tmp_path}, {"data_dir": "~/sets"}, {"data_dir": "~/sets", "cache": tmp_path}):
        refused(words, tfds, "mnist", download=False, **options)
    assert tfds("jc_numbered", data_dir=prepared(JcNumbered, "array_record"), cache=tmp_path).test.size == 12


def test_not_prepared(tmp_path, capfd):
    message = refused(
        "mnist is not prepared in .*; give a data_dir .*, or allow the download",
        tfds,
        "mnist",
        data_dir=tmp_path,
        download=False,
    )
    assert str(tmp_path) in message and capfd.readouterr() == ("", "")


@pytest.mark.parametrize("fault", ["refuses", "hangs", "has no name", "name hangs"])
def test_no_network(tmp_path, monkeypatch, capfd, fault):
    over = threading.Event()

    def fail(*args, **options):
        if "hangs" in fault:
            over.wait(30)
        raise (socket.gaierror if "name" in fault else ConnectionRefusedError)("no network here")

    builder = tensorflow_datasets.builder_cls("mnist")
    monkeypatch.setattr(builder, "download_and_prepare", lambda self: pytest.fail("TFDS would retry for three minutes"))
    monkeypatch.setattr(socket, "getaddrinfo" if "name" in fault else "create_connection", fail)
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    start = time.monotonic()
    refused(
        "not prepared in .*, and storage.googleapis.com does not answer; go online, or give",
        tfds,
        "mnist",
        data_dir=tmp_path,
    )
    assert time.monotonic() - start < 10 and capfd.readouterr() == ("", "")
    over.set()


def test_a_download_that_fails(tmp_path, monkeypatch):
    def fail(self):
        raise OSError("first\nsecond")

    monkeypatch.setattr(tensorflow_datasets.builder_cls("mnist"), "download_and_prepare", fail)
    monkeypatch.setattr(tfds_source, "_answers", lambda *address: True)
    refused(
        "not prepared in .*, and preparing it failed: first second; give a data_dir", tfds, "mnist", data_dir=tmp_path
    )


@pytest.mark.parametrize(
    ("url", "environment", "address"),
    [
        ("https://here.org/a.zip", {}, ("here.org", 443)),
        ("http://here.org/a.zip", {}, ("here.org", 80)),
        ("https://here.org:8443/a.zip", {}, ("here.org", 8443)),
        ("", {}, ("storage.googleapis.com", 443)),
        ("https://here.org/a.zip", {"https_proxy": "http://gate:3128"}, ("gate", 3128)),
        ("https://here.org/a.zip", {"https_proxy": "gate:3128"}, ("gate", 3128)),
        ("https://here.org/a.zip", {"http_proxy": "http://gate:3128"}, ("here.org", 443)),
        ("https://here.org/a.zip", {"https_proxy": "http://gate:3128", "no_proxy": "here.org"}, ("here.org", 443)),
    ],
)
def test_where_a_download_goes(monkeypatch, url, environment, address):
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert tfds_source._address(types.SimpleNamespace(url_infos={url: None})) == address


def test_an_open_port_answers():
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = server.getsockname()
        assert tfds_source._answers(*address)
    assert not tfds_source._answers(*address)


# damage


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("damage", ["cut", "empty", "gone"])
def test_a_damaged_shard(prepared, tmp_path, kind, damage):
    shutil.copytree(prepared(JcNumbered, kind) / "jc_numbered", tmp_path / "jc_numbered")
    shard = sorted(tmp_path.rglob("*train*00001-of*"))[0]
    raw = shard.read_bytes()
    shard.write_bytes(raw[: len(raw) // 2] if damage == "cut" else b"")
    if damage == "gone":
        shard.unlink()
    folder, name = re.escape(str(shard.parent)), re.escape(shard.name)
    mend = "delete the folder and prepare it again"
    match = rf"^{folder}: split train.* is not readable \(.*\); {name} is cut or missing; {mend}$"
    refused(match, tfds, "jc_numbered", data_dir=tmp_path)
    splits = tfds("jc_numbered", data_dir=tmp_path, **STREAM)
    message = refused(match, lambda: list(splits.train.once(8)))
    refused(match, splits.train.chunk, 8, 0, 12, 12)
    assert len(message) < 600 and "function_node" not in message


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("batch_size", [4, 5, 2])
def test_shares_of_a_stream_are_the_columns_of_the_whole(prepared, kind, batch_size):
    open_ = lambda: tfds("jc_numbered", data_dir=prepared(JcNumbered, kind), **STREAM).train
    for make in (lambda d, *s: d.chunk(batch_size, 7, 9, 9, 4, *s), lambda d, *s: next(d.once(batch_size, 4, *s))):
        whole, parts = make(open_()).batches, [make(open_(), (i, 2)).batches for i in range(2)]
        row_mask = np.broadcast_to(whole.get("row_mask", np.ones(())), whole["label"].shape) > 0
        for name in whole:
            joined = np.concatenate([p[name] for p in parts], 1)
            np.testing.assert_array_equal(joined[row_mask], np.asarray(whole[name])[row_mask])
        assert "row_mask" not in whole or (np.concatenate([p["row_mask"] for p in parts], 1) == whole["row_mask"]).all()


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("options", [{}, STREAM], ids=["resident", "streamed"])
def test_a_damaged_shard_can_be_left_out(prepared, tmp_path, kind, options):
    shutil.copytree(prepared(JcNumbered, kind) / "jc_numbered", tmp_path / "jc_numbered")
    whole = tfds("jc_numbered", data_dir=tmp_path)
    for shard in sorted(tmp_path.rglob("*train*00001-of*")):
        shard.write_bytes(shard.read_bytes()[: shard.stat().st_size // 2])
    told = []
    splits = tfds("jc_numbered", data_dir=tmp_path, on_bad=lambda line, rows: told.append((line, rows)), **options)
    assert sum(p.size for p in splits[:2]) + sum(rows for _, rows in told) == sum(p.size for p in whole[:2])
    assert len(told) == 1 and "-00001-of-" in told[0][0] and told[0][1] > 0
    read = [chunk.at(k) for part in splits[:2] for chunk in part.once(8) for k in range(int(chunk.count))]
    assert sum(int((b.get("row_mask", np.ones(8)) > 0).sum()) for b in read) == sum(p.size for p in splits[:2])
    splits.train.chunk(8, 0, 12, 12)


@pytest.mark.parametrize("name", ["dataset_info.json", "features.json"])
def test_a_damaged_description(prepared, tmp_path, name):
    shutil.copytree(prepared(JcNumbered, "tfrecord") / "jc_numbered", tmp_path / "jc_numbered")
    next(tmp_path.rglob(name)).write_text("{")
    refused(
        f"^dataset 'jc_numbered': .*{name}: not JSON .*; delete the folder and prepare the set again",
        tfds,
        "jc_numbered",
        data_dir=tmp_path,
    )


# untrusted folders and records

FEATURES = "tensorflow_datasets.core.features."


@pytest.fixture
def payload(tmp_path, monkeypatch):
    """A module in the current folder that leaves a trace if it is imported; the fixture checks for the trace."""
    (tmp_path / "payload.py").write_text(
        "import pathlib\npathlib.Path(__file__).with_name('ran').touch()\nclass Image: pass\n"
    )
    (tmp_path / "jc_numbered.py").write_text("import payload\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield (tmp_path / "ran").exists
    sys.modules.pop("payload", None)


def copied(prepared, tmp_path, kind, name="jc_numbered"):
    """A copy of the prepared set, to change: its version folder."""
    shutil.copytree(prepared(JcNumbered, kind) / "jc_numbered", tmp_path / "sets" / name)
    return tmp_path / "sets" / name / "1.0.0"


def stated(folder, file, place, value):
    """Change one value of a metadata file; `place` are the keys that lead to it."""
    whole = json.loads((folder / file).read_text())
    *above, last = place
    inner = whole
    for key in above:
        inner = inner[key]
    inner[last] = value
    (folder / file).write_text(json.dumps(whole))


IMAGE, LABEL, SPLIT = ("featuresDict", "features", "image"), ("featuresDict", "features", "label"), ("splits", 0)
ALIEN = {"pythonClassName": "payload.Image", "tensor": {}}
SEQUENCE = {"pythonClassName": f"{FEATURES}sequence_feature.Sequence", "sequence": {"feature": ALIEN, "length": "-1"}}
OLDER = json.dumps({"a": {"type": "payload.Image", "content": {}}})
NESTED = {
    "class": ("features.json", (*IMAGE, "pythonClassName"), "payload.Image"),
    "the other spelling": ("features.json", (*IMAGE, "python_class_name"), "payload.Image"),
    "the older form": ("features.json", ("type",), "payload.Image"),
    "in a sequence": ("features.json", (*IMAGE[:2], "x"), SEQUENCE),
    "in a string": ("features.json", (*IMAGE[:2], "x"), {"pythonClassName": f"{FEATURES}features_dict.FeaturesDict",
                                                           "jsonFeature": {"json": OLDER}}),
    "in dataset_info.json": ("dataset_info.json", ("features",), ALIEN),
}  # fmt: skip


@pytest.mark.parametrize("place", NESTED)
def test_a_class_that_a_folder_names_is_not_imported(prepared, tmp_path, payload, place):
    stated(copied(prepared, tmp_path, "array_record"), *NESTED[place])
    message = refused(
        "^dataset 'jc_numbered': .*the feature class 'payload.Image' is not one of TFDS's own",
        tfds,
        "jc_numbered",
        data_dir="sets",
    )
    assert not payload() and "delete the folder and prepare the set again" in message


def test_other_names_import_nothing(prepared, tmp_path, payload):
    folder = copied(prepared, tmp_path, "array_record")
    stated(folder, "dataset_info.json", ("moduleName",), "payload")
    assert tfds("jc_numbered", data_dir="sets").test.size == 12
    for name in (
        "payload", "a.b.payload", "payload:1.0.0", "payload/payload", "jc_numbered/payload", "huggingface:payload",
        "../sets",
    ):  # fmt: skip
        refused(rf"^dataset {name!r}: (unknown to TFDS|not prepared in this version)", tfds, name, data_dir="sets")
    refused("nothing else is read from a name", tfds, "mnist/version=3.0.1", data_dir="sets")
    assert not payload()


def test_a_folder_of_a_known_name_is_checked_too(prepared, tmp_path, payload):
    folder = copied(prepared, tmp_path, "array_record", "mnist")
    stated(folder, *NESTED["class"])
    for name in ("mnist", "mnist:1.0.0", "mnist:1.*.*"):
        refused("feature class 'payload.Image' is not one of", tfds, name, data_dir="sets", download=False)
    assert not payload()


LIES = [
    ("features.json", (*IMAGE, "image", "shape", "dimensions"), ["1000000", "1000000", "1"],
     r"images of shape \(1000000, 1000000, 1\)"),
    ("features.json", (*IMAGE, "image", "shape", "dimensions"), "x", "dimensions"),
    ("features.json", (*IMAGE, "image", "shape", "dimensions"), ["0", "6", "1"], "images of shape"),
    ("features.json", (*IMAGE, "image", "dtype"), "evil", "evil"),
    ("features.json", (*LABEL, "classLabel", "numClasses"), str(10**18), "classes; must be 1 to 1,000,000"),
    ("features.json", (*LABEL, "classLabel", "numClasses"), "-3", "classes; must be 1 to"),
    ("features.json", (*LABEL, "classLabel", "numClasses"), [1], "features.json: .*numClasses"),
    ("features.json", (*IMAGE[:2], "../x"), {"pythonClassName": f"{FEATURES}text_feature.Text", "text": {}},
     "'../x' is a path"),
    ("features.json", (*IMAGE[:2], "x"),
     {"type": f"{FEATURES}class_label_feature.ClassLabel", "content": {"names_file": "/dev/zero"}},
     "names_file: '/dev/zero'"),
    ("dataset_info.json", ("splits",), {}, "dataset_info.json: .*splits"),
    ("dataset_info.json", ("name",), "../mnist", "must be those of a set"),
    ("dataset_info.json", ("version",), "1.0", "must be those of a set"),
    ("dataset_info.json", ("fileFormat",), "parquet", "fileFormat 'parquet': must be tfrecord or array_record"),
    ("dataset_info.json", (*SPLIT, "name"), "a/b", "split 'a/b': must be a plain name"),
    ("dataset_info.json", (*SPLIT, "shardLengths"), ["-1", "20", "20"], "shardLengths has -1"),
    ("dataset_info.json", (*SPLIT, "shardLengths"), [None], "shardLengths"),
    ("dataset_info.json", (*SPLIT, "shardLengths"), [str(10**15), "20", "20"],
     "states 1,000,000,000,000,040 rows of split train"),
    ("dataset_info.json", (*SPLIT, "shardLengths"), ["0"] * 100_001, "100,001 shards, more than 100,000"),
    ("dataset_info.json", (*SPLIT, "filepathTemplate"), "/etc/passwd",
     "filepathTemplate '/etc/passwd': must be a plain file name"),
    ("dataset_info.json", (*SPLIT, "filepathTemplate"), "../{DATASET}", "must be a plain file name"),
    ("dataset_info.json", (*SPLIT, "filepathTemplate"), "{DATASET.__class__}", "must be a plain file name"),
    ("dataset_info.json", (*SPLIT, "filepathTemplate"), "{SHARD_INDEX:99999999999d}", "must be a plain file name"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("file", "place", "value", "words"), LIES, ids=[f"{place[-1]} {i}" for i, (_, place, _, _) in enumerate(LIES)]
)
def test_metadata_that_lies(prepared, tmp_path, file, place, value, words):
    stated(copied(prepared, tmp_path, "array_record"), file, place, value)
    for options in ({}, STREAM):
        refused(words, tfds, "jc_numbered", data_dir=tmp_path / "sets", **options)


@pytest.mark.parametrize("text", ["[" * 200_000, "[]", "null", "", "\xff"])
@pytest.mark.parametrize("file", ["features.json", "dataset_info.json", ".config/metadata.json"])
def test_metadata_of_another_kind(prepared, tmp_path, file, text):
    folder = copied(prepared, tmp_path, "array_record")
    path = (folder.parent if file.startswith(".") else folder) / file
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(text.encode("latin-1"))
    if file.startswith(".") and text in ("[]", "null"):  # nothing is read from it
        assert tfds("jc_numbered", data_dir=tmp_path / "sets").test.size == 12
    else:
        refused(f"^dataset 'jc_numbered': .*{file}", tfds, "jc_numbered", data_dir=tmp_path / "sets")


@pytest.mark.parametrize(
    "file", ["features.json", "dataset_info.json", "label.labels.txt", "jc_numbered-train.tfrecord-00001-of-00003"]
)
def test_pipes_in_a_folder(prepared, tmp_path, file):
    folder = copied(prepared, tmp_path, "tfrecord")
    (folder / file).unlink()
    os.mkfifo(folder / file)
    refused(f"{file}: not a regular file; delete the folder", tfds, "jc_numbered", data_dir=tmp_path / "sets")


def crc32c(data):
    """The checksum of a record, as TensorFlow masks it."""
    c = 0xFFFFFFFF
    for byte in data:
        c ^= byte
        for _ in range(8):
            c = (c >> 1) ^ (0x82F63B78 & -(c & 1))
    c ^= 0xFFFFFFFF
    return ((((c >> 15) | (c << 17)) + 0xA282EAD8) & 0xFFFFFFFF).to_bytes(4, "little")


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("lengths", [["19", "20", "20"], ["21", "20", "20"]])
def test_shards_of_other_lengths(prepared, tmp_path, kind, lengths):
    stated(copied(prepared, tmp_path, kind), "dataset_info.json", (*SPLIT, "shardLengths"), lengths)
    words = f"00000-of-00003 does not hold the {lengths[0]} records that dataset_info.json states"
    refused(words, tfds, "jc_numbered", data_dir=tmp_path / "sets")
    splits = tfds("jc_numbered", data_dir=tmp_path / "sets", validation_fraction=0.0, **STREAM)
    refused(words, lambda: list(splits.train.once(8)))


def test_a_record_that_states_terabytes(prepared, tmp_path):
    folder = copied(prepared, tmp_path, "tfrecord")
    shard = folder / "jc_numbered-train.tfrecord-00000-of-00003"
    length = (2**42).to_bytes(8, "little")  # the checksum is right, so that only the length can tell
    shard.write_bytes(length + crc32c(length) + shard.read_bytes()[12:])
    refused("00000-of-00003 does not hold the 20 records", tfds, "jc_numbered", data_dir=tmp_path / "sets")
    splits = tfds("jc_numbered", data_dir=tmp_path / "sets", validation_fraction=0.0, **STREAM)
    refused("00000-of-00003 does not hold the 20 records", lambda: list(splits.train.once(8)))


def test_holes_of_a_sparse_shard_are_not_counted(prepared, tmp_path):
    folder = copied(prepared, tmp_path, "tfrecord")
    os.truncate(folder / "jc_numbered-train.tfrecord-00000-of-00003", 10**12)
    refused("00000-of-00003 does not hold the 20 records", tfds, "jc_numbered", data_dir=tmp_path / "sets")


@pytest.mark.parametrize("kind", FORMATS)
def test_a_split_without_examples(prepared, tmp_path, kind):
    stated(copied(prepared, tmp_path, kind), "dataset_info.json", (*SPLIT, "shardLengths"), [])
    refused("split train", tfds, "jc_numbered", data_dir=tmp_path / "sets")


def test_a_chunk_that_grows_to_gigabytes(prepared, tmp_path, monkeypatch):
    from array_record.python.array_record_module import ArrayRecordWriter

    shard = copied(prepared, tmp_path, "array_record") / "jc_numbered-train.array_record-00000-of-00003"
    for options in ("group_size:1", "group_size:7,uncompressed"):
        writer = ArrayRecordWriter(str(shard), options)
        for i in range(20):
            writer.write(example(encoded(i), i % 3) if i else bytes(300_000))  # which a few bytes are enough for
        writer.close()
        found, largest = shards._array_records(str(shard))
        assert found == 20 and 300_000 <= largest < 310_000
        with monkeypatch.context() as patch:
            patch.setattr(shards, "CHUNK", 200_000)
            refused("00000-of-00003 does not hold the 20 records", tfds, "jc_numbered", data_dir=tmp_path / "sets")


def test_a_kind_of_chunk_that_tfds_never_writes(tmp_path):
    from array_record.python.array_record_module import ArrayRecordWriter

    writer = ArrayRecordWriter(str(tmp_path / "transposed"), "group_size:5,transpose:true")
    writer.write(b"x")
    writer.close()
    assert shards._array_records(str(tmp_path / "transposed")) == (-1, 0)


def test_records_of_many_bytes_are_read_one_by_one(prepared, tmp_path, monkeypatch):
    from array_record.python.array_record_data_source import ArrayRecordDataSource

    copied(prepared, tmp_path, "array_record")
    read, asked = ArrayRecordDataSource.__getitems__, []
    monkeypatch.setattr(
        ArrayRecordDataSource, "__getitems__", lambda self, keys: asked.append(len(keys)) or read(self, keys)
    )
    monkeypatch.setattr(array_record, "READ_BYTES", 1_000)  # a record and the index of 20 have some hundreds
    assert tfds("jc_numbered", data_dir=tmp_path / "sets").test.size == 12
    assert max(asked) < 10


@pytest.mark.parametrize("options", [{}, STREAM], ids=["resident", "streamed"])
@pytest.mark.parametrize("kind", FORMATS)
def test_a_shard_that_is_stated_to_be_empty(prepared, tmp_path, kind, options):
    folder = copied(prepared, tmp_path, kind)
    stated(folder, "dataset_info.json", (*SPLIT, "shardLengths"), ["20", "0", "20"])
    read = functools.partial(tfds, "jc_numbered", data_dir=tmp_path / "sets", **options)
    refused("00001-of-00003 does not hold the 0 records", lambda: everything(read().train))
    told = []
    splits = read(on_bad=lambda line, rows: told.append((line, rows)))
    assert sum(part.size for part in splits[:2]) == 40
    assert len(told) == 1 and "holds records where dataset_info.json states none" in told[0][0] and told[0][1] == 20
    next(folder.glob("*train*00001-of-00003")).unlink()
    assert sum(part.size for part in read()[:2]) == 40


def picture(size, form, **declared):
    """An image file of one gray, whose head may declare other sides."""
    out = io.BytesIO()
    Image.new("L", size, 7).save(out, form)
    raw = bytearray(out.getvalue())
    for at, sides in declared.items():
        raw[int(at[1:]) : int(at[1:]) + len(sides)] = sides
    if form == "png":
        raw[29:33] = zlib.crc32(raw[12:29]).to_bytes(4, "big")
    return bytes(raw)


RECORDS = {
    "png": (
        lambda: example(picture((6, 6), "png", _16=(2**30).to_bytes(4, "big") * 2), 1),
        "an image of more than the 67,108,864 pixels",
    ),
    "gif": (
        lambda: example(picture((6, 6), "gif", _6=b"\xff\xff" * 2), 1),
        "an image of more than the 67,108,864 pixels",
    ),
    "bmp": (
        lambda: example(picture((6, 6), "bmp", _18=(60_000).to_bytes(4, "little") * 2), 1),
        "an image of more than the 67,108,864 pixels",
    ),
    "another size": (lambda: example(picture((7, 6), "png"), 1), None),
    "another format": (lambda: example(picture((6, 6), "tiff"), 1), "none of PNG, JPEG, GIF, BMP"),
    "eps": (lambda: example(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 6 6\n", 1), "none of PNG, JPEG, GIF, BMP"),
    "no image": (lambda: example(b"", 1), "none of PNG, JPEG, GIF, BMP"),
    "no example": (lambda: b"\xff\x01\x02", None),
    "a label of no class": (
        lambda: example(encoded(1), 3),
        "label 3 is out of range; with 3 classes labels are 0 to 2",
    ),
    "a label beyond int32": (lambda: example(encoded(1), 2**32), "label 4294967296 is out of range"),
}


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("record", RECORDS)
def test_a_record_of_another_kind(prepared, tmp_path, kind, record):
    shard = copied(prepared, tmp_path, kind) / f"jc_numbered-test.{kind}-00000-of-00003"
    records, words = [example(encoded(i), i % 3) for i in range(100, 104)], RECORDS[record][1] or "is not readable"
    records[2] = RECORDS[record][0]()
    if kind == "tfrecord":
        with tfrecord.tensorflow().io.TFRecordWriter(str(shard)) as writer:
            for one in records:
                writer.write(one)
    else:
        from array_record.python.array_record_module import ArrayRecordWriter

        writer = ArrayRecordWriter(str(shard), "group_size:1")
        for one in records:
            writer.write(one)
        writer.close()
    refused(words, tfds, "jc_numbered", data_dir=tmp_path / "sets")
    told = []
    left = tfds("jc_numbered", data_dir=tmp_path / "sets", on_bad=lambda line, rows: told.append((line, rows))).test
    assert len(told) == 1 and told[0][1] == 1 and "\n" not in told[0][0]
    assert len(numbers(left)) == 11 and numbers(left)[-3:] == [100, 101, 103]


@pytest.mark.parametrize("kind", FORMATS)
def test_rare_formats_and_large_images_are_read(prepared, tmp_path, kind, monkeypatch):
    monkeypatch.setattr(tfrecord, "SMALL", 40)  # so that the others count as large
    forms = [("png", (6, 6)), ("gif", (6, 6)), ("bmp", (6, 6)), ("png", (8, 8)), ("jpeg", (6, 6)), ("jpeg", (8, 8))]
    tf = tfrecord.tensorflow()
    for form, size in forms:
        data = picture(size, form)
        if kind == "array_record":
            image = decode(data, (6, 6, 1), True)
        else:
            image = tf.function(tfrecord._decoder((6, 6, 1), True, []))(example(data, 2))["image"].numpy()
        assert image.shape == (6, 6, 1) and np.abs(image.astype(int) - 7).max() <= 1, (form, size)


@pytest.mark.slow
@pytest.mark.parametrize("kind", FORMATS)
def test_real_mnist(shared, tmp_path, kind):
    script = shared.parent / "tools" / "prepare_tfds_mnist.py"
    subprocess.run([sys.executable, script, tmp_path, "--format", kind], check=True, capture_output=True)
    splits = tfds("mnist", data_dir=tmp_path)
    assert [part.size for part in splits] == [54_000, 6_000, 10_000] and splits.train.classes == tuple("0123456789")
    assert np.bincount(splits.test.arrays["label"]).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert round(float(splits.test.arrays["image"].mean()), 2) == 33.79
