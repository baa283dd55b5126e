"""One subject's training, put together: adapters on a shared base, samples, and the final proof."""

import contextlib
import gc
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs
from diffusers import StableDiffusionXLPipeline
from diffusers.optimization import get_scheduler
from PIL import Image
from torch import Tensor, nn

from nora_studio import __version__
from nora_studio.atomic import replacing
from nora_studio.config import DreamboothOptions
from nora_studio.denoising import Denoising
from nora_studio.dreambooth import DreamboothStep, PromptEncoding
from nora_studio.errors import StudioError
from nora_studio.files import AdapterCard, load_weights, write_adapter
from nora_studio.fingerprints import fingerprint
from nora_studio.generate import Recipe, adapter_on, draw, save_picture
from nora_studio.loop import Trainee
from nora_studio.methods import (
    LORA_PLUS_RATIO,
    METHODS,
    AdapterSpec,
    StepRules,
    adapter_parameters,
    attach,
    make_optimizer,
    step_rules,
)
from nora_studio.models import (
    all_awake,
    load_sdxl,
    parts_of,
    share_weights,
    used_targets,
    with_parts,
)
from nora_studio.nora.outer_cache import cached_outer_factors
from nora_studio.part_settings import PartSettings
from nora_studio.runs import Run


@dataclass(frozen=True)
class Subject:
    """What every twin shares: options, the frozen base, and the words for the subject."""

    options: DreamboothOptions
    pipe: StableDiffusionXLPipeline
    size: int
    """Side of the training pictures in pixels."""
    trigger: str
    text: PromptEncoding
    process: Denoising
    activations: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)
    """Part -> layer -> mean |x| per input channel, where the outer factors follow activations."""


def build_trainee(
    subject: Subject,
    method: str,
    settings: dict[str, PartSettings],
    run: Run,
    accelerator: Accelerator,
) -> Trainee:
    """Attach one method to a tree of its own over the shared base, with optimizer and schedule.

    Raises:
        StudioError: a rank does not fit, or the method is unknown.
    """
    options, base = subject.options, parts_of(subject.pipe)
    torch.manual_seed(options.seed)  # Adapter initialisation.
    parts: dict[str, nn.Module] = {}
    rates = {part: values.learning_rate for part, values in settings.items()}
    for part, values in settings.items():
        module = share_weights(base[part])
        spec = _adapter_spec(options, method, values, subject.activations.get(part))
        with cached_outer_factors() if options.cache else contextlib.nullcontext():
            attach(module, used_targets(part, module, options.targets or "attention"), spec)
        parts[part] = module
    rules = step_rules(method, parts, options.seed)
    step = _step_module(subject, parts, rules)
    optimizer = make_optimizer(
        method, parts, rates, options.weight_decay, options.lora_plus_ratio or LORA_PLUS_RATIO
    )
    schedule = get_scheduler(
        # Its plain "constant" leaves the warm-up out.
        "constant_with_warmup" if options.schedule == "constant" else options.schedule,
        optimizer,
        num_warmup_steps=options.warmup_steps,
        num_training_steps=options.steps,
    )
    model, optimizer = accelerator.prepare(step, optimizer)
    trained = [p for module in parts.values() for p in adapter_parameters(module).values()]
    card = _card(subject, method, list(parts), sum(parameter.numel() for parameter in trained))

    return Trainee(
        label=method,
        run=run,
        accelerator=accelerator,
        model=model,
        optimizer=optimizer,
        schedule=schedule,
        parameters=trained,
        write_adapter=lambda folder, step: write_adapter(folder, parts, card.at(step)),
        load_adapter=lambda folder: load_weights(folder, parts),
        rules=rules,
    )


def _adapter_spec(
    options: DreamboothOptions,
    method: str,
    values: PartSettings,
    activations: Mapping[str, Tensor] | None,
) -> AdapterSpec:
    own = METHODS[method].settings
    plain = AdapterSpec(
        method=method,
        rank=values.rank,
        alpha=values.alpha,
        dropout=options.dropout if "dropout" in own else 0.0,
        outer_rank=values.outer_rank,
        total_steps=options.steps if "total_steps" in own else None,
    )
    if "outer" not in own:
        return plain
    return replace(plain, outer=options.outer, start=options.start, mean_abs_inputs=activations)


def _card(subject: Subject, method: str, parts: list[str], parameters: int) -> AdapterCard:
    options, base = subject.options, parts_of(subject.pipe)
    return AdapterCard(
        method=method,
        model=options.model,
        fingerprints={part: fingerprint(base[part]) for part in parts},
        trigger=subject.trigger,
        prompt=options.prompt,
        resolution=subject.size,
        steps=0,
        seed=options.seed,
        parameters=parameters,
        version=__version__,
    )


