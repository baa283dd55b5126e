"""Inputs of the tiny UNet."""

import torch


def inputs(dtype: torch.dtype = torch.float32) -> dict:
    generator = torch.Generator().manual_seed(0)

    def numbers(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator).to(dtype)

    conditions = {"text_embeds": numbers(2, 32), "time_ids": numbers(2, 6)}
    return {
        "sample": numbers(2, 4, 4, 4),
        "timestep": torch.tensor([3, 900]),
        "encoder_hidden_states": numbers(2, 77, 64),
        "added_cond_kwargs": conditions,
        "return_dict": False,
    }
