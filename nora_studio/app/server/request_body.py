"""A request's body as it arrives, with limits on its size and on how slowly it may arrive."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

from starlette.types import Message, Receive

IDLE_SECONDS = 20.0
"""Seconds without a byte after which a request is refused."""
START_SECONDS = 30.0
"""Seconds that any body may take, in addition to the time for its size."""
MIN_RATE = 16 * 1024
"""Bytes per second that a body must arrive at on average: 128 kbit/s."""
TOO_SLOW = "The request arrived too slowly. Try again over a faster connection."


class TooLarge(Exception):
    """A request's body exceeds its limit; the message names both."""


class TooSlow(Exception):
    """A request's body stalled, or arrived below the minimum rate."""


class ByteLimit:
    """A counter of a body's bytes, with a limit."""

    def __init__(self, limit: int) -> None:
        self._limit, self._taken = limit, 0

    def expect(self, stated: int) -> None:
        """Check the length that a request states, before any of it is read.

        Raises:
            TooLarge: the length exceeds the limit.
        """
        if stated > self._limit:
            raise TooLarge(
                f"The request has {stated:,} bytes; the limit is {self._limit:,}. Send less at "
                "once."
            )

    def add(self, count: int) -> None:
        """Count a chunk that has arrived.

        Raises:
            TooLarge: the limit is exceeded.
        """
        self._taken += count
        if self._taken > self._limit:
            raise TooLarge(
                f"The request is larger than the limit of {self._limit:,} bytes. Send less at once."
            )


@dataclass(frozen=True)
class BodyPace:
    """How slowly a request's body may arrive. Tests use shorter times."""

    idle_seconds: float = IDLE_SECONDS
    start_seconds: float = START_SECONDS
    least_rate: int = MIN_RATE


USUAL_PACE = BodyPace()


class RequestBody:
    """A request's body within limits; what was read for a check is passed on to the app."""

    def __init__(
        self, receive: Receive, count: Callable[[int], None], pace: BodyPace = USUAL_PACE
    ) -> None:
        """Wrap a connection.

        Args:
            count: Called with the size of every chunk; raises `TooLarge` if there are too many
                bytes.
            pace: How slowly it may arrive.
        """
        self._receive, self._count, self._pace = receive, count, pace
        self._began, self._taken = time.monotonic(), 0
        self._is_whole = False
        self._read_ahead: list[Message] = []
        self.problem: TooLarge | TooSlow | None = None
        """Why the body was refused; the app may turn it into another error."""

    async def read_all(self) -> bytes:
        """Read the whole body.

        Raises:
            TooLarge: the body exceeds its limit.
            TooSlow: the body arrives too slowly.
        """
        while True:
            message = await self._next()
            self._read_ahead.append(message)
            if message["type"] != "http.request" or not message.get("more_body", False):
                return b"".join(one.get("body", b"") for one in self._read_ahead)

    async def receive(self) -> Message:
        """Return the next message for the app.

        Raises:
            TooLarge: the body exceeds its limit.
            TooSlow: the body arrives too slowly.
        """
        return self._read_ahead.pop(0) if self._read_ahead else await self._next()

    async def _next(self) -> Message:
        # The next message is the end of the connection, which has no time limit.
        if self._is_whole:
            return await self._receive()
        pace = self._pace
        allowed = pace.start_seconds + self._taken / pace.least_rate
        left = self._began + allowed - time.monotonic()
        try:
            async with asyncio.timeout(max(0.0, min(pace.idle_seconds, left))):
                message = await self._receive()
        except TimeoutError:
            self.problem = TooSlow()
            raise self.problem from None
        self._is_whole = not message.get("more_body", False)
        self._taken += len(message.get("body", b""))
        self.check(len(message.get("body", b"")), self._count)
        return message

    def check(self, count: int, limit: Callable[[int], None]) -> None:
        """Check bytes against a limit, and record the problem.

        Raises:
            TooLarge: they exceed it.
        """
        try:
            limit(count)
        except TooLarge as error:
            self.problem = error
            raise
