"""The server's processes: one, or several that share a socket; SIGTERM answers what was accepted, then ends."""

import contextlib
import functools
import logging
import multiprocessing
import multiprocessing.connection
import os
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from jaxcnn.core.text import visible
from jaxcnn.core.types import InputError
from jaxcnn.deploy.serving import counts, loaded
from jaxcnn.deploy.serving.app import application
from jaxcnn.deploy.serving.limits import Limits

log = logging.getLogger("jaxcnn")
GRACE = 5  # seconds that a process gets beyond the limit of an answer when it stops
AGAIN = 1.0  # seconds until a process that died is started again
HEAD = 65_536  # most bytes of a request's head
UNREADY = 4  # exit code of a process that could not begin


class Place(NamedTuple):
    """Where a server listens, in how many processes."""

    host: str
    port: int
    workers: int


def missing() -> None:
    """Refuse to go on without the packages of the extra.

    Raises:
        InputError: one of them is not installed.

    """
    try:
        import prometheus_client  # noqa: F401
        import python_multipart  # noqa: F401
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise InputError(
            f"serving needs {error.name}: pip install -e '.[serve]' in the clone of jaxcnn, or pip install uvicorn "
            "starlette python-multipart prometheus-client"
        ) from error


def serve(
    path: str, place: Place, limits: Limits, *, token: str = "", together: bool = False, watch: float = 2.0,
    before: Callable[[], None] | None = None,
) -> None:  # fmt: skip
    """Serve a run until SIGTERM or Ctrl-C.

    Args:
        path: folder of the run, or a link to it.
        place: where to listen; port 0 for any that is free.
        limits: the limits, of each process.
        token: that requests must carry; empty for none.
        together: see `deploy.outputs.outputs`.
        watch: seconds between looks for a newer run; 0 for never.
        before: called in every process before it starts; picklable.

    Raises:
        InputError: the run cannot be served, the address cannot be listened at, or a package is missing.

    """
    missing()
    loaded.check(path)
    listening = listen(place.host, place.port)
    make = functools.partial(application, path, limits, token=token, together=together, watch=watch)
    host, port = listening.getsockname()[:2]
    log.info("starts at http://%s:%d", f"[{host}]" if ":" in host else host, port)
    try:
        if place.workers == 1:
            run_here(make, listening, limits, before, False)
        else:
            _several(make, listening, limits, before, place.workers)
    finally:
        listening.close()


def listen(host: str, port: int) -> socket.socket:
    """Open the socket that all processes accept connections from.

    Raises:
        InputError: the address cannot be listened at.

    """
    if not 0 <= port <= 65535:
        raise InputError(f"--port {port}: must be from 0 to 65535, where 0 is any that is free")
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        # asyncio sends small packets at once only where the protocol is named; an answer would wait for 40 ms
        listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or error
        raise InputError(
            f"--host {visible(host)} --port {port}: cannot be listened at ({why}); give another"
        ) from error
    listening.set_inheritable(True)
    return listening


def run_here(
    make: Callable[..., Any], listening: socket.socket, limits: Limits, before: Callable[[], None] | None, one_of: bool
) -> None:
    """Serve in this process until a signal comes.

    Args:
        make: `(wait=, failed=) -> application`, see `app.application`.
        listening: the socket.
        limits: the limits.
        before: called first; None for nothing.
        one_of: whether this process is one of several.

    Raises:
        InputError: the application called `failed`.

    """
    import uvicorn

    from jaxcnn.deploy.serving.protocol import patient

    if before is not None:
        before()
    lines: list[str] = []
    came = [0]
    servers: list[Any] = []

    def failed(line: str) -> None:
        lines.append(line)
        servers[0].should_exit = True

    config = uvicorn.Config(
        _counted(make(wait=one_of, failed=failed), came), http=patient(limits), loop="asyncio", ws="none",
        lifespan="on",
        log_config=None, log_level="error", access_log=False, server_header=False, proxy_headers=False,
        h11_max_incomplete_event_size=HEAD, timeout_keep_alive=15,
        timeout_graceful_shutdown=int(limits.seconds + limits.body_seconds) + GRACE,
    )  # fmt: skip
    servers.append(uvicorn.Server(config))
    with _signals_again():
        try:
            servers[0].run(sockets=[listening])
        except SystemExit as error:  # the application could not start, and has said why
            raise SystemExit(UNREADY) from error
    if lines:
        raise InputError(lines[0])
    log.info("stopped: %d requests came, %d were answered", came[0], servers[0].server_state.total_requests)


def _counted(app: Any, came: list[int]) -> Any:
    """Count the requests that come."""

    async def call(scope: Any, receive: Any, send: Any) -> None:
        came[0] += scope["type"] == "http"
        await app(scope, receive, send)

    return call


@contextlib.contextmanager
def _signals_again() -> Iterator[None]:
    """Let the signals that a server sends itself again after its end do nothing."""
    kept = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)


def _several(
    make: Callable[..., Any], listening: socket.socket, limits: Limits, before: Callable[[], None] | None, workers: int
) -> None:
    """Start processes, start one again that dies, and pass signals on."""
    stop: list[int] = []
    kept = {number: signal.signal(number, lambda n, _: stop.append(n)) for number in (signal.SIGTERM, signal.SIGINT)}
    spawn = multiprocessing.get_context("spawn")  # JAX does not survive a fork
    with tempfile.TemporaryDirectory(prefix="jaxcnn-metrics-") as folder:
        os.environ[counts.FOLDER] = folder

        def start() -> Any:
            one = spawn.Process(target=_worker, args=(make, listening, limits, before))
            one.start()
            return one

        processes, again = [start() for _ in range(workers)], False
        try:
            while not stop:
                time.sleep(0.1)
                for i, one in enumerate(processes):
                    if one.is_alive() or stop:
                        continue
                    if one.exitcode == UNREADY and not again:
                        raise InputError("a process could not begin; its line is above")
                    log.warning("process %d ended (%s): starts again", one.pid, one.exitcode)
                    again = True
                    _dead(one.pid)
                    time.sleep(AGAIN)
                    processes[i] = start()
        finally:
            listening.close()  # or connections would wait here for a process that is gone
            for one in processes:
                if one.is_alive():
                    one.terminate()
            for one in processes:
                one.join(limits.seconds + limits.body_seconds + 2 * GRACE)
                one.kill()
            del os.environ[counts.FOLDER]
            for number, handler in kept.items():
                signal.signal(number, handler)


def _dead(pid: int) -> None:
    """Let the gauges of a process that died count no more."""
    from prometheus_client.multiprocess import mark_process_dead

    mark_process_dead(pid)


def _worker(make: Callable[..., Any], listening: socket.socket, limits: Limits, before: Any) -> None:
    """Serve in one of several processes."""
    log.addHandler(logging.StreamHandler())
    log.setLevel(logging.INFO)
    log.propagate = False
    threading.Thread(target=_end_with_parent, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends Ctrl-C to all; the first process passes it on
    try:
        run_here(make, listening, limits, before, True)
    except InputError as error:
        log.error("%s", error)
        raise SystemExit(UNREADY) from error


def _end_with_parent() -> None:
    """Stop this process when the one that started it is gone, however it ended."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)
