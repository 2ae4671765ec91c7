"""`jaxcnn serve` in this process: answers of every task, limits, the token, metrics, a newer run, hostile requests."""

import asyncio
import base64
import concurrent.futures
import io
import json
import os
import re
import shutil
import socket
import struct
import time
import zlib

import numpy as np
import pytest
from PIL import Image

import jaxcnn as jc
from jaxcnn.cli.main import main
from jaxcnn.deploy.outputs import outputs
from jaxcnn.deploy.serving import Limits
from jaxcnn.deploy.serving.server import listen
from tests.serving import CLASSES, build, form, png, save, serving

JSON = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return save(tmp_path_factory.mktemp("serving") / "run", build((24, 24, 3)))


@pytest.fixture(scope="module")
def server(run):
    small = Limits(bytes=200_000, pixels=1_000_000, rows=4, seconds=20, body_seconds=1, batch_ms=1)
    with serving(run, small) as made:
        yield made


def predicted(capsys, run, *files):
    assert main(["predict", str(run), *map(str, files)]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def written(folder, contents):
    paths = [folder / f"{i}.png" for i in range(len(contents))]
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content)
    return paths


def without(found):
    return [{k: v for k, v in one.items() if k != "file"} for one in found]


def test_answers_are_those_of_predict_whatever_comes_with_them(server, run, tmp_path, capsys):
    images = [png(i) for i in range(12)]
    known = without(predicted(capsys, run, *written(tmp_path, images)))
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        alone = list(pool.map(server.files, images))
    status, three = server.files(*images[:3])
    assert status == 200 and [status for status, _ in alone] == [200] * 12
    assert without([found["predictions"][0] for _, found in alone]) == known
    assert without(three["predictions"]) == known[:3]
    assert [one["file"] for one in three["predictions"]] == ["0.png", "1.png", "2.png"]
    text = base64.b64encode(images[0]).decode()
    for body, headers in (
        (images[0], {"content-type": "image/png"}),
        (json.dumps({"image": text}), JSON),
        (json.dumps({"images": [f"data:image/png;base64,{text}"]}), JSON),
    ):
        status, found = server.ask("POST", "/predict", body, headers)
        assert status == 200 and without(found["predictions"]) == known[:1]
    count = re.search(rb"jaxcnn_batch_rows_sum (\S+)", server.ask("GET", "/metrics")[1])
    assert float(count[1]) >= 18


def test_rows_have_the_same_bits_at_any_place_of_any_batch(run):
    loaded, rng = jc.load_run(run), np.random.default_rng(0)
    rows = [{"image": rng.integers(0, 256, (24, 24, 3)).astype(np.uint8)} for _ in range(7)]
    call = outputs(loaded)
    alone = [call([row], 1)[0] for row in rows]
    order = rng.permutation(7)
    for width in (7, 8):
        found = call([rows[i] for i in order], width)
        assert all(np.array_equal(found[k], alone[i]) for k, i in enumerate(order))
    together = outputs(loaded, together=True)(rows, 8)
    np.testing.assert_allclose(together, alone, rtol=1e-4, atol=1e-5)


def test_numbers_and_several_labels(tmp_path, capsys):
    numbers = build((16, 16, 1), "regression", options={"num_classes": 1})
    labels = build((16, 16, 1), head="multilabel")
    image = png(1, (16, 16), 1)
    for name, about in (("numbers", numbers), ("labels", labels)):
        folder = save(tmp_path / name, about, () if name == "numbers" else CLASSES)
        with serving(folder) as made:
            status, found = made.files(image)
            assert status == 200
            assert without(found["predictions"]) == without(predicted(capsys, folder, *written(tmp_path, [image])))
            assert made.ask("GET", "/about")[1]["draw"]
            if name == "numbers":
                assert made.files(image, path="/explain") == (
                    422, {"error": "a run of regression is not explained here; use jaxcnn explain"},
                )  # fmt: skip


def test_a_mask_is_that_of_predict(tmp_path, capsys):
    folder, image = save(tmp_path / "run", build((16, 24, 3), "segmentation", "unet")), png(2, (40, 50))
    known = predicted(capsys, folder, *written(tmp_path, [image]))[0]
    with serving(folder) as made:
        status, found = made.files(image)
        about = made.ask("GET", "/about")[1]
    one = found["predictions"][0]
    mask = Image.open(io.BytesIO(base64.b64decode(one["mask"])))
    assert status == 200 and one["shares"] == known["shares"] and one["size"] == [40, 50]
    assert mask.mode == "P" and np.array_equal(np.asarray(mask), np.asarray(Image.open(known["mask"])))
    assert len(about["colours"]) == 3


