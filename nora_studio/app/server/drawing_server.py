"""Draw what is asked for, request after request, with the base and its last adapters at hand.

JSON lines come in and go out. It is asked:

    {"do": "draw", "id": "1", "folder": "out", "request": {"prompts": ["a [V] mug"], "columns":
        [{"label": "base"}, {"label": "NoRA", "adapters": [{"path": "runs/my-mug-nora"}]}]}}
    {"do": "read", "id": "2", "prompt": "a [V] mug", "model": "embedded", "rare_word": "auto"}
    {"do": "cancel", "id": "1"}

and it tells, each with the "id": "ready" once, then "started", "picture" (one for each, with its
place and file), "scores" with their judge, or "unscored" with the reason where no judge is named
for the base, and at the end of every request "done", "cancelled" or "error"; "reading" answers a
prompt at once. "started" and "scores" carry "warnings" of words that are not read. No request ends
it: it ends with its input, after the picture at work.
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
from nora_studio.app.server.drawing_requests import Column, DrawingRequest, parse_request
from nora_studio.errors import StudioError
from nora_studio.options.command_line import parse_command
from nora_studio.options.judges import judge_for, why_unscored
from nora_studio.options.precision import choose_dtype
from nora_studio.photos.images import open_photo
from nora_studio.scoring.compare import (
    Drawing,
    Entrant,
    Finding,
    Scores,
    draw_planned,
    find_differences,
    score_entrants,
)
from nora_studio.scoring.prompt_warnings import drawing_warnings, judge_warnings
from nora_studio.scoring.scores import Scorer, load_scorer
from nora_studio.sdxl.adapted import AdaptedPipes
from nora_studio.sdxl.entrants import (
    PlannedPicture,
    UsedAdapter,
    base_of,
    holds,
    plan_pictures,
    trained_size,
)
from nora_studio.sdxl.models import choose_trigger, load_sdxl
from nora_studio.sdxl.readings import read_as_tokens

Tell = Callable[[dict[str, Any]], object]


@dataclass(frozen=True)
class DrawServerOptions:
    """Draw requests that come as JSON lines, one after the other; what happens goes out as such.

    The base and the last few adapters stay loaded. It ends with its input.
    """

    finish: bool = False
    """At the end of the input, draw what was asked for before ending."""
    clip: str | None = None
    """Judge of pictures where a request names none: "embedded", an open_clip folder,
    hf-hub:owner/name, or such as ViT-B-32:openai. None: the embedded one, on the embedded base; any
    other base's pictures have no scores."""


class _Cancelled(Exception):
    """Whoever asked for the drawing wants it no longer."""


