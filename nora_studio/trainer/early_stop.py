"""What a measurement leads to: a checkpoint worth keeping, or an early end."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nora_studio.runs import processes
from nora_studio.runs.curves import PLATEAU_SHARE
from nora_studio.trainer.train_state import TrainState


@dataclass(frozen=True)
class Verdict:
    """What follows from the measurements so far, for all twins and on every process."""

    is_best: bool = False
    """Some twin is better than at any step it has a checkpoint of, so one is due."""
    ends: bool = False
    """Every twin's curve has by now said that going on is of no use."""


@dataclass(frozen=True)
class EarlyStopping:
    """How measurements are judged."""

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
        """Note what was measured of each state after a step, and say what follows.

        The main process alone measures and decides; the others hear it here.

        Args:
            measured: In the states' order; None: nothing new, as after resuming.
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
        """Return the step at which the last twin's curve said so; None while one has not."""
        steps = [state.curve.ends_at(self.rule, self.patience) for state in states]
        return None if None in steps else max(step for step in steps if step is not None)

    def reasons(self, states: Sequence[TrainState]) -> dict[str, str]:
        """Why each one's curve ended the run, in words for its status, by label."""
        said = {
            "plateau": f"no measured loss more than {PLATEAU_SHARE:.1%} below the best before",
            "overfit": "the held-out loss above its best by more than its noise",
        }
        ends = {t.label: t.curve.ends_at(self.rule, self.patience) for t in states}
        return {
            label: f"{self.rule} at step {step}: {said[self.rule]}, {self.patience} times"
            for label, step in ends.items()
        }


NEVER = EarlyStopping(rule="none", patience=1)
"""Measurements end no run."""


def _improved(state: TrainState, step: int, best: float | None) -> bool:
    """Whether the measurement after this step is one to keep, and lower than the best kept."""
    if not state.keeps_best:
        return False
    now = state.curve.best({step})
    return now is not None and (best is None or now.loss < best)
