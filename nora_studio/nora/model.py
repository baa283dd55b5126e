"""NoRA's PEFT tuner, which replaces the targeted layers."""

from typing import Any

from peft.tuners.tuners_utils import BaseTuner
from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING, get_quantization_kwargs
from torch import Tensor, nn
from tqdm import tqdm

from nora_studio.errors import StudioError
from nora_studio.nora.combination import combine, combined_config
from nora_studio.nora.config import NoraConfig
from nora_studio.nora.layer import NoraLinear


class NoraModel(BaseTuner):
    """The PEFT tuner of Nested Low-Rank Adaptation (NoRA, arXiv:2408.10280).

    Used through PEFT: `get_peft_model`, `inject_adapter_in_model`, or `add_adapter` of diffusers
    and transformers models. Where `target_modules` is None, LoRA's defaults for the model are used.
    """

    prefix = "nora_"
    tuner_layer_cls = NoraLinear
    target_module_mapping = TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING

    _progress: Any = None

    def inject_adapter(
        self,
        model: nn.Module,
        adapter_name: str,
        autocast_adapter_dtype: bool = True,
        low_cpu_mem_usage: bool = False,
        state_dict: dict[str, Tensor] | None = None,
    ) -> None:
        """Add an adapter as PEFT does, with a progress bar if decomposing weights takes long."""
        with tqdm(desc="Outer factors", unit="layer", delay=3.0, leave=False) as self._progress:
            super().inject_adapter(
                model, adapter_name, autocast_adapter_dtype, low_cpu_mem_usage, state_dict
            )
        self._progress = None

    # As PEFT's own tuners do: it is called with this tuner's configuration.
    def _create_and_replace(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        peft_config: NoraConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        parameter_name: str | None = None,
    ) -> None:
        if self._progress.total is None:
            # Counted here, once PEFT has filled in what the config left open.
            self._progress.total = self._count_targets(peft_config)
        layer = target
        if not isinstance(layer, NoraLinear):
            requantize = get_quantization_kwargs(self).get("get_apply_tensor_subclass")
            layer = NoraLinear(target, current_key, requantize)
        rank, alpha = peft_config.rank_of(current_key), peft_config.alpha_of(current_key)
        layer.update_layer(adapter_name, peft_config, rank, alpha, current_key)
        layer.set_adapter(self.active_adapters, inference_mode=peft_config.inference_mode)
        if layer is not target:
            # Without PEFT's `_replace_module`: every tensor is on its device already, and moving
            # unfilled ones off the meta device would fail.
            setattr(parent, target_name, layer)
        self._progress.update()

    def _count_targets(self, config: NoraConfig) -> int:
        names = [name for name, _ in self.model.named_modules() if name]
        return sum(bool(self._check_target_module_exists(config, name)) for name in names)

    def add_weighted_adapter(
        self, adapters: list[str], weights: list[float], adapter_name: str
    ) -> None:
        """Add the weighted sum of some adapters' updates, exactly, as one more NoRA adapter.

        The adapters must share their outer factors, or those of one must begin with those of the
        other, as with `outer="svd"` on one base. The sum is for inference, not for training: its
        inner rank is twice the sum of theirs, but at most the outer rank.

        Raises:
            StudioError: The adapters have different outer factors or do not exist, there is not one
                weight for each, or the new name is taken. The model is left unchanged.
        """
        missing = [name for name in adapters if name not in self.peft_config]
        if missing or adapter_name in self.peft_config:
            raise StudioError(
                f"expected adapters of this model ({', '.join(self.peft_config)}) and a new name; "
                f"got {', '.join(adapters)} and {adapter_name!r}."
            )
        layers = {
            name: module
            for name, module in self.model.named_modules()
            if isinstance(module, NoraLinear) and set(adapters) & set(module.nora_inner_up)
        }
        configs: Any = {name: self.peft_config[name] for name in adapters}
        config = combined_config(configs, weights, list(layers))
        factors = dict(zip(adapters, weights, strict=True))
        self.peft_config[adapter_name] = config
        try:
            for name, layer in layers.items():
                combine(layer, factors, config, adapter_name, name)
        except StudioError:
            for layer in layers.values():
                layer.delete_adapter(adapter_name)
            del self.peft_config[adapter_name]
            raise

    def _cast_adapter_dtype(self, adapter_name: str, autocast_adapter_dtype: bool = True) -> None:
        """Round the inner factors to the base's dtype if `autocast_adapter_dtype` is off.

        Otherwise do nothing: `NoraLinear` chose each dtype, and PEFT would also widen the frozen
        factors.
        """
        if not autocast_adapter_dtype:
            for layer in self.model.modules():
                if isinstance(layer, NoraLinear) and adapter_name in layer.nora_inner_up:
                    _round_inner(layer, adapter_name)


def _round_inner(layer: NoraLinear, adapter_name: str) -> None:
    """Convert the inner factors and their starts to the outer factors' dtype."""
    dtype = layer.outer_pair(adapter_name)[0].dtype
    for factors in (layer.nora_inner_up, layer.nora_inner_down):
        factors[adapter_name].data = factors[adapter_name].data.to(dtype)
    for starts in (layer.nora_inner_up_start, layer.nora_inner_down_start):
        starts[adapter_name] = starts[adapter_name].to(dtype)  # pyright: ignore
