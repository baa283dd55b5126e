"""Signals reach whoever sent them, whatever the code that they interrupt does with exceptions."""

import signal
import time

import pytest

from nora_studio.errors import StudioError
from nora_studio.runs.entry import run_entry
from nora_studio.trainer.run_session import RunSession

DOORS = {
    "entry": (run_entry, "Interrupted.\n"),
    "trainer": (
        lambda work: RunSession().run(lambda _: work()),
        "Stopped by SIGINT; no run was started. Start again with the same command.\n",
    ),
}


@pytest.fixture(autouse=True)
def usual_handler():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    signal.signal(signal.SIGINT, before)


def loaded_with_a_bare_except() -> int:
    try:
        signal.raise_signal(signal.SIGINT)
    except:  # noqa: E722  (as diffusers does)
        raise OSError("unable to load weights")  # noqa: B904
    return 0


def told_as_bad_input() -> int:
    try:
        loaded_with_a_bare_except()
    except OSError as error:
        raise StudioError(f"--model: {error}") from error
    return 0


def interrupted_in_a_finaliser() -> int:
    class Bar:
        def __del__(self) -> None:
            signal.raise_signal(signal.SIGINT)

    Bar()
    time.sleep(20)
    return 0


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize(
    "work", [loaded_with_a_bare_except, told_as_bad_input, interrupted_in_a_finaliser]
)
def test_an_interrupt_is_told_as_one_whatever_a_library_makes_of_it(door, work, capsys):
    run, expected = DOORS[door]
    begun = time.monotonic()
    assert run(work) == 130
    assert time.monotonic() - begun < 10
    assert capsys.readouterr().err == expected


@pytest.mark.parametrize("door", DOORS)
def test_without_an_interrupt_the_same_error_is_bad_input(door, capsys):
    def work() -> int:
        raise StudioError("--model: unable to load weights")

    assert DOORS[door][0](work) == 2
    assert capsys.readouterr().err == "error: --model: unable to load weights\n"
