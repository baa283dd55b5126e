"""Save an adapted model in open_clip's own format: adapters merged, attention packed again."""

import copy
import shutil
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.push_to_hf_hub import save_config_for_hf
from torch import nn

from nora_studio.adapters.methods.peft_tuners import tuner_layers
from nora_studio.errors import StudioError
from nora_studio.runs.atomic import replacing
from nora_studio.runs.tensor_files import write_tensors
from nora_studio.tasks.fewshot.attention import pack
from nora_studio.tasks.fewshot.data import FewshotData

WEIGHTS = "open_clip_model.safetensors"


@torch.no_grad()
def merged(model: nn.Module) -> nn.Module:
    """Return a copy of an adapted model with the adapters merged and the attention packed.

    Raises:
        StudioError: an attention cannot be packed.
    """
    whole = copy.deepcopy(model)
    for name, layer in tuner_layers(whole).items():
        layer.merge(safe_merge=True)  # pyright: ignore
        parent, _, child = name.rpartition(".")
        setattr(whole.get_submodule(parent), child, layer.get_base_layer())
    for module in whole.modules():
        if hasattr(module, "peft_config"):
            del module.peft_config
    pack(whole)
    return whole.eval()


def check_mergeable(model: str) -> None:
    """Refuse a model whose configuration is not available locally, before any training.

    Raises:
        StudioError: the model is named by its Hub repository.
    """
    if model.startswith("hf-hub:"):
        raise StudioError(
            f"--merged needs the model's configuration on this machine, and {model} is on the Hub. "
            "Download the model into a folder, and name that folder with --model."
        )


def save_merged(task: FewshotData, classifier: Any, folder: Path) -> None:
    """Write a model that `open_clip.create_model_and_transforms("local-dir:FOLDER")` loads.

    Raises:
        StudioError: the method does not adapt weights.
    """
    if not tuner_layers(classifier.model):
        raise StudioError(
            "--merged: this method has no adapter to merge into the weights. Leave --merged out."
        )
    whole = merged(classifier.model)
    with replacing(folder) as fresh:
        state = {name: tensor.contiguous().cpu() for name, tensor in whole.state_dict().items()}
        write_tensors(fresh / WEIGHTS, state)
        _write_config(task, fresh)


def _write_config(task: FewshotData, folder: Path) -> None:
    """Copy the base's configuration and tokenizer, from its folder or open_clip's registry."""
    source = task.clip.folder
    if source is not None:
        for file in sorted(source.iterdir()):
            if file.is_file() and file.suffix in (".json", ".txt"):
                shutil.copyfile(file, folder / file.name)
        return
    config = open_clip.get_model_config(task.clip.name.partition(":")[0])
    file: Any = folder / "open_clip_config.json"  # A path, despite its annotation.
    save_config_for_hf(task.clip.model, file, config)
