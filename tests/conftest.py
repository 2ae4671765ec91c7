"""Fixtures: eight virtual CPU devices, strict shapes, and the shared data sets if they are available."""

import atexit
import os
import pathlib
import shutil
import tempfile
from importlib.metadata import version

os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "0"  # keeping the small programs of tests takes longer than compiling them
if "PYTEST_XDIST_WORKER" not in os.environ:  # the workers share the folder of the process that starts them
    os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="jaxcnn-test-cache-")  # instead of the user's
    atexit.register(shutil.rmtree, os.environ["XDG_CACHE_HOME"], ignore_errors=True)
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # with it, each process that tests start reads all modules as source

import jax  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402

from tests.tiers import tier  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")


def pytest_configure(config):
    """Compile short tests without optimisation, because they mostly compile; long tests mostly compute."""
    if config.option.markexpr in ("not slow", "quick"):
        os.environ["XLA_FLAGS"] += " --xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1"
        if version("jaxlib").startswith("0.10."):  # XLA ends the process at a flag that it does not know
            os.environ["XLA_FLAGS"] += " --xla_cpu_use_fusion_emitters=false"  # the older ones compile faster


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Mark each test with its tier."""
    for item in items:
        mark = tier(item.path.stem, item.name)
        if mark and not (mark == "quick" and item.get_closest_marker("slow")):
            item.add_marker(mark)


SHARED = pathlib.Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def homeless(monkeypatch):
    """A container's user that passwd does not know."""
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr("os.getuid", lambda: 54321)


@pytest.fixture
def shared():
    if not SHARED.is_dir():
        pytest.skip("the shared data sets are not here")
    return SHARED
