"""The `nora-studio` command: one word, then that command's own options.

A plain table and not the subcommands of tyro: those need every command's options, and so its
imports, before the first `--help`, and have no place for a script that parses its own words.
"""

import importlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from nora_studio import __version__
from nora_studio.errors import StudioError, run_entry, suggestion
from nora_studio.options.command_line import parse_command
from nora_studio.runs.scripts import CLIP_SCORE, FIDELITY, TRAIN, run_script


@dataclass(frozen=True)
class Command:
    """What a word starts."""

    line: str
    """What it does, for the list of commands."""
    module: str
    """Imported once it is asked for. It has `Options`, a dataclass, and `run(options)`, which
    gives back the exit status; without `Options`, `run(arguments)` reads the words itself."""
    work: str = ""
    """Module whose `run` does it, where importing that takes seconds: it comes once the options
    are read, so that `--help` and a wrong flag answer at once. Empty: the same module."""

    def start(self, prog: str, arguments: Sequence[str]) -> int:
        """Run the command; give back its exit status."""
        module = importlib.import_module(self.module)
        if not hasattr(module, "Options"):
            return module.run(arguments)
        options = parse_command(module.Options, arguments, prog)
        return (importlib.import_module(self.work) if self.work else module).run(options)


@dataclass(frozen=True)
class Script:
    """A word that starts an entry script with all of its arguments."""

    line: str
    script: str

    def start(self, prog: str, arguments: Sequence[str]) -> int:
        """Run the script in a process of its own; give back its exit status."""
        return run_script(self.script, arguments)


@dataclass(frozen=True)
class Group:
    """A word with a table of its own."""

    line: str
    default: str
    """The inner word that stands where none is given."""
    commands: dict[str, Command]

    def start(self, prog: str, arguments: Sequence[str]) -> int:
        """Run the inner command; give back its exit status."""
        word, *rest = arguments or [self.default]
        if word in ("-h", "--help"):
            print(f"usage: {prog} ACTION [options]\n")
            for name, command in self.commands.items():
                print(f"  {name:<10}{command.line}")
            return 0
        if word not in self.commands:
            expected = f"{prog.split()[-1]}: expected one of {', '.join(self.commands)}"
            raise StudioError(f"{expected}; got {word!r}.{suggestion(word, self.commands)}")
        return self.commands[word].start(f"{prog} {word}", rest)


_OURS = "nora_studio.cli.commands"
RUNS = {
    "list": Command(
        "Every run in a folder: how it stands, its losses, when it last told anything.",
        f"{_OURS}.runs.list",
    ),
    "show": Command(
        "One run: how it stands, its settings, its curves, its checkpoints and pictures.",
        f"{_OURS}.runs.show",
    ),
    "diff": Command(
        "Two runs: which settings differ, and how far apart their curves are.",
        f"{_OURS}.runs.diff",
    ),
    "delete": Command(
        "Throw runs away: into .trash beside them, from where `restore` brings them back.",
        f"{_OURS}.runs.delete",
    ),
    "restore": Command("Bring a run back that was thrown away.", f"{_OURS}.runs.restore"),
    "continue": Command(
        "Go on with a run (and its twins): from where it stopped, or longer than was planned.",
        f"{_OURS}.runs.resume",
    ),
}
COMMANDS: dict[str, Command | Script | Group] = {
    "demo": Command(
        "train NoRA and LoRA on a shipped subject and show what each draws",
        f"{_OURS}.demo",
        "nora_studio.cli.demo",
    ),
    "ui": Command("open the studio in a browser: train, watch, compare", "nora_studio.app.serve"),
    "train": Script("personalise SDXL from a folder of photos (the DreamBooth trainer)", TRAIN),
    "runs": Group("list, show, compare, delete and continue runs", "list", RUNS),
    "check-photos": Command("tell what is wrong with a folder of photos", f"{_OURS}.check_photos"),
    "generate": Command("draw prompts with a base and adapters", f"{_OURS}.generate"),
    "compare": Command(
        "draw base and adapters side by side from the same noise", f"{_OURS}.compare"
    ),
    "draw-server": Command(
        "draw requests that come as JSON lines, on a warm base",
        "nora_studio.app.server.generation_server",
    ),
    "audit-resume": Command(
        "prove that a stopped training resumes exactly", f"{_OURS}.audit_resume"
    ),
    "methods": Command("list every adapter method", f"{_OURS}.methods"),
    "params": Command(
        "count what an adapter trains on a model, from shapes alone", f"{_OURS}.params"
    ),
    "score": Script("CLIP-T, CLIP-I and DINO of adapters, with paired differences", CLIP_SCORE),
    "fidelity": Script("which checkpoint at which strength: subject against prompt", FIDELITY),
    "export": Command(
        "write an adapter as one file, for other tools or a seed file",
        f"{_OURS}.export",
        "nora_studio.cli.export",
    ),
    "merge": Command(
        "write a base with adapters in its weights", f"{_OURS}.merge", "nora_studio.cli.merge"
    ),
    "mix": Command(
        "add several adapters up into one LoRA file", f"{_OURS}.mix", "nora_studio.cli.mix"
    ),
    "inspect": Command(
        "tell what an adapter is, and where it changes most",
        f"{_OURS}.inspect",
        "nora_studio.cli.inspect",
    ),
    "extract": Command(
        "fit a NoRA to what a fine-tuned model changed",
        f"{_OURS}.extract",
        "nora_studio.cli.extract",
    ),
    "push": Command(
        "publish an adapter on the Hugging Face Hub", f"{_OURS}.push", "nora_studio.cli.push"
    ),
}


def main() -> int:
    """Entry point of the console command."""
    return run_entry(lambda: dispatch(sys.argv[1:]))


def dispatch(arguments: Sequence[str]) -> int:
    """Start the command of the first word; give back its exit status.

    Raises:
        StudioError: there is no such command, or it refuses what it is given.
        SystemExit: after a command's `--help`.
    """
    word, *rest = arguments or ["--help"]
    if word in ("-h", "--help"):
        print("usage: nora-studio COMMAND [options]\n")
        for name, command in COMMANDS.items():
            print(f"  {name:<12} {command.line}")
        print("\n`nora-studio COMMAND --help` lists a command's options.")
        return 0
    if word == "--version":
        print(f"nora-studio {__version__}")
        return 0
    if word not in COMMANDS:
        expected = f"expected a command ({', '.join(COMMANDS)})"
        raise StudioError(f"{expected}; got {word!r}.{suggestion(word, COMMANDS)}")
    return COMMANDS[word].start(f"nora-studio {word}", rest)
