"""The routes for logging in and out."""

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from nora_studio.app.server.auth import Authenticator
from nora_studio.app.server.login_limits import LoginRateLimiter
from nora_studio.app.server.login_page import LOGIN, LOGOUT, login_page
from nora_studio.errors import StudioError

WRONG = "The name or the password is wrong."
BUSY = "Too many attempts. Wait a minute, then try again."
RETRY = {"retry-after": "60"}


def login_routes(auth: Authenticator, limiter: LoginRateLimiter | None = None) -> list[Route]:
    """Return the routes /login and /logout.

    The login redirects a browser's form to the requested page, and sends a program
    (gradio_client's `auth=`) JSON; both get the session's cookie.
    """
    limits = limiter or LoginRateLimiter()

    async def show(request: Request) -> Response:
        if auth.accounts is None or auth.account(request.headers) is not None:
            return RedirectResponse("/", status_code=303)
        return HTMLResponse(login_page(next_path=_local_path(request.query_params.get("next", ""))))

    async def log_in(request: Request) -> Response:
        form = await request.form()
        name, password, after = (_text(form.get(key)) for key in ("username", "password", "next"))
        is_https = request.url.scheme == "https"
        cookie: list[str] = []

        def check() -> bool:
            try:
                line = auth.log_in(name.strip(), password, is_https)
            except StudioError:  # The file of accounts is damaged, so there is no account.
                return False
            cookie.extend([line] if line is not None else [])
            return line is not None

        address = request.client.host if request.client else ""
        is_right = await limits.attempt(name.strip(), address, check)
        is_person = "text/html" in request.headers.get("accept", "")
        if not is_right:
            status, problem = (429, BUSY) if is_right is None else (401, WRONG)
            extra = RETRY if is_right is None else None
            if is_person:
                page = login_page(problem, _local_path(after), name[:64])
                return HTMLResponse(page, status, extra)
            return JSONResponse({"detail": problem}, status, extra)
        answer = (
            RedirectResponse(_local_path(after) or "/", status_code=303)
            if is_person
            else JSONResponse({"success": True})
        )
        answer.headers["set-cookie"] = cookie[0]
        return answer

    async def log_out(request: Request) -> Response:
        cookies = request.headers.getlist("cookie")
        answer = RedirectResponse(LOGIN, status_code=303)
        answer.headers["set-cookie"] = auth.log_out(cookies, request.url.scheme == "https")
        answer.headers["clear-site-data"] = '"cache"'
        return answer

    return [
        Route(LOGIN, show, methods=["GET"]),
        Route(LOGIN, log_in, methods=["POST"]),
        Route(LOGOUT, log_out, methods=["POST"]),
    ]


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _local_path(path: str) -> str:
    """Return the path if it is on this server; empty if it would lead elsewhere."""
    is_local = path.startswith("/") and not path.startswith(("//", "/\\")) and path.isprintable()
    return path if is_local else ""
