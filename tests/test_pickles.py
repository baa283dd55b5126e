"""Whatever names a model, its weights are safetensors; a pickle is refused by name, and not run."""

import json
import shutil
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import open_clip
import pytest
import torch
from adapted import adapted, run
from language import tiny_llama
from pickles import plain_pickle, trap_file
from PIL import Image
from tiny import assert_same_tensors, tiny_adapter, tiny_clip
from transformers import ViTConfig

from nora_studio.clip_files import CONFIG, WEIGHTS, find_clip_files
from nora_studio.commonsense.models import load_decoder
from nora_studio.dino import load_dino
from nora_studio.errors import StudioError
from nora_studio.fewshot.clip import load_clip
from nora_studio.files import load_adapter
from nora_studio.models import load_sdxl, parts_of
from nora_studio.nora.hotswap import hotswap_adapter
from nora_studio.pretrain.bars import Judge
from nora_studio.sample_scores import SampleJudge
from nora_studio.scores import load_scorer

PICKLE = "open_clip_pytorch_model.bin"
ARCHITECTURE = "tiny-of-the-tests"
PUBLISHED = {"mean": (0.1, 0.2, 0.3), "std": (0.5, 0.5, 0.5), "interpolation": "bilinear"}


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    """An open_clip folder in safetensors. Read only."""
    return tiny_clip(tmp_path_factory.mktemp("clip") / "clip")


@pytest.fixture
def mark(tmp_path):
    """What a trap would make; it must not be there in the end."""
    mark = tmp_path / "sprung"
    yield mark
    assert not mark.exists(), "a pickle was run"


@pytest.fixture
def trapped(clip, mark, tmp_path) -> Path:
    """The same folder, its weights a trap."""
    folder = tmp_path / "trapped"
    folder.mkdir()
    shutil.copy(clip / CONFIG, folder)
    trap_file(folder / PICKLE, mark)
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


