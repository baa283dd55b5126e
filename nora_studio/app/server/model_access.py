"""The models that visitors may load: one check for every field that names a model."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import constants
from huggingface_hub.file_download import repo_folder_name

from nora_studio.app.server.workspace import HUB_NAME
from nora_studio.errors import StudioError
from nora_studio.mini.assets import EMBEDDED

JUDGE_NAME = re.compile(r"[\w-]{1,60}:[\w-]{1,60}")
"""A judge's name in open_clip: ViT-B-32:openai."""


@dataclass(frozen=True)
class ModelAccess:
    """The owner's list of models; any model if the owner uses the studio alone without a list."""

    home: Path
    """The studio's data folder; no model in it may be named, since it holds visitors' files."""
    folders: tuple[Path, ...] = ()
    """Folders whose model directories are allowed."""
    names: frozenset[str] = frozenset()
    """Allowed Hub names and judges' names."""
    takes_any: bool = False

    @classmethod
    def from_list(cls, home: Path, listed: Sequence[str], owner_only: bool) -> "ModelAccess":
        """Return the access that an owner's list grants.

        Args:
            listed: Folders, Hub names (owner/name, hf-hub:owner/name) and ARCHITECTURE:WEIGHTS.
            owner_only: Whether only the owner reaches the studio. Without a list they may load
                anything; on any other studio a Hub name must be in the Hub's cache.

        Raises:
            StudioError: an entry is none of these, or must be in the cache and is not.
        """
        folders, names = [], set()
        for entry in listed:
            folder = Path(entry).expanduser()
            if folder.is_dir():
                folders.append(folder.resolve())
            elif _is_name(entry):
                if not owner_only and not is_cached(entry):
                    raise StudioError(
                        f"--models {entry}: not on this machine, and visitors' jobs download "
                        f"nothing. Fetch it once with your own login: hf download "
                        f"{entry.removeprefix('hf-hub:')}"
                    )
                names.add(entry)
            else:
                raise StudioError(
                    f"--models: expected a folder, a Hub name (owner/name) or a judge such as "
                    f"ViT-B-32:openai; got {entry!r}, which is none of these."
                )
        return cls(home, tuple(folders), frozenset(names), owner_only and not listed)

    def is_allowed(self, name: str) -> bool:
        """Return whether a model's name or directory may be loaded."""
        if name == EMBEDDED:
            return True
        try:
            folder = Path(name).expanduser()
            # A job runs in its visitor's folder, where a relative path is another directory.
            if not folder.is_absolute():
                return name in self.names or (self.takes_any and _is_name(name))
            place = folder.resolve()
            is_own = place.is_relative_to(self.home.resolve())
            if is_own or not place.is_dir():
                return False
        # The path is too long, contains NUL, or names an unknown user.
        except (OSError, ValueError, RuntimeError):
            return False
        return self.takes_any or any(place.is_relative_to(allowed) for allowed in self.folders)

    def check(self, name: str, what: str = "--model", takes_embedded: bool = True) -> None:
        """Refuse a model that may not be loaded.

        Args:
            what: The option or field that names it, for the message.
            takes_embedded: Whether the embedded model is allowed here.

        Raises:
            StudioError: it may not be loaded; the error names the models that may.
        """
        if self.is_allowed(name) and (takes_embedded or name != EMBEDDED):
            return
        own = [f"{EMBEDDED!r}"] if takes_embedded else []
        if self.takes_any:
            known = [*own, "a Hub name (owner/name)", "a directory by its whole path"]
        else:
            listed = ["a directory in the owner's folders"] if self.folders else []
            known = [*own, *sorted(self.names), *listed]
        raise StudioError(
            f"{what}: expected {', or '.join(known) or 'none: the owner has listed no model'}; got "
            f"{name[:80]!r}."
        )


def is_cached(name: str) -> bool:
    """Return whether a Hub name is in the cache; ARCHITECTURE:WEIGHTS is not checked."""
    if not HUB_NAME.fullmatch(name.removeprefix("hf-hub:")):
        return True
    folder = repo_folder_name(repo_id=name.removeprefix("hf-hub:"), repo_type="model")
    snapshots = Path(constants.HF_HUB_CACHE) / folder / "snapshots"
    return snapshots.is_dir() and any(snapshots.iterdir())


def _is_name(name: str) -> bool:
    if name.startswith("-"):  # A command would read it as an option.
        return False
    return bool(HUB_NAME.fullmatch(name.removeprefix("hf-hub:")) or JUDGE_NAME.fullmatch(name))
