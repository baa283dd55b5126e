"""`nora-studio export`: write one adapter as a single file, for other tools or this project."""

from dataclasses import replace
from pathlib import Path

from nora_studio.adapters.files.adapter_file import embeddings_path
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
    """Write the file, print what is in it, and return the exit status."""
    check_rank(options.rank)
    title = options.title or title_of(options.adapter)
    out = check_out_file(options.out or Path(f"{title}-{options.to}.safetensors"))
    if options.to == "seed":
        return _export_seed_file(options, out)
    opened, updates = open_updates(options.adapter, options.model, options.rank)
    opened = replace(opened, card=_with_licence(opened, options.licence))
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
        label: The file's name in the printed lines; empty: its path.
        tokens: New tokens, written to a file next to it; how to use them is printed.
    """
    reduced = with_rank(updates, rank)
    ranks = {part: next(iter(layers.values())).rank for part, layers in reduced.items()}
    rank_error = error_of(reduced, updates)
    is_reduced = rank_error.overall > 1e-6
    note = f"LoRA of rank {max(ranks.values())}"
    note += (
        f", reduced to it with an error of {rank_error}" if is_reduced else ", exact up to rounding"
    )
    # Kohya's tools refer to new tokens by their file's name.
    word = embeddings_path(out).stem if tokens is not None and style == "kohya" else None
    metadata = portable_metadata(
        opened.card, title, ranks, style == "kohya", opened.full_sdxl, note, word
    )
    written = write_portable(out, reduced, opened.names, style, DTYPES[precision], metadata)
    layers = sum(len(names) for names in reduced.values())
    part_ranks = ", ".join(f"{part} rank {rank}" for part, rank in ranks.items())
    print(f"{label or out}: {size_text(out)}, {layers} layers, {part_ranks}")
    if is_reduced:
        print(f"  error from reducing the rank: {rank_error}")
    print(f"  error from rounding to {precision}: {error_of(written, reduced)}")
    if tokens is not None:
        _write_tokens(embeddings_path(out), opened, tokens, style)


def _write_tokens(file: Path, opened: AdapterOnBase, tokens: NewTokens, style: str) -> None:
    """Write new tokens to a file next to a portable LoRA, and print how to use them.

    They are not put into Kohya's file as well (A1111's `bundle_emb`): diffusers refuses a LoRA file
    that holds embeddings.
    """
    write_embeddings(file, tokens, without_local_path(opened.card))
    print(f"{file}: {size_text(file)}, the new tokens {tokens.trigger}, which the LoRA needs")
    if style == "kohya":
        name = file.stem
        print("  Put it into embeddings/ (A1111, Forge) or models/embeddings/ (ComfyUI), and write")
        print(f"  {name} (ComfyUI: embedding:{name}) in prompts where the subject is meant.")
        return
    print("  After `load_lora_weights`:")
    for line in diffusers_lines(repr(str(file)), tokens.words):
        print(f"    {line}")


def _export_seed_file(options: Options, out: Path) -> int:
    if options.rank is not None:
        raise StudioError("--rank: a seed file keeps the trained ranks. Leave --rank out.")
    if options.title is not None:
        raise StudioError("--title: a seed file has no title. Leave --title out.")
    opened = open_on_base(options.adapter, options.model, weights=True)
    card = _with_licence(opened, options.licence)
    tokens = opened.adapter.new_tokens()
    report = write_seed(out, opened.parts, card, options.precision or "fp32", tokens)
    print(f"{out}: {size_text(out)}, its frozen factors are regenerated from {card.model}")
    if tokens is not None:
        print(f"  with the new tokens {tokens.trigger}")
    print(f"  largest error of a layer when regenerated: {report.regeneration:.1g}")
    if report.rounding:
        print(
            f"  largest error of a layer by rounding to {options.precision}: {report.rounding:.1g}"
        )
    return 0


def _with_licence(opened: AdapterOnBase, licence: str | None) -> AdapterCard:
    return opened.card if licence is None else replace(opened.card, licence=licence)
