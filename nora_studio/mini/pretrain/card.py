"""The card of the embedded models, written from their logs."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from nora_studio.errors import StudioError
from nora_studio.mini.pretrain.architecture import (
    CONTEXT_WIDTH,
    IMAGE_SIZE,
    LATENT_CHANNELS,
    LATENT_SIZE,
    POOLED_WIDTH,
)
from nora_studio.mini.pretrain.export import LOG, PIPELINE, RESULTS, SCORER
from nora_studio.mini.pretrain.settings import Settings
from nora_studio.mini.pretrain.tokenizer import CONTEXT_LENGTH

PIXEL_BYTES = 3 * IMAGE_SIZE**2
TRUSTED_CEILING = 0.8
"""Below this share of correct answers on real renders, a figure says little about the images."""
SHARED = ("pictures", "captions", "seed")
ENCODERS = (*SHARED, "vae_seconds", "clip_seconds", "vae_batch", "clip_batch")
UNET = (*SHARED, "unet_seconds", "unet_batch")
"""Settings that change a stage's result."""

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
            f"{folder} lacks {' and '.join(missing)}. Train with training/pretrain_mini.py and "
            "measure with evaluation/mini_bars.py first."
        )
    log = json.loads((folder / LOG).read_text(encoding="utf-8"))
    results = json.loads((folder / RESULTS).read_text(encoding="utf-8"))
    card, temporary = assets / "README.md", assets / "README.md.part"
    temporary.write_text(compose_card(log, results, assets), encoding="utf-8")
    temporary.replace(card)
    return card


def compose_card(log: dict[str, Any], results: dict[str, Any], assets: Path) -> str:
    """Return the text of the embedded models' card."""
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
            "`mini-llama/` is a LLaMA of the same kind, with [a card of its own]"
            "(mini-llama/README.md); `table1/`, `table2/` and `sweep/` hold what was measured. "
            "All of it was trained from scratch, on drawings by `nora_studio.mini.world` and texts "
            "by `nora_studio.mini.everyday`; nothing was downloaded and no photograph or other "
            "person's work went in.",
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
            *limits(log, results),
            "",
            "## Rebuild",
            "",
            *rebuilding(log),
            "",
        ]
    )


def training_table(log: dict[str, Any]) -> list[str]:
    """Return the table of the trained parts, as lines of Markdown."""
    vae, clip, encoders = log["vae"], log["contrastive"], log["encoders_run"]
    unets = unet_runs(log)
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
        *(
            (title, unet["parameters"], unet, f"loss {unet['final_loss']:.4f}")
            for title, unet, _ in unets
        ),
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
        f"{title}: {run['pictures']:,} pictures, {run['total_seconds']:.0f} s in all on one "
        f"{run['device']}, torch {run['torch']}" + peak_memory(run)
        for title, run in (("Encoders", encoders), *((name, run) for name, _, run in unets))
    ]
    return [*lines, "", *[f"- {run}." for run in runs]]


