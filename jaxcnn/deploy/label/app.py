"""The page at which people label images, and its paths; it listens at loopback alone and asks for a token."""

import asyncio
import contextlib
import functools
import importlib.resources
import logging
import pathlib
import urllib.parse
from collections.abc import Callable, Sequence
from typing import Any

from jaxcnn.core import files
from jaxcnn.core.text import visible
from jaxcnn.core.types import InputError
from jaxcnn.data import drawing
from jaxcnn.data.image import decode, head
from jaxcnn.deploy.label import labels as kept
from jaxcnn.deploy.label.session import MOST_CLASSES, Done, Session, begin, renew_order
from jaxcnn.deploy.serving import body, pages
from jaxcnn.deploy.serving.limits import Limits, RefusedError
from jaxcnn.deploy.serving.replies import answered, reply
from jaxcnn.deploy.serving.server import listen, missing, run_here
from jaxcnn.train.lock import lock

log = logging.getLogger("jaxcnn")
HOST, SHOWN = "127.0.0.1", 800  # where it listens; longest side of an image as it is sent
LIMITS = Limits(bytes=64 * 1024, connections=64)
PAGE = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/label.js": ("label.js", "text/javascript; charset=utf-8"),
    "/label.css": ("label.css", "text/css; charset=utf-8"),
}


def label(
    folder: str, *, output: str = "", classes: Sequence[str] = (), run: str = "", order: str = "auto", seed: int = 0,
    renew: int = 0, diverse: bool = False, reject: float | None = None, port: int = 0, token: str = "",
    before: Callable[[], None] | None = None,
) -> None:  # fmt: skip
    """Ask people for labels of the images in a folder, at a page of this machine, until SIGTERM or Ctrl-C.

    Each label is written before it is answered, so that a kill loses nothing.

    Args:
        folder: folder of images, at any depth.
        output: CSV file for the labels, which may have some already; by default `labels.csv` in the folder.
        classes: names of the classes; those of the file and of the run come after them, and people can add more.
        run: folder of a classification run that suggests classes and orders the images; empty for none.
        order: see `ordered`.
        seed: seed of random orders.
        renew: after this many labels, a linear head on the run's features is trained on all of them, sorts the
            remaining images again and suggests their classes; 0 for never.
        diverse: let images that follow each other differ, see `order.spread`.
        reject: highest share of wrong answers, on the run's validation rows, at which the run itself answers images:
            those that it answers are written, marked, and shown last; None to ask people for all images.
        port: port to listen at; 0 for any that is free.
        token: that requests must carry; by default a new one, which is part of the address that is logged.
        before: called before a run is loaded.

    Raises:
        InputError: a value cannot be used, another process labels into the file, or a package is missing.

    """
    missing()
    top = files.expanded(folder)
    if not top.is_dir():
        raise InputError(f"{visible(folder)}: no such folder; give a folder of images")
    path = files.expanded(output) if output else top / "labels.csv"
    with locked(path.resolve()):
        session = begin(
            str(top), path, classes=classes, run=run, order=order, seed=seed, renew=renew, diverse=diverse,
            reject=reject, token=token, before=before,
        )  # fmt: skip
        listening = listen(HOST, port)
        listening.listen()  # a browser that is faster than the server waits
        where = f"http://{HOST}:{listening.getsockname()[1]}/#{urllib.parse.quote(session.token, safe='')}"
        log.info("%d images, %d with a label in %s", len(session.images), session.labelled, visible(path))
        log.info("label at %s", where)
        try:
            run_here(functools.partial(application, session), listening, LIMITS, None, False)
        finally:
            listening.close()


@contextlib.contextmanager
def locked(path: pathlib.Path) -> Any:
    """Hold the lock of a CSV file.

    Raises:
        InputError: another process has it, or its folder does not exist.

    """
    folder = path.parent
    if not folder.is_dir():
        raise InputError(f"--output {visible(path)}: there is no folder {visible(folder)}; give another file")
    try:
        held = lock(
            folder, f".{path.name}.lock", f"--output {visible(path)}: another process writes labels to it; end it first"
        )
    except OSError as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"--output {visible(path)}: cannot be written ({error.strerror}); give another file"
        ) from error
    try:
        yield
    finally:
        if held is not None:
            held.release()


