"""`generate` and `step`: what they refuse, and what they compute against hand numbers and slow loops."""

from __future__ import annotations

import math
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from thumbs.compat.trl_ppo import AutoModelForCausalLMWithValueHead, PPOConfig, PPOTrainer, create_reference_model
from thumbs.compat.trl_ppo.engine import forward_backward_if, trained
from thumbs.config.losses import CROSS_ENTROPY
from thumbs.data.tokenizers import ByteTokenizer
from thumbs.errors import ConfigError, DataError
from thumbs.records import Example

QUERIES = [torch.tensor(list(text)) for text in (b"hello", b"what", b"a", b"tell me")]
RESPONSES = [torch.tensor(list(text)) for text in (b"yes", b"no, never", b"x", b"maybe")]
SCORES = [torch.tensor(x) for x in (1.0, -0.5, 0.25, 2.0)]


def trainer(*, shake: float = 0.0, **settings: Any) -> PPOTrainer:
    """A byte model; its reference is the model before it was shaken."""
    torch.manual_seed(0)
    model = AutoModelForCausalLMWithValueHead.from_pretrained("byte-tiny", v_head_init_strategy="normal")
    reference = create_reference_model(model)
    with torch.no_grad():
        for parameter in model.pretrained_model.parameters():
            parameter.add_(shake * torch.randn(parameter.shape))
    config = PPOConfig(**{"batch_size": 4, "mini_batch_size": 4, "learning_rate": 1e-3, **settings})
    return PPOTrainer(config, model, reference, ByteTokenizer())


def weights(made: PPOTrainer) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten().clone() for parameter in made.model.parameters()])


def by_hand(model: AutoModelForCausalLMWithValueHead, temperature: float = 1.0) -> list[torch.Tensor]:
    """Log-distributions [M, V] from which each response was drawn, one sequence at a time."""
    found = []
    for query, response in zip(QUERIES, RESPONSES, strict=True):
        with torch.no_grad():
            logits = model(torch.cat([query, response])[None])[0][0]
        found.append((logits[len(query) - 1 : -1] / temperature).log_softmax(1))
    return found


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"queries": torch.ones(3, dtype=torch.long)}, "queries must be a list of tensors"),
        ({"responses": [[1, 2]] * 4}, "Elements in responses must be tensors"),
        ({"scores": SCORES[:3]}, r"Batch size \(4\) does not match number of examples - but got 3 for: scores"),
        ({"queries": [q[None] for q in QUERIES]}, r"queries\[0\] has shape \(1, 5\)"),
        ({"queries": [q.float() for q in QUERIES]}, "1-D tensor of token ids"),
        ({"responses": [*RESPONSES[:3], RESPONSES[3][:0]]}, r"responses\[3\] is empty"),
        ({"responses": [*RESPONSES[:3], torch.tensor([300])]}, "the model knows 0 to 259"),
        ({"scores": [torch.ones(1, 1)] * 4}, "Scores must be 1-dimensional"),
        ({"scores": [*SCORES[:3], torch.tensor([1.0, 2.0])]}, r"scores\[3\].*one number for each of 5 tokens"),
        ({"scores": [*SCORES[:3], "good"]}, r"scores\[3\] is .*str"),
        ({"scores": [*SCORES[:3], torch.tensor(math.nan)]}, r"scores\[3\] is nan"),
        ({"scores": [*SCORES[:3], math.inf]}, r"scores\[3\] is inf"),
        ({"response_masks": [torch.ones(3)]}, "got 1 for 4 responses"),
        ({"response_masks": [torch.ones(3)] * 4}, r"response_masks\[1\] must hold 0 or 1"),
        ({"response_masks": [torch.zeros(len(r)) for r in RESPONSES]}, r"response_masks\[0\].*one\s+1 at least"),
    ],
)
def test_lists_that_do_not_fit_are_refused_and_change_nothing(change: dict, words: str):
    made = trainer()
    before = weights(made)
    with pytest.raises(DataError, match=words):
        made.step(**{"queries": QUERIES, "responses": RESPONSES, "scores": SCORES, **change})
    assert torch.equal(weights(made), before)
    assert made.kl_ctl.value == 0.2


