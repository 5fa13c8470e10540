"""Progress: a bar on a terminal, plain lines elsewhere."""

import contextlib
import io

import pytest

from thumbs.tracking import Progress, progress


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


@pytest.mark.parametrize("step_s", [1, 29, 31, 400, 86_400])
def test_time_left_is_shown_however_long_a_step_takes(step_s: int) -> None:
    now = 0.0
    bar = progress._bar(Terminal())
    bar.get_time = lambda: now
    task = bar.add_task("PPO", total=160, shown="")
    for done in range(5):
        bar.update(task, completed=done)
        now += step_s
    assert bar.tasks[0].time_remaining == pytest.approx((160 - 4) * step_s, abs=1)


def test_steps_of_an_interrupted_run_do_not_hasten_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    stream = io.StringIO()
    with Progress("SFT", 100, stream=stream) as bar:
        bar.advance(90)  # where the run before stopped
        for _ in range(2):
            now += 60
            bar.advance()
    assert stream.getvalue().splitlines()[-1] == "SFT 92/100  2:00 spent  8:00 left"
