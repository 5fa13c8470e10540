"""Conformance cases that both SDKs run: what training and sampling must do."""

from __future__ import annotations

import asyncio
import math
import time
from typing import Any

import numpy as np
import pytest
import tinker
from case_tools import MODEL, RATE, TOLERANCE, datum, logprobs, name, outputs, prompt, sample, step, trainer
from tinker import types

# ---- tier 1 ----


def test_01_capabilities(service: Any) -> None:
    models = {model.model_name: model for model in service.get_server_capabilities().supported_models}
    assert isinstance(models[MODEL].max_context_length, int)


def test_02_model_ids_count_up_in_a_session() -> None:
    service = tinker.ServiceClient()
    first, second = trainer(service), trainer(service)
    session, _, number = first.model_id.partition(":train:")
    assert number == "0"
    assert second.model_id == f"{session}:train:1"


def test_03_tokenizer_without_internet(service: Any) -> None:
    for client in (trainer(service), service.create_sampling_client(base_model=MODEL)):
        tokenizer = client.get_tokenizer()
        assert tokenizer.decode(tokenizer.encode("hi", add_special_tokens=False)) == "hi"
        assert tokenizer.eos_token_id is not None
        assert "hi" in tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False)


def test_04_loss_is_the_weighted_sum_of_the_logprobs(service: Any) -> None:
    weights = [0.0, 1.0, 0.5, -0.25, 0.0, 2.0, 1.0, 1.0, 0.0, 1.0]
    result = trainer(service).forward_backward([datum(weights=weights)], "cross_entropy").result()
    found = outputs(result)
    assert len(found) == len(weights)
    assert (found < 0).all()
    assert result.metrics["loss:sum"] == pytest.approx(-(np.array(weights) * found).sum(), rel=1e-3)
    assert all(key.count(":") == 1 for key in result.metrics)


def test_05_loss_falls(service: Any) -> None:
    client = trainer(service)
    losses = [step(client, [datum()]) for _ in range(20)]
    assert losses[-1] < 0.7 * losses[0]
    assert all(math.isfinite(loss) for loss in losses)


def test_06_sampler_of_the_weights_as_they_are(service: Any) -> None:
    sampler = trainer(service).save_weights_and_get_sampling_client()
    answer = sample(sampler, n=2)
    assert len(answer.sequences) == 2
    for sequence in answer.sequences:
        assert 1 <= len(sequence.tokens) <= 4
        assert sequence.logprobs is not None
        assert len(sequence.logprobs) == len(sequence.tokens)
        assert sequence.stop_reason in ("stop", "length")


def test_07_pipelined_is_the_same_as_waiting(service: Any) -> None:
    waiting, pipelined = trainer(service), trainer(service)
    for _ in range(5):
        step(waiting, [datum()])
    futures = []
    for _ in range(5):
        futures.append(pipelined.forward_backward([datum()], "cross_entropy"))
        futures.append(pipelined.optim_step(types.AdamParams(learning_rate=RATE)))
    for future in futures:
        future.result()
    np.testing.assert_allclose(logprobs(pipelined, datum()), logprobs(waiting, datum()), rtol=1e-5)


def test_08_gradients_accumulate_and_losses_are_sums(service: Any) -> None:
    apart, together = trainer(service), trainer(service)
    one, two = datum("hello there"), datum("good morning to you")
    before = logprobs(together, one, two)
    apart.forward_backward([one], "cross_entropy").result()
    apart.forward_backward([two], "cross_entropy").result()
    together.forward_backward([one, two], "cross_entropy").result()
    for client in (apart, together):
        # With so large an eps the step is as long as the gradient: twice the gradient moves twice as far.
        client.optim_step(types.AdamParams(learning_rate=1.0, eps=1e3)).result()
    moved, expected = logprobs(apart, one, two) - before, logprobs(together, one, two) - before
    np.testing.assert_allclose(moved, expected, atol=0.05 * np.abs(expected).max())


