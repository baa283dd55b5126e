"""`nora-studio inspect`: show what an adapter is, and where it changes the model most."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from nora_studio.adapters.files.adapter_file import AdapterFile, open_adapter
from nora_studio.adapters.files.card import AdapterCard, parse_card
from nora_studio.adapters.files.identify import CARD_KEY
from nora_studio.adapters.files.inspection import (
    BlockFacts,
    LayerFacts,
    facts_of,
    group_by_block,
    layers_of,
    readable_metadata,
)
from nora_studio.adapters.files.seed_reading import read_recipes
from nora_studio.cli.commands.inspect import Options
from nora_studio.cli.opening import open_updates, size_text, title_of
from nora_studio.cli.plot_file import check_plot_file
from nora_studio.errors import StudioError
from nora_studio.runs.tensor_headers import count_numbers

_BAR_LENGTH = 24
_BACKGROUND, _TEXT, _MUTED, _FILL = "#f6f4ef", "#23211e", "#6d675f", "#3d6b99"


def run(options: Options) -> int:
    """Print the facts and the table of blocks; return the exit status."""
    check_plot_file(options.plot)
    console = Console(highlight=False, soft_wrap=True)
    adapter = open_adapter(options.adapter)
    facts, layers, note = (_folder_facts if adapter.is_folder else _file_facts)(adapter)
    if options.metadata:
        facts |= readable_metadata(adapter)
    width = max(map(len, facts))
    for name, value in facts.items():
        console.print(f"[dim]{name:<{width}}[/dim]  {escape(value)}")
    if note:
        console.print(note, markup=False)
    blocks = group_by_block(layers)
    if blocks:
        console.print(_table(blocks))
    if options.plot is not None:
        if not blocks:
            raise StudioError(
                "--plot: there is no table of blocks to draw (see above). Leave --plot out."
            )
        draw_energies(blocks, title_of(adapter.path), options.plot)
        print(options.plot)
    return 0


def _file_facts(adapter: AdapterFile) -> tuple[dict[str, str], list[LayerFacts], str]:
    file, header = adapter.path, adapter.header
    assert header is not None
    layers = layers_of(adapter)
    facts = {"file": f"{file} ({size_text(file)}, {count_numbers(header):,} numbers)"}
    facts["kind"] = str(adapter.identity)
    text = adapter.metadata.get(CARD_KEY)
    if text is not None:
        facts |= _card_facts(parse_card(text, file))
    elif "ss_base_model_version" in adapter.metadata:
        facts["base"] = adapter.metadata["ss_base_model_version"]
    facts["numbers in"] = ", ".join(sorted(set(header.dtypes.values())))
    if adapter.identity.kind == "embedding":
        shapes = header.shapes
        facts["vectors"] = ", ".join(f"{k} {' x '.join(map(str, v))}" for k, v in shapes.items())
    facts |= _rank_facts(layers)
    scales = sorted({layer.scale for layer in layers})
    if scales:
        facts["scale"] = _span([f"{scale:.4g}" for scale in scales])
    if adapter.identity.kind == "seed":
        outer = sorted({recipe.outer_rank for recipe in read_recipes(adapter).values()})
        facts["outer rank"] = _span([str(rank) for rank in outer])
    note = "" if layers else "Its change cannot be measured without its base."
    return facts, layers, note


def _folder_facts(adapter: AdapterFile) -> tuple[dict[str, str], list[LayerFacts], str]:
    folder, card = adapter.path, adapter.card
    size = sum(file.stat().st_size for file in folder.rglob("*.safetensors"))
    facts = {"folder": f"{folder} ({size / 1e6:.1f} MB)"} | _card_facts(card)
    facts |= _settings_facts([adapter.part_settings(part) for part in card.fingerprints])
    if card.task:
        return facts, [], "The table of blocks is only for adapters of SDXL."
    try:
        layers = facts_of(open_updates(adapter, None, None, local_only=True)[1])
    except StudioError as error:
        return facts, [], f"No table of blocks: {error}"
    return facts | _rank_facts(layers), layers, ""


def _card_facts(card: AdapterCard) -> dict[str, str]:
    facts = {
        "method": card.method,
        "task": card.task,
        "base": card.model,
        "parts": ", ".join(card.fingerprints),
        "trained": f"{card.steps:,} steps, seed {card.seed}"
        + (f", {card.resolution} px" if card.resolution else ""),
        "parameters": f"{card.parameters:,}",
        "trigger": card.trigger,
        "new tokens": f"{len(card.tokens)}, with trained embeddings" if card.tokens else "",
        "prompt": card.prompt,
        "licence": card.licence,
        "made by": f"nora-studio {card.version}" if card.version else "",
    }
    return {name: value for name, value in facts.items() if value}


def _settings_facts(configs: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return ranks and scale as the method counts them, from each part's PEFT configuration."""
    facts: dict[str, str] = {}
    for name, key in (("rank", "r"), ("outer rank", "outer_rank")):
        values = [str(config[key]) for config in configs if config.get(key)]
        if values:
            facts[name] = _span(list(dict.fromkeys(values)))
    scales = []
    for config in configs:
        alpha, rank = config.get("lora_alpha", config.get("alpha")), config.get("r")
        if rank and ("lora_alpha" in config or "alpha" in config):
            root = rank**0.5 if config.get("use_rslora") else rank
            scales.append(f"{1.0 if alpha is None else alpha / root:.4g}")
    return facts | ({"scale": _span(list(dict.fromkeys(scales)))} if scales else {})


