"""Previews during training: generated, scored, logged to trackers, and shown in image grids."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from PIL import Image

from nora_studio.runs import processes
from nora_studio.runs.runs import Run
from nora_studio.scoring.prompt_warnings import judge_warnings
from nora_studio.tasks.dreambooth.photo_set import PhotoSet
from nora_studio.tasks.dreambooth.preview_scores import PreviewJudge
from nora_studio.tasks.dreambooth.previews import (
    generate_base_previews,
    generate_previews,
    preview_files,
)
from nora_studio.tasks.dreambooth.subject import Subject
from nora_studio.tasks.dreambooth.wall import write_walls
from nora_studio.trainer.sharding import through_base
from nora_studio.trainer.train_state import TrainState


@dataclass(frozen=True)
class PreviewLog:
    """Generates, scores and logs the previews of some twins."""

    subject: Subject
    runs: dict[str, Run]
    """All twins' runs by method, in the order of the grids."""
    judge: PreviewJudge | None
    """None if the previews are not scored, or this is not the main process."""
    say: Callable[[str], object]

    def show_base(self, states: list[TrainState]) -> None:
        """Generate and log the previews of the base, for every run."""

        def show() -> None:
            pictures = generate_base_previews(self.subject, states)
            processes.on_main(lambda: self._judge_and_record_base(states, pictures))

        through_base(self.subject.sharding, show)

    def show(self, state: TrainState, step: int) -> None:
        """Call `generate` where the base can run; call this on every process."""
        through_base(self.subject.sharding, lambda: self.generate(state, step))

    def generate(self, state: TrainState, step: int) -> list[Image.Image]:
        """Generate a run's previews of a step, and log them unless they are logged already.

        With the last twin's previews, the image grids are updated.
        """
        is_new = not self.has_shown(state, step)
        pictures = generate_previews(self.subject, state, step)

        def judge_and_record() -> None:
            if is_new:
                scores = self.judge.judge(pictures) if self.judge else {}
                self._log(state, step, pictures, scores)
                self._print_scores(state.label, step, scores)
            if state.label == list(self.runs)[-1]:
                write_walls(self.runs)

        processes.on_main(judge_and_record)
        return pictures

    def catch_up(self, states: list[TrainState], step: int, every: int) -> None:
        """Generate the previews that are missing when a run is resumed after a step."""
        bare = preview_files(states[0].run, 0, len(self.subject.settings.previews.prompts))
        if not all(file.is_file() for file in bare):
            self.show_base(states)
        if every and step % every == 0:
            for state in states:
                if not self.has_shown(state, step):
                    self.show(state, step)
            processes.on_main(lambda: write_walls(self.runs))

    def has_shown(self, state: TrainState, step: int) -> bool:
        """Return whether a step's previews all exist, and with a judge are scored in the log."""
        files = preview_files(state.run, step, len(self.subject.settings.previews.prompts))
        if not all(file.is_file() for file in files):
            return False
        rows = state.run.read_log() if self.judge else []
        is_logged = any(row["step"] == step and "sample_clip_t" in row for row in rows)
        return is_logged or self.judge is None

    def _judge_and_record_base(self, states: list[TrainState], pictures: list[Image.Image]) -> None:
        scores = self.judge.judge(pictures) if self.judge else {}
        for state in states:
            self._log(state, 0, pictures, scores)
        self._print_scores("base", 0, scores)
        write_walls(self.runs)

    def _log(
        self,
        state: TrainState,
        step: int,
        pictures: Sequence[Image.Image],
        scores: dict[str, float],
    ) -> None:
        if scores and self.judge is not None:
            state.log(step, **scores, sample_judge=self.judge.scorer.name)
        if state.tracker is not None:
            named = {f"samples/{number:02d}": p for number, p in enumerate(pictures, start=1)}
            state.tracker.log_images(step, named)

    def _print_scores(self, label: str, step: int, scores: dict[str, float]) -> None:
        if scores:
            i, t = scores["sample_clip_i"], scores["sample_clip_t"]
            self.say(f"step {step}, {label}: samples CLIP-I {i:.3f}, CLIP-T {t:.3f}")


def load_judge(subject: Subject, photos: PhotoSet) -> PreviewJudge | None:
    """Load the judge that scores previews against the held-out photos, else the training photos.

    Prints which judge that is, or why there is none.

    Raises:
        StudioError: the judge cannot be loaded.
    """
    previews = subject.settings.previews
    if not previews.judge:
        if previews.unscored:
            print(f"Samples are not scored: {previews.unscored}")
        return None
    trained, held_out = photos.split()
    shown, kind = (trained, "training") if held_out is None else (held_out, "held-out")
    name, count = previews.judge, len(shown.files)
    print(f"Samples are judged by {name} CLIP against {count} {kind} photo{'s' * (count > 1)}")
    judge = PreviewJudge.load(name, shown.files, previews.prompts, subject.pipe.device)
    for line in judge_warnings(judge.scorer, previews.prompts):
        print(line)
    return judge
