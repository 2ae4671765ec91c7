"""`jaxcnn serve` in processes of its own: stopped under load, several workers, memory, and the page in a browser."""

import concurrent.futures
import contextlib
import http.client
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from jaxcnn.cli.main import main
from tests.serving import Server, build, png, save

pytestmark = pytest.mark.slow
SERVE = (sys.executable, "-c", "from jaxcnn.cli.main import main; raise SystemExit(main())", "serve")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return save(tmp_path_factory.mktemp("serving") / "run", build((24, 24, 3)))


class Process:
    """A server, and the lines that it prints."""

    def __init__(self, *arguments):
        self.lines = []
        environment = {**os.environ, "XLA_FLAGS": ""}
        self.process = subprocess.Popen(
            [*SERVE, *map(str, arguments)], stderr=subprocess.PIPE, text=True, env=environment
        )
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()
        found = self.wait_for(r"starts at http://127.0.0.1:(\d+)")
        self.server = Server(int(found[1]))

    def _read(self):
        self.lines += iter(self.process.stderr.readline, "")

    def wait_for(self, pattern, seconds=120):
        until = time.monotonic() + seconds
        while time.monotonic() < until and self.process.poll() is None:
            if found := re.search(pattern, " ".join(" ".join(self.lines).split())):
                return found
            time.sleep(0.05)
        raise AssertionError(self.lines)

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(120)
        self.thread.join()
        return code, " ".join(" ".join(self.lines).split())


@contextlib.contextmanager
def started(*arguments):
    made = Process(*arguments, "--port", 0)
    try:
        yield made
    finally:
        if made.process.poll() is None:
            made.process.kill()
            made.process.wait()
        made.thread.join()
        made.process.stderr.close()


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
                return server.files(good[: int(rng.integers(1, len(good)))])[0]
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


# strokes of digits in 0..1, as a person may write them
CURVES = {
    0: [[(0.5 + 0.2 * np.sin(a), 0.5 - 0.33 * np.cos(a)) for a in np.linspace(0, 2 * np.pi, 30)]],
    1: [[(0.5, 0.18), (0.5, 0.5), (0.5, 0.84)]],
    2: [[(0.3, 0.3), (0.35, 0.2), (0.5, 0.15), (0.64, 0.22), (0.66, 0.36), (0.55, 0.55), (0.3, 0.82), (0.72, 0.82)]],
    3: [[(0.32, 0.2), (0.5, 0.15), (0.65, 0.25), (0.62, 0.4), (0.46, 0.47), (0.64, 0.55), (0.68, 0.7), (0.55, 0.83),
         (0.32, 0.8)]],
    4: [[(0.36, 0.16), (0.3, 0.52), (0.7, 0.52)], [(0.64, 0.18), (0.62, 0.85)]],
    5: [[(0.68, 0.17), (0.38, 0.17), (0.35, 0.45), (0.55, 0.42), (0.68, 0.55), (0.65, 0.74), (0.5, 0.84), (0.32, 0.8)]],
    6: [[(0.6, 0.15), (0.45, 0.3), (0.36, 0.55), (0.38, 0.76), (0.52, 0.84), (0.66, 0.74), (0.64, 0.58), (0.5, 0.52),
         (0.38, 0.62)]],
    7: [[(0.3, 0.18), (0.7, 0.18), (0.58, 0.5), (0.46, 0.85)]],
    8: [[(0.62, 0.24), (0.5, 0.16), (0.38, 0.26), (0.46, 0.42), (0.62, 0.58), (0.64, 0.75), (0.5, 0.84), (0.37, 0.74),
         (0.42, 0.56), (0.58, 0.42), (0.63, 0.28), (0.6, 0.22)]],
    9: [[(0.64, 0.3), (0.52, 0.17), (0.38, 0.26), (0.4, 0.42), (0.54, 0.47), (0.65, 0.32), (0.64, 0.55), (0.58, 0.85)]],
}  # fmt: skip


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """A run on MNIST."""
    from tests.conftest import SHARED

    if not (SHARED / "mnist").is_dir():
        pytest.skip("MNIST is not here")
    folder = tmp_path_factory.mktemp("digits")
    flags = ("--max-steps", "900", "--batch-size", "64", "--devices", "1", "--augment", "digits")
    assert main(["train", str(SHARED / "mnist"), "--workdir", str(folder), *flags]) == 0
    return next(folder.iterdir())


@pytest.fixture(scope="module")
def browser():
    api = pytest.importorskip("playwright.sync_api")
    path = shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("no Chromium here")
    with api.sync_playwright() as started:
        with contextlib.closing(started.chromium.launch(executable_path=path, args=["--no-sandbox"])) as made:
            yield made


def test_digits_drawn_in_a_browser(digits, browser, tmp_path, capsys):
    import base64

    with started(digits) as made:
        made.server.ready()
        outside, errors = [], []
        page = browser.new_page(viewport={"width": 360, "height": 740}, color_scheme="dark")
        page.on("request", lambda one: outside.append(one.url))
        page.on("console", lambda one: errors.append(one.text) if one.type == "error" else None)
        page.goto(f"http://127.0.0.1:{made.server.port}/")
        page.wait_for_selector("#draw:not([hidden])")
        page.locator("#pad").scroll_into_view_if_needed()
        box, right = page.locator("#pad").bounding_box(), 0
        for number in range(20):
            digit, slant = number % 10, 0.12 * (number // 10)
            for curve in CURVES[digit]:
                for i, (x, y) in enumerate(curve):
                    at = box["x"] + box["width"] * (x + slant * (0.5 - y)), box["y"] + box["height"] * y
                    page.mouse.move(*at)
                    if not i:
                        page.mouse.down()
                page.mouse.up()
            page.wait_for_function("document.getElementById('status').textContent.startsWith('The network says')")
            page.wait_for_timeout(300)  # the answer to the last of several strokes
            said = page.locator("article h3").first.text_content()
            right += said.startswith(f"{digit},")
            shown = page.locator("article .view img").first
            content = shown.evaluate(
                "async (image) => { const bytes = new Uint8Array(await (await fetch(image.src)).arrayBuffer());"
                " return btoa(String.fromCharCode(...bytes)); }"
            ) if not number else ""  # fmt: skip
            if content:
                (tmp_path / "0.png").write_bytes(base64.b64decode(content))
                assert main(["predict", str(digits), str(tmp_path / "0.png")]) == 0
                known = json.loads(capsys.readouterr().out.splitlines()[-1])
                assert said == f"{known['class']}, {known['probability'] * 100:.2f} %"
            page.click("#clear")
        assert right >= 18
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        # by keyboard alone: a vertical line is a one
        page.focus("#pad")
        page.keyboard.press(" ")
        for _ in range(12):
            page.keyboard.press("ArrowDown")
        page.keyboard.press(" ")
        page.keyboard.press("Enter")
        page.wait_for_selector("article h3:has-text('1,')")
        page.locator("article button").focus()
        page.keyboard.press("Enter")
        page.wait_for_selector(".explained img")
        here = f"http://127.0.0.1:{made.server.port}/"
        assert all(url.startswith((here, "blob:", "data:")) for url in outside) and not errors
        if folder := os.environ.get("JAXCNN_SCREENSHOTS"):
            for width, scheme in ((360, "dark"), (360, "light"), (1100, "light"), (1100, "dark")):
                page.emulate_media(color_scheme=scheme)
                page.set_viewport_size({"width": width, "height": 800})
                page.screenshot(path=f"{folder}/{width}-{scheme}.png", full_page=True)
        made.stop()
