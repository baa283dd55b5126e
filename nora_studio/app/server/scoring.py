"""Measurements of the Scores page: their commands, and their results."""

import hashlib
import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from nora_studio.app.server.job import ENDED, Job
from nora_studio.app.server.jobs import Jobs
from nora_studio.app.server.limits import (
    MAX_CHECKPOINTS,
    MAX_PROMPTS,
    MAX_RUNS,
    MAX_SEEDS,
    MAX_STRENGTHS,
)
from nora_studio.app.server.model_access import ModelAccess
from nora_studio.app.server.resource_use import FULL_SIDE, IMAGE_BYTES_PER_PIXEL, SIDES
from nora_studio.app.server.workspace import Workspace, safe_name
from nora_studio.errors import StudioError
from nora_studio.mini.assets import EMBEDDED
from nora_studio.options.judges import require_judge
from nora_studio.options.paths import check_inside, check_text
from nora_studio.photos.prompts import in_places, names_prompt_file
from nora_studio.runs.history import changed_at, find_runs, read_settings
from nora_studio.runs.runs import Run
from nora_studio.runs.scripts import CLIP_SCORE, FIDELITY, script_command
from nora_studio.scoring.fidelity import Fidelity, read_fidelity

Kind = Literal["fidelity", "score"]
"""fidelity: find the best strength; score: compare the final adapters pair by pair."""
SCRIPTS = {"fidelity": FIDELITY, "score": CLIP_SCORE}
PROMPT_LENGTH = 300
SCORES = "scores.json"


@dataclass(frozen=True)
class ScoreRequest:
    """A measurement that the page requests, as plain values."""

    runs: tuple[str, ...]
    prompts: tuple[str, ...] = ()
    """Empty: the training's own prompt in places that the photos do not show."""
    seeds: int = 1
    """Number of images for each prompt."""
    strengths: tuple[float, ...] = (0.6, 0.8, 1.0)
    checkpoints: int = 2
    dino: str = ""
    """Name of a DINO; empty: CLIP-I alone judges the subject."""
    clip: str = ""
    """Name of the CLIP; empty: the embedded one, on the embedded base."""


def measurable_runs(workspace: Workspace) -> list[Run]:
    """Return the visitor's runs that have an adapter to measure, newest first."""
    found = [run for run in find_runs(workspace.runs) if run.has_adapter]
    return sorted(found, key=lambda run: -changed_at(run))


def results_folder(workspace: Workspace, runs: Sequence[str], kind: Kind) -> Path:
    """Return the folder of some runs' results, independent of their order."""
    named = " ".join(sorted(runs))
    mark = hashlib.sha256(named.encode()).hexdigest()[:6]
    return workspace.folder / "scores" / f"{safe_name(named)[:40].strip('-')}-{mark}" / kind


def arguments(workspace: Workspace, request: ScoreRequest, kind: Kind) -> list[str]:
    """Return the command's arguments, with paths relative to the visitor's folder.

    Raises:
        StudioError: a run or its photos do not exist, or a value is out of range.
    """
    settings = _settings(workspace, request.runs)
    _check(request)
    out = results_folder(workspace, request.runs, kind).relative_to(workspace.folder)
    words = ["--adapters", *(f"runs/{name}" for name in request.runs)]
    words += ["--references", _photos(workspace, settings)]
    prompts = list(request.prompts)
    if kind == "score" and not prompts:
        prompts = in_places(str(settings[0].get("prompt", "")))
    words += ["--prompts", *prompts] if prompts else []
    words += ["--seeds", *map(str, range(request.seeds))]
    if kind == "fidelity":
        words += ["--strengths", *(f"{strength:g}" for strength in request.strengths)]
        words += ["--checkpoints", str(request.checkpoints)]
    words += ["--clip", request.clip] if request.clip else []
    words += ["--dino", request.dino] if request.dino else []
    return [*words, "--out", out.as_posix()]


def submit(
    jobs: Jobs,
    workspace: Workspace,
    request: ScoreRequest,
    kind: Kind,
    models: ModelAccess,
) -> Job:
    """Queue a measurement.

    Raises:
        StudioError: for the same reasons as `arguments`; or the same measurement is running, a
            judge or the runs' base may not be loaded, the base needs a named judge, or there is no
            room for the images.
    """
    for flag, named in (("--clip", request.clip), ("--dino", request.dino)):
        if named:
            models.check(named, flag, takes_embedded=flag == "--clip")
            workspace.check_model(named)
    words = arguments(workspace, request, kind)
    settings = _settings(workspace, request.runs)
    base = str(settings[0].get("model", EMBEDDED))
    models.check(base, "the base of these runs")
    require_judge(base, request.clip or None)  # Fail now, and not when the job starts.
    under_way = find_job(jobs, workspace, request.runs, kind)
    if under_way is not None and jobs.state(under_way) not in ENDED:
        raise StudioError(
            "these runs are being measured already. Wait until that ends, or stop it."
        )
    return jobs.submit(
        workspace,
        kind,
        _title(request.runs),
        script_command(SCRIPTS[kind], words),
        shlex.join(["nora-studio", kind, *words]),
        writes=_image_bytes(request, kind, settings[0]),
    )


