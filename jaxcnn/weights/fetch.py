"""Files from the network: `https://` with a hash that must fit, or `hf:` for the Hugging Face Hub; otherwise a path."""

import contextlib
import hashlib
import http.client
import logging
import os
import pathlib
import re
import stat
import tempfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from typing import Any, TypeVar

from jaxcnn.core.files import expanded, opened
from jaxcnn.core.paths import cache_folder, prune
from jaxcnn.core.text import visible
from jaxcnn.core.types import InputError, reason

T = TypeVar("T")

log = logging.getLogger("jaxcnn")

BYTES = 8 * 2**30  # kept at most; the files that were not used for longest go first
LIMIT = 4 * 2**30  # bytes of one download
TIMEOUT = 15  # seconds without an answer, or without a byte of it
BESIDE = 2**20  # most bytes of the config.json beside a file
PATIENCE, RATE = 60.0, 50_000  # a download may take this many seconds, and one more per RATE bytes received
BLOCK = 2**20
HUB = re.compile(r"hf:(?P<repository>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w.-]+))?(?:/(?P<file>.+))?")
BY_HAND = "where there is no network, download it elsewhere and give the path of the file"
Open = Callable[..., Any]  # (request, timeout=) -> a response


def fetch(source: str | os.PathLike[str], *, deadline: float | None = None, limit: int = LIMIT) -> pathlib.Path:
    """Return the path of a file, which is downloaded first where necessary.

    A download is kept in the user's cache folder under its hash, which is checked at every use. The hash is the SHA-256
    at the end of the address, or its first eight digits or more at the end of the file's name, as torch.hub has them
    (`resnet18-f37072fd.pth`): eight digits detect damage, not malice. The Hub's client keeps its files itself, in
    `HF_HOME`.

    Args:
        source: a path; `https://.../file#sha256=<64 hex digits>`; `https://.../name-<8 or more digits>.pth` or with
            another suffix; or `hf:owner/name[@revision][/file]`, by default the `model.safetensors` of its main branch.
        deadline: seconds that the whole transfer may take. By default a minute, and one second more per 50,000 bytes
            received: a transfer that is slower on average is given up.
        limit: the most bytes that a download may have, whatever its server states.

    Raises:
        InputError: the file or the address does not exist, there is no hash to check or another one is found, there is
            no network, or the download is too slow or too large.

    """
    source = os.fspath(source)
    if source.startswith("https://"):
        return _from_address(source, cache_folder("weights"), _secure().open, deadline, limit)
    if source.startswith("hf:"):
        return _from_hub(source, deadline, limit)
    if "://" in source:
        raise InputError(f"{visible(source)}: must be a path, https://... or hf:owner/name; nothing else is downloaded")
    try:
        path = expanded(source)
        mode = path.stat().st_mode
    except InputError:
        raise
    except (OSError, ValueError) as error:  # no such file, or nothing that could be its name
        why = "no such file" if isinstance(error, FileNotFoundError | NotADirectoryError) else reason(error)
        raise InputError(f"{source!r}: {why}") from None
    if not stat.S_ISREG(mode):
        raise InputError(f"{source!r}: {'a folder, not a file' if stat.S_ISDIR(mode) else 'not a regular file'}")
    return path


def _from_address(
    source: str, folder: pathlib.Path, open_: Open, deadline: float | None = None, limit: int = LIMIT
) -> pathlib.Path:
    address, expected = _expected(source)
    name = re.sub(r"[^A-Za-z0-9_.-]", "_", urllib.parse.unquote(_name(address)))[-100:]
    path = folder / f"{expected[:16]}-{name}"
    if _kept(path, expected):
        return path
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = tempfile.NamedTemporaryFile(
            dir=folder, suffix=".part", delete=False
        )  # made exclusively, under a random name
    except OSError as error:
        raise InputError(
            f"{folder}: cannot be written ({error.strerror}); set XDG_CACHE_HOME to another folder"
        ) from None
    part = pathlib.Path(file.name)
    try:
        with file:
            _download(address, file, open_, deadline, limit)
        if not (found := _digest(part)).startswith(expected):
            why = f"its SHA-256 is {found}, not {expected}"
            raise InputError(f"{visible(address)}: {why}; it was removed: damaged, or another file than was meant")
        os.replace(part, path)
    except OSError as error:  # of the folder; what the network raises has become an InputError
        raise InputError(
            f"{path}: cannot be written ({error.strerror}); make room, or set XDG_CACHE_HOME to another folder"
        ) from None
    finally:
        part.unlink(missing_ok=True)
    prune(folder, BYTES)
    return path


