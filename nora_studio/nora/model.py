"""NoRA as a PEFT tuner: which layers are replaced, and by what."""

from typing import Any

from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
from peft.utils.other import get_pattern_key
from torch import nn

from nora_studio.errors import StudioError
from nora_studio.nora.config import NoraConfig
from nora_studio.nora.layer import NoraLinear


class NoraModel(BaseTuner):
    """Puts Nested Low-Rank Adaptation (NoRA, arXiv:2408.10280) on a model.

    Used through PEFT: `get_peft_model`, `inject_adapter_in_model`, or `add_adapter` of diffusers
    and transformers models. Where `target_modules` is None, LoRA's defaults for the model serve.
    """

    prefix = "nora_"
    tuner_layer_cls = NoraLinear
    target_module_mapping = TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING

    def _create_and_replace(
        self,
        peft_config: NoraConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        parameter_name: str | None = None,
    ) -> None:
        ranks, alphas = peft_config.rank_pattern, peft_config.alpha_pattern
        rank = ranks.get(get_pattern_key(list(ranks), current_key), peft_config.r)
        alpha = alphas.get(get_pattern_key(list(alphas), current_key), peft_config.alpha)
        layer = target
        if not isinstance(layer, NoraLinear):
            if isinstance(layer, BaseTunerLayer):
                raise StudioError(
                    f"{current_key} already carries an adapter of another kind "
                    f"({type(layer).__name__}); take it out before adding NoRA."
                )
            layer = NoraLinear(target, current_key)
        alpha = float(rank if alpha is None else alpha)
        layer.update_layer(adapter_name, peft_config, rank, alpha, current_key)
        layer.set_adapter(self.active_adapters, inference_mode=peft_config.inference_mode)
        if layer is not target:
            # Not `_replace_module`: the layer has put every tensor where it belongs, and moving
            # unfilled ones off the meta device would fail.
            setattr(parent, target_name, layer)

    def _cast_adapter_dtype(self, adapter_name: str, autocast_adapter_dtype: bool = True) -> Any:
        """Do nothing: `NoraLinear` chose each dtype, and PEFT would widen the frozen factors."""
