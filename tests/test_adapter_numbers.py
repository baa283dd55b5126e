"""Adapter files whose numbers no adapter has: refused in one line, by file and tensor, anywhere."""

import json
import math
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny import assert_same_tensors, states, tiny_adapter

from nora_studio.cards import read_card
from nora_studio.commands import export, inspect, mix
from nora_studio.commands.opening import open_updates
from nora_studio.commands.options import ExportOptions, InspectOptions, MixOptions, PushOptions
from nora_studio.commands.push import build_repository
from nora_studio.errors import StudioError
from nora_studio.files import load_adapter, load_weights
from nora_studio.formats.container import read_header, read_tensors, write_tensors
from nora_studio.formats.identify import CARD_KEY, SEED_KEY
from nora_studio.formats.inspection import inspect_file
from nora_studio.generate import adapter_on
from nora_studio.methods.attachment import detach
from nora_studio.models import load_sdxl, parts_of
from nora_studio.studio.adapter_uploads import add_adapter
from nora_studio.studio.uploads import Incoming
from nora_studio.studio.workspace import Workspace

STEM = "lora_unet_middle_block_1_transformer_blocks_0_attn1_to_q"
DOWN, UP, ALPHA = (f"{STEM}.{end}" for end in ("lora_down.weight", "lora_up.weight", "alpha"))


@pytest.fixture(scope="module")
def pipe(tiny_base):
    """One pipeline for all; every test has to leave it bare."""
    return load_sdxl(str(tiny_base))


@pytest.fixture(scope="module")
def files(pipe, tiny_base, tmp_path_factory) -> dict[str, Path]:
    """A good NoRA as a folder, and as a file of each format. Read only."""
    folder = tmp_path_factory.mktemp("good")
    found = {"folder": tiny_adapter(folder / "adapter", pipe, "nora")}
    for style in ("kohya", "diffusers", "seed"):
        found[style] = folder / f"{style}.safetensors"
        export.run(ExportOptions(found["folder"], style, found[style], model=str(tiny_base)))
    return found


def doors(pipe, base: Path, scratch: Path) -> dict[str, object]:
    """Everything that takes an adapter file, by name."""
    workspace, model = Workspace.of(scratch / "home", "0" * 32), str(base)
    mixed = scratch / "mixed.safetensors"

    def generate(file):
        with adapter_on(pipe, file):
            pass

    return {
        "generate": generate,
        "load": lambda file: load_adapter(file, parts_of(pipe)),
        "export": lambda file: open_updates(file, model, None),
        "mix": lambda file: mix.run(MixOptions((file,), out=mixed, model=model)),
        "push": lambda file: build_repository(PushOptions(file, "me/mug", model=model), scratch),
        "inspect": lambda file: inspect.run(InspectOptions(file)),
        "card": read_card,
        "upload": lambda file: add_adapter(workspace, Incoming(file, file.name)),
    }


LOADING = ("generate", "load", "export", "mix", "push", "inspect")


def assert_refused(call, file: Path, *words: str) -> None:
    with pytest.raises(StudioError) as refused:
        call(file)
    said = str(refused.value)
    assert "\n" not in said and file.name in said, said
    for word in words:
        assert word in said, said


def header_of(file: Path) -> dict:
    content = file.read_bytes()
    return json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])


def with_header(source: Path, file: Path, text: str) -> Path:
    """The same tensors behind another header."""
    content = source.read_bytes()
    rest = content[8 + int.from_bytes(content[:8], "little") :]
    file.write_bytes(len(text.encode()).to_bytes(8, "little") + text.encode() + rest)
    return file


def with_tensors(source: Path, file: Path, change: dict[str, torch.Tensor]) -> Path:
    write_tensors(file, load_file(source) | change, read_header(source).metadata)
    return file


def spoiled_headers(source: Path, folder: Path) -> dict[str, tuple[Path, str]]:
    """Files whose headers cannot be read in one way only, and what is to be said of each."""
    header = header_of(source)
    begin, end = header[DOWN]["data_offsets"]
    places = {name: entry["data_offsets"] for name, entry in header.items() if "shape" in entry}
    size = max(place[1] for place in places.values())
    texts = {}
    for name, offsets in (
        ("overlap", [begin - 4, end - 4]),
        ("beyond", [size, size + end - begin]),
        ("negative", [-8, end - begin - 8]),
        ("backwards", [end, begin]),
        ("short", [begin, end - 4]),
    ):
        texts[name] = json.dumps(header | {DOWN: header[DOWN] | {"data_offsets": offsets}})
    plain = json.dumps(header)
    again = json.dumps({DOWN: header[DOWN] | {"dtype": "I32"}})[1:-1]
    texts["tensor twice"] = f"{plain[:-1]}, {again}}}"
    card = json.dumps({CARD_KEY: "{}"})[1:-1]
    texts["metadata twice"] = plain.replace('"__metadata__": {', f'"__metadata__": {{{card}, ')
    texts["dtype twice"] = plain.replace(f'"{DOWN}": {{', f'"{DOWN}": {{"dtype": "F16", ')
    said = dict.fromkeys(texts, DOWN) | {
        "metadata twice": CARD_KEY,
        "dtype twice": "'dtype' twice",
        "overlap": "overlap",
    }
    return {
        name: (with_header(source, folder / f"{name}.safetensors", text), said[name])
        for name, text in texts.items()
    }


def test_headers_that_two_readers_could_read_differently_are_refused_at_every_door(
    pipe, tiny_base, files, tmp_path
):
    before = states(parts_of(pipe))
    for file, word in spoiled_headers(files["kohya"], tmp_path).values():
        for door in doors(pipe, tiny_base, tmp_path).values():
            assert_refused(door, file, word)
        assert_refused(read_tensors, file, word)
    assert_same_tensors(states(parts_of(pipe)), before)


