"""One loaded base with any adapters on it; the most recently used adapters stay loaded."""

from collections import OrderedDict
from dataclasses import dataclass

from diffusers import StableDiffusionXLPipeline
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from nora_studio.adapters.files.adapter_file import AdapterFile, open_adapter
from nora_studio.adapters.files.adapter_folders import load_adapter
from nora_studio.adapters.methods.injection import set_strength
from nora_studio.adapters.methods.peft_tuners import tuner_layers
from nora_studio.adapters.new_tokens import NewTokens, extend, join_tokens
from nora_studio.sdxl.columns import UsedAdapter
from nora_studio.sdxl.models import parts_of, share_weights, with_parts

KEPT_ADAPTERS = 6
"""For SDXL, each takes some hundred megabytes on the device."""

_Key = tuple[tuple[str, int, int], ...]


class SummedLinear(nn.Module):
    """A linear layer with the sum of the changes of several adapters, of any methods.

    `base(x) + sum(adapted(x) - base(x))`: exact up to the rounding of the outputs; weights are
    neither merged nor factored.
    """

    def __init__(self, base_layer: nn.Module, adapted: list[BaseTunerLayer]) -> None:
        """Wrap `base_layer`, which each layer of `adapted` wraps too."""
        super().__init__()
        self.base_layer = base_layer
        self.adapted = nn.ModuleList(adapted)  # pyright: ignore[reportArgumentType]

    def forward(self, x: Tensor) -> Tensor:  # (..., in_features) -> (..., out_features)
        """Return the layer's output with all changes added."""
        base = self.base_layer(x)
        result = base
        for layer in self.adapted:
            result = result + (layer(x) - base)
        return result


@dataclass(frozen=True)
class _Loaded:
    """One adapter on its own tree of modules, which shares the base's weights."""

    pipe: StableDiffusionXLPipeline
    tokens: NewTokens | None

    def set_strength(self, strength: float) -> None:
        """Set the factor on the adapter's change."""
        for module in parts_of(self.pipe).values():
            if tuner_layers(module) and strength != self._strength_of(module):
                set_strength(module, strength)
                vars(module)["current_strength"] = strength

    def _strength_of(self, module: nn.Module) -> float:
        return vars(module).get("current_strength", 1.0)


class PipelineCache:
    """A base's pipeline with any adapters; recently used adapters are not loaded again."""

    def __init__(self, pipe: StableDiffusionXLPipeline, keep: int = KEPT_ADAPTERS) -> None:
        """Start with a base without adapters, which is not changed."""
        self.base = pipe
        self.keep = keep
        self._loaded: OrderedDict[_Key, _Loaded] = OrderedDict()

    def with_adapters(self, adapters: tuple[UsedAdapter, ...]) -> StableDiffusionXLPipeline:
        """Return the pipeline with adapters on it, each at its strength; their changes add up.

        Strengths are valid until the next call. New tokens are not scaled.

        Raises:
            StudioError: an adapter cannot be read, was trained on another base, or cannot be
                scaled.
        """
        if not adapters:
            return self.base
        if len(adapters) == 1:
            loaded = self._load(adapters[0].adapter)
            loaded.set_strength(adapters[0].strength)
            return loaded.pipe
        return self._combine(adapters)

    def _load(self, adapter: AdapterFile, copy: int = 0) -> _Loaded:
        adapter = open_adapter(adapter)
        stats = [(file, file.stat()) for file in adapter.files()]
        key = (
            *((str(file.resolve()), stat.st_mtime_ns, stat.st_size) for file, stat in stats),
            ("", copy, 0),
        )
        if key in self._loaded:
            self._loaded.move_to_end(key)
            return self._loaded[key]
        while len(self._loaded) >= self.keep:
            self._loaded.popitem(last=False)
        pipe = self._tree()
        tokens = adapter.new_tokens()
        if tokens is not None:
            extend(pipe, tokens)
        load_adapter(adapter, parts_of(pipe))
        self._loaded[key] = _Loaded(pipe, tokens)
        return self._loaded[key]

    def _combine(self, adapters: tuple[UsedAdapter, ...]) -> StableDiffusionXLPipeline:
        loaded_adapters = []
        for number, use in enumerate(adapters):
            # The same adapter may be given twice with two strengths, so each gets its own tree.
            copies = sum(other.path == use.path for other in adapters[:number])
            loaded = self._load(use.adapter, copies)
            loaded.set_strength(use.strength)
            loaded_adapters.append(loaded)
        pipe = self._tree()
        distinct = {
            use.path: loaded.tokens for use, loaded in zip(adapters, loaded_adapters, strict=True)
        }
        tokens = join_tokens(list(distinct.values()))
        if tokens is not None:
            extend(pipe, tokens)
        for part, module in parts_of(pipe).items():
            found: dict[str, list[BaseTunerLayer]] = {}
            for loaded in loaded_adapters:
                for name, layer in tuner_layers(parts_of(loaded.pipe)[part]).items():
                    found.setdefault(name, []).append(layer)
            for name, layers in found.items():
                summed = SummedLinear(module.get_submodule(name), layers)
                module.set_submodule(name, summed)
        return pipe

    def _tree(self) -> StableDiffusionXLPipeline:
        parts = {part: share_weights(module) for part, module in parts_of(self.base).items()}
        return with_parts(self.base, parts)
