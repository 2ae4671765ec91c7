"""Logs: a row costs the same in a log of any length, waiting rows are written later, and links are refused."""

import errno
import json
import logging
import math
import os
import struct

import pytest
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.record_writer import masked_crc32c

from jaxcnn.core import files
from jaxcnn.runs import logs


def row(step, **values):
    return {"step": step, "seconds": 1.0, "learning_rate": 0.1, "train/loss": 1 / step, "train/count": 64, **values}


def steps(path):
    return [json.loads(line, parse_constant=pytest.fail)["step"] for line in path.read_text().splitlines()]


def events(folder):
    """The events in a folder's one file, each checksum checked."""
    (path,) = folder.glob("events.out.tfevents.*")
    raw, found = path.read_bytes(), []
    while raw:
        (n,) = struct.unpack("<Q", raw[:8])
        assert struct.unpack("<I", raw[8:12])[0] == masked_crc32c(raw[:8])
        assert struct.unpack("<I", raw[12 + n : 16 + n])[0] == masked_crc32c(raw[12 : 12 + n])
        found.append(Event.FromString(raw[12 : 12 + n]))
        raw = raw[16 + n :]
    assert found[0].file_version == "brain.Event:2"
    return found[1:]


def test_rows_are_lines_of_strict_json_and_events(tmp_path):
    log = logs.Log(tmp_path, 10)
    log.row(row(10, **{"validation/loss": math.nan, "validation/seconds": 0.5}))
    log.row({k: v for k, v in row(20).items() if k != "learning_rate"})
    first, second, third = [
        json.loads(line, parse_constant=pytest.fail) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()
    ]
    assert (first["split"], first["epoch"], first["loss"]) == ("train", 1.0, 0.1)
    assert (second["split"], second["loss"], second["seconds"]) == ("validation", None, 0.5)
    assert third["learning_rate"] is None
    one, two, three = events(tmp_path)
    assert (one.step, three.step) == (10, 20)
    assert {v.tag: v.simple_value for v in one.summary.value} == pytest.approx(
        {"train/epoch": 1, "train/loss": 0.1, "train/count": 64, "train/learning_rate": 0.1, "train/seconds": 1}
    )
    assert math.isnan(next(v.simple_value for v in two.summary.value if v.tag == "validation/loss"))


def test_a_row_costs_the_same_however_many_there_are(tmp_path, monkeypatch):
    wrote, whole = [], []
    real_write, real_whole = os.write, files.write_bytes
    monkeypatch.setattr(os, "write", lambda handle, data: wrote.append(len(data)) or real_write(handle, data))
    monkeypatch.setattr(files, "write_bytes", lambda path, data: whole.append(path.name) or real_whole(path, data))
    log = logs.Log(tmp_path, 1)
    for step in range(1, 400):
        log.row(row(step))
    assert len(whole) == 2 and len(wrote) == 2 * 398 and max(wrote) < 400
    assert steps(tmp_path / "metrics.jsonl") == list(range(1, 400)) == [event.step for event in events(tmp_path)]


def test_a_resumed_run_begins_with_the_rows_that_were_kept(tmp_path):
    for last in (5, 3):  # the second part goes on from row 2
        log = logs.Log(tmp_path, 1)
        for step in range(1, last + 1):
            log.row(row(step))
    assert steps(tmp_path / "metrics.jsonl") == [1, 2, 3] == [event.step for event in events(tmp_path)]


def test_rows_wait_while_the_disk_is_full(tmp_path, monkeypatch, caplog):
    log, real = logs.Log(tmp_path, 1), os.write
    log.row(row(1))

    def full(handle, data):
        real(handle, data[:7])  # a part finds room
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch, caplog.at_level(logging.WARNING, "jaxcnn"):
        patch.setattr(os, "write", full)
        log.row(row(2))
        log.row(row(3))
    assert len(caplog.messages) == 1 and "No space left on device" in caplog.messages[0]
    log.row(row(4))
    assert steps(tmp_path / "metrics.jsonl") == [1, 2, 3, 4] == [event.step for event in events(tmp_path)]


@pytest.mark.parametrize("change", ["deleted", "cut", "link", "pipe"])
def test_a_file_that_is_gone_or_another_is_written_anew(tmp_path, change):
    folder, other = tmp_path / "run", tmp_path / "other"
    folder.mkdir()
    other.write_text("precious")
    log, path = logs.Log(folder, 1), folder / "metrics.jsonl"
    log.row(row(1))
    os.truncate(path, 3) if change == "cut" else path.unlink()
    if change == "link":
        path.symlink_to(other)
    if change == "pipe":
        os.mkfifo(path)
    log.row(row(2))
    assert steps(path) == [1, 2] and not path.is_symlink() and other.read_text() == "precious"


def test_links_that_lie_in_the_folder_are_replaced(tmp_path):
    folder, other = tmp_path / "run", tmp_path / "other"
    folder.mkdir()
    other.write_text("precious")
    for name in ("metrics.jsonl", ".metrics.jsonl.part", "events.out.tfevents.0000000001.host"):
        (folder / name).symlink_to(other)
    logs.Log(folder, 1).row(row(1))
    assert other.read_text() == "precious" and steps(folder / "metrics.jsonl") == [1] and len(events(folder)) == 1
