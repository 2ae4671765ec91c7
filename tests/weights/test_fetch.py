"""Downloads, from a server on this machine: what fits its hash is kept, what does not is named and gone."""

import contextlib
import hashlib
import http.server
import json
import os
import pathlib
import subprocess
import sys
import threading
import time
import urllib.request

import pytest

from jaxcnn import InputError, runs
from jaxcnn.weights import fetch

BODY = bytes(range(256)) * 4096  # a megabyte: more than one block
HASH = hashlib.sha256(BODY).hexdigest()
OTHER = hashlib.sha256(b"other").hexdigest()
COMMIT = "c" * 40


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves `BODY` under every name, with the fault that the first part of the path names."""

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.do_GET(head=True)

    def do_GET(self, head=False):
        kind = self.path.split("/")[1]
        self.server.seen.append(self.path)
        if kind in ("404", "503") or "absent" in self.path:
            self.send_response(int(kind) if kind.isdigit() else 404)
            for name, value in (("X-Error-Code", "RepoNotFound" if kind == "owner" else ""), ("Content-Length", "0")):
                self.send_header(name, value)
            self.end_headers()
            return
        if kind == "slow":
            time.sleep(1)
        if kind == "gone":  # the connection ends without an answer
            return
        if kind in ("drip", "headers", "dripheaders", "endless"):
            self.without_end(kind)
            return
        self.send_response(302 if kind == "elsewhere" else 200)
        if kind == "elsewhere":
            self.send_header("Location", "file:///etc/passwd" if "local" in self.path else "http://example.org/other")
        sent = BODY[:100_000] if kind == "cut" else BODY
        self.send_header("Content-Length", "0" if kind == "elsewhere" else str(len(BODY)))
        self.send_header("ETag", f'"{OTHER if "wrong" in self.path else HASH}"')  # as the Hub has them
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if not head and kind != "elsewhere":
            with contextlib.suppress(OSError):  # who listens may stop
                self.wfile.write(sent)

    def without_end(self, kind):
        """Send until nobody listens, for five seconds at most."""
        self.wfile.write(b"HTTP/1.1 200 OK\r\n" + (b"" if "headers" in kind else b"\r\n"))
        piece = {"drip": b"x", "headers": b"X-More: 1\r\n", "dripheaders": b"x", "endless": bytes(2**16)}[kind]
        end = time.monotonic() + 5
        with contextlib.suppress(OSError):
            while time.monotonic() < end and not self.server.over:
                self.wfile.write(piece)
                time.sleep(0.01 if "drip" in kind else 0)


@pytest.fixture
def server():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.seen, server.over = [], False
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.over = True
        server.shutdown()
        thread.join()


@pytest.fixture
def download(server, tmp_path):
    """`fetch` of `https://here/...`, with the server's plain HTTP for the secure one."""

    def open_(request, timeout):
        plain = request.full_url.replace("https://here", f"http://127.0.0.1:{server.server_port}")
        return fetch._secure().open(urllib.request.Request(plain, headers=request.headers), timeout=timeout)

    return lambda source, **options: fetch._from_address(source, tmp_path / "weights", open_, **options)


@pytest.mark.parametrize(
    "source",
    [
        f"/a/model.safetensors#sha256={HASH}",
        f"/a/model.pth#sha256={HASH.upper()}",
        f"/a/m-{HASH[:8]}.pth",
        f"/m-{HASH}.bin",
    ],
)
def test_a_download_is_kept(download, server, source):
    path = download("https://here" + source)
    assert path.read_bytes() == BODY and path.suffix == pathlib.PurePosixPath(source.partition("#")[0]).suffix
    assert download("https://here" + source) == path
    assert server.seen == [source.partition("#")[0]] and list(path.parent.iterdir()) == [path]


def test_a_damaged_copy_is_downloaded_again(download, server, caplog):
    source = f"https://here/model.pth#sha256={HASH}"
    path = download(source)
    path.write_bytes(BODY[:-1] + b"x")
    assert download(source) == path and path.read_bytes() == BODY
    assert len(server.seen) == 2 and f"{path} was damaged" in caplog.text


