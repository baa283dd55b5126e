"""Pretrain the embedded miniature LLaMA from scratch on texts about a small everyday world.

    python training/pretrain_mini_llama.py --out assets --seconds 240 --batch 192

Needs a GPU; the card next to the embedded model has its options and device. For a smoke test
without one: `--device cpu --no-compile --seconds 10 --documents 2000 --batch 8 --width 64
--layers 2`. Ctrl-C or SIGTERM saves; the same command with `--resume` continues.
Exit status: 0 done, 2 bad input, 128 + n stopped by signal n.
"""

import dataclasses
import shlex
import sys
import time
from functools import partial

import torch

from nora_studio.errors import StudioError
from nora_studio.mini.everyday.corpus import QUIZ_SHARE
from nora_studio.mini.everyday.questions import SETS, questions
from nora_studio.mini.pretrain.compilation import set_precision
from nora_studio.mini.pretrain.devices import device_name, is_gpu, peak_gibibytes
from nora_studio.mini.pretrain.language_card import export_model, write_language_card
from nora_studio.mini.pretrain.language_model import (
    ROW,
    STATE,
    Corpus,
    Quizzes,
    Training,
    build_model,
    train,
)
from nora_studio.mini.pretrain.language_settings import LanguageSettings
from nora_studio.mini.pretrain.language_text import build_tokenizer, encode_corpus
from nora_studio.mini.pretrain.progress import Progress
from nora_studio.options.command_line import parse_command
from nora_studio.options.options_file import to_flags
from nora_studio.runs.entry import run_entry
from nora_studio.runs.stop import StopRequest
from nora_studio.tasks.commonsense.prompts import training_prompt


def main() -> int:
    """Train the embedded language model from the command line; return the exit status."""
    settings = parse_command(LanguageSettings, description=__doc__)
    check(settings)
    clock = Progress(1e6, time.time())
    folder = settings.out / "mini-llama"
    prompts = [training_prompt(row) for name in SETS for row in questions(name, "train", 200)]
    read = min(settings.documents, 40_000)
    tokenizer = build_tokenizer(folder, prompts, settings.vocabulary, read)
    longest = max(len(tokenizer(prompt).input_ids) for prompt in prompts)
    clock.say(f"tokenizer of {len(tokenizer)} tokens; a question has at most {longest}")
    ids = encode_corpus(settings.documents, settings.seed, folder)
    clock.say(f"{len(ids):,} tokens of text")
    set_precision(settings.seed)
    start = tokenizer.bos_token_id
    assert isinstance(start, int)
    corpus = Corpus.from_ids(ids, start, settings.device)
    model = build_model(settings, tokenizer).to(settings.device)  # pyright: ignore
    parameters = sum(weight.numel() for weight in model.parameters())
    clock.say(f"{parameters:,} parameters on {device_name(settings.device)}")
    training = Training.begin(model, settings.rate)
    if settings.resume:
        training.restore(settings.report)
        clock.say(f"continuing after step {training.step}")
    about = {"asked": ("quiz",), "never_asked": ("train", "test")}
    of_part = partial(
        Quizzes.build,
        tokenizer=tokenizer,
        device=settings.device,
        count=min(1024, settings.documents),
    )
    quizzes = {name: of_part(parts) for name, parts in about.items()}

    def judge() -> dict[str, float]:
        return {name: quiz.accuracy(model) for name, quiz in quizzes.items()}

    with StopRequest() as stop:
        done = train(training, corpus, settings, clock, lambda: stop.signal is not None, judge)
    if not done and stop.signal is not None:
        clock.say(f"Stopped by {stop.signal.name}. Continue with the same command and --resume.")
        return 128 + stop.signal
    export_model(folder, model)
    clock.note(
        "language",
        options=options_of(settings),
        parameters=parameters,
        vocabulary=len(tokenizer),
        documents=settings.documents,
        tokens=len(ids),
        quiz_share=QUIZ_SHARE,
        steps=training.step,
        seen=training.step * settings.batch * ROW,
        seconds=round(training.seconds, 1),
        longest_question=longest,
        accuracy={name: round(value, 4) for name, value in judge().items()},
        device=device_name(settings.device),
        peak_gib=peak_gibibytes(settings.device),
        torch=torch.__version__,
    )
    clock.write(folder / "training.json")
    clock.say(f"wrote {write_language_card(folder)}")
    return 0


def options_of(settings: LanguageSettings) -> str:
    """Return the flags that train the same model again, without defaults."""
    usual = LanguageSettings()
    own = dataclasses.replace(settings, out=usual.out, report=usual.report, resume=usual.resume)
    return shlex.join(to_flags(own))


def check(settings: LanguageSettings) -> None:
    """Refuse invalid settings before any work is done.

    Raises:
        StudioError: a setting is invalid.
    """
    if is_gpu(settings.device) and not torch.cuda.is_available():
        raise StudioError(f"--device: expected a GPU for {settings.device!r}; torch finds none.")
    if settings.width % 64:
        raise StudioError(f"--width: expected a multiple of 64; got {settings.width}.")
    if settings.resume and not (settings.report / STATE).is_file():
        raise StudioError(
            f"--resume: {settings.report} has no {STATE}. Leave --resume out to start."
        )


if __name__ == "__main__":
    sys.exit(run_entry(main))
