"""No line of the project's own code reads a pickle, or lets a library fall back to one."""

import ast
from collections.abc import Iterator

import pytest
from support.places import TOP

FILES = [
    TOP / "app.py",
    *sorted(
        f for name in ("nora_studio", "training", "evaluation") for f in (TOP / name).rglob("*.py")
    ),
]

MODULES = {"pickle", "_pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
"""To read with any of these is to run what a file says."""
CALLS = {
    "torch.load", "torch.jit.load", "torch.hub.load", "torch.hub.load_state_dict_from_url",
    "np.load", "numpy.load", "pd.read_pickle", "pandas.read_pickle",
}  # fmt: skip
METHODS = {
    "load_peft_weights",  # falls back to adapter_model.bin
    "load_lora_weights",  # of diffusers: falls back to pytorch_lora_weights.bin
    "load_textual_inversion",
    "load_ip_adapter",
    "load_state",  # of Accelerate: unpickles generators' states
    "from_single_file",
    "from_ckpt",
    "get_tokenizer",  # of open_clip, as the three below
    "create_model",
    "create_model_and_transforms",
    "create_model_from_pretrained",
    "load_checkpoint",
}
"""Whatever they are called on."""
IN_ONE_PLACE = {
    "nora_studio/scoring/clip_files.py": {
        "create_model_and_transforms", "load_checkpoint", "get_tokenizer",
    },
}  # fmt: skip
"""Which chooses a safetensors file first (tests/test_pickles.py)."""
WITHOUT_WEIGHTS = {
    "AutoConfig", "AutoImageProcessor", "AutoTokenizer", "CLIPTokenizer", "PeftConfig",
}  # fmt: skip
"""Whose `from_pretrained` reads JSON and text alone."""
PROGRAMMABLE = {"AutoConfig", "AutoImageProcessor", "AutoTokenizer", "AutoModel"}
"""Which may ask a person whether to run a program of the model's, unless they are told not to."""


def faults(source: str, file: str = "") -> Iterator[str]:
    """What a file's text holds of all that, by line."""
    allowed = IN_ONE_PLACE.get(file, set())
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.partition(".")[0] in MODULES:
                    yield f"{node.lineno}: import {alias.name}"
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                if (node.module or "").partition(".")[0] in MODULES or name in CALLS:
                    yield f"{node.lineno}: from {node.module} import {alias.name}"
        elif isinstance(node, ast.Call):
            yield from (f"{node.lineno}: {fault}" for fault in _of_call(node, allowed))


def _of_call(node: ast.Call, allowed: set[str]) -> Iterator[str]:
    name = ast.unparse(node.func)
    owner, _, last = name.rpartition(".")
    given = {word.arg: ast.unparse(word.value) for word in node.keywords if word.arg}
    if name in CALLS or (last in METHODS and last not in allowed):
        yield name
    for option in ("allow_pickle", "trust_remote_code"):
        if given.get(option, "False") != "False":
            yield f"{name}({option})"
    if given.get("weights_only", "") or given.get("use_safetensors", "True") != "True":
        yield f"{name}(weights_only or use_safetensors)"
    kind = owner.rpartition(".")[2]
    if last == "from_pretrained":
        if kind not in WITHOUT_WEIGHTS and given.get("use_safetensors") != "True":
            yield f"{name} without use_safetensors=True"
        is_programmable = kind in PROGRAMMABLE or kind.startswith("AutoModel")
        if is_programmable and given.get("trust_remote_code") != "False":
            yield f"{name} without trust_remote_code=False"


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(TOP).as_posix())
def test_no_file_reads_a_pickle(file):
    found = list(faults(file.read_text(encoding="utf-8"), file.relative_to(TOP).as_posix()))
    assert not found, found


def test_every_exception_is_still_needed():
    for file, names in IN_ONE_PLACE.items():
        text = (TOP / file).read_text(encoding="utf-8")
        assert not {name for name in names if f"open_clip.{name}(" not in text}
    everything = "".join(file.read_text(encoding="utf-8") for file in FILES)
    assert not {name for name in WITHOUT_WEIGHTS if f"{name}.from_pretrained(" not in everything}


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from pickle import load",
        "import joblib.numpy_pickle",
        "torch.load(file)",
        "from torch import load",
        "torch.load(file, weights_only=True)",
        "np.load(file, allow_pickle=True)",
        "UNet2DConditionModel.from_pretrained(folder)",
        "diffusers.AutoencoderKL.from_pretrained(folder, use_safetensors=False)",
        "AutoModel.from_pretrained(x, use_safetensors=True)",
        "AutoTokenizer.from_pretrained(x, trust_remote_code=True)",
        "AutoTokenizer.from_pretrained(x)",
        "PeftModel.from_pretrained(base, folder)",
        "open_clip.create_model(name)",
        "accelerator.load_state(folder)",
        "pipe.load_lora_weights(folder)",
    ],
)
def test_the_search_finds_what_it_looks_for(line):
    assert list(faults(line))
