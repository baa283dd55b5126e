"""Hash what seeded trainings on a CPU write, to show that a change of the code changed no result.

    python tests/support/neutral.py > before.txt            # at one commit
    python tests/support/neutral.py > after.txt             # at another, on the same machine
    diff before.txt after.txt

Trains twins of each task on the models and data of `tests/golden`, resumes what an earlier version
stopped, and generates from a run. One line for each file: tensors and cards as they are, pictures
by their pixels, log rows without time, pace, memory and version.
"""

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

CHECKOUT = Path(__file__).resolve().parents[2]
DREAMBOOTH, FEWSHOT, COMMONSENSE = (
    f"training/{name}.py" for name in ("dreambooth_nora", "clip_fewshot", "llama_commonsense")
)
PROMPT = "--prompt a_photo_of_a_[V]_mug "
SMALL = "--steps 8 --log-every 2 --checkpoint-every 4 --no-cache"
PARTS = " ".join(
    f"--{part}.rank 2 --{part}.outer-rank 8 --{part}.learning-rate 0.03"
    for part in ("unet", "text-encoder", "text-encoder-2")
)
COMMANDS = {
    "twins": (
        f"{DREAMBOOTH} --model bases/sdxl --instance-dir photos/mug --method nora,adalora {PROMPT}"
        f"--trigger sks --batch-size 2 --dropout 0.1 --warmup-steps 1 --sample-every 4 "
        f"--sample-steps 2 --evaluate-every 4 --prior-weight 0.5 --class-pictures 2 {SMALL} {PARTS}"
    ),
    "options": (
        f"{DREAMBOOTH} --model bases/sdxl --instance-dir photos/mug --method nora,lora "
        f"{PROMPT}--new-tokens 2 --batch-size 2 --accumulate 2 --weighting min-snr "
        "--noise-offset 0.05 --ema 0.9 "
        "--text-encoder-steps 5 --outer activation --buckets --flip 0.5 --caption-dropout 0.3 "
        f"--sample-steps 2 --gradient-checkpointing {SMALL} {PARTS}"
    ),
    "few": (
        f"{FEWSHOT} --model bases/clip --dataset classes --shots 4 --method nora,clip-lora "
        "--twins --batch-size 6 --steps 8 --log-every 2 --checkpoint-every 4 --vision.rank 2 "
        "--vision.outer-rank 8 --text.rank 2 --text.outer-rank 8"
    ),
    "questions": (
        f"{COMMONSENSE} --model bases/llama --data rows.json --method nora,adalora --validation 6 "
        f"--batch-size 4 --evaluate-every 3 --decoder.rank 2 --decoder.learning-rate 0.01 "
        f"--override nora.decoder.outer-rank=16 {SMALL}"
    ),
    "stopped": f"{DREAMBOOTH} --config runs/stopped-nora/config.toml --resume",
    "tiny": f"{FEWSHOT} --config runs/tiny-nora/config.toml --resume",
    "q": f"{COMMONSENSE} --config runs/q-nora/config.toml --resume",
    "pictures": (
        "-m nora_studio.cli compare --adapters runs/twins-nora runs/twins-adalora --prompts "
        "[V]_in_the_snow --steps 2 --strengths 0.5 1 --model bases/sdxl --out runs/pictures"
    ),
}
MAKE_CLIP = (
    "from pathlib import Path; from support.tiny import tiny_clip; tiny_clip(Path('bases/clip'))"
)
CHANGING = {"seconds_per_step", "memory_gib", "seconds", "seconds_left", "time", "started", "pid"}
"""Values of a log or a status that the machine decides, beside those that end in "_per_second"."""


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def without_changing(value: object) -> object:
    """A JSON value without what differs from one run to the next."""
    if isinstance(value, dict):
        return {
            name: without_changing(inner)
            for name, inner in value.items()
            if name not in CHANGING | {"host", "version"} and not name.endswith("_per_second")
        }
    return [without_changing(inner) for inner in value] if isinstance(value, list) else value


def digest_of(file: Path) -> str:
    """Of what a file says, whatever its format adds."""
    if file.suffix == ".png":
        with Image.open(file) as image:
            pixels = np.asarray(image.convert("RGB"))
        return digest(str(pixels.shape).encode() + pixels.tobytes())
    if file.suffix in (".json", ".jsonl"):
        text = file.read_text(encoding="utf-8")
        values = (
            [json.loads(text)] if file.suffix == ".json" else map(json.loads, text.splitlines())
        )
        return digest(json.dumps([without_changing(value) for value in values]).encode())
    return digest(file.read_bytes())


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--checkout", type=Path, default=CHECKOUT, help="whose code is run")
    parser.add_argument("--only", nargs="*", default=list(COMMANDS), choices=list(COMMANDS))
    given = parser.parse_args()
    checkout = given.checkout.resolve()
    environment = os.environ | {
        "PYTHONPATH": str(checkout),
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    with tempfile.TemporaryDirectory() as place:
        golden = Path(shutil.copytree(CHECKOUT / "tests" / "golden", Path(place) / "golden"))
        environment["NORA_STUDIO_CACHE"] = str(Path(place) / "cache")
        own = environment | {
            "PYTHONPATH": os.pathsep.join(map(str, (CHECKOUT, CHECKOUT / "tests")))
        }
        subprocess.run([sys.executable, "-c", MAKE_CLIP], cwd=golden, env=own, check=True)
        for name in given.only:
            words = COMMANDS[name].split()
            if words[0] != "-m":
                words[0] = str(checkout / words[0])
                if "--config" not in words:
                    words += ["--output-dir", "runs", "--name", name]
            words = [word.replace("_", " ") if "[V]" in word else word for word in words]
            done = subprocess.run(
                [sys.executable, *words],
                cwd=golden,
                env=environment,
                capture_output=True,
                text=True,
            )
            print(f"{name}: exit status {done.returncode}", flush=True)
            if done.returncode:
                print(done.stdout[-2000:], done.stderr[-3000:], file=sys.stderr)
            for file in sorted(
                (golden / "runs").glob(f"{name}*/**/*" if name == "pictures" else f"{name}-*/**/*")
            ):
                if file.is_file() and not file.name.startswith("."):
                    print(f"  {file.relative_to(golden / 'runs')} {digest_of(file)}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