def application(session: Session, **options: Any) -> Any:
    """Return the ASGI application of a session."""
    from starlette.applications import Starlette
    from starlette.exceptions import HTTPException
    from starlette.routing import Route

    del options
    here = importlib.resources.files("jaxcnn.deploy.label") / "page"
    static = {where: ((here / name).read_bytes(), kind) for where, (name, kind) in PAGE.items()}
    static["/page.css"] = pages.read()["/page.css"]

    def route(where: str, handler: Any, method: str, free: bool = False) -> Any:
        return Route(where, answered(session, where, handler, free), methods=[method])

    async def other(request: Any, error: Any) -> Any:
        return reply(error.status_code, {"error": error.detail}, dict(error.headers or {}))

    routes = [
        route("/next", _next, "GET"), route("/image/{number}", _image, "GET"), route("/label", _label, "POST"),
        route("/undo", _undo, "POST"), route("/class", _class, "POST"),
        *(route(where, _static(*page), "GET", True) for where, page in static.items()),
    ]  # fmt: skip
    return Starlette(routes=routes, exception_handlers={HTTPException: other})


def _static(content: bytes, kind: str) -> Any:
    async def handler(session: Session, request: Any) -> Any:
        from starlette.responses import Response

        return Response(content, 200, pages.HEADERS | {"content-type": kind})

    return handler


def _page(request: Any) -> str:
    """Return the name that a page gave itself, so that two of them show different images."""
    return str(request.headers.get("x-page", ""))[:64]


def _shown(session: Session, page: str, number: int | None = None) -> dict[str, Any]:
    """Return what a page shows: an image, by default the next one, and how far the work is."""
    number = session.next(page) if number is None else number
    session.shown.pop(page, None)
    if number is not None:
        session.shown[page] = number
    out: dict[str, Any] = {
        "classes": session.classes, "labelled": session.labelled, "images": len(session.images),
        "order": session.order.name, "skipped": len(session.skipped), "can_undo": session.latest(page) is not None,
        "output": visible(session.labels.path), "by_model": session.answered, "renewed": session.renewed,
    }  # fmt: skip
    if number is None:
        return out | {"number": None}
    shares, name = session.order.shares, session.names[number]
    suggested = {} if shares is None else dict(zip(session.classes, shares[number].tolist(), strict=False))
    label, by = session.at(number) or (None, None)
    return out | {"number": number, "file": name, "suggested": suggested, "before": label, "by": by}


async def _next(session: Session, request: Any) -> Any:
    """Answer `/next`."""
    _refresh(session)
    return reply(200, _shown(session, _page(request)))


async def _image(session: Session, request: Any) -> Any:
    """Answer `/image/NUMBER` with a PNG that every browser shows."""
    from starlette.responses import Response

    number = _number(session, request.path_params["number"])
    try:
        content = await asyncio.to_thread(_png, session.images[number])
    except (InputError, OSError) as error:
        raise RefusedError(422, f"{visible(error)[:300]}; skip it") from error
    return Response(content, 200, pages.HEADERS | {"content-type": "image/png"})


def _png(path: pathlib.Path) -> bytes:
    about = head(path)
    times = min(1.0, SHOWN / max(about.size))
    size = None if times == 1 else (max(round(about.size[0] * times), 1), max(round(about.size[1] * times), 1))
    return drawing.png(decode(path, "RGB", size))


