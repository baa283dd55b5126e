"""The Scores tab: the best checkpoint and strength, and the final adapters compared."""

from dataclasses import dataclass
from typing import get_args

import gradio as gr

from nora_studio.app.pages.fidelity_view import advice_view, first_choice, panel_view, plot_view
from nora_studio.app.pages.html_events import FORWARD_EVENTS, PRIVATE, error_toast, event_data
from nora_studio.app.pages.measurement_view import measurement_view
from nora_studio.app.pages.scores_view import scores_view
from nora_studio.app.pages.shared import JUDGE, SharedState, TabContext
from nora_studio.app.server.job import ENDED, Job
from nora_studio.app.server.limits import MAX_CHECKPOINTS, MAX_RUNS, MAX_SEEDS
from nora_studio.app.server.run_history import stem_and_method
from nora_studio.app.server.scoring import (
    Kind,
    ScoreRequest,
    fidelity_of,
    find_job,
    measurable_runs,
    results_folder,
    scores_of,
    submit,
)
from nora_studio.app.server.studio import Studio
from nora_studio.app.server.workspace import Workspace
from nora_studio.errors import StudioError
from nora_studio.runs.runs import Run
from nora_studio.scoring.fidelity import Fidelity

STRENGTHS = ("0.2", "0.4", "0.6", "0.8", "1", "1.2", "1.4")
USUAL = ("0.6", "0.8", "1")
EMPTY = (
    '<div class="empty"><b>Nothing to measure yet</b>Train a subject first. Then this page shows '
    "which checkpoint to use, and at which strength.</div>"
)
UNMEASURED = (
    '<div class="empty"><b>Which strength is best?</b>Find the best strength generates images from '
    "every checkpoint at several strengths, and scores how well they show the subject and match "
    "their prompts.</div>"
)
CHOOSE = """
element.addEventListener('click', (event) => {
  const spot = event.target.closest('[data-act="point"]');
  if (!spot) return;
  element.querySelectorAll('[data-act="point"]').forEach((other) => {
    other.setAttribute('aria-pressed', other === spot);
  });
});
"""
"""Marks the pressed point at once, so that it keeps the keyboard's focus."""


def build(studio: Studio, shared: SharedState, context: TabContext) -> None:
    """Lay out the tab and connect its events."""
    handlers = _Handlers(studio)
    with gr.Row(equal_height=True, elem_classes="bar"):
        chosen = gr.Dropdown(
            [], multiselect=True, max_choices=MAX_RUNS, label="Runs", elem_id="scores-runs",
            allow_custom_value=True,  # For API callers; `refresh` removes unknown runs.
            info="Of one subject: NoRA and LoRA twins, for example.", scale=3, min_width=260,
        )  # fmt: skip
        find = gr.Button("Find the best strength", variant="primary", scale=0, min_width=270)
        score = gr.Button("Compare final adapters", scale=0, min_width=270)
        stop = gr.Button("Stop", interactive=False, scale=0, min_width=90)
    prompts, seeds, strengths, checkpoints, dino, clip = _build_settings()
    progress = gr.HTML(EMPTY, elem_id="scores-progress")
    advice = gr.HTML("", elem_id="scores-advice", js_on_load=FORWARD_EVENTS)
    with gr.Row(elem_id="scores-plot-row"):
        plot = gr.HTML("", elem_id="scores-plot", js_on_load=FORWARD_EVENTS + CHOOSE, min_width=320)
        panel = gr.HTML("", elem_id="scores-panel", js_on_load=FORWARD_EVENTS, min_width=320)
    verdicts = gr.HTML("", elem_id="scores-verdicts")
    point, shown_state = gr.State(None), gr.State({})
    inputs = [chosen, point, shown_state]
    outputs = [chosen, progress, advice, plot, panel, verdicts, stop, shown_state]
    gr.on([*context.refresh_events, chosen.input], handlers.refresh, inputs, outputs, **PRIVATE)
    to_compare = [shared.adapters, shared.strengths, shared.tabs]
    for part in (plot, panel, advice):
        part.select(handlers.on_press, chosen, [point, panel, *to_compare], **PRIVATE)
    request_inputs = [chosen, prompts, seeds, strengths, checkpoints, dino, clip]
    find.click(handlers.find_best, request_inputs, None, api_name="find_best_strength").then(
        handlers.refresh, inputs, outputs, **PRIVATE
    )
    final = [chosen, prompts, seeds, dino, clip]
    score.click(handlers.compare_final, final, None, api_name="score").then(
        handlers.refresh, inputs, outputs, **PRIVATE
    )
    stop.click(handlers.stop, chosen, None, api_name="stop_scores")


