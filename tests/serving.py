"""Runs without training, and a server in a thread of the process, for the tests of `jaxcnn serve`."""

import contextlib
import http.client
import io
import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time

import jax
import numpy as np
from PIL import Image

import jaxcnn as jc
from jaxcnn.deploy.serving import Limits
from jaxcnn.deploy.serving.app import application
from jaxcnn.deploy.serving.protocol import patient

CLASSES = ("bee", "cat", "dog")
SERVE = (sys.executable, "-c", "from jaxcnn.cli.main import main; raise SystemExit(main())", "serve")


def build(shape, task="classification", model="cnn", options=None, **more):
    sizes = {"cnn": {"num_classes": 3, "widths": [3, 4]}, "unet": {"num_classes": 3, "widths": [4, 8]}}
    image = {"image": {"shape": list(shape), "dtype": "uint8"}}
    return {"model": {"name": model, "options": sizes.get(model, {}) | (options or {})},
            "task": {"name": task, "options": more}, **image}  # fmt: skip


def save(folder, about, classes=CLASSES, seed=0, scale=3):
    """Save a run whose weights are random, with predictions that differ from image to image."""
    task = jc.runs.build(about)[1]
    shape, name = about["image"]["shape"], about["task"]["name"]
    rows = {"image": np.zeros((2, *shape), np.uint8)}
    key = "target" if name == "regression" else "mask" if name == "segmentation" else "label"
    many = about["task"]["options"].get("head") == "multilabel"
    rows[key] = {"target": np.zeros(2, np.float32), "mask": np.zeros((2, *shape[:2]), np.int32)}.get(
        key, np.zeros((2, len(classes)), np.float32) if many else np.zeros(2, np.int32)
    )
    if name == "detection":
        rows = {"image": rows["image"], "boxes": np.zeros((2, 1, 4), np.float32), "box_label": np.zeros((2, 1),
        np.int32),
                "box_mask": np.zeros((2, 1), np.float32)}  # fmt: skip
    if name == "sequence":
        rows["symbols"] = rows.pop(key)[:, None]
    variables = task.init(jax.random.key(seed), rows)
    variables = jax.tree.map(lambda x: x * scale if x.ndim > 1 else x, variables)
    jc.save_run(folder, task, variables, jc.data.Resident(rows, classes), batch_size=2, build=about)
    return folder


def png(seed=0, size=(20, 30), channels=3):
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, channels)).astype(np.uint8)
    made = io.BytesIO()
    Image.fromarray(pixels.squeeze()).save(made, "PNG")
    return made.getvalue()


def form(*parts, boundary="x1x"):
    """Multipart parts, each (name, content) or (name, filename, content)."""
    body = b""
    for name, *rest in parts:
        label = f'; filename="{rest[0]}"' if len(rest) == 2 else ""
        body += f'--{boundary}\r\ncontent-disposition: form-data; name="{name}"{label}\r\n\r\n'.encode()
        body += (rest[-1].encode() if isinstance(rest[-1], str) else rest[-1]) + b"\r\n"
    return body + f"--{boundary}--\r\n".encode(), {"content-type": f"multipart/form-data; boundary={boundary}"}


class Server:
    """Where a server listens, and the requests of a test."""

    def __init__(self, port):
        self.port = port

    def ask(self, method, path, body=None, headers=None, timeout=60):
        there = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        with contextlib.closing(there):
            there.request(method, path, body, headers or {})
            answer = there.getresponse()
            self.headers = dict(answer.getheaders())
            content = answer.read()
        kind = self.headers.get("content-type", "")
        return answer.status, json.loads(content) if kind.startswith("application/json") else content

    def files(self, *contents, path="/predict", **headers):
        body, more = form(*(("file", f"{i}.png", one) for i, one in enumerate(contents)))
        return self.ask("POST", path, body, more | headers)

    def send(self, data, timeout=10):
        """Send bytes, and return all that comes back until the server closes or falls silent."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=timeout) as there:
            there.sendall(data)
            got = b""
            with contextlib.suppress(OSError):
                while part := there.recv(65536):
                    got += part
            return got

    def ready(self, seconds=120):
        until = time.monotonic() + seconds
        while True:
            with contextlib.suppress(OSError):
                if self.ask("GET", "/health")[0] == 200:
                    return self
            assert time.monotonic() < until, "not ready"
            time.sleep(0.05)


@contextlib.contextmanager
def serving(path, limits=None, **options):
    """Serve in a thread."""
    import uvicorn

    limits = limits or Limits()
    app = application(str(path), limits, **options)
    config = uvicorn.Config(
        app, http=patient(limits), loop="asyncio", ws="none", log_config=None, server_header=False, proxy_headers=False,
        h11_max_incomplete_event_size=65536, lifespan="on",
    )  # fmt: skip
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
    server = uvicorn.Server(config)
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, args=([listening],))
    thread.start()
    try:
        yield Server(listening.getsockname()[1]).ready()
    finally:
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive()


class Process:
    """A server in a process of its own, and the lines that it prints."""

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
    """Serve in a process."""
    made = Process(*arguments, "--port", 0)
    try:
        yield made
    finally:
        if made.process.poll() is None:
            made.process.kill()
            made.process.wait()
        made.thread.join()
        made.process.stderr.close()
