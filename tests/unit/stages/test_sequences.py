"""Training sees the very tokens that the sampler saw and made."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from byte_world import MAKER, pair, prompt, user
from thumbs.config.sampling import SamplingConfig
from thumbs.data.tokenizers import ByteTokenizer, conversation_tokens, reply_tokens
from thumbs.records import Message, Reply, Sample
from thumbs.rollout.rounds import collect
from thumbs.rollout.sampler import DecodingParams
from thumbs.stages.sequences import pair_tokens

BYTES = ByteTokenizer()
BOS, SEP, EOS = BYTES.BOS, BYTES.SEP, BYTES.EOS


class Scripted:
    """A sampler that answers what it was told to."""

    policy_version = 0

    def __init__(self, tokens: list[int]) -> None:
        self.tokens = np.array(tokens)

    def sample(self, prompts: Sequence[Sequence[int]], params: DecodingParams, seeds: Sequence[int]) -> list[Sample]:
        stop = "stop" if self.tokens[-1] in params.stop_tokens else "length"
        return [Sample(self.tokens, np.full(len(self.tokens), -1.0, np.float32), stop, 0) for _ in prompts]


@pytest.mark.parametrize("reply", [[*b"fine", EOS], [*b"fin"], [*"grün".encode(), EOS]])
def test_a_reply_read_back_from_text_has_the_tokens_that_were_sampled(reply: list[int]):
    rollout = collect(Scripted(reply), [prompt("how")], BYTES, SamplingConfig(max_new_tokens=8), [0])[0]
    again = reply_tokens(BYTES, user("how"), Reply(rollout.text, MAKER, rollout.stop_reason))
    np.testing.assert_array_equal(again, rollout.tokens)
    np.testing.assert_array_equal(rollout.tokens, [BOS, *b"how", SEP, *reply])


def test_the_mask_of_a_demonstration_is_the_mask_of_a_rollout():
    rollout = collect(Scripted([*b"fine", EOS]), [prompt("how")], BYTES, SamplingConfig(max_new_tokens=8), [0])[0]
    tokens, mask = conversation_tokens(BYTES, (*user("how"), Message("assistant", "fine")))
    np.testing.assert_array_equal(tokens, rollout.tokens)
    np.testing.assert_array_equal(mask, rollout.mask)
    assert mask.tolist() == [0, 0, 0, 0, 1, 1, 1, 1, 1]


def test_a_conversation_ends_with_the_assistants_last_token():
    talk = [
        *user("a"),
        Message("assistant", "b"),
        Message("user", "c"),
        Message("assistant", "d"),
        Message("user", "e"),
    ]
    tokens, mask = conversation_tokens(BYTES, talk)
    assert tokens.tolist() == [BOS, *b"a", SEP, *b"b", EOS, BOS, *b"c", SEP, *b"d", EOS]
    assert mask.tolist() == [0, 0, 1, 1, 0, 0, 0, 1, 1]  # the targets b, EOS and d, EOS


def test_a_reply_that_was_cut_has_no_end_token():
    assert reply_tokens(BYTES, user("a"), Reply("b", MAKER, "length")).tolist() == [BOS, *b"a", SEP, *b"b"]
    assert reply_tokens(BYTES, user("a"), Reply("b", MAKER, "stop")).tolist() == [BOS, *b"a", SEP, *b"b", EOS]


def test_a_pair_keeps_its_order():
    first, second = pair_tokens(BYTES, pair("a", "b", "c"))
    assert first.tolist() == [BOS, *b"a", SEP, *b"b", EOS]
    assert second.tolist() == [BOS, *b"a", SEP, *b"c", EOS]
