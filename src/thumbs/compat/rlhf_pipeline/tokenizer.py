"""Which tokenizer a path names: a folder, a tokenizer.json, or the bytes themselves; never a pickle."""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from thumbs.data.tokenizers import ByteTokenizer, Tokenizer, load_tokenizer
from thumbs.errors import ModelError
from thumbs.models.checkpoint_files import read_json_object
from thumbs.tracking.files import write_json, write_text

log = logging.getLogger(__name__)

PICKLES = (".pkl", ".pickle")

ENDS = ("<|im_end|>", "<|eot_id|>", "</s>", "<|endoftext|>", "<eos>", "<|end|>", "<|eos|>", "[EOS]", "<end>", "[SEP]")
"""What tokenizers call the token that ends a text, the one that ends a turn first."""

_BESIDE = ("tokenizer_config.json", "special_tokens_map.json")

REFUSED = (
    "{path} is a pickled tokenizer, which is not read: unpickling runs whatever code the file holds. Convert it once, "
    "where you trust it, with pickle.load(open(PATH, 'rb')): a tokenizer of transformers has save_pretrained(FOLDER), "
    "one of tokenizers has save('tokenizer.json'). Then name that folder or file in tokenizer_path, or \"byte\" for "
    "the byte tokenizer"
)


def open_tokenizer_at(path: str) -> Tokenizer:
    """The tokenizer of a folder or a tokenizer.json, or the byte tokenizer for "byte".

    Raises ModelError for a pickle, whatever its name, and for what is not a tokenizer.
    """
    if path == "byte":
        return ByteTokenizer()
    place = Path(path).expanduser()
    named = [place] if place.is_file() or (place / "tokenizer.json").is_file() else sorted(place.glob("*"))
    if found := next((file for file in named if file.suffix.lower() in PICKLES or _begins_as_pickle(file)), None):
        raise ModelError(REFUSED.format(path=found))
    if place.is_dir():
        return load_tokenizer(place)
    if not place.is_file():
        raise ModelError(f'no tokenizer at {path}; give a folder, a tokenizer.json, or "byte"')
    return _open_file(place)


def tokenizer_files(tokenizer: Tokenizer) -> dict[str, str]:
    """What a tokenizer is made of, file name → text."""
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save(folder)
        return {file.name: file.read_text(encoding="utf-8") for file in sorted(Path(folder).iterdir())}


def write_tokenizer(files: Mapping[str, str], folder: Path) -> None:
    """Inverse of tokenizer_files."""
    for name in files:
        if Path(name).name != name:
            raise ModelError(f"a tokenizer's file is called {name!r}; a plain name is allowed")
        write_text(folder / name, files[name])


def tokenizer_of(files: Mapping[str, str]) -> Tokenizer:
    """The tokenizer that is made of these files."""
    with tempfile.TemporaryDirectory() as folder:
        write_tokenizer(files, Path(folder))
        return load_tokenizer(folder)


def _open_file(file: Path) -> Tokenizer:
    """The tokenizer of a tokenizer.json; what else belongs to it may stand next to it, else its end token is
    guessed.
    """
    spec = read_json_object(file)
    if "model" not in spec:
        raise ModelError(f"{file} is not a tokenizer.json: it has no `model`")
    if file.name == "tokenizer.json" and any((file.parent / name).is_file() for name in _BESIDE):
        return load_tokenizer(file.parent)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / file.stem
        write_json(folder / "tokenizer_config.json", {"eos_token": _end_token(spec, file)})
        shutil.copy(file, folder / "tokenizer.json")
        return load_tokenizer(folder)


def _end_token(spec: Mapping[str, Any], file: Path) -> str:
    special = [token["content"] for token in spec.get("added_tokens") or () if token.get("special")]
    found = next((name for name in ENDS if name in special), None)
    if found is None:
        raise ModelError(
            f"{file}: none of its special tokens {special} is known to end a reply; put a tokenizer_config.json with "
            '{"eos_token": "…"} next to it'
        )
    log.info("%s has no tokenizer_config.json; a reply ends with %s", file, found)
    return found


def _begins_as_pickle(path: Path) -> bool:
    """Whether a file begins as pickles since protocol 2 do."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        head = file.read(2)
    return len(head) == 2 and head[0] == 0x80 and 2 <= head[1] <= 9
