"""What an experiment sets in its process, and what importing the library must not load."""

import json
import logging
import os
import pathlib
import subprocess
import sys
import threading
import warnings

import jax
import jax.numpy as jnp
import pytest

from experiments import mnist
from jaxcnn.cli import distributed, runtime
from jaxcnn.core import paths
from jaxcnn.runs import background, screen
from tests.experiments.test_experiments import ENV, QUICK, folder, inside, run

ROOT = pathlib.Path(__file__).resolve().parents[2]


def python(code, **env):
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=ENV | env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_the_library_loads_nothing_that_waits():
    late = (
        "orbax", "tensorstore", "tensorflow", "tensorflow_datasets", "sklearn", "matplotlib", "tensorboardX", "PIL",
        "tyro", "chex",
    )  # fmt: skip
    assert python(f"import sys, jaxcnn; print([name for name in {late} if name in sys.modules])") == "[]"


def test_importing_the_experiments_sets_nothing():
    code = """
import gc, jax
before = gc.get_threshold()
from experiments import cli, mnist
print(before == gc.get_threshold(), not jax.config.jax_compilation_cache_dir)
"""
    assert python(code) == "True True"


def test_large_buffers_are_kept():
    code = """
import resource
import numpy as np
from experiments import mnist
from jaxcnn.cli import distributed, runtime
ok = runtime.reuse_memory()
def faults():
    np.ones(20_000_000)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.ones(20_000_000)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(ok, faults())
"""
    if not sys.platform.startswith("linux"):
        pytest.skip("glibc's allocator")
    ok, faults = python(code).split()
    assert ok == "True" and int(faults) < 5000  # 160 MB in pages of 4 KiB are 39,000


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"XDG_CACHE_HOME": "/x"}, "/x/jaxcnn/jax"),
        ({"XDG_CACHE_HOME": "", "HOME": "/home/me"}, "/home/me/.cache/jaxcnn/jax"),
    ],
)
def test_the_users_folder(monkeypatch, environment, expected):
    monkeypatch.setattr(sys, "platform", "linux")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert runtime.cache_folder("jax") == pathlib.Path(expected)


def test_a_user_without_a_home(monkeypatch, caplog):
    """A container's user that passwd does not know."""
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("os.getuid", lambda: 54321)
    paths.for_now.cache_clear()
    with caplog.at_level(logging.WARNING, "jaxcnn"):
        found = [runtime.cache_folder(name) for name in ("jax", "data")]
        runtime.find_home()
    assert (
        found[0].parent == found[1].parent == pathlib.Path(os.environ["HOME"])
        and found[0].parent.stat().st_mode & 0o77 == 0
    )
    assert caplog.messages == [
        "this user has no home folder, so nothing is kept for the next time; set XDG_CACHE_HOME to a folder to keep it"
    ]
    paths.for_now.cache_clear()


def parameters(*arguments, **env):
    out, err = run(*QUICK, "--epochs", 1, *arguments, env=env)
    return json.loads(
        (pathlib.Path(out.strip().splitlines()[-1].split("images, ")[1]) / "summary.json").read_text()
    ), err


