"""Ask a language model commonsense questions, with or without an adapter; count correct answers.

    python evaluation/commonsense.py --adapter runs/commonsense-nora --out runs/answers-nora
    python evaluation/commonsense.py --data folder/of/sets --limit 100 --out runs/answers-base

Answers are written one by one; the same command continues after a stop. `--shard 0/4` to `3/4` (or
`accelerate launch --num_processes 4`) share the work; the process that ends last writes the whole
result.
Exit status: 0 done, 2 bad input, 130 stopped.
"""

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from tqdm import tqdm

from nora_studio.adapters.files.adapter_file import open_adapter
from nora_studio.adapters.files.adapter_folders import load_adapter
from nora_studio.errors import StudioError
from nora_studio.options.command_line import parse_command
from nora_studio.options.precision import choose_dtype
from nora_studio.runs.atomic import write_text
from nora_studio.runs.entry import run_entry
from nora_studio.tasks.commonsense.generation import SCORINGS, Model, Question, batches
from nora_studio.tasks.commonsense.harness import evaluate_with_harness
from nora_studio.tasks.commonsense.models import load_decoder, load_tokenizer
from nora_studio.tasks.commonsense.results import (
    RESULTS,
    append_answers,
    check_same_evaluation,
    drop_partial_line,
    format_report,
    read_answers,
    shard_file,
    summary,
)
from nora_studio.tasks.commonsense.rows import digest, evaluation_rows
from nora_studio.tasks.commonsense.task import PART


@dataclass(frozen=True)
class AnswerOptions:
    """Ask a language model commonsense questions and count the correct answers."""

    out: Path
    """Folder for the answers and their counts."""
    adapter: Path | None = None
    """Run, adapter folder or checkpoint. None: the base alone."""
    model: str | None = None
    """Base model. None: the adapter's own; without an adapter, the embedded one."""
    data: str = "embedded"
    """Questions: "embedded" (held-out facts of the embedded world), or a folder of sets."""
    sets: tuple[str, ...] = ()
    """Names of sets, among the eight. None given: all that exist."""
    limit: int | None = None
    """Number of questions to ask of each set, from its start. None: all."""
    scoring: Literal["generation", "likelihood"] = "generation"
    """The first label in what beam search generates, or the likeliest of the labels offered."""
    batch_size: int = 32
    """Questions per batch; the answers do not depend on it."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Number format of the base. auto: bf16 on a GPU, fp32 on a CPU."""
    base_bits: Literal[16, 8, 4] = 16
    """Bits of the base's blocks, as in training."""
    shard: str = "0/1"
    """Part of the questions to ask: its number, from 0, and how many parts there are."""
    lm_eval: tuple[str, ...] = ()
    """Tasks of lm-evaluation-harness to run as well (piqa arc_easy); it downloads their data."""
    lm_eval_include: Path | None = None
    """Folder of further task files for lm-evaluation-harness."""


def main() -> int:
    """Ask the questions, write the counts, and return the exit status."""
    options = parse_command(AnswerOptions, description=__doc__)
    shard, shards = shard_of(options.shard)
    rows = evaluation_rows(options.data, options.sets, options.limit)
    check_same_evaluation(
        options.out,
        {
            "adapter": str(options.adapter),
            "model": options.model,
            "scoring": options.scoring,
            "precision": options.precision,
            "base_bits": options.base_bits,
            "questions": {name: digest(members) for name, members in rows.items()},
        },
    )
    file = shard_file(options.out, shard, shards)
    drop_partial_line(file)
    done = read_answers(options.out)
    questions = [
        Question(name, number, row)
        for name, group in rows.items()
        for number, row in enumerate(group)
    ]
    own = questions[shard::shards]
    remaining = [question for question in own if (question.name, question.number) not in done]
    if remaining or options.lm_eval:
        model = load_model(options)
        ask(model, options, remaining, file)
        if options.lm_eval and shard == 0:
            tasks = evaluate_with_harness(
                model,
                options.lm_eval,
                options.batch_size,
                options.limit,
                options.lm_eval_include,
            )
            write_text(options.out / "lm-eval.json", json.dumps(tasks, indent=1) + "\n")
            print(json.dumps(tasks, indent=1))
    found = summary(rows, read_answers(options.out))
    write_text(options.out / RESULTS, json.dumps(found, indent=1) + "\n")
    print(format_report(found))
    return 0


def ask(model: Model, options: AnswerOptions, questions: list[Question], file: Path) -> None:
    """Answer questions batch by batch, appending each batch's answers to the file at once."""
    with tqdm(total=len(questions), unit="question", dynamic_ncols=True) as bar:
        for batch in batches(questions, options.batch_size, model.tokenizer):
            append_answers(file, SCORINGS[options.scoring](model, batch))
            bar.update(len(batch))


def load_model(options: AnswerOptions) -> Model:
    """Load the base with the adapter on this process's device."""
    on_gpu = torch.cuda.is_available()
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if on_gpu else None
    device = device or torch.device("cpu")
    adapter = None if options.adapter is None else open_adapter(options.adapter)
    name = options.model or ("embedded" if adapter is None else adapter.card.model)
    dtype = choose_dtype(options.precision, device)
    decoder: Any = load_decoder(name, dtype, device, options.base_bits)
    if adapter is not None:
        load_adapter(adapter, {PART: decoder})
    return Model(
        decoder.eval(),
        load_tokenizer(name),
        device,
        None if dtype == torch.float32 else dtype,
    )


def shard_of(text: str) -> tuple[int, int]:
    """Return the number of this process's part and of all parts, from "0/4" or the launcher.

    Raises:
        StudioError: `text` is not of this form.
    """
    if "RANK" in os.environ and "WORLD_SIZE" in os.environ:
        return int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    part, _, parts = text.partition("/")
    if not (part.isdigit() and parts.isdigit() and int(part) < int(parts)):
        raise StudioError(
            f"--shard: expected PART/PARTS, such as 0/4 to 3/4 for four parts; got {text!r}."
        )
    return int(part), int(parts)


if __name__ == "__main__":
    sys.exit(run_entry(main))
