"""Messages between the Train tab's drop zone and photos: refused files, questions, undo."""

from collections.abc import Sequence

from nora_studio.app.pages.escaping import escaped
from nora_studio.app.server.draft_trash import last_trashed
from nora_studio.app.server.workspace import Workspace


def messages_view(
    workspace: Workspace,
    problem: str = "",
    refused: Sequence[str] = (),
    message: str = "",
) -> str:
    """Show the messages about the photos; their buttons send events through `html_events`.

    Args:
        problem: What is missing.
        refused: A sentence for each file that was left out, with the visitor's name for it.
        message: What was done just now; empty: the last removal.
    """
    mark = f'<p class="problem" role="alert">{escaped(problem)}</p>' if problem else ""
    return f"{mark}{_refusals(refused)}{_undo(workspace, message)}"


def example_question(subject: str, count: int) -> str:
    """Ask before an example replaces a visitor's own photos."""
    photos = "your photo" if count == 1 else f"your {count} photos"
    return (
        f'<div class="problem" role="alertdialog" aria-label="Use the example?"><p>The example '
        f"replaces {photos}; Undo restores them.</p>"
        f'<button type="button" class="plain-button" data-act="take" '
        f'data-subject="{escaped(subject)}">Use the example</button> '
        '<button type="button" class="plain-button" data-act="keep">Keep my photos</button></div>'
    )


def _refusals(refused: Sequence[str]) -> str:
    if not refused:
        return ""
    count = "1 file was left out" if len(refused) == 1 else f"{len(refused)} files were left out"
    rows = "".join(f"<li>{escaped(str(one))}</li>" for one in refused)
    return (
        f'<div class="problem refused" role="alert"><b>{count}</b>'
        '<button type="button" class="plain-button" data-act="dismiss">Dismiss</button>'
        f"<ul>{rows}</ul></div>"
    )


def _undo(workspace: Workspace, message: str) -> str:
    last = last_trashed(workspace)
    if not last:
        return f'<p class="undo" role="status">{escaped(message)}</p>' if message else ""
    text = message or f"Removed: {last}."
    return (
        f'<p class="undo" role="status">{escaped(text)}<button type="button" '
        f'class="plain-button" data-act="undo" aria-label="Restore {escaped(last)}">Undo'
        "</button></p>"
    )
