"""The environment of a benchmark: packages, processor, memory, and whether other programs were running."""

import datetime
import json
import os
import pathlib
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterable, Mapping
from typing import Any

import jaxcnn as jc
from experiments.benchmarks.subprocess_worker import ROOT
from jaxcnn.ops.lowering.record import cores

PACKAGES = (
    "jax", "jaxlib", "flax", "optax", "numpy", "keras", "tensorflow", "tensorflow_datasets", "torch", "torchvision",
    "onnx", "onnxruntime", "openvino", "grain", "PIL",
)  # fmt: skip
# beginnings of environment variables that change times
SETTINGS = (
    "GLIBC_", "JAX_", "KERAS_", "MALLOC_", "OMP_", "TF_ENABLE_", "TF_NUM_", "TF_XLA_", "TORCHINDUCTOR_", "XLA_",
)  # fmt: skip
QUIET = 0.5  # load per core above which times are unreliable

# prints a dict from the modules of an interpreter to their versions
PROBE = f"""
import importlib.metadata as m, importlib.util, json, platform
names = m.packages_distributions()
found = {{p: m.version(names[p][0]) for p in {PACKAGES} if p in names and importlib.util.find_spec(p)}}
print(json.dumps({{"python": platform.python_version(), **found}}))
"""


def quiet(load: float, cores: int) -> bool:
    """Return whether so few other programs run that times are reliable."""
    return load <= QUIET * cores


def versions(python: str) -> dict[str, str]:
    """Return the versions of Python and of the packages that it can import.

    Raises:
        InputError: it is not a working interpreter.

    """
    try:
        answer = subprocess.run(
            [python, "-c", PROBE], cwd=ROOT, capture_output=True, text=True, timeout=120, check=True
        )
        return json.loads(answer.stdout)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it did not answer"
        raise jc.InputError(
            f"--peer-python {python}: not a usable Python ({reason}); give the path of an interpreter"
        ) from error


def missing(needs: Mapping[str, Iterable[str]], has: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """Return a dict from each subject that cannot run to the reason.

    Args:
        needs: dict from subject to the modules that it needs.
        has: dict from subject to the modules that it has, with their versions.

    """
    absent = {subject: [m for m in modules if m not in has[subject]] for subject, modules in needs.items()}
    return {subject: f"{' and '.join(modules)} not installed" for subject, modules in absent.items() if modules}


def environment(name: str, arguments: list[str], peers: Mapping[str, str]) -> dict[str, Any]:
    """Describe the machine before anything is timed.

    Args:
        name: name of the benchmark.
        arguments: its command-line arguments.
        peers: versions in the interpreter of the peers.

    """
    load = os.getloadavg()[0]
    return {
        "benchmark": name,
        "command": shlex.join(["python", "-m", f"experiments.benchmarks.{name}", *arguments]),
        "date": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "platform": platform.platform(),
        "cpu": _cpu(),
        "cores": cores(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "load": round(load, 2),
        "quiet": quiet(load, cores()),
        "versions": {"jaxcnn": jc.__version__} | versions(sys.executable),
        "peer_versions": dict(peers),
        "shell": {k: v for k, v in os.environ.items() if k.startswith(SETTINGS)},
    }


def _cpu() -> str:
    info = pathlib.Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
