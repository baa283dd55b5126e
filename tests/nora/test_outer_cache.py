"""Cached outer factors are equal to the bit, never used when damaged, and bounded in size."""

import copy
import json
import os
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftConfig, get_peft_model
from support.any_module import AnyModule
from torch import nn

import nora_studio.nora.outer_cache as outer_cache
from nora_studio.adapters.methods.attachment import attach
from nora_studio.adapters.methods.spec import AdapterSpec
from nora_studio.errors import StudioError
from nora_studio.nora import NoraConfig, NoraLinear
from nora_studio.nora.outer_cache import OuterCache
from nora_studio.nora.svd import outer_factors
from nora_studio.runs.disk_cache import default_cache_folder

SIDE, RANK = outer_cache.SMALLEST, 8


def big_weight(seed: int = 0) -> torch.Tensor:
    return torch.randn(SIDE, SIDE + 8, generator=torch.Generator().manual_seed(seed))


def aged(folder: Path) -> tuple[Path, int]:
    """The only file of a cache, its time long ago, and which it is on the disk."""
    (file,) = folder.iterdir()
    os.utime(file, (1, 1))
    return file, file.stat().st_ino


def assert_was_read(file: Path, number: int) -> None:
    """Reading tells when a file was last used; found again, factors come in another file."""
    assert file.stat().st_ino == number and file.stat().st_mtime > 1


def assert_equal(one, other) -> None:
    for a, b in zip(one, other, strict=True):
        assert a.dtype == b.dtype and torch.equal(a, b)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("outer", ["svd", "randomized", "activation"])
def test_the_second_time_factors_are_read_and_equal_to_the_bit(tmp_path, dtype, outer):
    weight, activity = big_weight().to(dtype), torch.linspace(0.1, 1.0, SIDE + 8)
    activity = activity if outer == "activation" else None
    expected = outer_factors(weight, RANK, outer, activity)
    assert_equal(OuterCache(tmp_path)(weight, RANK, outer, activity), expected)
    kept = aged(tmp_path)
    assert_equal(OuterCache(tmp_path)(weight, RANK, outer, activity), expected)
    assert_was_read(*kept)
    assert [file.suffix for file in tmp_path.iterdir()] == [".safetensors"]


def test_whatever_changes_the_factors_changes_the_file(tmp_path):
    cache, weight = OuterCache(tmp_path), big_weight()
    activity = torch.linspace(0.1, 1.0, SIDE + 8)
    nudged = weight.clone()
    nudged[3, 5] += 1e-6
    arguments: Any
    for number, arguments in enumerate(
        (
            (weight, RANK, "svd"),
            (nudged, RANK, "svd"),
            (weight.double(), RANK, "svd"),
            (weight.T.contiguous(), RANK, "svd"),
            (weight, RANK + 1, "svd"),
            (weight, RANK, "randomized"),
            (weight, RANK, "activation", activity),
            (weight, RANK, "activation", activity * 1.5),
        ),
        start=1,
    ):
        cache(*arguments)
        assert len(list(tmp_path.iterdir())) == number
    cache(weight.clone(), RANK, "svd")
    assert len(list(tmp_path.iterdir())) == 8


@pytest.mark.parametrize("where", ["cut", "header", "data", "empty", "text", "folder"])
def test_a_damaged_file_is_detected_and_replaced(tmp_path, where):
    weight = big_weight()
    expected = OuterCache(tmp_path)(weight, RANK, "svd")
    file = next(tmp_path.iterdir())
    good = file.read_bytes()
    damaged = {
        "cut": good[:-5],
        "header": bytes([good[0] ^ 255]) + good[1:],
        "data": good[:-5] + bytes([good[-5] ^ 1]) + good[-4:],
        "empty": b"",
        "text": b"not a tensor in sight",
        "folder": None,
    }[where]
    file.unlink()
    file.write_bytes(damaged) if damaged is not None else file.mkdir()
    with pytest.warns(UserWarning, match="cannot be written") if damaged is None else _nothing():
        assert_equal(OuterCache(tmp_path)(weight, RANK, "svd"), expected)
    if damaged is not None:
        assert file.read_bytes() == good


class _nothing:
    def __enter__(self):
        return self

    def __exit__(self, *error):
        return None


def test_a_file_of_another_weight_under_this_name_is_not_used(tmp_path):
    weight, other = big_weight(), torch.randn(SIDE, 2 * SIDE)
    OuterCache(tmp_path / "a")(weight, RANK, "svd")
    OuterCache(tmp_path / "b")(other, RANK, "svd")
    file = next((tmp_path / "a").iterdir())
    next((tmp_path / "b").iterdir()).replace(file)
    expected = outer_factors(weight, RANK, "svd")
    assert_equal(OuterCache(tmp_path / "a")(weight, RANK, "svd"), expected)


def test_pruning_removes_the_files_used_longest_ago(tmp_path):
    cache, weights = OuterCache(tmp_path), [big_weight(seed) for seed in range(3)]
    files = []
    for age, weight in enumerate(weights):
        before = set(tmp_path.iterdir())
        cache(weight, RANK, "svd")
        (file,) = set(tmp_path.iterdir()) - before
        os.utime(file, (1_000_000 + age, 1_000_000 + age))
        files.append(file)
    leftover = tmp_path / "killed.new"
    leftover.touch()
    os.utime(leftover, (1_000_000, 1_000_000))
    size = files[0].stat().st_size
    cache = OuterCache(tmp_path, limit_bytes=2 * size)
    cache(weights[0], RANK, "svd")  # Used again: now the newest.
    cache.prune()
    assert set(tmp_path.iterdir()) == {files[0], files[2]}


