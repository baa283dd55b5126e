"""Adapter files are checked before they are stored, under safe names."""

import json
import os
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from support.tiny import tiny_adapter

from nora_studio.adapters.files.adapter_file import open_adapter
from nora_studio.app.server.adapter_uploads import MAX_ADAPTER_BYTES, add_adapter
from nora_studio.app.server.uploads import Upload
from nora_studio.app.server.workspace import Workspace
from nora_studio.cli import export
from nora_studio.errors import StudioError


@pytest.fixture
def workspace(tmp_path) -> Workspace:
    return Workspace.open(tmp_path / "home", "0" * 32)


@pytest.fixture(scope="module")
def lora(tiny_base, tmp_path_factory) -> Path:
    """A LoRA file as other tools take it."""
    from nora_studio.sdxl.models import load_sdxl

    folder = tmp_path_factory.mktemp("adapters")
    adapter = tiny_adapter(folder / "mug", load_sdxl(str(tiny_base)), "lora")
    out = folder / "mug.safetensors"
    export.run(export.Options(adapter, "kohya", out, model=str(tiny_base)))
    return out


def listed(workspace: Workspace) -> set[str]:
    return {file.name for file in workspace.adapters.iterdir()} - {".lock"}


def test_an_adapter_is_stored_under_a_safe_name_and_never_overwrites_another(workspace, lora):
    for name, stored in (
        ("My Mug (v2).safetensors", "my-mug-v2"),
        ("my mug v2.SAFETENSORS", "my-mug-v2-2"),
        ("../../evil.safetensors", "evil"),
        ("é.bin", "e-bin"),
        ("", "adapter"),
    ):
        file = add_adapter(workspace, Upload(lora, name))
        assert file == workspace.adapters / f"{stored}.safetensors"
        assert file.read_bytes() == lora.read_bytes()
        assert open_adapter(file).card.method == "lora"


def header(text: str, rest: bytes = b"") -> bytes:
    return len(text).to_bytes(8, "little") + text.encode() + rest


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x80\x04K\x01.",
        b"PK\x03\x04" + b"\0" * 99,
        b"GIF89a" + b"\0" * 99,
        header("{}"),
        header('{"x": 1}'),
        header('{"a":{"dtype":"F32","shape":[9],"data_offsets":[0,36]}}', b"\0" * 4),
        header("{" * 4000),
        (2**62).to_bytes(8, "little") + b"{",
    ],
)
def test_files_that_are_not_adapters_are_refused_and_leave_nothing(workspace, tmp_path, content):
    file = tmp_path / "upload"
    file.write_bytes(content)
    with pytest.raises(StudioError) as caught:
        add_adapter(workspace, Upload(file, "mug.safetensors"))
    assert "mug.safetensors" in str(caught.value) and str(tmp_path) not in str(caught.value)
    assert listed(workspace) == set()


@pytest.mark.parametrize(
    ("tensors", "told"),
    [
        ({"model.diffusion_model.x": (2, 2)}, "not an adapter"),
        ({"lora_transformer_x.lora_down.weight": (2, 2)}, "another kind"),
        ({"lora_unet_x.hada_w1_a": (2, 2)}, "LyCORIS"),
        ({"clip_l": (2, 768)}, "new tokens and no adapter"),
        ({"nothing": (1,)}, "no known kind"),
    ],
)
def test_refused_files_are_named_by_their_kind(workspace, tmp_path, tensors, told):
    file = tmp_path / "upload"
    save_file({name: torch.zeros(shape) for name, shape in tensors.items()}, file)
    with pytest.raises(StudioError, match=told):
        add_adapter(workspace, Upload(file, "mug.safetensors"))
    assert listed(workspace) == set()


def test_new_tokens_are_stored_next_to_the_latest_adapter_of_their_name(workspace, lora, tmp_path):
    tokens = tmp_path / "tokens"
    save_file({"clip_l": torch.zeros(2, 8), "clip_g": torch.zeros(2, 8)}, tokens)
    for _ in range(2):
        add_adapter(workspace, Upload(lora, "mug.safetensors"))
        stored = add_adapter(workspace, Upload(tokens, "mug.embedding.safetensors"))
    assert stored.name == "mug-2.embedding.safetensors"
    assert listed(workspace) == {
        f"mug{n}.{kind}safetensors" for n in ("", "-2") for kind in ("", "embedding.")
    }


def test_size_and_quota_of_adapter_files_are_limited(workspace, lora, tmp_path):
    with pytest.raises(StudioError, match="your folder holds"):
        add_adapter(workspace, Upload(lora, "mug.safetensors"), quota=100)
    large = tmp_path / "large"
    large.touch()
    os.truncate(large, MAX_ADAPTER_BYTES + 1)  # Holes take no room on the disk.
    with pytest.raises(StudioError, match="; the limit is "):
        add_adapter(workspace, Upload(large, "mug.safetensors"))
    assert listed(workspace) == set()


@given(content=st.binary(max_size=200) | st.text(max_size=100).map(lambda text: header(text)))
@settings(
    max_examples=80,
    deadline=None,
    suppress_health_check=list(HealthCheck),  # pyright: ignore[reportArgumentType]: its members
)
def test_random_content_is_never_accepted_as_an_adapter(workspace, tmp_path, content):
    file = tmp_path / "upload"
    file.write_bytes(content)
    with pytest.raises(StudioError):
        add_adapter(workspace, Upload(file, json.dumps("x.safetensors")))
    assert listed(workspace) == set()