def test_the_first_minibatch_is_on_policy_at_any_temperature():
    made = trainer(ppo_epochs=1)
    responses = made.generate(QUERIES, return_prompt=False, do_sample=True, temperature=0.6, max_new_tokens=6)
    stats = made.step(QUERIES, responses, SCORES)
    assert stats["ppo/policy/approxkl"] == pytest.approx(0, abs=1e-9)
    assert stats["ppo/policy/clipfrac"] == 0
    np.testing.assert_allclose(stats["ppo/policy/ratio"], 1.0, atol=1e-5)
    assert stats["objective/kl"] == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize(("given", "reproduce", "expected"), [(None, False, 0.5), (2.0, False, 2.0), (None, True, 1.0)])
def test_logprobs_are_at_the_temperature_of_the_replies(given: float | None, reproduce: bool, expected: float):
    made = trainer(reproduce_trl=reproduce)
    wanted = by_hand(made.model, expected)
    made.generate(QUERIES, do_sample=True, temperature=0.5, max_new_tokens=1)
    found = made.step(QUERIES, RESPONSES, SCORES, temperature=given)["objective/logprobs"]
    for row, (query, response, logp) in enumerate(zip(QUERIES, RESPONSES, wanted, strict=True)):
        start = len(query) - 1
        expected_row = logp[torch.arange(len(response)), response].numpy()
        np.testing.assert_allclose(found[row, start : start + len(response)], expected_row, atol=1e-4)
        assert not found[row, :start].any()
        assert not found[row, start + len(response) :].any()
    with pytest.raises(ConfigError, match="temperature"):
        made.step(QUERIES, RESPONSES, SCORES, temperature=0.0)


@pytest.mark.parametrize("penalty", ["kl", "abs", "mse", "full"])
def test_every_kl_penalty(penalty: str):
    made = trainer(shake=0.02, kl_penalty=penalty)
    ours, theirs = by_hand(made.model), by_hand(made.ref_model)
    sums = []
    for logp, logq, response in zip(ours, theirs, RESPONSES, strict=True):
        total = 0.0
        for p, q, token in zip(logp, logq, response, strict=True):
            d = float(p[token] - q[token])
            exact = sum(math.exp(a) * (a - b) for a, b in zip(p.tolist(), q.tolist(), strict=True))
            total += {"kl": d, "abs": abs(d), "mse": d * d / 2, "full": exact}[penalty]
        sums.append(total)
    stats = made.step(QUERIES, RESPONSES, SCORES)
    np.testing.assert_allclose(stats["objective/kl_dist"], sums, rtol=1e-3, atol=1e-4)
    tokens = sum(len(response) for response in RESPONSES)
    assert stats["ppo/mean_non_score_reward"] == pytest.approx(-0.2 * sum(sums) / tokens, rel=1e-3, abs=1e-5)


def test_returns_by_a_slow_loop_with_tokens_left_out():
    """Values of the tokens that count, the score at the last of them, γ and λ from one to the next that counts."""
    made = trainer(shake=0.02, gamma=0.9, lam=0.8, ppo_epochs=1)
    masks = [(torch.arange(len(r)) % 2 == 0).long() for r in RESPONSES]
    ours, theirs = by_hand(made.model), by_hand(made.ref_model)
    returns = []
    for i, (query, response) in enumerate(zip(QUERIES, RESPONSES, strict=True)):
        with torch.no_grad():
            values = made.model(torch.cat([query, response])[None])[2][0, len(query) - 1 : -1]
        places = masks[i].nonzero().flatten().tolist()
        advantage, following = 0.0, 0.0
        for t in reversed(places):
            kl = float(ours[i][t, response[t]] - theirs[i][t, response[t]])
            reward = -0.2 * kl + (float(SCORES[i]) if t == places[-1] else 0.0)
            advantage = reward + 0.9 * following - float(values[t]) + 0.9 * 0.8 * advantage
            following = float(values[t])
            returns.append(advantage + float(values[t]))
    stats = made.step(QUERIES, RESPONSES, SCORES, response_masks=masks)
    assert stats["ppo/returns/mean"] == pytest.approx(np.mean(returns), rel=1e-3)
    assert stats["ppo/returns/var"] == pytest.approx(np.var(returns), rel=1e-3)
    assert len(stats["ppo/policy/ratio"]) == len(returns)


