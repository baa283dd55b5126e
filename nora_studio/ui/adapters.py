"""The Adapters tab: a shelf of all adapters, and a bench to turn them into what others need."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from nora_studio.errors import StudioError
from nora_studio.studio.adapter_commands import (
    KINDS,
    MOST_MIXED,
    AdapterDesk,
    Chosen,
    Order,
    is_preview,
    model_card_in,
    output_of,
)
from nora_studio.studio.adapter_uploads import add_adapter
from nora_studio.studio.jobs import ENDED, Job
from nora_studio.studio.library import bring_back, find_entry, library, remove_file
from nora_studio.studio.quota import check_room
from nora_studio.studio.studio import Studio
from nora_studio.studio.uploads import Incoming
from nora_studio.studio.workspace import Workspace
from nora_studio.ui.acts import ON_LOAD, act_of, told
from nora_studio.ui.adapter_bench import Bench, build_bench, shown_command
from nora_studio.ui.adapter_cards import PICK, chosen_view, jobs_view, shelf_view
from nora_studio.ui.shared import Shared

POLL_SECONDS = 1.5
MOST_SHOWN = 8
"""Commands that are listed, the newest first."""
QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private", "queue": False}
Picks = dict[str, float]
"""Strength of each chosen adapter by its path, in the order they were chosen."""


@dataclass(frozen=True)
class _Parts:
    """The tab's own components."""

    shelf: gr.HTML
    chosen: gr.HTML
    picks: gr.State
    made: gr.HTML
    seen: gr.State


def build(studio: Studio, shared: Shared, tab: gr.Tab) -> None:
    """Lay out the tab and wire it."""
    picks, seen, removed = gr.State({}), gr.State({}), gr.State("")
    with gr.Row():
        with gr.Column(scale=7, min_width=300):
            with gr.Row(elem_classes="bar"):
                gr.HTML(
                    '<h2>Your adapters</h2><p class="lead">Small files that teach a base model '
                    "your subject. Choose some to export, mix or publish them.</p>"
                )
                undo = gr.Button("Undo", visible=False, scale=0, min_width=160)
                upload = gr.UploadButton(
                    "Add files", file_count="multiple", file_types=[".safetensors"], scale=0,
                    min_width=120, elem_id="adapters-upload",
                )  # fmt: skip
            shelf = gr.HTML("", js_on_load=ON_LOAD + PICK, elem_id="adapters-shelf")
        with gr.Column(scale=4, min_width=320, elem_classes="bench"):
            with gr.Column(elem_classes="card"):
                gr.HTML("<h2>Chosen</h2>")
                chosen = gr.HTML("", js_on_load=ON_LOAD, elem_id="adapters-chosen")
                compare = gr.Button("Draw them under Compare", elem_id="adapters-compare")
                bench = build_bench()
            with gr.Column(elem_classes="card"):
                gr.HTML("<h2>Made</h2>")
                made = gr.HTML("", js_on_load=ON_LOAD, elem_id="adapters-made")
                page = gr.Markdown("", visible=False, elem_classes="page-preview")
    parts = _Parts(shelf, chosen, picks, made, seen)
    _wire_shelf(studio, parts, upload, undo, removed, tab)
    _wire_bench(studio, parts, bench, page, tab)

    def to_compare(held: Picks, request: gr.Request):
        """Draw the chosen adapters side by side."""
        workspace = studio.workspace(request.headers)
        paths = [entry.path for entry in library(workspace) if entry.path in held]
        if not paths:
            raise told(StudioError("choose an adapter first."))
        return paths, gr.Tabs(selected="compare")

    compare.click(to_compare, picks, [shared.adapters, shared.tabs], api_visibility="private")


