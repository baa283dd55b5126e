"""Samples as a training shows them: drawn, judged, told to the trackers, hung on the walls."""

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
from nora_studio.tasks.dreambooth.wall import hang_walls
from nora_studio.trainer.sharding import through_base
from nora_studio.trainer.train_state import TrainState


@dataclass(frozen=True)
class PreviewLog:
    """What draws and shows the samples of some twins."""

    subject: Subject
    runs: dict[str, Run]
    """All twins' runs by method, in the order in which they are shown."""
    judge: PreviewJudge | None
    """None: the samples are not scored, or this is not the main process."""
    say: Callable[[str], object]

    def show_base(self, states: list[TrainState]) -> None:
        """Where every run's samples begin: at the base, which is no one's yet."""

        def show() -> None:
            pictures = generate_base_previews(self.subject, states)
            processes.on_main(lambda: self._tell_of_base(states, pictures))

        through_base(self.subject.sharding, show)

    def show(self, state: TrainState, step: int) -> None:
        """`draw` from the training loop, on every process."""
        through_base(self.subject.sharding, lambda: self.draw(state, step))

    def draw(self, state: TrainState, step: int) -> list[Image.Image]:
        """Draw a state's samples as of a step; told only once, however often they are drawn.

        The walls are hung anew with the last twin's.
        """
        is_new = not self.has_shown(state, step)
        pictures = generate_previews(self.subject, state, step)

        def tell() -> None:
            if is_new:
                scores = self.judge.judge(pictures) if self.judge else {}
                self._tell(state, step, pictures, scores)
                self._say(state.label, step, scores)
            if state.label == list(self.runs)[-1]:
                hang_walls(self.runs)

        processes.on_main(tell)
        return pictures

    def catch_up(self, states: list[TrainState], step: int, every: int) -> None:
        """Draw what was due after a step that the training was stopped at, where it is missing."""
        bare = preview_files(states[0].run, 0, len(self.subject.settings.previews.prompts))
        if not all(file.is_file() for file in bare):
            self.show_base(states)
        if every and step % every == 0:
            for state in states:
                if not self.has_shown(state, step):
                    self.show(state, step)
            processes.on_main(lambda: hang_walls(self.runs))

    def has_shown(self, state: TrainState, step: int) -> bool:
        """Whether a step's samples are all there, and in the log where they are scored."""
        files = preview_files(state.run, step, len(self.subject.settings.previews.prompts))
        if not all(file.is_file() for file in files):
            return False
        rows = state.run.read_log() if self.judge else []
        told = any(row["step"] == step and "sample_clip_t" in row for row in rows)
        return told or self.judge is None

    def _tell_of_base(self, states: list[TrainState], pictures: list[Image.Image]) -> None:
        scores = self.judge.judge(pictures) if self.judge else {}
        for state in states:
            self._tell(state, 0, pictures, scores)
        self._say("base", 0, scores)
        hang_walls(self.runs)

    def _tell(
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

    def _say(self, label: str, step: int, scores: dict[str, float]) -> None:
        if scores:
            i, t = scores["sample_clip_i"], scores["sample_clip_t"]
            self.say(f"step {step}, {label}: samples CLIP-I {i:.3f}, CLIP-T {t:.3f}")


def load_judge(subject: Subject, photos: PhotoSet) -> PreviewJudge | None:
    """Load the judge of the previews, which compares them with held-out photos, if there are any.

    Says which judge that is, or why there is none.

    Raises:
        StudioError: there is no such judge.
    """
    previews = subject.settings.previews
    if not previews.judge:
        if previews.unscored:
            print(f"Samples are {previews.unscored}")
        return None
    trained, held_out = photos.split()
    shown, kind = (trained, "training") if held_out is None else (held_out, "held-out")
    name, count = previews.judge, len(shown.files)
    print(f"Samples are judged by {name} CLIP against {count} {kind} photo{'s' * (count > 1)}")
    judge = PreviewJudge.load(name, shown.files, previews.prompts, subject.pipe.device)
    for line in judge_warnings(judge.scorer, previews.prompts):
        print(line)
    return judge
