"""Every field that names a model goes through the owner's list, an adapter's header included."""

import shutil
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest
from safetensors import safe_open
from safetensors.torch import save_file
from support.serving import PASSWORD, write_accounts
from support.tiny import tiny_adapter

from nora_studio.adapters.files.identify import CARD_KEY
from nora_studio.app.pages.start_requirements import requirements_view
from nora_studio.app.pages.train import _Handlers as Train
from nora_studio.app.pages.watch import _Handlers as Watch
from nora_studio.app.serve import UiOptions, open_studio
from nora_studio.app.server.adapter_commands import AdapterCommandBuilder
from nora_studio.app.server.adapter_uploads import add_adapter
from nora_studio.app.server.image_jobs import new_image_job, server_request
from nora_studio.app.server.image_requests import AdapterChoice
from nora_studio.app.server.model_access import ModelAccess
from nora_studio.app.server.scoring import ScoreRequest, submit
from nora_studio.app.server.training import PROGRAM
from nora_studio.app.server.uploads import Upload
from nora_studio.app.server.workspace import Workspace
from nora_studio.cli import export
from nora_studio.errors import StudioError
from nora_studio.sdxl.models import load_sdxl

EVIL = "evil/model"


@pytest.fixture
def shared(tmp_path):
    """A studio with accounts, on whose list is nothing."""
    accounts = write_accounts(tmp_path / "accounts.txt", {"ada": PASSWORD})
    return open_studio(tmp_path / "home", UiOptions(auth=accounts))


@pytest.fixture
def ada(shared):
    """A request of somebody who has logged in, and their folder."""
    line = shared.auth.log_in("ada", PASSWORD, False).partition(";")[0]
    request = SimpleNamespace(headers={"cookie": line})
    return request, shared.workspace(request.headers)


@pytest.fixture(scope="module")
def foreign(tmp_path_factory, tiny_base):
    """An adapter file whose header says that it belongs to a base that nobody has listed."""
    folder = tmp_path_factory.mktemp("foreign")
    adapter = tiny_adapter(folder / "mug", load_sdxl(str(tiny_base)), "lora")
    export.run(export.Options(adapter, "kohya", folder / "own.safetensors", model=str(tiny_base)))

    def naming(model: str):
        with safe_open(folder / "own.safetensors", "pt") as file:
            header = dict(file.metadata())
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        card = header[CARD_KEY].replace(f'"model": "{tiny_base.name}"', f'"model": "{model}"')
        assert f'"{model}"' in card
        save_file(tensors, folder / "new.safetensors", header | {CARD_KEY: card})
        return folder / "new.safetensors"

    return naming


def columns(path: str) -> dict:
    adapters = [{"path": path}]
    return {"columns": [{"label": "x", "adapters": adapters}], "prompts": ["a [V] mug"], "steps": 1}


def test_an_uploaded_adapter_that_names_a_foreign_base_is_never_used(shared, ada, foreign):
    _, workspace = ada
    file = add_adapter(workspace, Upload(foreign(EVIL), "mug.safetensors"))
    path = f"adapters/{file.name}"
    commands = AdapterCommandBuilder(workspace, shared.is_model_allowed)
    other = AdapterChoice("adapters/mug-2.safetensors")
    add_adapter(workspace, Upload(foreign("embedded"), "mug.safetensors"))
    for use in (
        lambda: commands.export(path, "kohya"),
        lambda: commands.mix([AdapterChoice(path), other], "x"),
        lambda: commands.merge([other, AdapterChoice(path)], "x"),
        lambda: commands.push(path, "ada/mug"),
        lambda: shared.image_queue.submit(workspace, columns(path)),
    ):
        with pytest.raises(StudioError, match=EVIL):
            use()
    assert shared.image_queue.process_id is None and not shared.jobs.list_jobs(workspace)
    assert "--model embedded" in commands.export(other.path, "kohya").shown


def test_a_file_that_replaces_an_adapter_cannot_change_the_base(shared, ada, foreign):
    _, workspace = ada
    file = add_adapter(workspace, Upload(foreign("embedded"), "mug.safetensors"))
    asked = columns(f"adapters/{file.name}")
    job = new_image_job(workspace, asked, is_allowed=shared.is_model_allowed)
    order = AdapterCommandBuilder(workspace, shared.is_model_allowed).export(
        f"adapters/{file.name}", "kohya"
    )
    shutil.copy(foreign(EVIL), file)
    # The command and the drawing name the base that was looked at; the header is not asked again.
    assert order.arguments[-2:] == ("--model", "embedded")
    asked = server_request(job, workspace, shared.is_model_allowed)
    assert asked["request"]["model"] == "embedded"
    later = replace(job, request=replace(job.request, model=None))
    with pytest.raises(StudioError, match=EVIL):
        server_request(later, workspace, shared.is_model_allowed)


