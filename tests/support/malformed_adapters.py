"""Malformed adapter files and folders."""

import json
import struct
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from support.malformed import DEEP, DRAW, Case, base_folder, golden


def _header(change: Callable[[dict[str, Any]], Any], name: str) -> None:
    """Change a safetensors file's header, and nothing else of it."""
    content = Path(name).read_bytes()
    (size,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + size])
    changed = change(header)
    text = changed if isinstance(changed, bytes) else json.dumps(header).encode()
    Path(name).write_bytes(struct.pack("<Q", len(text)) + text + content[8 + size :])


def _tensors(change: Callable[[dict[str, torch.Tensor]], Any], name: str) -> None:
    """Change a safetensors file's tensors, its metadata kept."""
    from safetensors import safe_open

    with safe_open(name, "pt") as file:
        metadata = file.metadata()
    tensors = load_file(name)
    change(tensors)
    save_file({key: one.contiguous() for key, one in tensors.items()}, name, metadata)


def _first(tensors: dict[str, Any], ending: str = "") -> str:
    return next(
        name for name in sorted(tensors) if name.endswith(ending) and name != "__metadata__"
    )


def _half(tensors: dict[str, torch.Tensor]) -> str:
    """One factor of a pair; an alpha that is not there is the rank, as in Kohya's own files."""
    return next(n for n in sorted(tensors) if not n.endswith("alpha"))


def _set(tensors: dict[str, torch.Tensor], value: float) -> None:
    name = _first(tensors)
    tensors[name] = torch.full_like(tensors[name], value)


def _swap(tensors: dict[str, torch.Tensor], make: Callable[[torch.Tensor], torch.Tensor]) -> None:
    name = (
        _first(tensors, "lora_down.weight")
        if any("lora_down" in n for n in tensors)
        else _first(tensors)
    )
    tensors[name] = make(tensors[name])


def _twice(header: dict[str, Any]) -> bytes:
    name = _first(header)
    text = json.dumps(header)
    entry = json.dumps({name: header[name]})[1:-1]
    return (text[:-1] + ", " + entry + "}").encode()


_FILE_DAMAGE: dict[str, Callable[[str], Any]] = {
    "empty": lambda file: Path(file).write_bytes(b""),
    "cut in the header": lambda file: Path(file).write_bytes(Path(file).read_bytes()[:100]),
    "cut in the weights": lambda file: Path(file).write_bytes(Path(file).read_bytes()[:-64]),
    "bytes at the end": lambda file: Path(file).write_bytes(Path(file).read_bytes() + b"x" * 64),
    "a header longer than the file": lambda file: Path(file).write_bytes(
        struct.pack("<Q", 2**62) + Path(file).read_bytes()[8:]
    ),
    "a header that is no JSON": partial(_header, lambda header: b"{not json"),
    "a header that is a list": partial(_header, lambda header: b"[]"),
    "a deeply nested header": partial(_header, lambda header: b"[" * DEEP + b"]" * DEEP),
    "a key twice": partial(_header, _twice),
    "an offset out of the file": partial(
        _header, lambda header: header[_first(header)].update(data_offsets=[0, 2**40])
    ),
    "offsets that overlap": partial(
        _header, lambda header: header[_first(header)].update(data_offsets=[4, 8])
    ),
    "a shape that does not fit": partial(
        _header, lambda header: header[_first(header)].update(shape=[7, 7])
    ),
    "a negative shape": partial(
        _header, lambda header: header[_first(header)].update(shape=[-1, 4])
    ),
    "an unknown dtype": partial(_header, lambda header: header[_first(header)].update(dtype="X9")),
    "metadata that is no table": partial(_header, lambda header: header.update(__metadata__=5)),
    "a pickle": lambda file: Path(file).write_bytes(b"\x80\x04\x95\x0c\0\0\0\0\0\0\0}\x94."),
    "a zip": lambda file: Path(file).write_bytes(b"PK\x03\x04" + b"\0" * 200),
    "whole numbers": partial(_tensors, lambda t: _swap(t, lambda one: one.to(torch.int64))),
    "truth values": partial(_tensors, lambda t: _swap(t, lambda one: one.bool())),
    "not a number": partial(_tensors, lambda t: _set(t, float("nan"))),
    "infinity": partial(_tensors, lambda t: _set(t, float("inf"))),
    "a layer of another width": partial(_tensors, lambda t: _swap(t, lambda one: one.repeat(1, 3))),
    "no tensors": partial(_tensors, lambda t: t.clear()),
    "unknown keys": partial(_tensors, lambda t: t.update(what=torch.zeros(2, 2))),
    "a key missing": partial(_tensors, lambda t: t.pop(_half(t))),
}  # fmt: skip
_ADAPTER_COMMANDS: dict[str, tuple[str, ...]] = {
    "generate": ("--adapters", "{file}", "--model", "bases/sdxl", *DRAW),
    "inspect": ("{file}",),
    "export": ("{file}", "--to", "kohya", "--out", "out.safetensors", "--model", "bases/sdxl"),
    "mix": ("--adapters", "{file}", "{file}", "--out", "out.safetensors", "--model", "bases/sdxl"),
    "merge": ("--adapters", "{file}", "--out", "merged", "--model", "bases/sdxl"),
}
_HEADER_ALONE = {
    "no tensors",
    "not a number", "infinity", "a layer of another width", "a key missing", "unknown keys",
}  # fmt: skip
"""What `inspect` may describe: it reads headers, and weights only as far as it shows them."""


