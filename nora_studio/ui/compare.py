"""The Compare tab: adapters side by side from the same noise, in grids, in detail, and blind."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from nora_studio.data.images import list_photos
from nora_studio.errors import StudioError
from nora_studio.studio.drawables import Drawable, find_drawables
from nora_studio.studio.sheets import Sheet
from nora_studio.studio.studio import Studio
from nora_studio.studio.workspace import Workspace, check_name
from nora_studio.ui.acts import ON_LOAD, act_of, told
from nora_studio.ui.comparison_request import CHIPS, LAYOUTS, Fields, request_of
from nora_studio.ui.comparison_view import STATES, escaped, sheet_view
from nora_studio.ui.shared import Shared

POLL_SECONDS = 1.0
ADAPTERS_LIMIT = 6
OLDER_SHOWN = 30
DETAIL = Path(__file__).with_name("comparison.js")
QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private", "queue": False}


def build(studio: Studio, shared: Shared, tab: gr.Tab) -> None:
    """Lay out the tab and wire it."""
    with gr.Row(elem_classes="compare"):
        with gr.Column(scale=4, min_width=300, elem_classes="compare-form"):
            form = _Form()
        with gr.Column(scale=9, min_width=320):
            result = _Result()
    shown, seen = gr.State(""), gr.State("")
    timer = gr.Timer(POLL_SECONDS, active=False)
    _wire_form(studio, shared, tab, form)
    _wire_result(studio, tab, form, result, shown, seen, timer)


class _Form:
    """What is drawn, and how."""

    def __init__(self) -> None:
        self.adapters = gr.Dropdown(
            [], multiselect=True, max_choices=ADAPTERS_LIMIT, label="Adapters",
            info="Each is a column beside the base, which learned nothing.",
            elem_id="compare-adapters",
        )  # fmt: skip
        self.strengths = [
            gr.Slider(-1, 2, 1, step=0.05, visible=False, elem_classes="strength")
            for _ in range(ADAPTERS_LIMIT)
        ]
        self.together = gr.Checkbox(
            False, label="All at once, too", visible=False,
            info="One more column with all of them on; their changes add up.",
        )  # fmt: skip
        self.prompts = gr.Textbox(
            "", lines=3, max_lines=8, label="Prompts", placeholder="a photo of a [V] mug",
            info="One a line. [V] stands for the subject.", elem_id="compare-prompts",
        )  # fmt: skip
        self.chips = gr.HTML("", js_on_load=ON_LOAD, elem_id="compare-chips")
        self.layout = gr.Radio(list(LAYOUTS), value="columns", label="Show", elem_id="compare-show")
        self.sweep = gr.Textbox(
            "0.5, 0.75, 1, 1.25", label="Strengths", visible=False,
            info="Of every checkpoint: 1 is as trained, 0 is the base. The first prompt is drawn.",
        )  # fmt: skip
        with gr.Row():
            self.seed = gr.Number(0, label="Seed", precision=0, minimum=0, min_width=80,
                                  info="The starting noise.")  # fmt: skip
            self.seeds = gr.Number(1, label="How many", precision=0, minimum=1, maximum=16,
                                   min_width=80, info="Seeds from there on.")  # fmt: skip
        with gr.Row():
            self.steps = gr.Slider(1, 60, 20, step=1, label="Steps", min_width=120,
                                   info="More take longer.")  # fmt: skip
            self.guidance = gr.Slider(1, 15, 5, step=0.5, label="Guidance", min_width=120,
                                      info="How strictly it follows the prompt.")  # fmt: skip
        with gr.Accordion("Scores, size, negative prompt", open=False):
            self.score = gr.Checkbox(
                True, label="Score the pictures",
                info="How well each shows its prompt, and the subject.",
            )  # fmt: skip
            self.photos = gr.Dropdown(
                [("none", "")], value="", label="Photos to compare with",
                info="Best are photos that were not trained on.", elem_id="compare-photos",
            )  # fmt: skip
            self.size = gr.Number(
                None, label="Side in pixels", precision=0, minimum=64, maximum=1536, step=8,
                info="Empty: as trained.",
            )  # fmt: skip
            self.negative = gr.Textbox("", label="Negative prompt", info="What to keep away from.")
        with gr.Row():
            self.draw = gr.Button("Draw", variant="primary", elem_id="compare-draw")
            self.stop = gr.Button("Stop", interactive=False, min_width=90, elem_id="compare-stop")

    @property
    def fields(self) -> list[gr.components.Component]:
        return [
            self.adapters, self.together, self.prompts, self.layout, self.sweep, self.seed,
            self.seeds, self.steps, self.guidance, self.score, self.photos, self.size,
            self.negative, *self.strengths,
        ]  # fmt: skip


class _Result:
    """What is drawn."""

    def __init__(self) -> None:
        with gr.Row(elem_classes="bar"):
            self.older = gr.Dropdown(
                [], label="Drawings", elem_id="compare-older", min_width=220, scale=3
            )
            self.go_on = gr.Button("Go on", visible=False, scale=0, min_width=100)
            self.delete = gr.Button("Delete", visible=False, scale=0, min_width=100)
        self.sheet = gr.HTML(
            sheet_view(None, Workspace(Path())), js_on_load=DETAIL.read_text("utf-8"),
            elem_id="compare-sheet",
        )  # fmt: skip


def _wire_form(studio: Studio, shared: Shared, tab: gr.Tab, form: _Form) -> None:
    def refresh(chosen: list[str], wanted: list[str], request: gr.Request):
        """The visitor's adapters and photos as they are now."""
        workspace = studio.workspace(request.headers)
        drawables = find_drawables(workspace)
        paths = [one.path for one in drawables]
        chosen = [path for path in wanted or chosen or [] if path in paths] or _twins(drawables)
        choices = [(f"{one.name} ({one.method})", one.path) for one in drawables]
        folders = sorted(folder.name for folder in workspace.photos.iterdir() if folder.is_dir())
        photos = [("none", ""), *((name, name) for name in folders if name[0] != ".")]
        return (
            gr.Dropdown(choices, value=chosen),
            gr.Dropdown(photos, value=folders[0] if len(folders) == 1 else ""),
            [],
        )

    def follow(chosen: list[str], prompts: str, request: gr.Request):
        """A slider for each adapter, and prompts for what they learned."""
        known = {one.path: one for one in find_drawables(studio.workspace(request.headers))}
        used = [known[path] for path in chosen or [] if path in known]
        sliders = [
            gr.Slider(label=f"Strength of {used[n].name}", visible=True)
            if n < len(used)
            else gr.Slider(visible=False)
            for n in range(ADAPTERS_LIMIT)
        ]
        subject = used[0].subject if used else "[V]"
        first = CHIPS[0].format(subject) if not prompts.strip() and used else gr.skip()
        return [*sliders, gr.Checkbox(visible=len(used) > 1), _chips(subject), first]

    def add(prompts: str, event: gr.EventData) -> str:
        lines = [line for line in prompts.splitlines() if line.strip()]
        prompt = act_of(event).get("prompt", "")
        return "\n".join(lines if prompt in lines else [*lines, prompt])

    gr.on(
        [tab.select, shared.adapters.change], refresh, [form.adapters, shared.adapters],
        [form.adapters, form.photos, shared.adapters], **QUIET,
    )  # fmt: skip
    form.adapters.change(
        follow, [form.adapters, form.prompts],
        [*form.strengths, form.together, form.chips, form.prompts], **QUIET,
    )  # fmt: skip
    form.chips.select(add, form.prompts, form.prompts, **QUIET)
    form.layout.change(
        lambda layout: gr.Textbox(visible=layout == "strengths"), form.layout, form.sweep, **QUIET
    )