def test_programs_are_kept_and_a_damaged_one_is_compiled_again(tmp_path):
    where = {"JAX_ENABLE_COMPILATION_CACHE": "1", "XDG_CACHE_HOME": str(tmp_path / "user")}
    first, _ = parameters("--workdir", tmp_path / "w", **where)
    entries = list((tmp_path / "user" / "jaxcnn" / "jax").glob("jit_loop-*"))
    assert entries and 0 < first["seconds_to_first_step"] < first["first_step_at"]
    for i, entry in enumerate(entries):
        raw = entry.read_bytes()
        entry.write_bytes(raw[: len(raw) // 2] if i % 2 else raw[:100] + bytes([raw[100] ^ 255]) + raw[101:])
    again, err = parameters("--workdir", tmp_path / "w", **where)
    assert "a compiled program in" in err and "was damaged (jit_loop): it is compiled again" in err
    third, err = parameters("--workdir", tmp_path / "w", **where)
    off, _ = parameters("--workdir", tmp_path / "w", "--compilation-cache", "off", "--no-reuse-memory", **where)
    assert "damaged" not in err
    assert len({summary["params_sha256"] for summary in (first, again, third, off)}) == 1


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path, caplog):
    before = jax.config.jax_compilation_cache_dir
    (tmp_path / "file").write_text("")
    with caplog.at_level(logging.WARNING, "jaxcnn"):
        runtime.keep_programs(str(tmp_path / "file" / "below"))
    assert (
        len(caplog.messages) == 1
        and f"{tmp_path / 'file' / 'below'} cannot be written (Not a directory)" in caplog.messages[0]
    )
    assert jax.config.jax_compilation_cache_dir == before


def test_other_warnings_are_shown_as_before(tmp_path):
    shown = []
    show = runtime._mend(tmp_path, lambda *args, **more: shown.append(str(args[0])))
    (tmp_path / "jit_f-1-cache").write_text("")
    (tmp_path / "jit_g-1-cache").write_text("")
    show(UserWarning("something else"), UserWarning, "here.py", 1)
    show(UserWarning("Error reading persistent compilation cache entry for 'jit_f': error"), UserWarning, "here.py", 1)
    assert shown == ["something else"] and [p.name for p in tmp_path.iterdir()] == ["jit_g-1-cache"]
    assert warnings.showwarning is not show


def test_a_profile(tmp_path, capsys):
    with background.Profile(str(tmp_path / "here")) as profile:
        for _ in range(3):
            jnp.ones(3).sum().block_until_ready()
            profile.dispatch()
    files = [p.name for p in (tmp_path / "here").rglob("*") if p.is_file()]
    assert "perfetto_trace.json.gz" in files and any(name.endswith(".xplane.pb") for name in files)
    assert capsys.readouterr().out.startswith(f"profile: {tmp_path / 'here' / 'plugins' / 'profile'}")


def test_a_profile_of_a_run(tmp_path, capsys, monkeypatch):
    code, _ = inside(
        capsys, monkeypatch, *QUICK, "--epochs", 1, "--devices", 1, "--workdir", tmp_path / "w", "--profile",
        tmp_path / "p",
    )  # fmt: skip
    assert code == 0 and list((tmp_path / "p").rglob("*.xplane.pb")) and folder(tmp_path / "w")


def test_a_profile_that_cannot_be_written(tmp_path, capsys, monkeypatch):
    (tmp_path / "file").write_text("")
    bad = tmp_path / "file" / "p"
    code, lines = inside(capsys, monkeypatch, *QUICK, "--workdir", tmp_path / "w", "--profile", bad)
    assert code == 2 and lines == [f"mnist: --profile {bad}: cannot be written (Not a directory); give another folder"]
    assert not (tmp_path / "w").exists()


def test_what_fails_meanwhile_stops_nothing():
    done = []

    def fail():
        raise ValueError("no")

    background.meanwhile(background.return_memory, fail, lambda: done.append(1))
    for thread in threading.enumerate():
        if thread.name == "meanwhile":
            thread.join()
    assert done == [1]


def test_what_jax_is_told_before_it_starts(monkeypatch):
    for name in ("XLA_PYTHON_CLIENT_PREALLOCATE", "XLA_PYTHON_CLIENT_MEM_FRACTION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XLA_FLAGS", "--xla_a")
    runtime.prepare(-1, False)
    assert os.environ["XLA_FLAGS"] == "--xla_a" and "XLA_PYTHON_CLIENT_PREALLOCATE" not in os.environ
    runtime.prepare(0, True)
    assert os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] == "false"
    assert os.environ["XLA_FLAGS"] == "--xla_a --xla_gpu_deterministic_ops=true"
    runtime.prepare(0.4, False)
    assert os.environ["XLA_PYTHON_CLIENT_MEM_FRACTION"] == "0.4"


def test_out_of_memory_says_what_to_try():
    config = mnist.Config(batch_size=4096)
    for error in (MemoryError(), RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 17179869184 bytes.")):
        line = runtime.out_of_memory(error, config)
        assert line.startswith("out of memory at --batch-size 4096: ") and "--accumulate" in line and "--remat" in line
    assert "17179869184 bytes more requested" in line
    assert runtime.out_of_memory(OSError("no such file"), config) is None


@pytest.mark.parametrize(
    "environment, several",
    [
        ({}, False),
        ({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "1"}, False),
        ({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4"}, True),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, True),
        ({"TPU_WORKER_HOSTNAMES": "a,b"}, True),
        ({"TPU_WORKER_HOSTNAMES": "a"}, False),
        ({"KUBERNETES_SERVICE_HOST": "x", "JOB_COMPLETION_INDEX": "0"}, True),
        ({"KUBERNETES_SERVICE_HOST": "x"}, False),
    ],
)
def test_which_environments_mean_several_processes(environment, several):
    assert distributed.in_cluster(environment) is several


def test_a_jump_of_the_loss_is_a_line():
    spikes = screen.Spikes()
    usual = [1 + 0.01 * (i % 3) for i in range(20)]
    assert not any(spikes.line(i, loss) for i, loss in enumerate([9.0, 5.0, 2.0, *usual]))
    assert spikes.line(24, 2.5).startswith(
        "loss spike: 2.5 up to step 24, the median of the 23 dispatches before is 1.0"
    )