@pytest.fixture
def copies(tmp_path, monkeypatch) -> Path:
    """An empty folder for the Hub client's copies."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def hub_copy(copies: Path, repository: str = "owner/name") -> Path:
    """The folder of a repository's local copy, as the Hub's client lays it out."""
    top, commit = copies / f"models--{repository.replace('/', '--')}", "0" * 40
    (top / "refs").mkdir(parents=True)
    (top / "refs" / "main").write_text(commit)
    (top / "snapshots" / commit).mkdir(parents=True)
    return top / "snapshots" / commit


def assert_refused(call, *words: str) -> str:
    with pytest.raises(StudioError) as refused:
        call()
    said = str(refused.value)
    assert "\n" not in said
    for word in ("a pickle", *words):
        assert word in said
    return said


CLIP_DOORS = {
    "scores": lambda name: load_scorer(name),
    "few-shot": lambda name: load_clip(name, torch.float32, torch.device("cpu")),
    "samples": lambda name: SampleJudge.load(name, [], [], torch.device("cpu")),
    "bars": lambda name: Judge(Path(name.removeprefix("local-dir:")), "cpu"),
}


@pytest.mark.parametrize("door", CLIP_DOORS)
def test_a_folder_whose_weights_are_a_pickle_is_refused_by_name(door, trapped):
    for name in (str(trapped), f"local-dir:{trapped}"):
        assert_refused(lambda name=name: CLIP_DOORS[door](name), PICKLE, f"expected {WEIGHTS}")


def test_a_pickle_named_itself_is_refused_whatever_it_calls_itself(trapped, mark, architecture):
    for name in (trapped / PICKLE, f"{architecture}:{trapped / PICKLE}"):
        assert_refused(lambda name=name: load_scorer(str(name)), PICKLE, "convert it")
    for zipped in (True, False):
        trap_file(trapped / WEIGHTS, mark, zipped)
        assert_refused(lambda: load_scorer(str(trapped)), WEIGHTS)


@pytest.mark.parametrize("name", ["weights.safetensors", "model.safetensors", WEIGHTS])
def test_the_safetensors_file_beside_a_pickle_is_the_one_that_is_loaded(clip, tmp_path, name):
    folder = tmp_path / "both"
    folder.mkdir()
    shutil.copy(clip / CONFIG, folder)
    shutil.copy(clip / WEIGHTS, folder / name)
    plain_pickle(clip / WEIGHTS, folder / PICKLE)
    wanted = load_scorer(str(clip)).model.state_dict()
    assert_same_tensors(load_scorer(str(folder)).model.state_dict(), wanted)
    assert_same_tensors(load_scorer(str(folder / name)).model.state_dict(), wanted)


def test_several_safetensors_files_of_other_names_are_not_chosen_from(clip, tmp_path):
    folder = tmp_path / "several"
    folder.mkdir()
    for source, name in ((CONFIG, CONFIG), (WEIGHTS, "a.safetensors"), (WEIGHTS, "b.safetensors")):
        shutil.copy(clip / source, folder / name)
    with pytest.raises(StudioError, match=r"holds 2 safetensors files .*Name one of the files"):
        load_scorer(str(folder))
    load_scorer(str(folder / "b.safetensors"))


def test_a_repository_with_only_a_pickle_is_refused_and_one_with_both_loads(
    clip, trapped, copies, mark
):
    copy = hub_copy(copies)
    for file in trapped.iterdir():
        shutil.copy(file, copy)
    for door in ("scores", "few-shot", "samples"):
        assert_refused(lambda door=door: CLIP_DOORS[door]("hf-hub:owner/name"), PICKLE, WEIGHTS)
    shutil.copy(clip / WEIGHTS, copy)
    loaded = load_scorer("hf-hub:owner/name")
    assert_same_tensors(loaded.model.state_dict(), load_scorer(str(clip)).model.state_dict())
    assert loaded.preprocess.transforms[-1].mean == [0.5, 0.5, 0.5]


def test_published_weights_are_safetensors_or_refused(clip, copies, mark, architecture):
    copy = hub_copy(copies)
    trap_file(copy / PICKLE, mark)
    trap_file(copy / "pytorch_model.bin", mark)
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


def test_what_open_clip_itself_would_make_of_published_weights_is_the_same(
    clip, copies, architecture
):
    shutil.copy(clip / WEIGHTS, hub_copy(copies))
    own, _, preprocess = open_clip.create_model_and_transforms(
        architecture, pretrained="hub", force_quick_gelu=True
    )
    ours = load_scorer(f"{architecture}:hub")
    picture = Image.radial_gradient("L").convert("RGB")
    assert torch.equal(ours.preprocess(picture), preprocess(picture))
    pixels = preprocess(picture)[None]
    own.requires_grad_(False).eval()
    assert torch.equal(ours.model.encode_image(pixels), own.encode_image(pixels))


@contextmanager
def hub_of(folder: Path, monkeypatch):
    """Serve a folder as the repository owner/name; gives the list of what is asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            path = self.path.partition("?")[0]
            asked.append(f"{self.command} {path.rpartition('/')[2]}")
            if "/api/models/" in path:
                names = [{"rfilename": file.name} for file in folder.iterdir()]
                answer = {"id": "owner/name", "sha": "0" * 40, "siblings": names}
                return self.answer(200, json.dumps(answer).encode())
            file = folder / path.rpartition("/")[2]
            if "/resolve/" in path and file.is_file():
                return self.answer(200, file.read_bytes(), {"ETag": f'"{file.name}"'})
            return self.answer(404, b"", {"X-Error-Code": "EntryNotFound"})

        do_HEAD = do_GET

        def answer(self, status: int, content: bytes, headers: dict[str, str] | None = None):
            self.send_response(status)
            for name, value in ({"X-Repo-Commit": "0" * 40} | (headers or {})).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        def log_message(self, *_):
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    address = f"http://127.0.0.1:{server.server_port}"
    for name, value in (("HF_HUB_OFFLINE", False), ("ENDPOINT", address)):
        monkeypatch.setattr(f"huggingface_hub.constants.{name}", value)
    template = f"{address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr("huggingface_hub.hf_api.constants.ENDPOINT", address)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_of_a_repository_with_a_pickle_nothing_but_its_configuration_is_downloaded(
    clip, trapped, copies, architecture, monkeypatch
):
    with hub_of(trapped, monkeypatch) as asked:
        assert_refused(lambda: load_scorer("hf-hub:owner/name"), PICKLE)
        assert_refused(lambda: load_scorer(f"{architecture}:hub"), PICKLE)
    assert {line for line in asked if line.startswith("GET")} <= {
        f"GET {CONFIG}", "GET name", f"GET {'0' * 40}"
    }  # fmt: skip
    assert not any(PICKLE in line for line in asked)