def test_a_folder_that_cannot_be_written_warns_once_and_changes_no_result(tmp_path):
    (tmp_path / "file").touch()
    cache = OuterCache(tmp_path / "file" / "inside")
    with pytest.warns(UserWarning, match="the cache .* cannot be written") as warned:
        for seed in range(2):
            expected = outer_factors(big_weight(seed), RANK, "svd")
            assert_equal(cache(big_weight(seed), RANK, "svd"), expected)
    assert len(warned) == 1


def model_of(side: int) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(side, side))


def test_nothing_is_cached_unless_the_config_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("NORA_STUDIO_CACHE", str(tmp_path / "own"))
    settings = {"r": 2, "outer_rank": RANK, "target_modules": ["0"]}
    plain = get_peft_model(model_of(SIDE), NoraConfig(**settings))
    assert not (tmp_path / "own").exists()
    get_peft_model(model_of(SIDE), NoraConfig(**settings, find_outer=OuterCache()))
    assert len(list((tmp_path / "own" / "outer").iterdir())) == 1
    folder = tmp_path / "given"
    config = NoraConfig(**settings, find_outer=OuterCache(folder))
    get_peft_model(model_of(SIDE), config)
    assert len(list(folder.iterdir())) == 1
    kept = aged(folder)
    again = get_peft_model(model_of(SIDE), config)
    assert_was_read(*kept)
    other: AnyModule
    compared = 0
    for one, other in zip(plain.modules(), again.modules(), strict=True):
        if isinstance(one, NoraLinear):
            outer: Any = one.nora_up["default"]
            assert torch.equal(outer, other.nora_up["default"])
            compared += 1
    assert compared == 1


class Recorder:
    """Compute outer factors as usual, and count how often."""

    calls = 0

    def __call__(self, *arguments):
        Recorder.calls += 1
        return outer_factors(*arguments)


@pytest.mark.parametrize("find_outer", [Recorder(), outer_factors, lambda *a: outer_factors(*a)])
def test_where_the_factors_come_from_is_never_saved(tmp_path, find_outer):
    config = NoraConfig(r=2, outer_rank=4, target_modules=["0"], find_outer=find_outer)
    assert config == NoraConfig(r=2, outer_rank=4, target_modules=["0"])
    assert "find_outer" not in repr(config)
    get_peft_model(model_of(8), config).save_pretrained(tmp_path)
    assert "find_outer" not in json.loads((tmp_path / "adapter_config.json").read_text())
    loaded: Any = PeftConfig.from_pretrained(str(tmp_path))
    assert loaded.find_outer is None and not loaded.init_weights


def test_copies_of_a_config_compute_the_factors_in_the_same_way(tmp_path):
    settings = {"r": 2, "outer_rank": 4, "target_modules": ["0"]}
    configs = [NoraConfig(**settings, find_outer=Recorder())]
    configs += [copy.deepcopy(configs[0]), replace(configs[0], r=1)]
    configs.append(pickle.loads(pickle.dumps(configs[0])))
    for count, config in enumerate(configs, start=Recorder.calls + 1):
        model = get_peft_model(model_of(8), config)
        assert Recorder.calls == count
    model.add_adapter("second", configs[0])
    assert Recorder.calls == count + 1
    model.save_pretrained(tmp_path)
    model.load_adapter(str(tmp_path), "third")
    assert Recorder.calls == count + 1  # A file carries its factors.
    cached = pickle.loads(pickle.dumps(copy.deepcopy(OuterCache(tmp_path, 7))))
    assert (cached.store.folder, cached.store.limit_bytes) == (tmp_path, 7)


def test_an_adapter_asked_for_through_attach_uses_its_own_function(tmp_path):
    for number, folder in enumerate((tmp_path / "a", tmp_path / "b", None)):
        find_outer = OuterCache(folder) if folder else None
        spec = AdapterSpec("nora", 2, outer_rank=RANK, find_outer=find_outer)
        attach(model_of(SIDE), ["0"], spec)
        assert len(list(tmp_path.iterdir())) == min(number + 1, 2)
    with pytest.raises(StudioError, match=r"find_outer: not among .* lora, but of nora"):
        attach(model_of(SIDE), ["0"], AdapterSpec("lora", 2, find_outer=outer_factors))


def test_factors_of_small_weights_are_not_cached(tmp_path):
    config = NoraConfig(r=2, outer_rank=4, target_modules=["0"], find_outer=OuterCache(tmp_path))
    get_peft_model(model_of(SIDE - 1), config)
    assert not list(tmp_path.iterdir())


def test_the_default_folder_follows_the_users_cache_variables(monkeypatch, tmp_path):
    monkeypatch.delenv("NORA_STUDIO_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert default_cache_folder("outer") == Path.home() / ".cache" / "nora-studio" / "outer"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache_folder("outer") == tmp_path / "nora-studio" / "outer"
    monkeypatch.setenv("NORA_STUDIO_CACHE", str(tmp_path / "mine"))
    assert default_cache_folder("outer") == tmp_path / "mine" / "outer"


def fill(process: int, folder: str) -> None:
    """Find the factors of four weights through the cache, as another process does."""
    torch.set_num_threads(1)
    for seed in range(4):
        OuterCache(folder)(big_weight(seed), RANK, "svd")


def test_two_processes_may_write_the_same_files_at_once(tmp_path):
    folder = str(tmp_path)
    torch.multiprocessing.start_processes(fill, (folder,), nprocs=2, start_method="fork")
    assert [file.suffix for file in tmp_path.iterdir()] == [".safetensors"] * 4
    read = OuterCache(tmp_path)(big_weight(2), RANK, "svd")
    assert_equal(read, outer_factors(big_weight(2), RANK, "svd"))
