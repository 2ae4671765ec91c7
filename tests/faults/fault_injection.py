"""Fault injection: a run of a few seconds in a separate process, and functions that damage a checkpoint."""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
RUN = [
    "--dataset", "digits", "--model", "lenet5", "--limit-examples", "600", "--batch-size", "32", "--epochs", "8",
    "--dropout", "0.2", "--checkpoint-seconds", "0.2", "--devices", "1",
]  # fmt: skip


def start(*arguments, devices=8, **environment):
    """Begin `python -m experiments.mnist`."""
    xla = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"  # the last one counts
    flags = {"XLA_FLAGS": xla, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "experiments.mnist", *map(str, arguments)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": ROOT}
    return subprocess.Popen(command, env={**os.environ, **flags, **environment}, **pipes)


def ended(process, seconds=240):
    """Exit code, output, error output."""
    out, err = process.communicate(timeout=seconds)
    return process.returncode, out, err


def run_folder(workdir):
    """The one run in a folder, or None."""
    found = sorted(p.parent for p in pathlib.Path(workdir).glob("*/config.json"))
    assert len(found) <= 1
    return found[0] if found else None


def summary(workdir):
    return json.loads((run_folder(workdir) / "summary.json").read_text())


def committed(workdir):
    """Steps of the checkpoints that are there."""
    folder = run_folder(workdir)
    return sorted(int(p.name) for p in (folder / "checkpoints").glob("*") if p.name.isdigit()) if folder else []


def resumed(workdir, *arguments):
    """Go on with a run, or begin it where nothing was begun; the step that it went on from."""
    folder = run_folder(workdir)
    begun = folder is not None
    if begun and (folder / "summary.json").exists():
        return None
    code, _, err = ended(start(*(["--resume"] if begun else arguments), "--workdir", workdir))
    assert code == 0, err
    found = re.search(r"going on from step (\d+)", err)
    return int(found[1]) if found else 0


def after(process, seconds):
    """Wait, but not for a process that has ended."""
    until = time.monotonic() + seconds
    while time.monotonic() < until and process.poll() is None:
        time.sleep(0.005)


# Damage: (folder of one checkpoint, random numbers) -> None. A new kind is one function, and its name in DAMAGES.


def _arrays(folder):
    files = [p for p in (folder / "state").rglob("*") if p.is_file() and p.stat().st_size > 1000]
    return sorted(files, key=lambda p: (-p.stat().st_size, p.name))


def truncated(folder, rng):
    path = _arrays(folder)[0]
    os.truncate(path, int(path.stat().st_size * rng.uniform(0.1, 0.9)))


def missing(folder, rng):
    _arrays(folder)[0].unlink()


def bit_flipped(folder, rng):
    path = _arrays(folder)[0]
    raw = bytearray(path.read_bytes())
    raw[int(rng.integers(len(raw)))] ^= 1 << int(rng.integers(8))
    path.write_bytes(raw)


def zeroed(folder, rng):
    path = _arrays(folder)[0]
    raw, at = bytearray(path.read_bytes()), int(rng.integers(path.stat().st_size - 512))
    raw[at : at + 512] = bytes(512)
    path.write_bytes(raw)


def emptied(folder, rng):
    _arrays(folder)[0].write_bytes(b"")


def half_renamed(folder, rng):
    folder.rename(folder.with_name(f"{folder.name}.orbax-checkpoint-tmp"))


def record_changed(folder, rng):
    path = folder / "loop" / "metadata"
    path.write_text(re.sub(r'"best_step": ?\d+', '"best_step": 77', path.read_text()))


def record_missing(folder, rng):
    shutil.rmtree(folder / "loop")


def state_missing(folder, rng):
    shutil.rmtree(folder / "state")


def swapped(folder, rng):
    other = next(p for p in sorted(folder.parent.iterdir()) if p.name.isdigit() and p != folder)
    shutil.rmtree(folder / "state")
    shutil.copytree(other / "state", folder / "state")


DAMAGES = (
    truncated, missing, bit_flipped, zeroed, emptied, half_renamed, record_changed, record_missing, state_missing,
    swapped,
)  # fmt: skip