def test_11_sampler_of_the_base_is_untouched_by_training(service: Any) -> None:
    base = service.create_sampling_client(base_model=MODEL)
    before = base.compute_logprobs(prompt()).result()
    client = trainer(service)
    for _ in range(3):
        step(client, [datum()])
    assert base.compute_logprobs(prompt()).result() == before
    assert service.create_sampling_client(base_model=MODEL).compute_logprobs(prompt()).result() == before


def test_12_saved_sampler_is_the_ephemeral_one(service: Any) -> None:
    client, saved = trainer(service), name()
    step(client, [datum()])
    path = client.save_weights_for_sampler(saved).result().path
    assert path == f"tinker://{client.model_id}/sampler_weights/{saved}"
    again = service.create_sampling_client(model_path=path)
    ephemeral = client.save_weights_and_get_sampling_client()
    for params in ({"temperature": 0.0}, {"seed": 7}):
        assert sample(again, max_tokens=8, **params).sequences[0].tokens == (
            sample(ephemeral, max_tokens=8, **params).sequences[0].tokens
        )


# ---- tier 2 ----


def test_13_stops(service: Any) -> None:
    sampler = service.create_sampling_client(base_model=MODEL)
    free = sample(sampler, max_tokens=12, seed=3, stop=[]).sequences[0]
    assert free.stop_reason == "length"
    assert len(free.tokens) == 12
    wanted = free.tokens[5]
    first = free.tokens.index(wanted)
    stopped = sample(sampler, max_tokens=12, seed=3, stop=[wanted]).sequences[0]
    assert stopped.tokens == free.tokens[: first + 1]
    assert stopped.stop_reason == "stop"


def test_14_seeds(service: Any) -> None:
    sampler = service.create_sampling_client(base_model=MODEL)
    drawn = [[s.tokens for s in sample(sampler, n=4, seed=1, max_tokens=8).sequences] for _ in range(2)]
    assert drawn[0] == drawn[1]
    assert len({tuple(tokens) for tokens in drawn[0]}) == 4
    greedy = sample(sampler, n=2, temperature=0.0, max_tokens=8).sequences
    assert greedy[0].tokens == greedy[1].tokens


def test_15_logprobs_are_at_the_sampling_temperature(service: Any) -> None:
    sampler = service.create_sampling_client(base_model=MODEL)
    k = 97
    for temperature in (0.7, 1.5):
        answer = sampler.sample(
            prompt("abc"),
            1,
            types.SamplingParams(max_tokens=1, temperature=temperature, seed=2, stop=[]),
        ).result()
        token, found = answer.sequences[0].tokens[0], answer.sequences[0].logprobs[0]
        text = types.ModelInput.from_ints([*b"abc", token, 0])
        listed = sampler.sample(
            text, 1, types.SamplingParams(max_tokens=1), include_prompt_logprobs=True, topk_prompt_logprobs=k
        ).result()
        row = dict(listed.topk_prompt_logprobs[3])
        at_one = listed.prompt_logprobs[3]
        # The k likeliest tokens bound the normaliser from below; the rest is at most (V - k) times the least of them.
        scaled = np.array(list(row.values())) / temperature
        low = np.logaddexp.reduce(scaled)
        high = np.logaddexp(low, math.log(1e6) + scaled.min())
        assert at_one / temperature - high - TOLERANCE <= found <= at_one / temperature - low + TOLERANCE


@pytest.mark.parametrize("steps", [0, 3])
def test_16_sampler_and_trainer_agree(service: Any, steps: int) -> None:
    client, text = trainer(service), "hello there"
    for _ in range(steps):
        step(client, [datum(text)])
    found = client.save_weights_and_get_sampling_client().compute_logprobs(prompt(text)).result()
    assert found[0] is None
    assert len(found) == len(text)
    np.testing.assert_allclose(found[1:], logprobs(client, datum(text)), atol=TOLERANCE)


