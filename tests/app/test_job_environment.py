"""A visitor's job gets no token, no stored login and no network from the server's environment."""

import json
import sys

import pytest
from support.jobs import begin, visitor, wait_for

from nora_studio.app.server.generation_process import GenerationProcess
from nora_studio.app.server.job_environment import job_environment
from nora_studio.app.server.jobs import Jobs

SECRETS = {
    "HF_TOKEN": "hf_the_owners",
    "HUGGING_FACE_HUB_TOKEN": "hf_the_owners",
    "WANDB_API_KEY": "the-owners",
    "AWS_SECRET_ACCESS_KEY": "the-owners",
    "AWS_SESSION_TOKEN": "the-owners",
    "GITHUB_TOKEN": "the-owners",
    "DATABASE_URL": "postgres://ada:the-owners@db",
    "HF_OIDC_RESOURCE": "the-owners",
}
SHOW = [
    sys.executable, "-c",
    "import json, os\nfrom huggingface_hub import get_token\n"
    "print(json.dumps({**os.environ, '(login)': get_token()}))",
]  # fmt: skip


@pytest.fixture
def owner(monkeypatch, tmp_path):
    """An owner with tokens in the environment and a login that `hf auth login` has stored."""
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    login = tmp_path / "hub"
    login.mkdir()
    (login / "token").write_text("hf_stored_by_the_owner")
    monkeypatch.setenv("HF_HOME", str(login))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.delenv("HF_HUB_OFFLINE")
    return login


def seen_by_a_job(jobs: Jobs, secret: dict[str, str] | None = None) -> dict[str, str | None]:
    """What a real child process of the queue's finds in its environment."""
    job = begin(jobs, visitor(jobs.home), SHOW, secret=secret)
    wait_for(jobs, job, "finished", seconds=60)
    return json.loads(jobs.output(job).replace("\\/", "/"))


def test_a_visitors_job_sees_no_token_and_no_login_and_asks_the_hub_for_nothing(tmp_path, owner):
    seen = seen_by_a_job(Jobs(tmp_path / "home"))
    assert not set(SECRETS) & set(seen) and seen["(login)"] is None
    assert not any(value and "the_owner" in value for value in seen.values())
    assert seen["HF_HUB_OFFLINE"] == "1" and seen["CUDA_VISIBLE_DEVICES"] == ""
    assert seen["OMP_NUM_THREADS"] == "1" and seen["OMP_WAIT_POLICY"] == "PASSIVE"


def test_a_job_can_only_log_in_with_the_visitors_own_token(tmp_path, owner):
    for is_private in (False, True):
        jobs = Jobs(tmp_path / f"home-{is_private}", is_private=is_private)
        seen = seen_by_a_job(jobs, {"HF_TOKEN": "hf_visitors"})
        assert seen["HF_TOKEN"] == "hf_visitors" and "HF_HUB_OFFLINE" not in seen
        assert not any(value and "the_owner" in value for value in seen.values())
        assert not (set(SECRETS) - {"HF_TOKEN"}) & set(seen)


def test_an_owner_alone_keeps_the_hub_login_and_no_other_secret(tmp_path, owner, monkeypatch):
    here = job_environment(tmp_path, is_private=True)
    assert {name for name in SECRETS if name in here} == {"HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"}
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_OIDC_RESOURCE"):
        monkeypatch.delenv(name)
    seen = seen_by_a_job(Jobs(tmp_path / "home", is_private=True))
    assert seen["(login)"] == "hf_stored_by_the_owner" and "WANDB_API_KEY" not in seen


def test_the_generation_server_sees_no_token_either(tmp_path, owner):
    heard = []
    show = "import json, os; print(json.dumps({'event': 'x', **os.environ}))"
    process = GenerationProcess(
        tmp_path / "log", lambda _, event: heard.append(event), [sys.executable, "-c", show]
    )
    process._process.wait(30)
    process.end()
    while None not in heard:
        pass
    assert heard[0]["event"] == "x" and not set(SECRETS) & set(heard[0])
    assert heard[0]["HF_HUB_OFFLINE"] == "1"