def _kept(path: pathlib.Path, expected: str) -> bool:
    """Whether the cache has the file, undamaged; a damaged file, or a link or pipe in its place, is removed."""
    try:
        found = path.lstat()
    except OSError:
        return False
    if stat.S_ISDIR(found.st_mode):
        raise InputError(f"{path}: a folder where a download is kept; remove it")
    if stat.S_ISREG(found.st_mode) and _digest(path).startswith(expected):
        with contextlib.suppress(OSError):
            os.utime(path)  # for `prune`
        return True
    log.warning("%s was damaged: it is downloaded again", path)
    path.unlink(missing_ok=True)
    return False


def _expected(source: str) -> tuple[str, str]:
    """Return the address without its fragment, and the first digits of the hash."""
    address, _, fragment = source.partition("#")
    given = re.fullmatch(r"sha256=([0-9a-fA-F]{64})", fragment)
    found = given or (re.search(r"-([0-9a-f]{8,64})\.\w+$", _name(address)) if not fragment else None)
    if not found:
        fix = "append #sha256= and the 64 hex digits that its publisher states"
        raise InputError(f"{visible(source)}: no hash to check the download; {fix}")
    return address, found[1].lower()


def _name(address: str) -> str:
    return address.partition("?")[0].rpartition("/")[2]


def _download(address: str, file: Any, open_: Open, deadline: float | None, limit: int) -> None:
    shown, received = visible(address), [0]

    def load(stop: threading.Event) -> None:
        with open_(urllib.request.Request(address, headers={"User-Agent": "jaxcnn"}), timeout=TIMEOUT) as response:
            stated = response.headers.get("Content-Length") or ""
            size = int(stated) if re.fullmatch(r"\d{1,18}", stated) else 0
            _refuse_large(shown, size, limit)
            log.info("downloading %s%s", shown, f" ({size / 1e6:.1f} MB)" if size else "")
            while not stop.is_set() and (block := response.read1(BLOCK)):  # read would wait for a whole block
                received[0] += len(block)
                _refuse_large(shown, received[0], limit)
                file.write(block)
            file.flush()
        if size and received[0] != size:
            raise InputError(f"{shown}: cut after {received[0]} of {size} bytes; try again")

    try:
        _within(load, shown, lambda: deadline or PATIENCE + received[0] / RATE)
    except urllib.error.HTTPError as error:
        error.close()
        raise InputError(
            f"{shown}: the server says {error.code} {visible(error.reason)[:80]}; is the address right?"
        ) from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        if isinstance(error, InputError):
            raise
        why = getattr(error, "reason", error)
        why = reason(why) if isinstance(why, Exception) else str(why)
        raise InputError(f"{shown}: cannot be downloaded ({visible(why)}); {BY_HAND}") from None


def _refuse_large(shown: str, size: int, limit: int) -> None:
    if size > limit:
        raise InputError(f"{shown}: more than {limit:,} bytes; {BY_HAND}")


def _within(fn: Callable[[threading.Event], T], shown: str, seconds: Callable[[], float]) -> T:
    """Call a function that waits for the network, and give it up after a time.

    A socket's own timeout restarts with every byte. The thread of a call that was given up stops with the next byte it
    receives, or with the process.

    Args:
        fn: called with an event that is set once it should stop.
        shown: what is transferred, for messages.
        seconds: gives the time that the call may take by now.

    """
    stop, out, errors = threading.Event(), [], []

    def run() -> None:
        try:
            out.append(fn(stop))
        except BaseException as error:
            errors.append(error)

    thread, start = threading.Thread(target=run, daemon=True), time.monotonic()
    thread.start()
    try:
        while thread.is_alive():
            thread.join(0.1)
            if thread.is_alive() and time.monotonic() - start > seconds():
                passed = time.monotonic() - start
                raise InputError(f"{shown}: given up after {passed:.0f} s, too slow; try again, or {BY_HAND}")
    finally:
        stop.set()
    if errors:
        raise errors[0]
    return out[0]


