"""What messages are made of."""

import pytest

from nora_studio.errors import first_line, format_value

LONG = {"word": "x" * 81, "lines": "\n" * 81, "list": ["x" * 81], "large": 10**5000}


@pytest.mark.parametrize("value", LONG.values(), ids=LONG)
def test_a_value_in_a_message_is_one_line_and_cut_where_it_is_long(value):
    text = format_value(value)
    assert len(text) <= 2 * 80 + 2 and text.isprintable()  # a line break is two characters
    assert "..." in text or "more than 80 digits" in text


@pytest.mark.parametrize("value", ["x" * 80, 10**79, [1, "a"], None])
def test_a_short_value_stays_whole(value):
    assert format_value(value) == repr(value)


@pytest.mark.parametrize(
    ("said", "line"), [("\n no such\nmore", "no such"), ("", "OSError('')"), (" ", "OSError(' ')")]
)
def test_a_librarys_error_is_its_first_line_or_its_name(said, line):
    assert first_line(OSError(said)) == line
