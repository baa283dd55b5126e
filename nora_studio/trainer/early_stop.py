"""Decide from measured losses whether to save the best checkpoint or to stop early."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nora_studio.runs import processes
from nora_studio.runs.curves import PLATEAU_SHARE
from nora_studio.trainer.train_state import TrainState


@dataclass(frozen=True)
class Verdict:
    """The decision after a measurement, for all twins and the same on every process."""

    is_best: bool = False
    """A twin has a lower loss than at any of its checkpoints, so one must be saved."""
    ends: bool = False
    """The rule for stopping early holds for every twin."""


@dataclass(frozen=True)
class EarlyStopping:
    """The rule by which measurements stop a run early."""

    rule: str
    """"plateau", "overfit" (`Curve.ends_at`) or "none"."""
    patience: int
    """Measurements that the rule waits for."""

    def judge(
        self,
        states: Sequence[TrainState],
        step: int,
        measured: Sequence[Mapping[str, float]] | None = None,
    ) -> Verdict:
        """Add each run's measured losses after a step, and return the decision.

        Only the main process measures and decides; here it sends the decision to the others.

        Args:
            measured: Values by name, in the order of `states`. None to decide without new values,
                as after resuming.
        """
        better = ends = False
        if processes.is_main():
            before = [state.best for state in states]
            for state, values in zip(states, measured or [], strict=False):
                state.curve.note(step, values)
            better = any(
                _improved(state, step, None if best is None else best.loss)
                for state, best in zip(states, before, strict=True)
            )
            ends = self.ended_at(states) is not None
        return Verdict(
            is_best=bool(processes.all_reduce_max(better)),
            ends=bool(processes.all_reduce_max(ends)),
        )

    def ended_at(self, states: Sequence[TrainState]) -> int | None:
        """Return the first step at which the rule held for every twin; None if there is none."""
        steps = [state.curve.ends_at(self.rule, self.patience) for state in states]
        return None if None in steps else max(step for step in steps if step is not None)

    def reasons(self, states: Sequence[TrainState]) -> dict[str, str]:
        """Return by label why each run was stopped early, for its status."""
        meanings = {
            "plateau": f"no measured loss more than {PLATEAU_SHARE:.1%} below the best before",
            "overfit": "the held-out loss above its best by more than its noise",
        }
        ends = {t.label: t.curve.ends_at(self.rule, self.patience) for t in states}
        return {
            label: f"{self.rule} at step {step}: {meanings[self.rule]}, {self.patience} times"
            for label, step in ends.items()
        }


NEVER = EarlyStopping(rule="none", patience=1)
"""Measurements never stop a run."""


def _improved(state: TrainState, step: int, best: float | None) -> bool:
    """Return whether a run keeps its best checkpoint, and this step's loss is below `best`."""
    if not state.keeps_best:
        return False
    now = state.curve.best({step})
    return now is not None and (best is None or now.loss < best)
