"""The Compare tab's fields: adapters, prompts and settings."""

from collections.abc import Sequence
from typing import Any

import gradio as gr

from nora_studio.app.pages.comparison_request import CHIPS, LAYOUTS, ComparisonFields
from nora_studio.app.pages.escaping import escaped
from nora_studio.app.pages.html_events import FORWARD_EVENTS, PRIVATE, event_data
from nora_studio.app.pages.number_field import NumberField
from nora_studio.app.pages.shared import JUDGE, SharedState
from nora_studio.app.server.studio import Studio
from nora_studio.app.server.usable_adapters import UsableAdapter, usable_adapters_with
from nora_studio.app.server.workspace import Workspace, check_name
from nora_studio.errors import StudioError
from nora_studio.photos.images import list_photos

ADAPTERS_LIMIT = 6
SIDE = NumberField("Side in pixels", least=64, most=1536, step=8)
WITH_ADAPTERS = "Each is a column next to the untrained base."
WITHOUT_ADAPTERS = (
    "None yet. Train one, or upload one under Adapters. Without one, only the base is used."
)


class ComparisonForm:
    """The fields of the Compare tab."""

    def __init__(self) -> None:
        """Lay out the fields."""
        self.adapters = gr.Dropdown(
            [], multiselect=True, max_choices=ADAPTERS_LIMIT, label="Adapters",
            info=WITH_ADAPTERS, elem_id="compare-adapters",
            allow_custom_value=True,  # `fields_of` refuses unknown ones.
        )  # fmt: skip
        self.prompts = gr.Textbox(
            "", lines=3, max_lines=8, label="Prompts", placeholder="a photo of a [V] mug",
            info="One per line. [V] stands for the subject.", elem_id="compare-prompts",
        )  # fmt: skip
        self.chips = gr.HTML("", js_on_load=FORWARD_EVENTS, elem_id="compare-chips")
        with gr.Row():
            # Before the adapters are loaded it would generate the base's images only.
            self.generate = gr.Button(
                "Generate", variant="primary", interactive=False, elem_id="compare-draw"
            )
            self.stop = gr.Button("Stop", interactive=False, min_width=90, elem_id="compare-stop")
        self.layout = gr.Radio(list(LAYOUTS), value="columns", label="Show", elem_id="compare-show")
        self.sweep = gr.Textbox(
            "0.5, 0.75, 1, 1.25", label="Strengths", visible=False, elem_id="compare-sweep",
            info="Of every checkpoint: 1 is as trained, 0 the base. Uses the first prompt.",
        )  # fmt: skip
        with gr.Group():
            with gr.Row():
                self.seed = gr.Number(
                    0, label="Seed", precision=0, minimum=0, min_width=100, elem_id="compare-seed"
                )
                self.seeds = gr.Number(
                    1, label="How many seeds", precision=0, minimum=1, maximum=16, min_width=100
                )
            self.steps = gr.Slider(
                1, 60, 20, step=1, label="Steps", info="More are finer and take longer.",
                elem_id="compare-steps",
            )  # fmt: skip
            self.guidance = gr.Slider(
                1, 15, 5, step=0.5, label="Guidance", info="How strictly it follows the prompt."
            )
        self._lay_out_strengths()
        with gr.Accordion("Scores, size, negative prompt", open=False):
            self.score = gr.Checkbox(
                True, label="Score the images",
                info="How well each matches its prompt and the subject.",
            )  # fmt: skip
            self.photos = gr.Dropdown(
                [("none", "")], value="", label="Photos to compare with",
                info="Photos that were not trained on are best.", elem_id="compare-photos",
                allow_custom_value=True,
            )  # fmt: skip
            self.clip = gr.Textbox("", elem_id="compare-clip", **JUDGE)
            self.size = SIDE.build(
                placeholder="as trained", elem_id="compare-side",
                info="A multiple of 8. Empty: as trained.",
            )  # fmt: skip
            self.negative = gr.Textbox(
                "", label="Negative prompt", info="What the images should not show."
            )

    def _lay_out_strengths(self) -> None:
        with gr.Accordion("Strength of each adapter", open=False):
            self.strengths = [
                gr.Slider(-1, 2, 1, step=0.05, visible=False) for _ in range(ADAPTERS_LIMIT)
            ]
            self.together = gr.Checkbox(
                False, label="All adapters together as well", visible=False,
                info="One more column with all adapters active; their changes add up.",
            )  # fmt: skip

    @property
    def fields(self) -> list[gr.components.Component]:
        """The fields in the order of `fields_of`'s values."""
        return [
            self.adapters, self.together, self.prompts, self.layout, self.sweep, self.seed,
            self.seeds, self.steps, self.guidance, self.score, self.photos, self.size,
            self.negative, self.clip, *self.strengths,
        ]  # fmt: skip


def wire_form(studio: Studio, shared: SharedState, tab: gr.Tab, form: ComparisonForm) -> None:
    """Connect the fields' events, which keep the choices up to date."""
    handlers = _Handlers(studio)
    proposed = gr.Textbox(visible=False)
    gr.on(
        [tab.select, shared.adapters.change], handlers.refresh,
        [form.adapters, shared.adapters, shared.strengths, form.photos],
        [
            form.adapters, form.photos, shared.adapters, shared.strengths, *form.strengths,
            form.generate,
        ],
        **PRIVATE,
    )  # fmt: skip
    form.adapters.change(
        handlers.show_chosen_adapters, form.adapters,
        [*form.strengths, form.together, form.chips, proposed], **PRIVATE,
    ).then(
        # Runs in the browser, which knows what has been typed by now.
        None, [proposed, form.prompts], form.prompts,
        js="(proposed, written) => written.trim() ? written : proposed", **PRIVATE,
    )  # fmt: skip
    form.chips.select(_add, form.prompts, form.prompts, **PRIVATE)
    form.layout.change(
        lambda layout: gr.Textbox(visible=layout == "strengths"), form.layout, form.sweep, **PRIVATE
    )


