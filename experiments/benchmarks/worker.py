"""The process of one subject, one JSON line per answer: `python -m experiments.benchmarks.worker BENCHMARK SUBJECT`."""

import importlib
import json
import os
import resource
import sys
import time
from typing import Any

from experiments.benchmarks.peers import Prepared
from experiments.benchmarks.subprocess_worker import peak_resident_mb


def peak_memory_mb() -> float:
    """Return the peak of the device's own memory if it has any, otherwise of this process's resident set, in MB."""
    for library, peak in (("torch", _torch_peak), ("jax", _jax_peak)):
        if library in sys.modules and (found := peak(sys.modules[library])):
            return found / 2**20
    # getrusage includes the peak of the parent process, so /proc comes first
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return peak_resident_mb(os.getpid()) or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def _torch_peak(torch: Any) -> int:
    return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0


def _jax_peak(jax: Any) -> int:
    return (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use", 0)


def timed(prepared: Prepared, seconds: float, most: int) -> list[float]:
    """Return the seconds per unit of work of each call; the first call counts only if it takes all of the time.

    Args:
        prepared: the case.
        seconds: time for all calls.
        most: largest number of calls; there is at least one.

    """
    times: list[float] = []
    while len(times) < 2 or (sum(times) < seconds and len(times) <= most):
        start = time.perf_counter()
        prepared.call()
        times.append(time.perf_counter() - start)
        if times[0] >= seconds:
            break
    return [t / prepared.per for t in times[1:] or times]


def main() -> None:
    """Answer requests until the input ends; the output of libraries goes to standard error."""
    benchmark, subject = sys.argv[1:]
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    if subject in ("jaxcnn", "rates"):
        from jaxcnn.cli import runtime

        runtime.reuse_memory()  # as in the experiments; the peers run as their users start them
    prepare = getattr(
        importlib.import_module(f"experiments.benchmarks.peers.{benchmark}"),
        subject.replace("-", "_").replace(".", "_"),
    )
    prepared = None
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if request["do"] == "prepare":
                prepared, answer = prepare(request["case"]), {}
            elif request["do"] == "time":
                answer = {"times": timed(prepared, request["seconds"], request["most"])}
            elif request["do"] == "memory":
                answer = {"peak_memory_mb": peak_memory_mb()}
            else:
                answer = prepared.facts()
        except Exception as error:  # any failure concerns this subject only
            answer = {"failed": f"{type(error).__name__}: {str(error).strip() or 'no message'}".splitlines()[0]}
        print(json.dumps(answer), file=out, flush=True)


if __name__ == "__main__":
    main()