@dataclass(frozen=True)
class _Handlers:
    """Handlers of the page's events."""

    studio: Studio

    def refresh(self, names: list[str], pressed: int | None, before: dict, request: gr.Request):
        workspace = self.studio.workspace(request.headers)
        runs = measurable_runs(workspace)
        known = [run.folder.name for run in runs]
        requested = list(names or [])
        names = [name for name in requested if name in known]
        if not requested and not before.get("known"):  # Choose the first runs that exist.
            names = _newest_twins(runs)
        shown = _views(self.studio, workspace, names, pressed, bool(known))
        busy = bool(_active_jobs(self.studio, workspace, names))
        after = {"views": shown, "known": known, "busy": busy}
        # Unchanged parts are not sent again: nothing moves, and no button loses the focus.
        old = before.get("views") or [None] * len(shown)
        parts = [gr.skip() if a == b else b for a, b in zip(old, shown, strict=True)]
        same = before.get("known") == known and requested == names
        choice = gr.skip() if same else gr.update(choices=known, value=names)
        switch = gr.skip() if before.get("busy") == busy else gr.Button(interactive=busy)
        return [choice, *parts, switch, after]

    def on_press(self, names: list[str], event: gr.EventData, request: gr.Request):
        """Show the images of the pressed point, or hand it to Compare."""
        workspace = self.studio.workspace(request.headers)
        result, number = _find_point(workspace, names, event)
        if event_data(event).get("act") == "use":
            used = result.points[number]
            return (
                gr.skip(),
                gr.skip(),
                [used.adapter],
                [used.strength],
                gr.Tabs(selected="compare"),
            )
        view = panel_view(result, number, _image_url_lookup(workspace, names))
        return number, view, gr.skip(), gr.skip(), gr.skip()

    def find_best(
        self, names, prompts, seeds, strengths, checkpoints, dino, clip, request: gr.Request
    ) -> None:
        """Generate images of the runs' checkpoints at several strengths and recommend one."""
        score_request = _read(names, prompts, seeds, strengths, checkpoints, dino, clip)
        self._begin("fidelity", score_request, request)

    def compare_final(self, names, prompts, seeds, dino, clip, request: gr.Request) -> None:
        """Score the runs' final adapters, pair by pair."""
        self._begin("score", _read(names, prompts, seeds, ("1",), 0, dino, clip), request)

    def _begin(self, kind: Kind, score_request: ScoreRequest, request: gr.Request) -> None:
        try:
            workspace = self.studio.workspace(request.headers)
            submit(self.studio.jobs, workspace, score_request, kind, self.studio.models)
        except StudioError as error:
            raise error_toast(error, "Not measured") from error

    def stop(self, names: list[str], request: gr.Request) -> None:
        """Stop measuring these runs; finished images are reused next time."""
        for job in _active_jobs(self.studio, self.studio.workspace(request.headers), names or []):
            self.studio.jobs.stop(job)


def _read(names, prompts, seeds, strengths, checkpoints, dino, clip) -> ScoreRequest:
    """Parse the page's values as a request; an API caller may send anything."""
    try:
        return ScoreRequest(
            runs=tuple(map(str, names or ())),
            prompts=tuple(line.strip() for line in str(prompts).splitlines() if line.strip()),
            seeds=int(seeds),
            strengths=tuple(sorted(float(strength) for strength in strengths)),
            checkpoints=int(checkpoints),
            dino=str(dino or "").strip(),
            clip=str(clip or "").strip(),
        )
    except (TypeError, ValueError, OverflowError) as error:
        wrong = StudioError(
            "expected runs and prompts as text, and seeds, strengths and checkpoints as numbers."
        )
        raise error_toast(wrong, "Not measured") from error


