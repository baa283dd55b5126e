"""A frozen base sharded over the processes (FSDP2), with the adapters whole on each.

Requested by `accelerate launch --use_fsdp --fsdp_version 2`. The trained weights are small compared
to the base, so only the base is sharded: adapters, optimizer and checkpoints are those of a run
without shards, and can be resumed with any number of processes. Accelerate's own preparation would
shard the adapters too, so it is bypassed; DDP averages their gradients.
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
    """How a base is sharded."""

    reshard_after_forward: bool = True
    """Free a block's gathered weights after its forward pass, and gather them for the backward."""
    blocks: tuple[str, ...] = ()
    """Class names of blocks that are gathered as a whole. Empty: those that the model declares."""

    @classmethod
    def asked(cls) -> "Sharding | None":
        """Read and remove `accelerate launch`'s request from the environment; None if none.

        It is removed because Accelerate would shard the adapters, and transformers would load the
        text encoders without weights on all processes but one. Call it before `processes.join`.

        Raises:
            StudioError: an FSDP option was requested that is not supported here.
        """
        if not parse_flag_from_env("ACCELERATE_USE_FSDP"):
            return None
        del os.environ["ACCELERATE_USE_FSDP"]
        version = os.environ.get("FSDP_VERSION", "1")
        if version != "2":
            raise StudioError(
                f"--use_fsdp: expected FSDP2; got --fsdp_version {version}. Add --fsdp_version 2."
            )
        for flag, remedy in _UNSUPPORTED.items():
            if parse_flag_from_env(flag.upper()):
                raise StudioError(f"--{flag}: not supported here with FSDP. {remedy}")
        if os.environ.get("FSDP_AUTO_WRAP_POLICY") == "SIZE_BASED_WRAP":
            raise StudioError(
                "--fsdp_auto_wrap_policy SIZE_BASED_WRAP: not supported here. Leave it out, or "
                "name blocks with --fsdp_transformer_layer_cls_to_wrap."
            )
        named = os.environ.get("FSDP_TRANSFORMER_CLS_TO_WRAP", "")
        return cls(
            reshard_after_forward=os.environ.get("FSDP_RESHARD_AFTER_FORWARD", "true") != "false",
            blocks=tuple(name.strip() for name in named.split(",") if name.strip()),
        )

    def shard(self, module: nn.Module, device: torch.device) -> None:
        """Shard a base's weights in place; those of adapters on it stay whole.

        Every process must call it, and then take part in every forward pass.

        Args:
            module: The same on every process. Other references to its weights keep them whole.
            device: Device of this process.
        """
        whole = _adapter_parameters(module) | _tied_parameters(module)
        names = self.blocks or tuple(getattr(module, "_no_split_modules", None) or ())
        mesh = init_device_mesh(device.type, (processes.count(),))
        roots = list(_roots(module))
        for block in reversed(list(module.modules())):  # Inner blocks first.
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
        """Wrap a step over sharded parts for mixed precision, and in DDP to average gradients.

        Args:
            accelerator: Determines the mixed precision.
            step: A module whose frozen weights are sharded.
            settings: Arguments of DDP.
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
    """Return all parameters of adapters on a base, trained or not (LoRA-FA freezes a factor)."""
    return {
        parameter
        for layer in module.modules()
        if isinstance(layer, BaseTunerLayer)
        for name, parameter in layer.named_parameters()
        if not name.startswith("base_layer.")
    }


def _tied_parameters(module: nn.Module) -> set[nn.Parameter]:
    """Return weights that layers share, such as embeddings and head.

    They cannot be sharded: if gathered for one layer, the other would have none.
    """
    owners = Counter(p for _, p in module.named_parameters(remove_duplicate=False))
    return {parameter for parameter, count in owners.items() if count > 1}


def _roots(module: nn.Module) -> Iterator[nn.Module]:
    """Yield a module, or its outermost submodules that are not transformers models or lists.

    Sharding changes a module's class, by which transformers knows what else than its output a model
    can return; SDXL needs the hidden states. A list is never called, so it cannot gather weights.
    """
    if not isinstance(module, PreTrainedModel | nn.ModuleList):
        yield module
        return
    for child in module.children():
        yield from _roots(child)


_UNSUPPORTED = {
    "fsdp_offload_params": "The base is sharded already; leave it out.",
    "fsdp_activation_checkpointing": "Use the trainer's own --gradient-checkpointing.",
}


def through_base(sharding: Sharding | None, work: Callable[[], Result]) -> Result | None:
    """Call a function that runs the base: on the main process, or on all if the base is sharded.

    Call it on every process. Where the function was not called, the result is None.
    """
    return processes.on_main(work) if sharding is None else work()


def check_sharded(sharding: Sharding | None, options: Any) -> None:
    """Refuse options that a sharded base does not support.

    Args:
        options: A trainer's options, with those of BaseOptions.

    Raises:
        StudioError: several methods or a quantised base are requested.
    """
    if sharding is None:
        return
    if len(options.methods) > 1:
        raise StudioError(
            f"--method {options.method}: twins share one unsharded base. With --use_fsdp train one "
            "method at a time, or leave --use_fsdp out."
        )
    if options.base_bits != 16:
        raise StudioError(
            f"--base-bits {options.base_bits}: a quantised base cannot be sharded. Leave "
            "--base-bits or --use_fsdp out."
        )
