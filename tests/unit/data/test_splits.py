"""The split is fair, fixed, and never tears a prompt apart."""

from hypothesis import given
from hypothesis import strategies as st

from thumbs.data.splits import is_heldout
from thumbs.records import Message


def ask(text):
    return (Message("user", text),)


def test_fraction_is_met_within_five_deviations():
    for fraction in (0.1, 0.5):
        held = sum(is_heldout(ask(f"question {i}"), fraction) for i in range(4000))
        assert abs(held - 4000 * fraction) < 5 * (4000 * fraction * (1 - fraction)) ** 0.5


def test_the_sides_never_change():
    # printf 'split:question %d' N | sha256sum: below 3333… for 0 and 18 alone
    held = [i for i in range(20) if is_heldout(ask(f"question {i}"), 0.2)]
    assert held == [0, 18]


@given(text=st.text(), reply=st.text(), fraction=st.floats(0, 1))
def test_everything_that_grew_from_a_prompt_stays_with_it(text, reply, fraction):
    side = is_heldout(ask(text), fraction)
    grown = (*ask(text), Message("assistant", reply), Message("user", "More?"))
    assert is_heldout(grown, fraction) == side
    assert is_heldout((Message("system", reply), *grown), fraction) == side
    assert is_heldout(ask(f"  {text}\n"), fraction) == side
    assert not is_heldout(ask(text), 0.0)
    assert is_heldout(ask(text), 1.0)
    assert not side or is_heldout(ask(text), min(1.0, fraction * 1.5))
