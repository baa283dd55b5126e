"""Guessing passwords is slow for the guesser only, and every wait is bounded."""

import asyncio
import threading
import time

import pytest

from nora_studio.app.server.login_limits import (
    CHECKS_WAITING,
    FREE_FAILURES,
    FREE_FAILURES_PER_ADDRESS,
    MAX_PER_ADDRESS,
    LoginRateLimiter,
    PasswordChecks,
    TooBusy,
    network_of,
)


def test_failures_from_one_address_do_not_delay_another():
    limiter = LoginRateLimiter(1.0)

    def wrong() -> bool:
        time.sleep(0.05)  # As scrypt takes its time.
        return False

    async def crowd() -> float:
        for _ in range(FREE_FAILURES):
            await limiter.attempt("ada", "10.0.0.1", wrong)
        # From there: every name, as often as it goes; each now waits for seconds.
        names = [f"name{n}" for n in range(100)] + ["ada"] * 4
        tries = [limiter.attempt(name, "10.0.0.1", wrong) for name in names]
        guesses = [asyncio.create_task(one) for one in tries]
        await asyncio.sleep(0)
        began = time.monotonic()
        assert await limiter.attempt("ada", "10.0.0.2", lambda: True)
        took = time.monotonic() - began
        for guess in guesses:
            guess.cancel()
        await asyncio.gather(*guesses, return_exceptions=True)
        return took

    assert asyncio.run(crowd()) < 0.5


def test_addresses_take_turns_at_checks_and_waiting_is_bounded():
    checks = PasswordChecks(at_once=1)

    def slow() -> bool:
        time.sleep(0.05)
        return True

    async def crowd() -> list[str]:
        ended: list[str] = []

        async def ask(address: str) -> None:
            await checks.run(address, slow, 20)
            ended.append(address)

        many = [asyncio.create_task(ask("a")) for _ in range(10)]
        await asyncio.sleep(0)
        await asyncio.gather(ask("b"), ask("c"))
        first = list(ended)
        with pytest.raises(TooBusy):
            await checks.run("d", slow, 0.01)
        await asyncio.gather(*many)
        return first

    first = asyncio.run(crowd())
    assert first.count("a") <= 3 and {"b", "c"} <= set(first)


def test_a_full_queue_of_checks_refuses_at_once_and_drains():
    checks = PasswordChecks(at_once=1, waiting=3)
    going = threading.Event()

    async def crowd() -> None:
        limiter = LoginRateLimiter(0, checks)
        first = [
            asyncio.create_task(limiter.attempt("x", f"10.0.0.{n}", going.wait)) for n in range(4)
        ]
        await asyncio.sleep(0.05)
        began = time.monotonic()
        late = [limiter.attempt("ada", f"10.0.1.{n}", lambda: True) for n in range(20)]
        assert await asyncio.gather(*late) == [None] * 20
        assert time.monotonic() - began < 0.5
        first[1].cancel()  # Whoever goes leaves their place to others.
        going.set()
        assert [await first[n] for n in (0, 2, 3)] == [True] * 3
        assert await limiter.attempt("ada", "10.0.1.1", lambda: True)

    asyncio.run(crowd())
    assert (checks._free, checks._waiting) == (1, 0)


def test_an_attempt_ends_in_bounded_time():
    going = threading.Event()

    async def crowd() -> None:
        limiter = LoginRateLimiter(0, PasswordChecks(at_once=1), longest_attempt=0.2)
        first = asyncio.create_task(limiter.attempt("x", "10.0.0.1", going.wait))
        await asyncio.sleep(0.01)
        began = time.monotonic()
        same = limiter.attempt("x", "10.0.0.1", lambda: True)
        other = limiter.attempt("ada", "10.0.0.2", lambda: True)
        assert await asyncio.gather(same, other) == [None, None]
        assert time.monotonic() - began < 2
        going.set()
        assert await first

    asyncio.run(crowd())


def test_an_address_that_tries_many_names_is_delayed_and_limited():
    async def spray() -> tuple[float, int]:
        limiter = LoginRateLimiter(0.02)
        for number in range(FREE_FAILURES_PER_ADDRESS):
            await limiter.attempt(f"name{number}", "10.0.0.1", lambda: False)
        began = time.monotonic()
        await limiter.attempt("one more", "10.0.0.1", lambda: False)
        took = time.monotonic() - began
        tries = [limiter.attempt(f"n{n}", "10.0.0.1", lambda: False) for n in range(40)]
        return took, (await asyncio.gather(*tries)).count(None)

    took, refused = asyncio.run(spray())
    assert took >= 0.02 and refused == 40 - MAX_PER_ADDRESS and CHECKS_WAITING > MAX_PER_ADDRESS


def test_an_ipv6_network_is_one_address():
    assert network_of("2001:db8:1:2::1") == network_of("2001:db8:1:2:ffff::9")
    assert network_of("2001:db8:1:2::1") != network_of("2001:db8:1:3::1")
    assert network_of("::ffff:10.0.0.1") == network_of("10.0.0.1") != network_of("10.0.0.2")
    assert network_of("") == "" and network_of("testclient") == "testclient"
