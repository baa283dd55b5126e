"""The line above the Start button: time and memory of the training, or what is missing."""

from nora_studio.app.pages.escaping import as_sentence, escaped
from nora_studio.app.server.drafts import DRAFT, uses_draft_photos
from nora_studio.app.server.resource_estimates import ResourceEstimate, ResourceEstimateStore
from nora_studio.app.server.studio import Studio
from nora_studio.app.server.training import check_arguments, parse_shown_command
from nora_studio.app.server.uploads import photos_of
from nora_studio.app.server.workspace import Workspace
from nora_studio.errors import StudioError
from nora_studio.options.judges import judge_for, why_unscored

ADD_PHOTOS = "Add photos first; five or more are best."
BUSY = " Another training is running; this one would wait for it."
JUDGE_FIELD = "The field is under Advanced, Samples and checkpoints."
NO_ROOM = (
    "This training needs more memory than this machine has: choose a smaller batch, or 8 or 4 base "
    "bits."
)


def missing_requirements(workspace: Workspace, missing: str) -> str:
    """Return what is missing while there is no command.

    Args:
        missing: Why the form describes no command.
    """
    words = [] if photos_of(workspace, DRAFT) else [ADD_PHOTOS]
    missing = missing or "fill in step 1."
    return " ".join([as_sentence(missing), *words])


def requirements_view(
    studio: Studio,
    estimates: ResourceEstimateStore,
    workspace: Workspace,
    shown: str,
    missing: str = "",
) -> str:
    """Show the current command's time and memory, or what is missing."""
    has_photos = bool(photos_of(workspace, DRAFT))
    if not shown.strip():
        return _note(
            escaped(missing_requirements(workspace, missing)),
            "problem" if ": expected" in missing else "note",
        )
    try:
        arguments = parse_shown_command(shown)
        options = check_arguments(workspace, arguments, studio.is_model_allowed)
        studio.check_training(options)
    except StudioError as error:
        return _note(escaped(as_sentence(str(error))), "problem")
    if uses_draft_photos(options) and not has_photos:
        return _note(ADD_PHOTOS)
    measuring = estimates.under_way(workspace, studio.jobs)
    busy = BUSY if studio.jobs.is_device_busy() and measuring is None else ""
    if "--no-score-samples" not in arguments and judge_for(options.model, options.clip) is None:
        busy += f" Its samples are not scored: {escaped(why_unscored(options.model))} {JUDGE_FIELD}"
    estimate = estimates.find(options)
    if estimate is not None and not estimate.fits:
        return _note(NO_ROOM, "problem")
    if estimate is not None:
        return _note(f"<b>{_words(estimate)}</b> Measured on this machine.{busy}")
    if measuring is not None:
        return _note("Measuring a few training steps and one image. It takes about a minute.")
    tried = estimates.last_preflight(workspace, studio.jobs, options)
    if tried is not None and studio.jobs.state(tried) == "failed":
        last = (studio.jobs.tail(tried, 1) or ["its process was killed"])[0]
        return _note(f"Not measured: {escaped(last.removeprefix('error: '))}", "problem")
    return _note(f"Time and memory are not measured yet.{busy}")


def _words(estimate: ResourceEstimate) -> str:
    minutes = estimate.minutes
    time = f"{60 * minutes:.0f} seconds" if minutes < 1.5 else f"{minutes:.0f} minutes"
    return f"About {time} and {estimate.memory_gib:.1f} GiB of memory."


def _note(words: str, kind: str = "note") -> str:
    return f'<p class="{kind}">{words}</p>'
