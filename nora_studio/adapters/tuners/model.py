"""Base class of this package's PEFT tuners."""

from typing import Any

from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
from torch import nn

from nora_studio.adapters.tuners.config import TunerConfig
from nora_studio.adapters.tuners.layer import LowRankLinear
from nora_studio.errors import StudioError


class LowRankModel(BaseTuner):
    """A PEFT tuner that replaces linear layers by the `tuner_layer_cls` of a subclass.

    Where `target_modules` is None, LoRA's defaults for the model are used.
    """

    tuner_layer_cls: type[LowRankLinear]  # pyright: ignore[reportIncompatibleVariableOverride]
    target_module_mapping = TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING

    # As PEFT's own tuners do: it is called with this tuner's configuration.
    def _create_and_replace(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        peft_config: TunerConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        parameter_name: str | None = None,
    ) -> None:
        layer = target
        if not isinstance(layer, self.tuner_layer_cls):
            if isinstance(layer, BaseTunerLayer):
                raise StudioError(
                    f"{current_key} already carries an adapter of another kind "
                    f"({type(layer).__name__}). Remove that one before adding this one."
                )
            layer = self.tuner_layer_cls(target, current_key)
        layer.register(adapter_name, peft_config, current_key)
        self.create_factors(layer, adapter_name, peft_config, current_key)
        layer.set_adapter(self.active_adapters, inference_mode=peft_config.inference_mode)
        if layer is not target:
            # Not by PEFT's `_replace_module`: every tensor is on its device already, and moving
            # unfilled ones off the meta device would fail.
            setattr(parent, target_name, layer)

    def create_factors(self, layer: Any, adapter_name: str, config: Any, name: str) -> None:
        """Create an adapter's factors on one layer; `name` is the layer's name in its model."""
        layer.update_layer(adapter_name, config, name)

    def _cast_adapter_dtype(self, adapter_name: str, autocast_adapter_dtype: bool = True) -> Any:
        """Do nothing: each layer chose its dtypes, and PEFT would widen the frozen factors."""
