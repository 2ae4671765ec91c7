"""Some inputs of the fuzzer by default, and the ten thousand of `python -m tests.faults.fuzz` in the slow tier."""

import logging
import signal
import threading

import pytest

from tests.faults import fuzz, readers

QUICK = [  # which need no TensorFlow and no run
    "coco", "folder", "folder-lenient", "groups", "idx", "image", "npz", "sounds", "videos", "voc", "volumes",
    "weights", "yolo",
]  # fmt: skip


@pytest.fixture
def undisturbed():
    """The fuzzer's alarm and its silence, taken back afterwards."""
    before = signal.getsignal(signal.SIGALRM), threading.excepthook
    yield
    signal.signal(signal.SIGALRM, before[0])
    threading.excepthook = before[1]
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("name", QUICK)
def test_a_reader_gives_rows_or_one_line(tmp_path, undisturbed, name):
    readers.READERS[name].make(tmp_path / name)
    found = list(fuzz.some(name, range(40), 7, tmp_path))
    assert not [result for result in found if result[2] == "fault"]
    assert sum(how in ("sound", "changed") for _, how, *_ in found) >= 20


@pytest.mark.slow
def test_every_reader_gives_rows_or_one_line():
    found, faults, _, _ = fuzz.fuzz(10_000, 0, sorted(readers.READERS))
    assert not faults, "\n".join(faults[:20])
    assert sum(found.values()) == 10_000
    assert sum(n for (_, how, _), n in found.items() if how in ("sound", "changed")) >= 5_000


def test_an_input_is_a_function_of_seed_reader_and_number(tmp_path):
    reader = readers.READERS["groups"]
    reader.make(tmp_path / "groups")
    made = [fuzz.inputs_of(reader, number, 3, tmp_path) for number in (5, 6, 5)]
    contents = [
        (how, [p.read_bytes() if p.is_file() else None for p in sorted(target.iterdir())]) for how, target in made
    ]
    assert contents[0] == contents[2] != contents[1]
