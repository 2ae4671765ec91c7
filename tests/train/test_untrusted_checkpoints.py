"""Untrusted checkpoints: faults are named in one line, at once and in little memory, and nothing is followed."""

import contextlib
import json
import os
import pathlib
import re
import resource
import shutil

import numpy as np
import pytest

import jaxcnn as jc
from jaxcnn.train.checkpoint import reading
from jaxcnn.train.record import Ranking, Record, from_lists, restored
from jaxcnn.train.stored import DamagedError, seal
from tests.small import compiled, fit

pytestmark = pytest.mark.filterwarnings("ignore:.*read only.*")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    fit(folder, steps=4, every=2, validate=lambda s: {"v": 1.0}, monitor="v")
    return folder


@pytest.fixture
def run(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "run")


def resealed(folder, change, step=4):
    """Write a record again, as anyone who knows the format can."""
    path = folder / str(step) / "loop" / "metadata"
    record = json.loads(path.read_text())
    new = change(record)
    record = new if isinstance(new, dict) and "digest" in new else record
    path.write_text(json.dumps({**record, "digest": seal(record["parts"], record["loop"])}))


@contextlib.contextmanager
def little_memory():
    """At most 8 GB of addresses more than there are now."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    used = int(pathlib.Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 2**33, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def read(folder, step=4):
    """Read as `fit` would go on; the message, where it is refused."""
    now = Record(16, 0, 96, "v", "min")
    with reading(folder) as checkpoints, little_memory():
        for like in (None, compiled()[1]):
            try:
                _, loop = checkpoints.load(step, like)
                record = restored(loop, now, step)
            except (DamagedError, jc.InputError) as error:
                assert "\n" not in str(error) and len(str(error)) < 600
                return str(error)
        Ranking(record, 1)
        from_lists({"loss": np.zeros(2)}, record.partial)
    return None


VALUES = (
    None, True, -1, 0, 1, 2**31, 2**63, 10**30, 1e308, -0.5, 1.5, float("nan"), float("inf"), "", "x", "9" * 5000,
    "\x1b[2J\n<b>",
    "é\udce9", [], {}, [1, "a"], [[1, -1]], [[1, 2, 3]], {"a": {"b": []}}, [[[[[[1]]]]]], [{}], [{"step": "x"}],
    [{"v": 1}],
    {"rows": 1, "bytes": 1, "sha256": "x"}, {"rows": -1, "bytes": 10**15, "sha256": ""},
    {"rows": 10**15, "bytes": -1, "sha256": ""},
)  # fmt: skip
FIELDS = (
    "batch_size", "seed", "rows", "monitor", "mode", "best", "best_step", "stale", "history", "partial", "seconds",
    "passed", "fingerprint",
)  # fmt: skip


@pytest.mark.parametrize("field", FIELDS)
def test_every_value_in_every_field_of_the_loop(run, field):
    for value in VALUES:
        resealed(run, lambda record, value=value: record["loop"].update({field: value}))
        read(run)
    resealed(run, lambda record: record["loop"].pop(field))
    read(run)


@pytest.mark.parametrize("field", ["format", "loop", "parts", "digest"])
def test_every_value_in_every_field_of_the_record(run, field):
    for value in VALUES:
        resealed(run, lambda record, value=value: record | {field: value})
        if field != "digest":
            assert read(run), value


def test_every_value_in_a_description_of_an_array(run):
    sound = json.loads((run / "4" / "loop" / "metadata").read_text())
    name = next(n for n, part in sound["parts"].items() if part[1])
    for value in (
        *VALUES, [10**12, 10**12], ["float32", [10**15], []], "object", "O", "V8", "float999", "datetime64", "<f4",
        "S5",
    ):  # fmt: skip
        for i in range(3):
            part = [*sound["parts"][name]]
            part[i] = value
            resealed(run, lambda record, part=part: record | {"parts": {**sound["parts"], name: part}})
            assert read(run), (i, value)
        resealed(run, lambda record, value=value: record | {"parts": {**sound["parts"], name: value}})
        assert read(run), value


@pytest.mark.parametrize(
    "change, why",
    [
        (lambda r: r["loop"].update(best=float("nan")), "best"),
        (lambda r: r["loop"].update(best_step=-4), "its record has best_step=-4"),
        (lambda r: r["loop"].update(stale=-1), "its record has stale=-1"),
        (lambda r: r["loop"].update(seed="7"), "its record: seed: .*integer, not '7'"),
        (lambda r: r["loop"].update(history=None), "its record: history"),
        (lambda r: r | {"loop": None}, "its record: loop: .*dictionary, not None"),
        (lambda r: r | {"format": "3"}, "its record: format: .*integer, not '3'"),
        (lambda r: r | {"format": 4}, "format 4, newer than this program's 3"),
        (lambda r: r | {"format": 1}, "format 1, older"),
        (lambda r: r["parts"].update({"params.x\x1b[2J": ["float32", [10**12], []]}), "declares|lacks|has params"),
    ],
)
def test_what_does_not_fit_is_named(run, change, why):
    resealed(run, lambda record: change(record))
    assert re.search(why, read(run)) and "\x1b" not in read(run)


def test_a_record_without_best_step_goes_on(run):
    resealed(run, lambda record: record["loop"].pop("best_step"))
    fitted = fit(run, steps=5, every=2, validate=lambda s: {"v": 2.0}, monitor="v")
    assert int(fitted.state.step) == 5 and fitted.saved == 5


@pytest.mark.parametrize(
    "change",
    [
        lambda r: r | {"loop": None},
        lambda r: r["loop"].update(seconds=float("nan")),
        lambda r: r["loop"].update(rows=-1),
    ],
)
def test_a_damaged_newest_falls_back_to_the_one_before(run, change, caplog):
    resealed(run, change)
    fitted = fit(run, steps=4, every=2, validate=lambda s: {"v": 1.0}, monitor="v")
    assert "checkpoint 4 is damaged (" in caplog.text and int(fitted.state.step) == fitted.saved == 4
    assert (run / "damaged" / "4").is_dir()


def fifo(path):
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    os.mkfifo(path)


def link(path):
    kept = path.parents[3] / "elsewhere"
    path.rename(kept)
    path.symlink_to(kept)


def folder(path):
    path.unlink()
    path.mkdir()


def sparse(path):
    with open(path, "r+b") as file:
        file.truncate(2**40)


def deep(path):
    path.write_text('{"a":' * 200_000 + "1" + "}" * 200_000)


def noise(path):
    path.write_bytes(np.random.default_rng(0).bytes(5000))


def empty(path):
    path.write_bytes(b"")


def array_file(run):
    return max((p for p in (run / "4" / "state").rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


PLACES = {
    "record": lambda run: run / "4" / "loop" / "metadata",
    "array": array_file,
    "manifest": lambda run: run / "4" / "state" / "manifest.ocdbt",
    "other": lambda run: run / "4" / "state" / "_METADATA",
}


@pytest.mark.parametrize(
    "damage", [fifo, link, folder, sparse, deep, noise, empty, os.remove], ids=lambda f: f.__name__
)
@pytest.mark.parametrize("place", PLACES)
def test_files_of_another_kind(run, place, damage):
    path = PLACES[place](run)
    assert path.is_file()
    damage(path)
    found = read(run)
    assert found or place == "other"  # Orbax's own, which is not read
    if damage in (fifo, link):
        assert found == f"{path.name} is not a regular file"


@pytest.mark.parametrize("place", ["4", "4/loop", "4/state"])
@pytest.mark.parametrize("damage", [fifo, os.remove, link], ids=lambda f: f.__name__)
def test_folders_of_another_kind(run, place, damage, caplog):
    (run / "extra" / "a" / "b").mkdir(parents=True)
    path = run / place
    if damage is link:
        kept = run.parent / "kept"
        path.rename(kept)
        path.symlink_to(kept)
    else:
        fifo(path) if damage is fifo else shutil.rmtree(path)
    with reading(run) as checkpoints:
        assert checkpoints.newest()[0] == 2
    fitted = fit(run, steps=4, every=2, validate=lambda s: {"v": 1.0}, monitor="v")
    assert fitted.saved == 4 and (run / "4").is_dir() and not (run / "4").is_symlink()


@pytest.mark.parametrize(
    "name", ["99999999999999999999", "-1", "007", "4294967296", "٣", "²", "1e3", "99999999999999999999 "]
)
def test_folders_that_no_step_has(run, name, caplog):
    shutil.copytree(run / "4", run / name)
    with reading(run) as checkpoints:
        assert checkpoints.steps() == [4, 2] and checkpoints.newest()[0] == 4
    assert fit(run, steps=6, every=2, validate=lambda s: {"v": 1.0}, monitor="v").saved == 6
    with reading(run) as checkpoints:
        assert checkpoints.newest()[0] == 6


def crafted(folder, change):
    """Write into the database of arrays, as TensorStore does, while the record stays right."""
    import tensorstore as ts

    base = {"driver": "file", "path": f"{folder / '4' / 'state'}/"}
    store = ts.KvStore.open({"driver": "ocdbt", "base": base}).result()
    name = "params.hidden_0.kernel"
    change(store, f"{name}/.zarray", f"{name}/0.0", json.loads(store[f"{name}/.zarray"]))


def meta(**options):
    return lambda store, key, chunk, old: store.write(key, json.dumps({**old, **options}).encode()).result()


def content(raw):
    return lambda store, key, chunk, old: store.write(chunk, raw).result()


def frame(blocks, first=b"\x00\x58"):
    """A zstd frame of blocks `(kind, size, bytes)`."""
    heads = [
        ((size << 3) | (kind << 1) | (i == len(blocks) - 1)).to_bytes(3, "little")
        for i, (kind, size, _) in enumerate(blocks)
    ]
    return b"\x28\xb5\x2f\xfd" + first + b"".join(head + body for head, (_, _, body) in zip(heads, blocks, strict=True))


SOUND = (0, 2048, bytes(2048))


@pytest.mark.parametrize(
    "change, why",
    [
        (meta(shape=[2**20, 2**20]), "a different shape or dtype"),
        (meta(dtype="<f8"), "a different shape or dtype"),
        (meta(chunks=[2**20, 2**20]), "stored in a way that jaxcnn does not write"),
        (meta(chunks=[1, 1]), "."),
        (meta(chunks=[0, 1]), "."),
        (meta(compressor={"id": "blosc", "cname": "lz4", "clevel": 5, "shuffle": 1}), "stored in a way"),
        (meta(compressor={"id": "bz2", "level": 5}), "stored in a way"),
        (meta(dtype=[["a", "<f4", [1000000]], ["b", "<f4"]]), "."),
        (lambda store, key, *_: store.write(key, b'{"a":' * 200_000 + b"1" + b"}" * 200_000).result(), "."),
        (lambda store, key, *_: store.write(key, b"[" * 1_000_000).result(), "."),
        (content(frame([SOUND])), "digest differs"),
        (content(frame([SOUND], b"\xc0\x58" + (2**40).to_bytes(8, "little"))), "."),
        (content(frame([SOUND], b"\xe0" + (2**40).to_bytes(8, "little"))), "."),
        (content(frame([SOUND], b"\x00\xff")), "."),
        (content(frame([(1, 2**17, b"a")] * 100_000)), "would decode to more than its record says"),
        (content(frame([(1, 2**17, b"a")]) * 100_000), "would decode to more than its record says"),
        (content(b"\x50\x2a\x4d\x18\x00\x00\x00\x00" * 9 + frame([(1, 2**17, b"a")]) * 100_000), "would decode|."),
        (content(bytes(2**18)), "."),
        (content(b"\x28\xb5\x2f\xfd"), "."),
    ],
)
def test_what_the_database_says_is_checked_against_the_record(run, change, why):
    assert read(run) is None
    crafted(run, change)
    assert re.search(why, read(run))
