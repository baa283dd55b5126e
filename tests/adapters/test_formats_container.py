"""Safetensors files have the same bytes each time, and are read only if complete and finite."""

import json
import pickle
import zipfile

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file

from nora_studio.errors import StudioError
from nora_studio.runs.tensor_files import read_tensors, write_tensors
from nora_studio.runs.tensor_headers import read_header

TENSORS = {
    "b.half": torch.arange(3, dtype=torch.float16),
    "a.wide": torch.arange(6, dtype=torch.float64).reshape(2, 3),
    "c.turned": torch.arange(6.0).reshape(2, 3).T,
    "d.bf16": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
    "e.number": torch.tensor(4.0),
    "f.empty": torch.zeros(0, 4),
}
METADATA = {f"key {number}": "ü" * number for number in range(20)}


def test_the_official_reader_finds_what_was_written(tmp_path):
    file = tmp_path / "new" / "a.safetensors"
    write_tensors(file, TENSORS, METADATA)
    found = load_file(file)
    assert found.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor), name
    with safe_open(file, framework="pt") as archive:
        assert archive.metadata() == METADATA
    assert [path.name for path in file.parent.iterdir()] == [file.name]  # nothing left beside it


def test_the_same_input_gives_the_same_bytes_in_any_order(tmp_path):
    one, other = tmp_path / "one.safetensors", tmp_path / "other.safetensors"
    write_tensors(one, TENSORS, METADATA)
    write_tensors(other, dict(reversed(TENSORS.items())), dict(reversed(METADATA.items())))
    assert one.read_bytes() == other.read_bytes()


def test_every_tensor_is_aligned_to_its_own_numbers(tmp_path):
    file = tmp_path / "a.safetensors"
    write_tensors(file, TENSORS)
    content = file.read_bytes()
    length = int.from_bytes(content[:8], "little")
    for name, entry in json.loads(content[8 : 8 + length]).items():
        assert (8 + length + entry["data_offsets"][0]) % TENSORS[name].element_size() == 0, name


def test_a_failed_write_leaves_the_old_file(tmp_path):
    file = tmp_path / "a.safetensors"
    write_tensors(file, TENSORS)
    before = file.read_bytes()
    with pytest.raises(KeyError):
        write_tensors(file, {"complex": torch.zeros(2, dtype=torch.complex64)})
    assert file.read_bytes() == before
    with pytest.raises(StudioError, match="cannot be written"):
        write_tensors(file / "below" / "a.safetensors", TENSORS)


@pytest.mark.parametrize("name", ["a.pt", "a.bin", "a.ckpt", "a.pth", "a.safetensors"])
def test_a_pickle_is_refused_by_content_and_never_run(tmp_path, name):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "sprung"), "w"))

    plain = tmp_path / name
    plain.write_bytes(pickle.dumps(Trap()))
    zipped = tmp_path / f"zip-{name}"
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(Trap()))
    for file in (plain, zipped):
        for read in (read_header, read_tensors):
            with pytest.raises(StudioError, match="is a pickle"):
                read(file)
    assert not (tmp_path / "sprung").exists()


def test_a_file_with_a_pickles_name_is_refused(tmp_path):
    file = tmp_path / "weights.bin"
    write_tensors(file, TENSORS)
    with pytest.raises(StudioError, match="is a pickle"):
        read_tensors(file)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_nan_is_refused_by_the_tensors_name(tmp_path, value, dtype):
    file = tmp_path / "a.safetensors"
    bad = torch.zeros(3, 3, dtype=dtype)
    bad[1, 2] = value
    write_tensors(file, {"good": torch.zeros(2), "the.bad.one": bad})
    with pytest.raises(StudioError, match=r"NaN or infinity in the\.bad\.one"):
        read_tensors(file)


@pytest.mark.parametrize(
    "content", [b"", b"\0", b"PNG image", b"{}", b"\xff" * 64, b"\x02" + b"\0" * 7 + b"{}"]
)
def test_bytes_of_another_format_are_refused_in_one_line(tmp_path, content):
    file = tmp_path / "a.safetensors"
    file.write_bytes(content)
    try:
        found = read_tensors(file)
    except StudioError as refusal:
        assert "\n" not in str(refusal) and str(file) in str(refusal)
    else:
        assert found == {}  # a header without any tensor is a whole file


def whole_file() -> bytes:
    header = {
        "__metadata__": {"a": "b"},
        "x": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]},
        "y": {"dtype": "F16", "shape": [3], "data_offsets": [16, 22]},
    }
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + bytes(22)


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data())
def test_a_damaged_file_is_read_or_refused_but_never_crashes(tmp_path, data):
    content = bytearray(whole_file())
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(content) - 1))
        kind = data.draw(st.sampled_from(["set", "cut", "insert", "drop"]))
        if kind == "set":
            content[place] = data.draw(st.integers(0, 255))
        elif kind == "cut":
            del content[max(place, 1) :]
        elif kind == "insert":
            content[place:place] = data.draw(st.binary(min_size=1, max_size=8))
        else:
            del content[place : place + 4]
        content = content or bytearray(b"x")
    file = tmp_path / "spoiled.safetensors"
    file.write_bytes(bytes(content))
    for read in (read_header, read_tensors):
        try:
            read(file)
        except StudioError as refusal:
            assert "\n" not in str(refusal)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 2**70) | st.text(max_size=4) | st.floats(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=6,
)


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    entry=JSON | st.fixed_dictionaries({"dtype": JSON, "shape": JSON, "data_offsets": JSON}),
    metadata=JSON,
)
def test_a_header_of_any_json_is_read_or_refused(tmp_path, entry, metadata):
    text = json.dumps({"__metadata__": metadata, "x": entry}).encode()
    file = tmp_path / "odd.safetensors"
    file.write_bytes(len(text).to_bytes(8, "little") + text + bytes(16))
    for read in (read_header, read_tensors):
        try:
            read(file)
        except StudioError as refusal:
            assert "\n" not in str(refusal)
