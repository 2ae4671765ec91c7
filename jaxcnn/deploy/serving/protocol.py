"""HTTP/1.1 of uvicorn with a limit of time for the head of a request, which uvicorn does not have."""

from typing import Any

from jaxcnn.deploy.serving.limits import Limits

LATE = b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


def patient(limits: Limits) -> type:
    """Return the protocol of a connection: one that sends no complete head for too long is closed with 408."""
    from uvicorn.protocols.http.h11_impl import H11Protocol

    class Patient(H11Protocol):
        """A connection whose head must arrive in time."""

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self.waits: Any = self
            self.clock = self.loop.call_later(limits.body_seconds, self._look)

        def connection_lost(self, exc: Exception | None) -> None:
            self.clock.cancel()
            super().connection_lost(exc)

        def _look(self) -> None:
            """Close the connection if it waits for the same head as at the last look."""
            over = self.cycle is None or self.cycle.response_complete
            head = over and self.timeout_keep_alive_task is None
            # a first head has had one whole period, a later one is given a second period
            if head and (self.cycle is None or self.waits is self.cycle) and not self.transport.is_closing():
                self.transport.write(LATE)
                self.transport.close()
                return
            self.waits = self.cycle if head else self
            self.clock = self.loop.call_later(limits.body_seconds, self._look)

    return Patient