def _span(values: Sequence[str]) -> str:
    return ", ".join(values) if len(values) < 4 else f"{values[0]} to {values[-1]}"


def _rank_facts(layers: Sequence[LayerFacts]) -> dict[str, str]:
    if not layers:
        return {}
    ranks = sorted({layer.rank for layer in layers})
    total = sum(layer.norm**2 for layer in layers) ** 0.5
    return {
        "layers": f"{len(layers)}, changed by rank {_span([str(rank) for rank in ranks])}",
        "size of the change": f"{total:.4g} (Frobenius norm, all layers)",
    }


def _table(blocks: Sequence[BlockFacts]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("part")
    table.add_column("block")
    for heading in ("layers", "rank", "energy"):
        table.add_column(heading, justify="right")
    table.add_column("")
    total = sum(block.energy for block in blocks) or 1.0
    largest = max(block.energy for block in blocks) or 1.0
    previous_part = None
    for block in blocks:
        ranks = ", ".join(map(str, block.ranks)) if len(block.ranks) < 4 else "various"
        table.add_row(
            escape(block.part) if block.part != previous_part else "",
            escape(block.block),
            str(block.layers),
            ranks,
            f"{block.energy / total:.1%}",
            "█" * round(_BAR_LENGTH * block.energy / largest),
        )
        previous_part = block.part
    return table


def draw_energies(blocks: Sequence[BlockFacts], title: str, file: Path) -> None:
    """Write a chart of the blocks' shares of the energy as a PNG.

    Raises:
        StudioError: the file cannot be written.
    """
    row, left, width, top = 26, 230, 760, 64
    image = Image.new("RGB", (width, top + row * len(blocks) + 20), _BACKGROUND)
    pen = ImageDraw.Draw(image)
    font, small = ImageFont.load_default(18), ImageFont.load_default(14)
    pen.text((20, 16), title, fill=_TEXT, font=font)
    pen.text((20, 40), "share of the squared change of the weights", fill=_MUTED, font=small)
    total = sum(block.energy for block in blocks) or 1.0
    largest = max(block.energy for block in blocks) or 1.0
    for index, block in enumerate(blocks):
        y = top + index * row
        label = f"{block.part} {block.block}".strip()
        pen.text((left - 12, y + 5), label, fill=_TEXT, font=small, anchor="ra")
        length = round((width - left - 90) * block.energy / largest)
        pen.rectangle((left, y + 4, left + max(length, 1), y + row - 4), fill=_FILL)
        share = f"{block.energy / total:.1%}"
        pen.text((left + length + 8, y + 5), share, fill=_MUTED, font=small)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        image.save(file)
    except OSError as error:
        raise StudioError(
            f"--plot: {file} cannot be written: {error.strerror or error}."
        ) from error
