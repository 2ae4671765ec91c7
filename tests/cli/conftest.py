"""A fixture of all tests of commands."""

import logging
import sys

import pytest


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    """What a command sets in its process is undone."""
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, getattr(sys, name))
    log = logging.getLogger("jaxcnn")
    before = log.handlers[:], log.propagate, log.level
    yield
    log.handlers[:], log.propagate, log.level = before