def _twins(drawables: Sequence[Drawable]) -> list[str]:
    """The newest adapter and its twins."""
    if not drawables:
        return []
    stem = drawables[0].name.removesuffix(f"-{drawables[0].card.method}")
    twins = [one for one in drawables if one.name == f"{stem}-{one.card.method}"]
    return [one.path for one in sorted(twins, key=lambda one: one.method)] or [drawables[0].path]


def _chips(subject: str) -> str:
    chips = "".join(
        f'<button type="button" class="prompt-chip" data-act="add" '
        f'data-prompt="{escaped(chip.format(subject))}">'
        f"{escaped(chip.removeprefix('a photo of a {} '))}</button>"
        for chip in CHIPS
    )
    return f'<div class="prompt-chips" aria-label="Ready-made prompts">{chips}</div>'


def _wire_result(
    studio: Studio,
    tab: gr.Tab,
    form: _Form,
    result: _Result,
    shown: gr.State,
    seen: gr.State,
    timer: gr.Timer,
) -> None:
    views = [result.sheet, result.go_on, result.delete, form.stop, seen, timer]

    def look(name: str, before: str, request: gr.Request):
        """The drawing as it stands; what has not changed is not sent again."""
        workspace = studio.workspace(request.headers)
        sheet = _sheet_of(studio, workspace, name)
        after = repr(
            (name, sheet and (sheet.state, sheet.error, sheet.waits_for, len(sheet.files)))
        )
        if after == before:
            return [gr.skip()] * len(views)
        under_way = sheet is not None and sheet.is_under_way
        return [
            sheet_view(sheet, workspace),
            gr.Button(visible=sheet is not None and sheet.state in _UNFINISHED),
            gr.Button(visible=sheet is not None and not under_way),
            gr.Button(interactive=under_way),
            after,
            gr.Timer(active=under_way),
        ]

    def arrive(name: str, request: gr.Request):
        """The newest drawing, or the one that was chosen before."""
        sheets = studio.drawings.list(studio.workspace(request.headers))[:OLDER_SHOWN]
        names = [sheet.id for sheet in sheets]
        name = name if name in names else next(iter(names), "")
        return gr.Dropdown(_older(sheets), value=name or None), name, ""

    def draw(*values: Any, request: gr.Request):
        """Draw what the fields ask for, and show it as it comes."""
        workspace = studio.workspace(request.headers)
        try:
            asked, view = request_of(_fields(workspace, values))
            name = studio.drawings.submit(workspace, asked, view, studio.is_model_allowed)
        except StudioError as error:
            raise told(error, "This cannot be drawn") from error
        return arrive(name, request)

    def act(name: str, what: str, request: gr.Request) -> None:
        workspace = studio.workspace(request.headers)
        try:
            getattr(studio.drawings, what)(workspace, check_name(name))
        except StudioError as error:
            raise told(error) from error

    def stop(name: str, request: gr.Request) -> None:
        """End a drawing after the picture at work."""
        act(name, "cancel", request)

    def go_on(name: str, request: gr.Request) -> None:
        """Draw what is missing of a drawing."""
        act(name, "go_on", request)

    def delete(name: str, request: gr.Request):
        """Delete a drawing with its pictures."""
        act(name, "throw_away", request)
        return arrive("", request)

    arrived = [result.older, shown, seen]
    look_now = {"fn": look, "inputs": [shown, seen], "outputs": views, **QUIET}
    timer.tick(**look_now)
    tab.select(arrive, shown, arrived, **QUIET).then(**look_now)
    result.older.input(lambda name: (name, ""), result.older, [shown, seen], **QUIET).then(
        **look_now
    )
    form.draw.click(draw, form.fields, arrived, api_name="draw_comparison").then(**look_now)
    form.stop.click(stop, shown, None, api_name="stop_drawing")
    result.go_on.click(go_on, shown, None, api_name="go_on_drawing").then(**look_now)
    result.delete.click(delete, shown, arrived, api_name="delete_drawing").then(**look_now)


