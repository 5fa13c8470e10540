"""Checkpoints of a store: written whole or not at all, named strictly, expiring, published, deleted."""

from __future__ import annotations

import os
import threading
from datetime import timedelta
from pathlib import Path

import pytest
from store_cases import START, Clock, add_run, on_disk, save, texts, write_twice

from thumbs.clients.checkpoint_store import LONGEST_TTL_S
from thumbs.clients.store import Store, StoreError


@pytest.fixture
def run_id(store: Store) -> str:
    return add_run(store)


def names(store: Store, run_id: str) -> list[str]:
    return [record.name for record in store.checkpoints.of_run(run_id)]


def test_a_written_checkpoint_is_found_by_its_path(store: Store, run_id: str, tmp_path: Path, clock: Clock):
    later = clock.later(60)
    with store.checkpoints.writing(run_id, "sampler_weights", "step_1.v-2", user_metadata={"epoch": "3"}) as folder:
        assert list(folder.iterdir()) == []
        (folder / "deep").mkdir()
        (folder / "a.bin").write_bytes(b"x" * 10)
        (folder / "deep" / "b.bin").write_bytes(b"y" * 7)
        assert store.checkpoints.get(f"tinker://{run_id}/sampler_weights/step_1.v-2") is None
    found = store.checkpoints.get(f"tinker://{run_id}/sampler_weights/step_1.v-2")
    assert found
    assert store.checkpoints.get(f"mint://{run_id}/sampler_weights/step_1.v-2") == found
    assert (found.run_id, found.kind, found.name) == (run_id, "sampler_weights", "step_1.v-2")
    assert found.path == f"tinker://{run_id}/sampler_weights/step_1.v-2"
    assert (found.owner, found.size_bytes, found.public) == ("ann", 17, False)
    assert (found.created, found.expires, found.user_metadata) == (later, None, {"epoch": "3"})
    assert (found.folder / "deep" / "b.bin").read_bytes() == b"y" * 7
    assert found.folder.parent == tmp_path / "checkpoints"
    assert [run.last_request for run in store.runs("ann", 9, 0)[0]] == [later]


def test_the_same_name_in_another_kind_or_run_is_another_checkpoint(store: Store, run_id: str):
    other = add_run(store)
    paths = [
        save(store, run_id, "a", "1"),
        save(store, run_id, "a", "2", "sampler_weights"),
        save(store, run_id, "a", "3", "external_weights"),
        save(store, other, "a", "4"),
    ]
    found = [store.checkpoints.get(path) for path in paths]
    assert [texts(record.folder)[0] for record in found if record] == ["1", "2", "3", "4"]
    assert names(store, run_id) == ["a"] * 3


def test_every_byte_is_on_the_disk_before_the_checkpoint_is_in_place(
    store: Store, run_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    synced: list[Path] = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(Path(f"/proc/self/fd/{descriptor}").readlink()))
    with store.checkpoints.writing(run_id, "weights", "a") as folder:
        write_twice(folder, "text")
    written = {folder, folder / "a.txt", folder / "deep", folder / "deep" / "b.txt"}
    assert set(synced[:-1]) == written
    assert synced[-1] == tmp_path / "checkpoints"


def fail_halfway(folder: Path) -> None:
    (folder / "a.txt").write_text("half")
    raise ZeroDivisionError


def test_an_error_while_writing_leaves_nothing(store: Store, run_id: str, tmp_path: Path):
    save(store, run_id, "old", "old")
    for name in ("old", "fresh"):
        with (
            pytest.raises(ZeroDivisionError),
            store.checkpoints.writing(run_id, "weights", name, overwrite=True) as folder,
        ):
            fail_halfway(folder)
    assert on_disk(tmp_path) == {"old": ["old", "old"]}