def _wire_shelf(
    studio: Studio,
    parts: _Parts,
    upload: gr.UploadButton,
    undo: gr.Button,
    removed: gr.State,
    tab: gr.Tab,
) -> None:
    """Choosing, adding and removing."""

    def views(workspace: Workspace, held: Picks) -> list[Any]:
        entries = library(workspace)
        known = {entry.path: entry for entry in entries}
        kept = {path: strength for path, strength in held.items() if path in known}
        return [shelf_view(entries, kept, workspace), chosen_view(known, kept), kept]

    def arrive(held: Picks, request: gr.Request):
        return views(studio.workspace(request.headers), held)

    def on_shelf(held: Picks, event: gr.EventData, request: gr.Request):
        act, workspace = act_of(event), studio.workspace(request.headers)
        path = act.get("path", "")
        try:
            entry = find_entry(workspace, path)
            rest = _without(held, path)
            if act.get("act") == "choose":
                is_on = act.get("on") == "yes" and entry.card is not None
                if is_on and len(rest) >= MOST_MIXED:
                    raise StudioError(f"at most {MOST_MIXED} adapters go together.")
                held = rest | {path: 1.0} if is_on else rest
                return [gr.skip(), *views(workspace, held)[1:], gr.skip(), gr.skip()]
            if act.get("act") != "remove":
                return [gr.skip()] * 5
            remove_file(workspace, path)
        except StudioError as error:
            raise told(error) from error
        return [*views(workspace, rest), gr.Button("Undo removal", visible=True), entry.title]

    def on_chosen(held: Picks, event: gr.EventData, request: gr.Request):
        act, workspace = act_of(event), studio.workspace(request.headers)
        is_drop = act.get("act") == "drop"
        return views(workspace, _without(held, act.get("path", "")) if is_drop else held)

    def on_strength(held: Picks, event: gr.EventData):
        act = act_of(event)
        try:
            strength = min(2.0, max(0.0, float(act.get("value", "1"))))
        except ValueError:
            strength = 1.0
        path = act.get("path", "")
        return held | {path: strength} if path in held else held

    def receive(files: Sequence[str] | None, held: Picks, request: gr.Request):
        """Take adapter files (.safetensors)."""
        workspace = studio.workspace(request.headers)
        visitor, uploads = workspace.folder.name, studio.doorman.uploads
        # New tokens go beside an adapter, which must be there before them.
        given = sorted(files or (), key=lambda file: ".embedding." in Path(file).name.lower())
        for file in given:
            try:
                entry = Incoming(uploads.claim(visitor, file), Path(file).name)
                add_adapter(workspace, entry)
                uploads.release(visitor, file)
            except StudioError as error:
                gr.Warning(str(error), title="Left out", duration=12)
        return views(workspace, held)

    def undo_removal(name: str, held: Picks, request: gr.Request):
        workspace = studio.workspace(request.headers)
        try:
            bring_back(workspace, name)
        except StudioError as error:
            raise told(error) from error
        return [*views(workspace, held), gr.Button(visible=False)]

    shown = [parts.shelf, parts.chosen, parts.picks]
    tab.select(arrive, parts.picks, shown, **QUIET)
    parts.shelf.select(on_shelf, parts.picks, [*shown, undo, removed], **QUIET)
    parts.chosen.select(on_chosen, parts.picks, shown, **QUIET)
    parts.chosen.submit(on_strength, parts.picks, parts.picks, **QUIET)
    upload.upload(receive, [upload, parts.picks], shown, api_name="add_adapters")
    undo.click(undo_removal, [removed, parts.picks], [*shown, undo], **QUIET)


