"""Picture files written number by number, independent of the library that reads them."""

import struct
import zlib

import numpy as np

GREY, RGB, PALETTE, GREY_ALPHA, RGB_ALPHA = 0, 2, 3, 4, 6
"""Colour types of PNG (W3C, third edition, 11.2.1)."""


def png_chunk(kind: bytes, content: bytes) -> bytes:
    mark = struct.pack(">I", zlib.crc32(kind + content))
    return struct.pack(">I", len(content)) + kind + content + mark


def png(
    samples: np.ndarray,  # (height, width, channels), integers
    bits: int,
    colour_type: int,
    chunks: bytes = b"",
) -> bytes:
    """A PNG of exactly these numbers; `chunks` stand before its data."""
    height, width, _ = samples.shape
    head = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0)
    rows = [b"\0" + row for row in packed_rows(samples, bits, ">")]
    data = png_chunk(b"IDAT", zlib.compress(b"".join(rows)))
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", head) + chunks + data + png_chunk(b"IEND", b"")


def packed_rows(samples: np.ndarray, bits: int, order: str) -> list[bytes]:
    """Each row's numbers in so many bits, whole bytes a row."""
    if bits in (8, 16):
        kind = np.dtype(f"{order}u{bits // 8}")
        return [row.astype(kind).tobytes() for row in samples]
    places = np.arange(bits - 1, -1, -1)
    single = (samples.reshape(len(samples), -1, 1) >> places) & 1
    return [np.packbits(row.astype(np.uint8).ravel()).tobytes() for row in single]


def icc_chunk(profile: bytes) -> bytes:
    return png_chunk(b"iCCP", b"icc\0\0" + zlib.compress(profile))


def tiff(
    samples: np.ndarray,  # (height, width, channels)
    photometric: int,
    bits: int,
    *,
    order: str = "<",
    sample_format: int = 1,
    extra: int | None = None,
    palette: np.ndarray | None = None,  # (colours, 3), 0 to 255
    profile: bytes = b"",
) -> bytes:
    """An uncompressed TIFF of exactly these numbers (TIFF 6.0).

    Args:
        sample_format: 1 unsigned, 2 signed, 3 float.
        extra: Kind of the last channel: 0 unspecified, 1 premultiplied alpha, 2 alpha.
    """
    height, width, channels = samples.shape
    if bits == 32 or sample_format > 1:
        letter = {1: "u", 2: "i", 3: "f"}[sample_format]
        data = samples.astype(np.dtype(f"{order}{letter}{bits // 8}")).tobytes()
    else:
        data = b"".join(packed_rows(samples, bits, order))
    shorts = {
        256: [width], 257: [height], 258: [bits] * channels, 259: [1], 262: [photometric],
        277: [channels], 278: [height], 284: [1], 339: [sample_format] * channels,
    }  # fmt: skip
    if extra is not None:
        shorts[338] = [extra]
    if palette is not None:
        shorts[320] = [int(level) * 257 for level in palette.T.ravel()]
    fields = {tag: (3, len(v), struct.pack(f"{order}{len(v)}H", *v)) for tag, v in shorts.items()}
    fields[279] = (4, 1, struct.pack(f"{order}I", len(data)))
    if profile:
        fields[34675] = (7, len(profile), profile)
    fields[273] = (4, 1, struct.pack(f"{order}I", 8))
    entries, tail = b"", b""
    place = 8 + len(data) + 2 + 12 * len(fields) + 4
    for tag, (kind, count, content) in sorted(fields.items()):
        value = content
        if len(content) > 4:
            value = struct.pack(f"{order}I", place + len(tail))
            tail += content + b"\0" * (len(content) % 2)
        entries += struct.pack(f"{order}HHI", tag, kind, count) + value.ljust(4, b"\0")
    mark = b"II*\0" if order == "<" else b"MM\0*"
    directory = struct.pack(f"{order}H", len(fields)) + entries + bytes(4)
    return mark + struct.pack(f"{order}I", 8 + len(data)) + data + directory + tail


def bmp(samples: np.ndarray, bits: int, palette: np.ndarray | None = None) -> bytes:
    """A BMP, bottom row first: a palette of 1, 4 or 8 bits, 24-bit colours, or 32 with alpha."""
    height, width, _ = samples.shape
    if bits == 24:
        samples = samples[..., ::-1]
    elif bits == 32:
        samples = samples[..., [2, 1, 0, 3]]
    rows = packed_rows(samples[::-1], min(bits, 8), "<")
    data = b"".join(row + bytes(-len(row) % 4) for row in rows)
    colours = b"" if palette is None else b"".join(bytes([*c[::-1], 0]) for c in palette.tolist())
    kind, masks = (3, struct.pack("<4I", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)) if bits == 32 else (
        0, b""
    )  # fmt: skip
    count = 0 if palette is None else len(palette)
    size = 40 + len(masks) + (68 - 16 if bits == 32 else 0)
    info = struct.pack(
        "<IiiHHIIiiII", size, width, height, 1, bits, kind, len(data), 0, 0, count, 0
    )
    info = (info + masks).ljust(size, b"\0")
    start = 14 + len(info) + len(colours)
    head = b"BM" + struct.pack("<IHHI", start + len(data), 0, 0, start)
    return head + info + colours + data
