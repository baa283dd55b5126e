"""Open an adapter on its base, or on the base's shapes alone if no weights are needed."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from torch import nn

from nora_studio.adapters.files.adapter_file import AdapterFile, open_subject_adapter
from nora_studio.adapters.files.adapter_folders import load_adapter
from nora_studio.adapters.files.card import AdapterCard, is_hub_name
from nora_studio.adapters.files.metadata import is_full_sdxl
from nora_studio.adapters.files.names import LayerNames
from nora_studio.adapters.files.peft_settings import WEIGHTS
from nora_studio.adapters.files.updates import Updates, is_exact, read_updates
from nora_studio.adapters.methods.attachment import detach
from nora_studio.adapters.methods.peft_tuners import tuner_layers
from nora_studio.adapters.methods.table import METHOD_NAMES
from nora_studio.errors import StudioError
from nora_studio.mini.assets import EMBEDDED
from nora_studio.sdxl.models import PARTS, load_sdxl, parts_of
from nora_studio.sdxl.shapes import shapes_of

SDXL_BASE = "stabilityai/stable-diffusion-xl-base-1.0"
_TRAINED_DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16}


@dataclass(frozen=True)
class AdapterOnBase:
    """An adapter on its base's modules."""

    adapter: AdapterFile
    card: AdapterCard
    """The adapter's card, with the base's name filled in."""
    parts: dict[str, nn.Module]

    @property
    def names(self) -> LayerNames:
        """The layers' names in the formats of other tools."""
        return LayerNames(self.parts)

    @property
    def full_sdxl(self) -> bool:
        """Whether the base has the shapes of SDXL itself, not of a miniature."""
        return is_full_sdxl(self.parts["unet"])


def skeleton(model: str, local_only: bool = False) -> dict[str, nn.Module]:
    """Return a base's modules on the meta device: layers and shapes without weights.

    Args:
        model: "embedded", a diffusers directory, or a Hub name, of which only the configurations
            are downloaded.
        local_only: Do not access the Hub.

    Raises:
        StudioError: `model` is none of these, or is not an SDXL pipeline.
    """
    if model == EMBEDDED or Path(model).expanduser().is_dir():
        source = model
    elif model == SDXL_BASE:
        source = "sdxl"  # Its shapes come with this package.
    elif is_hub_name(model):
        source = _fetch_configs(model, local_only)
    else:
        raise StudioError(
            f"--model: expected 'embedded', a diffusers directory or a Hub name (owner/name); got "
            f"{model!r}, and no such directory exists. Check the path."
        )
    parts = shapes_of(source)
    if set(parts) != set(PARTS):
        raise StudioError(
            f"--model: expected an SDXL pipeline with {', '.join(PARTS)}; {model} has "
            f"{', '.join(parts)}."
        )
    for module in parts.values():
        module.requires_grad_(False).eval()
    return parts


def _fetch_configs(model: str, local_only: bool) -> str:
    try:
        return snapshot_download(
            model,
            allow_patterns=[f"{part}/config.json" for part in PARTS],
            local_files_only=local_only,
        )
    except (OSError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise StudioError(
            f"--model: {model} cannot be downloaded from the Hub: {reason.rstrip('.')}. Check the "
            "name and the connection."
        ) from error


def base_of(adapter: AdapterFile, model: str | None) -> AdapterCard:
    """Return the adapter's card with the base to use: `model`, or the one it was trained on.

    Raises:
        StudioError: `model` is None and the card names no base.
    """
    name = model or adapter.card.model
    if not name:
        raise StudioError(
            f"--model: {adapter.path} does not name the base it was trained on. Name it with "
            "--model."
        )
    return replace(adapter.card, model=name)


def open_on_base(
    path: Path | AdapterFile,
    model: str | None = None,
    weights: bool = False,
    local_only: bool = False,
) -> AdapterOnBase:
    """Load an adapter onto a skeleton of its base, or onto the base itself if that is needed.

    Args:
        model: Base model. None: the one the adapter was trained on.
        weights: Whether the caller needs the base's weights; they are loaded in any case for
            formats and methods that need them.
        local_only: Neither download a base's shapes nor load its weights.

    Raises:
        StudioError: the adapter or its base cannot be read, or they do not belong together.
    """
    adapter = open_subject_adapter(path)
    card = base_of(adapter, model)
    if not (weights or adapter.identity.kind == "seed"):
        parts = skeleton(card.model, local_only)
        load_adapter(adapter, parts)
        layers = [layer for module in parts.values() for layer in tuner_layers(module).values()]
        if all(is_exact(layer) for layer in layers):
            return AdapterOnBase(adapter, card, parts)
        if local_only:
            title = METHOD_NAMES.get(card.method, card.method)
            raise StudioError(
                f"measuring an adapter of {title} needs its base's weights, which inspect does not "
                "load."
            )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    parts = parts_of(load_sdxl(card.model, _trained_dtype(adapter), device))
    load_adapter(adapter, parts)
    return AdapterOnBase(adapter, card, parts)


def _trained_dtype(adapter: AdapterFile) -> torch.dtype:
    """Return the dtype of the base in training, which the frozen factors have; else float32."""
    for file in adapter.path.glob(f"*/{WEIGHTS}") if adapter.is_folder else ():
        for name, dtype in adapter.header_of(file).dtypes.items():
            if name.endswith(".nora_up"):
                return _TRAINED_DTYPES.get(dtype, torch.float32)
    return torch.float32


def open_updates(
    path: Path | AdapterFile, model: str | None, rank: int | None, local_only: bool = False
) -> tuple[AdapterOnBase, Updates]:
    """Open an adapter, read its change of every layer, and remove it from the base.

    Raises:
        StudioError: for the same reasons as `open_on_base`, or the method needs a rank
            (`updates.read_updates`).
    """
    opened = open_on_base(path, model, local_only=local_only)
    updates = read_updates(opened.parts, rank)
    for module in opened.parts.values():
        detach(module)
    return opened, updates


def check_rank(rank: int | None) -> None:
    """Refuse a rank below 1."""
    if rank is not None and rank < 1:
        raise StudioError(f"--rank: expected 1 or more; got {rank}.")


def check_out_file(out: Path) -> Path:
    """Refuse a name for an adapter file that does not end with .safetensors."""
    out = Path(out).expanduser()
    if out.suffix.lower() != ".safetensors" or out.is_dir():
        raise StudioError(f"--out: expected a file name that ends with .safetensors; got {out}.")
    return out


def check_out_folder(out: Path) -> Path:
    """Refuse a folder that is not empty, since it would be replaced."""
    out = Path(out).expanduser()
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise StudioError(
            f"--out: expected a new or empty folder; {out} exists. Choose another name."
        )
    return out


def size_text(file: Path) -> str:
    """Format a file's size as kB or MB."""
    size = file.stat().st_size
    return f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{size / 1e3:.0f} kB"


def title_of(path: Path) -> str:
    """Return a title for an adapter: the name of its run, or of its file."""
    resolved = Path(path).resolve()
    if resolved.is_file():
        return resolved.stem
    names = [folder.name for folder in (resolved, *resolved.parents)]
    if names[0] == "adapter":
        return names[1]
    if names[0].startswith("step-") and names[1] == "checkpoints":
        return f"{names[2]}-{names[0]}"
    return names[0]
