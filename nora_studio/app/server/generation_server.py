"""Generate images, request after request, with the base and its last adapters kept loaded.

Requests and events are JSON lines. Requests:

    {"do": "draw", "id": "1", "folder": "out", "request": {"prompts": ["a [V] mug"], "columns":
        [{"label": "base"}, {"label": "NoRA", "adapters": [{"path": "runs/my-mug-nora"}]}]}}
    {"do": "read", "id": "2", "prompt": "a [V] mug", "model": "embedded", "rare_word": "auto"}
    {"do": "cancel", "id": "1"}

Events, each with the request's "id": "ready" once, then "started", "picture" (one per image, with
its position and file), "scores" with their judge, or "unscored" with the reason if no judge is
named for the base, and at the end of every request "done", "cancelled" or "error". A "read"
request gets a "reading" event at once. "started" and "scores" have "warnings" about words that
are not read. No request ends the server: it exits when its input ends, after the current image.
"""

import contextlib
import gc
import json
import os
import queue
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from nora_studio.adapters.files.adapter_file import open_subject_adapter
from nora_studio.app.server.image_requests import Column, ImageRequest, parse_request
from nora_studio.errors import StudioError
from nora_studio.options.command_line import parse_command
from nora_studio.options.judges import judge_for, why_unscored
from nora_studio.options.precision import choose_dtype
from nora_studio.photos.images import open_photo
from nora_studio.scoring.compare import (
    ComparisonColumn,
    GenerationSettings,
    ScoreDifference,
    Scores,
    find_differences,
    generate_planned,
    score_columns,
)
from nora_studio.scoring.prompt_warnings import generation_warnings, judge_warnings
from nora_studio.scoring.scores import Scorer, load_scorer
from nora_studio.sdxl.columns import (
    PlannedImage,
    UsedAdapter,
    base_of,
    holds,
    plan_images,
    training_resolution,
)
from nora_studio.sdxl.models import check_trigger, choose_trigger, load_sdxl
from nora_studio.sdxl.pipeline_cache import PipelineCache
from nora_studio.sdxl.tokenization import tokenize_prompt

Emit = Callable[[dict[str, Any]], object]


@dataclass(frozen=True)
class GenerationServerOptions:
    """Generate images for requests in JSON lines, one after the other; events are JSON lines too.

    The base and the last few adapters stay loaded. The server exits when its input ends.
    """

    finish: bool = False
    """When the input ends, finish all requests before exiting."""
    clip: str | None = None
    """Judge of images if a request names none: "embedded", an open_clip folder, hf-hub:owner/name,
    or a name such as ViT-B-32:openai. None: the embedded one, on the embedded base; images of any
    other base have no scores."""


class _Cancelled(Exception):
    """The request was cancelled."""


