"""Weights of a model are read from safetensors only; a pickle is refused by name, and not run."""

import json
import shutil
from pathlib import Path

import open_clip
import pytest
import torch
from PIL import Image
from support.hub import hub_of
from support.own_clip import open_clips_own
from support.pickles import assert_refused, hub_copy, plain_pickle, trap_file
from support.tiny import assert_same_tensors, tiny_clip

from nora_studio.errors import StudioError
from nora_studio.scoring.clip_files import CONFIG, WEIGHTS, find_clip_files
from nora_studio.scoring.mini_thresholds import Judge
from nora_studio.scoring.scores import load_scorer
from nora_studio.tasks.dreambooth.preview_scores import PreviewJudge
from nora_studio.tasks.fewshot.clip import load_clip

PICKLE = "open_clip_pytorch_model.bin"
ARCHITECTURE = "tiny-of-the-tests"
PUBLISHED = {"mean": (0.1, 0.2, 0.3), "std": (0.5, 0.5, 0.5), "interpolation": "bilinear"}


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    """An open_clip folder in safetensors. Read only."""
    return tiny_clip(tmp_path_factory.mktemp("clip") / "clip")


@pytest.fixture
def trapped(clip, sprung, tmp_path) -> Path:
    """The same folder, its weights a trap."""
    folder = tmp_path / "trapped"
    folder.mkdir()
    shutil.copy(clip / CONFIG, folder)
    trap_file(folder / PICKLE, sprung)
    return folder


@pytest.fixture
def architecture(clip, tmp_path, monkeypatch) -> str:
    """The tiny model as one of open_clip's own architectures, with weights that it has names of."""
    config = json.loads((clip / CONFIG).read_text())["model_cfg"]
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, ARCHITECTURE, config)
    tags = {
        "hub": PUBLISHED | {"hf_hub": "owner/name/", "url": "", "quick_gelu": True},
        "named": PUBLISHED | {"hf_hub": "owner/name/pytorch_model.bin", "url": ""},
        "address": PUBLISHED | {"hf_hub": "", "url": "https://example.invalid/model-abc.pt"},
    }
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, ARCHITECTURE, tags)
    return ARCHITECTURE


CLIP_READERS = {
    "scores": lambda name: load_scorer(name),
    "few-shot": lambda name: load_clip(name, torch.float32, torch.device("cpu")),
    "samples": lambda name: PreviewJudge.load(name, [], [], torch.device("cpu")),
    "bars": lambda name: Judge(Path(name.removeprefix("local-dir:")), "cpu"),
}


@pytest.mark.parametrize("reader", CLIP_READERS)
def test_a_folder_whose_weights_are_a_pickle_is_refused_with_its_name(reader, trapped):
    for name in (str(trapped), f"local-dir:{trapped}"):
        assert_refused(lambda name=name: CLIP_READERS[reader](name), PICKLE, f"expected {WEIGHTS}")


def test_a_pickle_given_as_a_file_is_refused_under_any_name(trapped, sprung, architecture):
    for name in (trapped / PICKLE, f"{architecture}:{trapped / PICKLE}"):
        assert_refused(lambda name=name: load_scorer(str(name)), PICKLE, "convert it")
    for zipped in (True, False):
        trap_file(trapped / WEIGHTS, sprung, zipped)
        assert_refused(lambda: load_scorer(str(trapped)), WEIGHTS)


@pytest.mark.parametrize("name", ["weights.safetensors", "model.safetensors", WEIGHTS])
def test_the_safetensors_file_next_to_a_pickle_is_loaded(clip, tmp_path, name):
    folder = tmp_path / "both"
    folder.mkdir()
    shutil.copy(clip / CONFIG, folder)
    shutil.copy(clip / WEIGHTS, folder / name)
    plain_pickle(clip / WEIGHTS, folder / PICKLE)
    wanted = load_scorer(str(clip)).model.state_dict()
    assert_same_tensors(load_scorer(str(folder)).model.state_dict(), wanted)
    assert_same_tensors(load_scorer(str(folder / name)).model.state_dict(), wanted)


def test_several_safetensors_files_of_other_names_are_refused(clip, tmp_path):
    folder = tmp_path / "several"
    folder.mkdir()
    for source, name in ((CONFIG, CONFIG), (WEIGHTS, "a.safetensors"), (WEIGHTS, "b.safetensors")):
        shutil.copy(clip / source, folder / name)
    with pytest.raises(
        StudioError, match=r"it has 2 other safetensors files .*Name one of the files"
    ):
        load_scorer(str(folder))
    load_scorer(str(folder / "b.safetensors"))


def test_a_repository_with_only_a_pickle_is_refused_and_one_with_both_loads(
    clip, trapped, hub_cache, sprung
):
    copy = hub_copy(hub_cache)
    for file in trapped.iterdir():
        shutil.copy(file, copy)
    for reader in ("scores", "few-shot", "samples"):
        assert_refused(
            lambda reader=reader: CLIP_READERS[reader]("hf-hub:owner/name"), PICKLE, WEIGHTS
        )
    shutil.copy(clip / WEIGHTS, copy)
    loaded = load_scorer("hf-hub:owner/name")
    assert_same_tensors(loaded.model.state_dict(), load_scorer(str(clip)).model.state_dict())
    assert loaded.preprocess.transforms[-1].mean == [0.5, 0.5, 0.5]


