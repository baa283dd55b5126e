"""torch.compile compiles adapted blocks without graph breaks, and results and gradients agree."""

import pytest
import torch
from peft import get_peft_model
from support.any_module import AnyModule
from support.families import FAMILIES, make
from support.tolerances import FLOAT32, FLOAT32_FACTORS, Tolerance
from torch import nn

from nora_studio.adapters.files.hotswap import hotswap_adapter
from nora_studio.nora import NoraConfig, NoraLinear


def adapted(family: str, dtype: torch.dtype = torch.float32, alpha: float | None = None):
    targets = list(FAMILIES[family].targets)
    config = NoraConfig(r=4, outer_rank=16, alpha=alpha, target_modules=targets)
    model = get_peft_model(make(FAMILIES[family], dtype=dtype), config)
    generator = torch.Generator().manual_seed(7)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.2 * torch.randn(parameter.shape, generator=generator)
    return model


def block_of(family: str, dtype: torch.dtype = torch.float32) -> tuple[nn.Module, tuple, dict]:
    """One adapted transformer block and what it is called with."""
    model: AnyModule = adapted(family, dtype).base_model.model
    generator = torch.Generator().manual_seed(1)
    if family == "unet":
        block = model.mid_block.attentions[0].transformer_blocks[0]
        x, text = (torch.randn(2, n, 64, generator=generator).to(dtype) for n in (4, 7))
        return block, (x,), {"encoder_hidden_states": text}
    x = torch.randn(2, 6, 32, generator=generator).to(dtype)
    if family == "clip":
        return model.encoder.layers[0], (x, None), {}
    positions = torch.arange(6)[None]
    angles = model.model.rotary_emb(x, positions)
    return model.model.layers[0], (x,), {"position_embeddings": angles}


def first(output) -> torch.Tensor:
    return output[0] if isinstance(output, tuple) else output


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


# "aot_eager" traces forward and backward as the default does, without a C++ compiler.
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "dtype", [torch.float32, pytest.param(torch.bfloat16, marks=pytest.mark.slow)]
)
def test_a_block_compiles_in_one_piece(family, dtype):
    block, inputs, named = block_of(family, dtype)
    layers = [m for m in block.modules() if isinstance(m, NoraLinear)]
    assert layers
    expected = first(block(*inputs, **named))
    expected.float().square().mean().backward()
    gradients = {n: p.grad for n, p in block.named_parameters() if p.grad is not None}
    block.zero_grad()
    compiled = torch.compile(block, fullgraph=True, backend="aot_eager")
    output = first(compiled(*inputs, **named))
    room: Tolerance = {"rtol": 1e-5, "atol": 1e-6}
    if dtype == torch.bfloat16:
        room = {"rtol": 2e-2, "atol": 2e-2}
    torch.testing.assert_close(output, expected, **room)
    output.float().square().mean().backward()
    assert len(gradients) == 2 * len(layers)
    for name, parameter in block.named_parameters():
        if name in gradients:
            torch.testing.assert_close(parameter.grad, gradients[name], rtol=5e-2, atol=1e-3)


def test_training_steps_and_a_hotswap_do_not_recompile(tmp_path):
    other = adapted("llama")
    for parameter in other.parameters():
        if parameter.requires_grad:
            parameter.data *= 1.5
    other.save_pretrained(tmp_path)
    model = adapted("llama")
    graphs = []

    def count(graph, inputs):
        graphs.append(graph)
        return graph.forward

    compiled: AnyModule = torch.compile(model, backend=count, fullgraph=True)
    with torch.no_grad():
        before = compiled(torch.tensor([[1, 5, 9]])).logits
        seen = len(graphs)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data += 0.1
        assert not torch.equal(compiled(torch.tensor([[1, 5, 9]])).logits, before)
        hotswap_adapter(compiled, tmp_path)
        swapped = compiled(torch.tensor([[1, 5, 9]])).logits
        expected = other(torch.tensor([[1, 5, 9]])).logits
    assert seen == len(graphs) == 1
    torch.testing.assert_close(swapped, expected, **FLOAT32)


@pytest.mark.slow
def test_a_block_compiles_to_machine_code_and_agrees():
    block, inputs, named = block_of("unet")
    with torch.no_grad():
        expected = block(*inputs, **named)
        output = torch.compile(block, fullgraph=True)(*inputs, **named)
    torch.testing.assert_close(output, expected, **FLOAT32_FACTORS)
