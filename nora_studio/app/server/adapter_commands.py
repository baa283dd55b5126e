"""Commands of the Adapters page, as a person would type them in the visitor's folder."""

import re
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from nora_studio.app.server.image_requests import AdapterChoice
from nora_studio.app.server.library import LibraryEntry, find_entry
from nora_studio.app.server.limits import MAX_MIXED, MAX_RANK
from nora_studio.app.server.workspace import HUB_NAME, Workspace, check_name, safe_name
from nora_studio.errors import StudioError
from nora_studio.mini.assets import EMBEDDED, embedded

KINDS = ("export", "mix", "merge", "push", "inspect")
FORMATS = ("kohya", "diffusers", "seed")
PRECISIONS = ("fp16", "bf16", "fp32")
MAX_STRENGTH = 4.0
MERGED = "merged"
"""Folder of merged pipelines in a workspace."""
SDXL_BYTES = 6_900_000_000
"""SDXL's 3.47 billion parameters in half precision."""
_LICENCE = re.compile(r"[a-z0-9][a-z0-9.+-]{0,39}")


@dataclass(frozen=True)
class AdapterCommand:
    """A command, ready for the queue."""

    kind: str
    """One of `KINDS`."""
    title: str
    """Shown in the list of commands."""
    arguments: tuple[str, ...]
    """Arguments after `nora-studio`."""
    writes: int = 0
    """Lower bound of the bytes that it writes; 0 if they are few."""

    @property
    def argv(self) -> list[str]:
        """The process's argument list, run by this Python."""
        return [sys.executable, "-m", "nora_studio.cli", *self.arguments]

    @property
    def shown(self) -> str:
        """The command as a person would type it."""
        return shlex.join(["nora-studio", *self.arguments])

    def without_dry_run(self) -> "AdapterCommand":
        """Return the command that publishes, instead of only showing what it would send."""
        arguments = tuple(word for word in self.arguments if word != "--dry-run")
        return replace(self, arguments=arguments)


def free_name(workspace: Workspace, folder: str, name: str, suffix: str = "") -> str:
    """Return the name, with a number appended if a file or folder has it already."""
    stem, number, free = safe_name(name, "adapter"), 1, safe_name(name, "adapter")
    while (workspace.folder / folder / f"{free}{suffix}").exists():
        number += 1
        free = f"{stem[:44].rstrip('-')}-{number}"
    return free


