"""A drawing server in this process."""

import json

from nora_studio.app.server.generation_server import GenerationServer, GenerationServerOptions


def told_by(server_lines: list[dict], clip: str | None = None, on_event=None):
    """Everything that a server tells of some lines of input."""
    told: list[dict] = []

    def emit(event):
        told.append(event)
        if on_event is not None:
            on_event(server, event)

    server = GenerationServer(emit, GenerationServerOptions(finish=True, clip=clip), device="cpu")
    server.listen(json.dumps(line) for line in server_lines)
    server.serve()
    return told
