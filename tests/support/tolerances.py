"""How far numbers may be apart that should be the same: one table for all tests.

Each is used as `torch.testing.assert_close(found, wanted, **FLOAT32)`. They are by the dtype that
was computed in and by what was done in it; a test whose numbers are about something else (a pixel,
a share, how much must have changed) has its own.
"""

from typing import TypedDict

import torch


class Tolerance(TypedDict):
    """Keyword arguments of `assert_close` and `allclose`."""

    rtol: float
    atol: float


FLOAT64: Tolerance = {"rtol": 1e-10, "atol": 1e-12}
"""float64: another way to the same numbers."""
FLOAT64_SUMS: Tolerance = {"rtol": 1e-12, "atol": 1e-14}
"""float64: the same few sums in another order."""
FLOAT64_SINGULAR: Tolerance = {"rtol": 1e-12, "atol": 0}
"""float64: singular values, the smallest to as many digits as the largest."""
FLOAT32: Tolerance = {"rtol": 1e-5, "atol": 1e-6}
"""float32: another way to the same numbers, or to those of float64."""
FLOAT32_SMALL: Tolerance = {"rtol": 1e-5, "atol": 1e-7}
"""float32: the same for numbers well below 1, as gradients and changes of weights are."""
FLOAT32_OUTPUT: Tolerance = {"rtol": 1e-5, "atol": 1e-5}
"""float32: what a model of a few layers answers, around 1."""
FLOAT32_FACTORS: Tolerance = {"rtol": 1e-4, "atol": 1e-5}
"""float32: through a decomposition, a compiler or another kernel."""
FLOAT32_PRODUCTS: Tolerance = {"rtol": 1e-4, "atol": 1e-4}
"""float32: products of factors over whole weights, or of weights that were quantised."""

TOLERANCE: dict[torch.dtype, Tolerance] = {
    torch.float64: FLOAT64,
    torch.float32: {"rtol": 1e-5, "atol": 2e-6},
    torch.bfloat16: {"rtol": 2e-2, "atol": 2e-2},
    torch.float16: {"rtol": 3e-3, "atol": 3e-3},
}
"""What was computed in a dtype against the same in float64 (`reference.py`), around 1."""