def test_a_reward_a_token_at_the_end_is_a_score():
    by_token = [torch.cat([torch.zeros(len(r) - 1), score[None]]) for r, score in zip(RESPONSES, SCORES, strict=True)]
    by_token[2] = SCORES[2]  # of one token; numbers and lists of them mix
    made, other = trainer(), trainer()
    first, second = made.step(QUERIES, RESPONSES, SCORES), other.step(QUERIES, RESPONSES, by_token)
    assert second["ppo/mean_scores"] == first["ppo/mean_scores"] == pytest.approx(0.6875)
    np.random.seed(0)
    torch.testing.assert_close(weights(made), weights(other), rtol=0, atol=0)
    early = [torch.flip(each, [0]) if each.dim() else each for each in by_token]
    third = trainer()
    third.step(QUERIES, RESPONSES, early)
    assert not torch.equal(weights(third), weights(made))


def test_plain_numbers_are_scores():
    made, other = trainer(), trainer()
    made.step(QUERIES, RESPONSES, SCORES)
    other.step(QUERIES, RESPONSES, [1.0, -0.5, np.float64(0.25), 2])
    assert torch.equal(weights(made), weights(other))


def test_accumulation_changes_nothing():
    moved = []
    for settings in (
        {},
        {"mini_batch_size": 1, "gradient_accumulation_steps": 4},
        {"mini_batch_size": 1, "gradient_accumulation_steps": 4, "reproduce_trl": True},
    ):
        made = trainer(ppo_epochs=1, max_grad_norm=math.inf, **settings)
        made.optimizer = torch.optim.SGD(made.model.parameters(), lr=1.0)
        before = weights(made)
        made.step(QUERIES, RESPONSES, SCORES)
        moved.append(weights(made) - before)
    torch.testing.assert_close(moved[1], moved[0], rtol=1e-3, atol=1e-6)
    assert not torch.allclose(moved[2], moved[0], rtol=1e-3, atol=1e-6)  # there each minibatch weighs the same


def test_a_minibatch_beyond_the_ratio_threshold_is_left_out():
    made = trainer(ratio_threshold=0.5, ppo_epochs=1)  # the first ratio is 1
    before = weights(made)
    with pytest.warns(UserWarning, match=r"average ratio of batch \(1\.00\) exceeds threshold 0\.50"):
        stats = made.step(QUERIES, RESPONSES, SCORES)
    assert torch.equal(weights(made), before)
    assert stats["ppo/loss/total"] == 0


