"""Calls of samplers as requests to the decoding loop; answers to prompts are in test_prompt_answers.py."""

from __future__ import annotations

import math

import pytest

from thumbs.clients import types
from thumbs.clients.sample_call import SampleCall, decoding_params
from thumbs.errors import DataError


@pytest.mark.parametrize(
    ("asked", "prompt", "got"), [(None, 6, 4), (3, 6, 3), (4, 6, 4), (9, 6, 4), (None, 9, 1), (1, 10, 1), (1, 1, 1)]
)
def test_a_reply_ends_where_the_context_does(asked: int | None, prompt: int, got: int) -> None:
    params = decoding_params(types.SamplingParams(max_tokens=asked), prompt, 10, [7])
    assert (params.max_new_tokens, params.stop_tokens) == (got, (7,))


@pytest.mark.parametrize(("asked", "prompt"), [(None, 10), (2, 10), (1, 11), (0, 3), (-1, 3)])
def test_a_reply_without_room_is_refused(asked: int | None, prompt: int) -> None:
    with pytest.raises(DataError, match=r"leaves no room|max_tokens of 1 or more"):
        decoding_params(types.SamplingParams(max_tokens=asked), prompt, 10, [])


@pytest.mark.parametrize("wrong", [{"temperature": -1e-9}, {"temperature": math.nan}, {"temperature": math.inf}])
@pytest.mark.parametrize("more", [{}, {"top_p": 0.5}])
def test_temperatures_out_of_range_are_refused(wrong: dict[str, float], more: dict[str, float]) -> None:
    with pytest.raises(DataError, match="a temperature of 0 or more"):
        decoding_params(types.SamplingParams(**wrong, **more), 3, 10, [])


@pytest.mark.parametrize(("top_p", "good"), [(0.0, False), (1e-9, True), (1.0, True), (1.0001, False), (-0.1, False)])
def test_top_p_is_above_0_and_at_most_1(top_p: float, good: bool) -> None:
    asked = types.SamplingParams(top_p=top_p, temperature=0.0, top_k=-1)
    if not good:
        with pytest.raises(DataError, match="top_p above 0 and at most 1"):
            decoding_params(asked, 3, 10, [])
        return
    params = decoding_params(asked, 3, 10, [])
    assert (params.top_p, params.temperature, params.top_k) == (top_p, 0.0, 0)  # -1 is none


def test_stops_are_ids_and_texts() -> None:
    def stops(stop: object) -> tuple[tuple[int, ...], tuple[str, ...]]:
        params = decoding_params(types.SamplingParams(stop=stop), 3, 10, [7])
        return params.stop_tokens, params.stop_strings

    assert stops(None) == ((7,), ())
    assert stops([]) == ((), ())
    assert stops("ab") == ((), ("ab",))
    assert stops(["ab", "c"]) == ((), ("ab", "c"))
    assert stops([3, 0]) == ((3, 0), ())


@pytest.mark.parametrize(("asked", "got"), [(0, 0), (4, 4), (5, 5), (6, 5)])
def test_no_more_likeliest_tokens_than_there_are(asked: int, got: int) -> None:
    call = SampleCall(types.ModelInput.from_ints([1, 2]), topk_sample_logprobs=asked, topk_prompt_logprobs=asked)
    request = call.request(5, 10, [])
    assert (request.top, request.about_prompt.top if request.about_prompt else 0) == (got, got)


def test_draws_need_a_place() -> None:
    one, two = (types.ModelInput.from_ints([1] * count) for count in (1, 2))
    assert SampleCall(two, prompt_alt_tokens_k=3).request(5, 10, []).about_prompt.draws == 3
    assert SampleCall(one, prompt_alt_tokens_k=0).request(5, 10, []).about_prompt is None
    with pytest.raises(DataError, match="two tokens or more"):
        SampleCall(one, prompt_alt_tokens_k=1).request(5, 10, [])
