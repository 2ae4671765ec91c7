"""A disk that is full, a folder that cannot be written or is gone: the run goes on and says so, and what was saved stays."""

import contextlib
import os
import shutil
import subprocess

import pytest

from jaxcnn.train.checkpoint import reading
from tests.faults.fault_injection import RUN, after, committed, ended, run_folder, start


@contextlib.contextmanager
def small_disk(path, megabytes):
    """A file system of its own, where we may make one."""
    path.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", path], capture_output=True)
    if made.returncode:
        pytest.skip("needs to mount a small disk")
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", path], check=True)


def sound(workdir):
    """Steps of the checkpoints that are there, each read in full."""
    with reading(run_folder(workdir) / "checkpoints") as saved:
        return [step for step in committed(workdir) if saved.load(step)]


LONG = [*RUN, "--epochs", 40]


def first_save(process, workdir):
    while not committed(workdir) and process.poll() is None:
        after(process, 0.02)


def full(workdir):
    """Fill the disk to the last byte."""
    with contextlib.suppress(OSError), open(workdir / "filler", "wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


@pytest.mark.slow
def test_a_disk_that_fills(tmp_path):
    with small_disk(tmp_path / "disk", 40) as disk:
        process = start(*LONG, "--workdir", disk)
        first_save(process, disk)
        full(disk)
        before = committed(disk)
        code, out, err = ended(process)
        assert "no space is left on the disk" in err and "training goes on" in err and "Traceback" not in err
        assert "test accuracy" in out and code in (0, 1)  # trained and tested; whether summary.json found room depends
        assert before and set(sound(disk)) == set(committed(disk)) and max(committed(disk)) >= max(before)
        os.unlink(disk / "filler")
        if code:
            newest = max(committed(disk))
            code, _, err = ended(start("--resume", "--workdir", disk))
            assert code == 0 and f"going on from step {newest}" in err


@pytest.mark.slow
def test_a_disk_that_fills_and_has_room_again(tmp_path):
    with small_disk(tmp_path / "disk", 40) as disk:
        process = start(*LONG, "--workdir", disk)
        first_save(process, disk)
        full(disk)
        after(process, 2)
        os.unlink(disk / "filler")
        code, _, err = ended(process)
        assert code == 0 and "training goes on" in err and "Traceback" not in err
        assert len(sound(disk)) >= 2


@pytest.mark.slow
def test_a_folder_that_is_deleted(tmp_path):
    process = start(*LONG, "--workdir", tmp_path)
    first_save(process, tmp_path)
    checkpoints = run_folder(tmp_path) / "checkpoints"
    moved = tmp_path / "elsewhere"
    shutil.copytree(checkpoints, moved)
    shutil.rmtree(checkpoints, ignore_errors=True)  # a save that is under way may keep it from vanishing
    code, _, err = ended(process)
    assert code == 0 and "Traceback" not in err, err
    assert sound(tmp_path)  # made anew


def test_a_disk_that_becomes_read_only(tmp_path):
    with small_disk(tmp_path / "disk", 40) as disk:
        process = start(*LONG, "--workdir", disk)
        first_save(process, disk)
        after(process, 0.5)
        done = subprocess.run(["mount", "-o", "remount,ro", disk], capture_output=True)
        code, _, err = ended(process)
        assert "Traceback" not in err
        if done.returncode == 0:  # not while a file is open for writing
            assert code == 1 and "training goes on" in err, err
        assert sound(disk) == committed(disk)
