"""The fast decompositions of large weights equal the full float64 SVD, by every path."""

import pytest
import torch
from support.tolerances import FLOAT64, FLOAT64_SINGULAR

from nora_studio.nora import subspace_svd
from nora_studio.nora.subspace_svd import leading_singular_triplets
from nora_studio.nora.svd import canonical_signs, outer_factors, truncated_svd

SIDE = 2 * subspace_svd.SMALL


def weight_with(spectrum: torch.Tensor, rows: int = SIDE, columns: int = SIDE) -> torch.Tensor:
    """A float64 matrix with these singular values and random singular vectors."""
    generator = torch.Generator().manual_seed(rows + columns)
    noise = torch.randn(rows, columns, generator=generator, dtype=torch.float64)
    up, _, down = torch.linalg.svd(noise, full_matrices=False)
    return up * spectrum @ down


def power_law(exponent: float, size: int = SIDE) -> torch.Tensor:
    return torch.arange(1, size + 1, dtype=torch.float64) ** -exponent


def distance(one: torch.Tensor, other: torch.Tensor) -> float:
    """Largest difference of two sets of columns, their signs aside."""
    signs = (one * other).sum(dim=0).sign()
    return float((one * signs - other).norm(dim=0).max())


@pytest.fixture
def taken(monkeypatch) -> list[str]:
    """The full solvers that were called; the real ones still run."""
    calls: list[str] = []
    svd, eigh = torch.linalg.svd, torch.linalg.eigh

    def watched_svd(matrix, full_matrices=True):
        calls.append("svd")
        return svd(matrix, full_matrices=full_matrices)

    def watched_eigh(matrix):
        if len(matrix) >= subspace_svd.SMALL:
            calls.append("eigh")
        return eigh(matrix)

    monkeypatch.setattr(torch.linalg, "svd", watched_svd)
    monkeypatch.setattr(torch.linalg, "eigh", watched_eigh)
    return calls


@pytest.mark.parametrize(
    ("rank", "exponent", "way"),
    [(16, 0.5, []), (24, 1.0, []), (64, 0.5, ["eigh"]), (300, 0.3, ["eigh"])],
)
@pytest.mark.parametrize("shape", [(SIDE, SIDE), (SIDE + 88, SIDE), (SIDE, SIDE + 88)])
def test_triplets_of_the_fast_paths_equal_the_full_svd(taken, rank, exponent, way, shape):
    weight = weight_with(power_law(exponent), *shape)
    taken.clear()
    up, singular, down = leading_singular_triplets(weight, rank)
    assert taken == way
    full_up, full_singular, full_down = torch.linalg.svd(weight, full_matrices=False)
    torch.testing.assert_close(singular, full_singular[:rank], **FLOAT64_SINGULAR)
    assert distance(up, full_up[:, :rank]) < 1e-8
    assert distance(down.T, full_down[:rank].T) < 1e-8


def test_a_gaussian_weight_is_decomposed_more_accurately_than_float32():
    weight = torch.randn(SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    up, singular, _ = leading_singular_triplets(weight, 32)
    full_up, full_singular, _ = torch.linalg.svd(weight.double(), full_matrices=False)
    torch.testing.assert_close(singular, full_singular[:32], **FLOAT64_SINGULAR)
    assert distance(up, full_up[:, :32]) < 1e-7


@pytest.mark.parametrize("rank", [24, 100])
@pytest.mark.parametrize("present", [1, 20, 60])
def test_rank_deficient_weights_fall_back_to_the_full_svd(taken, rank, present):
    spectrum = power_law(0.5)
    spectrum[present:] = 0
    weight = weight_with(spectrum)
    taken.clear()
    up, singular, down = leading_singular_triplets(weight, rank)
    assert ("svd" in taken) == (present < rank)
    torch.testing.assert_close(singular, spectrum[:rank], **FLOAT64)
    for basis in (up, down.T):
        torch.testing.assert_close(
            basis.T @ basis, torch.eye(rank, dtype=torch.float64), rtol=0, atol=1e-9
        )


@pytest.mark.parametrize("exponent", [2.4, 4.0])
def test_a_steep_spectrum_falls_back_to_the_full_svd(taken, exponent):
    weight = weight_with(power_law(exponent))
    taken.clear()
    up, _, _ = leading_singular_triplets(weight, 24)
    assert "svd" in taken
    assert distance(up, torch.linalg.svd(weight, full_matrices=False)[0][:, :24]) < 1e-12


@pytest.mark.parametrize("rank", [16, 64])
def test_near_equal_singular_values_span_the_same_space(rank):
    spectrum = power_law(0.5)
    spectrum[4:9] = spectrum[4] * (1 + 1e-13 * torch.arange(5, dtype=torch.float64))
    weight = weight_with(spectrum)
    up, singular, down = leading_singular_triplets(weight, rank)
    best, values, right = torch.linalg.svd(weight, full_matrices=False)
    torch.testing.assert_close(singular, values[:rank], **FLOAT64_SINGULAR)
    torch.testing.assert_close(up[:, 4:9] @ up[:, 4:9].T, best[:, 4:9] @ best[:, 4:9].T)
    torch.testing.assert_close(up * singular @ down, best[:, :rank] * values[:rank] @ right[:rank])


def test_a_flat_spectrum_is_decomposed_too():
    weight = weight_with(torch.ones(SIDE, dtype=torch.float64))
    up, singular, down = leading_singular_triplets(weight, 16)
    torch.testing.assert_close(singular, torch.ones(16, dtype=torch.float64))
    torch.testing.assert_close(weight @ down.T, up)


def test_factors_of_all_paths_agree_after_canonical_signs(taken):
    weight = weight_with(power_law(0.5)).float()
    full = torch.linalg.svd(weight.double(), full_matrices=False)
    taken.clear()
    by_iteration = outer_factors(weight, 16, "svd")
    assert taken == []
    by_full_solver = outer_factors(weight, 64, "svd")
    assert taken == ["eigh"]
    up, down = canonical_signs(full[0][:, :16], full[2][:16])
    for found in (by_iteration, by_full_solver):
        first = found[0][:, :16], found[1][:16], found[2][:16]
        for one, two in zip(first, (up, full[1][:16], down), strict=True):
            torch.testing.assert_close(one, two.float(), rtol=0, atol=1e-6)


def test_the_global_generator_is_neither_read_nor_advanced():
    weight = weight_with(power_law(0.5)).float()
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = truncated_svd(weight, 16)
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(2)
    assert all(torch.equal(a, b) for a, b in zip(first, truncated_svd(weight, 16), strict=True))
