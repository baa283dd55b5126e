"""Replace a NoRA adapter's tensors in place, so that a compiled model is not recompiled."""

from pathlib import Path

import torch
from peft import PeftConfig
from torch import Tensor, nn

from nora_studio.adapters.files.peft_settings import CONFIG, WEIGHTS
from nora_studio.adapters.peft_names import PEFT_PREFIX
from nora_studio.errors import StudioError
from nora_studio.nora.config import NoraConfig
from nora_studio.nora.layer import NoraLinear
from nora_studio.runs.tensor_files import read_tensors
from nora_studio.runs.weight_files import check_weights


@torch.no_grad()
def hotswap_adapter(model: nn.Module, folder: Path | str, adapter_name: str = "default") -> None:
    """Replace a loaded adapter's tensors and scale by a saved adapter's.

    It does what `peft.utils.hotswap.hotswap_adapter` does for LoRA only.

    Args:
        model: A `PeftModel`, or a module that was adapted in place; may be compiled.
        folder: A folder that `save_pretrained` wrote.
        adapter_name: The adapter to replace; it keeps its name.

    Raises:
        StudioError: The saved adapter has other layers or shapes or is a pickle, or the loaded one
            is merged. The model is unchanged then.
    """
    folder = Path(folder)
    if not (folder / CONFIG).is_file():  # PEFT would look for it on the Hub.
        raise StudioError(f"expected an adapter folder; {folder} holds no {CONFIG}.")
    config = PeftConfig.from_pretrained(str(folder))
    if not isinstance(config, NoraConfig):
        raise StudioError(f"expected a NoRA adapter in {folder}; got {config.peft_type}.")
    check_weights("hotswap_adapter", str(folder), folder, WEIGHTS)
    found = read_tensors(folder / WEIGHTS)
    saved = {name.removeprefix(PEFT_PREFIX): tensor for name, tensor in found.items()}
    layers = {
        name.removeprefix("_orig_mod.").removeprefix(PEFT_PREFIX): layer
        for name, layer in model.named_modules()
        if isinstance(layer, NoraLinear) and adapter_name in layer.nora_inner_up
    }
    loaded: dict[str, Tensor] = {}
    for name, layer in layers.items():
        if adapter_name in layer.merged_adapters:
            raise StudioError(f"adapter {adapter_name!r} is merged into {name}. Unmerge it first.")
        for container in (*layer.adapter_layer_names, *layer.frozen_names):
            loaded[f"{name}.{container}"] = getattr(layer, container)[adapter_name]
    differing = sorted(
        name
        for name in {*loaded, *saved}
        if name not in loaded or name not in saved or loaded[name].shape != saved[name].shape
    )
    if differing:
        more = f" (and {len(differing) - 1} more)" if len(differing) > 1 else ""
        raise StudioError(
            f"the adapter in {folder} cannot replace {adapter_name!r}: {differing[0]} differs"
            f"{more}. Load it as a second adapter, under another name."
        )
    for name, tensor in loaded.items():
        tensor.copy_(saved[name])
    for name, layer in layers.items():
        layer.nora_alpha[adapter_name] = config.alpha_of(name)
        layer.set_scale(adapter_name, 1.0)
