"""Multi-process runs: how the processes connect, and how all of them end when one dies."""

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable, Mapping

import jax

from jaxcnn.core.types import InputError
from jaxcnn.parallel import mesh

START_SECONDS = 120  # how long the first process waits for the last
HEARTBEAT_SECONDS = 50  # in case a machine vanishes without closing its connections
SETTLE_SECONDS = 1.0  # process 0 hosts the connections of the others, so it ends last


def in_cluster(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether SLURM, Open MPI, Kubernetes or a TPU pod started this process as one of several, as JAX detects it."""

    def several(name):
        return environment.get(name, "1").isdecimal() and int(environment.get(name, "1")) > 1

    return (
        ("SLURM_JOB_ID" in environment and (several("SLURM_STEP_NUM_TASKS") or several("SLURM_NTASKS")))
        or several("OMPI_COMM_WORLD_SIZE")
        or "," in environment.get("TPU_WORKER_HOSTNAMES", "")
        or ("KUBERNETES_SERVICE_HOST" in environment and "JOB_COMPLETION_INDEX" in environment)
    )


def start(coordinator: str, processes: int, process_id: int, lost: Callable[[str], None]) -> bool:
    """Join the other processes of a multi-process run.

    Args:
        coordinator: `HOST:PORT` of process 0; empty to ask the environment.
        processes: number of processes; 0 to ask the environment.
        process_id: index of this process, from 0; -1 to ask the environment.
        lost: called with one line when a different process dies; it must not return.

    Returns:
        Whether this is a multi-process run.

    Raises:
        InputError: only some of the three are given, or the other processes cannot be reached.

    """
    given = [bool(coordinator), processes > 0, process_id >= 0]
    if not any(given) and not in_cluster():
        return False
    if any(given) and not all(given):
        raise InputError(
            "--coordinator HOST:PORT, --processes N and --process-id I: give all three, or none under SLURM, Open MPI, "
            "Kubernetes and on TPU pods"
        )
    host, _, port = coordinator.rpartition(":")
    if any(given) and not (host and port.isascii() and port.isdigit() and len(port) < 6 and 0 < int(port) < 2**16):
        raise InputError(
            f"--coordinator {coordinator}: must be HOST:PORT, such as localhost:7777, with a port from 1 to 65535"
        )
    if any(given) and process_id >= processes:
        raise InputError(f"--process-id {process_id}: must be from 0 to {processes - 1}")
    if process_id > 0 and not _answers(host, int(port)):
        raise InputError(
            f"--coordinator {coordinator}: no process answers there; start --process-id 0 on that machine, and open "
            "the port"
        )
    # with asynchronous dispatch, processes may start two communicating programs in different orders and deadlock
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    asked = {}
    if any(given):
        asked = {"coordinator_address": coordinator, "num_processes": processes, "process_id": process_id}
    late = threading.Timer(START_SECONDS, lost, [f"not all processes connected within {START_SECONDS} s"])
    late.daemon = True
    late.start()
    try:  # JAX's own timeout ends in a stack trace, so ours is shorter
        jax.distributed.initialize(
            **asked, heartbeat_timeout_seconds=HEARTBEAT_SECONDS, initialization_timeout=2 * START_SECONDS
        )
    except (RuntimeError, ValueError) as error:
        raise InputError(
            f"--coordinator {coordinator}: not all processes connected ({str(error).splitlines()[0][:200]})"
        ) from error
    finally:
        late.cancel()
    _watch(host, lost)
    return True


def _answers(host: str, port: int) -> bool:
    """Whether process 0 answers within the time limit; it may start later, and JAX would fail with a stack trace."""
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until:
        with contextlib.suppress(OSError):
            socket.create_connection((host, port), timeout=5).close()
            return True
        time.sleep(0.5)
    return False


def _watch(host: str, lost: Callable[[str], None]) -> None:
    """Keep a connection between process 0 and each other process; the system closes it however a process ends."""
    me, n = mesh.process_shard()
    if me == 0:
        server = socket.create_server(("", 0))
        mesh.broadcast_text(f"{host or socket.gethostname()} {server.getsockname()[1]}")
        others = [server.accept()[0] for _ in range(n - 1)]
        for other in others:
            threading.Thread(target=_listen, args=(other, others, lost), daemon=True).start()
    else:
        where, port = mesh.broadcast_text("").split()
        link = socket.create_connection((where, int(port)))
        link.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        link.sendall(f"{me}\n".encode())
        threading.Thread(target=_hear, args=(link, lost), daemon=True).start()
    _links[:] = others if me == 0 else [link]


_links: list[socket.socket] = []
BYE = "bye"


def _lines(link: socket.socket) -> list[str]:
    """Read what the other side sends until it says goodbye or dies."""
    lines: list[str] = []
    with contextlib.suppress(OSError), link.makefile() as text:
        for line in text:
            lines.append(line.strip())
            if lines[-1] == BYE or lines[-1].startswith("gone"):
                break
    return lines


def _listen(link: socket.socket, others: list[socket.socket], lost: Callable[[str], None]) -> None:
    lines = _lines(link)
    if BYE in lines:
        return
    who = lines[0] if lines else "?"
    for other in others:
        with contextlib.suppress(OSError):
            other.sendall(f"gone {who}\n".encode())
    time.sleep(SETTLE_SECONDS)
    lost(f"process {who} is gone")


def _hear(link: socket.socket, lost: Callable[[str], None]) -> None:
    lines = _lines(link)
    if BYE not in lines:
        lost(f"process {lines[-1].removeprefix('gone ') if lines else 0} is gone")


def grieve() -> None:
    """Give the watching threads time to end this process: an error here may only follow from the death of another."""
    if _links:
        time.sleep(3 * SETTLE_SECONDS)


def finish() -> None:
    """Say goodbye to the other processes, and wait for them."""
    for link in _links:
        with contextlib.suppress(OSError):
            link.sendall(f"{BYE}\n".encode())
    if _links:
        jax.distributed.shutdown()
