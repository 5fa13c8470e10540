"""What is pushed to the hub is there whole, and private; what it would refuse is told before, in the user's words."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import yaml

from fake_hub import TOKEN, FakeHub, fake_hub
from thumbs.data.hub import push, push_folder, require_access
from thumbs.data.shared_sets import pull_set, push_set
from thumbs.errors import DataError, HubError

ROWS = [{"prompt": f"q{i}", "chosen": "yes, gladly", "rejected": "no"} for i in range(3)]
SET = "datasets/me/pairs"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with fake_hub(tmp_path, monkeypatch) as found:
        yield found


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    path = tmp_path / "prefs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    return path


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_model_is_one_commit_in_a_private_repository(hub: FakeHub, tmp_path: Path):
    folder = tmp_path / "out"
    (folder / "more").mkdir(parents=True)
    contents = {"model.safetensors": b"\x00" * 4000, "README.md": b"# card", "more/a.json": b"{}"}
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    url = push_folder("me/kind", folder, public=False, message="ppo")
    assert url.startswith(f"{hub.url}/")
    assert hub.repositories["models/me/kind"] == {"private": True, "files": contents, "commits": 1}
    push("team/open", "model", {"a.txt": b"x"}, public=True, message="m")
    assert hub.repositories["models/team/open"]["private"] is False


@pytest.mark.parametrize(
    ("repo", "public", "says"),
    [
        ("noowner", False, "a name on the hub is OWNER/NAME"),
        ("me/../x", False, "a name on the hub is OWNER/NAME"),
        ("you/kind", False, "this account pushes as me or team, not as you"),
        ("me/open", False, "is there and public; say --public"),
        ("me/closed", True, "is there and private"),
    ],
)
def test_where_this_account_does_not_push_is_refused_before_anything_is_written(
    hub: FakeHub, repo: str, public: bool, says: str
):
    for name, private in (("open", False), ("closed", True)):
        hub.repositories[f"models/me/{name}"] = {"private": private, "files": {}, "commits": 0}
    with pytest.raises(HubError, match=says):
        require_access(repo, "model", public=public)
    assert [line for line in hub.asked if not line.startswith("GET")] == []


def test_without_a_token_or_a_valid_one_or_a_network_it_says_what_to_do(hub: FakeHub, monkeypatch: pytest.MonkeyPatch):
    from huggingface_hub import constants

    monkeypatch.setenv("HF_TOKEN", "hf_old")
    with pytest.raises(HubError, match=r"me/kind cannot be pushed: the token is not valid"):
        require_access("me/kind", "model", public=False)
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(HubError, match="there is no token; set HF_TOKEN"):
        require_access("me/kind", "model", public=False)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(HubError, match=r"no answer from http://127.0.0.1:1 .*is there a network"):
        require_access("me/kind", "model", public=False)


def test_a_push_that_fails_in_the_middle_says_what_the_hub_has(hub: FakeHub, tmp_path: Path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.txt").write_text("x", encoding="utf-8")
    hub.fail = "/commit/"
    says = (
        r"nothing was pushed: me/kind was made and is empty: the token may not do that.*\n.*hf upload me/kind .*--priv"
    )
    with pytest.raises(HubError, match=says):
        push_folder("me/kind", tmp_path / "out", public=False, message="m")
    with pytest.raises(HubError, match="me/kind keeps what it had"):
        push_folder("me/kind", tmp_path / "out", public=False, message="m")


def test_a_set_comes_back_as_it_went_with_its_manifest_and_a_card(hub: FakeHub, pairs: Path, tmp_path: Path):
    manifest = {"file": "prefs.jsonl", "sha256": sha256(pairs), "counts": {"rows": 3}, "format": "preferences"}
    beside = pairs.with_name("prefs.jsonl.manifest.json")
    beside.write_text(json.dumps(manifest), encoding="utf-8")
    push_set(pairs, "me/pairs")
    assert hub.repositories[SET]["private"] is True
    _, front, text = hub.files(SET)["README.md"].decode().split("---\n", 2)
    assert yaml.safe_load(front)["configs"] == [{"config_name": "default", "data_files": "prefs.jsonl"}]
    assert "3 pairs of replies" in text
    path, commit = pull_set("me/pairs", tmp_path / "pulled")
    assert path.read_bytes() == pairs.read_bytes()
    assert json.loads((tmp_path / "pulled" / beside.name).read_text(encoding="utf-8")) == manifest
    assert sorted(file.name for file in path.parent.iterdir()) == ["README.md", path.name, beside.name]
    assert commit == f"{1:040x}"


def test_what_is_no_set_or_another_file_than_its_manifest_says_is_not_shared(hub: FakeHub, pairs: Path, tmp_path: Path):
    push_set(pairs, "me/pairs")  # without a manifest, which is made
    hub.files(SET)["prefs.jsonl"] += b"{}\n"
    with pytest.raises(DataError, match="its manifest says"):
        pull_set("me/pairs", tmp_path / "pulled")
    assert not (tmp_path / "pulled").exists()
    with pytest.raises(HubError, match="me/none cannot be read: there is no such repository"):
        pull_set("me/none", tmp_path / "pulled")
    del hub.files(SET)["prefs.jsonl.manifest.json"]
    with pytest.raises(DataError, match=r"has 0 manifests .* read other data sets as `path: hub:me/pairs`"):
        pull_set("me/pairs", tmp_path / "pulled")
    commits = hub.repositories[SET]["commits"]
    pairs.with_name("prefs.jsonl.manifest.json").write_text('{"sha256": "0"}', encoding="utf-8")
    with pytest.raises(DataError, match=r"is not the file that prefs.jsonl.manifest.json tells of"):
        push_set(pairs, "me/pairs")
    pairs.with_name("asked.jsonl").write_text('{"prompt": "q"}\n', encoding="utf-8")
    with pytest.raises(DataError, match="a preference set has preferences"):
        push_set(pairs.with_name("asked.jsonl"), "me/pairs")
    assert hub.repositories[SET]["commits"] == commits
