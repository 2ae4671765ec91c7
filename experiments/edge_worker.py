"""Runs a network's file on one core and prints what it costs: `python -m experiments.edge_worker onnx FILE IMAGES`.

`images.npz` beside the file has the images. This is a process of its own so that memory and threads are the file's.
"""

import json
import os
import pathlib
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

WARM = 20  # first images, which are not counted
COUNTERS = pathlib.Path("/sys/class/powercap")


def onnx(path: pathlib.Path) -> Callable[[np.ndarray], np.ndarray]:
    """Open an ONNX file for one thread."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.x64quantprecision", "1")  # or sums of int8 files may overflow
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda image: session.run(["logits"], {"image": image})[0]


def litert(path: pathlib.Path) -> Callable[[np.ndarray], np.ndarray]:
    """Open a LiteRT file for one thread."""
    import tensorflow

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the interpreter has moved to a package of its own, for the same files
        interpreter = tensorflow.lite.Interpreter(model_path=str(path), num_threads=1)
    runner = interpreter.get_signature_runner("serving_default")
    return lambda image: runner(image=image)["logits"]


def memory() -> float | None:
    """Return the resident memory of this process in MiB, or None where the system does not tell."""
    try:
        pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return None
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def energy(root: pathlib.Path = COUNTERS) -> float | None:
    """Return the energy that the processors have used, in joules, or None where no counter can be read."""
    try:
        parts = [path for path in sorted(root.glob("*rapl:*")) if path.name.count(":") == 1]
        return sum(int((path / "energy_uj").read_text()) for path in parts) / 1e6 if parts else None
    except (OSError, ValueError):
        return None


def main(kind: str, path: pathlib.Path, images: int) -> dict[str, Any]:
    """Measure a file, and answer all images."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    if kind == "onnx":
        import onnxruntime  # noqa: F401 (before memory is read)
    else:
        import tensorflow  # noqa: F401
    image = np.load(path.parent / "images.npz")["image"]
    before = memory()
    run: Callable[[np.ndarray], np.ndarray] = {"onnx": onnx, "litert": litert}[kind](path)
    times, joules = [], None
    for i in range(min(images, len(image))):
        if i == WARM:
            joules = energy()
        start = time.perf_counter()
        run(image[i : i + 1])
        times.append(1e3 * (time.perf_counter() - start))
    after, later = energy(), memory()
    used = None if before is None or later is None else later - before
    counted = len(times[WARM:])
    spent = None if joules is None or after is None or not counted else 1e3 * (after - joules) / counted
    answers = [int(run(image[i : i + 1])[0].argmax()) for i in range(len(image))]
    ms = [float(x) for x in np.percentile(times[WARM:] or times, (50, 95))]
    return {"ms": ms, "mib": used, "mj": spent if spent is None or spent >= 0 else None, "answers": answers}


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    print(json.dumps(main(sys.argv[1], pathlib.Path(sys.argv[2]), int(sys.argv[3]))), flush=True)
