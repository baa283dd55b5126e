"""Malformed photos and captions."""

import os
import struct
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from support.malformed import DEEP, HUGE, PROMPT, Case, Ends, base_folder, golden, nothing


def _picture(suffix: str) -> bytes:
    from io import BytesIO

    stream, random = BytesIO(), np.random.default_rng(0)
    image = Image.fromarray(random.integers(0, 256, (64, 64, 3), np.uint8))
    image.save(stream, {"jpg": "JPEG", "tif": "TIFF"}.get(suffix, suffix.upper()))
    return stream.getvalue()


def _bomb() -> bytes:
    """A PNG whose header says 100,000 x 100,000 pixels."""
    import zlib

    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress(b"\0" * 1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + pixels + chunk(b"IEND", b"")


def _broken_photos() -> dict[str, tuple[str, bytes]]:
    found: dict[str, tuple[str, bytes]] = {}
    for suffix in ("png", "jpg", "webp", "gif", "tif", "bmp"):
        whole = _picture(suffix)
        found[f"half a {suffix}"] = (f"x.{suffix}", whole[: len(whole) // 2])
        found[f"the head of a {suffix}"] = (f"x.{suffix}", whole[:20])
        found[f"an empty {suffix}"] = (f"x.{suffix}", b"")
        found[f"text named {suffix}"] = (f"x.{suffix}", b"Not a picture at all.\n" * 20)
    broken = bytearray(_picture("png"))
    broken[len(broken) // 2] ^= 0xFF
    found["a png with a flipped byte"] = ("x.png", bytes(broken))
    found["a decompression bomb"] = ("x.png", _bomb())
    found["an SVG named png"] = ("x.png", b"<svg xmlns='http://www.w3.org/2000/svg'/>")
    found["a web page named jpg"] = ("x.jpg", b"<!doctype html><html></html>")
    found["a zip named jpg"] = ("x.jpg", b"PK\x03\x04" + b"\0" * 100)
    found["a heic that is none"] = ("x.heic", b"\0\0\0\x18ftypheic" + b"\0" * 100)
    return found


def photos() -> Iterator[Case]:
    train = ("--prompt", PROMPT, "--model", "bases/sdxl", "--trigger", "sks")
    for label, (name, content) in _broken_photos().items():
        build = partial(_add_photo, name, content)
        yield Case("check-photos", "photo", label, build, ("photos/mug",), (name,))
        words = ("--instance-dir", "photos/mug", *train)
        yield Case("train", "photo", label, build, words, (name,), never=("Traceback",))
    for label, build in {
        "a folder named like a photo": lambda: _photo_place(lambda at: at.mkdir()),
        "a link in a circle": lambda: _photo_place(lambda at: at.symlink_to(at.name)),
        "a link that leads nowhere": lambda: _photo_place(lambda at: at.symlink_to("gone.png")),
        "a pipe": lambda: _photo_place(os.mkfifo),
    }.items():
        # A folder is no photo, whatever its name; the others can be opened by nobody.
        ends = "either" if label == "a folder named like a photo" else "refused"
        yield Case("check-photos", "photo", label, build, ("photos/mug",), ("x.png",), ends)
    for label, build in {
        "no folder": nothing,
        "an empty folder": lambda: Path("photos/mug").mkdir(parents=True),
        "a file in place of the folder": lambda: (
            Path("photos").mkdir(),
            Path("photos/mug").touch(),
        ),
    }.items():
        yield Case("check-photos", "photo", label, build, ("photos/mug",), ("photos/mug",))


def _add_photo(name: str, content: bytes) -> None:
    golden("photos")
    base_folder()
    (Path("photos/mug") / name).write_bytes(content)


def _photo_place(make: Callable[[Path], Any]) -> None:
    golden("photos")
    make(Path("photos/mug/x.png"))


def captions() -> Iterator[Case]:
    spoiled: dict[str, tuple[str, bytes, Ends]] = {
        "a caption of other bytes": ("b.txt", b"\xff\xff\x00bad", "refused"),
        "an empty caption": ("b.txt", b"", "either"),
        "a caption with a null byte": ("b.txt", b"a [V] mug\0", "refused"),
        "a caption of UTF-16": ("b.txt", "a photo of a [V] mug".encode("utf-16"), "well"),
        "a caption with a byte-order mark": ("b.txt", "\ufeffa [V] mug".encode(), "well"),
        "a caption without [V]": ("b.txt", b"a mug", "either"),
        "a caption without a photo": ("zzz.txt", b"a [V] mug", "either"),
        "a caption of a megabyte": ("b.txt", b"a [V] mug " * 100_000, "either"),
    }
    for label, (name, content, ends) in spoiled.items():
        yield Case(
            "check-photos", "caption", label, partial(_add_photo, name, content), ("photos/mug",),
            (name, "b.png"), ends=ends,
        )  # fmt: skip
    rows = {
        "no JSON": "not json\n",
        "a list": "[1, 2]\n",
        "no file_name": '{"text": "a [V] mug"}\n',
        "no text": '{"file_name": "a.jpg"}\n',
        "text of another kind": '{"file_name": "a.jpg", "text": 5}\n',
        "a path out of the folder": '{"file_name": "../../etc/passwd", "text": "a [V] mug"}\n',
        "a photo twice": '{"file_name": "a.jpg", "text": "[V]"}\n' * 2,
        "a photo that is not there": '{"file_name": "gone.jpg", "text": "a [V] mug"}\n',
        "deep nesting": "[" * DEEP + "]" * DEEP + "\n",
        "a huge integer": '{"file_name": "a.jpg", "text": ' + HUGE + "}\n",
        "other bytes": "\udcffbad\udc81",
    }
    for label, text in rows.items():
        content = text.encode("utf-8", "surrogateescape")
        yield Case(
            "check-photos", "caption", f"metadata.jsonl: {label}",
            partial(_metadata, content), ("photos/mug",), ("metadata.jsonl",),
        )  # fmt: skip


def _metadata(content: bytes) -> None:
    _add_photo("metadata.jsonl", content)
    Path("photos/mug/a.txt").unlink()
