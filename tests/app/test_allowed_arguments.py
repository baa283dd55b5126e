"""Only the trainer's own options and their values reach a parser from a page."""

import contextlib
import io
import re
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nora_studio.app.server.adapter_commands import AdapterCommandBuilder
from nora_studio.app.server.allowed_arguments import (
    MAX_CHARACTERS,
    MAX_WORDS,
    check_arguments_allowed,
)
from nora_studio.app.server.scoring import ScoreRequest, _check
from nora_studio.app.server.training import (
    PROGRAM,
    check_arguments,
    parse_shown_command,
    read_arguments,
)
from nora_studio.app.server.workspace import Workspace
from nora_studio.errors import StudioError
from nora_studio.options.config import DreamboothOptions
from nora_studio.options.options_file import parse_options, to_flags
from nora_studio.options.part_settings import part_settings

NEEDED = ["--instance-dir", "photos/mug", "--prompt", "a photo of a [V] mug", "--name", "mug"]
WRITES = [
    f"--{dash.join(('tyro', kind, 'completion'))}"
    for kind in ("write", "print")
    for dash in ("-", "_")
] + ["--tyro-write_completion", "--TYRO-WRITE-COMPLETION"]


@pytest.fixture
def workspace(tmp_path) -> Workspace:
    return Workspace.open(tmp_path / "home", "0" * 32)


def refusal_of(workspace: Workspace, words: list[str]) -> str:
    """What the Train page says to a command."""
    with pytest.raises(StudioError) as refused:
        check_arguments(
            workspace, parse_shown_command(shlex.join([*PROGRAM, *words])), lambda _: True
        )
    line = str(refused.value)
    assert "\n" not in line and len(line) < 400
    assert not re.search(r"site-packages|\.py\b|Traceback", line), line
    return line


def test_tyro_alone_would_write_the_file(tmp_path):
    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):
        parse_options(["--tyro-write-completion", "bash", str(tmp_path / "written")])
    assert (tmp_path / "written").exists(), "tyro changed; the tests below prove nothing any more"


@pytest.mark.parametrize("word", WRITES)
def test_no_visitor_can_write_a_file_through_tyros_own_option(workspace, tmp_path, word):
    file = tmp_path / "written"
    for words in (
        [word, "bash", str(file)],
        [word, "bash", str(file), *NEEDED],
        [*NEEDED, word, "bash", str(file)],
        [f"{word}=bash", str(file), *NEEDED],
        ["--config", "x", word, "bash", str(file)],
        [*NEEDED[:3], word, "bash", str(file)],
        ["--sample-prompts", "a", word, "bash", str(file), *NEEDED],
    ):
        assert str(file) not in refusal_of(workspace, words)
        with pytest.raises(StudioError):
            read_arguments(words)
        assert not file.exists()
    assert list(tmp_path.iterdir()) == [tmp_path / "home"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["-h"], "in a terminal only"),
        (["--help"], "in a terminal only"),
        (["--step", "3"], "Did you mean '--steps'?"),
        (["--instance", "photos/x"], "is not an option of the trainer"),
        (["-s", "3"], "is not an option of the trainer"),
        (["--Steps", "3"], "is not an option of the trainer"),
        (["---steps", "3"], "is not an option of the trainer"),
        (["--", "3"], "is not an option of the trainer"),
        (["--unet", "3"], "is not an option of the trainer"),
        (["--unet.unet.rank", "3"], "is not an option of the trainer"),
        (["stray"], "expected an option before it"),
        (["--no-captions", "stray"], "expected an option before it"),
        (["--buckets", "maybe"], "expected an option before it"),
        (["--steps", "3", "4"], "expected an option before it"),
        (["--captions=True"], "--captions: expected no value"),
        (["--steps"], "--steps: expected a value"),
        (["--prompt", "--steps"], "--prompt: expected a value"),
        (["--prompt", "-a [V] mug"], "--prompt=VALUE"),
        (["--sample-prompts", "a", "--tyro-x"], "is not an option of the trainer"),
        (["--name", "a\0b"], "null bytes"),
        (["--a\0b"], "null bytes"),
        (["--prompt", "\ud800 [V]"], "Unicode"),
        (["--prompt", "\x1b[2J [V]"], "control characters"),
        (["--steps", "9" * 19], "--steps: expected at most 18"),
        (["--seed", "-" + "9" * 4000], "--seed: expected at most 18"),
        (["--fit", "0." + "0" * 40 + "1"], "--fit: expected at most 32"),
        (["--steps", "3e400"], "--steps"),
        (["--unet.rank", "9" * 5000], "--unet.rank: expected at most 18"),
        (["--sample-prompts", *map(str, range(MAX_WORDS))], f"at most {MAX_WORDS} words"),
        (["--prompt", "x" * MAX_CHARACTERS], f"{MAX_CHARACTERS:,}"),
        (["--config=x"], "--config"),
    ],
)
def test_unknown_options_and_excessive_values_are_refused_in_one_line(workspace, words, said):
    assert said in refusal_of(workspace, [*NEEDED, *words])


