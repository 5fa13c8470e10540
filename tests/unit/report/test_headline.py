"""Numbers in words."""

import pytest

from thumbs.report.numbers import duration, number, percent


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, "–"),
        (0.0, "0"),
        (0.8, "0.800"),
        (-1.234, "−1.23"),
        (47.06, "47.1"),
        (317.6, "318"),
        (12345.6, "12\u202f346"),
        (100, "100"),
        (2e-5, "2.0e−05"),
        ("text", "text"),
    ],
)
def test_number(value: object, expected: str) -> None:
    assert number(value) == expected


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(4.26, "4.3 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (430.1, "7 min 10 s"), (7500, "2 h 05 min")],
)
def test_duration(seconds: float, expected: str) -> None:
    assert duration(seconds) == expected


def test_percent() -> None:
    assert (percent(None), percent(0.784)) == ("–", "78 %")
