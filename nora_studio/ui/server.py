"""Starts the web app: `nora-studio ui` and `python app.py`."""

import getpass
import sys
import threading
import webbrowser
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import gradio as gr
import torch
import uvicorn
from fastapi import FastAPI
from filelock import FileLock, Timeout

from nora_studio.command_line import parse_command
from nora_studio.errors import StudioError
from nora_studio.studio.accounts import Accounts, add_account
from nora_studio.studio.doorman import Doorman
from nora_studio.studio.drawings import Drawings
from nora_studio.studio.entrance import guarded_app
from nora_studio.studio.jobs import Jobs
from nora_studio.studio.origins import is_loopback
from nora_studio.studio.studio import Studio
from nora_studio.ui.page import HEAD, build_page
from nora_studio.ui.theme import css, theme


@dataclass(frozen=True)
class UiOptions:
    """Open the studio in a browser: train from photos, watch, compare NoRA with LoRA."""

    host: str = "127.0.0.1"
    """Address to listen on. Any but this machine's own demands --auth."""
    port: int = 7860
    """Port to listen on."""
    data: Path = Path("studio")
    """Folder for everybody's photos, runs and pictures."""
    auth: Path | None = None
    """File of accounts, made by --add-account. None: each browser has a folder of its own."""
    add_account: str | None = None
    """Ask for a password, add this account to the file of --auth, and end."""
    models: tuple[Path, ...] = ()
    """Folders in which visitors may name model directories. None: any, while only this machine can
    reach the studio; with accounts, none."""
    names: tuple[str, ...] = ()
    """Further host names that the studio answers to, such as a proxy's."""
    open: bool = True
    """Open the page in a browser."""


def run(arguments: Sequence[str]) -> int:
    """`nora-studio ui`: serve until stopped; trainings under way go on without the page."""
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
            f"--data {options.data}: another studio is at work there. Stop it, or name another "
            "folder."
        ) from None
    app = make_app(studio)
    stop = threading.Event()
    worker = threading.Thread(target=studio.keep_going, args=(stop,), daemon=True)
    worker.start()
    address = f"http://{options.host}:{options.port}"
    print(f"NoRA Studio is open at {address} (Ctrl-C ends the page; trainings go on)", flush=True)
    if options.open and sys.stdout.isatty():
        threading.Timer(1.0, webbrowser.open, [address]).start()
    try:
        uvicorn.run(app, host=options.host, port=options.port, log_level="warning")
    finally:
        stop.set()
        studio.drawings.close()
        worker.join(timeout=5)
        lock.release()
    return 0


def open_studio(home: Path, options: UiOptions) -> Studio:
    """The studio in a data folder.

    Raises:
        StudioError: the options would let others in without accounts, or the folder cannot be had.
    """
    accounts = None if options.auth is None else Accounts(options.auth)
    doorman = Doorman(home, options.host, accounts, options.names)
    is_private = accounts is None and is_loopback(options.host)
    folders = options.models or (None if is_private else ())
    jobs = Jobs(doorman.home, torch.cuda.device_count())
    return Studio(doorman, jobs, Drawings(doorman.home, jobs.is_device_busy), folders)


def make_app(studio: Studio) -> FastAPI:
    """The guarded app with the studio's page on it."""
    studio.doorman.uploads.serve_gradio()
    return gr.mount_gradio_app(
        guarded_app(studio.doorman),
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
        raise StudioError("--add-account: name the file of accounts by --auth FILE.")
    password = getpass.getpass(f"Password of {options.add_account}: ")
    if getpass.getpass("Once more: ") != password:
        raise StudioError("the two passwords differ; nothing was added.")
    add_account(options.auth, options.add_account, password)
    print(f"{options.add_account} may log in by {options.auth}.")
    return 0