def test_a_deeply_nested_or_long_override_is_refused_in_one_line(workspace):
    for value in ("[" * 3000, "9" * 5000, "{a=" * 900):
        words = [*NEEDED, "--method", "lora", "--override", f"lora.unet.rank={value}"]
        with pytest.raises(StudioError, match="expected a number") as refused:
            part_settings(read_arguments(words), "lora")
        assert len(str(refused.value)) < 300


def test_the_allowed_options_are_those_of_the_parser():
    told = io.StringIO()
    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(told):
        parse_options(["--help"])
    lines = re.findall(r"^(?:│| ) (--\S.*)", told.getvalue(), re.MULTILINE)
    known = {flag for line in lines for flag in re.findall(r"--[a-z][\w.-]*", line)}
    assert len(known) > 80 and "--unet.no-train" in known
    for flag in known:
        for value in ([], ["1"], ["photos/x"], ["True"]):
            with contextlib.suppress(StudioError):
                check_arguments_allowed(DreamboothOptions, [flag, *value])
                break
        else:
            raise AssertionError(f"{flag} is the trainer's own and is not let through")


def test_flags_written_by_the_trainer_are_allowed_and_read_back():
    odd = DreamboothOptions(
        instance_dir=Path("photos/mug"),
        prompt="-a [V] mug",
        sample_prompts=("a [V] mug", "größer\n[V]"),
        buckets=False,
        keep_best=True,
        name="mug",
        seed=3,
        captions=False,
        class_dir=Path("photos/others"),
        override=("nora.unet.rank=4",),
    )
    odd = replace(odd, unet=replace(odd.unet, train=False, alpha=2.5))
    words = to_flags(odd)
    check_arguments_allowed(DreamboothOptions, words)
    assert parse_options(words) == odd
    # As people type them, too.
    check_arguments_allowed(
        DreamboothOptions, ["--instance_dir=photos/x", "--buckets", "True", "--no-buckets"]
    )


SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large]
NASTY = st.one_of(
    st.text(max_size=30),
    st.sampled_from(
        [*WRITES, "bash", "-", "--", "-5", "-.5", "-inf", "--steps", "--steps=3", "--prompt",
         "--instance-dir", "--sample-prompts", "--unet.rank", "--override", "--buckets", "True",
         "~", "~root", "../x", "/etc", "x\0", "\ud800", "9" * 5000, "[" * 900]
    ),
)  # fmt: skip


@settings(max_examples=60, deadline=None, suppress_health_check=SLOW)
@given(words=st.lists(NASTY, max_size=6), is_whole=st.booleans())
def test_any_words_are_either_options_or_refused_in_one_line(tmp_path_factory, words, is_whole):
    folder = tmp_path_factory.mktemp("here")
    workspace = Workspace.open(folder / "home", "0" * 32)
    with contextlib.chdir(folder):
        try:
            check_arguments(workspace, [*(NEEDED if is_whole else []), *words], lambda _: True)
        except StudioError as error:
            assert "\n" not in str(error) and str(folder) not in str(error)
        assert [path.name for path in folder.iterdir()] == ["home"]


def test_values_of_other_forms_are_never_options(workspace):
    (workspace.runs / "mug-nora" / "adapter").mkdir(parents=True)
    commands = AdapterCommandBuilder(workspace, lambda model: True)
    for model in ("--tyro-write-completion", "-h"):
        with pytest.raises(StudioError):
            commands.export("runs/mug-nora", "kohya", model=model)
    for prompt in ("--tyro-write-completion", "-h", "a.txt", " a.TXT\u2003", "a.json ", "a\0"):
        with pytest.raises(StudioError):
            _check(ScoreRequest(("mug-nora",), prompts=(prompt,)))
