"""A Hub of one machine, over real HTTP: what publishing a folder asks of it, and loading one."""

import base64
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Hub:
    """What was asked of it."""

    def __init__(self, accepted_token: str) -> None:
        self.accepted_token = accepted_token
        self.tokens: list[str] = []
        self.repositories: list[dict] = []
        self.files: dict[str, bytes] = {}
        self.url = ""


@contextmanager
def _serving(server: ThreadingHTTPServer):
    """Answer in a thread for the length of a block."""
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def running_hub(accepted_token: str):
    """Serve on a free port of this machine for the length of a block."""
    hub = Hub(accepted_token)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            hub.tokens.append(self.headers.get("Authorization", ""))
            if hub.tokens[-1] != f"Bearer {hub.accepted_token}":
                self.answer(401, {"error": f"Invalid credentials: {hub.tokens[-1]}"})
            elif self.path == "/api/repos/create":
                hub.repositories.append(json.loads(body))
                self.answer(200, {"url": f"{hub.url}/me/mug", "name": "me/mug", "id": "me/mug"})
            elif "/preupload/" in self.path:
                files = [
                    {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False, "oid": None}
                    for f in json.loads(body)["files"]
                ]
                self.answer(200, {"files": files})
            elif "/commit/" in self.path:
                for line in body.splitlines():
                    entry = json.loads(line)
                    if entry["key"] == "file":
                        value = entry["value"]
                        hub.files[value["path"]] = base64.b64decode(value["content"])
                answer = {"commitUrl": f"{hub.url}/me/mug/commit/abcdef123456"}
                self.answer(200, answer | {"commitOid": "abcdef123456", "success": True})
            elif self.path == "/api/validate-yaml":
                self.answer(200, {"errors": [], "warnings": []})
            else:
                self.answer(404, {"error": self.path})

        def do_GET(self):
            hub.tokens.append(self.headers.get("Authorization", ""))
            self.answer(200, {"id": "me/mug", "sha": "0" * 40, "siblings": []})

        def answer(self, status: int, content: dict) -> None:
            text = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_):
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    with _serving(server):
        yield hub


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
    with _serving(server):
        yield asked
