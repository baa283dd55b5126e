"""What the Adapters page asks for, as the command that a person would type in their folder."""

import re
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from nora_studio.app.server.drawing_requests import AdapterChoice
from nora_studio.app.server.job import Job
from nora_studio.app.server.library import LibraryEntry, find_entry
from nora_studio.app.server.limits import MOST_MIXED, MOST_RANK
from nora_studio.app.server.workspace import HUB_NAME, Workspace, check_name, safe_name
from nora_studio.errors import StudioError
from nora_studio.mini.assets import EMBEDDED, embedded

KINDS = ("export", "mix", "merge", "push", "inspect")
FORMATS = ("kohya", "diffusers", "seed")
PRECISIONS = ("fp16", "bf16", "fp32")
MOST_STRENGTH = 4.0
MERGED = "merged"
"""Folder of whole pipelines, in a workspace."""
SDXL_BYTES = 6_900_000_000
"""SDXL's 3.47 billion numbers in half precision."""
_LICENCE = re.compile(r"[a-z0-9][a-z0-9.+-]{0,39}")


@dataclass(frozen=True)
class Order:
    """A command, ready for the queue."""

    kind: str
    """One of `KINDS`."""
    title: str
    """For the list of what is under way."""
    arguments: tuple[str, ...]
    """After `nora-studio`."""
    writes: int = 0
    """Bytes that it at least writes, where that is much."""

    @property
    def command(self) -> list[str]:
        """As it is run, by this Python."""
        return [sys.executable, "-m", "nora_studio.cli", *self.arguments]

    @property
    def shown(self) -> str:
        """As a person would type it."""
        return shlex.join(["nora-studio", *self.arguments])

    def for_good(self) -> "Order":
        """The same, done and not only looked at."""
        words = tuple(word for word in self.arguments if word != "--dry-run")
        return replace(self, arguments=words)


def free_name(workspace: Workspace, folder: str, name: str, suffix: str = "") -> str:
    """The name itself, or with a number where a file or folder of it is there."""
    stem, number, free = safe_name(name, "adapter"), 1, safe_name(name, "adapter")
    while (workspace.folder / folder / f"{free}{suffix}").exists():
        number += 1
        free = f"{stem[:44].rstrip('-')}-{number}"
    return free


@dataclass(frozen=True)
class AdapterCommands:
    """Takes a visitor's orders and checks them; names and numbers from a page are not trusted."""

    workspace: Workspace
    is_model_allowed: Callable[[str], bool]
    """Whether a base may be loaded: an uploaded file can name any directory as its base."""

    def export(
        self,
        path: str,
        to: str,
        precision: str | None = None,
        rank: int | None = None,
        name: str = "",
        model: str = "",
    ) -> Order:
        """One adapter as a file of another kind.

        Args:
            name: Of the file, without its suffix; empty: after the adapter and the format.
            model: The base; empty: the one it was trained on.

        Raises:
            StudioError: there is no such adapter, or a value is none of those that are taken.
        """
        entry = self._usable(path, model)
        _one_of("format", to, FORMATS)
        title = re.sub(rf"-({'|'.join(FORMATS)})$", "", entry.title)
        stem = check_name(name) if name else safe_name(f"{title}-{to}")
        stem = free_name(self.workspace, "adapters", stem, ".safetensors")
        arguments = ["export", entry.path, "--to", to, "--out", f"adapters/{stem}.safetensors"]
        arguments += _precision(precision)
        arguments += _rank(rank) if to != "seed" else []
        arguments += _model([entry], model)
        return Order("export", stem, tuple(arguments))

    def mix(
        self,
        chosen: Sequence[AdapterChoice],
        name: str,
        to: str = "kohya",
        precision: str | None = None,
        rank: int | None = None,
        model: str = "",
    ) -> Order:
        """Several adapters added up into one file.

        Raises:
            StudioError: fewer than two are chosen, or a value is none of those that are taken.
        """
        if len(chosen) < 2:
            raise StudioError(
                f"a mix needs two adapters or more; got {len(chosen)}. Choose another one."
            )
        _one_of("format", to, FORMATS[:2])
        stem = free_name(self.workspace, "adapters", check_name(name), ".safetensors")
        entries = self._entries(chosen, model)
        arguments = ["mix", *_adapters(entries, chosen), "--to", to]
        arguments += ["--out", f"adapters/{stem}.safetensors", *_precision(precision), *_rank(rank)]
        arguments += _model(entries, model)
        return Order("mix", stem, tuple(arguments))

    def merge(
        self,
        chosen: Sequence[AdapterChoice],
        name: str,
        precision: str | None = None,
        model: str = "",
    ) -> Order:
        """Adapters in the weights of a whole pipeline.

        Raises:
            StudioError: none is chosen, or a value is none of those that are taken.
        """
        if not chosen:
            raise StudioError("no adapter is chosen. Choose one first.")
        stem = free_name(self.workspace, MERGED, check_name(name))
        entries = self._entries(chosen, model)
        arguments = ["merge", *_adapters(entries, chosen), "--out", f"{MERGED}/{stem}"]
        arguments += [*_precision(precision), *_model(entries, model)]
        base = model or (entries[0].card.model if entries[0].card is not None else "")
        return Order("merge", stem, tuple(arguments), pipeline_bytes(base))

    def push(
        self,
        path: str,
        repository: str,
        licence: str = "",
        private: bool = True,
        dry_run: bool = True,
        model: str = "",
    ) -> Order:
        """One adapter onto the Hub, or what would be sent.

        Raises:
            StudioError: there is no such adapter, or a value is none of those that are taken.
        """
        entry = self._usable(path, model)
        if not HUB_NAME.fullmatch(repository):
            raise StudioError(
                f"expected a Hub repository as owner/name, such as ada/my-mug; got "
                f"{repository[:80]!r}."
            )
        arguments = ["push", entry.path, repository]
        if licence:
            if not _LICENCE.fullmatch(licence):
                raise StudioError(
                    f"expected a licence such as openrail++ or mit; got {licence[:60]!r}."
                )
            arguments += ["--licence", licence]
        arguments += _model([entry], model)
        arguments += ["--private"] if private else []
        arguments += ["--dry-run"] if dry_run else []
        return Order("push", repository, tuple(arguments))

    def inspect(self, path: str) -> Order:
        """What an adapter is, and where it changes most.

        Raises:
            StudioError: there is no such adapter.
        """
        entry = find_entry(self.workspace, path)
        arguments = ["inspect", entry.path]
        return Order(
            "inspect", entry.title, (*arguments, *(["--metadata"] if _is_file(path) else []))
        )

    def _usable(self, path: str, model: str) -> LibraryEntry:
        entry = find_entry(self.workspace, path)
        if entry.card is None:
            raise StudioError(f"{entry.title} cannot be used: {entry.problem}")
        base = model or entry.card.model
        if not base:
            raise StudioError(f"{entry.title} does not name its base. Choose one under Base.")
        if not self.is_model_allowed(base):
            raise StudioError(
                f"{entry.title} was trained on {base[:80]!r}, which cannot be loaded here. Choose "
                "another base under Base."
            )
        self.workspace.check_model(base)
        return entry

    def _entries(self, chosen: Sequence[AdapterChoice], model: str) -> list[LibraryEntry]:
        if len(chosen) > MOST_MIXED:
            raise StudioError(
                f"at most {MOST_MIXED} adapters can be combined; got {len(chosen)}. Take some out."
            )
        if len({one.path for one in chosen}) < len(chosen):
            raise StudioError("an adapter is chosen twice. Raise its strength instead.")
        for one in chosen:
            if not 0 <= one.strength <= MOST_STRENGTH:
                raise StudioError(
                    f"expected a strength of 0 to {MOST_STRENGTH:g}; got {one.strength:g}."
                )
        return [self._usable(one.path, model) for one in chosen]