_TOLD = {
    ("inspect", "no weights"), ("inspect", "weights cut"),
    ("inspect", "targets that are not there"),
}  # fmt: skip
"""`inspect` describes what is left of a folder, and says what cannot be read of it."""
_LENIENT = {"a card of an unknown method"}
"""Cards of later versions may name methods of theirs; the configuration decides what is loaded."""


def adapters() -> Iterator[Case]:
    for file in ("files/mug.kohya.safetensors", "files/mug.seed.safetensors"):
        form = file.split(".")[1]
        for label, damage in _FILE_DAMAGE.items():
            for command, words in _ADAPTER_COMMANDS.items():
                if command == "inspect" and label in _HEADER_ALONE:
                    continue
                if form == "seed" and label in ("a layer of another width", "unknown keys"):
                    continue
                yield Case(
                    command,
                    "adapter",
                    f"{form}: {label}",
                    partial(_damaged_file, file, damage),
                    tuple(word.format(file=file) for word in words),
                    (file, Path(file).name),
                    never=("train it again", "restore it"),
                )
    folder = "runs/mug-nora"
    for label, damage in _FOLDER_DAMAGE.items():
        for command in ("generate", "inspect", "export"):
            yield Case(
                command,
                "adapter",
                f"folder: {label}",
                partial(_damaged_folder, folder, damage),
                tuple(word.format(file=folder) for word in _ADAPTER_COMMANDS[command]),
                ("mug-nora", "card.json", "adapter_config.json", "adapter_model"),
                ends="either" if (command, label) in _TOLD or label in _LENIENT else "refused",
            )


def _damaged_file(file: str, damage: Callable[[str], Any]) -> None:
    golden(file)
    base_folder()
    damage(file)


def _damaged_folder(folder: str, damage: Callable[[Path], Any]) -> None:
    golden(f"{folder}/adapter")
    base_folder()
    damage(Path(folder) / "adapter")


def _edit(name: str, change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        file = folder / name
        values = json.loads(file.read_text())
        changed = change(values)
        file.write_text(json.dumps(values if changed is None else changed))

    return edit


def text_of(name: str, text: str | bytes) -> Callable[[Path], Any]:
    content = text.encode() if isinstance(text, str) else text
    return lambda folder: (folder / name).write_bytes(content) and None


_CONFIG = "unet/adapter_config.json"
_FOLDER_DAMAGE: dict[str, Callable[[Path], Any]] = {
    "no card": lambda folder: (folder / "card.json").unlink(),
    "a card that is no JSON": text_of("card.json", "{"),
    "a card that is a list": text_of("card.json", "[]"),
    "a card of other bytes": text_of("card.json", bytes(range(200, 256))),
    "a deeply nested card": text_of("card.json", "[" * DEEP + "]" * DEEP),
    "a card without a method": _edit("card.json", lambda card: card.pop("method") and None),
    "a card of an unknown method": _edit("card.json", lambda card: card.update(method="magic")),
    "a card with a method of another kind": _edit("card.json", lambda card: card.update(method=5)),
    "a card with null fingerprints": _edit(
        "card.json", lambda card: card.update(fingerprints=None)
    ),
    "a card with fingerprints that are no numbers": _edit(
        "card.json", lambda card: card["fingerprints"].update(unet=[float("nan")] * 16)
    ),
    "no weights": lambda folder: (folder / "unet/adapter_model.safetensors").unlink(),
    "weights cut": lambda folder: _FILE_DAMAGE["cut in the weights"](
        str(folder / "unet/adapter_model.safetensors")
    ),
    "no configuration": lambda folder: (folder / _CONFIG).unlink(),
    "a configuration that is no JSON": text_of(_CONFIG, "{"),
    "a configuration of an unknown method": _edit(
        _CONFIG, lambda config: config.update(peft_type="MAGIC")
    ),
    "a negative rank": _edit(_CONFIG, lambda config: config.update(r=-2)),
    "a rank of another kind": _edit(_CONFIG, lambda config: config.update(r="two")),
    "targets that are not there": _edit(
        _CONFIG, lambda config: config.update(target_modules=["to_z"])
    ),
}