class _Handlers:
    """Handlers of the fields' events."""

    def __init__(self, studio: Studio) -> None:
        self._studio = studio

    def refresh(
        self, chosen: list[str], wanted: list[str], strengths: list[float], photos: str,
        request: gr.Request,
    ):  # fmt: skip
        """Update the choices to the visitor's current adapters and photos."""
        workspace = self._studio.workspace(request.headers)
        adapters = usable_adapters_with(workspace, wanted or chosen or [])
        paths = [one.path for one in adapters]
        chosen = [path for path in wanted or chosen or [] if path in paths] or _newest_twins(
            adapters
        )
        choices = [(f"{one.name} ({one.method})", one.path) for one in adapters]
        folders = sorted(folder.name for folder in workspace.photos.iterdir() if folder.is_dir())
        folders = [name for name in folders if not name.startswith(".")]
        if photos not in folders:
            names = [one.name for one in adapters if one.path in chosen]
            own = (f for f in folders if any(name.startswith(f) for name in names))
            photos = next(own, "")
        return (
            gr.Dropdown(choices, value=chosen, info=WITH_ADAPTERS if choices else WITHOUT_ADAPTERS),
            gr.Dropdown([("none", ""), *((name, name) for name in folders)], value=photos),
            [],
            [],
            *_sliders_at(wanted, strengths),
            gr.Button(interactive=True),
        )

    def show_chosen_adapters(self, chosen: list[str], request: gr.Request):
        """Show a strength slider for each chosen adapter, and prompts for its subject."""
        known = {
            one.path: one
            for one in usable_adapters_with(self._studio.workspace(request.headers), chosen or [])
        }
        used = [known[path] for path in chosen or [] if path in known]
        sliders = [
            gr.Slider(label=f"Strength of {used[n].name}", visible=True)
            if n < len(used)
            else gr.Slider(visible=False)
            for n in range(ADAPTERS_LIMIT)
        ]
        subject = used[0].subject if used else "[V]"
        first = CHIPS[0].format(subject) if used else ""
        return [*sliders, gr.Checkbox(visible=len(used) > 1), _chips(subject), first]


def _sliders_at(wanted: list[str], strengths: list[float]) -> list[Any]:
    """Set the strengths that another tab passed; without any, change nothing."""
    if not wanted:
        return [gr.skip()] * ADAPTERS_LIMIT
    return [gr.Slider(value=s) for s in [*strengths, *[1.0] * ADAPTERS_LIMIT][:ADAPTERS_LIMIT]]


def _add(prompts: str, event: gr.EventData) -> str:
    lines = [line for line in prompts.splitlines() if line.strip()]
    prompt = event_data(event).get("prompt", "")
    return "\n".join(lines if prompt in lines else [*lines, prompt])


def _newest_twins(adapters: Sequence[UsableAdapter]) -> list[str]:
    """Return the newest adapter and its twins."""
    if not adapters:
        return []
    stem = adapters[0].name.removesuffix(f"-{adapters[0].card.method}")
    twins = [one for one in adapters if one.name == f"{stem}-{one.card.method}"]
    return [one.path for one in sorted(twins, key=lambda one: one.method)] or [adapters[0].path]


def _chips(subject: str) -> str:
    chips = "".join(
        f'<button type="button" class="prompt-chip" data-act="add" '
        f'data-prompt="{escaped(chip.format(subject))}">'
        f"{escaped(chip.removeprefix('a photo of a {} '))}</button>"
        for chip in CHIPS
    )
    return f'<div class="prompt-chips" aria-label="Ready-made prompts">{chips}</div>'


def fields_of(workspace: Workspace, values: Sequence[Any]) -> ComparisonFields:
    """Read the fields, and look up the adapters and photos that they name.

    Args:
        values: In the order of `ComparisonForm.fields`.

    Raises:
        StudioError: an adapter or photo folder no longer exists.
    """
    (paths, together, prompts, layout, sweep, seed, seeds, steps, guidance, score, photos, size,
     negative, clip, *strengths) = values  # fmt: skip
    known = {one.path: one for one in usable_adapters_with(workspace, paths or [])}
    missing = next((path for path in paths or [] if path not in known), None)
    if missing is not None:
        raise StudioError(
            f"there is no adapter {str(missing)[:80]!r} here. It may have been deleted."
        )
    used = [known[path] for path in paths or []]
    references = []
    if score and photos:
        files = list_photos(workspace.photos / check_name(photos), "photos to compare with")
        references = [file.relative_to(workspace.folder).as_posix() for file in files]
    return ComparisonFields(
        layout=layout,
        adapters=used,
        strengths=strengths[: len(used)],
        together=bool(together),
        prompts=str(prompts),
        seed=seed,
        seeds=seeds,
        steps=steps,
        guidance=guidance,
        size=SIDE.read(size),
        negative=str(negative),
        sweep=str(sweep),
        score=bool(score),
        references=references,
        clip=str(clip or ""),
    )