def pipeline_bytes(model: str) -> int:
    """What a whole pipeline of a base at least takes: half of what the base does, if it is here."""
    folder = embedded("mini-sdxl") if model == EMBEDDED else Path(model).expanduser()
    if folder.is_dir():
        return sum(file.stat().st_size for file in folder.rglob("*.safetensors")) // 2
    return SDXL_BYTES


def result_of(workspace: Workspace, job: Job) -> Path | None:
    """The file or folder that a job wrote; None where it has written none."""
    words = list(job.command)
    if "--out" not in words[:-1]:
        return None
    place = workspace.folder / words[words.index("--out") + 1]
    return place if place.exists() else None


def model_card_in(text: str) -> str:
    """The page that a dry run of a push has shown; empty: none, or none yet."""
    _, begins, page = text.partition("\n---\n")
    page, ends, _ = page.rpartition("\nNothing was sent")
    return f"---\n{page}" if begins and ends else ""


def files_of(folder: Path) -> list[Path]:
    """The files of a merged pipeline, by their paths."""
    return sorted(file for file in folder.rglob("*") if file.is_file())


def is_preview(job: Job) -> bool:
    """Whether a job only looked at what would be published."""
    return job.kind == "push" and "--dry-run" in job.command


def _is_file(path: str) -> bool:
    return path.endswith(".safetensors")


def _one_of(what: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise StudioError(f"expected a {what} ({', '.join(known)}); got {str(value)[:40]!r}.")


def _adapters(entries: Sequence[LibraryEntry], chosen: Sequence[AdapterChoice]) -> list[str]:
    paths = (entry.path for entry in entries)
    return ["--adapters", *paths, "--weights", *(f"{one.strength:g}" for one in chosen)]


def _model(entries: Sequence[LibraryEntry], model: str) -> list[str]:
    """The flag for the base that was checked.

    A file's header names a base, and until the command's turn comes another file may have its
    place: so the base that was allowed is written down. A run's is what it was trained on here.
    """
    if model.startswith("-"):  # The command would take it for one of its options.
        raise StudioError(f"expected a model's name or directory; got {model[:80]!r}.")
    named = {entry.card.model for entry in entries if entry.card is not None}
    has_file = any(entry.kind != "run" for entry in entries)
    if not model and has_file and len(named) > 1:
        raise StudioError(
            f"these adapters were trained on different bases: {', '.join(sorted(named))[:200]}. "
            "Choose adapters of one base, or name a base under Base."
        )
    base = model or (named.pop() if has_file else "")
    return ["--model", base] if base else []


def _precision(precision: str | None) -> list[str]:
    if not precision:
        return []
    _one_of("precision", precision, PRECISIONS)
    return ["--precision", precision]


def _rank(rank: int | None) -> list[str]:
    if not rank:
        return []
    if not 1 <= rank <= MOST_RANK:
        raise StudioError(f"expected a rank of 1 to {MOST_RANK}; got {rank}.")
    return ["--rank", str(int(rank))]