def test_from_the_hub_the_safetensors_file_alone_is_downloaded(clip, trapped, copies, monkeypatch):
    shutil.copy(clip / WEIGHTS, trapped)
    with hub_of(trapped, monkeypatch) as asked:
        loaded = load_scorer("hf-hub:owner/name")
    assert_same_tensors(loaded.model.state_dict(), load_scorer(str(clip)).model.state_dict())
    assert f"GET {WEIGHTS}" in asked
    assert not any(PICKLE in line for line in asked)


def test_a_tokenizers_own_program_is_not_run(clip, tmp_path, mark):
    folder = tmp_path / "programmed"
    shutil.copytree(clip, folder)
    config = json.loads((folder / CONFIG).read_text())
    config["model_cfg"]["text_cfg"] |= {
        "hf_tokenizer_name": "anything",
        "tokenizer_kwargs": {"trust_remote_code": True},
    }
    (folder / CONFIG).write_text(json.dumps(config))
    program = f"open({str(mark)!r}, 'w')\nfrom transformers import CLIPTokenizer as Own\n"
    (folder / "own.py").write_text(program)
    facts = {"auto_map": {"AutoTokenizer": ["own.Own", None]}, "tokenizer_class": "Own"}
    (folder / "tokenizer_config.json").write_text(json.dumps(facts))
    (folder / "config.json").write_text(json.dumps({"model_type": "no-such-model"}))
    with pytest.raises(StudioError, match="could not be loaded"):
        load_scorer(str(folder))


def test_models_of_other_libraries_are_refused_by_the_name_of_their_pickle(
    tiny_base, tmp_path, mark
):
    sdxl = Path(shutil.copytree(tiny_base, tmp_path / "sdxl"))
    for part in ("unet", "vae", "text_encoder", "text_encoder_2"):
        name = "pytorch_model.bin" if "text" in part else "diffusion_pytorch_model.bin"
        (file,) = (sdxl / part).glob("*.safetensors")
        kept = file.rename(tmp_path / f"{part}.safetensors")
        trap_file(file.with_name(name), mark)
        assert_refused(lambda: load_sdxl(str(sdxl)), f"{part}/{name}", "save_pretrained")
        kept.rename(file)  # Beside the pickle: the pickle is not looked at.
    load_sdxl(str(sdxl))
    llama, dino = tiny_llama(tmp_path / "llama"), tmp_path / "dino"
    ViTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2).save_pretrained(dino)
    (llama / "model.safetensors").unlink()
    for folder in (llama, dino):
        trap_file(folder / "pytorch_model.bin", mark)
    assert_refused(
        lambda: load_decoder(str(llama), torch.float32, torch.device("cpu")), "pytorch_model.bin"
    )
    assert_refused(lambda: load_dino(str(dino)), "dino/pytorch_model.bin")


def test_a_model_of_the_hub_is_refused_by_the_name_of_its_pickle(copies, mark):
    copy = hub_copy(copies)
    ViTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2).save_pretrained(copy)
    trap_file(copy / "pytorch_model.bin", mark)
    assert_refused(lambda: load_dino("owner/name"), "owner/name", "pytorch_model.bin")


def test_an_adapter_that_is_a_pickle_is_refused(tiny_pipe, tmp_path, mark):
    folder = tiny_adapter(tmp_path / "adapter", tiny_pipe, "nora")
    weights = folder / "unet" / "adapter_model.safetensors"
    weights.unlink()
    trap_file(weights.with_suffix(".bin"), mark)
    assert_refused(lambda: load_adapter(folder, parts_of(tiny_pipe)), "unet/adapter_model.bin")


def test_an_adapter_is_not_exchanged_for_a_pickle(tmp_path, mark):
    model = adapted("llama")
    before = run("llama", model)
    model.save_pretrained(tmp_path / "other")
    weights = tmp_path / "other" / "adapter_model.safetensors"
    plain_pickle(weights, weights.with_suffix(".bin"))
    weights.unlink()
    assert_refused(lambda: hotswap_adapter(model, tmp_path / "other"), "adapter_model.bin")
    trap_file(weights.with_suffix(".bin"), mark)
    assert_refused(lambda: hotswap_adapter(model, tmp_path / "other"), "adapter_model.bin")
    assert torch.equal(run("llama", model), before)


def test_the_remedy_of_the_message_makes_weights_that_load(clip, tmp_path):
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