@pytest.mark.parametrize("name", [EVIL, "hf-hub:evil/judge", "ViT-B-32:openai", "/etc"])
def test_no_field_of_a_shared_studio_takes_a_model_that_is_not_listed(
    shared, ada, name, twins, photo_folder
):
    from support.visiting import bring_runs

    request, workspace = ada
    bring_runs(workspace, twins[0], photo_folder)
    train = Train(shared, [])
    text = " ".join([*PROGRAM, "--instance-dir photos/mug --prompt 'a [V] mug' --name new"])
    for more in (f"--model {name}", f"--score-samples --clip {name}"):
        assert 'class="problem"' in requirements_view(
            shared, train._estimates, workspace, f"{text} {more}"
        )
        for press in (train.start, train.measure):
            with pytest.raises(gr.Error, match=r"--(model|clip): "):
                press(f"{text} {more}", request)
    with pytest.raises(StudioError, match="--dino"):
        submit(
            shared.jobs, workspace, ScoreRequest(("mug-nora",), dino=name), "score", shared.models
        )
    # The twins were trained on a base that this owner has not listed, or has no longer.
    with pytest.raises(StudioError, match="the base of these runs"):
        submit(shared.jobs, workspace, ScoreRequest(("mug-nora",)), "score", shared.models)
    watch = Watch(shared)
    for press in (watch.resume, lambda run, who: watch.continue_longer(run, 5, who)):
        with pytest.raises(gr.Error, match="--model: expected 'embedded'"):
            press("mug", request)
    with pytest.raises(StudioError, match="the model: expected 'embedded'"):
        shared.models.check(name, "the model")
    assert not shared.jobs.list_jobs(workspace)


def test_the_owners_list_takes_folders_hub_names_and_judges(tmp_path, hub_cache):
    (tmp_path / "models" / "own").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    (hub_cache / "models--ada--sdxl" / "snapshots" / "1").mkdir(parents=True)
    listed = [str(tmp_path / "models"), "ada/sdxl", "ViT-B-32:openai"]
    models = ModelAccess.from_list(tmp_path / "home", listed, owner_only=False)
    for name in ("embedded", "ada/sdxl", "ViT-B-32:openai", str(tmp_path / "models" / "own")):
        assert models.is_allowed(name)
    outside = (str(tmp_path / "elsewhere"), f"{tmp_path}/models/../elsewhere", "models/own")
    for name in (EVIL, "ada/sdxl2", *outside, "~nobody-here/x", "/a\0b", "/" + "x" * 5000, ""):
        assert not models.is_allowed(name)
    with pytest.raises(StudioError, match="hf download ada/other"):
        ModelAccess.from_list(tmp_path / "home", ["ada/other"], owner_only=False)
    with pytest.raises(StudioError, match="none of these"):
        ModelAccess.from_list(tmp_path / "home", ["no/such/folder"], owner_only=False)


def test_an_owner_alone_may_load_anything_outside_the_studios_folder(tmp_path):
    (tmp_path / "sdxl").mkdir()
    home = tmp_path / "home"
    theirs = Workspace.open(home, "0" * 32)
    models = open_studio(home, UiOptions(data=home)).models
    for name in ("embedded", EVIL, "hf-hub:a/b", "ViT-B-32:openai", str(tmp_path / "sdxl")):
        assert models.is_allowed(name)
    for name in (str(theirs.folder), str(home), "../sdxl", "sdxl"):
        assert not models.is_allowed(name)


@pytest.mark.parametrize("more", [{"auth": True}, {"names": ("studio.example",)}])
def test_only_an_owner_alone_has_the_owners_rights(tmp_path, more):
    given: dict[str, Any] = more
    if "auth" in more:
        given = {"auth": write_accounts(tmp_path / "accounts.txt", {"ada": PASSWORD})}
    for options, is_owner in ((UiOptions(**given), False), (UiOptions(), True)):
        studio = open_studio(tmp_path / "home", options)
        assert studio.is_private is is_owner is studio.is_model_allowed(EVIL)
        assert studio.auth.quota == (500 if is_owner else 5) * 1024**3
    assert open_studio(tmp_path / "home", UiOptions(quota=2)).auth.quota == 2 * 1024**3
    refused: tuple[tuple[dict[str, Any], str], ...] = (
        ({"quota": 0}, "--quota"),
        ({"quota": float("nan")}, "--quota"),
        ({"proxy": ("127.0.0.1",)}, "needs accounts"),
        ({"proxy": ("nginx",)}, "expected an address"),
    )
    for wrong, words in refused:
        with pytest.raises(StudioError, match=words):
            open_studio(tmp_path / "home", UiOptions(**wrong))
