"""`jaxcnn serve RUN`: answer over HTTP, with a page for people."""

import dataclasses
import functools
import os
import pathlib
from collections.abc import Sequence
from typing import Annotated

import tyro

from jaxcnn.cli import command, flags, options, runtime
from jaxcnn.core import files
from jaxcnn.core.text import visible
from jaxcnn.core.types import InputError
from jaxcnn.deploy.serving.limits import Limits

NAME, TOKEN = "serve", "JAXCNN_TOKEN"
MOST_TOKEN, LEAST_TOKEN = 4096, 16  # bytes
# limits by the fields of the flags that give them
LIMITS = {
    "bytes": "max_bytes", "memory": "max_memory", "pixels": "max_pixels", "rows": "max_rows", "queue": "max_queue",
    "sound_seconds": "max_sound",
    **{name: name for name in ("per_client", "seconds", "body_seconds", "connections", "batch", "batch_ms")},
}  # fmt: skip
SHOWN = ("run", "host", "port", "workers", "token_file", "batch", "batch_ms")


@dataclasses.dataclass(frozen=True)
class Serve:
    """Serve a run over HTTP: /predict, /explain, /about, /health, /metrics, /docs, and a page at /.

    A token that requests must carry comes from the environment variable JAXCNN_TOKEN or from --token-file.
    """

    run: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUN")] = ""
    """Folder of a run, or a link to one: when the link leads to another run, that one takes over."""
    host: str = "127.0.0.1"
    """Address to listen at; by default only this machine can ask. 0.0.0.0 is all IPv4 addresses."""
    port: int = 8000
    """Port to listen at; 0 for any that is free."""
    workers: int = 1
    """Processes, each with the network in its own memory."""
    token_file: str = ""
    """File with a token that requests must carry, as Authorization: Bearer TOKEN."""
    batch: int = Limits.batch
    """Most images or texts in one call of the compiled program."""
    batch_ms: float = Limits.batch_ms
    """Milliseconds that an image waits for others."""
    together: bool = False
    """Compute a batch at once: up to three times as fast, but digits at the end then depend on the batch."""
    watch: float = 2.0
    """Look for a newer run or checkpoint every N seconds; 0 for never."""
    max_bytes: int = Limits.bytes
    """Most bytes of a request; 413 beyond."""
    max_memory: int = Limits.memory
    """Most bytes of all requests in a process at once; 503 beyond."""
    max_pixels: int = Limits.pixels
    """Most pixels of an image; 413 beyond."""
    max_sound: float = Limits.sound_seconds
    """Most seconds of a sound; 413 beyond."""
    max_rows: int = Limits.rows
    """Most images, sounds or texts of a request; 413 beyond."""
    max_queue: int = Limits.queue
    """Most images, sounds or texts in a process at once; 503 beyond."""
    per_client: int = Limits.per_client
    """Most images, sounds or texts of one address in a process at once, 0 for any number; 429 beyond."""
    seconds: float = Limits.seconds
    """Longest time from a complete request to its answer; 503 beyond."""
    body_seconds: float = Limits.body_seconds
    """Longest time for the head, and for the body, of a request to arrive; 408 beyond."""
    connections: int = Limits.connections
    """Most open connections of a process; 503 beyond."""
    compilation_cache: str = ""
    """Folder for compiled programs; by default the user's cache folder, off for none."""


def main(arguments: Sequence[str]) -> int:
    """Serve, and return the exit code."""

    def go() -> None:
        serve(options.parse(Serve, NAME, arguments, shown=SHOWN))

    return command.run(go, f"jaxcnn {NAME}", options.WIDTH)


def serve(config: Serve) -> None:
    """Serve until a signal comes."""
    from jaxcnn.deploy import serving
    from jaxcnn.deploy.serving.server import Place

    if not config.run:
        raise InputError("RUN: give the folder of a run, as in jaxcnn serve RUN")
    if not 0 <= config.port <= 65535:
        raise InputError(f"--port {config.port}: must be from 0 to 65535")
    if not 1 <= config.workers <= 256:
        raise InputError(f"--workers {config.workers}: must be from 1 to 256")
    if not (config.watch == 0 or 0.1 <= config.watch <= 86_400):
        raise InputError(f"--watch {config.watch}: must be 0, or from 0.1 to 86400 seconds")
    with options.naming({name: flags.flag_of(flag) for name, flag in LIMITS.items()}):
        limits = Limits(**{name: getattr(config, flag) for name, flag in LIMITS.items()})
    serving.serve(
        config.run, Place(config.host, config.port, config.workers), limits, token=token(config.token_file),
        together=config.together, watch=config.watch,
        before=functools.partial(runtime.keep_programs, config.compilation_cache),
    )  # fmt: skip


def token(path: str) -> str:
    """Return the token of a file or of the environment; empty for none.

    Raises:
        InputError: the file cannot be read, or the token is too short or not of visible ASCII characters.

    """
    where, found = TOKEN, os.environ.get(TOKEN)
    if path:
        where = f"--token-file {visible(path)}"
        try:
            found = files.read_text(pathlib.Path(path), MOST_TOKEN).strip()
        except OSError as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"{where}: cannot be read ({error.strerror}); give another file") from error
    if found is None:
        return ""
    if len(found) < LEAST_TOKEN or not all("!" <= c <= "~" for c in found):
        raise InputError(
            f"{where}: a token must be at least {LEAST_TOKEN} visible ASCII characters, without spaces; make one with "
            "python -c 'import secrets; print(secrets.token_urlsafe())'"
        )
    return found
