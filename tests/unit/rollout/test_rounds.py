"""From prompts to rollouts with a sampler that says what it is told."""

import numpy as np
import pytest

from thumbs.config.sampling import SamplingConfig
from thumbs.data.tokenizers import ByteTokenizer
from thumbs.envs.base import SingleTurn
from thumbs.errors import ConfigError
from thumbs.records import Message, Prompt, Sample
from thumbs.rollout.episodes import Episodes, play
from thumbs.rollout.rounds import collect, require_unwarped, sampling_params, seed_of

TOKENIZER = ByteTokenizer()


class Echo:
    """Answers every prompt with "ok" and the end token; the second one is cut before it."""

    policy_version = 3

    def sample(self, prompts, params, seeds):
        self.asked, self.params, self.seeds = prompts, params, seeds
        samples = []
        for i in range(len(prompts)):
            tokens = np.array([*b" ok", TOKENIZER.EOS][: 3 if i == 1 else 4])
            logprobs = -np.arange(1, len(tokens) + 1, dtype=np.float32)
            samples.append(Sample(tokens, logprobs, "length" if i == 1 else "stop", self.policy_version))
        return samples


def test_rollouts_say_what_was_sampled_and_what_was_not():
    prompts = [Prompt(name, (Message("user", name * 3),)) for name in ("a", "bc")]
    sampler = Echo()
    rollouts = collect(sampler, prompts, TOKENIZER, SamplingConfig(max_new_tokens=9), [5, 6])
    assert sampler.asked == [TOKENIZER.render_prompt(p.messages) for p in prompts]
    assert (sampler.seeds, sampler.params.max_new_tokens, sampler.params.stop_tokens) == ([5, 6], 9, (TOKENIZER.EOS,))
    first, second = rollouts
    assert first.tokens.tolist() == [TOKENIZER.BOS, *b"aaa", TOKENIZER.SEP, *b" ok", TOKENIZER.EOS]
    assert (first.prompt_id, first.prompt_length, first.reply_length) == ("a", 5, 4)
    assert first.mask.tolist() == [0, 0, 0, 0, 1, 1, 1, 1]  # entry t belongs to token t + 1
    assert first.logprobs.tolist() == [0, 0, 0, 0, -1, -2, -3, -4]
    assert (first.text, first.stop_reason, first.policy_version) == ("ok", "stop", 3)
    assert second.tokens[-1] == ord("k")
    assert (second.reply_length, second.stop_reason) == (3, "length")


def test_settings_reach_the_sampler():
    config = SamplingConfig(max_new_tokens=7, temperature=0.5, top_k=3, top_p=0.9, stop=("END",))
    found = sampling_params(config, TOKENIZER)
    assert (found.max_new_tokens, found.temperature, found.top_k, found.top_p) == (7, 0.5, 3, 0.9)
    assert found.stop_strings == ("END",)


@pytest.mark.parametrize("warped", [{"top_k": 5}, {"top_p": 0.9}, {"temperature": 0}])
def test_warped_sampling_is_refused_for_rollouts(warped):
    with pytest.raises(ConfigError, match=r"ppo\.sampling has temperature"):
        require_unwarped(SamplingConfig(**warped), "ppo")
    require_unwarped(SamplingConfig(temperature=0.7), "ppo")


def test_seeds_come_from_names():
    assert seed_of(0, "ppo", 3) == 4276648988084510473
    seeds = {seed_of(*parts) for parts in [(0, "ppo", 3), (0, "ppo", 4), (1, "ppo", 3), (0, "sft", 3)]}
    assert len(seeds) == 4
    assert all(0 <= seed < 2**63 for seed in seeds)


class Words(ByteTokenizer):
    """Bytes, and a token 300 that holds a stop string and more."""

    def decode(self, tokens, skip_special=True):
        return "".join(
            "END!!" if token == 300 else super(Words, self).decode([token], skip_special) for token in tokens
        )


class Says:
    """A sampler of these very tokens."""

    policy_version = 0

    def __init__(self, *tokens):
        self.tokens = np.array(tokens)

    def sample(self, prompts, params, seeds):
        return [Sample(self.tokens, np.zeros(len(self.tokens), np.float32), "stop", 0) for _ in prompts]


@pytest.mark.parametrize(
    ("stop", "text"),
    [(("END",), "ok END"), (("D!", "zz"), "ok END!"), (("k E",), "ok E"), (("!", "END"), "ok END"), ((), "ok END!!")],
)
def test_a_reply_ends_exactly_after_its_stop_string(stop, text):
    prompts, sampling = [Prompt("a", (Message("user", "Hi"),))], SamplingConfig(stop=stop)
    (rollout,) = collect(Says(*b" ok ", 300), prompts, Words(), sampling, [1])
    assert rollout.text == rollout.messages[-1].content == text
    assert rollout.tokens.tolist()[-1] == 300  # what was sampled stays: its logprob is that of the whole token
    episodes = Episodes(lambda prompt: SingleTurn(prompt, lambda p, reply: float(reply == text)))
    (played,) = play(Says(*b" ok ", 300), prompts, Words(), sampling, [1], episodes)
    assert (played.text, played.rewards[-1]) == (text, 1.0)


def test_an_empty_stop_string_is_refused():
    for stop in ("",), ("END", ""):
        with pytest.raises(ValueError, match="empty string"):
            SamplingConfig(stop=stop)


def test_the_name_of_a_special_token_stops_at_it():
    found = sampling_params(SamplingConfig(stop=("[SEP]", "x")), TOKENIZER)
    assert (found.stop_tokens, found.stop_strings) == ((TOKENIZER.EOS, TOKENIZER.SEP), ("x",))
    with pytest.raises(ConfigError, match=r"\[SEP\] is a special token"):
        sampling_params(SamplingConfig(stop=("a[SEP]",)), TOKENIZER)