def _build_settings() -> tuple[
    gr.Textbox, gr.Number, gr.CheckboxGroup, gr.Slider, gr.Textbox, gr.Textbox
]:
    """Lay out the optional settings of a measurement, closed at first."""
    with gr.Accordion("What is generated and scored", open=False, elem_id="scores-questions"):
        prompts = gr.Textbox(
            "", lines=4, label="Prompts, one per line",
            placeholder="a photo of a [V] mug in the snow\na photo of a [V] mug on the beach",
            info="[V] stands for the subject. Empty: the training's own prompt in other places.",
        )  # fmt: skip
        with gr.Row():
            strengths = gr.CheckboxGroup(
                list(STRENGTHS), value=list(USUAL), label="Strengths",
                info="1 is as trained; less keeps more of the base.",
            )  # fmt: skip
            seeds = gr.Number(
                1, label="Images per prompt", precision=0, minimum=1, maximum=MAX_SEEDS,
                info="More images take longer and give a more reliable result.",
            )  # fmt: skip
            checkpoints = gr.Slider(
                0, MAX_CHECKPOINTS, 2, step=1, label="Earlier checkpoints",
                info="How many to compare before the final adapter: fewer steps may be better.",
            )  # fmt: skip
        with gr.Row():
            clip = gr.Textbox("", elem_id="scores-clip", **JUDGE)
            dino = gr.Textbox(
                "", label="Second judge of the subject (DINO)", placeholder="facebook/dino-vits16",
                info="A Hub name or a directory. It sees details that CLIP misses. Empty: none.",
                min_width=280,
            )  # fmt: skip
    return prompts, seeds, strengths, checkpoints, dino, clip


def _newest_twins(runs: list[Run]) -> list[str]:
    """Return the newest run with its twins."""
    stems = [stem_and_method(run)[0] for run in runs]
    own = [run.folder.name for run, stem in zip(runs, stems, strict=True) if stem == stems[0]]
    return sorted(own, key=lambda name: (not name.endswith("-nora"), name))[:MAX_RUNS]


def _active_jobs(studio: Studio, workspace: Workspace, names: list[str]) -> list[Job]:
    jobs = [find_job(studio.jobs, workspace, names, kind) for kind in get_args(Kind)]
    return [job for job in jobs if job is not None and studio.jobs.state(job) not in ENDED]


def _views(
    studio: Studio, workspace: Workspace, names: list[str], pressed: int | None, has_runs: bool
):
    """Return every part of the page for some runs."""
    if not has_runs:
        return [EMPTY, "", "", "", ""]
    latest = [find_job(studio.jobs, workspace, names, kind) for kind in get_args(Kind)]
    progress = "".join(measurement_view(job, studio.jobs) for job in latest if job is not None)
    result, kept = fidelity_of(workspace, names), scores_of(workspace, names)
    if result is None:
        return [progress or UNMEASURED, "", "", "", scores_view(kept)]
    number = pressed if _is_point(result, pressed) else first_choice(result, names)
    return [
        progress,
        advice_view(result, names),
        plot_view(result, number),
        panel_view(result, number, _image_url_lookup(workspace, names)),
        scores_view(kept),
    ]


def _is_point(result: Fidelity, number: int | None) -> bool:
    return number is not None and 0 <= number < len(result.points)


def _find_point(
    workspace: Workspace, names: list[str], event: gr.EventData
) -> tuple[Fidelity, int]:
    """Return the result and the number of the pressed point."""
    result, word = fidelity_of(workspace, names or []), event_data(event).get("point", "")
    number = int(word) if word.isascii() and word.isdigit() and len(word) < 6 else None
    if result is None or number is None or not _is_point(result, number):
        raise error_toast(StudioError("the chosen point no longer exists. Measure again."))
    return result, number


def _image_url_lookup(workspace: Workspace, names: list[str]):
    """Return a function from an image's name in the result to its URL; None if it is gone."""
    folder = results_folder(workspace, names, "fidelity").relative_to(workspace.folder)

    def address(name: str) -> str | None:
        try:
            workspace.own_file(f"{folder}/{name}")
        except StudioError:
            return None
        return workspace.url(workspace.folder / folder / name)

    return address
