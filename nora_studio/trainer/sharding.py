"""A frozen base in shards over the processes (FSDP2), the adapters whole on each.

`accelerate launch --use_fsdp --fsdp_version 2` asks for it. What is trained is small beside the
base, so that only the base is sharded: adapters, optimizer and checkpoints are those of a run
without shards, and go on in any number of processes. Accelerate's own preparation would shard the
adapters too, so it is not told; their gradients are averaged by DDP.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, parse_flag_from_env
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from nora_studio.errors import StudioError
from nora_studio.runs import processes

Result = TypeVar("Result")


@dataclass(frozen=True)
class Sharding:
    """How a base is cut into shards."""

    reshard_after_forward: bool = True
    """Free a block's whole weights after its forward pass, and gather them again for backward."""
    blocks: tuple[str, ...] = ()
    """Class names of what is gathered at a time. Empty: as the model's own library says."""

    @classmethod
    def asked(cls) -> "Sharding | None":
        """Take what `accelerate launch` was asked for out of the environment; None: no shards.

        Out of it, because Accelerate would shard the adapters, and transformers would load the
        text encoders empty on all processes but one. Before `processes.join`.

        Raises:
            StudioError: something was asked for that is not done here.
        """
        if not parse_flag_from_env("ACCELERATE_USE_FSDP"):
            return None
        del os.environ["ACCELERATE_USE_FSDP"]
        version = os.environ.get("FSDP_VERSION", "1")
        if version != "2":
            raise StudioError(
                f"--use_fsdp: expected FSDP2; got --fsdp_version {version}. Add --fsdp_version 2."
            )
        for flag, remedy in _NOT_DONE.items():
            if parse_flag_from_env(flag.upper()):
                raise StudioError(f"--{flag}: not done with FSDP here. {remedy}")
        if os.environ.get("FSDP_AUTO_WRAP_POLICY") == "SIZE_BASED_WRAP":
            raise StudioError(
                "--fsdp_auto_wrap_policy SIZE_BASED_WRAP: not done here. Leave it out, or name "
                "blocks with --fsdp_transformer_layer_cls_to_wrap."
            )
        named = os.environ.get("FSDP_TRANSFORMER_CLS_TO_WRAP", "")
        return cls(
            reshard_after_forward=os.environ.get("FSDP_RESHARD_AFTER_FORWARD", "true") != "false",
            blocks=tuple(name.strip() for name in named.split(",") if name.strip()),
        )

    def shard(self, module: nn.Module, device: torch.device) -> None:
        """Put a base's weights into shards, in place; an adapter's on it stay whole.

        Every process has to call it, and from then on to take part in every forward pass.

        Args:
            module: The same on every process; whatever else refers to its weights keeps them.
            device: Of this process.
        """
        whole = _adapter_parameters(module) | _tied_parameters(module)
        names = self.blocks or tuple(getattr(module, "_no_split_modules", None) or ())
        mesh = init_device_mesh(device.type, (processes.count(),))
        roots = list(_roots(module))
        for block in reversed(list(module.modules())):  # From the inside out.
            if block not in roots and type(block).__name__ not in names:
                continue
            fully_shard(
                block,
                mesh=mesh,
                reshard_after_forward=self.reshard_after_forward,
                ignored_params=whole,
            )
        for parameter in whole:
            parameter.data = parameter.data.to(device)

    def prepare(
        self, accelerator: Accelerator, step: nn.Module, settings: DistributedDataParallelKwargs
    ) -> nn.Module:
        """Prepare a step over sharded parts as `Accelerator.prepare` would, the gradients averaged.

        Args:
            accelerator: Gives the mixed precision.
            step: Its frozen weights in shards.
            settings: Of DDP.
        """
        model = accelerator.prepare_model(step, evaluation_mode=True)
        if processes.count() == 1:
            return model
        shards = [name for name, p in model.named_parameters() if isinstance(p, DTensor)]
        wrapper = nn.parallel.DistributedDataParallel
        wrapper._set_params_and_buffers_to_ignore_for_model(model, shards)
        on_gpu = accelerator.device.type == "cuda"
        return wrapper(
            model,
            device_ids=[accelerator.local_process_index] if on_gpu else None,
            **settings.to_kwargs(),
        )


def _adapter_parameters(module: nn.Module) -> set[nn.Parameter]:
    """All that adapters have put on a base, trained or not (LoRA-FA freezes a factor)."""
    return {
        parameter
        for layer in module.modules()
        if isinstance(layer, BaseTunerLayer)
        for name, parameter in layer.named_parameters()
        if not name.startswith("base_layer.")
    }


def _tied_parameters(module: nn.Module) -> set[nn.Parameter]:
    """Weights that two layers share (embeddings and head): gathered for one, the other has none."""
    owners = Counter(p for _, p in module.named_parameters(remove_duplicate=False))
    return {parameter for parameter, count in owners.items() if count > 1}


def _roots(module: nn.Module) -> Iterator[nn.Module]:
    """Yield a module, or the outermost ones in it that are neither a transformers model nor a list.

    Sharding changes a module's class, and by its class transformers knows what such a model can
    give besides its output; SDXL wants the hidden states. A list is never called.
    """
    if not isinstance(module, PreTrainedModel | nn.ModuleList):
        yield module
        return
    for child in module.children():
        yield from _roots(child)


_NOT_DONE = {
    "fsdp_offload_params": "The base is in shards already; leave it out.",
    "fsdp_activation_checkpointing": "Use the trainer's own --gradient-checkpointing.",
}


def through_base(sharding: Sharding | None, work: Callable[[], Result]) -> Result | None:
    """Do what goes through the base: the main process alone, or all where the base is in shards.

    Called by every process; what the main one alone has made is None on the others.
    """
    return processes.on_main(work) if sharding is None else work()


def check_sharded(sharding: Sharding | None, options: Any) -> None:
    """Refuse what cannot be done on a base in shards.

    Args:
        options: A trainer's, with BaseOptions among them.

    Raises:
        StudioError: several methods, or a quantised base, were asked for.
    """
    if sharding is None:
        return
    if len(options.methods) > 1:
        raise StudioError(
            f"--method {options.method}: twins share one whole base; with --use_fsdp train one "
            "method a run, or leave --use_fsdp out."
        )
    if options.base_bits != 16:
        raise StudioError(
            f"--base-bits {options.base_bits}: a quantised base is not sharded; with --use_fsdp "
            "leave it out."
        )
