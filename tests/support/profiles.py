"""ICC profiles written out byte by byte, for colour spaces that Pillow makes no profile of."""

import struct

import numpy as np

# Display P3 (SMPTE EG 432-1 with D65), adapted to D50 as ICC wants; linear, so that a test can
# reckon with it. Columns: red, green, blue in XYZ.
P3_TO_XYZ_D50 = np.array(
    [
        [0.515102, 0.291965, 0.157153],
        [0.241182, 0.692236, 0.066581],
        [-0.001050, 0.041881, 0.784378],
    ]
)
SRGB_TO_XYZ_D50 = np.array(
    [[0.436075, 0.385065, 0.143080], [0.222504, 0.716879, 0.060617], [0.013932, 0.097105, 0.714173]]
)
D50 = (0.9642, 1.0, 0.8249)


def _fixed(value: float) -> bytes:
    return struct.pack(">i", round(value * 65536))


def _xyz(values) -> bytes:
    return b"XYZ " + bytes(4) + b"".join(_fixed(value) for value in values)


def _profile(kind: bytes, space: bytes, connection: bytes, tags: dict[bytes, bytes]) -> bytes:
    """Header, tag table and tags (ICC.1:2001-04, section 6)."""
    text = b"made for a test\0"
    described = b"desc" + bytes(4) + struct.pack(">I", len(text)) + text + bytes(12 + 67)
    tags = {b"desc": described, b"cprt": b"text" + bytes(4) + text, b"wtpt": _xyz(D50)} | tags
    place = 128 + 4 + 12 * len(tags)
    table, body = struct.pack(">I", len(tags)), b""
    for name, content in tags.items():
        content += bytes(-len(content) % 4)
        table += name + struct.pack(">II", place + len(body), len(content))
        body += content
    size = place + len(body)
    header = struct.pack(">I4sI4s4s4s", size, bytes(4), 0x02400000, kind, space, connection)
    header += bytes(12) + b"acsp" + bytes(28) + b"".join(_fixed(value) for value in D50)
    return header.ljust(128, b"\0") + table + body


def display_p3_linear() -> bytes:
    """RGB of Display P3's primaries without any curve."""
    curve = b"curv" + bytes(4) + struct.pack(">I", 0)
    tags: dict[bytes, bytes] = dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve)
    for name, column in zip((b"rXYZ", b"gXYZ", b"bXYZ"), P3_TO_XYZ_D50.T, strict=True):
        tags[name] = _xyz(column)
    return _profile(b"mntr", b"RGB ", b"XYZ ", tags)


def cmyk_that_is_all_grey() -> bytes:
    """A printer whose inks all darken alike: white paper, and black from any full ink."""
    identity = b"".join(_fixed(float(i == j)) for i in range(3) for j in range(3))
    ramp = bytes(range(256))
    grid = b"".join(
        bytes([255 if number == 0 else 0, 128, 128])  # L, a, b of each corner of the ink cube
        for number in range(16)
    )
    table = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + identity + ramp * 4 + grid + ramp * 3
    return _profile(b"prtr", b"CMYK", b"Lab ", {b"A2B0": table})
