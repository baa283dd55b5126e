"""`nora-studio export`: one adapter as a single file, for this project or for other tools."""

from dataclasses import replace
from pathlib import Path

from nora_studio.adapters.files.adapter_file import embeddings_beside
from nora_studio.adapters.files.card import AdapterCard, without_local_path
from nora_studio.adapters.files.embeddings import diffusers_lines, write_embeddings
from nora_studio.adapters.files.metadata import portable_metadata
from nora_studio.adapters.files.portable import DTYPES, write_portable
from nora_studio.adapters.files.seed import write_seed
from nora_studio.adapters.files.updates import Updates, error_of, with_rank
from nora_studio.adapters.new_tokens import NewTokens
from nora_studio.cli.commands.export import Options
from nora_studio.cli.opening import (
    AdapterOnBase,
    check_out_file,
    check_rank,
    open_on_base,
    open_updates,
    size_text,
    title_of,
)
from nora_studio.errors import StudioError


def run(options: Options) -> int:
    """Write the file and say what is in it."""
    check_rank(options.rank)
    title = options.title or title_of(options.adapter)
    out = check_out_file(options.out or Path(f"{title}-{options.to}.safetensors"))
    if options.to == "seed":
        return _export_seed(options, out)
    opened, updates = open_updates(options.adapter, options.model, options.rank)
    opened = replace(opened, card=_licensed(opened, options.licence))
    tokens = opened.adapter.new_tokens()
    precision = options.precision or "fp16"
    write_lora(out, opened, updates, options.to, precision, options.rank, title, tokens=tokens)
    return 0


def write_lora(
    out: Path,
    opened: AdapterOnBase,
    updates: Updates,
    style: str,
    precision: str,
    rank: int | None,
    title: str,
    label: str = "",
    tokens: NewTokens | None = None,
) -> None:
    """Write updates as a portable LoRA and print its size, ranks and errors.

    Args:
        label: What to call the file in print; empty: its path.
        tokens: New tokens; they are written beside, and how they are used is told.
    """
    settled = with_rank(updates, rank)
    ranks = {part: next(iter(layers.values())).rank for part, layers in settled.items()}
    cut = error_of(settled, updates)
    is_cut = cut.overall > 1e-6
    note = f"LoRA of rank {max(ranks.values())}"
    note += f", cut to it with an error of {cut}" if is_cut else ", exact but for rounding"
    # Kohya's tools call new tokens by their file's name.
    called = embeddings_beside(out).stem if tokens is not None and style == "kohya" else None
    metadata = portable_metadata(
        opened.card, title, ranks, style == "kohya", opened.full_sdxl, note, called
    )
    written = write_portable(out, settled, opened.names, style, DTYPES[precision], metadata)
    layers = sum(len(names) for names in settled.values())
    told = ", ".join(f"{part} rank {rank}" for part, rank in ranks.items())
    print(f"{label or out}: {size_text(out)}, {layers} layers, {told}")
    if is_cut:
        print(f"  error of the lower rank: {cut}")
    print(f"  error of rounding to {precision}: {error_of(written, settled)}")
    if tokens is not None:
        _write_tokens(embeddings_beside(out), opened, tokens, style)


def _write_tokens(file: Path, opened: AdapterOnBase, tokens: NewTokens, style: str) -> None:
    """Write new tokens beside a portable LoRA, and tell how its tools take them.

    Not into Kohya's file too (A1111's `bundle_emb`): diffusers refuses one that holds them.
    """
    write_embeddings(file, tokens, without_local_path(opened.card))
    print(f"{file}: {size_text(file)}, the new tokens {tokens.trigger} that it needs")
    if style == "kohya":
        name = file.stem
        print("  put it into embeddings/ (A1111, Forge) or models/embeddings/ (ComfyUI) and write")
        print(f"  {name} (ComfyUI: embedding:{name}) where the subject goes")
        return
    print("  after `load_lora_weights`:")
    for line in diffusers_lines(repr(str(file)), tokens.words):
        print(f"    {line}")


def _export_seed(options: Options, out: Path) -> int:
    if options.rank is not None:
        raise StudioError("--rank: a seed file keeps the trained ranks. Leave it out.")
    if options.title is not None:
        raise StudioError("--title: a seed file has none. Leave it out.")
    opened = open_on_base(options.adapter, options.model, weights=True)
    card = _licensed(opened, options.licence)
    tokens = opened.adapter.new_tokens()
    report = write_seed(out, opened.parts, card, options.precision or "fp32", tokens)
    print(f"{out}: {size_text(out)}, regenerates from {card.model}")
    if tokens is not None:
        print(f"  with the new tokens {tokens.trigger}")
    print(f"  largest error of a layer when regenerated: {report.regeneration:.1g}")
    if report.rounding:
        print(f"  largest error of a layer by {options.precision}: {report.rounding:.1g}")
    return 0


def _licensed(opened: AdapterOnBase, licence: str | None) -> AdapterCard:
    return opened.card if licence is None else replace(opened.card, licence=licence)
