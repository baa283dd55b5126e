"""The embedded models' card, written from their logs alone."""

import json
from pathlib import Path
from typing import Any

from nora_studio.errors import StudioError
from nora_studio.pretrain.export import PIPELINE, SCORER

LOG, RESULTS = "training_log.json", "bars.json"
"""Files in the pipeline's folder that the card is written from."""

WORDS = {
    "kind": "class",
    "place": "place",
    "main_color": "main colour (plain things)",
    "pattern": "pattern (patterned things)",
    "accessory": "accessory (dressed things)",
}


def write_card(assets: Path) -> Path:
    """Write `assets`/README.md from the training log and the measured bars.

    Raises:
        StudioError: A log is missing.
    """
    folder = assets / PIPELINE
    missing = [name for name in (LOG, RESULTS) if not (folder / name).is_file()]
    if missing:
        raise StudioError(
            f"Expected {' and '.join(missing)} in {folder}; train with training/pretrain_mini.py "
            "and measure with evaluation/mini_bars.py first."
        )
    log = json.loads((folder / LOG).read_text(encoding="utf-8"))
    results = json.loads((folder / RESULTS).read_text(encoding="utf-8"))
    card, beside = assets / "README.md", assets / "README.md.part"
    beside.write_text(compose_card(log, results, assets), encoding="utf-8")
    beside.replace(card)
    return card


def compose_card(log: dict[str, Any], results: dict[str, Any], assets: Path) -> str:
    sizes = {name: folder_mebibytes(assets / name) for name in (PIPELINE, SCORER)}
    return "\n".join(
        [
            "# Embedded models",
            "",
            f"`{PIPELINE}/` ({sizes[PIPELINE]:.1f} MiB) is a complete Stable Diffusion XL "
            "pipeline in miniature: two text encoders, VAE, UNet with SDXL's layout and "
            "micro-conditioning, 256 x 256 pixels, float16 safetensors. "
            f"`{SCORER}/` ({sizes[SCORER]:.1f} MiB) is an open_clip model that scores pictures "
            "of the same world. `subjects/` holds photos of things that neither has seen. "
            "All of it was trained from scratch on drawings by `nora_studio.world`; nothing "
            "was downloaded and no photograph or other person's work went in.",
            "",
            "```python",
            f'pipe = StableDiffusionXLPipeline.from_pretrained("assets/{PIPELINE}")',
            f'name = "local-dir:assets/{SCORER}"',
            "clip, _, preprocess = open_clip.create_model_and_transforms(name)",
            "tokenize = open_clip.get_tokenizer(name)",
            "```",
            "",
            "## Training",
            "",
            *training_table(log),
            "",
            "## How good",
            "",
            *results_table(results),
            "",
            "## What they cannot do",
            "",
            "They know one toy world: its classes, colours, patterns, places and a few "
            "accessories, one thing a picture, seen from the front. They draw no people, no "
            "text, no second object, and nothing outside that vocabulary. The scoring model "
            "judges that world alone; its figures compare with one another, not with those of "
            "other CLIP models.",
            "",
            "## Rebuild",
            "",
            "```",
            "python training/pretrain_mini.py --out assets",
            "python evaluation/mini_bars.py --assets assets",
            "```",
            "",
        ]
    )


def training_table(log: dict[str, Any]) -> list[str]:
    vae, clip, unet = log["vae"], log["contrastive"], log["denoiser"]
    encoders, last = log["encoders_run"], log["unet_run"]
    text = clip["parameters"]
    retrieval = clip["retrieval"]
    rows = [
        (
            "VAE",
            vae["parameters"],
            vae,
            f"PSNR {vae['psnr_held_out']:.1f} dB on held-out pictures",
        ),
        (
            "text encoders, scoring CLIP",
            sum(text.values()),
            clip,
            f"of {clip['held_out']} held-out pictures, {100 * retrieval['clip_r1']:.0f}% found "
            "first by their full caption",
        ),
        ("UNet", unet["parameters"], unet, f"loss {unet['final_loss']:.4f}"),
    ]
    lines = [
        "| part | parameters | steps | batch | seconds | result |",
        "|---|---|---|---|---|---|",
    ]
    for name, parameters, facts, result in rows:
        lines.append(
            f"| {name} | {parameters:,} | {facts['steps']:,} | {facts['batch']:,} "
            f"| {facts['seconds']:.0f} | {result} |"
        )
    runs = [
        f"{title}: {run['pictures']:,} pictures, {run['total_seconds']:.0f} s in all on "
        f"{run['device']}, torch {run['torch']}" + peak_memory(run)
        for title, run in (("Encoders", encoders), ("UNet", last))
    ]
    return [*lines, "", *[f"{run}. " for run in runs]]


def peak_memory(run: dict[str, Any]) -> str:
    return f", {run['peak_gib']:.1f} GiB at most" if run.get("peak_gib") else ""


def results_table(results: dict[str, Any]) -> list[str]:
    drawn, ceiling, bars = results["drawn"], results["ceiling"], results["bars"]
    lines = [
        f"{results['prompts']} prompts, {results['steps']} steps, guidance "
        f"{results['guidance']:g}, judged by the scoring CLIP; the ceiling is what it says of "
        "real renders of the same scenes.",
        "",
        "| what | drawn | ceiling | bar |",
        "|---|---|---|---|",
    ]
    for name, words in WORDS.items():
        bar = f"{bars[name]:.2f}" if name in bars else ""
        if drawn[name] is not None:
            lines.append(f"| {words} | {drawn[name]:.3f} | {ceiling[name]:.3f} | {bar} |")
    lines.append(f"| VAE PSNR, dB | {drawn['psnr']:.1f} | | {bars['psnr']:.0f} |")
    missed = [name for name, passed in results["passed"].items() if not passed]
    verdict = f"Below the bar: {', '.join(missed)}." if missed else "Every bar is met."
    return [*lines, "", verdict]


def folder_mebibytes(folder: Path) -> float:
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()) / 2**20
