"""A request's body as it comes in: how large it may be, and how slowly it may come."""

import asyncio
import time
from collections.abc import Callable

from starlette.types import Message, Receive

IDLE_SECONDS = 20.0
"""Without a single byte, the request is given up."""
START_SECONDS = 30.0
"""How long a body may take in all, before its size counts."""
LEAST_RATE = 16 * 1024
"""Bytes a second that a body must come at on the whole: 128 kbit/s, below any line in use."""
TOO_SLOW = "The request came in too slowly. Try again over a better connection."


class TooLarge(Exception):
    """A request's body passed its limit; the message says which."""


class TooSlow(Exception):
    """A request's body stood still, or came at less than the least rate."""


class ByteLimit:
    """Counts a body's bytes up to a limit."""

    def __init__(self, limit: int) -> None:
        self._limit, self._taken = limit, 0

    def expect(self, stated: int) -> None:
        """Take note of the length that a request states, before any of it is read.

        Raises:
            TooLarge: it is above the limit.
        """
        if stated > self._limit:
            raise TooLarge(f"The request has {stated:,} bytes; the limit is {self._limit:,}.")

    def add(self, count: int) -> None:
        """Count a piece that has come.

        Raises:
            TooLarge: the limit is passed.
        """
        self._taken += count
        if self._taken > self._limit:
            raise TooLarge(f"The request is larger than the limit of {self._limit:,} bytes.")


class RequestBody:
    """A request's body, within limits; what has been looked at is there for the app still."""

    idle_seconds = IDLE_SECONDS
    start_seconds = START_SECONDS
    least_rate = LEAST_RATE

    def __init__(self, receive: Receive, count: Callable[[int], None]) -> None:
        """Wrap a connection.

        Args:
            count: Takes the bytes of every piece; raises `TooLarge` where they are too many.
        """
        self._receive, self._count = receive, count
        self._began, self._taken = time.monotonic(), 0
        self._is_whole = False
        self._looked_at: list[Message] = []
        self.problem: TooLarge | TooSlow | None = None
        """Why it was given up; the app may make an error of its own of that."""

    async def whole(self) -> bytes:
        """All of it.

        Raises:
            TooLarge, TooSlow: as they say.
        """
        while True:
            message = await self._next()
            self._looked_at.append(message)
            if message["type"] != "http.request" or not message.get("more_body", False):
                return b"".join(one.get("body", b"") for one in self._looked_at)

    async def receive(self) -> Message:
        """As the app asks for it, piece by piece.

        Raises:
            TooLarge, TooSlow: as they say.
        """
        return self._looked_at.pop(0) if self._looked_at else await self._next()

    async def _next(self) -> Message:
        if self._is_whole:  # What comes now is the end of the connection, whenever that is.
            return await self._receive()
        allowed = self.start_seconds + self._taken / self.least_rate
        left = self._began + allowed - time.monotonic()
        try:
            async with asyncio.timeout(max(0.0, min(self.idle_seconds, left))):
                message = await self._receive()
        except TimeoutError:
            self.problem = TooSlow()
            raise self.problem from None
        self._is_whole = not message.get("more_body", False)
        self._taken += len(message.get("body", b""))
        self.check(len(message.get("body", b"")), self._count)
        return message

    def check(self, count: int, limit: Callable[[int], None]) -> None:
        """Hold bytes against a limit.

        Raises:
            TooLarge: they are above it.
        """
        try:
            limit(count)
        except TooLarge as error:
            self.problem = error
            raise