_UNFINISHED = ("cancelled", "failed", "interrupted")


def _sheet_of(studio: Studio, workspace: Workspace, name: str) -> Sheet | None:
    try:
        return studio.drawings.read(workspace, name) if name else None
    except StudioError:
        return None


def _older(sheets: Sequence[Sheet]) -> list[tuple[str, str]]:
    return [
        (
            f"{time.strftime('%d %b, %H:%M', time.localtime(sheet.created))} · "
            f"{sheet.request.prompts[0][:60]} · {STATES[sheet.state].lower()}",
            sheet.id,
        )
        for sheet in sheets
    ]


def _fields(workspace: Workspace, values: Sequence[Any]) -> Fields:
    """The fields' values, in the order of `_Form.fields`, with what they name looked up."""
    (paths, together, prompts, layout, sweep, seed, seeds, steps, guidance, score, photos, size,
     negative, *strengths) = values  # fmt: skip
    known = {one.path: one for one in find_drawables(workspace)}
    missing = next((path for path in paths or [] if path not in known), None)
    if missing is not None:
        raise StudioError(f"there is no adapter {str(missing)[:80]!r} here any longer.")
    used = [known[path] for path in paths or []]
    references = []
    if score and photos:
        files = list_photos(workspace.photos / check_name(photos))
        references = [file.relative_to(workspace.folder).as_posix() for file in files]
    return Fields(
        layout=layout,
        adapters=used,
        strengths=strengths[: len(used)],
        together=bool(together),
        prompts=str(prompts),
        seed=seed,
        seeds=seeds,
        steps=steps,
        guidance=guidance,
        size=size,
        negative=str(negative),
        sweep=str(sweep),
        score=bool(score),
        references=references,
    )
