"""The app that Gradio's pages are mounted on: the guard, the login, and visitors' files."""

from typing import Any

from fastapi import FastAPI

from nora_studio.app.server.auth import Authenticator
from nora_studio.app.server.file_route import file_routes
from nora_studio.app.server.guard import Guard
from nora_studio.app.server.login import login_routes
from nora_studio.app.server.login_limits import LoginRateLimiter


def guarded_app(
    auth: Authenticator, limiter: LoginRateLimiter | None = None, **limits: Any
) -> FastAPI:
    """Build an app whose every request passes the guard; mount Gradio on "/" of it afterwards.

    Call `auth.uploads.set_gradio_folder()` before the blocks are made.

    Args:
        limits: Settings of `Guard`; tests use tighter ones.
    """
    app = FastAPI(
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        routes=[*login_routes(auth, limiter), *file_routes(auth)],
    )
    app.add_middleware(Guard, auth=auth, **limits)
    return app