@dataclass
class DrawingServer:
    """The requests, and what is loaded."""

    tell: Tell
    options: DrawServerOptions = DrawServerOptions()
    device: str = field(default_factory=lambda: "cuda" if torch.cuda.is_available() else "cpu")
    _requests: "queue.Queue[dict[str, Any] | None]" = field(default_factory=queue.Queue)
    _pending: set[str] = field(default_factory=set)
    _cancelled: set[str] = field(default_factory=set)
    _ends: bool = False
    _base: tuple[tuple[str, str], AdaptedPipes] | None = None
    _scorer: Scorer | None = None

    def listen(self, lines: Iterable[str]) -> None:
        """Take requests until the lines end; readings are answered here, at once."""
        for line in lines:
            if line.strip():
                self.listen_to(line)
        self._ends = not self.options.finish
        self._requests.put(None)

    def listen_to(self, line: str) -> None:
        """Take one request, whatever it is."""
        asked: Any = None
        try:
            asked = json.loads(line)
            if not isinstance(asked, dict) or not isinstance(asked.get("id"), str):
                raise StudioError('expected a JSON object with an "id" of its own in every line.')
            if asked.get("do") == "draw":
                self._pending.add(asked["id"])
                self._requests.put(asked)
            elif asked.get("do") == "cancel":
                # One that comes too late is not for a later request of that name.
                self._cancelled |= self._pending & {asked["id"]}
            elif asked.get("do") == "read":
                words = (asked.get(name) for name in ("prompt", "model", "rare_word"))
                self.tell({"event": "reading", "id": asked["id"], **read_as_tokens(*words)})
            else:
                raise StudioError(f"expected do: draw, read or cancel; got {asked.get('do')!r}.")
        except Exception as error:  # Whatever one request brings up, the others go on.
            known = asked.get("id") if isinstance(asked, dict) else None
            self.tell({"event": "error", "id": known, "error": _in_one_line(error)})

    def serve(self) -> None:
        """Draw request after request until the input has ended."""
        self.tell({"event": "ready", "device": self.device})
        while (asked := self._requests.get()) is not None and not self._ends:
            known = asked["id"]
            try:
                self._draw(known, Path(asked.get("folder") or "."), asked.get("request"))
                self.tell({"event": "done", "id": known})
            except _Cancelled:
                self.tell({"event": "cancelled", "id": known})
            except Exception as error:  # Whatever one request brings up, the others go on.
                self.tell({"event": "error", "id": known, "error": _in_one_line(error)})
                if isinstance(error, torch.OutOfMemoryError):
                    self._forget()
            finally:
                self._pending.discard(known)
                self._cancelled.discard(known)

    def _draw(self, known: str, folder: Path, asked: Any) -> None:
        self._check(known)
        request = parse_request(asked)
        entrants = [_enter(column) for column in request.columns]
        model = base_of(entrants, request.model)
        pipes = self._pipes(model, request.precision)
        entrants = [_with_word(pipes, entrant) for entrant in entrants]
        drawing = _drawing(request, entrants, model, pipes)
        planned = plan_pictures(pipes.base, entrants, drawing, folder)
        for picture in planned:
            _take_from_beside(picture, folder)
        warnings = drawing_warnings(pipes.base, entrants, drawing)
        told = {"event": "started", "id": known, "total": len(planned), "warnings": warnings}
        self.tell(told)
        judge = judge_for(model, request.clip or self.options.clip) if request.score else None
        if request.score and judge is None:
            self.tell({"event": "unscored", "id": known, "reason": why_unscored(model)})
        labels = [entrant.label for entrant in entrants]
        for number, picture in enumerate(draw_planned(pipes, planned, drawing), start=1):
            prompt, seed = picture.pair
            place = {
                "column": labels.index(picture.entrant.label),
                "prompt": drawing.prompts.index(prompt),
                "seed": drawing.seeds.index(seed),
            }
            file = picture.file.relative_to(folder).as_posix()
            told = {"event": "picture", "id": known, **place, "file": file, "number": number}
            self.tell(told | {"trigger": picture.recipe.trigger})
            if number < len(planned):
                self._check(known)
        if judge is not None:
            told = self._score(judge, request, drawing, planned)
            self.tell({"event": "scores", "id": known, **told})

    def _check(self, known: str) -> None:
        if self._ends or known in self._cancelled:
            raise _Cancelled

    def _score(
        self,
        judge: str,
        request: DrawingRequest,
        drawing: Drawing,
        planned: Sequence[PlannedPicture],
    ) -> dict[str, Any]:
        if self._scorer is None or self._scorer.name != judge:
            self._scorer = None  # Two at once would take the memory of both.
            self._scorer = load_scorer(judge, self.device)
        pictures: dict[str, dict[tuple[str, int], Path]] = {}
        for picture in planned:
            pictures.setdefault(picture.entrant.label, {})[picture.pair] = picture.file
        references = [open_photo(Path(file)) for file in request.references]
        scores: Scores = score_entrants(self._scorer, pictures, drawing, references)
        findings: list[Finding] = list(find_differences(scores, drawing))
        return {
            "judge": self._scorer.name,
            "scores": scores,
            "differences": [asdict(finding) for finding in findings],
            "warnings": judge_warnings(self._scorer, drawing.prompts),
        }

    def _pipes(self, model: str, precision: str) -> AdaptedPipes:
        key = (model, precision)
        if self._base is None or self._base[0] != key:
            self._forget()
            pipe = load_sdxl(model, choose_dtype(precision, self.device), self.device)
            self._base = (key, AdaptedPipes(pipe))
        return self._base[1]

    def _forget(self) -> None:
        """Let the base go, before the next one or when memory ran out."""
        self._base = None
        gc.collect()
        if self.device == "cuda":
            torch.cuda.empty_cache()


def _enter(column: Column) -> Entrant:
    used = []
    for choice in column.adapters:
        used.append(UsedAdapter(open_subject_adapter(Path(choice.path)), choice.strength))
    return Entrant(column.label, tuple(used), None if used else column.rare_word)


def _with_word(pipes: AdaptedPipes, entrant: Entrant) -> Entrant:
    """A base column's rare word chosen where it is left to us, checked where it is given."""
    if entrant.rare_word is None:
        return entrant
    asked = None if entrant.rare_word == "auto" else entrant.rare_word
    return replace(entrant, rare_word=choose_trigger(pipes.base, asked))


def _drawing(
    request: DrawingRequest, entrants: Sequence[Entrant], model: str, pipes: AdaptedPipes
) -> Drawing:
    return Drawing(
        model=model,
        prompts=request.prompts,
        seeds=request.seeds,
        steps=request.steps,
        guidance=request.guidance,
        size=request.size or trained_size(pipes.base, entrants),
        negative=request.negative,
    )


def _take_from_beside(picture: PlannedPicture, folder: Path) -> None:
    """Use a picture again that another drawing, in a folder beside this one, has already."""
    if picture.is_drawn:
        return
    name = picture.file.relative_to(folder)
    for other in folder.absolute().parent.glob(f"*/{name.as_posix()}"):
        if other != picture.file.absolute() and holds(other, picture.recipe):
            picture.file.parent.mkdir(parents=True, exist_ok=True)
            picture.file.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # It is only drawn again, then.
                picture.file.hardlink_to(other)
            return


def _in_one_line(error: Exception) -> str:
    if isinstance(error, StudioError):
        return str(error)
    if isinstance(error, torch.OutOfMemoryError):
        return "The GPU has too little memory for this. Choose a smaller size or fewer adapters."
    text = " ".join(str(error).split())[:300]
    print(traceback.format_exc(), file=sys.stderr)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def run(arguments: Sequence[str]) -> int:
    """The command: requests from the standard input, events to the standard output."""
    options = parse_command(DrawServerOptions, prog="nora-studio draw-server", arguments=arguments)
    # Whatever a library prints would break the lines: events have the stream for themselves.
    events = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    lock = threading.Lock()

    def tell(event: dict[str, Any]) -> None:
        with lock, contextlib.suppress(BrokenPipeError):  # Nobody listens: the input ends, too.
            print(json.dumps(event, ensure_ascii=False), file=events, flush=True)

    server = DrawingServer(tell, options)
    threading.Thread(target=server.listen, args=(sys.stdin,), daemon=True).start()
    server.serve()
    return 0
