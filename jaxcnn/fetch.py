"""Files from the network: `https://` with a hash that must fit, or `hf:` for the Hugging Face Hub; else a path."""

import contextlib
import hashlib
import http.client
import logging
import os
import pathlib
import re
import tempfile
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from typing import Any

from jaxcnn.cache import cache_folder, prune
from jaxcnn.types import InputError, reason

log = logging.getLogger("jaxcnn")

BYTES = 8 * 2**30  # kept at most; what was not used for longest goes first
TIMEOUT = 15  # seconds without an answer, or without a single byte of one
BLOCK = 2**20
HUB = re.compile(r"hf:(?P<repository>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w.-]+))?(?:/(?P<file>.+))?")
BY_HAND = "where there is no network, download it elsewhere and give the path of the file"
Open = Callable[..., Any]  # (request, timeout=) -> a response


def fetch(source: str | os.PathLike[str]) -> pathlib.Path:
    """Return the path of a file, after downloading it if need be.

    A download is kept in the user's cache folder under its hash, which is checked at every use. The hash is the SHA-256 that
    stands at the end of the address, or the first eight or more of its digits at the end of the file's name, as torch.hub has
    them (`resnet18-f37072fd.pth`): so few tell damage, not malice. The Hub keeps and names its files itself, in `HF_HOME`.

    Args:
        source: a path; `https://.../file#sha256=<64 hex digits>`; `https://.../name-<8 or more digits>.pth` or with another
            suffix; or `hf:owner/name[@revision][/file]`, by default the `model.safetensors` of its main branch.

    Raises:
        InputError: no such file, no hash to check, a hash that does not fit, no network, or no such address. All take seconds.

    """
    source = os.fspath(source)
    if source.startswith("https://"):
        return _from_address(source, cache_folder("weights"), _secure().open)
    if source.startswith("hf:"):
        return _from_hub(source)
    if "://" in source:
        raise InputError(f"{source}: must be a path, https://... or hf:owner/name; nothing else is downloaded")
    path = pathlib.Path(source).expanduser()
    if not path.is_file():
        raise InputError(f"{source!r}: {'a folder, not a file' if path.is_dir() else 'no such file'}")
    return path


def _from_address(source: str, folder: pathlib.Path, open_: Open) -> pathlib.Path:
    address, expected = _expected(source)
    name = re.sub(r"[^\w.-]", "_", urllib.parse.unquote(_name(address)))[-100:]
    path = folder / f"{expected[:16]}-{name}"
    if path.is_file():
        if _digest(path).startswith(expected):
            with contextlib.suppress(OSError):
                os.utime(path)  # for `prune`
            return path
        log.warning("%s was damaged: it is downloaded again", path)
        path.unlink()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = tempfile.NamedTemporaryFile(dir=folder, suffix=".part", delete=False)
    except OSError as error:
        raise InputError(f"{folder}: cannot be written ({error.strerror}); set XDG_CACHE_HOME to another folder") from None
    part = pathlib.Path(file.name)
    try:
        with file:
            _download(address, file, open_)
        if not (found := _digest(part)).startswith(expected):
            raise InputError(f"{address}: its SHA-256 is {found}, not {expected}; it was removed: damaged, or another file than was meant")
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    prune(folder, BYTES)
    return path


def _expected(source: str) -> tuple[str, str]:
    """Return the address without its fragment, and the first digits of the hash."""
    address, _, fragment = source.partition("#")
    given = re.fullmatch(r"sha256=([0-9a-fA-F]{64})", fragment)
    named = re.search(r"-([0-9a-f]{8,64})\.\w+$", _name(address)) if not fragment else None
    if not (given or named):
        raise InputError(f"{source}: no hash to check the download; append #sha256= and the 64 hex digits that its publisher states")
    return address, (given or named)[1].lower()


def _name(address: str) -> str:
    return address.partition("?")[0].rpartition("/")[2]


def _download(address: str, file: Any, open_: Open) -> None:
    try:
        with open_(urllib.request.Request(address, headers={"User-Agent": "jaxcnn"}), timeout=TIMEOUT) as response:
            size = int(response.headers.get("Content-Length") or 0)
            log.info("downloading %s%s", address, f" ({size / 1e6:.1f} MB)" if size else "")
            while block := response.read(BLOCK):
                file.write(block)
            file.flush()
        if size and file.tell() != size:
            raise InputError(f"{address}: cut after {file.tell()} of {size} bytes; try again")
    except urllib.error.HTTPError as error:
        error.close()
        raise InputError(f"{address}: the server says {error.code} {error.reason}; is the address right?") from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        if isinstance(error, InputError):
            raise
        why = getattr(error, "reason", error)
        raise InputError(f"{address}: cannot be downloaded ({reason(why) if isinstance(why, Exception) else why}); {BY_HAND}") from None


def _digest(path: pathlib.Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class _OnlySecure(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, request: Any, file: Any, code: int, message: str, headers: Any, address: str) -> Any:
        if not address.startswith("https://"):
            file.close()
            raise InputError(f"{request.full_url}: leads to {address}, which is not https")
        return super().redirect_request(request, file, code, message, headers, address)


def _secure() -> urllib.request.OpenerDirector:
    return urllib.request.build_opener(_OnlySecure)


def _from_hub(source: str) -> pathlib.Path:
    if not (match := HUB.fullmatch(source)):
        raise InputError(f"{source}: must be hf:owner/name, hf:owner/name@revision or hf:owner/name/file")
    try:
        import huggingface_hub as hub
        from huggingface_hub import errors
    except ImportError:
        raise InputError(f"{source}: needs the package huggingface-hub; pip install -e '.[hub]' in the clone of jaxcnn") from None
    where = {"repo_id": match["repository"], "filename": match["file"] or "model.safetensors", "revision": match["revision"]}
    try:
        # asked first because it tries once, while the download itself would try for half a minute without a network
        hub.get_hf_file_metadata(hub.hf_hub_url(**where), timeout=TIMEOUT)
        path = hub.hf_hub_download(**where)
    except errors.GatedRepoError:
        raise InputError(f"{source}: its owner asks for consent; give it on the Hub's page, then log in with `hf auth login`") from None
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.RemoteEntryNotFoundError, ValueError) as error:
        raise InputError(f"{source}: {_first_line(error)}") from None
    except Exception as error:  # no network, in the words of whichever library the Hub's client uses this year
        try:
            path = hub.hf_hub_download(**where, local_files_only=True)
        except Exception:
            raise InputError(f"{source}: cannot be downloaded ({reason(error)}); {BY_HAND}") from None
    return _checked(source, pathlib.Path(path))


def _checked(source: str, path: pathlib.Path) -> pathlib.Path:
    """Compare a file of the Hub with the SHA-256 that the Hub's cache names it by; small ones have another kind of name."""
    expected = path.resolve().name
    if re.fullmatch(r"[0-9a-f]{64}", expected) and (found := _digest(path)) != expected:
        path.resolve().unlink()
        raise InputError(f"{source}: its SHA-256 is {found}, not {expected}; the damaged copy was removed, try again")
    return path


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if "not" in line.lower()), type(error).__name__)
