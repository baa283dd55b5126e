"""Time the trainer's own steps, prepared as it does, and the least that a step can cost."""

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from nora_studio.options.defaults import with_recommended
from nora_studio.options.options_file import parse_options
from nora_studio.runs.runs import Run
from nora_studio.sdxl.models import parts_of
from nora_studio.tasks.dreambooth.step import DreamboothStep
from nora_studio.tasks.dreambooth.task import DreamboothTask
from nora_studio.trainer.acceleration import MIXED, prepare_accelerator
from nora_studio.trainer.build import build_train_state
from nora_studio.trainer.capture import StepGraphs
from nora_studio.trainer.loop import steppers_of

WARM_UP = 3
"""Steps that are not timed: the first captures, and the clock of a GPU rises."""
PRECISION = torch.bfloat16


def prepared_task(words: Sequence[str]) -> DreamboothTask:
    """Return a task that has loaded its base and encoded its photos.

    Args:
        words: The trainer's options.
    """
    task = DreamboothTask()
    task.asked = with_recommended(parse_options(list(words)))
    task.settings = task.resolve(task.asked)
    task.read_data({method: Run(Path(method)) for method in task.trainer.methods})
    task.prepare(PRECISION, prepare_accelerator(MIXED[PRECISION]))
    return task


def training_step(task: DreamboothTask) -> Callable[[], object]:
    """Return a function that takes one step of every method of a task."""
    batches = task.batches()
    states = [
        build_train_state(task, method, run, prepare_accelerator(MIXED[PRECISION]))
        for method, run in task.runs.items()
    ]
    steppers = steppers_of(states, task.trainer.plan)

    def step() -> None:
        batch = batches.next()
        for stepper in steppers:
            stepper.advance(batch, 1)

    return step


def frozen_step(task: DreamboothTask) -> Callable[[], object]:
    """Return the frozen UNet's forward and backward pass as a CUDA graph: the limit of a step.

    One bias of its first layer gets a gradient, so that the backward pass goes through all layers.
    """
    subject = task.prepared.subject
    unet = parts_of(subject.pipe)["unet"]
    bias = unet.get_parameter("conv_in.bias").requires_grad_()
    assert isinstance(bias, nn.Parameter)
    module = DreamboothStep(unet, {}, subject.text, subject.process).train()

    def compute(batch: dict[str, Tensor]) -> Tensor:
        loss = module(**batch)
        loss.backward()
        return loss.detach()

    clear = partial(module.zero_grad, set_to_none=False)
    graphs = StepGraphs(compute, clear, module, [bias], torch.cuda.graph_pool_handle())
    batch = {name: tensor.to(bias.device) for name, tensor in task.batches().next().items()}
    return partial(graphs.gradients, batch)


def seconds_of(step: Callable[[], object], count: int) -> float:
    """Return the mean seconds of some steps after a few that are not timed."""
    for _ in range(WARM_UP):
        step()
    torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(count):
        step()
    torch.cuda.synchronize()
    return (time.perf_counter() - began) / count
