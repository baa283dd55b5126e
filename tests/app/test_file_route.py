"""A visitor's files are served to that visitor only, whatever the request."""

import os
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from support.serving import cookie_line, serving

from nora_studio.app.server.file_route import MEDIA_TYPES, find_served_file
from nora_studio.app.server.workspace import Workspace
from nora_studio.errors import StudioError

SECRET = b"nobody else's"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("files") / "home") as running:
        yield running


@pytest.fixture(scope="module")
def owner(server):
    """A visitor with a picture, a run and a hidden file, and everything beside it that is not
    theirs."""
    client, workspace = server.visitor()
    run = workspace.runs / "mug-nora"
    for folder in (run / "samples", run / ".trash", run / ".thumbs", run / "folder.png"):
        folder.mkdir(parents=True)
    Image.new("RGB", (8, 8), "red").save(run / "samples" / "step 1.png")
    for name in ("log.jsonl", "config.toml", "notes.html", "a.txt", "model.py", "run.pt", "x.PNG"):
        (run / name).write_bytes(b"<script>1</script>")
    for hidden in (run / ".env.txt", run / ".trash" / "b.txt", run / ".thumbs" / "c.webp"):
        hidden.write_bytes(SECRET)
    (server.auth.home / "outside.txt").write_bytes(SECRET)
    (run / "link.txt").symlink_to(server.auth.home / "outside.txt")
    (run / "folder").symlink_to(server.auth.home)
    (run / "seen.txt").symlink_to(run / ".env.txt")
    return client, workspace


def test_a_visitors_own_image_is_served_unchanged_and_may_be_cached(server, owner):
    client, workspace = owner
    picture = workspace.runs / "mug-nora" / "samples" / "step 1.png"
    answer = client.get(workspace.url(picture))
    assert answer.content == picture.read_bytes()
    assert answer.headers["content-type"] == "image/png"
    assert "immutable" in answer.headers["cache-control"]
    assert "private" in answer.headers["cache-control"]
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "content-disposition" not in answer.headers
    bare = client.get("/files/runs/mug-nora/samples/step%201.png")
    assert bare.status_code == 200 and "no-cache" in bare.headers["cache-control"]
    saved = client.get("/files/runs/mug-nora/samples/step%201.png?download")
    assert saved.headers["content-disposition"].startswith("attachment")


def test_a_changed_image_has_another_url(owner):
    _, workspace = owner
    file = workspace.runs / "mug-nora" / "a.txt"
    before = workspace.url(file)
    os.utime(file, ns=(1, 1))
    assert workspace.url(file) != before


def test_text_and_html_are_shown_and_never_rendered(owner):
    client, _ = owner
    for name in ("notes.html", "config.toml", "log.jsonl", "a.txt"):
        answer = client.get(f"/files/runs/mug-nora/{name}")
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/plain")
        assert "sandbox" in answer.headers["content-security-policy"]


@pytest.mark.parametrize(
    "path",
    [
        "runs/mug-nora/.env.txt",
        "runs/mug-nora/.trash/b.txt",
        "runs/mug-nora/seen.txt",
        "runs/mug-nora/link.txt",
        "runs/mug-nora/folder/outside.txt",
        "runs/mug-nora/model.py",
        "runs/mug-nora/run.pt",
        "runs/mug-nora/x.PNG",
        "runs/mug-nora/folder.png",
        "runs/mug-nora",
        "",
        ".",
        "../../outside.txt",
        "%2e%2e/%2e%2e/outside.txt",
        "..%2f..%2foutside.txt",
        "runs/../../../outside.txt",
        "%252e%252e/%252e%252e/outside.txt",
        "..\\..\\outside.txt",
        "runs/mug-nora/a.txt%00.png",
        "/etc/hostname",
        "//etc/hostname",
        "%2fetc%2fhostname",
        "runs/mug-nora/%0d%0aset-cookie:x=1.txt",
        "a" * 5000 + ".txt",
        "a/" * 2500 + "a.txt",
        "../../secret",
        "../../secret.txt",
    ],
)
def test_hidden_linked_and_foreign_files_are_not_served(server, owner, path):
    status, headers, body = server.raw(f"/files/{path}", cookie_line(owner[0]))
    assert status in (404, 400) and SECRET not in body
    assert "set-cookie" not in headers
    assert str(server.auth.home).encode() not in body


def test_a_thumbnail_is_served_though_its_folder_is_hidden(server, owner):
    assert owner[0].get("/files/runs/mug-nora/.thumbs/c.webp").status_code == 200


def test_no_other_visitor_gets_a_file(server, owner):
    address = "/files/runs/mug-nora/a.txt"
    assert owner[0].get(address).status_code == 200
    other, _ = server.visitor()
    assert other.get(address).status_code == 404
    assert server.raw(address)[0] == 404
    theirs = owner[1].folder.name
    for path in (f"../{theirs}/runs/mug-nora/a.txt", f"visitors/{theirs}/runs/mug-nora/a.txt"):
        assert server.raw(f"/files/{path}", cookie_line(other))[0] == 404
    name, value = next(iter(owner[0].cookies.items()))
    for forged in (value[:-1], value + "A", theirs, value.swapcase(), "", "../" + theirs):
        assert server.raw(address, f"{name}={forged}")[0] == 404


def test_an_unknown_visitor_leaves_no_folder_behind(server, owner):
    before = sorted((server.auth.home / "visitors").iterdir())
    assert server.raw("/files/runs/x/a.txt")[0] == 404
    assert sorted((server.auth.home / "visitors").iterdir()) == before


def test_files_are_read_and_nothing_else(server, owner):
    for method in ("POST", "PUT", "DELETE"):
        status, _, _ = server.raw("/files/runs/mug-nora/a.txt", cookie_line(owner[0]), method)
        assert status in (404, 405)
    assert (owner[1].runs / "mug-nora" / "a.txt").is_file()


paths = st.one_of(
    st.text(max_size=60),
    st.lists(
        st.sampled_from(["..", ".", "runs", "mug", ".thumbs", "%2e%2e", "a.txt", "", "\\", "\x00"]),
        max_size=8,
    ).map("/".join),
)


@given(path=paths)
@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_path_leads_out_of_a_workspace(tmp_path, path):
    workspace = Workspace(tmp_path / "visitor")
    (workspace.runs / "mug").mkdir(parents=True, exist_ok=True)
    (workspace.runs / "mug" / "a.txt").write_bytes(b"mine")
    (tmp_path / "a.txt").write_bytes(SECRET)
    found = find_served_file(workspace, path)
    if found is not None:
        assert found.read_bytes() == b"mine" and found.suffix in MEDIA_TYPES


@given(path=paths)
@settings(max_examples=60, deadline=None)
def test_every_path_gets_a_proper_response(server, owner, path):
    encoded = quote(path, safe="/%.\\")
    status, _, body = server.raw(f"/files/{encoded}", cookie_line(owner[0]))
    assert status in (200, 307, 400, 404) and SECRET not in body


@pytest.mark.parametrize(
    "relative", ["../a.txt", "/etc/hostname", "runs/../../a.txt", "link.txt", "x\x00", "a" * 9000]
)
def test_a_workspace_finds_no_file_outside(tmp_path, relative):
    workspace = Workspace(tmp_path / "visitor")
    workspace.runs.mkdir(parents=True)
    (tmp_path / "a.txt").write_bytes(SECRET)
    (workspace.folder / "link.txt").symlink_to(tmp_path / "a.txt")
    with pytest.raises(StudioError, match="there is no file"):
        workspace.own_file(relative)