@dataclass
class GenerationServer:
    """The queue of requests, and the models that are loaded."""

    emit: Emit
    options: GenerationServerOptions = GenerationServerOptions()
    device: str = field(default_factory=lambda: "cuda" if torch.cuda.is_available() else "cpu")
    _requests: "queue.Queue[dict[str, Any] | None]" = field(default_factory=queue.Queue)
    _pending: set[str] = field(default_factory=set)
    _cancelled: set[str] = field(default_factory=set)
    _ends: bool = False
    _base: tuple[tuple[str, str], PipelineCache] | None = None
    _scorer: Scorer | None = None

    def listen(self, lines: Iterable[str]) -> None:
        """Accept requests until the lines end; "read" requests are answered here, at once."""
        for line in lines:
            if line.strip():
                self.accept(line)
        self._ends = not self.options.finish
        self._requests.put(None)

    def accept(self, line: str) -> None:
        """Take one request of any kind."""
        message: Any = None
        try:
            message = json.loads(line)
            if not isinstance(message, dict) or not isinstance(message.get("id"), str):
                raise StudioError(
                    'expected a JSON object with an "id" that is a text, such as "1", in every '
                    "line."
                )
            if message.get("do") == "draw":
                self._pending.add(message["id"])
                self._requests.put(message)
            elif message.get("do") == "cancel":
                # A late cancel must not apply to a later request with the same id.
                self._cancelled |= self._pending & {message["id"]}
            elif message.get("do") == "read":
                words = (message.get(name) for name in ("prompt", "model", "rare_word"))
                self.emit({"event": "reading", "id": message["id"], **tokenize_prompt(*words)})
            else:
                raise StudioError(f"expected do: draw, read or cancel; got {message.get('do')!r}.")
        except Exception as error:  # An error of one request must not stop the others.
            request_id = message.get("id") if isinstance(message, dict) else None
            self.emit({"event": "error", "id": request_id, "error": _error_line(error)})

    def serve(self) -> None:
        """Serve one request after the other until the input has ended."""
        self.emit({"event": "ready", "device": self.device})
        while (message := self._requests.get()) is not None and not self._ends:
            request_id = message["id"]
            try:
                self._generate(
                    request_id, Path(message.get("folder") or "."), message.get("request")
                )
                self.emit({"event": "done", "id": request_id})
            except _Cancelled:
                self.emit({"event": "cancelled", "id": request_id})
            except Exception as error:  # An error of one request must not stop the others.
                self.emit({"event": "error", "id": request_id, "error": _error_line(error)})
                if isinstance(error, torch.OutOfMemoryError):
                    self._unload_base()
            finally:
                self._pending.discard(request_id)
                self._cancelled.discard(request_id)

    def _generate(self, request_id: str, folder: Path, message: Any) -> None:
        self._check(request_id)
        request = parse_request(message)
        columns = [_open_column(column) for column in request.columns]
        model = base_of(columns, request.model)
        pipes = self._pipes(model, request.precision)
        columns = [_with_word(pipes, column) for column in columns]
        settings = _settings(request, columns, model, pipes)
        planned = plan_images(pipes.base, columns, settings, folder)
        for image in planned:
            _reuse_image(image, folder)
        warnings = generation_warnings(pipes.base, columns, settings)
        event = {"event": "started", "id": request_id, "total": len(planned), "warnings": warnings}
        self.emit(event)
        judge = judge_for(model, request.clip or self.options.clip) if request.score else None
        if request.score and judge is None:
            self.emit({"event": "unscored", "id": request_id, "reason": why_unscored(model)})
        labels = [column.label for column in columns]
        for number, image in enumerate(generate_planned(pipes, planned, settings), start=1):
            prompt, seed = image.pair
            place = {
                "column": labels.index(image.column.label),
                "prompt": settings.prompts.index(prompt),
                "seed": settings.seeds.index(seed),
            }
            file = image.file.relative_to(folder).as_posix()
            event = {"event": "picture", "id": request_id, **place, "file": file, "number": number}
            self.emit(event | {"trigger": image.recipe.trigger})
            if number < len(planned):
                self._check(request_id)
        if judge is not None:
            event = self._score(judge, request, settings, planned)
            self.emit({"event": "scores", "id": request_id, **event})

    def _check(self, request_id: str) -> None:
        if self._ends or request_id in self._cancelled:
            raise _Cancelled

    def _score(
        self,
        judge: str,
        request: ImageRequest,
        settings: GenerationSettings,
        planned: Sequence[PlannedImage],
    ) -> dict[str, Any]:
        if self._scorer is None or self._scorer.name != judge:
            self._scorer = None  # Free the old one first: two would need twice the memory.
            self._scorer = load_scorer(judge, self.device)
        images: dict[str, dict[tuple[str, int], Path]] = {}
        for image in planned:
            images.setdefault(image.column.label, {})[image.pair] = image.file
        references = [open_photo(Path(file)) for file in request.references]
        scores: Scores = score_columns(self._scorer, images, settings, references)
        findings: list[ScoreDifference] = list(find_differences(scores, settings))
        return {
            "judge": self._scorer.name,
            "scores": scores,
            "differences": [asdict(finding) for finding in findings],
            "warnings": judge_warnings(self._scorer, settings.prompts),
        }

    def _pipes(self, model: str, precision: str) -> PipelineCache:
        key = (model, precision)
        if self._base is None or self._base[0] != key:
            self._unload_base()
            pipe = load_sdxl(model, choose_dtype(precision, self.device), self.device)
            self._base = (key, PipelineCache(pipe))
        return self._base[1]

    def _unload_base(self) -> None:
        """Free the base, before another is loaded or when memory ran out."""
        self._base = None
        gc.collect()
        if self.device == "cuda":
            torch.cuda.empty_cache()


def _open_column(column: Column) -> ComparisonColumn:
    used = []
    for choice in column.adapters:
        used.append(UsedAdapter(open_subject_adapter(Path(choice.path)), choice.strength))
    return ComparisonColumn(column.label, tuple(used), None if used else column.rare_word)


def _with_word(pipes: PipelineCache, column: ComparisonColumn) -> ComparisonColumn:
    """Choose a base column's rare word where it is "auto"; check it where it is given."""
    if column.rare_word is None:
        return column
    if column.rare_word == "auto":
        return replace(column, rare_word=choose_trigger(pipes.base))
    return replace(column, rare_word=check_trigger(pipes.base, column.rare_word))


def _settings(
    request: ImageRequest, columns: Sequence[ComparisonColumn], model: str, pipes: PipelineCache
) -> GenerationSettings:
    return GenerationSettings(
        model=model,
        prompts=request.prompts,
        seeds=request.seeds,
        steps=request.steps,
        guidance=request.guidance,
        size=request.size or training_resolution(pipes.base, columns),
        negative=request.negative,
    )


def _reuse_image(image: PlannedImage, folder: Path) -> None:
    """Reuse the same image of another job, from a sibling folder."""
    if image.is_generated:
        return
    name = image.file.relative_to(folder)
    for other in folder.absolute().parent.glob(f"*/{name.as_posix()}"):
        if other != image.file.absolute() and holds(other, image.recipe):
            image.file.parent.mkdir(parents=True, exist_ok=True)
            image.file.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # Then it is generated again.
                image.file.hardlink_to(other)
            return


def _error_line(error: Exception) -> str:
    if isinstance(error, StudioError):
        return str(error)
    if isinstance(error, torch.OutOfMemoryError):
        return "The GPU has too little memory for this. Choose a smaller size or fewer adapters."
    text = " ".join(str(error).split())[:300]
    print(traceback.format_exc(), file=sys.stderr)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def run(arguments: Sequence[str]) -> int:
    """Run the command: requests from standard input, events to standard output."""
    options = parse_command(
        GenerationServerOptions, prog="nora-studio draw-server", arguments=arguments
    )
    # Libraries that print would break the JSON lines, so events get a stream of their own.
    events = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    lock = threading.Lock()

    def emit(event: dict[str, Any]) -> None:
        # A broken pipe means that the parent has ended; then the input ends as well.
        with lock, contextlib.suppress(BrokenPipeError):
            print(json.dumps(event, ensure_ascii=False), file=events, flush=True)

    server = GenerationServer(emit, options)
    threading.Thread(target=server.listen, args=(sys.stdin,), daemon=True).start()
    server.serve()
    return 0