@pytest.mark.parametrize(
    "source, words",
    [
        (f"/model.pth#sha256={OTHER}", f"its SHA-256 is {HASH}, not {OTHER}; it was removed"),
        (f"/model-{OTHER[:8]}.pth", f"its SHA-256 is {HASH}, not {OTHER[:8]}; it was removed"),
        (f"/cut/model.pth#sha256={HASH}", f"cut after 100000 of {len(BODY)} bytes; try again"),
        (f"/404/model.pth#sha256={HASH}", "the server says 404 Not Found"),
        (f"/503/model.pth#sha256={HASH}", "the server says 503 Service Unavailable"),
        (
            f"/slow/model.pth#sha256={HASH}",
            "cannot be downloaded (timed out); where there is no network, download it elsewhere and give",
        ),
        (f"/elsewhere/model.pth#sha256={HASH}", "leads to http://example.org/other, which is not https"),
        (f"/elsewhere/local.pth#sha256={HASH}", "Redirection to url 'file:///etc/passwd' is not allowed"),
        (f"/headers/model.pth#sha256={HASH}", "got more than 100 headers"),
        ("/model.pth", "no hash to check the download; append #sha256="),
        ("/model-abc123.pth", "no hash to check the download"),  # too few digits
        (f"/model-{HASH[:8]}.pth#sha256=", "no hash to check the download"),
        (f"/model-{HASH[:8]}.pth#md5=1", "no hash to check the download"),
    ],
)
def test_what_fails_leaves_one_line_and_nothing_else(download, tmp_path, monkeypatch, source, words):
    monkeypatch.setattr(fetch, "TIMEOUT", 0.3)
    with pytest.raises(InputError) as caught:
        download("https://here" + source)
    line = str(caught.value)
    assert words in line and "\n" not in line and ("here" in line or "127.0.0.1" in line)
    assert not (tmp_path / "weights").exists() or not list((tmp_path / "weights").iterdir())


@pytest.mark.parametrize("kind", ["drip", "dripheaders"])
def test_a_transfer_that_is_too_slow_is_given_up(download, tmp_path, monkeypatch, kind):
    monkeypatch.setattr(fetch, "PATIENCE", 0.3)  # a byte comes every hundredth of a second, long before TIMEOUT
    for options in ({}, {"deadline": 0.2}):
        with pytest.raises(InputError, match=r"given up after 0 s, too slow; try again, or where there is no network"):
            download(f"https://here/{kind}/model.pth#sha256={HASH}", **options)
        assert not list((tmp_path / "weights").iterdir())


@pytest.mark.parametrize("kind", ["endless", "stated"])
def test_a_download_has_a_limit_while_it_loads(download, tmp_path, kind):
    with pytest.raises(InputError, match="more than 200,000 bytes; where there is no network"):
        download(f"https://here/{kind}/model.pth#sha256={HASH}", limit=200_000)
    assert not list((tmp_path / "weights").iterdir())


@pytest.mark.parametrize("kind", ["link", "dangling", "pipe", "folder"])
def test_what_is_no_file_in_the_cache_is_replaced(download, tmp_path, kind):
    source, other = f"https://here/model.pth#sha256={HASH}", tmp_path / "other"
    path = download(source)
    path.unlink()
    other.write_bytes(b"mine")
    if kind == "folder":
        path.mkdir()
        with pytest.raises(InputError, match="model.pth: a folder where a download is kept; remove it"):
            download(source)
        return
    os.mkfifo(path) if kind == "pipe" else path.symlink_to(other if kind == "link" else tmp_path / "absent")
    assert download(source) == path and path.read_bytes() == BODY and not path.is_symlink()
    assert other.read_bytes() == b"mine" and not (tmp_path / "absent").exists()


def test_the_cache_is_kept_within_limits(download, tmp_path, monkeypatch):
    monkeypatch.setattr(fetch, "BYTES", 2 * len(BODY))
    first, second = (download(f"https://here/{name}#sha256={HASH}") for name in "ab")
    os.utime(first, (1, 1))
    download(f"https://here/a#sha256={HASH}")  # used now
    os.utime(second, (2, 2))
    third = download(f"https://here/c#sha256={HASH}")
    assert sorted((tmp_path / "weights").iterdir()) == sorted([first, third])


def test_a_cache_that_cannot_be_written_is_one_line(download, tmp_path):
    (tmp_path / "weights").write_text("in the way")
    with pytest.raises(InputError, match="weights: cannot be written .*; set XDG_CACHE_HOME"):
        download(f"https://here/a#sha256={HASH}")


def test_paths(tmp_path, monkeypatch):
    file = tmp_path / "a.safetensors"
    file.write_bytes(b"")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert fetch.fetch(str(file)) == fetch.fetch(file) == fetch.fetch("~/a.safetensors") == file


def test_a_user_without_a_home(homeless, tmp_path, monkeypatch):
    """A path with `~` is refused, unless a file has that very name."""
    words = (
        "^~/a.safetensors: no user here has the home folder that ~ means; set HOME to a folder, or give the whole path$"
    )
    with pytest.raises(InputError, match=words):
        fetch.fetch("~/a.safetensors")
    with pytest.raises(InputError, match=words.replace("safetensors", "npz")):
        runs.find("~/a.npz")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "~a.npz").touch()
    assert runs.find("~a.npz") == ("npz", {"path": "~a.npz"})


