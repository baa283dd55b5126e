"""A batch worked through in pieces is the same step, and schedules are what they are called."""

import math

import pytest
import torch
from support.any_module import AnyModule
from support.halves import assert_interruptions_change_nothing, begun
from support.trainer import run_trainer, tiny_arguments, tiny_options
from torch import nn

from nora_studio.errors import StudioError
from nora_studio.runs.stop import StopRequest
from nora_studio.trainer.early_stop import NEVER
from nora_studio.trainer.loop import Plan, train
from nora_studio.trainer.schedules import learning_rate_schedule
from nora_studio.trainer.train_state import Batch


class OneBatch:
    """The same batch each time."""

    def __init__(self, batch: Batch) -> None:
        self.batch = batch

    def next(self) -> Batch:
        return self.batch

    def state(self) -> dict[str, torch.Tensor]:
        return {}

    def restore(self, state: dict[str, torch.Tensor]) -> None: ...


@pytest.mark.parametrize("method", ["nora", "adalora"])
@pytest.mark.parametrize("pieces", [2, 4])
def test_pieces_gradients_add_up_to_the_whole_batchs(
    method, pieces, tiny_base, photo_folder, tmp_path
):
    """With masks, min-SNR, and rows that count differently, as in prior preservation."""
    gradients, losses = [], []
    asked: list[int] = []
    for accumulate in (1, pieces):
        options: dict = {"method": method, "weighting": "min-snr", "accumulate": accumulate}
        options |= {"steps": 12, "batch_size": 4}
        (state,), batches, plan = begun(
            tiny_base, photo_folder, tmp_path / str(accumulate), **options
        )
        batch = batches.next()
        generator = torch.Generator().manual_seed(1)
        batch["importance"] = torch.rand(4, generator=generator) + 0.5
        batch["mask"] = torch.rand((4, 1, *batch["latents"].shape[-2:]), generator=generator)
        for parameter in state.parameters:  # away from the start, where much has no gradient
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.data += 0.05 * noise
        before = [p.detach().clone() for p in state.parameters]
        state.optimizer = torch.optim.SGD([{"params": state.parameters, "name": "all"}], lr=1.0)
        state.schedule = torch.optim.lr_scheduler.LambdaLR(state.optimizer, lambda step: 1.0)
        model: AnyModule = state.model
        model.unet.register_forward_pre_hook(lambda _, given: asked.append(len(given[0])))
        single = Plan(1, 1, 9, 1, 0, 0, 1e9, NEVER, plan.accumulate, capture=False)
        asked.clear()
        with StopRequest() as stop:
            state.rules.after_step = lambda step: None  # type: ignore[method-assign]
            train([state], OneBatch(batch), single, stop, lambda *_: None, lambda _: {})
        assert asked == [4 // accumulate] * accumulate
        gradients.append([a - b.detach() for a, b in zip(before, state.parameters, strict=True)])
        losses.append(state.run.read_log()[-1]["loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    scale = max(gradient.abs().max() for gradient in gradients[0])
    assert scale > 1e-4
    for whole, summed in zip(*gradients, strict=True):
        torch.testing.assert_close(summed, whole, rtol=1e-3, atol=1e-5 * scale.item())


@pytest.mark.slow
def test_an_accumulating_run_goes_on_exactly_with_dropout_and_classes(
    tiny_base, photo_folder, tmp_path
):
    options = {"accumulate": 2, "dropout": 0.2, "method": "nora", "steps": 3}
    options |= {"prior_weight": 1.0, "class_pictures": 2}
    assert_interruptions_change_nothing(tiny_base, photo_folder, tmp_path, (1,), **options)


def test_an_accumulating_run_is_proven(tiny_base, photo_folder, tmp_path):
    changes = {"accumulate": 2, "steps": 3, "sample-every": 0}
    outcome = run_trainer(*tiny_arguments(tiny_base, photo_folder, tmp_path, changes=changes))
    assert (outcome.status, outcome.errors) == (0, []), outcome.err


def test_batches_without_equal_pieces_are_refused(tiny_base, photo_folder, tmp_path):
    with pytest.raises(StudioError, match=r"multiple of 2, .* 2 pieces \(--accumulate\); got 3\."):
        tiny_options(tiny_base, photo_folder, tmp_path, batch_size=3, accumulate=2)


def rates(kind: str, steps: int, warmup: int, **settings) -> list[float]:
    """The rate of each step, of a peak of 2."""
    optimizer = torch.optim.AdamW([nn.Parameter(torch.zeros(1))], lr=2.0)
    schedule = learning_rate_schedule(kind, optimizer, steps, warmup, **settings)
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


@pytest.mark.parametrize("power", [1.0, 2.0, 3.0])
def test_polynomial_is_a_power_of_what_is_left(power):
    left = [(20 - step) / 16 for step in range(4, 20)]
    expected = [2 * share**power for share in left]
    assert rates("polynomial", 20, 4, power=power) == pytest.approx([0, 0.5, 1, 1.5, *expected])


@pytest.mark.parametrize("cycles", [1, 2, 3])
def test_cosine_restarts_falls_from_the_peak_so_many_times(cycles):
    places = [cycles * step / 24 % 1 for step in range(24)]
    expected = [1 + math.cos(math.pi * place) for place in places]
    found = rates("cosine-restarts", 24, 0, cycles=cycles)
    assert found == pytest.approx(expected)
    assert [rate for rate in found if rate == 2.0] == [2.0] * cycles


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"schedule_cycles": 3}, "--schedule-cycles needs --schedule cosine-restarts"),
        ({"schedule": "cosine", "schedule_cycles": 3}, "needs --schedule cosine-restarts"),
        ({"schedule": "linear", "schedule_power": 3.0}, "--schedule-power needs --schedule poly"),
        ({"schedule": "cosine-restarts", "schedule_cycles": 0}, "--schedule-cycles: expected a v"),
        (
            {"schedule": "polynomial", "warmup_steps": 6},
            "--warmup-steps: expected fewer than the 6",
        ),
        ({"accumulate": 0}, "--accumulate: expected a value above 0"),
    ],
)
def test_settings_that_a_schedule_does_not_read_are_refused(
    changes, words, tiny_base, photo_folder, tmp_path
):
    with pytest.raises(StudioError, match=words):
        tiny_options(tiny_base, photo_folder, tmp_path, **changes)
