"""Progress: a bar on a terminal, plain lines elsewhere."""

import contextlib
import io

import pytest

from thumbs.tracking import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_file_gets_plain_lines() -> None:
    stream = io.StringIO()
    with Progress("PPO", 3, ["reward", "tokens/s"], stream=stream, interval_s=0) as progress:
        progress.advance(reward=0.12345)
        progress.advance(2, reward=-1.0, **{"tokens/s": 12345.6})
    assert stream.getvalue().splitlines() == [
        "PPO 1/3  reward 0.123  0:00 spent  0:00 left",
        "PPO 3/3  reward -1  tokens/s 12,346  0:00 spent",
    ]


def test_lines_are_rare_and_the_last_one_always_comes() -> None:
    stream = io.StringIO()
    with Progress("SFT", 1000, stream=stream) as progress:
        for _ in range(1000):
            progress.advance()
    assert stream.getvalue() == "SFT 1000/1000  0:00 spent\n"


def test_an_interrupted_loop_says_how_far_it_came() -> None:
    stream = io.StringIO()
    with contextlib.suppress(KeyboardInterrupt), Progress("SFT", 10, stream=stream) as progress:
        progress.advance(4)
        raise KeyboardInterrupt
    assert stream.getvalue().startswith("SFT 4/10")


def test_a_terminal_gets_a_bar_and_values_are_no_markup(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "140")
    stream = Terminal()
    with Progress("SFT [x]", 2, ["note"], stream=stream) as progress:
        progress.advance(2, note="[red]")
    assert "SFT [x]" in stream.getvalue()
    assert "note [red]" in stream.getvalue()
    assert "2/2" in stream.getvalue()
