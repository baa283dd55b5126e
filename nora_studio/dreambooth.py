"""DreamBooth on SDXL: what one step sees, and what it computes."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from diffusers import StableDiffusionXLPipeline
from torch import Tensor, nn

from nora_studio.cache import LatentCache, encode_tokens, tokenize
from nora_studio.denoising import Denoising, with_offset
from nora_studio.prompts import replace_token

Batch = dict[str, Tensor]


class BatchDraws:
    """Draws training batches from cached latents, the same for every twin.

    Photos come in shuffled rounds; noise and timesteps come from generators of their own on the
    CPU, so that they are the same on every device and can be saved and restored. Timesteps are
    stratified: each of a batch falls in its own equal share of the schedule, which lowers the
    loss's variance (Kingma et al., arXiv 2107.00630, appendix I.1).
    """

    def __init__(
        self,
        cache: LatentCache,
        batch_size: int,
        timesteps: int,
        seed: int,
        prompts: Tensor | None = None,  # (photos,): which prompt is whose; None: one for all
        noise_offset: float = 0.0,
    ) -> None:
        self.cache, self.batch_size, self.timesteps = cache, batch_size, timesteps
        self.noise_offset = noise_offset
        self.prompts = torch.zeros(len(cache.mean), dtype=torch.int64)
        if prompts is not None:
            self.prompts = prompts
        self.generators = {
            name: torch.Generator().manual_seed(seed * 4 + offset)
            for offset, name in enumerate(("order", "noise", "timesteps", "posterior"))
        }
        self.queue = torch.empty(0, dtype=torch.int64)

    def _photos(self) -> Tensor:
        while len(self.queue) < self.batch_size:
            order = torch.randperm(len(self.cache.mean), generator=self.generators["order"])
            self.queue = torch.cat([self.queue, order])
        chosen, self.queue = self.queue[: self.batch_size], self.queue[self.batch_size :]
        return chosen

    def next(self) -> Batch:
        """One batch on the CPU: latents, noise, timesteps, time ids and numbers of prompts."""
        chosen = self._photos()
        mean, std = self.cache.mean[chosen], self.cache.std[chosen]
        jitter = torch.randn(mean.shape, generator=self.generators["posterior"])
        noise = torch.randn(mean.shape, generator=self.generators["noise"])
        places = torch.rand(self.batch_size, generator=self.generators["timesteps"])
        places = (torch.arange(self.batch_size) + places) / self.batch_size * self.timesteps
        return {
            "latents": mean + std * jitter,
            "noise": with_offset(noise, self.noise_offset, self.generators["noise"]),
            "timesteps": places.long().clamp(max=self.timesteps - 1),
            "time_ids": self.cache.time_ids[chosen],
            "prompts": self.prompts[chosen],
        }

    def state(self) -> dict[str, Tensor]:
        """Everything that the next batches depend on."""
        states = {name: generator.get_state() for name, generator in self.generators.items()}
        return {**states, "queue": self.queue}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go on exactly where `state` was taken."""
        for name, generator in self.generators.items():
            generator.set_state(state[name])
        self.queue = state["queue"].clone()


@dataclass(frozen=True)
class PromptEncoding:
    """The training prompts, as token ids and as the frozen base reads them."""

    ids: dict[str, Tensor]  # (prompts, tokens) for each text encoder
    hidden: dict[str, Tensor]  # (prompts, tokens, width) for each text encoder
    pooled: Tensor  # (prompts, projection)


@torch.no_grad()
def encode_prompts(
    pipe: StableDiffusionXLPipeline, prompts: Sequence[str], trigger: str
) -> PromptEncoding:
    """Tokenise prompts, the trigger in the place of "[V]", and encode them once with the base."""
    each = [tokenize(pipe, replace_token(prompt, trigger)) for prompt in prompts]
    ids = {part: torch.cat([one[part] for one in each]).to(pipe.device) for part in each[0]}
    encoders = {"text_encoder": pipe.text_encoder, "text_encoder_2": pipe.text_encoder_2}
    encoded = {part: encode_tokens(part, encoders[part], ids[part]) for part in ids}
    pooled = encoded["text_encoder_2"][1]
    assert pooled is not None
    return PromptEncoding(ids, {part: hidden for part, (hidden, _) in encoded.items()}, pooled)


class DreamboothStep(nn.Module):
    """SDXL's adapted parts as one module whose forward is the training loss.

    Fixed shapes and no host synchronisation inside, so that a step can be captured whole. A text
    encoder that is not trained is not here either: its output is a constant.
    """

    def __init__(
        self,
        unet: nn.Module,
        encoders: dict[str, nn.Module],  # the trained text encoders, by part name
        text: PromptEncoding,
        process: Denoising,
    ) -> None:
        super().__init__()
        self.unet = unet
        self.encoders = nn.ModuleDict(encoders)
        self.process = process
        for part, ids in text.ids.items():
            self.register_buffer(f"ids_{part}", ids, persistent=False)
            self.register_buffer(f"hidden_{part}", text.hidden[part], persistent=False)
        self.register_buffer("pooled", text.pooled, persistent=False)

    def _condition(self, prompts: Tensor) -> tuple[Tensor, Tensor]:
        """Text conditioning of a batch: (batch, tokens, width) and (batch, projection)."""
        size = len(prompts)

        def rows(name: str) -> Tensor:
            table = self.get_buffer(name)
            return table if len(table) == 1 else table[prompts]

        hiddens, pooled = [], rows("pooled")
        for part in ("text_encoder", "text_encoder_2"):
            if part in self.encoders:
                # One prompt for all is encoded once, whatever the batch.
                ids = rows(f"ids_{part}")
                hidden, live_pooled = encode_tokens(part, self.encoders[part], ids)
                pooled = pooled if live_pooled is None else live_pooled
            else:
                hidden = rows(f"hidden_{part}")
            hiddens.append(hidden)
        return torch.cat(hiddens, dim=-1).expand(size, -1, -1), pooled.expand(size, -1)

    def forward(
        self,
        latents: Tensor,
        noise: Tensor,
        timesteps: Tensor,
        time_ids: Tensor,
        prompts: Tensor,  # (batch,): which of the training prompts is whose
        importance: Tensor | None = None,  # (batch,): each picture's share of the loss
    ) -> Tensor:
        """The mean denoising loss of a batch (scalar, float32)."""
        given, level = self.process.question(latents, noise, timesteps)
        hidden, pooled = self._condition(prompts)
        dtype = next(self.unet.parameters()).dtype
        answer = self.unet(
            given.to(dtype),
            level,
            hidden.to(dtype),
            added_cond_kwargs={
                "text_embeds": pooled.to(dtype),
                "time_ids": time_ids.to(dtype),
            },
            return_dict=False,
        )[0]
        return self.process.loss(answer, latents, noise, timesteps, importance)
