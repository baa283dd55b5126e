"""The `nora-studio` command: a command's name, then that command's own options.

A plain table instead of tyro's subcommands: those need every command's options, and so its imports,
before the first `--help`, and cannot start a script that parses its own arguments.
"""

import importlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from nora_studio import __version__
from nora_studio.errors import StudioError, suggestion
from nora_studio.options.command_line import parse_command
from nora_studio.runs.entry import run_entry
from nora_studio.runs.scripts import CLIP_SCORE, FIDELITY, TRAIN, run_script


@dataclass(frozen=True)
class Command:
    """A command that runs in this process."""

    line: str
    """What it does, for the list of commands."""
    module: str
    """Imported when the command is started. It has `Options`, a dataclass, and `run(options)`,
    which returns the exit status; without `Options`, `run(arguments)` parses the arguments
    itself."""
    work: str = ""
    """Module with the `run` to call, where its import takes seconds: it is imported after the
    options are parsed, so that `--help` and a wrong flag respond at once. Empty: `module`."""

    def run(self, prog: str, arguments: Sequence[str]) -> int:
        """Run the command and return its exit status."""
        module = importlib.import_module(self.module)
        if not hasattr(module, "Options"):
            return module.run(arguments)
        options = parse_command(module.Options, arguments, prog)
        return (importlib.import_module(self.work) if self.work else module).run(options)


@dataclass(frozen=True)
class Script:
    """A command that starts an entry script with all of its arguments."""

    line: str
    script: str

    def run(self, prog: str, arguments: Sequence[str]) -> int:
        """Run the script in its own process and return its exit status."""
        return run_script(self.script, arguments, prog)


@dataclass(frozen=True)
class Group:
    """A command with subcommands."""

    line: str
    default: str
    """The subcommand that runs if none is given."""
    commands: dict[str, Command]

    def run(self, prog: str, arguments: Sequence[str]) -> int:
        """Run the subcommand and return its exit status."""
        word, *rest = arguments or [self.default]
        if word in ("-h", "--help"):
            print(f"usage: {prog} ACTION [options]\n")
            for name, command in self.commands.items():
                print(f"  {name:<10}{command.line}")
            return 0
        if word not in self.commands:
            expected = f"{prog.split()[-1]}: expected one of {', '.join(self.commands)}"
            raise StudioError(f"{expected}; got {word!r}.{suggestion(word, self.commands)}")
        return self.commands[word].run(f"{prog} {word}", rest)


_OURS = "nora_studio.cli.commands"
RUNS = {
    "list": Command(
        "List the runs in a folder: state, steps, losses, and time of the last report.",
        f"{_OURS}.runs.list",
    ),
    "show": Command(
        "Show one run: state, curves, checkpoints, samples and settings.",
        f"{_OURS}.runs.show",
    ),
    "diff": Command(
        "Compare two runs: settings that differ, and the difference between their curves.",
        f"{_OURS}.runs.diff",
    ),
    "delete": Command(
        "Move runs to .trash in their folder, from which `restore` restores them.",
        f"{_OURS}.runs.delete",
    ),
    "restore": Command("Restore a deleted run from .trash.", f"{_OURS}.runs.restore"),
    "continue": Command(
        "Continue a run and its twins: from where they stopped, or for more steps.",
        f"{_OURS}.runs.resume",
    ),
}
COMMANDS: dict[str, Command | Script | Group] = {
    "demo": Command(
        "train NoRA and LoRA on a shipped subject and compare their images",
        f"{_OURS}.demo",
        "nora_studio.cli.demo",
    ),
    "ui": Command("start the web app: train, watch, compare", "nora_studio.app.serve"),
    "train": Script("personalise SDXL from a folder of photos (the DreamBooth trainer)", TRAIN),
    "runs": Group("list, show, compare, delete and continue runs", "list", RUNS),
    "check-photos": Command("report problems in a folder of photos", f"{_OURS}.check_photos"),
    "generate": Command("generate images with a base and adapters", f"{_OURS}.generate"),
    "compare": Command(
        "generate with base and adapters from the same noise, side by side", f"{_OURS}.compare"
    ),
    "draw-server": Command(
        "generate images for requests in JSON lines, with the base kept loaded",
        "nora_studio.app.server.generation_server",
    ),
    "audit-resume": Command(
        "check that a stopped and resumed training equals an uninterrupted one",
        f"{_OURS}.audit_resume",
    ),
    "methods": Command("list the adapter methods", f"{_OURS}.methods"),
    "params": Command(
        "count the parameters an adapter trains, without loading the model", f"{_OURS}.params"
    ),
    "score": Script("score adapters with CLIP-T, CLIP-I and DINO, compared in pairs", CLIP_SCORE),
    "fidelity": Script("find the checkpoint and strength to use: subject against prompt", FIDELITY),
    "export": Command(
        "write an adapter as a single LoRA or seed file",
        f"{_OURS}.export",
        "nora_studio.cli.export",
    ),
    "merge": Command(
        "write a base with adapters merged into it", f"{_OURS}.merge", "nora_studio.cli.merge"
    ),
    "mix": Command(
        "add several adapters up in one LoRA file", f"{_OURS}.mix", "nora_studio.cli.mix"
    ),
    "inspect": Command(
        "show what an adapter is, and where it changes the model most",
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
    """Run the console command and return its exit status."""
    return run_entry(lambda: dispatch(sys.argv[1:]))


def dispatch(arguments: Sequence[str]) -> int:
    """Start the command that the first argument names and return its exit status.

    Raises:
        StudioError: the command is unknown, or it refuses its arguments.
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
    return COMMANDS[word].run(f"nora-studio {word}", rest)
