"""Statistics of the inputs of a model's layers, for the activation-aware SVD."""

import contextlib
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor, nn


@contextlib.contextmanager
def record_mean_abs_inputs(layers: Mapping[str, nn.Module]) -> Iterator[dict[str, Tensor]]:
    """Record the mean absolute inputs of some layers within a `with` block.

        names = ["layers.0.q_proj", "layers.0.v_proj"]
        with record_mean_abs_inputs({name: model.get_submodule(name) for name in names}) as means:
            model(batch)
        NoraConfig(outer="activation", mean_abs_inputs=means, target_modules=names)

    The mean is over the tokens of all forward passes in the block. The layers must be called with
    one tensor, channels last. Run the model on real inputs, without gradients.

    Args:
        layers: Name -> layer, named as `target_modules` will name them.

    Yields:
        Name -> mean |x| per input channel, (in_features,), float64 on the CPU; filled when the
        block ends. A layer that was never called is absent, and NoRA then refuses to adapt it.
    """
    sums: dict[str, Tensor] = {}
    counts: dict[str, int] = {}

    def watch(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def add(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            rows = inputs[0].detach().flatten(0, -2)  # (tokens, in_features)
            total = rows.abs().sum(dim=0, dtype=torch.float64)
            sums[name] = sums[name] + total if name in sums else total
            counts[name] = counts.get(name, 0) + len(rows)

        return add

    means: dict[str, Tensor] = {}
    hooks = [layer.register_forward_pre_hook(watch(name)) for name, layer in layers.items()]
    try:
        yield means
    finally:
        for hook in hooks:
            hook.remove()
    for name in layers:
        if counts.get(name):
            means[name] = (sums[name] / counts[name]).cpu()
