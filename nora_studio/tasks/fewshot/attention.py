"""Convert open_clip's packed attention to four linear layers for adapters, and back."""

from typing import Any

import torch
import torch.nn.functional as F
from open_clip.transformer import ResidualAttentionBlock
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from nora_studio.errors import StudioError

PROJECTIONS = ("q_proj", "k_proj", "v_proj")
TARGETS = (*PROJECTIONS, "out_proj")
"""Names of the four layers, for `target_modules`."""
PROBE_TOKENS = 7


class QKVProjection(nn.Linear):
    """One of q, k, v: a linear layer, whose output its attention may have computed already.

    Three small products may round differently from one large product, so the attention computes
    the large one and gives each layer its part. The layer returns that part when an adapter calls
    it with the same tensor, and computes the product for any other.
    """

    known: tuple[Tensor, Tensor] | None = None
    """An input and the layer's output for it, set while its attention runs."""

    def forward(self, input: Tensor) -> Tensor:
        """Return the output that the attention computed for this very tensor, else compute it."""
        if self.known is not None and self.known[0] is input:
            return self.known[1]
        return super().forward(input)


class UnpackedAttention(nn.Module):
    """An `nn.MultiheadAttention` whose packed projection is three linear layers.

    It computes the same products as torch, in the same order and memory layout, so that on a CPU in
    float32 it is bitwise equal. (In evaluation without gradients torch uses a fused kernel, which
    differs from its own training path by rounding; this class does not.)
    """

    tokens_first: bool | None = None
    """Whether to use torch's memory layout. None: on a CPU only; on other devices outputs are not
    compared bitwise, and its copies cost time."""

    def __init__(self, packed: nn.MultiheadAttention) -> None:
        super().__init__()
        self.num_heads, self.embed_dim = packed.num_heads, packed.embed_dim
        self.has_bias = packed.in_proj_bias is not None
        weights = packed.in_proj_weight.detach().chunk(3)
        biases = packed.in_proj_bias.detach().chunk(3) if self.has_bias else (None, None, None)
        for name, weight, bias in zip(PROJECTIONS, weights, biases, strict=True):
            setattr(self, name, _linear(QKVProjection, weight, bias))
        self.out_proj = _linear(nn.Linear, packed.out_proj.weight.detach(), packed.out_proj.bias)
        self.train(packed.training)

    def forward(
        self,
        query: Tensor,  # (batch, tokens, width)
        key: Tensor | None = None,  # equal to `query`: self-attention
        value: Tensor | None = None,
        need_weights: bool = False,
        attn_mask: Tensor | None = None,  # added to the logits, (tokens, tokens) or per head
    ) -> tuple[Tensor, None]:
        """Return what `nn.MultiheadAttention` with `batch_first` returns, without the weights."""
        tokens_first = self.tokens_first
        if tokens_first is None:
            tokens_first = query.device.type == "cpu"
        x = query.transpose(0, 1) if tokens_first else query
        order = (1, 2, 0, 3) if tokens_first else (0, 2, 1, 3)
        heads = (*x.shape[:2], self.num_heads, x.shape[2] // self.num_heads)
        q, k, v = (one.reshape(heads).permute(order) for one in self._project(x))
        if attn_mask is not None and attn_mask.dim() == 3:
            attn_mask = attn_mask.view(len(query), self.num_heads, *attn_mask.shape[1:])
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=_as(attn_mask, q))
        if not tokens_first:
            return self.out_proj(mixed.transpose(1, 2).reshape(x.shape)), None
        flat = mixed.permute(2, 0, 1, 3).reshape(-1, x.shape[2])
        return self.out_proj(flat).view(x.shape).transpose(0, 1), None

    def _project(self, x: Tensor) -> list[Tensor]:
        """Return q, k and v, adapters included."""
        layers = [getattr(self, name) for name in PROJECTIONS]
        bases: list[Any] = [
            layer.get_base_layer() if isinstance(layer, BaseTunerLayer) else layer
            for layer in layers
        ]
        weight = torch.cat([base.weight for base in bases])
        bias = torch.cat([base.bias for base in bases]) if self.has_bias else None
        outputs = F.linear(x, weight, bias).chunk(3, dim=-1)
        adapted = []
        for layer, base, output in zip(layers, bases, outputs, strict=True):
            base.known = (x, output.contiguous())  # AdaLoRA adds to it in place.
            try:
                adapted.append(layer(x))
            finally:
                base.known = None
        return adapted

    def packed(self) -> nn.MultiheadAttention:
        """Return the attention with packed weights, as in open_clip.

        Raises:
            StudioError: a projection still has an adapter.
        """
        layers = [getattr(self, name) for name in TARGETS]
        if any(isinstance(layer, BaseTunerLayer) for layer in layers):
            raise StudioError(
                "an attention with adapters on it cannot be packed. Merge or detach them first."
            )
        weight = layers[0].weight
        whole = nn.MultiheadAttention(
            self.embed_dim,
            self.num_heads,
            bias=self.has_bias,
            batch_first=True,
            device=weight.device,
            dtype=weight.dtype,
        )
        with torch.no_grad():
            whole.in_proj_weight.copy_(torch.cat([layer.weight for layer in layers[:3]]))
            whole.out_proj.weight.copy_(layers[3].weight)
            if self.has_bias:
                whole.in_proj_bias.copy_(torch.cat([layer.bias for layer in layers[:3]]))
                whole.out_proj.bias.copy_(layers[3].bias)
        whole.requires_grad_(False).train(self.training)
        return whole


