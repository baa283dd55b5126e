"""The commands of the Adapters tab: shown as they will run, put into the queue, looked after."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from nora_studio.app.pages.adapter_bench import Bench, shown_command
from nora_studio.app.pages.adapter_cards import jobs_view, shelf_view
from nora_studio.app.pages.adapter_shelf import Picks
from nora_studio.app.pages.html_events import act_of, told
from nora_studio.app.server.adapter_commands import (
    KINDS,
    AdapterCommands,
    Order,
    is_preview,
    model_card_in,
)
from nora_studio.app.server.drawing_requests import AdapterChoice
from nora_studio.app.server.job import ENDED
from nora_studio.app.server.library import library
from nora_studio.app.server.studio import Studio
from nora_studio.app.server.workspace import Workspace
from nora_studio.errors import StudioError

MOST_SHOWN = 8
"""Commands that are listed, the newest first."""


@dataclass(frozen=True)
class Orders:
    """What the bench's events do. Gradio fills no keyword in, so the request comes first."""

    studio: Studio
    bench: Bench

    def _order(self, workspace: Workspace, held: Picks, values: Sequence[Any]) -> Order:
        desk = AdapterCommands(workspace, self.studio.is_model_allowed)
        chosen = [AdapterChoice(path, strength) for path, strength in held.items()]
        return self.bench.order(desk, chosen, values)

    def _submit(
        self, workspace: Workspace, order: Order, secret: dict[str, str] | None = None
    ) -> None:
        self.studio.jobs.submit(
            workspace, order.kind, order.title, order.command, order.shown, uses_device=False,
            secret=secret, writes=order.writes,
        )  # fmt: skip

    def preview(self, request: gr.Request, held: Picks, *values: Any):
        """The command that the bench comes to, or what is missing."""
        workspace = self.studio.workspace(request.headers)
        return shown_command(lambda: self._order(workspace, held, values))

    def start(self, request: gr.Request, held: Picks, *values: Any) -> None:
        """Put the command into the queue; for Publish, one that only shows what would go."""
        try:
            workspace = self.studio.workspace(request.headers)
            self._submit(workspace, self._order(workspace, held, values))
        except StudioError as error:
            raise told(error, "Not started") from error

    def make(
        self,
        action: str,
        adapters: list[str],
        strengths: list[float],
        to: str,
        name: str,
        request: gr.Request,
    ) -> str:
        """Export, mix, merge or look into adapters by their paths; gives back the command."""
        held = dict(zip(adapters, strengths or [1.0] * len(adapters)))
        values = (action, to, to, name, "", None, "", "", "", True)
        try:
            if action == "push":
                raise StudioError(
                    "publishing works on the page only, where you see what would be sent first."
                )
            workspace = self.studio.workspace(request.headers)
            order = self._order(workspace, held, values)
            self._submit(workspace, order)
        except StudioError as error:
            raise told(error, "Not started") from error
        return order.shown

    def publish(self, request: gr.Request, token: str, held: Picks, *values: Any) -> str:
        """Send an adapter to the Hub, once a look at what goes there has succeeded."""
        jobs, token = self.studio.jobs, (token or "").strip()
        try:
            workspace = self.studio.workspace(request.headers)
            look = self._order(workspace, held, values)
            looks = [job for job in jobs.of(workspace) if list(job.command) == look.command]
            if look.kind != "push" or "finished" not in map(jobs.state, looks):
                raise StudioError(
                    "press Look first to see what would be sent, and publish it then."
                )
            if not (token.isascii() and token.isprintable() and 8 <= len(token) <= 200):
                raise StudioError(
                    "expected a Hub token. Create one at huggingface.co/settings/tokens and paste "
                    "it here."
                )
            self._submit(workspace, look.for_good(), {"HF_TOKEN": token})
        except StudioError as error:
            raise told(error, "Not published") from error
        return ""  # The field forgets it.

    def look(self, before: dict[str, Any], held: Picks, request: gr.Request):
        """What was asked for and how it stands, the shelf, and the page that Publish would make.

        What has not changed is not sent again.
        """
        workspace, jobs = self.studio.workspace(request.headers), self.studio.jobs
        own = [job for job in jobs.of(workspace) if job.kind in KINDS]
        listed = list(reversed(own))[:MOST_SHOWN]
        states = [[job.id, jobs.state(job)] for job in listed]
        if states == before.get("states"):
            return [gr.skip()] * 5
        ended = [one for one in states if one[1] in ENDED]
        # A command that has ended may have made a file; nothing else moves the shelf.
        is_same = ended == before.get("ended")
        shelf = gr.skip() if is_same else shelf_view(library(workspace), held, workspace)
        text = ""
        if listed and is_preview(listed[0]):
            text = model_card_in(jobs.output(listed[0]))
        page = text.partition("\n---\n")[2].replace("<Gallery />", "").strip()
        after = {"states": states, "ended": ended}
        made = jobs_view(listed, jobs, workspace)
        return [made, shelf, gr.Column(visible=bool(page)), page, after]

    def press(self, event: gr.EventData, request: gr.Request) -> None:
        """Stop a command that waits or is at work."""
        act, workspace = act_of(event), self.studio.workspace(request.headers)
        try:
            if act.get("act") == "stop":
                self.studio.jobs.stop(self.studio.jobs.find(workspace, act.get("job", "")))
        except StudioError as error:
            raise told(error) from error