def test_tensors_of_no_floats_are_refused_at_every_door(pipe, tiny_base, files, tmp_path):
    down = load_file(files["kohya"])[DOWN]
    kinds = {"I64": torch.int64, "BOOL": torch.bool, "U8": torch.uint8, "I32": torch.int32}
    for kind, dtype in kinds.items():
        file = with_tensors(
            files["kohya"], tmp_path / f"{kind}.safetensors", {DOWN: down.to(dtype)}
        )
        for door in doors(pipe, tiny_base, tmp_path).values():
            assert_refused(door, file, DOWN, kind)
    words = with_tensors(files["kohya"], tmp_path / "w.safetensors", {DOWN: down.to(torch.int8)})
    assert_refused(inspect_file, words, "I8")


def test_an_alpha_may_be_a_whole_number_as_some_trainers_write_it(pipe, files, tmp_path):
    alpha = load_file(files["kohya"])[ALPHA]
    file = with_tensors(files["kohya"], tmp_path / "a.safetensors", {ALPHA: alpha.long()})
    loaded = {}
    for source in (files["kohya"], file):
        load_adapter(source, parts_of(pipe))
        loaded[source] = states(parts_of(pipe))
        for module in parts_of(pipe).values():
            detach(module)
    assert_same_tensors(loaded[file], loaded[files["kohya"]])


NUMBERS = {
    "NaN weight": ({UP: math.nan}, UP),
    "infinite weight": ({DOWN: math.inf}, DOWN),
    "NaN alpha": ({ALPHA: math.nan}, ALPHA),
    "infinite alpha": ({ALPHA: math.inf}, ALPHA),
    "negative alpha": ({ALPHA: -4.0}, "alpha of"),
    "no alpha": ({ALPHA: 0.0}, "alpha of"),
}


@pytest.mark.parametrize("kind", NUMBERS)
def test_weights_and_alphas_that_are_no_numbers_are_refused_where_they_are_loaded(
    pipe, tiny_base, files, tmp_path, kind
):
    values, word = NUMBERS[kind]
    own = load_file(files["kohya"])
    change = {name: torch.full_like(own[name], value) for name, value in values.items()}
    file = with_tensors(files["kohya"], tmp_path / "bad.safetensors", change)
    found = doors(pipe, tiny_base, tmp_path)
    for door in LOADING:
        assert_refused(found[door], file, word)


def test_an_alpha_beyond_all_numbers_and_a_rank_beyond_its_layer_are_refused(pipe, files, tmp_path):
    own = load_file(files["kohya"])
    huge = with_tensors(
        files["kohya"], tmp_path / "huge.safetensors",
        {ALPHA: torch.tensor(3e38), UP: torch.full_like(own[UP], 1e3)},
    )  # fmt: skip
    assert_refused(lambda file: load_adapter(file, parts_of(pipe)), huge, "alpha of", "beyond")
    rank = 4 * sum(own[UP].shape)
    wide = {UP: torch.ones(len(own[UP]), rank), DOWN: torch.ones(rank, own[DOWN].shape[1])}
    file = with_tensors(files["kohya"], tmp_path / "wide.safetensors", wide)
    assert_refused(lambda file: load_adapter(file, parts_of(pipe)), file, "rank of", f"got {rank}")


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
    for door in (read_card, lambda file: load_adapter(file, parts_of(pipe))):
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
    for door in (inspect_file, lambda file: load_adapter(file, parts_of(pipe))):
        assert_refused(door, file, "its recipe cannot be read")


@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0, 0.0])
def test_a_seed_files_probes_and_scales_are_numbers(pipe, files, tmp_path, value):
    tensors = load_file(files["seed"])
    name = next(name for name in tensors if name.endswith(".check"))
    for place in (0, -1):
        check = tensors[name].clone()
        check[0, place] = value
        file = with_tensors(files["seed"], tmp_path / "bad.safetensors", {name: check})
        found = inspect_file if place == -1 or not math.isfinite(value) else None
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
        lambda _: inspect.run(InspectOptions(folder)),
    ):
        assert_refused(door, config, str(folder))


def test_a_run_is_not_resumed_from_weights_of_no_floats(pipe, files, tmp_path):
    file = tmp_path / "unet" / "adapter_model.safetensors"
    tensors = load_file(files["folder"] / "unet" / file.name)
    name = next(iter(tensors))
    write_tensors(file, tensors | {name: tensors[name].long()})
    load_adapter(files["folder"], parts_of(pipe))
    before = states(parts_of(pipe))
    try:
        assert_refused(lambda _: load_weights(tmp_path, {"unet": pipe.unet}), file, name, "I64")
        assert_same_tensors(states(parts_of(pipe)), before)
    finally:
        for module in parts_of(pipe).values():
            detach(module)


def test_a_huge_file_is_looked_into_without_its_weights(tmp_path, capfd):
    """40 GB of zeros, which the disk does not hold: reading them would take minutes."""
    file, size = tmp_path / "model.safetensors", 40 * 10**9
    name = "model.diffusion_model.input_blocks.0.0.weight"
    entries = {
        name: {"dtype": "F16", "shape": [size // 2], "data_offsets": [0, size]},
        "conditioner.ids": {"dtype": "I64", "shape": [1], "data_offsets": [size, size + 8]},
    }
    text = json.dumps(entries).encode()
    with file.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        stream.truncate(8 + len(text) + size + 8)
    began = time.process_time()
    inspect.run(InspectOptions(file))
    assert time.process_time() - began < 5
    assert "model's own weights" in capfd.readouterr().out
