"""A run folder belongs to one config and one process at a time."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from thumbs.errors import RunError
from thumbs.tracking import RunFolder

CONFIG = {"run": "here", "seed": 0, "ppo": {"steps": 40, "sampling": {"stop": ("a", "b")}}, "sft": None}


def test_open_writes_config_and_versions(tmp_path: Path) -> None:
    with RunFolder(tmp_path / "run").open(CONFIG):
        pass
    assert json.loads((tmp_path / "run" / "config.json").read_text()) == json.loads(json.dumps(CONFIG))
    versions = json.loads((tmp_path / "run" / "versions.json").read_text())
    assert versions["python"] == sys.version.split()[0]
    assert versions["cores"] == os.cpu_count()
    assert versions["created"].endswith("+00:00")


def test_the_same_config_continues_and_keeps_the_date(tmp_path: Path) -> None:
    with RunFolder(tmp_path).open(CONFIG) as run:
        run.stage("sft").mark_done({"loss": 1.5})
    path = tmp_path / "versions.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"created": "once"}))
    with RunFolder(tmp_path).open({**CONFIG, "run": "moved"}) as run:
        assert run.stage("sft").results() == {"loss": 1.5}
    assert json.loads(path.read_text())["created"] == "once"


def test_a_changed_config_is_refused_by_key_and_value(tmp_path: Path) -> None:
    RunFolder(tmp_path).open(CONFIG).close()
    changed = {**CONFIG, "ppo": {"steps": 50, "sampling": {}}, "reward_model": {"epochs": 1}}
    with pytest.raises(RunError) as caught:
        RunFolder(tmp_path).open(changed)
    message = str(caught.value)
    assert "ppo.steps: 40 there, 50 now" in message
    assert "ppo.sampling.stop: ['a', 'b'] there, not set now" in message
    assert "reward_model.epochs: not set there, 1 now" in message
    assert "seed" not in message
    RunFolder(tmp_path).open(changed, allow_changed=True).close()
    RunFolder(tmp_path).open(changed).close()


def test_many_changes_are_counted(tmp_path: Path) -> None:
    RunFolder(tmp_path).open({str(i): i for i in range(9)}).close()
    with pytest.raises(RunError, match="and 4 more"):
        RunFolder(tmp_path).open({str(i): -1 for i in range(9)})


def test_a_second_user_is_refused_until_the_first_closes(tmp_path: Path) -> None:
    first = RunFolder(tmp_path).open(CONFIG)
    with pytest.raises(RunError, match=f"in use by process {os.getpid()}"):
        RunFolder(tmp_path).open(CONFIG)
    first.close()
    RunFolder(tmp_path).open(CONFIG).close()


def test_a_failed_open_gives_the_lock_back(tmp_path: Path) -> None:
    RunFolder(tmp_path).open(CONFIG).close()
    other = RunFolder(tmp_path)
    with pytest.raises(RunError, match="another config"):
        other.open({})
    RunFolder(tmp_path).open(CONFIG).close()


def test_a_killed_process_releases_the_folder(tmp_path: Path) -> None:
    program = (
        "import sys, time; from thumbs.tracking import RunFolder\n"
        f"run = RunFolder({str(tmp_path)!r}).open({CONFIG!r})\n"
        "print('open', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        with pytest.raises(RunError, match=f"in use by process {process.pid}"):
            RunFolder(tmp_path).open(CONFIG)
        process.send_signal(signal.SIGKILL)
        process.wait()
    RunFolder(tmp_path).open(CONFIG).close()


def test_a_stage_is_done_only_when_marked(tmp_path: Path) -> None:
    stage = RunFolder(tmp_path).stage("reward_model")
    assert not stage.is_done()
    with pytest.raises(RunError, match=r"'reward_model' .* is not complete"):
        stage.results()
    stage.mark_done({"accuracy": 0.9})
    assert stage.is_done()
    assert stage.results() == {"accuracy": 0.9}


def test_tracking_and_report_import_without_torch() -> None:
    program = (
        "import sys, thumbs.tracking, thumbs.report.build; "
        "sys.exit(any(m in sys.modules for m in ('torch', 'transformers', 'datasets')))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
