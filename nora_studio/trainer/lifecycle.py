"""What every trainer does around its loop: what it says first, where it goes on from, its end."""

from collections.abc import Callable
from functools import partial

from nora_studio.adapters.methods.first_step import as_lines, first_steps
from nora_studio.errors import StudioError
from nora_studio.options.settings.watching import KeepingOptions
from nora_studio.runs import processes
from nora_studio.runs.resuming import common_checkpoint
from nora_studio.runs.stop import StopRequest
from nora_studio.runs.trackers import open_tracker
from nora_studio.trainer.loop import Plan
from nora_studio.trainer.run_session import Attempt
from nora_studio.trainer.saving import restore
from nora_studio.trainer.trainee import Draws, Trainee


def say_what_is_trained(trainee: Trainee, steps: int | None, say: Callable[[str], object]) -> None:
    """Say how much a trainee trains, where to, and how far its first step moves the weights.

    Before it goes on from a checkpoint. Called on every process.

    Args:
        steps: Of the whole run.
        say: Takes a line; on processes that have nothing to say it keeps silent.
    """
    total = sum(parameter.numel() for parameter in trainee.parameters)
    say(f"{trainee.label}: {total:,} trained parameters -> {trainee.run.folder}")
    found = first_steps(trainee.adapted, trainee.optimizer)
    if not found:
        return
    trainee.first_step = {part: float(f"{step.largest:.3g}") for part, step in found.items()}
    for line in as_lines(trainee.label, found, steps or 0, trainee.optimizer):
        say(line)


def go_on_from(trainees: list[Trainee], draws: Draws, resume: bool, steps: int | None) -> int:
    """Set every trainee back to the last checkpoint that all have; the step it is of, or 0.

    A start from 0 leaves nothing in the runs of what was measured and drawn before.
    """
    runs = [trainee.run for trainee in trainees]
    found = processes.on_main(lambda: common_checkpoint(runs, _say)) if resume else 0
    start = int(processes.largest(found or 0))  # The main process alone has looked.
    if start:
        restore(trainees, draws, start)
    else:
        processes.on_main(lambda: [run.forget_after(-1) for run in runs])
    if resume and processes.is_main():
        print(f"Going on after step {start} of {steps}", flush=True)
    return start


def _say(line: str) -> None:
    print(line, flush=True)


def open_trackers(
    attempt: Attempt, trainees: list[Trainee], options: KeepingOptions, config: str, start: int
) -> None:
    """Give each trainee the tracker that was asked for; it closes with the attempt."""
    for trainee in trainees:
        folder = trainee.run.folder
        trainee.tracker = processes.on_main(
            partial(open_tracker, options.tracker, folder, config, start)
        )
        if trainee.tracker is not None:
            attempt.at_the_end.callback(trainee.tracker.finish)


def stopped(stop: StopRequest) -> int:
    """Say how to go on after a stop; the exit status it comes to."""
    assert stop.signal is not None, "nobody asked to stop"
    if processes.is_main():
        print(f"Stopped by {stop.signal.name}. Go on with the same command and --resume.")
    return 128 + stop.signal


def ending(plan: Plan, trainees: list[Trainee]) -> tuple[int, dict[str, str]]:
    """The last step that was trained, and by label why it came before the plan's, if it did."""
    last = int(processes.largest(plan.watch.ended_at(trainees) or 0)) or plan.steps
    reasons = plan.watch.reasons(trainees) if last < plan.steps else {}
    if processes.is_main():
        for label, reason in reasons.items():
            print(f"{label}: ended after step {last} of {plan.steps}; {reason}")
    return last, reasons


def finish_each(trainees: list[Trainee], finish: Callable[[Trainee], str | None]) -> None:
    """Have each saved and proven, one at a time; it is gone before the next, to make room.

    Args:
        finish: Must keep no trainee once it returns. Gives a line to print, or None on processes
            that have nothing to say.

    Raises:
        StudioError: one failed; every twin has had its chance.
    """
    failures = []
    while trainees:
        try:
            line = finish(trainees.pop(0))
        except StudioError as error:
            failures.append(str(error))
            continue
        if line is not None:
            print(line, flush=True)
    if failures:
        raise StudioError(" ".join(failures))
