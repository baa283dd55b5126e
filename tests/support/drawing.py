"""A drawing server in this process."""

import json

from nora_studio.app.server.drawing_server import DrawingServer, DrawServerOptions


def told_by(server_lines: list[dict], clip: str | None = None, on_event=None):
    """Everything that a server tells of some lines of input."""
    told: list[dict] = []

    def tell(event):
        told.append(event)
        if on_event is not None:
            on_event(server, event)

    server = DrawingServer(tell, DrawServerOptions(finish=True, clip=clip), device="cpu")
    server.listen(json.dumps(line) for line in server_lines)
    server.serve()
    return told
