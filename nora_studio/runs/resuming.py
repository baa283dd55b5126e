"""The step that some twins go on from: the newest of which each has a whole checkpoint."""

from collections.abc import Callable

from nora_studio.errors import StudioError
from nora_studio.runs.checksums import damage
from nora_studio.runs.runs import Run


def common_checkpoint(runs: list[Run], say: Callable[[str], object] = print) -> int:
    """The newest step that every one of some sibling runs has a whole checkpoint of; 0: none yet.

    Siblings save one after the other, so a process that was killed at their first checkpoint leaves
    some with that one and others with none.

    Args:
        say: Hears of each damaged checkpoint that an earlier one takes the place of.

    Raises:
        StudioError: they share none, but had more; all of them are damaged; or one is finished, and
            its adapter would be trained over from the start.
    """
    for run in runs:
        run.check_resumable()
    found = [run.checkpoints() for run in runs]
    steps = [set(own) for own in found]
    shared = sorted(set.intersection(*steps), reverse=True)
    names = " and ".join(str(run.folder) for run in runs)
    if not shared and len(set.union(*steps)) > 1:
        raise StudioError(
            f"--resume: {names} have no checkpoint in common to go on from. Put back what was "
            "removed, or begin another run with another --name."
        )
    damaged: list[str] = []
    for step in shared:
        problems = [(own[step], damage(own[step])) for own in found]
        problem = next((f"{folder} is damaged ({why})" for folder, why in problems if why), None)
        if problem is None:
            for line in damaged:
                say(f"{line}: going on from step {step} instead.")
            return step
        damaged.append(problem)
    if damaged:
        raise StudioError(
            f"--resume: {damaged[0]}, and there is no earlier one that {names} can go on from. Put "
            "it back from a copy, or begin another run with another --name."
        )
    return 0