def test_boxes_are_those_of_predict(tmp_path, capsys):
    light = {"backbone": "resnet20", "width": 8, "depth": 1, "levels": [2], "extra": 0, "max_detections": 10}
    about = build((32, 32, 3), "detection", "fcos", options={"num_classes": 3, **light}, size=[32, 32])
    folder, image = save(tmp_path / "run", about), png(3, (40, 50))
    paths = written(tmp_path, [image])
    assert main(["predict", str(folder), str(paths[0]), "--least-score", "0"]) == 0
    known = json.loads(capsys.readouterr().out)
    with serving(folder) as made:
        status, found = made.files(image, path="/predict?least_score=0")
        assert status == 200 and found["predictions"][0]["objects"] == known["objects"] != []
        assert made.files(image, path="/predict?least_score=2")[0] == 422
        assert made.files(image, path="/predict?nosuch=2")[0] == 422


def test_what_speaks_for_a_class(server):
    status, found = server.files(png(0), path="/explain")
    picture = Image.open(io.BytesIO(base64.b64decode(found["picture"])))
    assert status == 200 and found["explained"] == found["class"] and found["method"] == "Grad-CAM"
    assert picture.width >= 96
    body, headers = form(("file", "a.png", png(0)), ("target", "dog"))
    other = server.ask("POST", "/explain", body, headers)[1]
    assert other["explained"] == "dog"
    body, headers = form(("file", "a.png", png(0)), ("target", "cow"))
    assert server.ask("POST", "/explain", body, headers) == (422, {"error": "target 'cow': no such class"})
    raw = {"content-type": "image/png"}
    assert server.ask("POST", "/explain?target=dog", png(0), raw)[1]["explained"] == "dog"
    for wrong in ("tarjet=dog", "target=", "target=dog&target=cat"):
        assert server.ask("POST", f"/explain?{wrong}", png(0), raw)[0] == 422
    assert server.files(png(0), png(1), path="/explain")[0] == 413


def test_a_page_that_asks_nobody_else(server):
    for path in ("/", "/docs", "/page.js", "/page.css", "/drawing.js", "/server.js", "/docs.js"):
        status, content = server.ask("GET", path)
        assert status == 200 and "default-src 'none'" in server.headers["content-security-policy"]
        assert not re.search(rb"(?:src|href|url|import|fetch)[^\n]{0,4}[\"'(]\s*(?:https?:)?//", content), path
        assert b" style=" not in content and b"<script>" not in content  # the policy would not run them
    found = server.ask("GET", "/openapi.json")[1]
    assert found["openapi"].startswith("3.") and {"/predict", "/health", "/metrics"} <= set(found["paths"])
    assert set(found["components"]["schemas"]) == {"Prediction", "Predictions", "Explanation"}


