"""The readers under test: each reader of files with a small intact input, and the parts of it that may change."""

import dataclasses
import gzip
import json
import os
import pathlib
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable

import jax
import numpy as np

import jaxcnn as jc
from jaxcnn import report, runs
from jaxcnn.data.folder import read_image
from tests.data import boxes_on_disk, volumes_on_disk
from tests.faults import changes

ROOT = pathlib.Path(__file__).resolve().parents[2]
REFUSED = jc.InputError


@dataclasses.dataclass(frozen=True)
class Reader:
    """One reader of files.

    Attributes:
        name: name of the reader.
        make: makes the intact input in a folder.
        read: reads that folder as a list of arrays.
        wanted: files of the folder that may change.
        special: changes for the format of a file.
        weight: how many inputs it gets, relative to the others.

    """

    name: str
    make: Callable
    read: Callable
    wanted: Callable = lambda path: True
    special: Callable = lambda path: ()
    weight: float = 1.0


def _images(n=12, side=8):
    return np.random.default_rng(0).integers(0, 256, (n, side, side, 3)).astype(np.uint8)


def _rows(splits):
    parts = [part for part in splits if part.size]
    batches = [part.chunk(min(4, part.size), 0, 1, 1).at(0) for part in parts]
    return [np.asarray(batch[key]) for batch in batches for key in sorted(batch)]


def make_image(folder):
    from PIL import Image

    folder.mkdir()
    picture = Image.fromarray(_images(1, 24)[0])
    for end in ("png", "jpg", "gif", "bmp", "tif", "webp", "ppm", "tga"):
        picture.save(folder / f"a.{end}")
    picture.convert("L").save(folder / "gray.png")
    picture.quantize(16).save(folder / "palette.png")
    Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8)).save(folder / "deep.png")


def read_images(folder):
    return [read_image(path, channels) for path in sorted(folder.iterdir()) for channels in (1, 3)]


def make_folder(folder):
    from PIL import Image

    for i, x in enumerate(_images()):
        (folder / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(x).save(folder / "ab"[i % 2] / f"{i}.{('png', 'jpg')[i // 2 % 2]}")


def read_folder(folder):
    return _rows(jc.data.folder(folder, seed=0, size=8, validation_fraction=0.2))


def read_folder_leniently(folder):
    return _rows(jc.data.folder(folder, seed=0, size=8, validation_fraction=0.2, on_bad=lambda line, n: None))


def make_sounds(folder):
    import soundfile

    rng = np.random.default_rng(0)
    for i in range(12):
        place = folder / "ab"[i % 2]
        place.mkdir(parents=True, exist_ok=True)
        ending, subtype = (("wav", "PCM_16"), ("flac", "PCM_16"), ("wav", "FLOAT"))[i // 2 % 3]
        soundfile.write(place / f"{i}.{ending}", rng.uniform(-1, 1, 90 + i), 8000, subtype=subtype)


def read_sounds(folder):
    return _rows(jc.data.sounds(folder, seconds=0.02, validation_fraction=0.2))


def make_npz(folder):
    folder.mkdir()
    label = np.arange(12) % 3
    np.savez(
        folder / "a.npz", x_train=_images(), y_train=label, x_test=_images()[:6], y_test=label[:6], group_train=label,
        group_test=label[:6],
    )  # fmt: skip


def read_npz(folder):
    return _rows(jc.data.npz(folder / "a.npz", validation_fraction=0.25))


def make_csv(folder):
    from PIL import Image

    folder.mkdir()
    for i, x in enumerate(_images()):
        Image.fromarray(x).save(folder / f"{i}.png")
    lines = [f"{i}.png,{'ab'[i % 2]},{('train', 'valid', 'test')[i // 2 % 3]}" for i in range(12)]
    (folder / "rows.csv").write_text("\n".join(["file,label,split", *lines]) + "\n")


def read_csv(folder):
    return _rows(jc.data.table(folder / "rows.csv"))


def read_boxes(kind, on_bad=None):
    def read(folder):
        return _rows(getattr(jc.data, kind)(folder, size=16, validation_fraction=0.3, test_fraction=0.3, on_bad=on_bad))

    return read


def read_regions(folder):
    return _rows(jc.data.coco_masks(folder, size=16, validation_fraction=0.3, test_fraction=0.3))


def read_volumes(folder):
    return _rows(jc.data.volumes(folder, size=8, validation_fraction=0.3, test_fraction=0.3))


def make_videos(folder):
    """Clips of each kind but video files, whose decoders are not ours: folders of frames, GIF, WebP and PNG."""
    from PIL import Image

    for i in range(12):
        where = folder / "ab"[i % 2]
        where.mkdir(parents=True, exist_ok=True)
        frames = [Image.fromarray(x) for x in _images(12)[i : i + 1 + i % 4]] + [Image.fromarray(_images(1)[0])]
        if i // 2 % 2:
            (where / f"{i}").mkdir()
            for n, frame in enumerate(frames):
                frame.save(where / f"{i}" / f"{n}.png")
        else:
            end = ("gif", "webp", "png")[i // 2 % 3]
            frames[0].save(where / f"{i}.{end}", save_all=True, append_images=frames[1:])


def read_videos(folder, on_bad=None):
    return _rows(jc.data.videos(folder, frames=3, size=8, validation_fraction=0.2, on_bad=on_bad))


def make_idx(folder):
    folder.mkdir()
    for part, n in (("train", 20), ("t10k", 10)):
        image = np.random.default_rng(n).integers(0, 256, (n, 6, 6)).astype(np.uint8)
        raw = struct.pack(">IIII", 0x803, n, 6, 6) + image.tobytes()
        (folder / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(raw))
        raw = struct.pack(">II", 0x801, n) + bytes(i % 5 for i in range(n))
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(raw)


def read_idx(folder):
    return _rows(jc.data.idx(folder, validation_fraction=0.25))


def _make_tfds(folder, kind):
    from tests.data import test_tfds

    folder.mkdir()
    test_tfds.prepare(test_tfds.JcNumbered, folder, kind, shards=2)


def make_array_record(folder):
    _make_tfds(folder, "array_record")


def make_tfrecord(folder):
    _make_tfds(folder, "tfrecord")


def read_tfds(folder):
    return _rows(jc.data.tfds("jc_numbered", data_dir=folder, download=False))


def make_weights(folder):
    folder.mkdir()
    model = jc.models.lenet5(num_classes=3)
    variables = jax.jit(lambda key: model.init({"params": key}, np.zeros((1, 28, 28, 1), np.float32), train=False))(
        jax.random.key(0)
    )
    jc.save_weights(folder / "a.safetensors", "lenet5", variables, num_classes=3)
    config = {
        "architecture": "lenet5", "num_classes": 3, "label_names": ["a", "b", "c"],
        "pretrained_cfg": {
            "mean": [0.5], "std": [0.2], "input_size": [1, 28, 28], "crop_pct": 0.9, "interpolation": "bicubic",
        },
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))


def read_weights(folder):
    found = jc.load_weights("lenet5", folder / "a.safetensors")
    return [np.asarray(x) for x in jax.tree.leaves(found.variables)] + [np.array(found.preprocessing.mean, object)]


def make_run(folder):
    """Train a tiny run with the command line, and move it here."""
    flags = "--dataset digits --model mlp --smoke --devices 1 --compilation-cache off".split()
    where = folder.parent / f"{folder.name}-made"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "experiments.mnist", *flags, "--workdir", str(where)]
    subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True)
    (made,) = where.iterdir()
    shutil.move(made, folder)
    for path in (*folder.glob("*.png"), *folder.glob("events*")):
        path.unlink()