async def _label(session: Session, request: Any) -> Any:
    """Answer `/label`: give an image a class, or skip it, and show the next one."""
    asked = await _fields(request, {"number", "file", "before", "by", "label"}, whole=True)
    number, name, page = _number(session, asked["number"]), asked["label"], _page(request)
    _refresh(session)
    if name is not None and name not in session.classes:
        raise RefusedError(422, f"class {visible(name)[:80]!r}: is not listed; add it first")
    if asked["file"] != session.names[number]:
        raise RefusedError(409, "the program was restarted and numbers its images differently; nothing was written")
    before = session.at(number)
    if (asked["before"], asked["by"]) != (before or (None, None)):
        name = visible(session.names[number])
        line = f"was labelled {visible(before[0])} by a {before[1]}" if before else "lost its label"
        raise RefusedError(409, f"{name} {line} in the meantime; nothing was written")
    if name is None:
        session.skipped.add(number)
    else:
        _write(session, number, (name, kept.PERSON))
        session.skipped.discard(number)
        session.given += 1
    session.done.append(Done(page, number, before, session.at(number)))
    if session.options.renew and session.given >= session.options.renew:
        await asyncio.to_thread(renew_order, session)
    return reply(200, _shown(session, page))


async def _undo(session: Session, request: Any) -> Any:
    """Answer `/undo`: take back the latest label or skip of the page, and show its image again."""
    await _fields(request, set())
    _refresh(session)
    page = _page(request)
    latest = session.latest(page)
    if latest is None:
        raise RefusedError(422, "nothing to take back since the program started, or the file was changed elsewhere")
    if session.at(latest.number) != latest.after:
        session.done.remove(latest)
        name = visible(session.names[latest.number])
        raise RefusedError(409, f"{name} was relabelled in the meantime; the new label stays")
    if latest.after != latest.before:
        _write(session, latest.number, latest.before)
        session.given = max(session.given - 1, 0)
    session.done.remove(latest)
    session.skipped.discard(latest.number)
    return reply(200, _shown(session, page, latest.number))


async def _class(session: Session, request: Any) -> Any:
    """Answer `/class`: add a class."""
    name = (await _fields(request, {"name"})).get("name")
    try:
        name = kept.checked_class(name.strip() if isinstance(name, str) else "")
        kept.check_kind([*session.classes, name])
    except InputError as error:
        raise RefusedError(422, str(error)) from error
    if name not in session.classes:
        if len(session.classes) >= MOST_CLASSES:
            raise RefusedError(422, f"{MOST_CLASSES} classes are the most that can be shown")
        session.classes.append(name)
    return reply(200, {"classes": session.classes})


def _write(session: Session, number: int, label: tuple[str, str] | None) -> None:
    """Write the labels with one changed, a class and who gave it; they stay as they were where that fails."""
    changed = kept.changed(session.labels, session.names[number], *(label or (None, kept.PERSON)))
    try:
        session.labels = kept.write(changed)
    except OSError as error:
        line = f"{visible(session.labels.path)}: cannot be written ({error.strerror}); nothing was changed"
        raise RefusedError(507, line) from error


def _refresh(session: Session) -> None:
    """Read the labels again where another program has changed the file."""
    try:
        session.refresh()
    except (InputError, OSError) as error:
        raise RefusedError(409, f"{visible(error)[:300]}; nothing was written") from error


async def _fields(request: Any, allowed: set[str], whole: bool = False) -> dict[str, Any]:
    """Return the JSON object of a request, with no other fields, and with all of them if it must be whole."""
    content = await body.read(request, LIMITS)
    try:
        found = files.parse_json(content, "the body", once=True) if content else {}
    except (InputError, UnicodeDecodeError) as error:
        raise RefusedError(422, visible(error)[:200]) from error
    if not isinstance(found, dict) or set(found) - allowed or whole and allowed - set(found):
        raise RefusedError(422, f"the body must be a JSON object with {', '.join(sorted(allowed)) or 'nothing'}")
    return found


def _number(session: Session, given: Any) -> int:
    """Return the number of an image."""
    text = str(given) if not isinstance(given, bool) else ""
    if not text.isascii() or not text.isdigit() or len(text) > 9 or int(text) >= len(session.images):
        raise RefusedError(422, f"number {visible(text)[:20]!r}: must be from 0 to {len(session.images) - 1}")
    return int(text)
