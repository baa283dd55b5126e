"""Samples as a training shows them: drawn, judged, told to the trackers, hung on the walls."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from PIL import Image

from nora_studio.runs import Run
from nora_studio.sample_scores import SampleJudge
from nora_studio.samples import draw_base, draw_samples, sample_files, sample_prompts
from nora_studio.subject import Subject
from nora_studio.trainee import Trainee
from nora_studio.wall import hang_walls


@dataclass(frozen=True)
class Gallery:
    """What draws and shows the samples of some twins, on the main process alone."""

    subject: Subject
    runs: dict[str, Run]
    """All twins' runs by method, in the order in which they are shown."""
    judge: SampleJudge | None
    """None: the samples are not scored, or this is not the main process."""
    say: Callable[[str], object]

    def show_base(self, trainees: list[Trainee]) -> None:
        """Where every run's samples begin: at the base, which is no one's yet."""
        pictures = draw_base(self.subject, trainees)
        scores = self.judge.judge(pictures) if self.judge else {}
        for trainee in trainees:
            self._tell(trainee, 0, pictures, scores)
        self._say("base", 0, scores)
        hang_walls(self.runs)

    def show(self, trainee: Trainee, step: int) -> list[Image.Image]:
        """Draw a trainee's samples as of a step; told only once, however often they are drawn.

        The walls are hung anew with the last twin's.
        """
        is_new = not self.has_shown(trainee, step)
        pictures = draw_samples(self.subject, trainee, step)
        if is_new:
            scores = self.judge.judge(pictures) if self.judge else {}
            self._tell(trainee, step, pictures, scores)
            self._say(trainee.label, step, scores)
        if trainee.label == list(self.runs)[-1]:
            hang_walls(self.runs)
        return pictures

    def catch_up(self, trainees: list[Trainee], step: int, every: int) -> None:
        """Draw what was due after a step that the training was stopped at, where it is missing."""
        if every and step % every == 0:
            for trainee in trainees:
                if not self.has_shown(trainee, step):
                    self.show(trainee, step)
            hang_walls(self.runs)

    def has_shown(self, trainee: Trainee, step: int) -> bool:
        """Whether a step's samples are all there, and in the log where they are scored."""
        files = sample_files(trainee.run, step, len(sample_prompts(self.subject)))
        if not all(file.is_file() for file in files):
            return False
        rows = trainee.run.read_log() if self.judge else []
        told = any(row["step"] == step and "sample_clip_t" in row for row in rows)
        return told or self.judge is None

    def _tell(
        self,
        trainee: Trainee,
        step: int,
        pictures: Sequence[Image.Image],
        scores: dict[str, float],
    ) -> None:
        if scores:
            trainee.log(step, **scores)
        if trainee.tracker is not None:
            named = {f"samples/{number:02d}": p for number, p in enumerate(pictures, start=1)}
            trainee.tracker.log_images(step, named)

    def _say(self, label: str, step: int, scores: dict[str, float]) -> None:
        if scores:
            i, t = scores["sample_clip_i"], scores["sample_clip_t"]
            self.say(f"step {step}, {label}: samples CLIP-I {i:.3f}, CLIP-T {t:.3f}")
