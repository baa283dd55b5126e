"""The metadata in a portable file's header, by the keys that other tools read.

Sources: ModelSpec (github.com/Stability-AI/ModelSpec) for `modelspec.*`; kohya-ss/sd-scripts for
`ss_*`. Dates are left out, so that two exports of one adapter are equal.
"""

import json
from collections.abc import Mapping
from dataclasses import replace

from torch import nn

from nora_studio.adapters.files.card import AdapterCard, card_text, without_local_path
from nora_studio.adapters.files.identify import CARD_KEY
from nora_studio.photos.prompts import replace_token

_SDXL_TEXT_WIDTH = 2048


def is_full_sdxl(unet: nn.Module) -> bool:
    """Return whether a UNet has SDXL's own shapes, and is not a smaller relative."""
    config = unet.config  # pyright: ignore
    channels = list(config["block_out_channels"])  # pyright: ignore
    return config["cross_attention_dim"] == _SDXL_TEXT_WIDTH and channels == [320, 640, 1280]  # pyright: ignore


def portable_metadata(
    card: AdapterCard,
    title: str,
    ranks: Mapping[str, int],
    kohya: bool,
    full_sdxl: bool,
    note: str = "",
    trigger: str | None = None,
) -> dict[str, str]:
    """Return the metadata of a portable file.

    Args:
        card: The adapter's.
        title: Shown by tools.
        ranks: Rank of each part's LoRA.
        kohya: Whether to add Kohya's `ss_*` keys.
        full_sdxl: Whether the base is SDXL itself; tools show or hide files by it.
        note: One sentence on how the file was made.
        trigger: The subject's word in the tools that read the file. None: the card's.
    """
    card = without_local_path(card)
    architecture = "stable-diffusion-xl-v1-base" if full_sdxl else "mini-sdxl"
    trigger = card.trigger if trigger is None else trigger
    prompt = replace_token(card.prompt, trigger)
    values = {
        CARD_KEY: card_text(card),
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": f"{architecture}/lora",
        "modelspec.implementation": (
            "https://github.com/Stability-AI/generative-models" if kohya else "diffusers"
        ),
        "modelspec.title": title,
        "modelspec.resolution": f"{card.resolution}x{card.resolution}",
        "modelspec.description": note,
        "modelspec.license": card.licence,
        "modelspec.trigger_phrase": trigger,
        "modelspec.usage_hint": f"Write, for example: {prompt}" if prompt else "",
        "modelspec.tags": f"{card.method}, lora, dreambooth",
        "modelspec.prediction_type": "epsilon" if full_sdxl else "",
    }
    if kohya:
        values |= _kohya_keys(replace(card, trigger=trigger), title, ranks, full_sdxl)
    return {key: value for key, value in values.items() if value}


def _kohya_keys(
    card: AdapterCard, title: str, ranks: Mapping[str, int], full_sdxl: bool
) -> dict[str, str]:
    rank = str(max(ranks.values()))
    size = card.resolution
    return {
        "ss_network_module": "networks.lora",
        "ss_network_dim": rank,
        "ss_network_alpha": rank,  # the scale is folded into the factors
        "ss_network_args": json.dumps({f"rank_{part}": n for part, n in sorted(ranks.items())}),
        "ss_base_model_version": "sdxl_base_v1-0" if full_sdxl else "",
        "ss_sd_model_name": card.model,
        "ss_output_name": title,
        "ss_steps": str(card.steps),
        "ss_seed": str(card.seed),
        "ss_resolution": f"({size}, {size})",
        "ss_tag_frequency": json.dumps({"subject": {card.trigger: 1}}) if card.trigger else "",
        "ss_training_comment": f"{card.method} by nora-studio {card.version}",
    }
