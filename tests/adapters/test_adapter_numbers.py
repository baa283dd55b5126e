"""Every reader refuses adapter files with unusable numbers in one line, by file and tensor."""

import json
import math
import shutil
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support.spoiled import assert_refused, good_files, with_tensors
from support.tiny import assert_same_tensors, states

from nora_studio.adapters.files.adapter_file import open_adapter
from nora_studio.adapters.files.adapter_folders import load_adapter, load_weights
from nora_studio.adapters.files.identify import CARD_KEY
from nora_studio.adapters.files.inspection import layers_of
from nora_studio.adapters.methods.attachment import detach
from nora_studio.app.server.adapter_uploads import add_adapter
from nora_studio.app.server.uploads import Upload
from nora_studio.app.server.workspace import Workspace
from nora_studio.cli import inspect, mix, push
from nora_studio.cli.opening import open_updates
from nora_studio.cli.push import build_repository
from nora_studio.runs.tensor_files import read_tensors, write_tensors
from nora_studio.sdxl.generate import adapter_on
from nora_studio.sdxl.models import load_sdxl, parts_of

STEM = "lora_unet_middle_block_1_transformer_blocks_0_attn1_to_q"
DOWN, UP, ALPHA = (f"{STEM}.{end}" for end in ("lora_down.weight", "lora_up.weight", "alpha"))


@pytest.fixture(scope="module")
def files(pipe, tiny_base, tmp_path_factory) -> dict[str, Path]:
    """A good NoRA as a folder, and as a file of each format. Read only."""
    return good_files(tmp_path_factory.mktemp("good"), pipe, tiny_base)


@pytest.fixture(scope="module")
def pipe(tiny_base):
    """One pipeline for all; every test has to leave it bare."""
    return load_sdxl(str(tiny_base))


def readers(pipe, base: Path, scratch: Path) -> dict[str, object]:
    """Everything that takes an adapter file, by name."""
    workspace, model = Workspace.open(scratch / "home", "0" * 32), str(base)
    mixed = scratch / "mixed.safetensors"

    def generate(file):
        with adapter_on(pipe, file):
            pass

    return {
        "generate": generate,
        "load": lambda file: load_adapter(file, parts_of(pipe)),
        "export": lambda file: open_updates(file, model, None),
        "mix": lambda file: mix.run(mix.Options((file,), out=mixed, model=model)),
        "push": lambda file: build_repository(push.Options(file, "me/mug", model=model), scratch),
        "inspect": lambda file: inspect.run(inspect.Options(file)),
        "card": lambda file: open_adapter(file).card,
        "upload": lambda file: add_adapter(workspace, Upload(file, file.name)),
    }


LOADING = ("generate", "load", "export", "mix", "push", "inspect")


def header_of(file: Path) -> dict:
    content = file.read_bytes()
    return json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])


def with_header(source: Path, file: Path, text: str) -> Path:
    """The same tensors behind another header."""
    content = source.read_bytes()
    rest = content[8 + int.from_bytes(content[:8], "little") :]
    file.write_bytes(len(text.encode()).to_bytes(8, "little") + text.encode() + rest)
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


def test_ambiguous_headers_are_refused_by_every_reader(pipe, tiny_base, files, tmp_path):
    before = states(parts_of(pipe))
    for file, word in spoiled_headers(files["kohya"], tmp_path).values():
        for reader in readers(pipe, tiny_base, tmp_path).values():
            assert_refused(reader, file, word)
        assert_refused(read_tensors, file, word)
    assert_same_tensors(states(parts_of(pipe)), before)


def test_tensors_that_are_not_floats_are_refused_by_every_reader(pipe, tiny_base, files, tmp_path):
    down = load_file(files["kohya"])[DOWN]
    kinds = {"I64": torch.int64, "BOOL": torch.bool, "U8": torch.uint8, "I32": torch.int32}
    for kind, dtype in kinds.items():
        file = with_tensors(
            files["kohya"], tmp_path / f"{kind}.safetensors", {DOWN: down.to(dtype)}
        )
        for reader in readers(pipe, tiny_base, tmp_path).values():
            assert_refused(reader, file, DOWN, kind)
    words = with_tensors(files["kohya"], tmp_path / "w.safetensors", {DOWN: down.to(torch.int8)})
    assert_refused(lambda file: layers_of(open_adapter(file)), words, "I8")


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
def test_unusable_weights_and_alphas_are_refused_when_loaded(
    pipe, tiny_base, files, tmp_path, kind
):
    values, word = NUMBERS[kind]
    own = load_file(files["kohya"])
    change = {name: torch.full_like(own[name], value) for name, value in values.items()}
    file = with_tensors(files["kohya"], tmp_path / "bad.safetensors", change)
    found = readers(pipe, tiny_base, tmp_path)
    for reader in LOADING:
        assert_refused(found[reader], file, word)


def test_an_alpha_that_overflows_and_a_rank_beyond_its_layer_are_refused(pipe, files, tmp_path):
    own = load_file(files["kohya"])
    huge = with_tensors(
        files["kohya"], tmp_path / "huge.safetensors",
        {ALPHA: torch.tensor(3e38), UP: torch.full_like(own[UP], 1e3)},
    )  # fmt: skip
    assert_refused(lambda file: load_adapter(file, parts_of(pipe)), huge, "alpha of", "not finite")
    rank = 4 * sum(own[UP].shape)
    wide = {UP: torch.ones(len(own[UP]), rank), DOWN: torch.ones(rank, own[DOWN].shape[1])}
    file = with_tensors(files["kohya"], tmp_path / "wide.safetensors", wide)
    assert_refused(lambda file: load_adapter(file, parts_of(pipe)), file, "rank of", f"got {rank}")


def test_a_run_is_not_resumed_from_weights_that_are_not_floats(pipe, files, tmp_path):
    shutil.copy(files["folder"] / "card.json", tmp_path)
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


def test_a_huge_file_is_inspected_without_reading_its_weights(tmp_path, capfd):
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
    inspect.run(inspect.Options(file))
    assert time.process_time() - began < 5
    assert "model's own weights" in capfd.readouterr().out
