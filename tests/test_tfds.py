"""TFDS sets: a tiny real one, prepared in both formats, is read alike; what cannot be read is said in one line."""

import dataclasses
import gc
import io
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

import numpy as np
import pytest
import tensorflow_datasets
from PIL import Image
from test_data import check_once, check_training_order, refused, rows, trained

from jaxcnn.data import Indexed, Resident, tfds, tfds_source, tfrecord
from jaxcnn.data.encoded import decode

ROOT = pathlib.Path(__file__).resolve().parents[1]
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
        return tensorflow_datasets.core.DatasetInfo(builder=self, features=tensorflow_datasets.features.FeaturesDict(features))

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
    return {name: np.concatenate([np.asarray(batch[name])[real] for batch, real in read]) for name in ("image", "label")}


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
    shard.write_bytes(shard.read_bytes()[:-9])  # other files, another key
    refused("is not readable", tfds, "jc_numbered", **options)
    assert tfds("jc_numbered", **options | STREAM).train.size == 45


def test_formats_agree(prepared):
    for builder in (JcNumbered, JcTextures):
        size = (14, 18) if builder is JcTextures else None
        held = [tfds(builder.name, data_dir=prepared(builder, kind), size=size) for kind in FORMATS]
        streamed = [tfds(builder.name, data_dir=prepared(builder, kind), size=size, resident_bytes=0) for kind in FORMATS]
        for a, b in zip(*held, strict=True):
            assert (a.arrays["label"] == b.arrays["label"]).all()
            assert np.abs(a.arrays["image"].astype(int) - b.arrays["image"]).max() <= (1 if size else 0)  # two libraries resize
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
    for start, count in ((0, 1), (0, 3), (3, 1), (3, 8), (5, 2), (7, 9)):  # as fit reads: one batch to compile for, then that and more
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

    builder = types.SimpleNamespace(info=types.SimpleNamespace(splits={"train": types.SimpleNamespace(num_examples=size)}))
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
    refused(f"^validation_fraction={fraction}: ", tfds, "jc_numbered", data_dir=folder, validation_fraction=fraction, **streamed)


@pytest.mark.parametrize("kind", FORMATS)
def test_several_sizes(prepared, kind):
    refused(
        r"jc_textures: images of several sizes; give an image size to bring them to",
        tfds, "jc_textures", data_dir=prepared(JcTextures, kind),
    )  # fmt: skip
    refused("cats_vs_dogs: images of several sizes", tfds, "cats_vs_dogs", data_dir=prepared(JcTextures, kind))  # before a download
    refused("size=-1: must be at least 1", tfds, "jc_textures", data_dir=prepared(JcTextures, kind), size=-1)
    splits = tfds("jc_textures", data_dir=prepared(JcTextures, kind), size=7)
    assert splits.test.arrays["image"].shape == (3, 7, 7, 3)


def test_resizing_averages_what_it_leaves_out():
    out = io.BytesIO()
    Image.fromarray((np.indices((240, 240)).sum(0) % 2 * 255).astype(np.uint8)).save(out, "png")
    assert np.abs(decode(out.getvalue(), (16, 20, 1), True).astype(int) - 127.5).max() < 3


def test_no_image_or_no_class(prepared):
    folder = prepared(JcNumbers, "array_record")
    refused("'jc_numbers': has .*; needs an 'image' with one class 'label'", tfds, "jc_numbers", data_dir=folder)
    refused("'voc/2007': has .*objects.*; needs an 'image'", tfds, "voc/2007", data_dir=folder)  # said before a download
    refused("'jc_test_only': has the splits test; needs 'train'", tfds, "jc_test_only", data_dir=prepared(JcTestOnly, "array_record"))


# names


def test_unknown_names(tmp_path, capfd):
    refused("'mnits': unknown to TFDS.*; did you mean 'mnist'", tfds, "mnits", data_dir=tmp_path)
    refused("'CIFAR_10': unknown to TFDS.*; did you mean 'cifar10'", tfds, "CIFAR_10", data_dir=tmp_path)
    for name in ("qqqqzz", "", "a b/c="):
        refused("unknown to TFDS.*; the names are on https://", tfds, name, data_dir=tmp_path)
    refused("'emnist/leters': no such configuration; it has byclass, bymerge", tfds, "emnist/leters", data_dir=tmp_path)
    message = refused("cannot be loaded at version 9.9.9, only: 3.0.1.; correct the name", tfds, "mnist:9.9.9", data_dir=tmp_path)
    assert len(message) < 200 and capfd.readouterr() == ("", "")


def test_a_version_in_the_name(prepared):
    assert tfds("jc_numbered:1.0.0", data_dir=prepared(JcNumbered, "array_record")).test.size == 12


# TensorFlow


def test_tfrecord_without_tensorflow(prepared, monkeypatch):
    folders = {kind: prepared(JcNumbered, kind) for kind in FORMATS}
    find = tfds_source.importlib.util.find_spec
    monkeypatch.setattr(tfds_source.importlib.util, "find_spec", lambda name, *more: None if name == "tensorflow" else find(name, *more))
    refused(
        r"as tfrecord, which needs TensorFlow: pip install -e '.\[tfds\]' in the clone", tfds, "jc_numbered", data_dir=folders["tfrecord"]
    )
    refused(r"mnist is not prepared in .*, and preparing it needs TensorFlow: pip install", tfds, "mnist", data_dir=folders["tfrecord"])
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


def test_not_prepared(tmp_path, capfd):
    message = refused(
        "mnist is not prepared in .*; give a data_dir .*, or allow the download", tfds, "mnist", data_dir=tmp_path, download=False
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
    refused("not prepared in .*, and storage.googleapis.com does not answer; go online, or give", tfds, "mnist", data_dir=tmp_path)
    assert time.monotonic() - start < 10 and capfd.readouterr() == ("", "")
    over.set()


def test_a_download_that_fails(tmp_path, monkeypatch):
    def fail(self):
        raise OSError("first\nsecond")

    monkeypatch.setattr(tensorflow_datasets.builder_cls("mnist"), "download_and_prepare", fail)
    monkeypatch.setattr(tfds_source, "_answers", lambda *address: True)
    refused("not prepared in .*, and preparing it failed: first second; give a data_dir", tfds, "mnist", data_dir=tmp_path)


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
    match = rf"^{folder}: split train.* is not readable \(.*\); {name} is cut or missing; delete the folder and prepare it again$"
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
        real = np.broadcast_to(whole.get("real", np.ones(())), whole["label"].shape) > 0
        for name in whole:
            joined = np.concatenate([p[name] for p in parts], 1)
            np.testing.assert_array_equal(joined[real], np.asarray(whole[name])[real])
        assert "real" not in whole or (np.concatenate([p["real"] for p in parts], 1) == whole["real"]).all()


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
    assert sum(int((b.get("real", np.ones(8)) > 0).sum()) for b in read) == sum(p.size for p in splits[:2])
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


@pytest.mark.slow
@pytest.mark.parametrize("kind", FORMATS)
def test_real_mnist(shared, tmp_path, kind):
    script = shared.parent / "tools" / "prepare_tfds_mnist.py"
    subprocess.run([sys.executable, script, tmp_path, "--format", kind], check=True, capture_output=True)
    splits = tfds("mnist", data_dir=tmp_path)
    assert [part.size for part in splits] == [54_000, 6_000, 10_000] and splits.train.classes == tuple("0123456789")
    assert np.bincount(splits.test.arrays["label"]).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert round(float(splits.test.arrays["image"].mean()), 2) == 33.79
