"""How often Python opens each file of an adapter, command by command; run as a script.

    python tests/support/adapter_opens.py GOLDEN

Stands alone, since an audit hook stays for as long as its process. Prints JSON: what was done ->
file, relative to the copy of the golden set -> number of opens.
"""

import collections
import contextlib
import io
import json
import os
import shutil
import sys
from pathlib import Path

ADAPTERS = ("files/mug.seed.safetensors", "files/mug.kohya.safetensors", "runs/words-nora")
HEADERS = (".safetensors", "card.json", "adapter_config.json")


def main(folder: Path) -> None:
    """Run every command in the folder, which is changed, and print the counts."""
    os.chdir(folder)
    counts: collections.Counter[str] = collections.Counter()

    def hook(event: str, arguments: tuple) -> None:
        if event == "open" and isinstance(arguments[0], str):
            counts[os.path.realpath(arguments[0])] += 1

    from nora_studio.app.server.library import library
    from nora_studio.app.server.workspace import Workspace
    from nora_studio.cli.main import main as command
    from nora_studio.scoring import compare  # noqa: F401  What is imported is not counted.

    workspace = Workspace.open(folder / "home", "0" * 32)
    listed = [workspace.adapters / Path(name).name for name in ADAPTERS[:2]]
    for source, target in zip(ADAPTERS[:2], listed, strict=True):
        shutil.copyfile(source, target)
    drawing = ["--prompts", "[V]", "--steps", "1", "--size", "64", "--model", "bases/sdxl"]
    base = ["--model", "bases/sdxl"]
    calls = (
        {f"inspect {name}": ["inspect", name, "--metadata"] for name in ADAPTERS}
        | {
            f"export {name}": ["export", name, "--to", "kohya", "--out", "o.safetensors", *base]
            for name in ADAPTERS
        }
        | {
            "generate": ["generate", "--adapters", *ADAPTERS, *drawing, "--out", "generated"],
            "compare": ["compare", "--adapters", *ADAPTERS, *drawing, "--out", "compared"],
        }
    )
    watched = [os.path.realpath(place) for place in (*ADAPTERS, *listed)]
    result: dict[str, dict[str, int]] = {}

    def note(what: str) -> None:
        result[what] = {
            os.path.relpath(name, folder): count
            for name, count in sorted(counts.items())
            if name.endswith(HEADERS) and any(f"{name}/".startswith(f"{w}/") for w in watched)
        }
        counts.clear()

    sys.addaudithook(hook)
    for what, words in calls.items():
        sys.argv = ["nora-studio", *words]
        with contextlib.redirect_stdout(io.StringIO()):
            status = command()
        assert status == 0, what
        note(what)
    assert [entry.kind for entry in library(workspace)] == ["kohya", "seed"]
    note("library")
    print(json.dumps(result))


if __name__ == "__main__":
    main(Path(os.path.realpath(sys.argv[1])))
