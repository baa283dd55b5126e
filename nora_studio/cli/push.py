"""`nora-studio push`: publish an adapter, its page and its samples on the Hugging Face Hub."""

import os
import tempfile
from dataclasses import replace
from pathlib import Path

from huggingface_hub import HfApi

from nora_studio.adapters.files.adapter_file import embeddings_path
from nora_studio.adapters.files.card import AdapterCard
from nora_studio.adapters.files.model_card import DIFFUSERS_FILE, Sample, model_page
from nora_studio.cli.commands.push import Options
from nora_studio.cli.export import write_lora
from nora_studio.cli.opening import check_rank, open_updates, size_text, title_of
from nora_studio.errors import StudioError
from nora_studio.photos.opening import open_image
from nora_studio.photos.prompts import replace_token
from nora_studio.sdxl.recipes import read_recipe

TOKEN_VARIABLE = "HF_TOKEN"
SAMPLES = 4
"""Number of the run's latest samples that are published."""


def run(options: Options) -> int:
    """Build the repository's folder, list it, and upload it unless this is a dry run."""
    check_rank(options.rank)
    owner, slash, name = options.repository.partition("/")
    if not (owner and slash and name) or "/" in name:
        raise StudioError(
            f"expected a repository as owner/name, such as ada/my-mug; got {options.repository!r}."
        )
    token = os.environ.get(TOKEN_VARIABLE, "")
    if not token and not options.dry_run:
        raise StudioError(
            f"expected a Hub access token in the environment variable {TOKEN_VARIABLE}; it is not "
            "set. Create one at huggingface.co/settings/tokens, or try --dry-run first."
        )
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        build_repository(options, folder)
        for file in sorted(file for file in folder.rglob("*") if file.is_file()):
            print(f"  {file.relative_to(folder)}  {size_text(file)}")
        if options.dry_run:
            print((folder / "README.md").read_text(encoding="utf-8"))
            # The web app reads the text above this line as the page.
            print(f"Nothing was sent: this was a dry run for {options.repository}.")
            return 0
        print(_send(folder, options, token))
    return 0


def build_repository(options: Options, folder: Path) -> None:
    """Write everything that is published into an empty folder.

    Raises:
        StudioError: the adapter or its base cannot be read.
    """
    opened, updates = open_updates(options.adapter, options.model, options.rank)
    title = options.title or title_of(options.adapter)
    card = opened.card
    if options.licence is not None:
        card = replace(card, licence=options.licence)
    opened = replace(opened, card=card)
    files = {"diffusers": DIFFUSERS_FILE, "kohya": f"{title}.safetensors"}
    tokens = opened.adapter.new_tokens()
    chosen = {style: files[style] for style in options.formats}
    for style, name in chosen.items():
        write_lora(
            folder / name,
            opened,
            updates,
            style,
            options.precision,
            options.rank,
            title,
            label=name,
            tokens=tokens,
        )
    samples = _copy_samples(opened.adapter.path, card, folder)
    written = list(chosen.values())
    if tokens is not None:
        written += [embeddings_path(Path(name)).name for name in chosen.values()]
    page = model_page(card, title, options.repository, written, samples)
    (folder / "README.md").write_text(page, encoding="utf-8")


def _copy_samples(adapter: Path, card: AdapterCard, folder: Path) -> list[Sample]:
    """Copy the latest samples of the adapter's run, without their recipes, which hold paths."""
    files = sorted((adapter.parent / "samples").glob("step-*.png"))[-SAMPLES:]
    samples = []
    for number, file in enumerate(files, start=1):
        try:
            recipe = read_recipe(file)
        except StudioError:
            continue  # An image of another program.
        name = f"images/sample-{number}.png"
        (folder / "images").mkdir(exist_ok=True)
        _copy_pixels(file, folder / name)
        samples.append(Sample(replace_token(recipe.prompt, card.trigger), name))
    return samples


def _copy_pixels(source: Path, target: Path) -> None:
    with open_image(source) as image:
        image.convert("RGB").save(target)


def _send(folder: Path, options: Options, token: str) -> str:
    try:
        api = HfApi(token=token)
        api.create_repo(options.repository, private=options.private, exist_ok=True)
        commit = api.upload_folder(
            repo_id=options.repository, folder_path=folder, commit_message="Upload adapter"
        )
    except Exception as error:
        # What the client raises may hold a request, and with it the token: only the error's type
        # and first line are shown, with the token removed, and the exception chain is cut.
        reason = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
        reason = reason.replace(token, "***")
    else:
        return f"https://huggingface.co/{options.repository} ({commit.oid[:8]})"
    raise StudioError(f"cannot push to {options.repository}: {reason}")
