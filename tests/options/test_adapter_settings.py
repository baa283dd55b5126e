"""Cards, recipes and settings whose numbers no adapter has are refused in one line."""

import json
import math
from pathlib import Path

import pytest
from safetensors.torch import load_file
from support.spoiled import assert_refused, good_files, with_tensors

from nora_studio.adapters.files.adapter_file import open_adapter
from nora_studio.adapters.files.adapter_folders import load_adapter
from nora_studio.adapters.files.identify import CARD_KEY, SEED_KEY
from nora_studio.adapters.files.inspection import layers_of
from nora_studio.cli import inspect
from nora_studio.runs.tensor_files import write_tensors
from nora_studio.runs.tensor_headers import read_header
from nora_studio.sdxl.models import load_sdxl, parts_of


@pytest.fixture(scope="module")
def pipe(tiny_base):
    """One pipeline for all; every test has to leave it bare."""
    return load_sdxl(str(tiny_base))


@pytest.fixture(scope="module")
def files(pipe, tiny_base, tmp_path_factory) -> dict[str, Path]:
    """A good NoRA as a folder, and as a file of each format. Read only."""
    return good_files(tmp_path_factory.mktemp("good"), pipe, tiny_base)


def look_into(file: Path) -> object:
    return layers_of(open_adapter(file))


def card_of(file: Path) -> object:
    return open_adapter(file).card


@pytest.mark.parametrize("alpha", ["NaN", "Infinity", "1e999", "-1", "0", "1" + "0" * 400, '"NaN"'])
def test_alphas_of_diffusers_metadata_are_positive_and_finite(pipe, files, tmp_path, alpha):
    both = '"unet.lora_alpha": 1, "unet.alpha_pattern": {{"to_q": {}}}'
    for name in ('"unet.lora_alpha": {}', both):
        file = tmp_path / "bad.safetensors"
        text = f'{{"unet.r": 4, {name.format(alpha)}}}'
        metadata = read_header(files["diffusers"]).metadata | {"lora_adapter_metadata": text}
        write_tensors(file, load_file(files["diffusers"]), metadata)
        assert_refused(lambda file: load_adapter(file, parts_of(pipe)), file, "lora_adapter_meta")


def edited_text(text: str, name: str, value: str) -> str:
    """JSON with one value replaced by raw text."""
    values = json.loads(text)
    assert name in values
    values[name] = "@@"
    return json.dumps(values).replace('"@@"', value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("fingerprints", '{"unet": [NaN]}'),
        ("fingerprints", '{"unet": [1e999]}'),
        ("fingerprints", '{"unet": [true]}'),
        ("fingerprints", '{"unet": [0.5], "unet": [0.25]}'),
        ("fingerprints", '{"unet": [1' + "0" * 400 + "]}"),
        ("steps", "-3"),
        ("resolution", "-8"),
        ("parameters", "-1"),
        ("seed", "Infinity"),
    ],
)
def test_a_card_with_numbers_that_are_none_is_refused(pipe, files, tmp_path, name, value):
    header = read_header(files["seed"])
    file = tmp_path / "bad.safetensors"
    text = edited_text(header.metadata[CARD_KEY], name, value)
    write_tensors(file, load_file(files["seed"]), header.metadata | {CARD_KEY: text})
    for door in (card_of, lambda file: load_adapter(file, parts_of(pipe))):
        assert_refused(door, file, "is damaged")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("outer_rank", "-8"),
        ("outer_rank", "0"),
        ("outer_rank", "1000000000"),
        ("outer_rank", "8.0"),
        ("outer_rank", "NaN"),
        ("outer", '"activation"'),
        ("start", '"elsewhere"'),
    ],
)
def test_a_seed_files_recipe_of_absurd_ranks_is_refused(pipe, files, tmp_path, name, value):
    header = read_header(files["seed"])
    file = tmp_path / "bad.safetensors"
    whole = json.loads(header.metadata[SEED_KEY])
    unet = edited_text(json.dumps(whole["parts"]["unet"]), name, value)
    whole["parts"]["unet"] = "@@"
    text = json.dumps(whole).replace('"@@"', unet)
    write_tensors(file, load_file(files["seed"]), header.metadata | {SEED_KEY: text})
    for door in (look_into, lambda file: load_adapter(file, parts_of(pipe))):
        assert_refused(door, file, "its recipe cannot be read")


@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0, 0.0])
def test_a_seed_files_probes_and_scales_are_numbers(pipe, files, tmp_path, value):
    tensors = load_file(files["seed"])
    name = next(name for name in tensors if name.endswith(".check"))
    for place in (0, -1):
        check = tensors[name].clone()
        check[0, place] = value
        file = with_tensors(files["seed"], tmp_path / "bad.safetensors", {name: check})
        found = look_into if place == -1 or not math.isfinite(value) else None
        for door in filter(None, (found, lambda file: load_adapter(file, parts_of(pipe)))):
            assert_refused(door, file, name if place == -1 else "")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("r", "-2"), ("r", "0"), ("r", "1000000000"), ("r", "true"), ("r", '"2"'),
        ("alpha", "NaN"), ("alpha", "1e999"), ("alpha", "-1"), ("outer_rank", "-8"),
        ("rank_pattern", '{"to_q": -1}'), ("alpha_pattern", '{"to_q": Infinity}'),
        ("peft_type", '"XLORA"'), ("peft_type", "[]"),
    ],
)  # fmt: skip
def test_a_folders_settings_of_absurd_numbers_are_refused(pipe, files, tmp_path, name, value):
    folder = tmp_path / "adapter"
    for source in files["folder"].rglob("*"):
        target = folder / source.relative_to(files["folder"])
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_file():
            target.write_bytes(source.read_bytes())
    config = folder / "unet" / "adapter_config.json"
    config.write_text(edited_text(config.read_text(), name, value))
    for door in (
        lambda _: load_adapter(folder, parts_of(pipe)),
        lambda _: inspect.run(inspect.Options(folder)),
    ):
        assert_refused(door, config, str(folder))
