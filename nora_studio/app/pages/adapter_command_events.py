"""Event handlers for the commands of the Adapters tab: preview, start, publish, stop."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from nora_studio.app.pages.adapter_actions import ActionForm, command_view
from nora_studio.app.pages.adapter_cards import jobs_view, library_view
from nora_studio.app.pages.adapter_library import Selection
from nora_studio.app.pages.html_events import error_toast, event_data
from nora_studio.app.server.adapter_commands import (
    KINDS,
    AdapterCommand,
    AdapterCommandBuilder,
)
from nora_studio.app.server.adapter_results import card_in_push_preview, is_preview
from nora_studio.app.server.image_requests import AdapterChoice
from nora_studio.app.server.job import ENDED
from nora_studio.app.server.library import library
from nora_studio.app.server.studio import Studio
from nora_studio.app.server.workspace import Workspace
from nora_studio.errors import StudioError

MAX_SHOWN = 8
"""Number of commands that are listed, newest first."""


@dataclass(frozen=True)
class CommandEvents:
    """Handlers of the form's events, by position: Gradio passes no keywords."""

    studio: Studio
    form: ActionForm

    def _command(
        self, workspace: Workspace, selection: Selection, values: Sequence[Any]
    ) -> AdapterCommand:
        commands = AdapterCommandBuilder(workspace, self.studio.is_model_allowed)
        chosen = [AdapterChoice(path, strength) for path, strength in selection.items()]
        return self.form.build_command(commands, chosen, values)

    def _submit(
        self, workspace: Workspace, command: AdapterCommand, secret: dict[str, str] | None = None
    ) -> None:
        self.studio.jobs.submit(
            workspace, command.kind, command.title, command.argv, command.shown, uses_device=False,
            secret=secret, writes=command.writes,
        )  # fmt: skip

    def preview(self, request: gr.Request, selection: Selection, *values: Any):
        """Show the command that the form describes, or what is missing."""
        workspace = self.studio.workspace(request.headers)
        return command_view(lambda: self._command(workspace, selection, values))

    def start(self, request: gr.Request, selection: Selection, *values: Any) -> None:
        """Queue the command; for Publish, one that only shows what would be sent."""
        try:
            workspace = self.studio.workspace(request.headers)
            self._submit(workspace, self._command(workspace, selection, values))
        except StudioError as error:
            raise error_toast(error, "Not started") from error

    def make(
        self,
        action: str,
        adapters: list[str],
        strengths: list[float],
        to: str,
        name: str,
        request: gr.Request,
    ) -> str:
        """Export, mix, merge or inspect adapters by their paths; return the command."""
        selection = dict(zip(adapters, strengths or [1.0] * len(adapters), strict=False))
        values = (action, to, to, name, "", None, "", "", "", True)
        try:
            if action == "push":
                raise StudioError(
                    "publishing works on the page only, where you see what would be sent first."
                )
            workspace = self.studio.workspace(request.headers)
            command = self._command(workspace, selection, values)
            self._submit(workspace, command)
        except StudioError as error:
            raise error_toast(error, "Not started") from error
        return command.shown

    def publish(self, request: gr.Request, token: str, selection: Selection, *values: Any) -> str:
        """Send an adapter to the Hub, if a dry run of the same command has succeeded."""
        jobs, token = self.studio.jobs, (token or "").strip()
        try:
            workspace = self.studio.workspace(request.headers)
            dry_run = self._command(workspace, selection, values)
            previews = [
                job for job in jobs.list_jobs(workspace) if list(job.command) == dry_run.argv
            ]
            if dry_run.kind != "push" or "finished" not in map(jobs.state, previews):
                raise StudioError("press Preview first to see what would be sent, then publish.")
            if not (token.isascii() and token.isprintable() and 8 <= len(token) <= 200):
                raise StudioError(
                    "expected a Hub token. Create one at huggingface.co/settings/tokens and paste "
                    "it here."
                )
            self._submit(workspace, dry_run.without_dry_run(), {"HF_TOKEN": token})
        except StudioError as error:
            raise error_toast(error, "Not published") from error
        return ""  # Clear the field.

    def refresh(self, before: dict[str, Any], selection: Selection, request: gr.Request):
        """Show the commands with their states, the library, and the page that Publish would create.

        Unchanged parts are not sent again.
        """
        workspace, jobs = self.studio.workspace(request.headers), self.studio.jobs
        own = [job for job in jobs.list_jobs(workspace) if job.kind in KINDS]
        listed = list(reversed(own))[:MAX_SHOWN]
        states = [[job.id, jobs.state(job)] for job in listed]
        if states == before.get("states"):
            return [gr.skip()] * 5
        ended = [one for one in states if one[1] in ENDED]
        # Only a command that has ended can have made a file and changed the library.
        is_same = ended == before.get("ended")
        cards = gr.skip() if is_same else library_view(library(workspace), selection, workspace)
        text = ""
        if listed and is_preview(listed[0]):
            text = card_in_push_preview(jobs.output(listed[0]))
        page = text.partition("\n---\n")[2].replace("<Gallery />", "").strip()
        after = {"states": states, "ended": ended}
        results = jobs_view(listed, jobs, workspace)
        return [results, cards, gr.Column(visible=bool(page)), page, after]

    def on_press(self, event: gr.EventData, request: gr.Request) -> None:
        """Stop a waiting or running command."""
        data, workspace = event_data(event), self.studio.workspace(request.headers)
        try:
            if data.get("act") == "stop":
                self.studio.jobs.stop(self.studio.jobs.find(workspace, data.get("job", "")))
        except StudioError as error:
            raise error_toast(error) from error
