"""Rate limits on logins: how fast passwords may be guessed, and how long a check may wait.

Wrong passwords delay later attempts with the same name from the same address, so that an attacker
cannot lock an owner out from elsewhere. A check uses a core for a third of a second; addresses take
turns, and an attempt that would wait too long is refused at once.
"""

import asyncio
import ipaddress
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from nora_studio.app.server.round_robin_queue import RoundRobinQueue

FREE_FAILURES = 3
"""Wrong passwords without a delay."""
FREE_FAILURES_PER_ADDRESS = 30
"""The same for one address and any names: several people may share it."""
LONGEST_WAIT = 16.0
"""Seconds."""
FORGOTTEN_AFTER = 15 * 60.0
"""Seconds until wrong passwords are forgotten."""
MAX_WAITING_ATTEMPTS = 4
"""Attempts on one account from one address at a time."""
MAX_PER_ADDRESS = 16
"""Attempts from one address at a time, whatever the names."""
MAX_KNOWN = 10_000
"""Pairs of name and address, and addresses, that are remembered."""
CHECKS_AT_ONCE = 2
"""Each takes 32 MiB and a core."""
CHECKS_WAITING = 64
"""Checks that may wait, over all addresses."""
LONGEST_ATTEMPT = 30.0
"""Seconds that an attempt may wait in total, without the check itself."""


class TooBusy(Exception):
    """The check cannot run in time."""


class PasswordChecks:
    """A bounded queue of checks, which run in threads, a few at once; addresses take turns."""

    def __init__(self, at_once: int = CHECKS_AT_ONCE, waiting: int = CHECKS_WAITING) -> None:
        self._free, self._max_waiting = at_once, waiting
        self._line: RoundRobinQueue[tuple[str, asyncio.Future[None]]] = RoundRobinQueue()
        self._waiting = 0

    async def run(self, address: str, check: Callable[[], bool], seconds: float) -> bool:
        """Return the result of the check.

        Args:
            seconds: How long to wait for its turn at most.

        Raises:
            TooBusy: the queue is full, or its turn did not come in that time.
        """
        await self._wait(address, seconds)
        try:
            return await asyncio.to_thread(check)
        finally:
            self._free += 1
            self._call_next()

    async def _wait(self, address: str, seconds: float) -> None:
        if self._waiting >= self._max_waiting:
            raise TooBusy
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._line.put(address, (address, turn))
        self._waiting += 1
        self._call_next()
        try:
            async with asyncio.timeout(max(0.0, seconds)):
                await turn
        except (TimeoutError, asyncio.CancelledError) as error:
            if turn.cancelled():  # Its turn never came.
                self._line.remove(address, (address, turn))
                self._waiting -= 1
            else:  # Its turn came at the moment of the timeout.
                self._free += 1
            self._call_next()
            if isinstance(error, TimeoutError):
                raise TooBusy from None
            raise

    def _call_next(self) -> None:
        while self._free:
            called = next((one for one in self._line.order() if not one[1].done()), None)
            if called is None:
                break
            self._line.serve(called[0], called)
            self._waiting -= 1
            self._free -= 1
            called[1].set_result(None)
        if not self._waiting:
            # The queue remembers every address that it served, which is no longer needed.
            self._line = RoundRobinQueue()


@dataclass
class _Attempts:
    """Attempts of one source: a name from an address, or an address."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    waiting: int = 0
    failures: int = 0
    last: float = 0.0

    def delay_seconds(self, free: int) -> float:
        """Return how long the next attempt must wait, if so many failures have no delay."""
        if time.monotonic() - self.last > FORGOTTEN_AFTER:
            self.failures = 0
        late = self.failures - free
        return min(2.0 ** min(late, 10), LONGEST_WAIT) if late >= 0 else 0.0

    def note(self, is_right: bool) -> None:
        """Record the result of an attempt."""
        self.failures = 0 if is_right else self.failures + 1
        self.last = time.monotonic()


class LoginRateLimiter:
    """The queue of login attempts of each source, with longer delays after wrong passwords."""

    def __init__(
        self,
        time_scale: float = 1.0,
        checks: PasswordChecks | None = None,
        longest_attempt: float = LONGEST_ATTEMPT,
    ) -> None:
        """Start without any recorded attempts.

        Args:
            time_scale: Factor on the delays; below 1 in tests.
            checks: The queue of password checks. None: a new one.
            longest_attempt: Seconds that an attempt may wait in all; fewer in tests.
        """
        self._time_scale, self._longest_attempt = time_scale, longest_attempt
        self._known: OrderedDict[tuple[str, ...], _Attempts] = OrderedDict()
        self._checks = checks or PasswordChecks()

    async def attempt(self, name: str, address: str, check: Callable[[], bool]) -> bool | None:
        """Run a check in its turn and return its result; None: too many wait, or it timed out."""
        source = network_of(address)
        by_name, by_address = self._attempts(source, name[:64]), self._attempts(source)
        if by_name.waiting >= MAX_WAITING_ATTEMPTS or by_address.waiting >= MAX_PER_ADDRESS:
            return None
        deadline = time.monotonic() + self._longest_attempt
        for one in (by_name, by_address):
            one.waiting += 1
        try:
            async with asyncio.timeout(self._longest_attempt):
                await by_name.lock.acquire()
            try:
                wait = max(
                    by_name.delay_seconds(FREE_FAILURES),
                    by_address.delay_seconds(FREE_FAILURES_PER_ADDRESS),
                )
                await asyncio.sleep(wait * self._time_scale)
                is_right = await self._checks.run(source, check, deadline - time.monotonic())
            finally:
                by_name.lock.release()
            by_name.note(is_right)
            # A right password for one account must not reset the address's failures.
            if not is_right:
                by_address.note(is_right)
            return is_right
        except (TimeoutError, TooBusy):
            return None
        finally:
            for one in (by_name, by_address):
                one.waiting -= 1

    def _attempts(self, *key: str) -> _Attempts:
        found = self._known.setdefault(key, _Attempts())
        self._known.move_to_end(key)
        if len(self._known) > MAX_KNOWN:
            # The one used longest ago that has no waiting attempt.
            oldest = next((k for k, one in self._known.items() if not one.waiting), None)
            if oldest is not None and oldest != key:
                del self._known[oldest]
        return found


def network_of(address: str) -> str:
    """Return the key that stands for all users of an address: of IPv6, their /64 network."""
    try:
        known = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(known, ipaddress.IPv6Address):
        if known.ipv4_mapped is not None:
            return str(known.ipv4_mapped)
        return str(ipaddress.ip_network((known, 64), strict=False))
    return address
