"""The formulas once more, dense and in float64, from the papers alone: what the code is held to."""

import math

import torch
from torch import Tensor


def nora_factors(weight: Tensor, outer_rank: int, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return U_r, the first `rank` entries of sqrt(S_r), and V_r^T (arXiv:2408.10280, 3.2)."""
    up, singular, down = torch.linalg.svd(weight.double(), full_matrices=False)
    return up[:, :outer_rank], singular[:rank].sqrt(), down[:outer_rank]


def nora_delta(
    up: Tensor,
    inner_up: Tensor,
    inner_down: Tensor,
    down: Tensor,
    start_up: Tensor | None,
    start_down: Tensor | None,
    scale: float,
) -> Tensor:
    """scale * up (inner_up inner_down - start_up start_down) down; no start: nothing subtracted."""
    inner = inner_up.double() @ inner_down.double()
    if start_up is not None and start_down is not None:
        inner = inner - start_up.double() @ start_down.double()
    return scale * (up.double() @ inner @ down.double())


def leading(weight: Tensor, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """The leading singular vectors and values: (out, rank), (rank,), (rank, in)."""
    up, singular, down = torch.linalg.svd(weight.double(), full_matrices=False)
    return up[:, :rank], singular[:rank], down[:rank]


def lora_delta(up: Tensor, down: Tensor, scale: float) -> Tensor:
    """scale * up down (arXiv:2106.09685, eq. 3)."""
    return scale * (up.double() @ down.double())


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, delta: Tensor) -> Tensor:
    """h = (W + delta W) x + b."""
    h = x.double() @ (weight.double() + delta).T
    return h if bias is None else h + bias.double()


def adamw_step(
    weight: Tensor,
    gradient: Tensor,
    moments: tuple[Tensor | float, Tensor | float],
    number: int,
    rate: float,
    weight_decay: float,
    start: Tensor | float = 0.0,
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Step `number` of AdamW (arXiv:1711.05101, alg. 2, its usual constants), from 1; the decay
    pulls towards `start`. Returns the weight and its moments."""
    first = 0.9 * moments[0] + 0.1 * gradient
    second = 0.999 * moments[1] + 0.001 * gradient.square()
    mean, deviation = first / (1 - 0.9**number), (second / (1 - 0.999**number)).sqrt()
    decayed = weight - rate * weight_decay * (weight - start)
    return decayed - rate * mean / (deviation + 1e-8), (first, second)


def share_moved(before: Tensor, after: Tensor, weight: Tensor) -> float:
    """The spectral norm of a change of a weight, over the weight's own."""
    moved = torch.linalg.matrix_norm(after.double() - before.double(), 2)
    return float(moved / torch.linalg.matrix_norm(weight.double(), 2))


def nora_parameters(layers: int, outer_rank: int, rank: int) -> int:
    """2 r_out r_in a matrix, whatever its shape."""
    return layers * 2 * outer_rank * rank


def lora_parameters(shapes: list[tuple[int, int]], rank: int) -> int:
    """r (m + n) a matrix."""
    return sum(rank * (rows + columns) for rows, columns in shapes)


def student_centre(t: float, freedom: int) -> float:
    """P(|T| < t) by the finite sums of Abramowitz & Stegun, 26.7.3 and 26.7.4."""
    angle = math.atan(t / math.sqrt(freedom))
    odd, square = freedom % 2, math.cos(angle) ** 2
    term, total = (math.cos(angle) if odd else 1.0), 0.0
    for power in range(1 if odd else 0, freedom - 1, 2):
        total += term
        term *= square * (power + 1) / (power + 2)
    centre = math.sin(angle) * total
    return 2 / math.pi * (angle + centre) if odd else centre


def student_half_width(values: list[float]) -> float:
    """Half of the 95% interval of a mean, t by bisection."""
    freedom = len(values) - 1
    low, high = 0.0, 20.0
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if student_centre(middle, freedom) < 0.95 else (low, middle)
    numbers = torch.tensor(values, dtype=torch.float64)
    return low * float(numbers.std(correction=1)) / math.sqrt(len(values))
