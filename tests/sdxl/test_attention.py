"""`--attention` chooses the kernel, with the same results up to rounding, or is refused."""

import pytest
import torch
from support.trainer import only_unet, run_trainer, tiny_arguments

from nora_studio.sdxl.base import load_base

from support.unet_inputs import inputs  # isort: skip

CPU = torch.device("cpu")
RUNS = {
    "auto": "aten::_scaled_dot_product_flash_attention_for_cpu",
    "flash": "aten::_scaled_dot_product_flash_attention_for_cpu",
    "math": "aten::_scaled_dot_product_attention_math",
    "eager": "aten::baddbmm",
}


def profiled(base, attention: str) -> tuple[set[str], torch.Tensor]:
    """Names of all that ran, forward and back, and the gradient at the UNet's input."""
    unet = load_base(str(base), torch.float32, CPU, attention=attention).unet
    given = inputs()
    given["sample"].requires_grad_()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        unet(**given)[0].square().sum().backward()
    return {event.key for event in profile.key_averages()}, given["sample"].grad


@pytest.mark.slow
def test_each_choice_runs_its_own_kernel(tiny_base):
    gradients = {}
    for attention, wanted in RUNS.items():
        ran, gradients[attention] = profiled(tiny_base, attention)
        assert wanted in ran, attention
        assert (set(RUNS.values()) - {wanted}).isdisjoint(ran), attention
    for gradient in gradients.values():
        torch.testing.assert_close(gradient, gradients["auto"], rtol=1e-3, atol=1e-4)


def test_eager_attention_applies_to_the_text_encoders_too(tiny_base):
    for attention in ("auto", "eager"):
        pipe = load_base(str(tiny_base), torch.float32, CPU, attention=attention)
        used = {pipe.text_encoder.config._attn_implementation}
        used.add(pipe.text_encoder_2.config._attn_implementation)
        assert used == {"eager" if attention == "eager" else "sdpa"}


@pytest.mark.slow
def test_a_run_with_a_chosen_kernel_is_verified(tiny_base, photo_folder, tmp_path):
    changes = only_unet({"attention": "math", "steps": 2, "sample-every": 0})
    changes |= {"gradient-checkpointing": True}
    outcome = run_trainer(*tiny_arguments(tiny_base, photo_folder, tmp_path, "lora", changes))
    assert outcome.status == 0, outcome.err
    assert "verified in a fresh pipeline" in outcome.out


@pytest.mark.parametrize("attention", ["cudnn", "efficient", "xformers"])
def test_a_kernel_that_is_not_available_is_refused_in_one_line(
    tiny_base, photo_folder, tmp_path, attention
):
    if torch.cuda.is_available():
        pytest.skip("it may be there")
    changes = {"attention": attention}
    outcome = run_trainer(*tiny_arguments(tiny_base, photo_folder, tmp_path, "lora", changes))
    assert outcome.status == 2
    assert len(outcome.errors) == 1
    assert outcome.errors[0].startswith(f"error: --attention {attention}: ")
    assert "eave the option out" in outcome.errors[0]
    assert not list(tmp_path.iterdir())
