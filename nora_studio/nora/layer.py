"""A linear layer with nested low-rank updates.

    x ── base weight, frozen ──────────────────────────────────────────────────── + ── h
     └── down, frozen ── inner_down ── inner_up, less the start ── up, frozen ────┘

The update is `scale * up (inner_up inner_down - start_up start_down) down`. It is computed as
`up ((inner_up - start_up) inner_down + start_up (inner_down - start_down)) down`, which is the same
without the rounding: before training both differences are zero bit for bit, in every dtype and
under autocast, and later a small update is not the difference of two large products.

Dtypes: `up` and `down` are the bulk of an adapter and are kept in the base weight's dtype (for a
quantised base, that of the dequantised weight); the inner factors and their starts are float32 on a
half-precision base, and in the base's dtype where that is wider.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from peft.tuners._buffer_dict import BufferDict
from torch import Tensor, nn

from nora_studio.errors import StudioError
from nora_studio.nora.additive import AdditiveLayer, widen
from nora_studio.nora.base_layers import check_base, dense_dtype, is_plain
from nora_studio.nora.config import NoraConfig
from nora_studio.nora.fused_update import FusedUpdate, is_cheaper
from nora_studio.nora.product_linear import AddProduct, ProductLinear
from nora_studio.nora.svd import Factors, outer_factors


class NoraLinear(nn.Module, AdditiveLayer):
    """PEFT's tuner layer for NoRA: a frozen linear layer with any number of adapters.

    Source: arXiv:2408.10280, section 3.2, with the start subtracted.
    """

    adapter_layer_names = ("nora_inner_up", "nora_inner_down")
    frozen_names = ("nora_up", "nora_down", "nora_inner_up_start", "nora_inner_down_start")
    """The tensors that a file holds besides the trained factors."""
    other_param_names = (
        *frozen_names,
        "nora_dropout",
        "nora_alpha",
        "outer_rank",
        "r",
        "scaling",
    )

    product: Tensor | None = None
    """The active adapter's (outer_rank, out_features), while `products` holds one for a step."""

    converts_dtypes = True
    """Whether a step computes in the base's dtype, whatever that of the factors."""
    output_with_others: Callable[[Tensor], Tensor] | None = None
    """Replaces `forward` while there is a `product`, where others read the same input."""

    def __init__(
        self, base_layer: nn.Module, name: str, requantize: Callable[[], Any] | None = None
    ) -> None:
        """Wrap a layer, without an adapter yet.

        Args:
            base_layer: The `nn.Linear` to adapt, or a quantised one; only `merge` changes it.
            name: The layer's name in its model, for messages.
            requantize: See `check_base`.

        Raises:
            StudioError: NoRA cannot adapt a layer of this kind.
        """
        super().__init__()
        self.base_layer, self.quantization_backend = check_base(base_layer, name, requantize)
        self.base_is_plain = is_plain(self.base_layer)
        self.in_features = self.base_layer.in_features
        self.out_features = self.base_layer.out_features
        self.nora_inner_up = nn.ParameterDict()  # (outer_rank, rank)
        self.nora_inner_down = nn.ParameterDict()  # (rank, outer_rank)
        self.nora_up = BufferDict(persistent=True)  # (out_features, outer_rank)
        self.nora_down = BufferDict(persistent=True)  # (outer_rank, in_features)
        self.nora_inner_up_start = BufferDict(persistent=True)
        self.nora_inner_down_start = BufferDict(persistent=True)
        self.nora_dropout = nn.ModuleDict()
        self.nora_alpha: dict[str, float] = {}
        self.outer_rank: dict[str, int] = {}
        self.r: dict[str, int] = {}
        self.scaling: dict[str, float] = {}
        self._disable_adapters = False
        self._active_adapter: str | list[str] = []
        self.merged_adapters: list[str] = []
        self.cast_input_dtype_enabled = True

    def update_layer(
        self, adapter_name: str, config: NoraConfig, rank: int, alpha: float, name: str
    ) -> None:
        """Add an adapter: compute its frozen factors and initialise its inner ones.

        Where parameters are created on the meta device (PEFT's `low_cpu_mem_usage`, or a base that
        is there itself), all factors stay there unfilled and no SVD is computed.

        Args:
            adapter_name: Replaces an adapter of the same name.
            config: The adapter's configuration.
            rank: This layer's inner rank.
            alpha: This layer's alpha.
            name: The layer's name in its model, for messages and to look up its statistics.

        Raises:
            StudioError: The rank does not fit the layer, or its weight cannot be decomposed.
        """
        outer_rank, limit = config.outer_rank, min(self.out_features, self.in_features)
        if outer_rank > limit:
            raise StudioError(
                f"outer_rank must be at most {limit} for {name} "
                f"({self.out_features}x{self.in_features}); got {outer_rank}. "
                "Lower outer_rank, and the rank with it, or narrow the targets."
            )
        outer_dtype = dense_dtype(self.get_base_layer(), self.quantization_backend)
        dtype = torch.promote_types(outer_dtype, torch.float32)
        device: Any = self.get_base_layer().weight.device
        for container, shape in (
            (self.nora_inner_up, (outer_rank, rank)),
            (self.nora_inner_down, (rank, outer_rank)),
        ):
            zeros = torch.zeros(shape, dtype=dtype, device=device)
            container[adapter_name] = nn.Parameter(zeros)
        inner_up, inner_down = self.nora_inner_up[adapter_name], self.nora_inner_down[adapter_name]
        if config.init_weights and not inner_up.is_meta:
            up, singular, down = _start_factors(self.get_base_weight(), config, name)
        else:
            up = inner_up.new_full((self.out_features, outer_rank), math.nan)
            singular = inner_up.new_full((outer_rank,), math.nan)
            down = inner_up.new_full((outer_rank, self.in_features), math.nan)
        with torch.no_grad():
            inner_up.diagonal().copy_(singular[:rank].sqrt())
            inner_down.diagonal().copy_(singular[:rank].sqrt())
        # "paper" subtracts nothing: its start is zero, and one formula covers both.
        keep = float(config.start == "difference")
        self.nora_inner_up_start[adapter_name] = inner_up.detach() * keep
        self.nora_inner_down_start[adapter_name] = inner_down.detach() * keep
        self.nora_up[adapter_name] = up.to(outer_dtype).contiguous()
        self.nora_down[adapter_name] = down.to(outer_dtype).contiguous()
        dropout = nn.Dropout(config.dropout) if config.dropout else nn.Identity()
        self.nora_dropout[adapter_name] = dropout
        self.nora_alpha[adapter_name] = alpha
        self.outer_rank[adapter_name] = outer_rank
        self.r[adapter_name] = rank
        self.scaling[adapter_name] = alpha / rank

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Apply the base layer and the active adapters: (..., in_features) -> (..., out_features).

        Other arguments are passed to the base layer.
        """
        if self.product is not None and torch.is_grad_enabled():
            return self._with_product(self.product, x, *args, **kwargs)
        if self.disable_adapters and self.merged:
            self.unmerge()
        result = self.base_layer(x, *args, **kwargs)
        if self.disable_adapters or self.merged:
            return result
        for adapter_name in self.active_adapters:
            if adapter_name not in self.nora_inner_up:
                continue
            if self._can_fuse(x, result, adapter_name):
                result = self._add_fused_update(x, result, adapter_name)
            else:
                result = result + self._update(x, adapter_name).to(result.dtype)
        return result

    def _with_product(self, product: Tensor, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        (adapter_name,) = self.active_adapters
        _, down = self.outer_pair(adapter_name)
        base, dropout = self.base_layer, self.nora_dropout[adapter_name]
        drops = isinstance(dropout, nn.Dropout) and dropout.training
        # Others, such as a quantised layer, compute their output in their own way.
        if self.base_is_plain and not (drops or args or kwargs):
            if self.output_with_others is not None:
                return self.output_with_others(x)
            updated = ProductLinear.apply(x, base.weight, base.bias, down, product)
        else:
            result, x = base(x, *args, **kwargs), dropout(x)
            if result.dtype != product.dtype:  # A quantised layer may choose its own.
                hidden = F.linear(x.to(down.dtype), down)
                return result + (hidden @ product).to(result.dtype)
            updated = AddProduct.apply(result, x, down, product)
        assert isinstance(updated, Tensor)
        return updated

    def _can_fuse(self, x: Tensor, result: Tensor, adapter_name: str) -> bool:
        """Return whether `FusedUpdate` applies and is cheaper: in training, all in one dtype."""
        if not (torch.is_grad_enabled() and self.nora_inner_up[adapter_name].requires_grad):
            return False
        dtype = self.nora_down[adapter_name].dtype  # pyright: ignore
        device = x.device.type
        if torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device) != dtype:
            return False
        return result.dtype == dtype and is_cheaper(
            x.numel() // x.shape[-1], self.outer_rank[adapter_name], self.r[adapter_name]
        )

    def _add_fused_update(self, x: Tensor, result: Tensor, adapter_name: str) -> Tensor:
        up, down = self.outer_pair(adapter_name)
        x = self.nora_dropout[adapter_name](self._cast_input_dtype(x, down.dtype))
        moved_up, start_up, inner_down, moved_down = self._inner(adapter_name)
        rows, scale = result.reshape(-1, self.out_features), self.scaling[adapter_name]
        tokens = x.reshape(-1, self.in_features).to(down.dtype)
        factors = (moved_up, inner_down, moved_down, start_up, up, down)
        updated = FusedUpdate.apply(rows, tokens, *factors, scale)
        assert isinstance(updated, Tensor)
        return updated.reshape(result.shape)

    def _update(self, x: Tensor, adapter_name: str) -> Tensor:
        up, down = self.outer_pair(adapter_name)
        x = self.nora_dropout[adapter_name](self._cast_input_dtype(x, down.dtype))
        hidden = F.linear(x, down)  # (..., outer_rank)
        # The core is small: one product with it is faster than several at the inner rank, and the
        # activations keep the model's dtype.
        hidden = F.linear(hidden, self._core(adapter_name).to(hidden.dtype))
        return F.linear(hidden, up)

    def outer_pair(self, adapter_name: str) -> tuple[Tensor, Tensor]:
        """Return the frozen `up` (out_features, outer_rank), `down` (outer_rank, in_features)."""
        return self.nora_up[adapter_name], self.nora_down[adapter_name]  # pyright: ignore

    def _inner(self, adapter_name: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return `moved_up`, `start_up`, `inner_down`, `moved_down`."""
        start_up: Tensor = self.nora_inner_up_start[adapter_name]  # pyright: ignore
        inner_down = self.nora_inner_down[adapter_name]
        moved_up = self.nora_inner_up[adapter_name] - start_up
        moved_down = inner_down - self.nora_inner_down_start[adapter_name]
        return moved_up, start_up, inner_down, moved_down

    def _core(self, adapter_name: str) -> Tensor:  # (outer_rank, outer_rank)
        moved_up, start_up, inner_down, moved_down = self._inner(adapter_name)
        return (moved_up @ inner_down + start_up @ moved_down) * self.scaling[adapter_name]

    @torch.no_grad()
    def get_delta_weight(self, adapter_name: str) -> Tensor:  # (out_features, in_features)
        """Compute the whole update of the weight, scale included, in float32 or wider."""
        up, down = self.outer_pair(adapter_name)
        core = widen(self._core(adapter_name))
        return up.to(core.dtype) @ core @ down.to(core.dtype)

    @torch.no_grad()
    def lora_factors(self, adapter_name: str) -> tuple[Tensor, Tensor]:
        """Write the update as a plain LoRA, exactly, with the scale folded in.

        The paper's form `up [inner_up, -start_up]` leaves the update as the small difference of two
        large products, which a half-precision file would lose; these factors hold it directly.

        Returns:
            `lora_up` (out_features, 2 rank) and `lora_down` (2 rank, in_features), float32 or
            wider, with `lora_up @ lora_down` the update.
        """
        up, down = self.outer_pair(adapter_name)
        left, right = self.core_factors(adapter_name)
        return up.to(left.dtype) @ left, right @ down.to(right.dtype)

    @torch.no_grad()
    def core_factors(self, adapter_name: str) -> tuple[Tensor, Tensor]:
        """Return the product between the outer factors, scale included, as two factors.

        Returns:
            `left` (outer_rank, 2 rank) and `right` (2 rank, outer_rank), float32 or wider.
        """
        moved_up, start_up, inner_down, moved_down = self._inner(adapter_name)
        left = torch.cat([moved_up, start_up], dim=1) * self.scaling[adapter_name]
        return widen(left), widen(torch.cat([inner_down, moved_down], dim=0))

    @property
    def alphas(self) -> dict[str, float]:
        """Each adapter's alpha."""
        return self.nora_alpha

    def __repr__(self) -> str:
        return "nora." + super().__repr__()


def _start_factors(weight: Tensor, config: NoraConfig, name: str) -> Factors:
    find = outer_factors if config.find_outer is None else config.find_outer
    mean_abs_input = (config.mean_abs_inputs or {}).get(name)
    try:
        return find(weight, config.outer_rank, config.outer, mean_abs_input)
    except StudioError as error:
        raise StudioError(f"{name}: {error} Alternatively, remove it from the targets.") from error