def test_published_weights_are_safetensors_or_refused(clip, hub_cache, sprung, architecture):
    copy = hub_copy(hub_cache)
    trap_file(copy / PICKLE, sprung)
    trap_file(copy / "pytorch_model.bin", sprung)
    assert_refused(lambda: load_scorer(f"{architecture}:hub"), PICKLE, WEIGHTS)
    assert_refused(lambda: load_scorer(f"{architecture}:named"), "expected pytorch_model.safe")
    assert_refused(lambda: load_scorer(f"{architecture}:address"), "model-abc.pt")
    shutil.copy(clip / WEIGHTS, copy)
    shutil.copy(clip / WEIGHTS, copy / "pytorch_model.safetensors")
    wanted = load_scorer(str(clip)).model.state_dict()
    for tag, quick in (("hub", True), ("named", False)):
        loaded = load_scorer(f"{architecture}:{tag}")
        assert_same_tensors(loaded.model.state_dict(), wanted)
        assert loaded.preprocess.transforms[-1].mean == PUBLISHED["mean"]
        assert any("QuickGELU" in type(m).__name__ for m in loaded.model.modules()) == quick
    by_file = load_scorer(f"{architecture}:{clip / WEIGHTS}")
    assert_same_tensors(by_file.model.state_dict(), wanted)


def test_published_weights_give_the_same_model_as_open_clip(clip, hub_cache, architecture):
    shutil.copy(clip / WEIGHTS, hub_copy(hub_cache))
    own, preprocess = open_clips_own(architecture, pretrained="hub", force_quick_gelu=True)
    ours = load_scorer(f"{architecture}:hub")
    picture = Image.radial_gradient("L").convert("RGB")
    assert torch.equal(ours.preprocess(picture), preprocess(picture))
    pixels = preprocess(picture)[None]
    own.requires_grad_(False).eval()
    assert torch.equal(ours.model.encode_image(pixels), own.encode_image(pixels))


def test_only_the_configuration_of_a_repository_with_a_pickle_is_downloaded(
    clip, trapped, hub_cache, architecture, monkeypatch
):
    with hub_of(trapped, monkeypatch) as asked:
        assert_refused(lambda: load_scorer("hf-hub:owner/name"), PICKLE)
        assert_refused(lambda: load_scorer(f"{architecture}:hub"), PICKLE)
    assert {line for line in asked if line.startswith("GET")} <= {
        f"GET {CONFIG}", "GET name", f"GET {'0' * 40}"
    }  # fmt: skip
    assert not any(PICKLE in line for line in asked)


def test_only_the_safetensors_file_is_downloaded_from_the_hub(
    clip, trapped, hub_cache, monkeypatch
):
    shutil.copy(clip / WEIGHTS, trapped)
    with hub_of(trapped, monkeypatch) as asked:
        loaded = load_scorer("hf-hub:owner/name")
    assert_same_tensors(loaded.model.state_dict(), load_scorer(str(clip)).model.state_dict())
    assert f"GET {WEIGHTS}" in asked
    assert not any(PICKLE in line for line in asked)


def test_custom_code_of_a_tokenizer_is_not_run(clip, tmp_path, sprung):
    folder = tmp_path / "programmed"
    shutil.copytree(clip, folder)
    config = json.loads((folder / CONFIG).read_text())
    config["model_cfg"]["text_cfg"] |= {
        "hf_tokenizer_name": "anything",
        "tokenizer_kwargs": {"trust_remote_code": True},
    }
    (folder / CONFIG).write_text(json.dumps(config))
    program = f"open({str(sprung)!r}, 'w')\nfrom transformers import CLIPTokenizer as Own\n"
    (folder / "own.py").write_text(program)
    facts = {"auto_map": {"AutoTokenizer": ["own.Own", None]}, "tokenizer_class": "Own"}
    (folder / "tokenizer_config.json").write_text(json.dumps(facts))
    (folder / "config.json").write_text(json.dumps({"model_type": "no-such-model"}))
    with pytest.raises(StudioError, match="could not be loaded"):
        load_scorer(str(folder))


def test_the_remedy_in_the_message_gives_weights_that_load(clip, tmp_path):
    folder = tmp_path / "pickled"
    folder.mkdir()
    shutil.copy(clip / CONFIG, folder)
    torch.save(load_scorer(str(clip)).model.state_dict(), folder / PICKLE)
    said = assert_refused(lambda: find_clip_files(str(folder), "--clip"))
    program = said.partition('python -c "')[2].partition('"; ')[0]
    for name in (PICKLE, WEIGHTS):
        program = program.replace(f"'{name}'", repr(str(folder / name)))
    exec(program, {})
    wanted = load_scorer(str(clip)).model.state_dict()
    assert_same_tensors(load_scorer(str(folder)).model.state_dict(), wanted)