def _digest(path: pathlib.Path) -> str:
    with opened(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class _OnlySecure(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        if not newurl.startswith("https://"):
            fp.close()
            raise InputError(f"{visible(req.full_url)}: leads to {visible(newurl)[:200]}, which is not https")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _secure() -> urllib.request.OpenerDirector:
    return urllib.request.build_opener(_OnlySecure)


def _from_hub(source: str, deadline: float | None, limit: int) -> pathlib.Path:
    if not (match := HUB.fullmatch(source)):
        raise InputError(f"{visible(source)}: must be hf:owner/name, hf:owner/name@revision or hf:owner/name/file")
    try:
        import huggingface_hub as hub
        from huggingface_hub import errors
    except ImportError:
        raise InputError(
            f"{source}: needs the package huggingface-hub; pip install -e '.[hub]' in the clone of jaxcnn"
        ) from None
    where: dict[str, Any] = {
        "repo_id": match["repository"],
        "filename": match["file"] or "model.safetensors",
        "revision": match["revision"],
    }
    try:
        path = _hub_download(source, where, deadline, limit)
    except InputError:
        raise
    except errors.GatedRepoError:
        raise InputError(
            f"{source}: its owner asks for consent; give it on the Hub's page, then log in with `hf auth login`"
        ) from None
    except (
        errors.RepositoryNotFoundError,
        errors.RevisionNotFoundError,
        errors.RemoteEntryNotFoundError,
        ValueError,
    ) as error:
        raise InputError(f"{source}: {visible(_first_line(error))}") from None
    except Exception as error:  # no network; the kind of error depends on the library that the Hub's client uses
        try:
            path = hub.hf_hub_download(**where, local_files_only=True)
        except Exception:
            raise InputError(f"{source}: cannot be downloaded ({visible(reason(error))}); {BY_HAND}") from None
    _fetch_beside(source, where, deadline)
    return _checked(source, pathlib.Path(path))


def _fetch_beside(source: str, where: dict[str, Any], deadline: float | None) -> None:
    """Download the `config.json` beside a file, if there is one: timm describes the preprocessing there."""
    import huggingface_hub as hub
    from huggingface_hub import errors

    beside = {**where, "filename": str(pathlib.PurePosixPath(where["filename"]).with_name("config.json"))}
    try:
        _hub_download(source, beside, deadline, BESIDE)
    except errors.RemoteEntryNotFoundError:
        return
    except Exception as error:
        try:
            hub.hf_hub_download(**beside, local_files_only=True)
        except Exception:
            line = "%s: its config.json cannot be downloaded (%s); the default preprocessing is used"
            log.warning(line, source, visible(reason(error)))


def _hub_download(source: str, where: dict[str, Any], deadline: float | None, limit: int) -> str:
    """Download a file of the Hub within a time and a size, and return its path in the Hub's cache."""
    import huggingface_hub as hub

    def size_of(stop: threading.Event) -> int:
        return hub.get_hf_file_metadata(hub.hf_hub_url(**where), timeout=TIMEOUT).size or 0

    def download(stop: threading.Event) -> str:
        return hub.hf_hub_download(**where)

    # the size is asked for once, while the download itself would try for half a minute without a network
    size = _within(size_of, source, lambda: PATIENCE)
    _refuse_large(source, size, limit)
    return _within(download, source, lambda: deadline or PATIENCE + size / RATE)


def _checked(source: str, path: pathlib.Path) -> pathlib.Path:
    """Compare a file with the SHA-256 that is its name in the Hub's cache; small files have another kind of name."""
    expected = path.resolve().name
    if re.fullmatch(r"[0-9a-f]{64}", expected) and (found := _digest(path)) != expected:
        path.resolve().unlink()
        raise InputError(f"{source}: its SHA-256 is {found}, not {expected}; the damaged copy was removed, try again")
    return path


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if "not" in line.lower()), type(error).__name__)
