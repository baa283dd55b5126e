"""Publishing to a local Hub: what is sent, and that the token is never printed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.hub import running_hub
from support.tiny import RARE_TOKEN

from nora_studio.cli import main as cli

TOKEN, WRONG = "hf_" + "Secret" * 5, "hf_" + "Wrong" * 6
# The Hub's client reads its environment on import, so both pushes share a process of their own.
PUSH_TWICE = """
import os, sys
from nora_studio.cli import main as cli
sys.argv = ["nora-studio", "push", *sys.argv[1:]]
os.environ["HF_TOKEN"] = os.environ.pop("WRONG")
print("status", cli.main())
os.environ["HF_TOKEN"] = os.environ.pop("RIGHT")
print("status", cli.main())
"""


@pytest.mark.slow
def test_a_push_sends_everything_and_never_prints_the_token(twins, tmp_path):
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING"))}
    words = [str(twins[0] / "mug-nora"), "me/mug", "--licence", "openrail++", "--private"]
    with running_hub(TOKEN) as hub:
        clean |= {"WRONG": WRONG, "RIGHT": TOKEN, "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path)}
        done = subprocess.run(
            [sys.executable, "-c", PUSH_TWICE, *words],
            env=clean | {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"},
            capture_output=True,
            text=True,
            timeout=200,
        )
    told = done.stdout + done.stderr
    statuses = [line for line in done.stdout.splitlines() if line.startswith("status")]
    assert statuses == ["status 2", "status 0"], told
    # Refused: one line. The server echoes the token in its answer, as servers do.
    assert len([x for x in done.stderr.splitlines() if x.startswith("error: ")]) == 1
    assert "Traceback" not in told
    assert WRONG not in told and TOKEN not in told
    assert set(hub.tokens) == {f"Bearer {WRONG}", f"Bearer {TOKEN}"}
    assert "private" in str(hub.repositories[0])
    page = hub.files["README.md"].decode()
    assert {"pytorch_lora_weights.safetensors", "mug-nora.safetensors"} < hub.files.keys()
    assert "license: openrail++" in page and f"a photo of a {RARE_TOKEN} mug" in page
    assert "images/sample-1.png" in page and "images/sample-1.png" in hub.files
    sent = b"".join(hub.files.values())
    assert TOKEN.encode() not in sent
    assert str(twins[0].parent).encode() not in sent  # no path of this disk is published


@pytest.fixture
def command(monkeypatch, capfd):
    """Type a push without a token; give back its exit status, output and errors."""

    def type_in(*words: object) -> tuple[int, str, str]:
        monkeypatch.delenv("HF_TOKEN", raising=False)
        monkeypatch.setattr(sys, "argv", ["nora-studio", "push", *map(str, words)])
        status = cli.main()
        told = capfd.readouterr()
        return status, told.out, told.err

    return type_in


def test_a_dry_run_shows_everything_and_needs_no_token(command, twins: tuple[Path, object]):
    # Sockets to anywhere else are closed in tests: a dry run that sent something would fail.
    status, out, err = command(twins[0] / "mug-nora", "me/mug", "--dry-run")
    assert status == 0, err
    for word in ("README.md", "pytorch_lora_weights.safetensors", "instance_prompt:", "sample-1"):
        assert word in out


def test_a_push_without_a_token_names_the_environment_variable(command, twins):
    status, _, err = command(twins[0] / "mug-nora", "me/mug")
    assert status == 2
    assert "HF_TOKEN" in err.splitlines()[-1]


@pytest.mark.parametrize("repository", ["no-owner", "/mug", "me/", "me/mug/more"])
def test_a_repository_needs_an_owner_and_a_name(command, twins, repository):
    status, _, err = command(twins[0] / "mug-nora", repository, "--dry-run")
    assert status == 2
    assert "owner/name" in err.splitlines()[-1]
