"""Wrapped by DDP or FSDP on two processes, a training step equals the unwrapped one."""

import os
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from peft import get_peft_model
from safetensors.torch import load_file, save_file
from support.families import FAMILIES, make
from support.tolerances import FLOAT32_SMALL
from torch import Tensor, nn

from nora_studio.nora import NoraConfig

WORLD = 2
LAYERS = "LlamaDecoderLayer"


def adapted() -> nn.Module:
    """A Llama with moved NoRA on it, float32, the same in every process."""
    config = NoraConfig(r=4, outer_rank=16, target_modules=list(FAMILIES["llama"].targets))
    model = get_peft_model(make(FAMILIES["llama"]), config)
    generator = torch.Generator().manual_seed(7)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model


def batch() -> Tensor:
    return torch.randint(64, (4, 6), generator=torch.Generator().manual_seed(3))


def step(model: nn.Module, tokens: Tensor) -> None:
    """Forward, backward and one optimizer step."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.1)
    model(input_ids=tokens).logits.square().mean().backward()
    optimizer.step()


def trained_state(model: nn.Module) -> dict[str, Tensor]:
    return {
        name.replace("_fsdp_wrapped_module.", "").removeprefix("module."): parameter.detach()
        for name, parameter in model.named_parameters()
        if "nora_inner" in name
    }


def wrap_ddp(model: nn.Module) -> nn.Module:
    return nn.parallel.DistributedDataParallel(model)


def wrap_fsdp(model: nn.Module) -> nn.Module:
    from torch.distributed.fsdp import FullyShardedDataParallel
    from torch.distributed.fsdp.wrap import ModuleWrapPolicy

    kinds = {type(m) for m in model.modules() if type(m).__name__ == LAYERS}
    policy = ModuleWrapPolicy(kinds)
    device = torch.device("cpu")
    return FullyShardedDataParallel(
        model, auto_wrap_policy=policy, use_orig_params=True, device_id=device
    )


def wrap_fsdp2(model: nn.Module) -> nn.Module:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh("cpu", (WORLD,))
    for module in model.modules():
        if type(module).__name__ == LAYERS:
            fully_shard(module, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


WRAPPERS = {"ddp": wrap_ddp, "fsdp": wrap_fsdp, "fsdp2": wrap_fsdp2}


def work(rank: int, folder: str) -> None:
    """One process: join the other, and train in each kind of wrapper."""
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    store = f"file://{folder}/store"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=WORLD)
    for kind in WRAPPERS:
        train_wrapped(kind, rank, Path(folder))
        dist.barrier()
    dist.destroy_process_group()


def train_wrapped(kind: str, rank: int, folder: Path) -> None:
    """Wrap, train on this process's share of the batch, and save what came out."""
    model = WRAPPERS[kind](adapted())
    step(model, batch().chunk(WORLD)[rank])
    if kind == "fsdp":
        from torch.distributed.fsdp import FullyShardedDataParallel

        with FullyShardedDataParallel.summon_full_params(model):
            state = {name: tensor.clone() for name, tensor in trained_state(model).items()}
    else:
        from torch.distributed.tensor import DTensor

        state = trained_state(model)
        state = {n: t.full_tensor() if isinstance(t, DTensor) else t for n, t in state.items()}
    state = {name: tensor.contiguous() for name, tensor in state.items()}
    save_file(state, folder / f"{kind}-{rank}.safetensors")


@pytest.fixture(scope="module")
def outcome(tmp_path_factory) -> Path:
    """Folder with what each process trained in each wrapper."""
    folder = tmp_path_factory.mktemp("distributed")
    # Forked, which saves each process its imports; here nothing has started a thread yet.
    torch.multiprocessing.start_processes(work, (str(folder),), nprocs=WORLD, start_method="fork")
    return folder


@pytest.mark.parametrize("kind", WRAPPERS)
def test_a_wrapped_step_equals_the_plain_one_on_every_process(kind, outcome):
    plain = adapted()
    start = {name: tensor.clone() for name, tensor in trained_state(plain).items()}
    step(plain, batch())
    expected = trained_state(plain)
    assert len(expected) == 16
    for rank in range(WORLD):
        got = load_file(outcome / f"{kind}-{rank}.safetensors")
        assert got.keys() == expected.keys()
        for name, tensor in expected.items():
            assert not torch.equal(tensor, start[name])
            torch.testing.assert_close(got[name], tensor, **FLOAT32_SMALL)