@dataclass(frozen=True)
class AdapterCommandBuilder:
    """A builder of a visitor's commands; names and numbers from a page are not trusted."""

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
    ) -> AdapterCommand:
        """Convert one adapter to another file format.

        Args:
            name: The file's name without its suffix; empty: named after the adapter and format.
            model: The base; empty: the one it was trained on.

        Raises:
            StudioError: there is no such adapter, or a value is not allowed.
        """
        entry = self._usable(path, model)
        _check_choice("format", to, FORMATS)
        title = re.sub(rf"-({'|'.join(FORMATS)})$", "", entry.title)
        stem = check_name(name) if name else safe_name(f"{title}-{to}")
        stem = free_name(self.workspace, "adapters", stem, ".safetensors")
        arguments = ["export", entry.path, "--to", to, "--out", f"adapters/{stem}.safetensors"]
        arguments += _precision_arguments(precision)
        arguments += _rank_arguments(rank) if to != "seed" else []
        arguments += _model_arguments([entry], model)
        return AdapterCommand("export", stem, tuple(arguments))

    def mix(
        self,
        chosen: Sequence[AdapterChoice],
        name: str,
        to: str = "kohya",
        precision: str | None = None,
        rank: int | None = None,
        model: str = "",
    ) -> AdapterCommand:
        """Add several adapters up into one file.

        Raises:
            StudioError: fewer than two are chosen, or a value is not allowed.
        """
        if len(chosen) < 2:
            raise StudioError(
                f"a mix needs two adapters or more; got {len(chosen)}. Choose at least two."
            )
        _check_choice("format", to, FORMATS[:2])
        stem = free_name(self.workspace, "adapters", check_name(name), ".safetensors")
        entries = self._entries(chosen, model)
        arguments = ["mix", *_adapter_arguments(entries, chosen), "--to", to]
        arguments += [
            "--out",
            f"adapters/{stem}.safetensors",
            *_precision_arguments(precision),
            *_rank_arguments(rank),
        ]
        arguments += _model_arguments(entries, model)
        return AdapterCommand("mix", stem, tuple(arguments))

    def merge(
        self,
        chosen: Sequence[AdapterChoice],
        name: str,
        precision: str | None = None,
        model: str = "",
    ) -> AdapterCommand:
        """Merge adapters into the weights of a whole pipeline.

        Raises:
            StudioError: none is chosen, or a value is not allowed.
        """
        if not chosen:
            raise StudioError("no adapter is chosen. Choose one first.")
        stem = free_name(self.workspace, MERGED, check_name(name))
        entries = self._entries(chosen, model)
        arguments = ["merge", *_adapter_arguments(entries, chosen), "--out", f"{MERGED}/{stem}"]
        arguments += [*_precision_arguments(precision), *_model_arguments(entries, model)]
        base = model or (entries[0].card.model if entries[0].card is not None else "")
        return AdapterCommand("merge", stem, tuple(arguments), pipeline_bytes(base))

    def push(
        self,
        path: str,
        repository: str,
        licence: str = "",
        private: bool = True,
        dry_run: bool = True,
        model: str = "",
    ) -> AdapterCommand:
        """Publish one adapter on the Hub, or show what would be sent.

        Raises:
            StudioError: there is no such adapter, or a value is not allowed.
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
        arguments += _model_arguments([entry], model)
        arguments += ["--private"] if private else []
        arguments += ["--dry-run"] if dry_run else []
        return AdapterCommand("push", repository, tuple(arguments))

    def inspect(self, path: str) -> AdapterCommand:
        """Describe an adapter, and which layers it changes most.

        Raises:
            StudioError: there is no such adapter.
        """
        entry = find_entry(self.workspace, path)
        arguments = ["inspect", entry.path]
        return AdapterCommand(
            "inspect",
            entry.title,
            (*arguments, *(["--metadata"] if _names_tensor_file(path) else [])),
        )

    def _usable(self, path: str, model: str) -> LibraryEntry:
        entry = find_entry(self.workspace, path)
        if entry.card is None:
            raise StudioError(f"{entry.title} cannot be used: {entry.problem}")
        base = model or entry.card.model
        if not base:
            raise StudioError(f"{entry.title} does not name its base. Choose one under Base.")
        if not self.is_model_allowed(base):
            problem = f"{base[:80]!r} cannot be loaded here"
            if not model:
                problem = f"{entry.title} was trained on {base[:80]!r}, which cannot be loaded here"
            raise StudioError(f"{problem}. Choose another base under Base.")
        self.workspace.check_model(base)
        return entry

    def _entries(self, chosen: Sequence[AdapterChoice], model: str) -> list[LibraryEntry]:
        if len(chosen) > MAX_MIXED:
            raise StudioError(
                f"at most {MAX_MIXED} adapters can be combined; got {len(chosen)}. Remove some."
            )
        if len({one.path for one in chosen}) < len(chosen):
            raise StudioError("an adapter is chosen twice. Raise its strength instead.")
        for one in chosen:
            if not 0 <= one.strength <= MAX_STRENGTH:
                raise StudioError(
                    f"expected a strength of 0 to {MAX_STRENGTH:g}; got {one.strength:g}."
                )
        return [self._usable(one.path, model) for one in chosen]


def pipeline_bytes(model: str) -> int:
    """Return a lower bound of a merged pipeline's size: half of a local base's."""
    folder = embedded("mini-sdxl") if model == EMBEDDED else Path(model).expanduser()
    if folder.is_dir():
        return sum(file.stat().st_size for file in folder.rglob("*.safetensors")) // 2
    return SDXL_BYTES


def _names_tensor_file(path: str) -> bool:
    return path.endswith(".safetensors")


def _check_choice(what: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise StudioError(f"expected a {what} ({', '.join(known)}); got {str(value)[:40]!r}.")


def _adapter_arguments(
    entries: Sequence[LibraryEntry], chosen: Sequence[AdapterChoice]
) -> list[str]:
    paths = (entry.path for entry in entries)
    return ["--adapters", *paths, "--weights", *(f"{one.strength:g}" for one in chosen)]


def _model_arguments(entries: Sequence[LibraryEntry], model: str) -> list[str]:
    """Return the flag for the base that was checked.

    A file's header names a base, and another file may replace it before the command runs, so the
    allowed base is written into the command. A run's base needs no check: it was trained here.
    """
    if model.startswith("-"):  # The command would read it as an option.
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


def _precision_arguments(precision: str | None) -> list[str]:
    if not precision:
        return []
    _check_choice("precision", precision, PRECISIONS)
    return ["--precision", precision]


def _rank_arguments(rank: int | None) -> list[str]:
    if not rank:
        return []
    if not 1 <= rank <= MAX_RANK:
        raise StudioError(f"expected a rank of 1 to {MAX_RANK}; got {rank}.")
    return ["--rank", str(int(rank))]
