"""Loads a served run from several clients: `python -m experiments.benchmarks.serving RUN`.

The server runs in a process of its own, and the clients in this one, on the same cores. At each rate, requests are sent
at random moments (a Poisson process), whether or not earlier ones are answered; latency counts from the moment at which
a request was due. Rate 0 is as fast as the clients can, each waiting for its answer; one client is one by one.
"""

import asyncio
import dataclasses
import json
import pathlib
import re
import subprocess
import sys
import time
from typing import Annotated, Any

import numpy as np
import tyro

from jaxcnn.cli import command, options
from jaxcnn.core.types import InputError

IDLE = 10  # seconds after which a connection is not used again
SERVE = (sys.executable, "-c", "from jaxcnn.cli.main import main; raise SystemExit(main())", "serve")


@dataclasses.dataclass(frozen=True)
class Config:
    """Measure throughput and latency of jaxcnn serve, and the growth of its memory."""

    run: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUN")] = ""
    """Folder of a run on images."""
    requests: int = 10_000
    """Requests of all rates together."""
    rates: tuple[float, ...] = (0.0, 50.0, 100.0, 200.0)
    """Requests per second; 0 for as many as can be."""
    clients: int = 16
    """Connections at rate 0."""
    workers: int = 1
    """Processes of the server."""
    json: str = ""
    """Write the rows to this file too."""


async def ask(port: int, request: bytes, kept: list[Any]) -> int:
    """Send a request over one of the open connections or a new one, and return the status."""
    while kept and time.perf_counter() - kept[0][2] > IDLE:  # the server is about to close it
        kept.pop(0)[1].close()
    reader, writer = kept.pop()[:2] if kept else await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    await writer.drain()
    head = await reader.readuntil(b"\r\n\r\n")
    size = re.search(rb"content-length: (\d+)", head.lower())
    await reader.readexactly(int(size[1]) if size else 0)
    if b"connection: close" in head.lower():
        writer.close()
    else:
        kept.append((reader, writer, time.perf_counter()))
    return int(head.split(b" ", 2)[1])


async def load(port: int, request: bytes, count: int, rate: float, clients: int) -> dict[str, Any]:
    """Send `count` requests, and return what happened."""
    kept, seconds, codes = [], [], list[int]()
    begin, rng = time.perf_counter(), np.random.default_rng(0)

    async def one(due: float) -> None:
        try:
            codes.append(await ask(port, request, kept))
        except (OSError, EOFError):
            codes.append(0)
        if codes[-1] == 200:  # a refusal is quick
            seconds.append(time.perf_counter() - due)

    async def client(times: int) -> None:
        for _ in range(times):
            await one(time.perf_counter())

    if rate:
        tasks, due = [], begin
        for wait in rng.exponential(1 / rate, count):
            due += wait
            await asyncio.sleep(max(due - time.perf_counter(), 0))
            tasks.append(asyncio.create_task(one(due)))
        await asyncio.gather(*tasks)
    else:
        await asyncio.gather(*(client(count // clients) for _ in range(clients)))
    wall = time.perf_counter() - begin
    for _, writer, _ in kept:
        writer.close()
    p50, p95, p99 = 1e3 * np.quantile(seconds or [np.nan], (0.5, 0.95, 0.99))
    return {
        "rate": rate, "clients": clients if not rate else "open", "requests": len(codes),
        "answered": codes.count(200), "busy": sum(code in (429, 503) for code in codes),
        "lost": sum(code not in (200, 429, 503) for code in codes), "per_second": codes.count(200) / wall,
        "p50": p50, "p95": p95, "p99": p99,
    }  # fmt: skip


def memory(pid: int) -> float:
    """Return the resident memory of a process and of those it has started, in MiB."""
    found = re.search(r"VmRSS:\s+(\d+)", pathlib.Path(f"/proc/{pid}/status").read_text())
    started = pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(found[1]) / 1024 + sum(map(memory, map(int, started))) if found else float("nan")


def measure(config: Config) -> list[dict[str, Any]]:
    """Start the server, load it at each rate, and print a table."""
    if not config.run or config.requests < len(config.rates) + 1 or config.clients < 1:
        raise InputError("RUN, --requests, --clients: give a run's folder, some requests and at least one client")
    from jaxcnn.data import drawing
    from jaxcnn.runs import read_config

    shape = ((read_config(config.run)["build"] or {}).get("image") or {}).get("shape", ())
    if len(shape) != 3:
        raise InputError(f"{config.run}: is not a run on images")
    pixels = np.random.default_rng(0).integers(0, 256, (*shape[:2], 3)).astype(np.uint8)
    body = drawing.png(pixels)
    request = b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-type: image/png\r\ncontent-length: %d\r\n\r\n%s"
    request %= len(body), body
    flags = ("--port", "0", "--workers", str(config.workers), "--per-client", "0")
    server = subprocess.Popen([*SERVE, config.run, *flags], stderr=subprocess.PIPE, text=True)
    assert server.stderr is not None
    found, ready = None, 0
    while ready < config.workers:
        line = server.stderr.readline()
        if not line:
            raise InputError(f"{config.run}: the server ended")
        found, ready = re.search(r"starts at http://\S+:(\d+)", line) or found, ready + line.startswith("ready")
    assert found is not None
    rows, each = [], config.requests // (len(config.rates) + 1)
    try:
        asyncio.run(load(int(found[1]), request, 100, 0, 1))
        before = memory(server.pid)
        for rate, clients in [(0.0, 1), *((rate, config.clients) for rate in config.rates)]:
            rows.append(asyncio.run(load(int(found[1]), request, each, rate, clients)))
            rows[-1]["grown_mib"] = memory(server.pid) - before
            print(
                "  ".join(f"{k} {v:.5g}" if isinstance(v, float) else f"{k} {v}" for k, v in rows[-1].items()),
                flush=True,
            )
    finally:
        server.terminate()
        server.wait()
        server.stderr.close()
    if config.json:
        pathlib.Path(config.json).write_text(json.dumps(rows, indent=1) + "\n")
    return rows


if __name__ == "__main__":
    raise SystemExit(command.run(lambda: measure(options.parse(Config, "load", sys.argv[1:])), "serving"))
