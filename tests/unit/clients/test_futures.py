"""Results that wait for others."""

from __future__ import annotations

from concurrent.futures import Future

import pytest

from thumbs.clients.futures import after


@pytest.mark.parametrize("there", [False, True])
def test_what_follows_begins_when_the_first_is_there(there: bool):
    made, begun, calls = Future(), Future(), []
    if there:
        made.set_result("made")
    result = after(made, lambda: calls.append(1) or begun)
    assert len(calls) == there
    if not there:
        made.set_result("made")
    begun.set_result("sampled")
    assert result.result(1) == "sampled"
    assert calls == [1]


def test_what_fails_first_or_last_is_told():
    made, failing = Future(), Future()
    results = [after(made, Future), after(failing, lambda: (_ for _ in ()).throw(ValueError("not begun")))]
    made.set_exception(KeyError("never made"))
    failing.set_result(None)
    with pytest.raises(KeyError, match="never made"):
        results[0].result(1)
    with pytest.raises(ValueError, match="not begun"):
        results[1].result(1)


def test_giving_up_gives_up_what_was_begun():
    for moment in ("before", "after"):
        made, begun = Future(), Future()
        result = after(made, lambda begun=begun: begun)
        if moment == "before":
            assert result.cancel()
        made.set_result(None)
        assert moment == "before" or result.cancel()
        assert begun.cancelled()
        assert result.cancelled()
