"""The training step on questions: the decoder and the loss."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from nora_studio.adapters.methods.step_rules import PlainSteps, StepRules, with_penalty


class AnswerStep(nn.Module):
    """An adapted causal language model as a module whose forward is the training loss."""

    def __init__(self, decoder: nn.Module, rules: StepRules | None = None) -> None:
        """Wrap an adapted model, and its method's rules, whose penalty is added to the loss."""
        super().__init__()
        self.decoder = decoder
        self.rules = rules or PlainSteps()

    def forward(
        self,
        input_ids: Tensor,  # (batch, tokens)
        labels: Tensor,
        position_ids: Tensor,
        share: Tensor,  # (batch,)
        attention_mask: Tensor | None = None,  # None: packed rows, separated by their positions
    ) -> Tensor:
        """Return the mean loss over the tokens with labels (scalar, float32)."""
        masks: dict[str, Any] = {"attention_mask": attention_mask, "position_ids": position_ids}
        logits = self.decoder(input_ids=input_ids, use_cache=False, **masks).logits
        return with_penalty(next_token_loss(logits, labels, share), self.rules)


def next_token_loss(
    logits: Tensor,  # (batch, tokens, vocabulary)
    labels: Tensor,  # (batch, tokens), -100 for tokens that are not in the loss
    share: Tensor,  # (batch,): rows over labels, of the whole batch
) -> Tensor:  # scalar, float32
    """Return the mean over rows of each row's summed cross-entropy times its share.

    With the shares of the whole batch, the mean over micro-batches and processes is the mean over
    all labels, as in transformers' loss.
    """
    errors = F.cross_entropy(
        logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten(), reduction="none"
    )
    return (errors.view(len(labels), -1).sum(dim=1) * share).mean()