def test_a_commit_that_fails_leaves_nothing(store: Store, run_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def fail(*_: object) -> None:
        raise OSError("database gone")

    save(store, run_id, "old", "old")
    monkeypatch.setattr(store.checkpoints, "_commit", fail)
    with pytest.raises(OSError, match="database gone"):
        save(store, run_id, "old", "new", overwrite=True)
    assert on_disk(tmp_path) == {"old": ["old", "old"]}


def test_a_commit_whose_answer_is_lost_keeps_its_folder(
    store: Store, run_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    commit = store.checkpoints._commit

    def interrupted(row: dict[str, object], overwrite: bool) -> None:
        commit(row, overwrite)
        raise KeyboardInterrupt

    monkeypatch.setattr(store.checkpoints, "_commit", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save(store, run_id, "a", "new")
    assert on_disk(tmp_path) == {"a": ["new", "new"]}


def test_a_taken_name_is_refused_before_anything_is_written(store: Store, run_id: str, tmp_path: Path):
    save(store, run_id, "a", "old")
    message = "'a' already; save under another name or with overwrite=True"
    with pytest.raises(StoreError, match=message), store.checkpoints.writing(run_id, "weights", "a"):
        pytest.fail("the block must not run")
    assert on_disk(tmp_path) == {"a": ["old", "old"]}


def test_a_name_that_is_taken_meanwhile_stays_with_the_first(store: Store, run_id: str, tmp_path: Path):
    with pytest.raises(StoreError, match="'a' already"), store.checkpoints.writing(run_id, "weights", "a"):
        save(store, run_id, "a", "first")
    assert on_disk(tmp_path) == {"a": ["first", "first"]}


def test_overwriting_replaces_everything(store: Store, run_id: str, tmp_path: Path, clock: Clock):
    path = save(store, run_id, "a", "old", ttl_seconds=100, user_metadata={"n": "1"})
    store.checkpoints.publish(path, True)
    before = store.checkpoints.get(path)
    later = clock.later(50)
    assert save(store, run_id, "a", "new", overwrite=True) == path
    after = store.checkpoints.get(path)
    assert before
    assert after
    assert (after.created, after.expires, after.public, after.user_metadata) == (later, None, False, {})
    assert not before.folder.exists()
    assert on_disk(tmp_path) == {"a": ["new", "new"]}


def test_many_threads_overwrite_one_name_and_the_last_one_stays(store: Store, run_id: str, tmp_path: Path):
    def work(number: int) -> None:
        for turn in range(5):
            save(store, run_id, "a", f"{number}.{turn}", overwrite=True)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (found,) = on_disk(tmp_path).values()
    assert found[0] == found[1]
    assert found[0].endswith(".4")


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "../a",
        "a/b",
        "/etc",
        "a\\b",
        ".hidden",
        "-rf",
        "a b",
        "a\n",
        "a\0",
        "a:b",
        "%2e%2e",
        "é",
        "a" * 129,
    ],
)
def test_names_that_could_lead_elsewhere_are_refused(store: Store, run_id: str, tmp_path: Path, name: str):
    with pytest.raises(StoreError, match="is not allowed; take 1 to 128 letters"):
        save(store, run_id, name)
    assert store.checkpoints.get(f"tinker://{run_id}/weights/{name}") is None
    assert on_disk(tmp_path) == {}


def test_a_long_refused_name_is_not_repeated_in_full(store: Store, run_id: str):
    with pytest.raises(StoreError) as refused:
        save(store, run_id, "/" * 100_000)
    assert len(str(refused.value)) < 500


@pytest.mark.parametrize("name", ["a", "0", "_", "000010", "final", "step_10", "a.b-c", "a" * 128])
def test_plain_names_are_allowed(store: Store, run_id: str, name: str):
    assert store.checkpoints.get(save(store, run_id, name)) is not None


def test_unknown_kinds_and_runs_are_refused(store: Store, run_id: str):
    with pytest.raises(StoreError, match=r"got checkpoint kind '\.\.'; the kinds are weights, sampler_weights, ext"):
        save(store, run_id, "a", kind="..")
    with pytest.raises(StoreError, match=r"there is no run '\.\./x'"):
        save(store, "../x", "a")


@pytest.mark.parametrize(
    "path",
    [
        "",
        "tinker://",
        "{run}/weights/a",
        "http://{run}/weights/a",
        "tinker://{run}/weights",
        "tinker://{run}/weights/a/",
        "tinker://{run}/weights/a\n",
        "tinker://{run}/weights/../weights/a",
        "tinker://{run}/other/a",
        "tinker://{run}/sampler_weights/a",
        "tinker://x/weights/a",
        "tinker://{run}/weights/\ud800",
    ],
)
def test_what_is_no_path_of_a_checkpoint_finds_none(store: Store, run_id: str, path: str):
    save(store, run_id, "a")
    path = path.format(run=run_id)
    assert store.checkpoints.get(path) is None
    for method in (
        store.checkpoints.delete,
        lambda path: store.checkpoints.publish(path, True),
        lambda path: store.checkpoints.set_ttl(path, 9),
    ):
        with pytest.raises(StoreError, match="there is no checkpoint at"):
            method(path)
    assert names(store, run_id) == ["a"]


def test_a_checkpoint_expires_when_its_time_has_come(store: Store, run_id: str, tmp_path: Path, clock: Clock):
    path = save(store, run_id, "brief", ttl_seconds=3600)
    save(store, run_id, "stays")
    clock.later(3599.5)
    found = store.checkpoints.get(path)
    assert found
    assert found.expires == START + timedelta(hours=1)
    assert store.checkpoints.sweep() == 0
    clock.later(0.5)
    assert store.checkpoints.get(path) is None
    assert names(store, run_id) == ["stays"]
    assert [record.name for record in store.checkpoints.page("ann", 9, 0)[0]] == ["stays"]
    assert store.checkpoints.page("ann", 9, 0)[1] == 1
    with pytest.raises(StoreError, match="there is no checkpoint"):
        store.checkpoints.set_ttl(path, None)
    assert found.folder.exists()
    assert store.checkpoints.sweep() == 1
    assert store.checkpoints.sweep() == 0
    assert list(on_disk(tmp_path)) == ["stays"]


def test_the_name_of_an_expired_checkpoint_is_free(store: Store, run_id: str, tmp_path: Path, clock: Clock):
    save(store, run_id, "a", "old", ttl_seconds=10)
    clock.later(10)
    save(store, run_id, "a", "new")
    assert on_disk(tmp_path) == {"a": ["new", "new"]}


def test_the_time_to_live_can_be_set_and_taken_away(store: Store, run_id: str, clock: Clock):
    path = save(store, run_id, "a", ttl_seconds=10)
    clock.later(5)
    store.checkpoints.set_ttl(path, 100)
    found = store.checkpoints.get(path)
    assert found
    assert found.expires == START + timedelta(seconds=105)
    store.checkpoints.set_ttl(path, None)
    clock.later(1e9)
    found = store.checkpoints.get(path)
    assert found
    assert found.expires is None


@pytest.mark.parametrize("seconds", [0, -1, LONGEST_TTL_S + 1, float("inf"), float("nan")])
def test_a_time_to_live_out_of_range_is_refused(store: Store, run_id: str, seconds: float):
    path = save(store, run_id, "a")
    with pytest.raises(StoreError, match="must be above 0 and at most 315360000"):
        store.checkpoints.set_ttl(path, seconds)
    with pytest.raises(StoreError, match="must be above 0 and at most 315360000"):
        save(store, run_id, "b", ttl_seconds=seconds)
    assert names(store, run_id) == ["a"]


def test_publishing_twice_is_publishing(store: Store, run_id: str):
    path, other = save(store, run_id, "a"), save(store, run_id, "b")
    for public in (True, True, False, False):
        store.checkpoints.publish(path, public)
        assert [record.public for record in map(store.checkpoints.get, (path, other)) if record] == [public, False]


def test_a_deleted_checkpoint_is_gone_and_its_name_free(store: Store, run_id: str, tmp_path: Path):
    path = save(store, run_id, "a", "old")
    save(store, run_id, "b")
    store.checkpoints.delete(path)
    assert store.checkpoints.get(path) is None
    assert list(on_disk(tmp_path)) == ["b"]
    with pytest.raises(StoreError, match="there is no checkpoint at"):
        store.checkpoints.delete(path)
    save(store, run_id, "a", "new")
    assert on_disk(tmp_path)["a"] == ["new", "new"]


def test_an_owner_lists_what_is_theirs_newest_first(store: Store, run_id: str, clock: Clock):
    other = add_run(store, "bob")
    for number in range(5):
        clock.later(1)
        save(store, run_id, f"a{number}")
        save(store, other, f"b{number}")
    page, total = store.checkpoints.page("ann", 2, 1)
    assert ([record.name for record in page], total) == (["a3", "a2"], 5)
    assert {record.owner for record in page} == {"ann"}
    page, total = store.checkpoints.page("bob", 100, 0)
    assert ([record.name for record in page], total) == (["b4", "b3", "b2", "b1", "b0"], 5)
    assert store.checkpoints.page("eve", 100, 0) == ([], 0)
    assert names(store, other) == ["b4", "b3", "b2", "b1", "b0"]
    assert store.checkpoints.of_run("unknown") == []