def test_17_and_18_importance_sampling_with_an_extra_input(service: Any) -> None:
    client = trainer(service)
    n = len("hello there") - 1
    sampled = logprobs(client, datum()) - 0.1
    advantages = np.linspace(-1, 1, n)
    given = {"logprobs": sampled.tolist(), "advantages": advantages.tolist()}
    for extra in ({}, {"weights": [1.0] * n}):
        result = client.forward_backward([datum(**given, **extra)], "importance_sampling").result()
        expected = -(np.exp(outputs(result) - sampled) * advantages).sum()
        assert result.metrics["loss:sum"] == pytest.approx(expected, rel=1e-3, abs=1e-3)


def test_19_reward_rises(service: Any) -> None:
    client = trainer(service)
    rewards = []
    for iteration in range(30):
        sampler = client.save_weights_and_get_sampling_client()
        drawn = sample(sampler, n=64, max_tokens=1, seed=iteration * 100, stop=[]).sequences
        scores = np.array([float(s.tokens[0] % 4 == 1) for s in drawn])
        rewards.append(scores.mean())
        data = [_rl_datum(s.tokens[0], s.logprobs[0], a) for s, a in zip(drawn, scores - scores.mean(), strict=True)]
        step(client, data, "importance_sampling", rate=0.03)
    assert np.mean(rewards[-5:]) > 0.25 + np.mean(rewards[:3])


def _rl_datum(token: int, logprob: float, advantage: float) -> types.Datum:
    text = list(b"hello")
    zeros = [0.0] * (len(text) - 1)
    return types.Datum(
        model_input=types.ModelInput.from_ints(text),
        loss_fn_inputs={
            "target_tokens": [*text[1:], token],
            "logprobs": [*zeros, float(logprob)],
            "advantages": [*zeros, float(advantage)],
        },
    )


def test_20_resume_with_the_optimizer(service: Any) -> None:
    client = trainer(service)
    for _ in range(3):
        step(client, [datum()])
    path = client.save_state(name()).result().path
    resumed = service.create_training_client_from_state_with_optimizer(path)
    for _ in range(4):
        assert step(resumed, [datum()]) == pytest.approx(step(client, [datum()]), rel=1e-4)


def test_21_resume_with_weights_alone(service: Any) -> None:
    client = trainer(service, rank=4)
    for _ in range(3):
        step(client, [datum()])
    path = client.save_state(name()).result().path
    resumed = service.create_training_client_from_state(path)
    np.testing.assert_allclose(logprobs(resumed, datum()), logprobs(client, datum()), atol=1e-5)
    info = resumed.get_info()
    assert info.lora_rank == 4
    assert info.model_data.model_name == MODEL
    step(resumed, [datum()])
    step(client, [datum()])
    assert np.abs(logprobs(resumed, datum()) - logprobs(client, datum())).max() > 1e-4


def test_22_load_state_at_any_time(service: Any) -> None:
    source = trainer(service)
    step(source, [datum()])
    path, expected = source.save_state(name()).result().path, logprobs(source, datum())
    stepped = trainer(service, seed=2)
    step(stepped, [datum("something else")])
    for client in (trainer(service, seed=3), stepped):
        client.load_state(path).result()
        np.testing.assert_allclose(logprobs(client, datum()), expected, atol=1e-5)


def test_23_checkpoints_with_a_time_to_live(service: Any) -> None:
    client, state, sampler = trainer(service), name(), name()
    client.save_state(state, ttl_seconds=7200).result()
    client.save_weights_for_sampler(sampler).result()
    found = {c.checkpoint_id: c for c in service.create_rest_client().list_user_checkpoints().result().checkpoints}
    kept, frozen = found[f"weights/{state}"], found[f"sampler_weights/{sampler}"]
    assert (kept.checkpoint_type, frozen.checkpoint_type) == ("training", "sampler")
    assert abs(kept.expires_at.timestamp() - time.time() - 7200) < 60


