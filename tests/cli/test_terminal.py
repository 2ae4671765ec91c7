"""Output that cannot be written, or not in its encoding, stops nothing; what is logged does nothing to a terminal."""

import contextlib
import io
import logging
import os
import sys
import threading

import pytest

from jaxcnn.cli import terminal


@contextlib.contextmanager
def steady(handle, encoding="utf-8"):
    with io.TextIOWrapper(os.fdopen(handle, "wb"), encoding) as stream:
        yield terminal.steady(stream, "stdout")


def test_a_reader_that_has_gone(capsys):
    reading, writing = os.pipe()
    with steady(writing) as stream:
        print("arrives", file=stream, flush=True)
        assert os.read(reading, 100) == b"arrives\n"
        os.close(reading)
        for _ in range(3):
            print("does not", file=stream, flush=True)
    assert (
        capsys.readouterr().err
        == "standard output cannot be written (Broken pipe); some of its output is lost\n"
    )
    assert terminal.lost() == "Broken pipe"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk(capsys):
    with steady(os.open("/dev/full", os.O_WRONLY)) as stream:
        print("x" * 100_000, file=stream, flush=True)
    assert "No space left on device" in capsys.readouterr().err


def test_a_stream_that_was_closed_before_the_start():
    stream = terminal.steady(None, "stdout")
    print("nowhere", file=stream, flush=True)
    assert terminal.lost() and stream.fileno() > 2
    stream.close()


def test_a_pipe_that_is_full_for_a_while():
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    got = []
    reader = threading.Thread(target=lambda: got.extend(iter(lambda: os.read(reading, 65536), b"")), daemon=True)
    with steady(writing) as stream:
        reader.start()
        print("x" * 300_000, file=stream, flush=True)
    reader.join()
    os.close(reading)
    assert sum(map(len, got)) == 300_001


def test_what_the_encoding_lacks_is_written_with_backslashes(tmp_path):
    with steady(os.open(tmp_path / "out", os.O_WRONLY | os.O_CREAT), "ascii") as stream:
        print("caf\udce9 ü", file=stream, flush=True)
    assert (tmp_path / "out").read_bytes() == b"caf\\udce9 \\xfc\n"


def test_log_lines_show_control_characters(capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdout", sys.stdout)
    logger = logging.getLogger("jaxcnn")
    handlers, propagate = logger.handlers[:], logger.propagate
    try:
        terminal.prepare()
        logger.warning("left out: %s", "a\x1b]0;title\x07\nb\u202e")
        terminal.say("one\x1b[2J")
    finally:
        logger.handlers[:], logger.propagate = handlers, propagate
    assert capsys.readouterr().err == "left out: a\\x1b]0;title\\x07\\nb\\u202e\none\\x1b[2J\n"
