"""The training step of DreamBooth on SDXL: text conditioning, UNet and loss."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from diffusers import StableDiffusionXLPipeline
from torch import Tensor, nn

from nora_studio.adapters.methods.step_rules import PlainSteps, StepRules, with_penalty
from nora_studio.photos.prompts import replace_token
from nora_studio.runs.disk_cache import TensorCache
from nora_studio.sdxl.cache import encode_tokens_cached, tokenize
from nora_studio.sdxl.diffusion import Denoising, encode_tokens


@dataclass(frozen=True)
class PromptEncoding:
    """The training prompts: their token ids, and their encodings by the frozen base."""

    ids: dict[str, Tensor]  # (prompts, tokens) for each text encoder
    hidden: dict[str, Tensor]  # (prompts, tokens, width) for each text encoder
    pooled: Tensor  # (prompts, projection)
    is_unconditional: Tensor | None = None  # (prompts,), bool: replaced by zeros; None: none is


@torch.no_grad()
def encode_prompts(
    pipe: StableDiffusionXLPipeline,
    prompts: Sequence[str],
    trigger: str,
    store: TensorCache | None = None,
) -> PromptEncoding:
    """Tokenise prompts, with the trigger for "[V]", and encode them once with the base.

    An empty prompt is encoded as the base's pipeline does: for SDXL, as zeros. Encoders on the CPU
    are moved back there afterwards, and stay there if `store` holds all prompts.
    """
    each = [tokenize(pipe, replace_token(prompt, trigger)) for prompt in prompts]
    ids = {part: torch.cat([one[part] for one in each]) for part in each[0]}
    encoders = {"text_encoder": pipe.text_encoder, "text_encoder_2": pipe.text_encoder_2}
    device = pipe.device
    encoded = {
        part: encode_tokens_cached(part, encoders[part], ids[part], store, device) for part in ids
    }
    pooled = encoded["text_encoder_2"][1]
    assert pooled is not None
    is_unconditional = None
    if "" in prompts and pipe.config["force_zeros_for_empty_prompt"]:
        is_unconditional = torch.tensor([prompt == "" for prompt in prompts], device=device)
    return PromptEncoding(
        ids={part: rows.to(device) for part, rows in ids.items()},
        hidden={part: hidden for part, (hidden, _) in encoded.items()},
        pooled=pooled,
        is_unconditional=is_unconditional,
    )


class DreamboothStep(nn.Module):
    """SDXL's adapted parts as one module whose forward returns the training loss.

    Shapes are fixed, and nothing synchronises with the host, so that a step can be captured as a
    graph. A text encoder that is not trained is not part of the module: its output is a buffer.
    """

    def __init__(
        self,
        unet: nn.Module,
        encoders: dict[str, nn.Module],  # the trained text encoders, by part name
        text: PromptEncoding,
        process: Denoising,
        rules: StepRules | None = None,  # the method's, whose penalty is added to the loss
    ) -> None:
        super().__init__()
        self.rules = rules or PlainSteps()
        self.unet = unet
        self.encoders = nn.ModuleDict(encoders)
        self.process = process
        self.encoders_frozen = False
        for part, ids in text.ids.items():
            self.register_buffer(f"ids_{part}", ids, persistent=False)
            self.register_buffer(f"hidden_{part}", text.hidden[part], persistent=False)
        self.register_buffer("pooled", text.pooled, persistent=False)
        self.register_buffer("is_unconditional", text.is_unconditional, persistent=False)

    @torch.no_grad()
    def freeze_encoders(self) -> None:
        """Replace the text encoders by their current outputs, computed without dropout."""
        for part, encoder in self.encoders.items():
            encoder.eval()
            rows = self.get_buffer(f"ids_{part}").split(1)
            encoded = [encode_tokens(part, encoder, row) for row in rows]
            self.register_buffer(
                f"hidden_{part}", torch.cat([hidden for hidden, _ in encoded]), persistent=False
            )
            pooled = [pooled for _, pooled in encoded if pooled is not None]
            if pooled:
                self.register_buffer("pooled", torch.cat(pooled), persistent=False)
        self.encoders_frozen = True

    def _condition(self, prompts: Tensor) -> tuple[Tensor, Tensor]:
        """Return a batch's text conditioning: (batch, tokens, width) and (batch, projection)."""
        size = len(prompts)

        def rows(name: str) -> Tensor:
            table = self.get_buffer(name)
            return table if len(table) == 1 else table[prompts]

        hiddens, pooled = [], rows("pooled")
        for part in ("text_encoder", "text_encoder_2"):
            if part in self.encoders and not self.encoders_frozen:
                # A single prompt is encoded once, not for each row of the batch.
                ids = rows(f"ids_{part}")
                hidden, live_pooled = encode_tokens(part, self.encoders[part], ids)
                pooled = pooled if live_pooled is None else live_pooled
            else:
                hidden = rows(f"hidden_{part}")
            hiddens.append(hidden)
        hidden = torch.cat(hiddens, dim=-1).expand(size, -1, -1)
        pooled = pooled.expand(size, -1)
        if self.is_unconditional is not None:
            kept = ~self.get_buffer("is_unconditional")[prompts]
            hidden, pooled = hidden * kept[:, None, None], pooled * kept[:, None]
        return hidden, pooled

    def forward(
        self,
        latents: Tensor,
        noise: Tensor,
        timesteps: Tensor,
        time_ids: Tensor,
        prompts: Tensor,  # (batch,): index of each image's prompt
        importance: Tensor | None = None,  # (batch,): weight of each image in the loss
        mask: Tensor | None = None,  # (batch, 1, height, width), 1 on average
    ) -> Tensor:
        """Return the mean denoising loss of a batch (scalar, float32)."""
        noisy, level = self.process.model_input(latents, noise, timesteps)
        hidden, pooled = self._condition(prompts)
        dtype = next(self.unet.parameters()).dtype
        prediction = self.unet(
            noisy.to(dtype),
            level,
            hidden.to(dtype),
            added_cond_kwargs={
                "text_embeds": pooled.to(dtype),
                "time_ids": time_ids.to(dtype),
            },
            return_dict=False,
        )[0]
        loss = self.process.loss(prediction, latents, noise, timesteps, importance, mask)
        return with_penalty(loss, self.rules)
