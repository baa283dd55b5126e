"""Options of the commands that work on adapter files, and how one of them is started.

Nothing heavy is imported here: `--help` and a wrong flag should answer at once.
"""

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro

from nora_studio.options.command_line import parse_command


@dataclass(frozen=True)
class ExportOptions:
    """Write an adapter as one .safetensors file.

    kohya and diffusers are LoRA files for other tools: exact for a NoRA, which is a LoRA of twice
    its inner rank. A seed file is NoRA's smallest form; it is read by this project, on the same
    base.
    """

    adapter: tyro.conf.Positional[Path]
    """Run folder, adapter folder, checkpoint, or adapter file."""
    to: Literal["kohya", "diffusers", "seed"] = "kohya"
    """kohya: ComfyUI, A1111, Forge and Kohya's scripts. diffusers: `load_lora_weights`."""
    out: Path | None = None
    """File to write. None: named after the adapter and the format, in the current folder."""
    precision: Literal["fp32", "fp16", "bf16"] | None = None
    """Of the numbers in the file. None: fp16 for a LoRA, fp32 for a seed file."""
    rank: int | None = None
    """Cut the LoRA to this rank, by the closest one; the error is told. None: all of it."""
    model: str | None = None
    """Base model. None: the one it was trained on."""
    title: str | None = None
    """Name that tools show. None: the adapter's own."""
    licence: str | None = None
    """The adapter's licence, as the Hub abbreviates it. None: as its card says."""


@dataclass(frozen=True)
class MergeOptions:
    """Write the base with adapters merged into its weights, as a diffusers directory.

    Any method can be merged; the result needs nothing of this project to be used.
    """

    adapters: tuple[Path, ...]
    """Run folders, adapter folders, checkpoints or adapter files, all for one base."""
    out: Path = Path("merged")
    """Folder to write; it must not exist yet."""
    weights: tuple[float, ...] = ()
    """Factor on each adapter's change, in the same order. None given: 1 for each."""
    model: str | None = None
    """Base model. None: the one they were trained on."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp16"
    """Of the written weights; the sum is made in fp32 and rounded once."""


@dataclass(frozen=True)
class MixOptions:
    """Add several adapters up into one LoRA file; ranks add up, so nothing is lost."""

    adapters: tuple[Path, ...]
    """Run folders, adapter folders, checkpoints or adapter files, all for one base."""
    weights: tuple[float, ...] = ()
    """Factor on each adapter's change, in the same order. None given: 1 for each."""
    to: Literal["kohya", "diffusers"] = "kohya"
    """kohya: ComfyUI, A1111, Forge and Kohya's scripts. diffusers: `load_lora_weights`."""
    out: Path = Path("mix.safetensors")
    """File to write."""
    precision: Literal["fp32", "fp16", "bf16"] = "fp16"
    """Of the numbers in the file."""
    rank: int | None = None
    """Cut the LoRA to this rank, by the closest one; the error is told. None: all of it."""
    model: str | None = None
    """Base model. None: the one they were trained on."""


@dataclass(frozen=True)
class InspectOptions:
    """Tell what an adapter is: ours or another tool's, a folder or a file."""

    adapter: tyro.conf.Positional[Path]
    """Run folder, adapter folder, checkpoint, or any .safetensors file."""
    plot: Path | None = None
    """PNG file for a chart of the energy per block. None: no chart."""
    metadata: bool = False
    """Show the file's readable metadata too."""


@dataclass(frozen=True)
class ExtractOptions:
    """Fit a NoRA to what a fine-tuned model changed, and tell how much of it that is.

    The fit is the least-squares one between the base's leading singular vectors. Raise the outer
    rank where little is reachable, the rank where much is reachable and little captured.
    """

    base: str
    """The untouched model: "embedded", a diffusers directory, or a Hub name."""
    tuned: str
    """The fine-tuned model, of the same shapes."""
    out: Path
    """Adapter folder to write; it must not exist yet."""
    rank: int = 16
    """Inner rank."""
    outer_rank: int = 256
    """Rank of the frozen factors, at most the smallest layer's side."""
    targets: Literal["attention", "attention+feedforward"] = "attention"
    """Which linear layers are adapted."""
    trigger: str = ""
    """The word that the fine-tuned model learned, if it did."""
    prompt: str = ""
    """What it was tuned on, with [V] for the word."""


@dataclass(frozen=True)
class PushOptions:
    """Publish an adapter on the Hugging Face Hub: LoRA files, a page, and the run's pictures.

    The token is read from the environment (HF_TOKEN) and from nowhere else.
    """

    adapter: tyro.conf.Positional[Path]
    """Run folder, adapter folder, checkpoint, or adapter file."""
    repository: tyro.conf.Positional[str]
    """owner/name; made if it does not exist."""
    formats: tuple[Literal["diffusers", "kohya"], ...] = ("diffusers", "kohya")
    """Which LoRA files to publish."""
    precision: Literal["fp32", "fp16", "bf16"] = "fp16"
    """Of the numbers in the files."""
    rank: int | None = None
    """Cut the LoRA to this rank, by the closest one; the error is told. None: all of it."""
    model: str | None = None
    """Base model. None: the one it was trained on."""
    title: str | None = None
    """Name of the adapter. None: its run's."""
    licence: str | None = None
    """Its licence, as the Hub abbreviates it ("openrail++"). None: as its card says."""
    private: bool = False
    """Make a new repository private."""
    dry_run: bool = False
    """Show everything that would be sent, and send nothing."""


FILE_COMMANDS: dict[str, tuple[type, str]] = {
    "export": (
        ExportOptions,
        "write an adapter as one file, for other tools or a seed file",
    ),
    "merge": (MergeOptions, "write a base with adapters in its weights"),
    "mix": (MixOptions, "add several adapters up into one LoRA file"),
    "inspect": (InspectOptions, "tell what an adapter is, and where it changes most"),
    "extract": (ExtractOptions, "fit a NoRA to what a fine-tuned model changed"),
    "push": (PushOptions, "publish an adapter on the Hugging Face Hub"),
}
"""Word -> its options, and one line for the list of commands."""


def run_file_command(word: str, arguments: Sequence[str]) -> int:
    """Parse one command's options, then import and run the module of that name."""
    options: Any = parse_command(
        FILE_COMMANDS[word][0], prog=f"nora-studio {word}", arguments=arguments
    )
    return importlib.import_module(f"nora_studio.cli.{word}").run(options)