def _step_module(subject: Subject, parts: dict[str, nn.Module], rules: StepRules) -> DreamboothStep:
    """The trained parts as one module that returns the loss."""
    options = subject.options
    unet = parts["unet"] if "unet" in parts else parts_of(subject.pipe)["unet"]
    encoders = {part: module for part, module in parts.items() if part != "unet"}
    step = DreamboothStep(unet, encoders, subject.text, subject.process)
    if options.gradient_checkpointing:
        for part, module in parts.items():
            if part == "unet":
                module.enable_gradient_checkpointing()  # type: ignore[operator]
            else:
                module.gradient_checkpointing_enable()  # type: ignore[operator]

    def with_penalty(module: nn.Module, inputs: object, loss: Tensor) -> Tensor:
        """Add the gradient of the method's penalty, but not its value: logs compare losses."""
        penalty = rules.penalty()
        return loss if penalty is None else loss + (penalty - penalty.detach())

    # A hook, so that the penalty is part of the forward pass that data parallelism watches.
    step.register_forward_hook(with_penalty)
    return step.train()


def prepare_accelerator(mixed_precision: str) -> Accelerator:
    """An accelerator for one trainee."""
    # The text encoders' pooled and penultimate outputs leave single layers without a gradient.
    unused = DistributedDataParallelKwargs(find_unused_parameters=True)
    return Accelerator(mixed_precision=mixed_precision, kwargs_handlers=[unused])


def draw_base(subject: Subject, trainees: list[Trainee]) -> None:
    """Draw the fixed-seed picture of the bare base into every run."""
    picture = _draw(subject, subject.pipe)
    for trainee in trainees:
        save_picture(picture, trainee.run.sample_file("base"), _recipe(subject, None))


def draw_sample(subject: Subject, trainee: Trainee, step: int) -> Image.Image:
    """Draw the fixed-seed picture of a trainee as of a step into its run."""
    module: DreamboothStep = trainee.accelerator.unwrap_model(trainee.model)
    parts = {"unet": module.unet, **dict(module.encoders)}
    with _as_served(module, trainee.parameters):
        picture = _draw(subject, with_parts(subject.pipe, parts))
    save_picture(picture, trainee.run.sample_file(f"step-{step:06d}"), _recipe(subject, trainee))
    return picture


@contextlib.contextmanager
def _as_served(module: nn.Module, trained: list[nn.Parameter]) -> Iterator[None]:
    """In the state of a loaded adapter: evaluation mode, nothing trained.

    `torch.matmul` folds its operands differently where one asks for a gradient, even under
    `no_grad`, and then rounds differently; the proof compares pictures to the bit.
    """
    module.eval()
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
        module.train()


def _draw(subject: Subject, pipe: StableDiffusionXLPipeline) -> Image.Image:
    options = subject.options
    prompt = options.sample_prompt or options.prompt
    pictures = draw(
        pipe,
        [prompt],
        [options.sample_seed],
        steps=options.sample_steps,
        guidance=options.guidance,
        size=subject.size,
        trigger=subject.trigger,
    )
    with all_awake(pipe):
        return next(iter(pictures))[2]


def _recipe(subject: Subject, trainee: Trainee | None) -> Recipe:
    options = subject.options
    return Recipe(
        model=options.model,
        prompt=options.sample_prompt or options.prompt,
        seed=options.sample_seed,
        steps=options.sample_steps,
        guidance=options.guidance,
        size=subject.size,
        version=__version__,
        adapter=None if trainee is None else trainee.run.folder.name,
        method=None if trainee is None else trainee.label,
        trigger=subject.trigger,
    )


def finish(subject: Subject, trainee: Trainee) -> str:
    """Save the final adapter and prove it: a fresh pipeline must draw what the trainer drew.

    Returns:
        One line that says where the adapter is and how far the picture moved.

    Raises:
        StudioError: the proof failed; the adapter is kept for inspection, the run marked failed.
    """
    steps = subject.options.steps or 0
    trained = draw_sample(subject, trainee, steps)
    with replacing(trainee.run.adapter) as fresh:
        trainee.write_adapter(fresh, steps)
    run, device = trainee.run, trainee.accelerator.device
    trainee.accelerator.free_memory()
    del trainee
    gc.collect()
    fresh_pipe = load_sdxl(subject.options.model, subject.pipe.dtype, device)
    with adapter_on(fresh_pipe, run.adapter):
        reloaded = _draw(subject, fresh_pipe)
    with Image.open(run.sample_file("base")) as base:
        moved = _distance(trained, base)
    apart = _distance(trained, reloaded)
    # On a CPU the same arithmetic gives the same bytes; GPU kernels may differ by rounding.
    if apart > (0.0 if device.type == "cpu" else 1.0):
        problem = f"the reloaded adapter draws another picture (off by {apart:.2f} of 255)"
    elif moved < MINIMUM_CHANGE:
        problem = f"the adapter changes nothing to be seen ({moved:.3f} of 255)"
    else:
        run.set_status("finished", steps, steps, change=round(moved, 3))
        return f"{run.adapter}: proven by a fresh pipeline; the sample moved {moved:.1f} of 255."
    run.set_status("failed", steps, steps, error=problem)
    raise StudioError(f"{run.adapter}: not done: {problem}. Train longer or with a higher rate.")


MINIMUM_CHANGE = 0.25
"""Mean difference of two pictures, in 8-bit levels, below which nobody would see one."""


def _distance(a: Image.Image, b: Image.Image) -> float:
    """Mean absolute difference in 8-bit levels."""
    pixels = [np.asarray(image.convert("RGB"), dtype=np.float64) for image in (a, b)]
    return float(np.abs(pixels[0] - pixels[1]).mean())
