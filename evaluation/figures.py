"""Write the figures of the README and the results pages from the records in assets/.

    python evaluation/figures.py            # rewrite the pages
    python evaluation/figures.py --check    # write nothing; name the pages that differ

A page marks what is written here: `<!-- figures: NAME -->`, the table, `<!-- end of figures -->`.
Everything else on a page stays as it is.
Exit status: 0 done, 1 a page differs (--check), 2 bad input.
"""

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from nora_studio.options.command_line import parse_command
from nora_studio.runs.atomic import write_text
from nora_studio.runs.entry import run_entry
from nora_studio.scoring.result_records import (
    SWEEPS,
    commonsense_values,
    difference,
    few_shot_values,
    interval,
    read_record,
    step_cost,
    subject_of,
    sweep_scores,
    sweep_trials,
)
from nora_studio.tasks.commonsense.cost_tables import PAPER_RATIOS

TOP = Path(__file__).resolve().parents[1]
PAGES = ("README.md", "assets/results.md", "assets/table1/README.md", "assets/speed/README.md")
BLOCK = re.compile(r"(<!-- figures: ([\w-]+) -->\n).*?(<!-- end of figures -->)", re.DOTALL)


@dataclass(frozen=True)
class Options:
    """Write the figures of the README and the results pages from the records in assets/."""

    check: bool = False
    """Write nothing; name the pages that differ from their records."""


def table(head: str, rows: list[list[str]]) -> str:
    """Format rows as a Markdown table under `head`, its column names separated by |."""
    columns = head.split("|")
    lines = ["|---" * len(columns) + "|"]
    for cells in (columns, *rows):
        lines.append("|" + "".join(f" {cell} |" if cell else " |" for cell in cells))
    lines[:2] = reversed(lines[:2])
    return "\n".join(lines) + "\n"


def summary() -> str:
    """Return NoRA and LoRA on every task, each with the script behind it."""
    rows = []
    for words, script, digits, cluster, lora, nora in (
        ("likeness to the subject (CLIP-I)", "sweep", 3, subject_of,
         *(sweep_scores(name, "CLIP-I") for name in ("lora", "nora"))),
        ("agreement with the prompt (CLIP-T)", "sweep", 3, subject_of,
         *(sweep_scores(name, "CLIP-T") for name in ("lora", "nora"))),
        ("commonsense accuracy, %", "table1", 1, None,
         commonsense_values("LoRA 16"), commonsense_values("NoRA 128 x 16")),
        ("16-shot accuracy, %", "table2", 1, None,
         few_shot_values("clip-lora", 16), few_shot_values("nora", 16)),
    ):  # fmt: skip
        means = [interval(values, digits, cluster) for values in (lora, nora)]
        delta = difference(nora, lora, digits, cluster)
        rows.append([words, *means, delta, f"`evaluation/{script}.py`"])
    lora, nora = (step_cost("llama-3-8b", label) for label in ("LoRA 16", "NoRA 704 x 32"))
    step = [
        f"{cell['seconds_per_step']:.3f} s, {cell['peak_gib']:.1f} GiB" for cell in (lora, nora)
    ]
    time, memory = (nora[name] / lora[name] for name in ("seconds_per_step", "peak_gib"))
    ratios = f"{time:.2f} times the time, {memory:.2f} times the memory"
    rows.append(["training step, LLaMA-3 8B", *step, ratios, "`evaluation/table1_costs.py`"])
    return table("|LoRA|NoRA|NoRA − LoRA|script", rows)


def subjects() -> str:
    """Return the scores on three subjects, with and without captions."""
    trials, rows = sweep_trials(), []
    for name in SWEEPS:
        scores = [interval(sweep_scores(name, s), 3, subject_of) for s in ("CLIP-I", "CLIP-T")]
        rows.append([as_words(name), f"{trials[name][0]['parameters']:,}", *scores])
    pairs = (("nora", "lora"), *((f"{one}-without-captions", one) for one in ("lora", "nora")))
    for first, second in pairs:
        deltas = [
            difference(sweep_scores(first, s), sweep_scores(second, s), 3, subject_of)
            for s in ("CLIP-I", "CLIP-T")
        ]
        rows.append([f"{as_words(first)} − {as_words(second)}", "", *deltas])
    return table("|parameters|CLIP-I|CLIP-T", rows)


def as_words(name: str) -> str:
    """Return a sweep's name as a reader would write it."""
    return name.replace("lora", "LoRA").replace("nora", "NoRA").replace("-", " ")