def test_24_metadata_of_a_run(service: Any) -> None:
    client = trainer(service, user_metadata={"renderer_name": "qwen3"})
    path = client.save_state(name()).result().path
    run = service.create_rest_client().get_training_run_by_tinker_path(path).result()
    assert run.user_metadata["renderer_name"] == "qwen3"
    assert run.training_run_id == client.model_id


def test_25_forward_leaves_the_gradients_alone(service: Any) -> None:
    client = trainer(service)
    before = logprobs(client, datum())
    client.forward([datum()], "cross_entropy").result()
    client.optim_step(types.AdamParams(learning_rate=RATE)).result()
    np.testing.assert_array_equal(logprobs(client, datum()), before)


def test_26_custom_loss(service: Any) -> None:
    import torch

    def cross_entropy(data: list[types.Datum], given: list[torch.Tensor]) -> tuple[torch.Tensor, dict[str, float]]:
        loss = -torch.stack([each.sum() for each in given]).sum()
        return loss, {"twice": 2 * loss.item()}

    custom, built_in = trainer(service), trainer(service)
    bare = types.Datum(model_input=datum().model_input, loss_fn_inputs={"target_tokens": list(b"ello there")})
    result = custom.forward_backward_custom([bare], cross_entropy).result()
    custom.optim_step(types.AdamParams(learning_rate=RATE)).result()
    step(built_in, [datum()])
    np.testing.assert_allclose(logprobs(custom, datum()), logprobs(built_in, datum()), atol=1e-4)
    assert result.metrics["twice"] == pytest.approx(-2 * outputs(result).sum(), rel=1e-3)


def test_27_many_datums_are_several_requests(service: Any) -> None:
    client = trainer(service)
    texts = [f"number {i:04d}" for i in range(2500)]
    passed = client.forward_backward([datum(text) for text in texts], "cross_entropy")
    client.optim_step(types.AdamParams(learning_rate=RATE)).result()
    result = passed.result()
    assert len(result.loss_fn_outputs) == 2500
    total = sum(outputs(result, i).sum() for i in range(2500))
    assert result.metrics["loss:sum"] == pytest.approx(-total, rel=1e-3)
    fresh = trainer(service)
    for i in (0, 1024, 2499):
        np.testing.assert_allclose(outputs(result, i), logprobs(fresh, datum(texts[i])), atol=TOLERANCE)


def test_28_two_hundred_samples_at_once(service: Any) -> None:
    sampler = service.create_sampling_client(base_model=MODEL)

    async def draw() -> list[Any]:
        params = types.SamplingParams(max_tokens=4)
        return await asyncio.gather(*(sampler.sample_async(prompt(f"p{i}"), 1, params) for i in range(200)))

    assert len(asyncio.run(draw())) == 200


def test_30_clients_do_not_touch_each_other(service: Any) -> None:
    mine, other = trainer(service, seed=1), trainer(tinker.ServiceClient(), seed=2)
    step(mine, [datum()])
    frozen = mine.save_weights_and_get_sampling_client()
    before, sampled = logprobs(mine, datum()), frozen.compute_logprobs(prompt()).result()
    for _ in range(3):
        step(other, [datum("an other text")])
    np.testing.assert_array_equal(logprobs(mine, datum()), before)
    step(mine, [datum()])
    assert frozen.compute_logprobs(prompt()).result() == sampled


def test_31_likeliest_tokens_of_a_prompt(service: Any) -> None:
    sampler = service.create_sampling_client(base_model=MODEL)
    answer = sampler.sample(
        prompt("hello"), 1, types.SamplingParams(max_tokens=1), include_prompt_logprobs=True, topk_prompt_logprobs=5
    ).result()
    assert answer.topk_prompt_logprobs[0] is None
    for position, row in enumerate(answer.topk_prompt_logprobs[1:], start=1):
        assert len(row) == 5
        values = [value for _, value in row]
        assert values == sorted(values, reverse=True)
        realised = dict(row).get(b"hello"[position])
        assert realised is None or realised == pytest.approx(answer.prompt_logprobs[position], abs=1e-4)
