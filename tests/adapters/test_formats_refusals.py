"""Files that cannot be loaded are refused in one line, and the model is unchanged."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from support.tiny import assert_same_tensors, states, tiny_adapter

from nora_studio.adapters.files.adapter_file import find_adapter, open_adapter
from nora_studio.adapters.files.adapter_folders import load_adapter
from nora_studio.adapters.files.identify import CARD_KEY, SEED_KEY, identify
from nora_studio.adapters.files.inspection import group_by_block, layers_of
from nora_studio.adapters.files.metadata import portable_metadata
from nora_studio.adapters.files.names import LayerNames
from nora_studio.adapters.files.portable import write_portable
from nora_studio.adapters.files.seed import write_seed
from nora_studio.adapters.files.updates import read_updates, with_rank
from nora_studio.adapters.methods.attachment import detach
from nora_studio.errors import StudioError
from nora_studio.runs.tensor_files import write_tensors
from nora_studio.runs.tensor_headers import read_header
from nora_studio.sdxl.models import load_sdxl, parts_of

FORMATS = ("kohya", "diffusers", "seed")
STEM = "lora_unet_middle_block_1_transformer_blocks_0_attn1_to_q"


@pytest.fixture(scope="module")
def pipe(tiny_base):
    """One pipeline for all; every test has to leave it bare."""
    return load_sdxl(str(tiny_base))


@pytest.fixture(scope="module")
def files(pipe, tmp_path_factory) -> dict[str, Path]:
    """A good file of each format. Read only."""
    folder = tmp_path_factory.mktemp("formats")
    parts = parts_of(pipe)
    card = load_adapter(tiny_adapter(folder / "adapter", pipe, "nora"), parts)
    found = {style: folder / f"{style}.safetensors" for style in FORMATS}
    write_seed(found["seed"], parts, card)
    updates, names = with_rank(read_updates(parts)), LayerNames(parts)
    for style in ("kohya", "diffusers"):
        metadata = portable_metadata(card, "t", {"unet": 4}, style == "kohya", False)
        write_portable(found[style], updates, names, style, torch.float16, metadata)
    for module in parts.values():
        detach(module)
    return found


@pytest.fixture(scope="module")
def bare(pipe):
    return states(parts_of(pipe))


def load_or_refuse(pipe, bare, file: Path) -> bool:
    """Load a file and take it off; whether it could be. Either way the base must be untouched."""
    try:
        load_adapter(file, parts_of(pipe))
    except StudioError as refusal:
        assert "\n" not in str(refusal)
        assert str(file) in str(refusal)
        loaded = False
    else:
        loaded = True
        for module in parts_of(pipe).values():
            detach(module)
    assert_same_tensors(states(parts_of(pipe)), bare)
    return loaded


@pytest.mark.parametrize("style", FORMATS)
def test_an_undamaged_file_is_identified_inspected_and_loaded(pipe, bare, files, style):
    assert find_adapter(files[style]) == files[style]
    assert open_adapter(files[style]).card.method == "nora"
    assert load_or_refuse(pipe, bare, files[style])


@pytest.mark.parametrize("style", FORMATS)
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_a_file_with_damaged_bytes_is_never_loaded_in_part(
    pipe, bare, files, tmp_path, style, data
):
    content = bytearray(files[style].read_bytes())
    end = 8 + int.from_bytes(content[:8], "little")
    # Half of the damage goes into the header, where the meaning is.
    place = data.draw(st.integers(0, end - 1) | st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        content[place] ^= data.draw(st.integers(1, 255))
    else:
        del content[max(1, place) :]
    file = tmp_path / "spoiled.safetensors"
    file.write_bytes(bytes(content))
    load_or_refuse(pipe, bare, file)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4) | st.floats(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)


@pytest.mark.parametrize("key", [SEED_KEY, CARD_KEY, "lora_adapter_metadata"])
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_metadata_of_any_json_is_used_or_refused(pipe, bare, files, tmp_path, key, data):
    source = files["seed" if key == SEED_KEY else "diffusers"]
    value = data.draw(JSON)
    if key != SEED_KEY and data.draw(st.booleans()):
        known = {CARD_KEY: ("fingerprints", "steps"), "lora_adapter_metadata": ("unet.lora_alpha",)}
        stated = json.loads(read_header(source).metadata.get(key, "{}"))
        value = stated | {data.draw(st.sampled_from(known[key])): value}
    file = tmp_path / "odd.safetensors"
    text = json.dumps(value) if data.draw(st.booleans()) else data.draw(st.text())
    metadata = read_header(source).metadata | {key: text}
    write_tensors(file, load_file(source), metadata)
    load_or_refuse(pipe, bare, file)


def edited(files, tmp_path, change) -> Path:
    """The Kohya file with its tensors changed."""
    tensors = load_file(files["kohya"])
    change(tensors)
    file = tmp_path / "edited.safetensors"
    write_tensors(file, tensors, read_header(files["kohya"]).metadata)
    return file


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.pop(f"{STEM}.lora_up.weight"), "lacks the up factor"),
        (lambda t: t.update({f"{STEM}.lora_up.weight": torch.zeros(64, 3)}), "do not multiply"),
        (lambda t: t.update({f"{STEM}.lora_up.weight": torch.zeros(64)}), "do not multiply"),
        (lambda t: t.update({f"{STEM}.lora_up.weight": torch.zeros(9, 4)}), "another shape"),
        (lambda t: t.update({f"{STEM}.alpha": torch.zeros(2)}), "alpha of unet"),
        (lambda t: t[f"{STEM}.alpha"].fill_(float("nan")), "NaN or infinity"),
        (lambda t: t.update({f"{STEM}.dora_scale": torch.ones(64, 1)}), "DoRA"),
        (lambda t: t.update({f"{STEM}.mystery": torch.ones(1)}), "not that of a LoRA.s factor"),
        (
            lambda t: t.update({"lora_unet_input_blocks_77_1_proj_in.alpha": torch.ones(1)}),
            "names no layer",
        ),
    ],
)
def test_tensors_that_do_not_belong_are_refused(pipe, bare, files, tmp_path, change, words):
    file = edited(files, tmp_path, change)
    with pytest.raises(StudioError, match=words):
        load_adapter(file, parts_of(pipe))
    assert not load_or_refuse(pipe, bare, file)


def name_only(*names: str) -> dict[str, torch.Tensor]:
    return {name: torch.zeros(2, 2) for name in names}


KINDS = {
    "lycoris": name_only(f"{STEM}.hada_w1_a", f"{STEM}.hada_w1_b"),
    "peft": name_only("base_model.model.a.to_q.lora_A.weight"),
    "other-lora": name_only("transformer.blocks.0.attn.to_q.lora_A.weight"),
    "embedding": name_only("clip_l", "clip_g"),
    "model": name_only("model.diffusion_model.input_blocks.0.0.weight"),
    "unknown": name_only("weight"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_another_tools_file_is_identified_and_refused(pipe, bare, tmp_path, kind):
    file = tmp_path / "foreign.safetensors"
    write_tensors(file, KINDS[kind])
    identity = identify(read_header(file))
    assert identity.kind == kind
    assert open_adapter(file).identity == identity
    with pytest.raises(StudioError, match="cannot be loaded here") as refusal:
        load_adapter(file, parts_of(pipe))
    assert str(identity) in str(refusal.value)
    assert not load_or_refuse(pipe, bare, file)


@pytest.mark.parametrize(
    ("width", "base"),
    [(768, "Stable Diffusion 1.x"), (1024, "Stable Diffusion 2.x"), (2048, "SDXL"), (5, "width 5")],
)
def test_the_base_of_a_lora_is_identified_by_the_width_of_its_text(tmp_path, width, base):
    file = tmp_path / "a.safetensors"
    stem = "lora_unet_middle_block_1_transformer_blocks_0_attn2_to_k"
    write_tensors(
        file,
        {
            f"{stem}.lora_down.weight": torch.ones(2, width),
            f"{stem}.lora_up.weight": torch.ones(3, 2),
        },
    )
    assert base in str(identify(read_header(file)))


def test_blocks_add_up_to_the_whole_change_in_every_format(pipe, files, tmp_path):
    parts = parts_of(pipe)
    load_adapter(files["seed"], parts)
    total = sum(
        float(update.dense().square().sum())
        for layers in read_updates(parts).values()
        for update in layers.values()
    )
    for module in parts.values():
        detach(module)
    for style, limit in (("seed", 1e-5), ("kohya", 1e-3), ("diffusers", 1e-3)):
        blocks = group_by_block(layers_of(open_adapter(files[style])))
        assert sum(block.energy for block in blocks) == pytest.approx(total, rel=limit)
        assert sum(block.layers for block in blocks) == 72
        assert len(blocks) == 6  # two encoder layers, down 1, mid, up 0: two transformers each
