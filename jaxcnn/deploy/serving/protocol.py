"""HTTP/1.1 of uvicorn with a limit of time for the head of a request, and with errors of one line of JSON."""

import json
from typing import Any

from jaxcnn.deploy.serving.limits import Limits


def _refusal(status: str, line: str) -> bytes:
    """Return a whole answer of one line of JSON that closes the connection."""
    body = json.dumps({"error": line}).encode()
    head = f"content-type: application/json\r\ncontent-length: {len(body)}\r\nconnection: close"
    return f"HTTP/1.1 {status}\r\n{head}\r\n\r\n".encode() + body


def patient(limits: Limits) -> type:
    """Return the protocol of a connection: one that sends no complete head for too long is closed with 408.

    What is no HTTP gets 400, and a connection beyond the limit 503; uvicorn itself would answer these in plain text.
    """
    import h11
    from uvicorn.protocols.http.h11_impl import H11Protocol

    class Patient(H11Protocol):
        """A connection whose head must arrive in time."""

        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            self.inner, self.app, self.limit_concurrency = self.app, self._limited, None

        async def _limited(self, scope: Any, receive: Any, send: Any) -> None:
            """Answer a request, or refuse it if there are too many connections."""
            if len(self.connections) <= limits.connections and len(self.tasks) <= limits.connections:
                await self.inner(scope, receive, send)
                return
            body = json.dumps({"error": f"busy: {limits.connections:,} connections are open; try again"}).encode()
            head = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body)),
                    (b"connection", b"close"), (b"retry-after", b"2")]  # fmt: skip
            await send({"type": "http.response.start", "status": 503, "headers": head})
            await send({"type": "http.response.body", "body": body})

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self.waits: Any = self
            self.clock = self.loop.call_later(limits.body_seconds, self._look)

        def connection_lost(self, exc: Exception | None) -> None:
            self.clock.cancel()
            super().connection_lost(exc)

        def send_400_response(self, msg: str) -> None:
            if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):  # no answer has begun
                self.transport.write(_refusal("400 Bad Request", "not a valid request of HTTP/1.1"))
            self.transport.close()

        def _look(self) -> None:
            """Close the connection if it waits for the same head as at the last look."""
            over = self.cycle is None or self.cycle.response_complete
            head = over and self.timeout_keep_alive_task is None
            # a first head has had one whole period, a later one is given a second period
            if head and (self.cycle is None or self.waits is self.cycle) and not self.transport.is_closing():
                late = f"the head of a request did not arrive within {limits.body_seconds:g} seconds"
                self.transport.write(_refusal("408 Request Timeout", late))
                self.transport.close()
                return
            self.waits = self.cycle if head else self
            self.clock = self.loop.call_later(limits.body_seconds, self._look)

    return Patient