def _wire_bench(
    studio: Studio, parts: _Parts, bench: Bench, page: gr.Markdown, tab: gr.Tab
) -> None:
    """Commands: shown as they will run, put into the queue, and looked after."""

    def order(request: gr.Request, held: Picks, values: Sequence[Any]) -> Order:
        desk = AdapterDesk(studio.workspace(request.headers), studio.is_model_allowed)
        return bench.order(desk, [Chosen(path, much) for path, much in held.items()], values)

    def preview(request: gr.Request, held: Picks, *values: Any):  # Gradio fills no keyword in.
        return shown_command(lambda: order(request, held, values))

    def submit(workspace: Workspace, asked: Order, secret: dict[str, str] | None = None) -> None:
        check_room(workspace, 0)
        studio.jobs.submit(
            workspace, asked.kind, asked.title, asked.command, asked.shown, uses_device=False,
            secret=secret,
        )  # fmt: skip

    def start(request: gr.Request, held: Picks, *values: Any):
        """Export, mix, merge or look into the chosen adapters; for Publish, show what would go."""
        try:
            submit(studio.workspace(request.headers), order(request, held, values))
        except StudioError as error:
            raise told(error, "Not started") from error

    def publish(request: gr.Request, token: str, held: Picks, *values: Any) -> str:
        """Send it to the Hub, once a look at what goes there has succeeded."""
        try:
            workspace = studio.workspace(request.headers)
            look = order(request, held, values)
            words = tuple(look.command)
            seen_before = [job for job in studio.jobs.of(workspace) if job.command == words]
            if look.kind != "push" or not any(
                studio.jobs.state(job) == "finished" for job in seen_before
            ):
                raise StudioError("press Look first, and read what would be sent.")
            if not token.strip().isascii() or not 8 <= len(token.strip()) <= 200:
                raise StudioError("paste a Hub token; make one at huggingface.co/settings/tokens.")
            submit(workspace, look.for_good(), {"HF_TOKEN": token.strip()})
        except StudioError as error:
            raise told(error, "Not published") from error
        return ""  # The field forgets it.

    def mine(workspace: Workspace) -> list[Job]:
        own = [job for job in studio.jobs.of(workspace) if job.kind in KINDS]
        return list(reversed(own))[:MOST_SHOWN]

    def look(before: dict[str, Any], held: Picks, request: gr.Request):
        workspace = studio.workspace(request.headers)
        listed = mine(workspace)
        states = [[job.id, studio.jobs.state(job)] for job in listed]
        if states == before.get("states"):
            return [gr.skip()] * 5
        shown = jobs_view(listed, studio.jobs, workspace)
        ended = [one for one in states if one[1] in ENDED]
        after = {"states": states, "ended": ended}
        entries = library(workspace)
        cards = shelf_view(entries, held, workspace)
        # A command that has ended may have made a file; nothing else moves the shelf.
        shelf = gr.skip() if ended == before.get("ended") else cards
        last = next((job for job in listed if is_preview(job)), None)
        text = "" if last is None else model_card_in(output_of(studio.jobs, last, workspace))
        body = text.partition("\n---\n")[2].replace("<Gallery />", "").strip()
        return [shown, shelf, gr.Markdown(body, visible=bool(body)), after, gr.skip()]

    def on_made(event: gr.EventData, request: gr.Request) -> None:
        act, workspace = act_of(event), studio.workspace(request.headers)
        try:
            if act.get("act") == "stop":
                studio.jobs.stop(studio.jobs.find(workspace, act.get("job", "")))
        except StudioError as error:
            raise told(error) from error

    timer = gr.Timer(POLL_SECONDS)
    fields = list(bench.fields)
    gr.on(
        [parts.picks.change, tab.select, *(field.change for field in fields)],
        preview, [parts.picks, *fields], [bench.command, bench.start],
        trigger_mode="always_last", **QUIET,
    )  # fmt: skip
    outputs = [parts.made, parts.shelf, page, parts.seen, parts.chosen]
    gr.on([timer.tick, tab.select], look, [parts.seen, parts.picks], outputs, **QUIET)
    bench.start.click(start, [parts.picks, *fields], None, api_name="make_from_adapters")
    bench.publish.click(
        publish, [bench.token, parts.picks, *fields], bench.token, api_visibility="private"
    )
    parts.made.select(on_made, None, None, **QUIET)


def _without(held: Picks, path: str) -> Picks:
    return {other: strength for other, strength in held.items() if other != path}