def bomb(width, height):
    """A PNG of a few hundred bytes that says it is huge."""
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunks = ((b"IHDR", head), (b"IDAT", zlib.compress(bytes(4096))), (b"IEND", b""))
    made = (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(made)


def test_what_is_refused(server):
    good, text = png(0), base64.b64encode(png(0)).decode()
    multipart = {"content-type": "multipart/form-data; boundary=x1x"}
    body, _ = form(("file", "a.png", good))
    cases = [
        (good[:60], {"content-type": "image/png"}, 422), (b"", {"content-type": "image/png"}, 422),
        (b"<svg/>", {"content-type": "image/svg+xml"}, 422), (good, {"content-type": "text/html"}, 415),
        (good, {}, 415),
        (bomb(30_000, 30_000), {"content-type": "image/png"}, 413),
        (bomb(1100, 1000), {"content-type": "image/png"}, 413),
        (bomb(0, 5), {"content-type": "image/png"}, 422), (bytes(200_001), {"content-type": "image/png"}, 413),
        (body[:40], multipart, 422), (body[:-12], multipart, 422), (body, {"content-type": "multipart/form-data"}, 422),
        (b"", multipart, 422), (form(("wrong", "a.png", good))[0], multipart, 422),
        (form(("file", "text"))[0], multipart, 422),
        (form(("target", "dog"))[0], multipart, 422), (form(*[("file", "a.png", good)] * 5)[0], multipart, 413),
        (form(*[("file", "x")] * 50)[0], multipart, 413), (form(*[("text", "x" * 500_000)])[0], multipart, 413),
        (b"--x1x\r\ncontent-disposition: form-data\r\n\r\n\r\n--x1x--", multipart, 422),
        (b"--x1x\r\nno colon\r\n\r\n--x1x--", multipart, 422), (b"\r\n" * 1000, multipart, 422),
        ("{", JSON, 422), ("[]", JSON, 422), ("null", JSON, 422), (b"\xff\xfe", JSON, 422), ("[" * 100_000, JSON, 422),
        ('{"image": 5}', JSON, 422), ('{"image": []}', JSON, 422), ('{"image": "?"}', JSON, 422),
        ('{"image": ""}', JSON, 422), (f'{{"image": "{text}", "image": "{text}"}}', JSON, 422),
        ('{"text": "x"}', JSON, 422), (json.dumps({"image": [text] * 5}), JSON, 413),
        ('{"image": {"a": 1}}', JSON, 422),
        (json.dumps({"image": text, "more": 1}), JSON, 422), ('{"a": %s}' % ("9" * 9000), JSON, 422),
        ('{"image": "é"}'.encode(), JSON, 422), ('{"image": NaN}', JSON, 422),
        (json.dumps({"image": [""] * 40_000}), JSON, 413),
    ]  # fmt: skip
    for content, headers, status in cases:
        found = server.ask("POST", "/predict", content, headers)
        assert found[0] == status and "\n" not in found[1]["error"], (content[:60], headers, found)
    for method, path, status in (
        ("GET", "/predict", 405), ("DELETE", "/", 405), ("GET", "/nosuch", 404), ("GET", "/page/../../x", 404),
        ("GET", "/%2e%2e/%2e%2e/etc/passwd", 404), ("POST", "/health", 405),
    ):  # fmt: skip
        assert server.ask(method, path)[0] == status
    assert server.files(good)[0] == 200


def test_hostile_connections(server):
    good = png(0)
    start = b"POST /predict HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: image/png\r\n"
    head = f"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-type: image/png\r\ncontent-length: {len(good)}\r\n".encode()
    for data, status in (
        (b"GET /health HTTP/1.1\r\nhost: x\r\nx: " + b"a" * 1_000_000 + b"\r\n\r\n", b"400"),
        (b"\x16\x03\x01\x02\x00\r\n\r\n", b"400"),
        (b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-length: -5\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\n\r\n", b"400"),
        (start + b"transfer-encoding: chunked\r\n\r\nzz\r\n", b"400"),
        (head + b"\r\n" + good[:50], b"408"), (b"GET /health HTTP/1.1\r\nhost: x\r\n", b"408"), (b"", b"408"),
    ):  # fmt: skip
        got = server.send(data)
        assert got.startswith(b"HTTP/1.1 " + status) or status == b"400" and not got, (data[:60], got[:100])
        if got:
            head, _, content = got.partition(b"\r\n\r\n")
            assert b"content-type: application/json" in head.lower() and json.loads(content)["error"], got
    chunked = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (good[:100], good[100:])) + b"0\r\n\r\n"
    assert server.send(start + b"transfer-encoding: chunked\r\n\r\n" + chunked).startswith(b"HTTP/1.1 200")
    endless = b"10000\r\n" + bytes(65536) + b"\r\n"
    assert server.send(start + b"transfer-encoding: chunked\r\n\r\n" + endless * 4).startswith(b"HTTP/1.1 413")
    assert server.files(good)[0] == 200


def test_answers_are_sent_at_once():
    """Without TCP_NODELAY the body of an answer waits for 40 ms until the client confirms the head."""

    async def accepted(listening):
        found = asyncio.get_running_loop().create_future()

        def come(_, writer):
            found.set_result(writer)

        async with await asyncio.start_server(come, sock=listening):
            _, client = await asyncio.open_connection(*listening.getsockname())
            server = await found
            delay = server.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            client.close()
            server.close()
        return delay

    assert asyncio.run(accepted(listen("127.0.0.1", 0)))


def test_too_many_connections_are_told_in_json(run):
    with serving(run, Limits(connections=1)) as made:
        assert made.ask("GET", "/health")[0] == 200
        with socket.create_connection(("127.0.0.1", made.port)):
            status, found = made.ask("GET", "/health")
        assert status == 503 and "1 connections are open" in found["error"] and made.headers["retry-after"]
        made.ready()


def test_a_client_cannot_write_to_the_terminal(server, caplog):
    content, headers = form(("file", "a.png", png(0)))
    for broken in (content.replace(b"content-disp", b"c\x1b[31mREAD-ME\r\n"), content.replace(b"--x1x", b"--x1y")):
        assert server.ask("POST", "/predict", broken, headers)[0] == 422
    assert not [record for record in caplog.records if record.name.startswith("python_multipart")]


def test_a_full_queue_and_a_greedy_client(run):
    image = png(0)
    tight = Limits(queue=4, rows=2, per_client=3, batch_ms=300, batch=32)
    with serving(run, tight) as made, concurrent.futures.ThreadPoolExecutor(6) as pool:
        found = list(pool.map(made.files, [image] * 6))
        assert {status for status, _ in found} == {200, 429} and sum(status == 200 for status, _ in found) >= 3
    with serving(run, tight.__class__(queue=3, rows=2, per_client=0, batch_ms=300)) as made:
        with concurrent.futures.ThreadPoolExecutor(6) as pool:
            found = list(pool.map(made.files, [image] * 6))
        assert {status for status, _ in found} == {200, 503}
        assert made.files(image)[0] == 200  # places are given back
    with serving(run, Limits(seconds=0.1, batch_ms=2000)) as made:
        status, found = made.files(image)
        assert status == 503 and "no answer within 0.1 seconds" in found["error"] and made.headers["retry-after"]


def test_bodies_have_room_until_they_are_answered(run):
    image = png(0)
    with serving(run, Limits(bytes=2000, memory=3 * len(image), batch_ms=500, rows=1)) as made:
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            found = list(pool.map(made.files, [image] * 8))
        assert {status for status, _ in found} == {200, 503}
        assert any("bytes of other requests" in one.get("error", "") for _, one in found)
        assert made.files(image)[0] == 200


def led_to_what_fails(server, link, place):
    """Let a link lead to a run, and wait until the server could not load it."""
    os.symlink(place, link.with_name("next"))
    os.replace(link.with_name("next"), link)
    until = time.monotonic() + 60
    while b'jaxcnn_reloads_total{result="failed"} 1.0' not in server.ask("GET", "/metrics")[1]:
        assert time.monotonic() < until
        time.sleep(0.05)


def test_a_newer_run_whose_outputs_are_not_finite_does_not_take_over(run, tmp_path, capsys):
    wrong = save(tmp_path / "wrong", build((24, 24, 3)), scale=np.nan)
    os.symlink(run, tmp_path / "link")
    with serving(tmp_path / "link", watch=0.1) as made:
        led_to_what_fails(made, tmp_path / "link", wrong)
        assert made.files(png(0))[1]["run"] == run.name
    assert main(["predict", str(wrong), *map(str, written(tmp_path, [png(0)]))]) == 2
    assert "not finite" in capsys.readouterr().err


def test_a_run_that_is_still_copied_is_served_once_it_is_whole(run, tmp_path):
    other, there = save(tmp_path / "other", build((24, 24, 3)), seed=5), tmp_path / "there"
    late = min((other / "checkpoints").rglob("manifest.ocdbt"), key=lambda p: len(p.parts))
    shutil.copytree(other, there)
    missing = there / late.relative_to(other)
    missing.unlink()
    os.symlink(run, tmp_path / "link")
    with serving(tmp_path / "link", watch=0.1) as made:
        led_to_what_fails(made, tmp_path / "link", there)
        shutil.copy(late, missing)
        until = time.monotonic() + 60
        while made.files(png(0))[1]["run"] != "there":
            assert time.monotonic() < until
            time.sleep(0.05)


def test_a_reader_of_lines_gives_symbols(tmp_path, capsys):
    about = build((16, 24, 1), "sequence", "text_line", {"num_classes": 3, "widths": [2, 2, 2, 2], "line_width": 4})
    folder, image = save(tmp_path / "run", about), png(1, (16, 24), 1)
    known = without(predicted(capsys, folder, *written(tmp_path, [image])))
    with serving(folder) as made:
        status, found = made.files(image)
    assert status == 200 and without(found["predictions"]) == known
    assert set(known[0]["symbols"]) <= set(CLASSES) and 0 < known[0]["probability"] <= 1


def test_a_token(run):
    with serving(run, token="a-secret-of-some-length") as made:
        for value in (None, "Bearer ", "Bearer wrong", "Basic a-secret-of-some-length", "Bearer é"):
            given = {} if value is None else {"authorization": value.encode()}
            assert made.files(png(0), **given)[0] == 401 and made.headers["www-authenticate"] == "Bearer"
        good = {"authorization": "Bearer a-secret-of-some-length"}
        assert made.files(png(0), **good)[0] == 200 and made.ask("GET", "/metrics", headers=good)[0] == 200
        assert made.ask("GET", "/metrics")[0] == made.ask("GET", "/about")[0] == 401
        assert made.ask("GET", "/health")[0] == made.ask("GET", "/")[0] == 200


def test_a_newer_run_takes_over_and_a_damaged_one_does_not(run, tmp_path):
    other = save(tmp_path / "other", build((24, 24, 3)), seed=5)
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad/config.json").write_text("{")
    (tmp_path / "bad/checkpoints").mkdir()
    link, image, names = tmp_path / "link", png(0), []

    def point(place):
        os.symlink(place, tmp_path / "next")
        os.replace(tmp_path / "next", link)

    point(run)
    with serving(link, watch=0.1) as made, concurrent.futures.ThreadPoolExecutor(2) as pool:
        first = made.files(image)[1]

        def asking():
            until = time.monotonic() + 60
            while time.monotonic() < until:
                status, found = made.files(image)
                assert status == 200
                names.append(found["run"])
                if found["run"] == "other":
                    return found

        asked = [pool.submit(asking) for _ in range(2)]
        point(other)
        last = [one.result() for one in asked]
        assert names and all(one["run"] == "other" for one in last)
        assert last[0]["predictions"] == last[1]["predictions"] != first["predictions"]
        point(tmp_path / "bad")
        until = time.monotonic() + 60
        while b'jaxcnn_reloads_total{result="failed"} 1.0' not in made.ask("GET", "/metrics")[1]:
            assert time.monotonic() < until
            time.sleep(0.05)
        assert made.files(image)[1]["run"] == "other"


def test_nothing_is_kept_on_disk(server, tmp_path, monkeypatch):
    import tempfile

    monkeypatch.setattr(tempfile, "TemporaryFile", None)  # what a spooled file would become
    large = np.random.default_rng(0).integers(0, 256, (240, 240, 3)).astype(np.uint8)
    made = io.BytesIO()
    Image.fromarray(large).save(made, "PNG")
    assert len(made.getvalue()) > 150_000 and server.files(made.getvalue())[0] == 200


def test_flags_and_runs_that_are_refused(run, tmp_path, capsys, monkeypatch):
    def refused(*arguments):
        assert main(["serve", *map(str, arguments)]) == 2
        return " ".join(capsys.readouterr().err.split())

    monkeypatch.delenv("JAXCNN_TOKEN", raising=False)
    (tmp_path / "short").write_text("short")
    (tmp_path / "spaces").write_text("a token of several words")
    volumes = save(
        tmp_path / "volumes",
        build((8, 8, 8, 1), "segmentation", "unet", {"dims": 3, "num_classes": 3, "widths": [2, 2]}),
    )
    for arguments, line in (
        ((), "RUN: give the folder of a run"), ((tmp_path,), "not a run's folder"),
        ((run, "--port", 70000), "--port 70000"),
        ((run, "--workers", 0), "--workers 0"), ((run, "--watch", 0.01), "--watch 0.01"),
        ((run, "--batch", 0), "serve: --batch 0: must be at least 1"),
        ((run, "--max-memory", 100), "--max-bytes 20971520: must be at most --max-memory 100, or"),
        ((run, "--max-rows", 500), "serve: --max-rows 500: must be at most --max-queue 256 and --per-client 128,"),
        ((run, "--host", "no.such.host.invalid"), "--host"),
        ((run, "--token-file", tmp_path / "none"), "cannot be read"),
        ((run, "--token-file", tmp_path / "short"), "at least 16"),
        ((run, "--token-file", tmp_path / "spaces"), "without spaces"), ((volumes,), "volumes are not served"),
        ((run, "--seconds", "nan"), "--seconds nan"), ((run, "--token", "x"), "no such flag"),
    ):  # fmt: skip
        assert line in refused(*arguments), arguments
    monkeypatch.setenv("JAXCNN_TOKEN", "")
    assert "JAXCNN_TOKEN: a token must be" in refused(run)
