"""The limits of a server, each with the answer to a request that is beyond it."""

import dataclasses

from jaxcnn.core.types import InputError


@dataclasses.dataclass(frozen=True)
class Limits:
    """How much a server takes on.

    Attributes:
        bytes: of the body of a request; 413.
        memory: bytes of the bodies of all requests at once; 503.
        pixels: of an image, known from its head before it is decoded; 413.
        sound_seconds: of a sound; 413.
        rows: images, sounds or texts of a request; 413.
        characters: of a text; 413.
        queue: rows in the server at once, of all clients; 503.
        per_client: rows in the server at once, of one address, 0 for any number; 429.
        seconds: until the answer, from when the body has arrived; 503.
        body_seconds: for the head and then for the body of a request to arrive; 408.
        connections: open at once; 503.
        batch: most rows of one call of the compiled program.
        batch_ms: milliseconds that a row waits for others.

    """

    bytes: int = 20 * 2**20
    memory: int = 512 * 2**20
    pixels: int = 25_000_000
    sound_seconds: float = 60.0
    rows: int = 32
    characters: int = 100_000
    queue: int = 256
    per_client: int = 128
    seconds: float = 30.0
    body_seconds: float = 15.0
    connections: int = 512
    batch: int = 32
    batch_ms: float = 2.0

    def __post_init__(self) -> None:
        """Refuse limits that nothing can pass.

        Raises:
            InputError: a limit is out of range.

        """
        for field in dataclasses.fields(self):
            value, least = getattr(self, field.name), 0 if field.name in ("per_client", "batch_ms") else 1
            if field.name in ("seconds", "body_seconds", "sound_seconds"):
                least = 0.1
            if not least <= value <= 2**31 - 1:
                raise InputError(f"{field.name}={value}: must be at least {least}, and at most 2,147,483,647")
        if self.bytes > self.memory:
            raise InputError(
                f"bytes={self.bytes}: must be at most memory={self.memory}, or a full request never gets in"
            )
        if self.rows > self.queue or 0 < self.per_client < self.rows:
            raise InputError(
                f"rows={self.rows}: must be at most queue={self.queue} and per_client={self.per_client}, "
                "or a full request never gets in"
            )


class RefusedError(Exception):
    """A request that is answered with an error; its text is one line for the client."""

    def __init__(self, status: int, line: str, after: int = 0) -> None:
        """Keep the answer.

        Args:
            status: of HTTP.
            line: what is wrong and how to do better.
            after: seconds after which to try again, for the header Retry-After; 0 for none.

        """
        super().__init__(line)
        self.status, self.after = status, after