@pytest.mark.parametrize(
    "source, words",
    [
        ("absent.pth", "'absent.pth': no such file"),
        ("", "'': a folder, not a file"),
        ("http://here/a-0123456789.pth", "http://here/a-0123456789.pth: must be a path, https://... or hf:owner/name"),
        ("s3://bucket/a.pth", "must be a path"),
        ("/dev/zero", "'/dev/zero': not a regular file"),
        ("x" * 5000, "File name too long"),
        ("a\0b", "null"),
        ("~nobody-of-this-name/x", "home"),
        ("hf:resnet18", "hf:resnet18: must be hf:owner/name,"),
        ("hf:a b/c", "must be hf:owner/name"),
        (f"https://[x/a#sha256={HASH}", "https://[x/a: cannot be downloaded (Invalid IPv6 URL)"),
        ("https://[x/a-0123456789.pth", "cannot be downloaded"),
    ],
)
def test_other_sources_are_refused(source, words):
    with pytest.raises(InputError) as caught:
        fetch.fetch(source)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_nothing_answers(server):
    """The whole way, secure connection included; a plain server is no secure one."""
    for port, words in ((1, "Connection refused"), (server.server_port, "SSL")):
        with pytest.raises(InputError, match=f"cannot be downloaded .*{words}.*give the path of the file") as caught:
            fetch.fetch(f"https://127.0.0.1:{port}/a#sha256={HASH}")
        assert "\n" not in str(caught.value)


def test_the_hub_is_an_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(
        InputError, match=r"hf:timm/x: needs the package huggingface-hub; pip install -e '.\[hub\]' in the clone"
    ):
        fetch.fetch("hf:timm/x")


HUB = """
import json, sys
from jaxcnn import InputError
from jaxcnn.weights.fetch import fetch
for source in sys.argv[1:]:
    try:
        print(json.dumps(["path", str(fetch(source))]))
    except InputError as error:
        print(json.dumps(["error", str(error)]))
"""


def hub(server, folder, *sources, **env):
    pytest.importorskip("huggingface_hub")
    here = f"http://127.0.0.1:{server.server_port}"
    env = {
        "HF_ENDPOINT": here,
        "HF_HOME": str(folder),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    } | env
    out = subprocess.run(
        [sys.executable, "-c", HUB, *sources], capture_output=True, text=True, env=os.environ | env, check=True
    )
    return [json.loads(line) for line in out.stdout.splitlines()]


def test_the_hub(server, tmp_path):
    sources = (
        "timm/net",
        "timm/net@v2/sub/other.bin",
        "owner/absent",
        "timm/net/absent",
        "timm/wrong",
        "a--b/net",
        "503/net",
        "gone/net",
    )
    found = hub(server, tmp_path, *(f"hf:{source}" for source in sources))
    assert [kind for kind, _ in found] == ["path"] * 2 + ["error"] * 6
    first, second = (pathlib.Path(path) for _, path in found[:2])
    assert first.read_bytes() == second.read_bytes() == BODY
    assert (first.name, second.parts[-2:]) == ("model.safetensors", ("sub", "other.bin"))
    assert {"/timm/net/resolve/main/model.safetensors", "/timm/net/resolve/v2/sub/other.bin"} <= set(server.seen)
    # timm describes the preprocessing beside the weights
    assert {"/timm/net/resolve/main/config.json", "/timm/net/resolve/v2/sub/config.json"} <= set(server.seen)
    lines = [line for _, line in found[2:]]
    assert not any("\n" in line for line in lines)
    assert lines[0].startswith("hf:owner/absent: Repository Not Found")
    assert lines[1].startswith("hf:timm/net/absent: ") and "Not Found" in lines[1]
    assert lines[2] == f"hf:timm/wrong: its SHA-256 is {HASH}, not {OTHER}; the damaged copy was removed, try again"
    assert lines[3].startswith("hf:a--b/net: ") and "'a--b/net'" in lines[3]
    for name, line in zip(("503/net", "gone/net"), lines[4:], strict=True):
        assert line.startswith(f"hf:{name}: cannot be downloaded (") and line.endswith("give the path of the file")

    server.seen.clear()  # without a network, what was downloaded is still there
    (kind, line), kept = hub(server, tmp_path, "hf:timm/another", "hf:timm/net", HF_HUB_OFFLINE="1")
    assert kept == ["path", str(first)] and not server.seen
    assert (
        kind == "error"
        and line.startswith("hf:timm/another: cannot be downloaded (")
        and "offline mode" in line
        and "\n" not in line
    )
