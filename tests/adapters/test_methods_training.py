"""What methods add to training: their own optimizers, sampled ranks, allocated ranks."""

import re
import shutil

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.optimizers import create_lorafa_optimizer
from support.families import make
from support.halves import bytes_of
from support.llama_adapters import FAMILY, adapted
from support.loop import built
from support.trainer import run_trainer, tiny_arguments, tiny_options
from torch import nn

from nora_studio.adapters.methods.attachment import adapter_parameters
from nora_studio.adapters.methods.optimizers import make_optimizer
from nora_studio.adapters.methods.table import METHODS
from nora_studio.mini.assets import embedded
from nora_studio.options.config import PartOptions
from nora_studio.options.part_settings import part_settings
from nora_studio.options.recommended import recommended
from nora_studio.trainer.checkpoints import CheckpointState, read_state, write_state

PARTS = ("unet", "text-encoder", "text-encoder-2")


def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    (FAMILY.run(model) - 1).square().mean().backward()
    optimizer.step()


@pytest.mark.parametrize("method", METHODS)
def test_an_optimizer_holds_every_trained_number_once_at_its_parts_rate(method):
    parts = {"one": adapted(method), "two": adapted(method)}
    optimizer = make_optimizer(method, parts, {"one": 1e-2, "two": 1e-3}, weight_decay=0.1)
    held = [p for g in optimizer.param_groups for p in g["params"] if p.requires_grad]
    wanted = [p for module in parts.values() for p in adapter_parameters(module).values()]
    assert {id(p) for p in held} == {id(p) for p in wanted} and len(held) == len(wanted)
    rates = {group["name"]: group["lr"] for group in optimizer.param_groups}
    assert len(rates) == len(optimizer.param_groups)
    assert (rates["one"], rates["two"]) == (1e-2, 1e-3)
    assert all(group["weight_decay"] == 0.1 for group in optimizer.param_groups)


def test_vbloras_bank_learns_at_a_tenth_of_its_parts_rate():
    optimizer = make_optimizer("vblora", {"unet": adapted("vblora")}, {"unet": 1e-2}, 0.0)
    rates = {group["name"]: group["lr"] for group in optimizer.param_groups}
    assert rates == {"unet": 1e-2, "unet bank": pytest.approx(1e-3)}


@pytest.mark.parametrize("ratio", [16.0, 4.0])
def test_lora_plus_learns_the_output_side_faster(ratio):
    model = adapted("lora+")
    optimizer = make_optimizer("lora+", {"unet": model}, {"unet": 1e-3}, 0.0, ratio)
    groups = {group["name"]: group for group in optimizer.param_groups}
    names = {id(p): name for name, p in model.named_parameters()}
    assert groups["unet up"]["lr"] == pytest.approx(ratio * 1e-3)
    assert all("lora_B" in names[id(p)] for p in groups["unet up"]["params"])
    assert all("lora_A" in names[id(p)] for p in groups["unet"]["params"])


def test_lora_fa_steps_as_pefts_optimizer_and_keeps_the_input_side():
    ours = adapted("lora-fa")
    config = LoraConfig(r=4, lora_alpha=4, target_modules=list(FAMILY.targets))
    theirs = get_peft_model(make(FAMILY), config)
    matching = {n.removeprefix("base_model.model."): p for n, p in theirs.named_parameters()}
    for name, parameter in ours.named_parameters():
        matching[name].data.copy_(parameter.data)
    frozen = {n: p.clone() for n, p in ours.named_parameters() if "lora_A" in n}
    optimizers = (
        make_optimizer("lora-fa", {"unet": ours}, {"unet": 1e-2}, 0.0),
        create_lorafa_optimizer(theirs, r=4, lora_alpha=4, lr=1e-2),
    )
    for _ in range(3):
        for model, optimizer in zip((ours, theirs), optimizers, strict=True):
            step(model, optimizer)
            optimizer.zero_grad()
    for name, parameter in adapter_parameters(ours).items():
        assert "lora_B" in name and parameter.any()
        assert torch.equal(parameter, matching[name])
    assert all(torch.equal(p, frozen[n]) for n, p in ours.named_parameters() if n in frozen)


def test_lora_fa_resumes_from_a_checkpoint_by_name(tmp_path):
    whole, halves = adapted("lora-fa"), adapted("lora-fa")
    rates = {"unet": 1e-2}
    first, second = (make_optimizer("lora-fa", {"unet": m}, rates, 0.0) for m in (whole, halves))
    for _ in range(2):
        step(whole, first)
        step(halves, second)
    write_state(tmp_path, CheckpointState(2, second.state_dict(), {}, {}, {}))
    third = make_optimizer("lora-fa", {"unet": halves}, rates, 0.0)
    third.load_state_dict(read_state(tmp_path).optimizer)
    step(whole, first)
    step(halves, third)
    mine, other = adapter_parameters(whole), adapter_parameters(halves)
    assert all(torch.equal(mine[name], other[name]) for name in mine)


def test_the_logged_loss_leaves_adaloras_penalty_out(tiny_base, photo_folder, tmp_path):
    _, batches, (plain, allotting) = built(
        tiny_base, photo_folder, tmp_path, method="lora,adalora", **unnested()
    )
    batch = batches.next()
    losses = [state.model(**batch) for state in (plain, allotting)]
    assert losses[0].item() == losses[1].item()  # both start at the base
    losses[1].backward()
    factors = [p for p in allotting.parameters if p.ndim == 2 and 1 not in p.shape]
    gradients = [factor.grad for factor in factors]  # by the penalty: E is zero still
    assert all(grad is not None and grad.any() for grad in gradients)