def _image_bytes(request: ScoreRequest, kind: Kind, settings: dict[str, Any]) -> int:
    """Return a lower bound of the size of the images, the base's and each adapter's."""
    columns = len(request.runs) + 1
    if kind == "fidelity":
        columns = 1 + len(request.runs) * len(request.strengths) * (request.checkpoints + 1)
    prompts = len(request.prompts) or len(in_places(str(settings.get("prompt", ""))))
    side = settings.get("resolution") or SIDES.get(str(settings.get("model", EMBEDDED)), FULL_SIDE)
    return int(columns * prompts * request.seeds * IMAGE_BYTES_PER_PIXEL * int(side) ** 2)


def find_job(jobs: Jobs, workspace: Workspace, runs: Sequence[str], kind: Kind) -> Job | None:
    """Return the newest measurement of some runs."""
    found = [
        job for job in jobs.list_jobs(workspace) if (job.kind, job.title) == (kind, _title(runs))
    ]
    return found[-1] if found else None


def fidelity_of(workspace: Workspace, runs: Sequence[str]) -> Fidelity | None:
    """Return the fidelity result of some runs; None until the base is measured."""
    try:
        return read_fidelity(results_folder(workspace, runs, "fidelity")) if runs else None
    except StudioError:
        return None


def scores_of(workspace: Workspace, runs: Sequence[str]) -> dict[str, Any] | None:
    """Return the scores of some runs' final adapters; None until the command has written them."""
    try:
        text = (results_folder(workspace, runs, "score") / SCORES).read_text(encoding="utf-8")
        kept = json.loads(text)
    except (OSError, ValueError):
        return None
    return kept if isinstance(kept, dict) and {"scores", "differences"} <= kept.keys() else None


def _title(runs: Sequence[str]) -> str:
    return ", ".join(sorted(runs))


def _settings(workspace: Workspace, runs: Sequence[str]) -> list[dict[str, Any]]:
    if not 1 <= len(runs) <= MAX_RUNS or len(set(runs)) < len(runs):
        raise StudioError(f"choose 1 to {MAX_RUNS} runs, each once; got {len(runs)}.")
    settings = []
    for name, run in {name: workspace.run(name) for name in runs}.items():
        try:
            settings.append(read_settings(run))
        except StudioError as error:  # The message would name a path on the server.
            raise StudioError(
                f"the settings of the run {name!r} are damaged. Leave it out."
            ) from error
    if len({str(one.get("model", EMBEDDED)) for one in settings}) > 1:
        raise StudioError("these runs were trained on different bases. Choose runs of one base.")
    return settings


def _photos(workspace: Workspace, settings: Sequence[dict[str, Any]]) -> str:
    """Return the folder of the real photos, relative to the visitor's folder."""
    folders = {str(one.get("instance_dir", "")) for one in settings}
    if len(folders) > 1:
        raise StudioError(
            "these runs were trained on different photos. Choose runs of one subject."
        )
    (relative,) = folders
    try:
        folder = check_inside(workspace.folder, relative, "the photos")
    except StudioError:
        folder = workspace.folder
    if not folder.is_relative_to(workspace.photos.resolve()) or not folder.is_dir():
        raise StudioError(
            "the photos that these runs were trained on are gone, and the subject cannot be judged "
            "without them. Upload them again under the same name."
        )
    return folder.relative_to(workspace.folder.resolve()).as_posix()


def _strengths_text(strengths: Sequence[float]) -> str:
    return ", ".join(f"{strength:g}" for strength in strengths[:20]) or "none"


def _check(request: ScoreRequest) -> None:
    if len(request.prompts) > MAX_PROMPTS:
        raise StudioError(
            f"expected at most {MAX_PROMPTS} prompts; got {len(request.prompts)}. Remove some."
        )
    for prompt in request.prompts:
        if len(prompt) > PROMPT_LENGTH:
            raise StudioError(
                f"expected at most {PROMPT_LENGTH} characters in a prompt; got {len(prompt)}: "
                f"{prompt[:60]!r}. Shorten it."
            )
        # The command would read it as an option or as a file of prompts.
        if prompt.startswith("-") or names_prompt_file(prompt):
            raise StudioError(
                "expected a prompt that does not begin with - and does not end with .txt or .json; "
                f"got {prompt[:60]!r}. Reword it."
            )
        check_text(prompt, "a prompt")
    if len(set(request.prompts)) < len(request.prompts):
        raise StudioError("a prompt is given twice. Give each once.")
    if not 1 <= request.seeds <= MAX_SEEDS:
        raise StudioError(f"expected 1 to {MAX_SEEDS} images of each prompt; got {request.seeds}.")
    if not 0 <= request.checkpoints <= MAX_CHECKPOINTS:
        raise StudioError(
            f"expected 0 to {MAX_CHECKPOINTS} earlier checkpoints; got {request.checkpoints}."
        )
    strengths = request.strengths
    if not 1 <= len(strengths) <= MAX_STRENGTHS or len(set(strengths)) < len(strengths):
        raise StudioError(
            f"expected 1 to {MAX_STRENGTHS} different strengths; got {_strengths_text(strengths)}."
        )
    if not all(0 < strength <= 4 for strength in strengths):
        raise StudioError(
            "expected strengths above 0 (the base) and up to 4, where 1 is as trained; got "
            f"{_strengths_text(strengths)}."
        )
