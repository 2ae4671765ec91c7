"""`jaxcnn label` in a process of its own: killed and started again, a second process, and the page in a browser."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time

import pytest

from jaxcnn.deploy.label import labels as kept
from tests.deploy.test_label import Page, shown
from tests.serving import png

pytestmark = pytest.mark.slow
LABEL = (sys.executable, "-c", "from jaxcnn.cli.main import main; raise SystemExit(main())", "label")
ADDRESS = r"label at http://127\.0\.0\.1:(\d+)/#(\S+)"


@contextlib.contextmanager
def started(*arguments):
    """Start the command, and give its process and its page."""
    environment = {**os.environ, "XLA_FLAGS": "", "COLUMNS": "400"}
    process = subprocess.Popen([*LABEL, *map(str, arguments)], stderr=subprocess.PIPE, text=True, env=environment)
    lines: list[str] = []
    thread = threading.Thread(target=lambda: lines.extend(iter(process.stderr.readline, "")), daemon=True)
    thread.start()
    until = time.monotonic() + 300
    try:
        while not (found := re.search(ADDRESS, " ".join(" ".join(lines).split()))):
            assert time.monotonic() < until and process.poll() is None, lines
            time.sleep(0.05)
        yield process, Page(int(found[1]), found[2])
    finally:
        process.kill()
        process.wait()
        thread.join()
        process.stderr.close()


@pytest.fixture
def folder(tmp_path):
    for i in range(6):
        (tmp_path / f"{i}.png").write_bytes(png(i))
    return tmp_path


def test_a_kill_loses_nothing_and_a_second_process_is_refused(folder):
    given = {}
    for _ in range(2):
        with started(folder, "--classes", "cat", "dog") as (process, page):
            for name in ("cat", "dog"):
                found = page.get("/next")[1]
                assert page.post("/label", label=name, **shown(found))[0] == 200
                given[found["file"]] = name
            second = subprocess.run([*LABEL, str(folder)], capture_output=True, text=True, timeout=300)
            assert second.returncode == 2 and "another process writes labels" in " ".join(second.stderr.split())
            process.send_signal(signal.SIGKILL)
            process.wait()
    assert kept.read(folder / "labels.csv").rows == given and len(given) == 4
    with started(folder) as (process, page):
        assert page.get("/next")[1]["labelled"] == 4
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0


def test_the_page_in_a_browser_by_keyboard_alone(folder):
    api = pytest.importorskip("playwright.sync_api")
    path = shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("no Chromium here")
    rows = folder / "labels.csv"
    with started(folder) as (_, page_of), api.sync_playwright() as begun:
        with contextlib.closing(begun.chromium.launch(executable_path=path, args=["--no-sandbox"])) as browser:
            page, asked, errors = browser.new_page(viewport={"width": 360, "height": 740}), [], []
            page.on("request", lambda one: asked.append(one.url))
            page.on("console", lambda one: errors.append(one.text) if one.type == "error" else None)
            here = f"http://127.0.0.1:{page_of.port}/"
            page.goto(f"{here}#{page_of.token}")

            def progress(start):
                api.expect(page.locator("#progress")).to_have_text(re.compile(f"^{re.escape(start)}"))

            progress("0 of 6 labelled")
            assert page.url == here  # the token is not kept in the address
            for count, name in enumerate(("cat", "dog"), 1):
                page.focus("#name")
                page.keyboard.type(name)
                page.keyboard.press("Enter")
                api.expect(page.locator("#classes button")).to_have_count(count)
            page.keyboard.press("1")
            progress("1 of 6 labelled")
            page.keyboard.press("2")
            progress("2 of 6 labelled")
            first = list(kept.read(rows).rows.values())
            page.keyboard.press("s")
            progress("2 of 6 labelled, 1 skipped")
            page.keyboard.press("u")
            progress("2 of 6 labelled;")
            page.keyboard.press("u")
            progress("1 of 6 labelled")
            page.keyboard.press("1")
            progress("2 of 6 labelled")
            assert first == ["cat", "dog"] and list(kept.read(rows).rows.values()) == ["cat", "cat"]
            image = page.locator("#image")
            api.expect(image).to_have_js_property("complete", True)
            api.expect(image).to_have_js_property("naturalWidth", 30)
            assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
            assert all(url.startswith((here, "blob:", "data:")) for url in asked) and not errors
            if place := os.environ.get("JAXCNN_SCREENSHOTS"):
                page.set_viewport_size({"width": 1000, "height": 700})
                page.screenshot(path=f"{place}/label.png", full_page=True)
