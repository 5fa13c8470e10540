"""Archives from strangers."""

from __future__ import annotations

import gzip
import io
import tarfile
import tracemalloc
from pathlib import Path

import pytest

from thumbs.errors import DataError
from thumbs.service.uploads import unpack

ADAPTER = {"adapter_config.json": b'{"r": 4}', "adapter_model.safetensors": b"w" * 2000}


def _tar(files: dict[str, bytes], mode: str = "w:gz", *others: tarfile.TarInfo) -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode=mode) as archive:  # type: ignore[call-overload]
        for other in others:
            archive.addfile(other)
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mtime = len(content), 1.5  # a fraction makes a header of its own kind
            archive.addfile(entry, io.BytesIO(content))
    return target.getvalue()


@pytest.mark.parametrize("mode", ["w:gz", "w"])
@pytest.mark.parametrize("prefix", ["", "checkpoint/", "/abs/", "../../"])
def test_plain_files_under_their_own_names(tmp_path: Path, mode: str, prefix: str) -> None:
    data = _tar({prefix + name: content for name, content in ADAPTER.items()}, mode)
    assert unpack(io.BytesIO(data), tmp_path, 10**6) == set(ADAPTER)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == ADAPTER


def test_links_devices_programs_and_hidden_files_are_left_out(tmp_path: Path) -> None:
    others = []
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.DIRTYPE):
        other = tarfile.TarInfo("adapter_config.json")
        other.type, other.linkname = kind, "/etc/passwd"
        others.append(other)
    data = _tar({"optimizer.pt": b"pickle", "run.py": b"x", ".json": b"{}", **ADAPTER}, "w:gz", *others)
    assert unpack(io.BytesIO(data), tmp_path, 10**6) == set(ADAPTER)
    assert not any(file.is_symlink() for file in tmp_path.iterdir())


def test_a_bomb_is_not_unpacked(tmp_path: Path) -> None:
    data = _tar({"model.safetensors": bytes(5_000_000)})
    assert len(data) < 10_000
    with pytest.raises(DataError, match="longer than 1000000 bytes"):
        unpack(io.BytesIO(data), tmp_path, 10**6)


def test_a_long_header_is_not_kept(tmp_path: Path) -> None:
    header = tarfile.TarInfo("long")
    header.type, header.size = tarfile.XHDTYPE, 512 * 10**5
    data = gzip.compress(header.tobuf(tarfile.USTAR_FORMAT) + bytes(header.size) + _tar(ADAPTER, "w"))
    tracemalloc.start()
    try:
        assert unpack(io.BytesIO(data), tmp_path, 10**8) == set(ADAPTER)
        assert tracemalloc.get_traced_memory()[1] < 10**7
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "cut off"),
        (b"not a tar" * 1000, "not a tar archive"),
        (b"\x1f\x8b" + b"junk" * 500, "cannot be read"),
        (_tar(ADAPTER)[:150], "cannot be read"),
        (_tar(ADAPTER, "w")[:1800], "cut off"),
        (_tar({"a/x.json": b"1", "b/x.json": b"2"}), "two files"),
        (_tar({f"{i}.txt": b"" for i in range(1001)}), "1000 entries"),
    ],
)
def test_what_is_no_archive(tmp_path: Path, data: bytes, words: str) -> None:
    with pytest.raises(DataError, match=words):
        unpack(io.BytesIO(data), tmp_path, 10**7)
