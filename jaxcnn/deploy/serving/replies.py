"""Who may ask, how errors become answers, and the form of every answer."""

import hmac
import time
from collections.abc import Awaitable, Callable
from typing import Any

from jaxcnn.core import files
from jaxcnn.deploy.serving import pages
from jaxcnn.deploy.serving.limits import RefusedError


def answered(state: Any, where: str, handler: Callable[..., Awaitable[Any]], free: bool) -> Callable[..., Any]:
    """Wrap a handler: ask for the token, turn errors into answers, and count.

    Args:
        state: has `token` and `counts`; the handler gets it before the request.
        where: the path.
        handler: `(state, request) -> answer`.
        free: whether the path needs no token.

    """
    from starlette.requests import ClientDisconnect

    async def call(request: Any) -> Any:
        start, more = time.perf_counter(), {}
        try:
            if not free and not _allowed(request, state.token):
                more = {"www-authenticate": "Bearer"}
                raise RefusedError(401, "give the server's token, as in Authorization: Bearer TOKEN")
            answer = await handler(state, request)
        except RefusedError as error:
            if error.after:
                more["retry-after"] = str(error.after)
            if error.status in (401, 408, 413, 415):  # what is left of the body is not read
                more["connection"] = "close"
            answer = reply(error.status, {"error": str(error)}, more)
        except ClientDisconnect:
            answer = reply(400, {"error": "the body was cut off"})
        except MemoryError:
            answer = reply(503, {"error": "out of memory; try again"}, {"retry-after": "5"})
        state.counts.requests.labels(where, answer.status_code).inc()
        state.counts.seconds.labels(where).observe(time.perf_counter() - start)
        return answer

    return call


def _allowed(request: Any, token: str) -> bool:
    kind, _, given = request.headers.get("authorization", "").partition(" ")
    same = hmac.compare_digest(given.strip().encode("latin-1", "replace"), token.encode())  # in constant time
    return not token or kind.lower() == "bearer" and same


def reply(status: int, value: Any, more: dict[str, str] | None = None) -> Any:
    """Return an answer of JSON with a status and further headers."""
    from starlette.responses import Response

    return Response(files.to_json(value), status, pages.HEADERS | (more or {}), "application/json")