def _as(mask: Tensor | None, queries: Tensor) -> Tensor | None:
    """Convert a mask to the queries' dtype, which autocast may have made narrower."""
    return mask if mask is None or mask.dtype == torch.bool else mask.to(queries.dtype)


def _linear(kind: type[nn.Linear], weight: Tensor, bias: Tensor | None) -> nn.Linear:
    rows, columns = weight.shape
    layer = kind(columns, rows, bias=bias is not None, device="meta")
    layer.weight = nn.Parameter(weight.clone(), requires_grad=False)
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach().clone(), requires_grad=False)
    return layer


def unpack(model: nn.Module) -> int:
    """Replace every packed attention of a model's blocks by four linear layers; freeze the model.

    The outputs for a probe are compared before and after; on a CPU in float32 bitwise.

    Returns:
        Number of blocks.

    Raises:
        StudioError: an attention is of another type, or its outputs differ.
    """
    model.requires_grad_(False)  # Torch multiplies weights that require a gradient differently.
    blocks = {
        name: block
        for name, block in model.named_modules()
        if isinstance(block, ResidualAttentionBlock)
    }
    for name, block in blocks.items():
        packed: Any = block.attn
        if isinstance(packed, UnpackedAttention):
            continue
        plain = isinstance(packed, nn.MultiheadAttention) and packed.in_proj_weight is not None
        if not plain or packed.bias_k is not None or packed.add_zero_attn or packed.dropout:
            raise StudioError(
                f"{name}.attn is a {type(packed).__name__} that cannot be unpacked; expected a "
                "plain MultiheadAttention with one packed projection, and no dropout or added "
                "bias. Choose one of open_clip's plain ViT models."
            )
        unpacked = UnpackedAttention(packed)
        _check_equal(name, packed, unpacked)
        block.attn = unpacked  # pyright: ignore[reportAttributeAccessIssue]
    return len(blocks)


def pack(model: nn.Module) -> None:
    """Undo `unpack`, so that the model's tensors have the names of open_clip's files again.

    Raises:
        StudioError: the model still has an adapter.
    """
    for _, block in model.named_modules():
        if isinstance(block, ResidualAttentionBlock) and isinstance(block.attn, UnpackedAttention):
            block.attn = block.attn.packed()


@torch.no_grad()
def _check_equal(name: str, packed: nn.MultiheadAttention, unpacked: UnpackedAttention) -> None:
    weight = packed.in_proj_weight
    generator = torch.Generator().manual_seed(0)
    probe = torch.randn(2, PROBE_TOKENS, packed.embed_dim, generator=generator).to(weight)
    mask = torch.full((PROBE_TOKENS, PROBE_TOKENS), float("-inf")).triu(1).to(weight)
    was_training = packed.training
    packed.train()  # In evaluation torch would use the fused kernel.
    try:
        for one in (None, mask):
            theirs = packed(probe, probe, probe, need_weights=False, attn_mask=one)[0]
            ours = unpacked(probe, attn_mask=one)[0]
            exact = weight.device.type == "cpu" and weight.dtype == torch.float32
            same = torch.equal(theirs, ours) if exact else torch.allclose(theirs, ours, atol=1e-2)
            if not same:
                apart = (theirs - ours).abs().max().item()
                raise StudioError(
                    f"{name}.attn has other outputs when it is unpacked (off by {apart:.3g}): "
                    f"torch {torch.__version__} computes attention differently. Use torch 2.6 or "
                    "later."
                )
    finally:
        packed.train(was_training)