def unnested() -> dict:
    part = PartOptions(rank=2, learning_rate=0.05)
    return {"unet": part, "text_encoder": part, "text_encoder_2": part}


def quick(method: str) -> dict:
    """Flags for a run of seconds that moves every method to where it can be seen."""
    flags: dict[str, object] = {"sample-every": 0, "checkpoint-every": 3}
    for part in PARTS:
        # Blocks of 4 for oft; a rank that adalora can take ranks from.
        flags |= {f"{part}.rank": 4, f"{part}.learning-rate": 0.1}
        if "nora" in method:
            flags[f"{part}.outer-rank"] = 8
    return flags


@pytest.mark.parametrize(
    "method",
    [pytest.param(one, marks=pytest.mark.slow) for one in ("dylora,adalora", "lora-fa,vera")],
)
def test_twins_of_any_method_resume_to_the_same_bytes_and_are_proven(
    method, tiny_base, photo_folder, tmp_path
):
    """The second run finds its sixth step undone and goes on after its third."""
    runs = {}
    for name in ("whole", "halves"):
        changes = quick(method) | {"steps": 6, "keep-checkpoints": 3}
        arguments = tiny_arguments(tiny_base, photo_folder, tmp_path / name, method, changes)
        outcome = run_trainer(*arguments)
        assert (outcome.status, outcome.errors) == (0, []), outcome.err
        assert outcome.out.count("verified in a fresh pipeline") == 2
        runs[name] = [tmp_path / name / f"mug-{twin}" for twin in method.split(",")]
    for folder in runs["halves"]:
        shutil.rmtree(folder / "checkpoints" / "step-000006")
        shutil.rmtree(folder / "adapter")
    outcome = run_trainer(*arguments, "--resume")
    assert outcome.status == 0, outcome.err
    assert "Continuing after step 3 of 6" in outcome.out
    for whole, halves in zip(runs["whole"], runs["halves"], strict=True):
        assert bytes_of(halves / "checkpoints" / "step-000006") == bytes_of(
            whole / "checkpoints" / "step-000006"
        )
        assert bytes_of(halves / "adapter") == bytes_of(whole / "adapter")


@pytest.mark.parametrize("method", ["tied-lora", pytest.param("oft", marks=pytest.mark.slow)])
def test_a_run_is_proven_by_a_fresh_pipeline(method, tiny_base, photo_folder, tmp_path):
    arguments = tiny_arguments(
        tiny_base, photo_folder, tmp_path, method, quick(method) | {"steps": 3}
    )
    outcome = run_trainer(*arguments)
    assert outcome.status == 0, outcome.err
    assert "verified in a fresh pipeline" in outcome.out


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_every_method_is_proven_on_the_embedded_model(method, tmp_path):
    """With its recommended settings; adalora, which only begins to move in 3 steps, at 10 times."""
    photos = embedded("subjects") / "sunrise-mug" / "photos"
    words = ["--instance-dir", photos, "--prompt", "a photo of a [V] mug", "--method", method]
    words += ["--output-dir", tmp_path, "--steps", 3, "--sample-steps", 3, "--warmup-steps", 1]
    if method == "adalora":
        words += ["--unet.learning-rate", 0.1]
    outcome = run_trainer(*map(str, words))
    assert outcome.status == 0, outcome.err
    assert "verified in a fresh pipeline" in outcome.out


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (
            {"method": "oft", "unet.alpha": 2},
            "--unet.alpha: not an option of --method oft, only of no",
        ),
        ({"method": "lokr,oft", "dropout": 0.1}, "--dropout: not an option of --method lokr,oft"),
        ({"method": "lora", "lora-plus-ratio": 4}, "--lora-plus-ratio: .* lora, only of lora+"),
        (
            {"method": "vera,dora", "outer": "randomized"},
            "--outer: not an option of --method vera,",
        ),
        (
            {"method": "lora,oft", "override": "oft.unet.alpha=3"},
            "oft.unet.alpha=3: not an option of --method oft",
        ),
        (
            {"method": "lora,nora", "override": "lora.unet.outer-rank=3"},
            "lora.unet.outer-rank=3: not an option of --method lora",
        ),
        (
            {"method": "lora_fa"},
            "must be one of nora, .*got 'lora_fa'. Did you mean lora-fa",
        ),
    ],
)
def test_options_that_do_not_fit_a_method_are_refused_by_name(
    flags, words, tiny_base, photo_folder, tmp_path
):
    usual = {f"{p}.{n}": None for p in PARTS for n in ("rank", "outer-rank", "learning-rate")}
    arguments = tiny_arguments(tiny_base, photo_folder, tmp_path, "lora", usual | flags)
    outcome = run_trainer(*arguments)
    assert outcome.status == 2 and len(outcome.errors) == 1
    assert re.search(words, outcome.errors[0]), outcome.errors
    assert not list(tmp_path.iterdir())


def test_an_override_can_name_a_method_with_a_dash(tiny_base, photo_folder, tmp_path):
    changes = unnested() | {"method": "lora-fa,lora+", "override": ("lora-fa.unet.rank=3",)}
    options = tiny_options(tiny_base, photo_folder, tmp_path, **changes)
    assert part_settings(options, "lora-fa")["unet"].rank == 3
    assert part_settings(options, "lora+")["unet"].rank == 2


@pytest.mark.parametrize("model", ["embedded", "anything/else"])
def test_every_methods_default_rates_fit_its_settings(model):
    for name, method in METHODS.items():
        usual = recommended(name, model)
        assert 0 < usual.text <= usual.unet < 0.1 and usual.rank >= 1, name
        assert (usual.outer_rank is not None) == ("outer_rank" in method.settings), name
