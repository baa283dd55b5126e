"""The step from which twins are resumed: the newest with an undamaged checkpoint of each."""

from collections.abc import Callable

from nora_studio.errors import StudioError
from nora_studio.runs.checksums import damage
from nora_studio.runs.runs import Run


def common_checkpoint(runs: list[Run], say: Callable[[str], object] = print) -> int:
    """Return the newest step with an undamaged checkpoint of every twin; 0 if there is none yet.

    Twins save one after the other, so a process that is killed at their first checkpoint leaves one
    for some of them and none for the others.

    Args:
        say: Called with a message for each damaged checkpoint that an earlier one replaces.

    Raises:
        StudioError: the twins have several checkpoints, but none in common; all common ones are
            damaged; or a run is finished, and its adapter would be overwritten from the start.
    """
    for run in runs:
        run.check_resumable()
    found = [run.checkpoints() for run in runs]
    steps = [set(own) for own in found]
    shared = sorted(set.intersection(*steps), reverse=True)
    names = " and ".join(str(run.folder) for run in runs)
    if not shared and len(set.union(*steps)) > 1:
        raise StudioError(
            f"--resume: {names} have no checkpoint in common to continue from. Restore the ones "
            "that were removed, or start another run with another --name."
        )
    damaged: list[str] = []
    for step in shared:
        problems = [(own[step], damage(own[step])) for own in found]
        problem = next((f"{folder} is damaged ({why})" for folder, why in problems if why), None)
        if problem is None:
            for line in damaged:
                say(f"{line}: continuing from step {step} instead.")
            return step
        damaged.append(problem)
    if damaged:
        raise StudioError(
            f"--resume: {damaged[0]}, and there is no earlier one that {names} can continue from. "
            "Restore it from a copy, or start another run with another --name."
        )
    return 0