def test_turning_one_minibatch_down_keeps_the_gradients_of_others():
    made = trainer()
    engine, handle = made.model.engine, made.model.handle
    parts = [[Example.next_token(list(text), weights=[1.0] * (len(text) - 1))] for text in (b"first", b"second")]
    forward_backward_if(engine, handle, parts[0], [CROSS_ENTROPY], lambda _: True)
    kept = [p.grad.clone() for p in trained(engine.model(handle)) if p.grad is not None]
    forward_backward_if(engine, handle, parts[1], [CROSS_ENTROPY], lambda _: False)
    assert all(
        torch.equal(a, b.grad)
        for a, b in zip(kept, (p for p in trained(engine.model(handle)) if p.grad is not None), strict=True)
    )
    forward_backward_if(engine, handle, parts[1], [CROSS_ENTROPY], lambda _: True)
    other = trainer().model
    other.engine.forward_backward(other.handle, [*parts[0], *parts[1]], [CROSS_ENTROPY])
    whole = [p.grad for p in trained(other.engine.model(other.handle)) if p.grad is not None]
    added = [p.grad for p in trained(engine.model(handle)) if p.grad is not None]
    for ours, theirs in zip(added, whole, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_epochs_end_when_the_policy_has_moved():
    tokens = sum(len(response) for response in RESPONSES)
    ratios = trainer(ppo_epochs=6).step(QUERIES, RESPONSES, SCORES)["ppo/policy/ratio"].reshape(6, tokens)
    moved = -np.log(ratios).mean(1)  # log(old / new), by epoch
    last = int(moved.argmax())
    assert last > 0
    target = float(moved[last]) / 1.5 * 0.999
    first = int((moved > 1.5 * target).argmax())
    early = {"early_stopping": True, "target_kl": target, "ppo_epochs": 6}
    assert len(trainer(**early).step(QUERIES, RESPONSES, SCORES)["ppo/policy/ratio"]) == (first + 1) * tokens
    late = early | {"target_kl": target * 1.01}
    assert len(trainer(**late).step(QUERIES, RESPONSES, SCORES)["ppo/policy/ratio"]) == 6 * tokens
    off = early | {"early_stopping": False}
    assert len(trainer(**off).step(QUERIES, RESPONSES, SCORES)["ppo/policy/ratio"]) == 6 * tokens


def test_gradients_are_clipped():
    moved = {}
    for limit in (1e-3, math.inf):
        made = trainer(ppo_epochs=1, max_grad_norm=limit)
        made.optimizer = torch.optim.SGD(made.model.parameters(), lr=1.0)
        before = weights(made)
        made.step(QUERIES, RESPONSES, SCORES)
        moved[limit] = float((weights(made) - before).norm())
    assert moved[1e-3] == pytest.approx(1e-3, rel=0.02)
    assert moved[math.inf] > 0.1


def test_scores_are_scaled_then_clipped():
    made = trainer(use_score_scaling=True, use_score_norm=True, score_clip=1.0)
    stats = made.step(QUERIES, RESPONSES, SCORES)
    numbers = np.array([float(score) for score in SCORES])
    wanted = ((numbers - numbers.mean()) / numbers.std(ddof=1)).clip(-1, 1)
    assert stats["ppo/mean_scores"] == pytest.approx(wanted.mean(), abs=1e-5)
    assert stats["ppo/std_scores"] == pytest.approx(wanted.std(ddof=1), rel=1e-5)


def test_the_schedule_of_a_given_optimizer_is_stepped():
    made = trainer()
    optimizer = torch.optim.Adam(made.model.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.5)
    given = (made.config, made.model, made.ref_model, made.tokenizer)
    other = PPOTrainer(*given, optimizer=optimizer, lr_scheduler=schedule)
    rates = [other.step(QUERIES, RESPONSES, SCORES)["ppo/learning_rate"] for _ in range(3)]
    assert rates == pytest.approx([1e-3, 5e-4, 2.5e-4])
    with pytest.raises(ConfigError, match="optimizer"):
        PPOTrainer(*given, lr_scheduler=schedule)


def test_the_kl_coefficient_follows_the_kl_of_sequences():
    made = trainer(shake=0.05, kl_penalty="mse", target=0.01, horizon=40)
    stats = made.step(QUERIES, RESPONSES, SCORES)
    assert stats["objective/kl_coef"] == 0.2
    assert stats["objective/kl"] > 0.02
    assert made.kl_ctl.value == pytest.approx(0.2 * (1 + 0.2 * 4 / 40))


def test_replies_in_every_form():
    made = trainer(shake=0.2)
    keywords = {"do_sample": True, "max_new_tokens": 5, "eos_token_id": -1, "remove_padding": False}
    one = made.generate(QUERIES[0], do_sample=True, max_new_tokens=5, eos_token_id=-1)
    assert one.shape[0] == 1
    assert one[0, :5].tolist() == QUERIES[0].tolist()
    torch.manual_seed(3)
    whole = made.generate(QUERIES, **keywords)
    torch.manual_seed(3)
    replies, others = made.generate(QUERIES, return_prompt=False, generate_ref_response=True, **keywords)
    assert [len(reply) for reply in replies] == [5] * 4
    assert [row.tolist() for row in whole] == [q.tolist() + r.tolist() for q, r in zip(QUERIES, replies, strict=True)]
    assert any(not torch.equal(a, b) for a, b in zip(replies, others, strict=True))
    drawn = iter([2, 4])
    lengths = made.generate(
        QUERIES,
        length_sampler=lambda: next(drawn),
        batch_size=2,
        return_prompt=False,
        **keywords | {"max_new_tokens": 9},
    )
    assert [len(reply) for reply in lengths] == [2, 2, 4, 4]
    padded = torch.full((4, 9), made.tokenizer.pad_id)
    for row, query in zip(padded, QUERIES, strict=True):
        row[-len(query) :] = query
    torch.manual_seed(3)
    stacked = made.generate(padded, **keywords)
    assert [row.tolist() for row in stacked] == [row.tolist() for row in whole]
    with pytest.raises(DataError, match="seq_len"):
        made.generate(QUERIES[0][None, None], do_sample=True)
    with pytest.warns(UserWarning, match="top_k=5"):
        made.generate(QUERIES, do_sample=True, top_k=5, max_new_tokens=1)


def test_a_reply_ends_with_the_first_end_token():
    made = trainer()
    with torch.no_grad():  # every state leads to the end token
        made.model.pretrained_model.trunk.embedding[259] += (
            50 * made.model.pretrained_model.states(QUERIES[0][None])[0, -1]
        )
    (stopped,) = made.generate([QUERIES[0]], return_prompt=False, max_new_tokens=6)
    assert stopped.tolist() == [259]
    (ran_on,) = made.generate(
        [QUERIES[0]], return_prompt=False, max_new_tokens=6, eos_token_id=-1, remove_padding=False
    )
    assert len(ran_on) == 6
    assert ran_on[0] == 259
    (cut,) = made.generate([QUERIES[0]], return_prompt=False, max_new_tokens=6, eos_token_id=-1)
    assert cut.tolist() == [259]


def test_the_reference_of_adapters_is_the_model_without_them():
    model = AutoModelForCausalLMWithValueHead.from_pretrained("byte-tiny", peft_config={"r": 4, "lora_alpha": 8})
    made = PPOTrainer(PPOConfig(batch_size=4, mini_batch_size=4, learning_rate=1e-2), model, None, ByteTokenizer())
    base = by_hand(model)
    made.step(QUERIES, RESPONSES, SCORES)
    for before, now, ours in zip(base, by_hand(made.ref_model), by_hand(model), strict=True):
        torch.testing.assert_close(now, before)
        assert not torch.allclose(ours, before, atol=1e-3)
    shared = {id(p) for p in model.parameters()} & {id(p) for p in made.ref_model.parameters()}
    assert len(shared) == len(list(model.pretrained_model.trunk.parameters()))


def test_what_is_logged_where_nothing_can_be(monkeypatch: pytest.MonkeyPatch):
    made = trainer()
    others = made.model, made.ref_model, made.tokenizer
    stats = made.step(QUERIES, RESPONSES, SCORES)
    with pytest.warns(UserWarning, match="no texts are logged"):
        made.log_stats(stats, {}, SCORES)
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.warns(UserWarning, match=r"wandb.*not installed"):
        PPOTrainer(PPOConfig(batch_size=4, mini_batch_size=4, log_with="wandb"), *others)
    with pytest.raises(ConfigError, match="log_with"):
        PPOTrainer(PPOConfig(batch_size=4, mini_batch_size=4, log_with="paper"), *others)
    with pytest.raises(ConfigError, match="nothing is pushed"):
        made.push_to_hub("me/model")


def test_what_trackers_are_sent(monkeypatch: pytest.MonkeyPatch):
    """Stand-ins for two packages that are not among our dependencies."""
    sent: list[tuple] = []
    run = SimpleNamespace(log=lambda values, step: sent.append(("run", values["objective/kl"], step)))
    wandb = SimpleNamespace(init=lambda **settings: sent.append(("init", settings["project"], settings["name"])) or run)
    writer = SimpleNamespace(add_scalar=lambda name, value, step: sent.append((name, value, step)))
    board = SimpleNamespace(SummaryWriter=lambda folder: sent.append(("folder", folder)) or writer)
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", board)
    stats = {"objective/kl": 0.5, "objective/kl_dist": np.ones(4)}
    made = trainer(log_with="wandb", tracker_project_name="mine", tracker_kwargs={"wandb": {"name": "first"}})
    made.log_stats(stats, {"query": ["a"] * 4}, SCORES)
    made = trainer(log_with="tensorboard")
    made.log_stats(stats, {"query": ["a"] * 4}, SCORES)
    assert sent[:3] == [("init", "mine", "first"), ("run", 0.5, 1), ("folder", None)]
    assert [name for name, *_ in sent[3:]] == ["objective/kl", "env/reward_mean", "env/reward_std"]
    assert [value for _, value, _ in sent[3:]] == pytest.approx([0.5, 0.6875, np.std([1, -0.5, 0.25, 2], ddof=1)])