def unet_runs(log: dict[str, Any]) -> list[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Return a name, the figures and the run of each training of the UNet, in order."""
    runs = [*log.get("unet_before", []), {name: log[name] for name in ("denoiser", "unet_run")}]
    return [
        ("UNet, continued" if run["denoiser"]["is_continued"] else "UNet", *run.values())
        for run in runs
    ]


def limits(log: dict[str, Any], results: dict[str, Any]) -> list[str]:
    """Describe what the models cannot do, as lines of Markdown."""
    text = [
        "They know one toy world: its classes, colours, patterns, places and a few accessories, "
        "one thing a picture, seen from the front. They draw no people, no text, no second "
        "object, and nothing outside that vocabulary. The scoring model judges that world alone; "
        "its figures compare with one another, not with those of other CLIP models."
    ]
    ceiling = results["ceiling"]["pattern"]
    if ceiling is None or ceiling >= TRUSTED_CEILING:
        return text
    head = log["contrastive"]["attribute_accuracy"]["pattern"]
    return [
        *text,
        "",
        "The scoring model is weak at patterns. It sees that a thing is patterned, and mostly "
        "tells spots and two tones, but takes stripes, checks, zigzags and rings for one "
        f"another: even of real renders it names {100 * ceiling:.0f}% of the patterns. The wording "
        "is not the cause: naming the colours, or the whole caption, changes little. Its image "
        "features hold no more: the classifier trained on them with the true labels names the "
        f"pattern of {100 * head:.0f}% of held-out pictures, plain ones among them. Few bands fit "
        "on a small thing at its 128 pixels, and it was trained for minutes. So judge by eye "
        "whether a pattern is right; a score hardly sees one of these four swapped for another.",
    ]


def rebuilding(log: dict[str, Any]) -> list[str]:
    """Return the commands of the logged runs, their costs, and what to lower on a smaller GPU."""
    encoders, unets = log["encoders_run"], unet_runs(log)
    unet = unets[0][2]
    before = encoders["total_seconds"] if unet["settings"]["stage"] == "all" else 0.0
    seconds = sum(run["total_seconds"] for _, _, run in unets) - before
    minutes = [encoders["total_seconds"] / 60, seconds / 60]
    kept, encoded = (count * 10_000 / 2**30 for count in (PIXEL_BYTES, encoded_bytes(unet)))
    command = "python training/pretrain_mini.py --out assets --stage"
    return [
        "```",
        f"{command} encoders{flags(encoders, ENCODERS)}",
        *(
            f"{command} unet{' --init-unet assets' * facts['is_continued']}{flags(run, UNET)}"
            for _, facts, run in unets
        ),
        "python evaluation/mini_bars.py --assets assets",
        "```",
        "",
        f"On one {encoders['device']} the first command took {minutes[0]:.1f} minutes"
        f"{peak_memory(encoders)}; the UNet {minutes[1]:.1f} minutes{peak_memory(unet)}. "
        "The seconds are budgets: a slower GPU takes fewer steps in them, so raise them until the "
        "steps match the table; no rebuild gives the same bits. The table has the seconds spent, "
        "fewer where a run had to end early (`--deadline-seconds`).",
        "",
        f"On a smaller GPU lower `--pictures` first: 10,000 fewer save {kept:.1f} GiB of the "
        f"encoders stage and {encoded:.1f} GiB of the UNet stage. Then lower `--clip-batch` "
        f"({encoders['settings']['clip_batch']}), `--vae-batch` "
        f"({encoders['settings']['vae_batch']}) and `--unet-batch` "
        f"({unet['settings']['unet_batch']}).",
    ]


def flags(run: dict[str, Any], names: Sequence[str]) -> str:
    """Return the logged settings among `names` that are not the defaults, as flags."""
    logged, defaults = run["settings"], asdict(Settings())
    changed = [name for name in names if logged[name] != str(defaults[name])]
    return "".join(
        f" --{name.replace('_', '-')} {logged[name].removesuffix('.0')}" for name in changed
    )


def encoded_bytes(run: dict[str, Any]) -> int:
    """Return the bytes that the UNet stage keeps per picture: latents and captions in float16."""
    caption = CONTEXT_LENGTH * CONTEXT_WIDTH + POOLED_WIDTH
    return 2 * (LATENT_CHANNELS * LATENT_SIZE**2 + int(run["settings"]["captions"]) * caption)


def peak_memory(run: dict[str, Any]) -> str:
    """Return a run's peak memory as a phrase, "" if it was not measured."""
    return f", {run['peak_gib']:.1f} GiB at most" if run.get("peak_gib") else ""


def results_table(results: dict[str, Any]) -> list[str]:
    """Return the table of results, as lines of Markdown."""
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
    """Return the size of a folder's files in MiB."""
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()) / 2**20
