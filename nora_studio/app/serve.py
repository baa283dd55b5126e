"""Start the web app: `nora-studio ui` and `python app.py`."""

import getpass
import ipaddress
import sys
import threading
import warnings
import webbrowser
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import gradio as gr
import torch
import uvicorn
from fastapi import FastAPI
from filelock import FileLock, Timeout

from nora_studio.app.pages.page import HEAD, build_page
from nora_studio.app.pages.theme import css, theme
from nora_studio.app.server.accounts import Accounts, add_account
from nora_studio.app.server.asgi import guarded_app
from nora_studio.app.server.auth import Authenticator
from nora_studio.app.server.connections import server_config
from nora_studio.app.server.csrf import is_loopback
from nora_studio.app.server.image_queue import ImageQueue
from nora_studio.app.server.jobs import Jobs
from nora_studio.app.server.limits import GIB, OWNERS_QUOTA_BYTES, QUOTA_BYTES
from nora_studio.app.server.model_access import ModelAccess
from nora_studio.app.server.studio import Studio
from nora_studio.errors import StudioError
from nora_studio.options.command_line import parse_command

MAX_QUOTA = 1e9
"""GiB."""


@dataclass(frozen=True)
class UiOptions:
    """Open the studio in a browser: train from photos, watch, compare NoRA with LoRA.

    If only this machine can reach it (no --auth, --names or --proxy), you are its owner: jobs use
    your Hugging Face login and disk, and may load any model. Otherwise visitors' jobs get no login
    and no token, download nothing, and load the embedded model and those of --models.
    """

    host: str = "127.0.0.1"
    """Address to listen on. Any but this machine's own needs --auth."""
    port: int = 7860
    """Port to listen on."""
    data: Path = Path("studio")
    """Folder for all visitors' photos, runs and images."""
    auth: Path | None = None
    """File of accounts, written by --add-account. None: each browser has a folder of its own."""
    add_account: str | None = None
    """Ask for a password, add this account to the file of --auth, and exit."""
    models: tuple[str, ...] = ()
    """Models that may be loaded: Hub names, judges such as ViT-B-32:openai, and folders in which
    model directories lie. None: any for the owner alone; otherwise only the embedded one. Fetch Hub
    names beforehand, with your own login: `hf download owner/name`."""
    quota: float | None = None
    """GiB of disk that each visitor may use. None: 5; 500 for the owner alone."""
    names: tuple[str, ...] = ()
    """More host names that the studio accepts in requests, such as a proxy's."""
    proxy: tuple[str, ...] = ()
    """Addresses of reverse proxies in front (assets/serving.md), such as 127.0.0.1: a visitor's
    address and scheme (X-Forwarded-For, X-Forwarded-Proto) are read from their requests only. Needs
    --auth."""
    open: bool = True
    """Open the page in a browser."""


def run(arguments: Sequence[str]) -> int:
    """Run `nora-studio ui` until it is stopped; running trainings continue without the page."""
    options = parse_command(UiOptions, prog="nora-studio ui", arguments=arguments)
    if options.add_account is not None:
        return _add_account(options)
    home = options.data.expanduser().resolve()
    studio = open_studio(home, options)
    lock = FileLock(home / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise StudioError(
            f"--data {options.data}: another studio is using this folder. Stop it, or name "
            "another folder."
        ) from None
    app = make_app(studio)
    stop = threading.Event()
    worker = threading.Thread(target=studio.run_queue, args=(stop,), daemon=True)
    worker.start()
    address = f"http://{options.host}:{options.port}"
    print(f"NoRA Studio is running at {address} (Ctrl-C stops it; trainings continue)", flush=True)
    if options.open and sys.stdout.isatty():
        threading.Timer(1.0, webbrowser.open, [address]).start()
    try:
        config = server_config(app, options.proxy, host=options.host, port=options.port)
        uvicorn.Server(config).run()
    finally:
        stop.set()
        studio.image_queue.close()
        worker.join(timeout=5)
        lock.release()
    return 0


def open_studio(home: Path, options: UiOptions) -> Studio:
    """Open the studio in a data folder.

    Raises:
        StudioError: the options would let other machines connect without accounts, the folder
            cannot be used, or a listed model does not exist.
    """
    _check_proxies(options)
    accounts = None if options.auth is None else Accounts(options.auth)
    is_local = is_loopback(options.host) and not (options.names or options.proxy)
    is_private = accounts is None and is_local
    quota = OWNERS_QUOTA_BYTES if is_private else QUOTA_BYTES
    if options.quota is not None:
        if not 0 < options.quota < MAX_QUOTA:
            raise StudioError(
                f"--quota: expected a number of GiB above 0 and below {MAX_QUOTA:g}; got "
                f"{options.quota:g}."
            )
        quota = int(options.quota * GIB)
    # Before the folder is created, so that a refused start leaves nothing behind.
    models = ModelAccess.from_list(home, options.models, is_private)
    auth = Authenticator(home, options.host, accounts, options.names, quota)
    jobs = Jobs(auth.home, torch.cuda.device_count(), is_private=is_private)
    image_queue = ImageQueue(
        auth.home, jobs.is_device_busy, is_private=is_private, is_allowed=models.is_allowed
    )
    return Studio(auth, jobs, image_queue, models)


def _check_proxies(options: UiOptions) -> None:
    """Refuse a proxy that is not an address, or any proxy without accounts."""
    for address in options.proxy:
        try:
            ipaddress.ip_address(address)
        except ValueError:
            raise StudioError(
                f"--proxy: expected an address such as 127.0.0.1; got {address!r}."
            ) from None
    if options.proxy and options.auth is None:
        raise StudioError(
            "--proxy lets other machines connect, which needs accounts: add --auth FILE (made with "
            "--add-account), or leave --proxy out."
        )


def make_app(studio: Studio) -> FastAPI:
    """Return the guarded app with the studio's page mounted on it."""
    studio.auth.uploads.set_gradio_folder()
    return gr.mount_gradio_app(
        guarded_app(studio.auth),
        build_page(studio).queue(default_concurrency_limit=8, max_size=200),
        path="/",
        footer_links=[],
        run_history=False,
        show_error=True,
        ssr_mode=False,
        enable_monitoring=False,
        max_file_size="2gb",
        theme=theme(),
        css=css(),
        head=HEAD,
    )


def _add_account(options: UiOptions) -> int:
    if options.auth is None or options.add_account is None:
        raise StudioError(
            "--add-account: expected --auth FILE as well, the file to add the account to."
        )
    try:
        with warnings.catch_warnings():  # Refuse to echo a password as it is typed.
            warnings.simplefilter("error", getpass.GetPassWarning)
            password = getpass.getpass(f"Password of {options.add_account}: ")
            again = getpass.getpass("Repeat the password: ")
    except (EOFError, OSError, getpass.GetPassWarning) as error:
        raise StudioError(
            "--add-account needs a terminal to ask for the password, and there is none. Run the "
            "command in a terminal; in a container, start the container with one (-it)."
        ) from error
    if again != password:
        raise StudioError("the two passwords differ; nothing was added. Run it again.")
    add_account(options.auth, options.add_account, password)
    print(f"{options.add_account} can log in now: the account is in {options.auth}.")
    return 0