def read_run(folder):
    loaded = jc.load_run(folder)
    return [np.asarray(x) for x in jax.tree.leaves(loaded.variables)]


def read_finished(folder):
    found = report.read_finished(folder)
    return [np.array(json.dumps(found, sort_keys=True, default=str))]


def read_data(folder):
    return _rows(runs.read_data(runs.read_config(folder)))


def make_groups(folder):
    folder.mkdir()
    (folder / "a.csv").write_text(
        "who,where\n" + "".join(f'"{i % 3}",{i % 2}\n' for i in range(20)), encoding="utf-8-sig"
    )
    (folder / "b.json").write_text(json.dumps({"who": [i % 3 for i in range(20)], "where": ["x", "y"] * 10}))


def read_groups(folder):
    return [x for name in ("a.csv", "b.json") for _, x in sorted(report.read_groups(folder / name).items())]


def _by_ending(path):
    special = {
        ".png": (changes.png_changed,), ".json": (changes.json_changed,), ".jsonl": (changes.json_changed,),
        ".npz": (changes.npz_changed,),
        ".safetensors": (changes.safetensors_changed,), ".gz": (changes.gzip_changed,), ".csv": (changes.csv_changed,),
    }  # fmt: skip
    return special.get(path.suffix, (changes.write_number,))


def _in_checkpoints(path):
    return "checkpoints" in path.parts


def _record_changed(path):
    return (
        (changes.json_changed,) if path.parent.name == "loop" or path.name.startswith("_") else (changes.write_number,)
    )


READERS = {
    reader.name: reader
    for reader in (
        Reader("image", make_image, read_images, special=_by_ending, weight=4),
        Reader("folder", make_folder, read_folder, special=_by_ending, weight=3),
        Reader("folder-lenient", make_folder, read_folder_leniently, special=_by_ending, weight=3),
        Reader("npz", make_npz, read_npz, special=_by_ending, weight=4),
        Reader("csv", make_csv, read_csv, special=_by_ending, weight=2),
        Reader("voc", boxes_on_disk.make_voc, read_boxes("voc"), special=_by_ending, weight=2),
        Reader("coco", boxes_on_disk.make_coco, read_boxes("coco"), special=_by_ending, weight=2),
        Reader("coco-lenient", boxes_on_disk.make_coco, read_boxes("coco", lambda line, n: None), special=_by_ending),
        Reader("coco-masks", boxes_on_disk.make_coco, read_regions, special=_by_ending, weight=2),
        Reader("yolo", boxes_on_disk.make_yolo, read_boxes("yolo"), special=_by_ending, weight=2),
        Reader("volumes", volumes_on_disk.make_volumes, read_volumes, special=_by_ending, weight=2),
        Reader("sounds", make_sounds, read_sounds, special=_by_ending, weight=2),
        Reader("videos", make_videos, read_videos, special=_by_ending, weight=2),
        Reader("idx", make_idx, read_idx, special=_by_ending, weight=4),
        Reader("array_record", make_array_record, read_tfds, special=_by_ending, weight=2),
        Reader("tfrecord", make_tfrecord, read_tfds, special=_by_ending, weight=1),
        Reader("weights", make_weights, read_weights, special=_by_ending, weight=4),
        Reader("config", make_run, read_run, lambda p: p.name == "config.json", _by_ending, weight=1),
        Reader("checkpoint", make_run, read_run, _in_checkpoints, _record_changed, weight=1),
        Reader("source", make_run, read_data, lambda p: p.name == "config.json", _by_ending, weight=1),
        Reader("finished", make_run, read_finished, lambda p: p.suffix in (".json", ".jsonl"), _by_ending, weight=4),
        Reader("groups", make_groups, read_groups, special=_by_ending, weight=4),
    )
}
