"""Every reader opens an adapter by `open_adapter`, which reads each header once."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.places import GOLDEN, TOP

from nora_studio.adapters.files.adapter_file import open_adapter
from nora_studio.errors import StudioError

SEED, KOHYA, FOLDER = (
    "files/mug.seed.safetensors",
    "files/mug.kohya.safetensors",
    "runs/words-nora",
)
READ_WHOLE = {"generate", "compare"}
"""These read every file once more, all its bytes: the digest in a picture's recipe."""


def python(*words: str, folder: Path) -> str:
    """What another Python prints, with this checkout's package."""
    environment = os.environ | {
        "PYTHONPATH": str(TOP),
        "NORA_STUDIO_CACHE": str(folder / "cache"),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [sys.executable, *words], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_each_header_is_read_once_by_every_command_and_by_the_library(tmp_path):
    golden = shutil.copytree(GOLDEN, tmp_path / "golden")
    script = str(TOP / "tests" / "support" / "adapter_opens.py")
    found = json.loads(python(script, str(golden), folder=tmp_path).splitlines()[-1])
    parts = ("unet", "text_encoder", "text_encoder_2")
    of_folder = {
        f"{FOLDER}/adapter/{part}/{name}"
        for part in parts
        for name in ("adapter_config.json", "adapter_model.safetensors")
    } | {f"{FOLDER}/adapter/{name}" for name in ("card.json", "embeddings.safetensors")}
    for what, counts in found.items():
        read = what.partition(" ")[0]
        for name, count in counts.items():
            is_digested = read in READ_WHOLE and not name.endswith("card.json")
            assert count == 1 + is_digested, f"{what}: {name} was opened {count} times"
    for drawn in READ_WHOLE:
        assert found[drawn].keys() == {SEED, KOHYA} | of_folder
    for name in (SEED, KOHYA):
        assert found[f"inspect {name}"].keys() == found[f"export {name}"].keys() == {name}
    assert found[f"export {FOLDER}"].keys() == of_folder
    assert len(found["library"]) == 2


def test_headers_and_cards_are_read_without_torch_or_peft(tmp_path):
    code = (
        "import sys; from pathlib import Path; "
        "from nora_studio.adapters.files.adapter_file import open_adapter; "
        "found = [open_adapter(Path(name)) for name in sys.argv[1:]]; "
        "print([(a.identity.kind, a.card.method, len(a.card.tokens)) for a in found]); "
        "print({'torch', 'peft', 'diffusers', 'transformers'} & set(sys.modules))"
    )
    places = [str(GOLDEN / name) for name in (SEED, KOHYA, FOLDER)]
    facts, imported = python("-c", code, *places, folder=tmp_path).splitlines()
    assert facts == "[('seed', 'nora', 0), ('kohya', 'nora', 0), ('folder', 'nora', 2)]"
    assert imported == "set()"


def test_an_opened_adapter_is_returned_and_opened_again_once_its_file_has_changed(tmp_path):
    file = shutil.copyfile(GOLDEN / SEED, tmp_path / "mug.safetensors")
    adapter = open_adapter(file)
    assert open_adapter(adapter) is adapter
    shutil.copyfile(GOLDEN / KOHYA, file)
    assert adapter.identity.kind == "seed" and open_adapter(adapter).identity.kind == "kohya"
    folder = shutil.copytree(GOLDEN / FOLDER, tmp_path / "run")
    adapter = open_adapter(folder)
    assert open_adapter(adapter) is adapter and adapter.path == folder / "adapter"
    card = folder / "adapter" / "card.json"
    card.write_text(json.dumps(json.loads(card.read_text()) | {"steps": 12345}))
    assert adapter.card.steps == open_adapter(adapter).card.steps == 12345
    (folder / "adapter" / "card.json").unlink()
    with pytest.raises(StudioError, match=r"holds no card\.json"):
        open_adapter(adapter)


@pytest.mark.parametrize("cut", [64, 5000])
def test_weights_are_not_read_with_the_header_of_an_earlier_file(tmp_path, cut):
    file = shutil.copyfile(GOLDEN / KOHYA, tmp_path / "mug.safetensors")
    adapter = open_adapter(file)
    file.write_bytes(file.read_bytes()[:-cut])
    with pytest.raises(StudioError, match="the file is truncated"):
        adapter.tensors()