def other_tasks() -> str:
    """Return NoRA, LoRA and AdaLoRA on both other tasks, and their differences."""
    answers, pictures = read_record("table1/table1")["cells"], read_record("table2/table2")["cells"]
    counts = {cell.get("label", cell.get("method")): cell.get("parameters", 0)
              for cell in (*answers, *pictures)}  # fmt: skip
    chance = [f"{100 * answers[0]['average_chance']:.1f}", f"{100 * pictures[0]['chance']:.1f}"]
    rows = [["guessing", chance[0], "", chance[1], chance[1], ""]]
    pairs = {
        "untrained": ("base", "zero-shot"),
        "LoRA of rank 16; CLIP-LoRA": ("LoRA 16", "clip-lora"),
        "AdaLoRA": ("AdaLoRA 8", "adalora"),
        "NoRA": ("NoRA 128 x 16", "nora"),
    }
    values = {
        name: [commonsense_values(label), *(few_shot_values(method, n) for n in (8, 16))]
        for name, (label, method) in pairs.items()
    }
    for name, (label, method) in pairs.items():
        own = [interval(column, 1) for column in values[name]]
        rows.append([name, own[0], f"{counts[label]:,}", *own[1:], f"{counts[method]:,}"])
    _, lora, adalora, nora = pairs
    for first, second in ((nora, lora), (adalora, lora), (adalora, nora)):
        own = [difference(*two, 1) for two in zip(values[first], values[second], strict=True)]
        rows.append([f"{first} − {second}", own[0], "", *own[1:], ""])
    return table("|LLaMA, % answered|parameters|CLIP, 8 shots, %|16 shots, %|parameters", rows)


def costs() -> str:
    """Return NoRA's time and memory over those of LoRA of rank 16, next to the paper's."""
    rows = []
    for shape, label, lora, words in (
        ("llama-1-7b", "NoRA 800 x 32", "LoRA 16 (q, v)", "LLaMA-1 7B, 800 x 32; LoRA on q and v"),
        ("llama-3-8b", "NoRA 700 x 32", "LoRA 16", "LLaMA-3 8B, 700 x 32"),
        ("llama-3-8b", "NoRA 704 x 32", "LoRA 16", "LLaMA-3 8B, 704 x 32"),
    ):
        one, other, paper = step_cost(shape, label), step_cost(shape, lora), PAPER_RATIOS[shape]
        names = zip(("seconds_per_step", "peak_gib"), paper, strict=True)
        rows.append([words, *(w for n, p in names for w in (f"{one[n] / other[n]:.2f}", f"{p:g}"))])
    return table("NoRA over LoRA of rank 16|time|the paper's|memory|the paper's", rows)


def judged() -> str:
    """Return the share of the embedded model's images with each attribute of their prompts."""
    found, words = read_record("mini-sdxl/bars"), {"kind": "class", "main_color": "main colour"}
    names = ("kind", "place", "main_color", "pattern", "accessory")
    return table(f"of {found['prompts']} pictures|generated|real renders", [
        [words.get(n, n), *(f"{100 * found[of][n]:.1f}%" for of in ("drawn", "ceiling"))]
        for n in names
    ])  # fmt: skip


def speed() -> str:
    """Return the time of a training step on a full-size SDXL, and of what it is compared with."""
    found, rows = read_record("speed/speed"), []
    for name, cell in found.items():
        limit = found[f"limit, {name.rpartition(', ')[2]}"]["seconds"]
        gib = f"{cell['reserved_gib']:.1f}" if "reserved_gib" in cell else ""
        words = name.replace("nora", "NoRA").replace("lora", "LoRA")
        words = words.replace("script", "diffusers' script (LoRA)")
        share = f"{cell['seconds'] / limit:.2f}"
        rows.append([words, f"{1000 * cell['seconds']:.0f}", share, gib])
    return table("a step of|ms|of the limit|GiB held", rows)


BLOCKS: dict[str, Callable[[], str]] = {
    "summary": summary,
    "subjects": subjects,
    "other-tasks": other_tasks,
    "costs": costs,
    "judged": judged,
    "speed": speed,
}


def filled(page: str) -> str:
    """Return a page with every block of figures written again from its record."""
    return BLOCK.sub(lambda found: found[1] + BLOCKS[found[2]]() + found[3], page)


def main() -> int:
    """Write the pages, or compare them."""
    options, differ = parse_command(Options), []
    for name in PAGES:
        text = (TOP / name).read_text(encoding="utf-8")
        if (new := filled(text)) != text:
            differ.append(name)
            if not options.check:
                write_text(TOP / name, new)
    print(f"{'differ' if options.check else 'written'}: {', '.join(differ) or 'none'}")
    return int(options.check and bool(differ))


if __name__ == "__main__":
    sys.exit(run_entry(main))
