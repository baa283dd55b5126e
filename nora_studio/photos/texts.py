"""Reading text files in UTF-8, or in UTF-16 as Windows saves them."""

import codecs
from pathlib import Path

from nora_studio.errors import StudioError

_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def read_text(file: Path) -> str:
    """Read a text file in UTF-8, with or without a byte-order mark, or in UTF-16 with one.

    Raises:
        StudioError: the file cannot be read, or has another encoding.
    """
    try:
        return decode_text(file.read_bytes())
    except UnicodeDecodeError:
        raise StudioError(
            f"{file} cannot be read: expected text in UTF-8, or in UTF-16 with a byte-order mark. "
            "Save it as UTF-8."
        ) from None
    except OSError as error:
        raise StudioError(f"{file} cannot be read: {error.strerror}.") from None


def decode_text(content: bytes) -> str:
    """Decode the bytes of a text file, as `read_text` does.

    Raises:
        UnicodeDecodeError: the bytes have another encoding.
    """
    encoding = next((name for mark, name in _MARKS if content.startswith(mark)), "utf-8")
    text = content.decode(encoding)
    if "\0" in text:  # UTF-16 without a mark, UTF-32, or not text.
        index = text.index("\0")
        raise UnicodeDecodeError(encoding, content, index, index + 1, "a null character")
    return text
