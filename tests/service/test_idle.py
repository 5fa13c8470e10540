"""Case 9: heartbeats keep an idle session, and a client that is killed gives its memory back."""

from __future__ import annotations

from pathlib import Path

from service.conformance import TINKER, environment_of
from service.idle import watch


def test_an_idle_session_lives_and_a_killed_one_ends(tmp_path: Path):
    """The SDK's clock is hurried forty times, the server's patience is 4 s; idle.py does it at full length."""
    environment_of(TINKER)
    seen = watch(tmp_path, idle_s=6.0, timeout_s=4.0, speed=40.0)
    assert seen.losses[1] < seen.losses[0]
    assert seen.models == 1
    assert seen.gone_after_s > 2.0
    assert seen.reason == "no heartbeat"
