"""What one training step on questions computes."""

from typing import Any

from torch import Tensor, nn

from nora_studio.sdxl.losses import next_token_loss


class AnswerStep(nn.Module):
    """An adapted causal language model as a module whose forward is the training loss."""

    def __init__(self, decoder: nn.Module) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(
        self,
        input_ids: Tensor,  # (batch, tokens)
        labels: Tensor,
        position_ids: Tensor,
        share: Tensor,  # (batch,)
        attention_mask: Tensor | None = None,  # None: rows are packed, and positions tell
    ) -> Tensor:
        """The mean loss over the learned tokens (scalar, float32)."""
        given: dict[str, Any] = {"attention_mask": attention_mask, "position_ids": position_ids}
        logits = self.decoder(input_ids=input_ids, use_cache=False, **given).logits
        return next_token_loss(logits, labels, share)
