"""`jaxcnn serve` in processes of its own: stopped under load, several workers, memory."""

import concurrent.futures
import contextlib
import http.client
import json
import os
import re
import signal
import subprocess
import time

import numpy as np
import pytest

from tests.serving import build, png, save, started

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return save(tmp_path_factory.mktemp("serving") / "run", build((24, 24, 3)))


def test_stopped_under_load_no_accepted_request_is_lost(run):
    image, answers, refused, other, polls = png(0), [], [], [], [0]
    with started(run) as made:
        until, status = time.monotonic() + 120, 0
        while status != 200:
            with contextlib.suppress(ConnectionRefusedError):
                status = made.server.ask("GET", "/health")[0]
                polls[0] += 1
            assert time.monotonic() < until
            time.sleep(0.05)

        def load(_):
            while not refused and not other:
                try:
                    answers.append(made.server.files(image)[0])
                except ConnectionRefusedError:
                    refused.append(1)
                except (OSError, http.client.HTTPException) as error:
                    other.append(error)

        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            tasks = [pool.submit(load, i) for i in range(8)]
            while len(answers) < 200:
                time.sleep(0.01)
            code, said = made.stop()
            for one in tasks:
                one.result()
    found = re.search(r"stopped: (\d+) requests came, (\d+) were answered", said)
    assert code == 0 and set(answers) == {200}
    assert int(found[1]) == int(found[2]) == len(answers) + polls[0]
    assert all(isinstance(one, ConnectionResetError) for one in other)  # the system had it, but the server never did


def test_several_processes_share_the_load_and_one_that_dies_is_replaced(run):
    image = png(0)
    with started(run, "--workers", 2) as made:
        made.server.ready()
        until = time.monotonic() + 120
        while b"jaxcnn_ready 2.0" not in made.server.ask("GET", "/metrics")[1]:
            assert time.monotonic() < until
            time.sleep(0.1)
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            found = list(pool.map(made.server.files, [image] * 100))
        assert [status for status, _ in found] == [200] * 100 and len({json.dumps(one) for _, one in found}) == 1
        text = made.server.ask("GET", "/metrics")[1].decode()
        assert 'jaxcnn_requests_total{path="/predict",status="200"} 100.0' in text
        children = subprocess.run(
            ["ps", "-ww", "--ppid", str(made.process.pid), "-o", "pid=,args="], capture_output=True, text=True
        )
        workers = [int(line.split()[0]) for line in children.stdout.splitlines() if "spawn_main" in line]
        assert len(workers) == 2
        os.kill(workers[0], signal.SIGKILL)
        made.wait_for("starts again")
        assert made.server.ready().files(image)[0] == 200
        code, said = made.stop()
    assert code == 0 and "Traceback" not in said


def memory(pid):
    with open(f"/proc/{pid}/status") as file:
        return int(re.search(r"VmRSS:\s+(\d+)", file.read())[1]) * 1024


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="needs /proc")
def test_bad_requests_leave_nothing_in_memory(run):
    good, rng = png(0), np.random.default_rng(0)
    with started(run) as made:
        server = made.server.ready()
        known = server.files(good)[1]["predictions"]

        def bad(number):
            kind = number % 5
            if kind == 0:
                return server.files(good[: int(rng.integers(1, len(good) - 20))])[0]  # all pixels are before the end
            if kind == 1:
                return server.files(rng.bytes(300_000))[0]
            if kind == 2:
                return server.ask("POST", "/predict", b"{" * 50_000, {"content-type": "application/json"})[0]
            if kind == 3:
                return server.ask("POST", "/predict", bytes(21 * 2**20), {"content-type": "image/png"})[0]
            head = b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-type: image/png\r\ncontent-length: 999999\r\n\r\n"
            server.send(head + good, timeout=0.05)  # leaves in the middle of the body
            return 422

        def some(count):
            for number in range(count):
                with contextlib.suppress(ConnectionError):  # closed before all of a body that is too large was sent
                    assert bad(number) in (413, 422)
                if number % 20 == 0:
                    assert server.files(good)[1]["predictions"] == known

        some(300)
        before = memory(made.process.pid)
        some(700)
        assert memory(made.process.pid) - before < 24 * 2**20
        with concurrent.futures.ThreadPoolExecutor(100) as pool:  # more at once than the queue takes
            found = list(pool.map(lambda _: server.files(*[good] * 8)[0], range(100)))
        assert set(found) <= {200, 429, 503} and 200 in found
        text = server.ask("GET", "/metrics")[1].decode()
        assert not re.search(r'status="5(?!03)', text) and server.files(good)[1]["predictions"] == known
        assert made.stop()[0] == 0
