"""The Tinker surface in process, used as scripts for hosted services use it."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter

import numpy as np
import pytest
import torch
from sqlalchemy.exc import OperationalError

from service.tiny_chat_model import save_tiny_chat_model
from thumbs.clients import types
from thumbs.clients.backend import Backend
from thumbs.clients.sample_call import SampleCall
from thumbs.clients.sampling import FullError
from thumbs.clients.service_client import ServiceClient
from thumbs.clients.store import Store
from thumbs.config.model import ModelConfig
from thumbs.errors import ThumbsError

ADAM = types.AdamParams(learning_rate=1e-2, eps=1e-8)


@pytest.fixture(scope="module")
def backend(tmp_path_factory):
    folder = save_tiny_chat_model(tmp_path_factory.mktemp("tiny-chat"))
    config = ModelConfig(name=str(folder), dtype="float32")
    backend = Backend(Store(tmp_path_factory.mktemp("store")), {"tiny": config}, max_models=4)
    yield backend
    backend.close()


@pytest.fixture
def service(backend):
    with ServiceClient(backend=backend, user_metadata={"test": "yes"}) as service:
        yield service


@pytest.fixture
def client(service):
    return service.create_lora_training_client(base_model="tiny", rank=4, seed=3)


def datum(seed: int = 0, length: int = 12, **inputs) -> types.Datum:
    tokens = np.random.default_rng(seed).integers(6, 90, length + 1).tolist()
    given = {"target_tokens": tokens[1:], "weights": [1.0] * length} | inputs
    return types.Datum(types.ModelInput.from_ints(tokens[:-1]), {k: v for k, v in given.items() if v is not None})


def logprobs_of(client, data) -> list[np.ndarray]:
    outputs = client.forward(data, "cross_entropy").result().loss_fn_outputs
    return [output["logprobs"].to_numpy() for output in outputs]


def test_loss_is_the_weighted_sum_and_logprobs_come_everywhere(client):
    data = [datum(1, weights=[0.0, -2.5] + [0.5] * 10), datum(2, 5)]
    result = client.forward_backward(data, "cross_entropy").result()
    expected = 0.0
    for given, output in zip(data, result.loss_fn_outputs, strict=True):
        logprobs = output["logprobs"].to_numpy()
        assert (logprobs < 0).all()
        expected -= sum(
            w * lp for w, lp in zip(given.loss_fn_inputs["weights"].tolist(), logprobs.tolist(), strict=True)
        )
    assert result.metrics["loss:sum"] == pytest.approx(expected, rel=1e-5)
    assert result.loss == pytest.approx(expected / 16, rel=1e-5)


def test_submitted_at_once_is_as_waited_for(service):
    """Five steps without waiting against five with, and two passes a step against one with both datums."""
    found = []
    for style in ("waiting", "at once", "in two passes"):
        client = service.create_lora_training_client("tiny", rank=4, seed=3)
        results = []
        for _ in range(5):
            parts = [[datum(1)], [datum(2)]] if style == "in two passes" else [[datum(1), datum(2)]]
            futures = [client.forward_backward(part, "cross_entropy") for part in parts]
            step = client.optim_step(ADAM)
            if style == "waiting":
                step.result()
            results.append(futures)
        losses = [sum(future.result().metrics["loss:sum"] for future in futures) for futures in results]
        assert losses[-1] < losses[0] - 1
        found.append(losses)
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_allclose(found[0], found[2], rtol=1e-5)


LOGPROB = {
    "importance_sampling": lambda lp, q, a: -(np.exp(lp - q) * a).sum(),
    "ppo": lambda lp, q, a: -np.minimum(np.exp(lp - q) * a, np.clip(np.exp(lp - q), 0.9, 1.3) * a).sum(),
    "cispo": lambda lp, q, a: -(np.clip(np.exp(lp - q), 0.9, 1.3) * lp * a).sum(),
    "dro": lambda lp, q, a: -(lp * a - 0.1 * (lp - q) ** 2).sum(),
    "gspo": lambda lp, q, a: (
        -np.minimum(np.exp((lp - q)[2:].mean()) * a, np.clip(np.exp((lp - q)[2:].mean()), 0.9, 1.3) * a).sum()
    ),
}
CONFIG = {
    "importance_sampling": {},
    "ppo": {"clip_low_threshold": 0.9, "clip_high_threshold": 1.3},
    "cispo": {"clip_low_threshold": 0.9, "clip_high_threshold": 1.3},
    "dro": {"beta": 0.2},
    "gspo": {"clip_low_threshold": 0.9, "clip_high_threshold": 1.3},
}


@pytest.mark.parametrize("loss", LOGPROB)
def test_losses_of_sampled_tokens(client, loss):
    """Against the closed forms, with both signs of the advantage, tokens without one, and an input too many."""
    rng = np.random.default_rng(0)
    (current,) = logprobs_of(client, [datum(1)])
    sampled = (current + rng.normal(0, 0.3, 12)).astype(np.float32)
    advantages = rng.normal(size=12).astype(np.float32)
    advantages[:2] = 0
    mask = np.array([0.0, 0.0] + [1.0] * 10)
    given = datum(1, logprobs=sampled, advantages=advantages, sequence_ratio_mask=mask)
    result = client.forward_backward([given], loss, CONFIG[loss]).result()
    expected = LOGPROB[loss](current.astype(float), sampled.astype(float), advantages.astype(float))
    assert result.metrics["loss:sum"] == pytest.approx(expected, rel=1e-4)
    np.testing.assert_allclose(result.loss_fn_outputs[0]["logprobs"].to_numpy(), current, atol=1e-6)


def test_several_targets_dense_and_sparse(client):
    rng = np.random.default_rng(0)
    targets = rng.integers(6, 90, (12, 3))
    weights = (rng.normal(size=(12, 3)) * (rng.random((12, 3)) < 0.3)).astype(np.float32)
    weights[3] = 0
    dense = datum(1, target_tokens=targets, weights=weights)
    crow = np.concatenate([[0], (weights != 0).sum(1).cumsum()])
    sparse = types.TensorData(weights[weights != 0], "float32", [12, 3], crow, weights.nonzero()[1])
    for given in (dense, datum(1, target_tokens=targets, weights=sparse)):
        result = client.forward([given], "cross_entropy").result()
        logprobs = result.loss_fn_outputs[0]["logprobs"].to_numpy()
        assert logprobs.shape == (12, 3)
        assert result.metrics["loss:sum"] == pytest.approx(-(weights * logprobs).sum(), rel=1e-4)
        for k in range(3):
            (alone,) = logprobs_of(client, [datum(1, target_tokens=targets[:, k])])
            np.testing.assert_allclose(logprobs[:, k], alone, atol=1e-5)


def test_a_custom_loss_is_as_the_one_it_spells(service):
    found = []
    for custom in (False, True):
        client = service.create_lora_training_client("tiny", rank=4, seed=3)
        data = [datum(1), datum(2, 5)]
        for _ in range(3):
            if custom:
                result = client.forward_backward_custom(
                    data, lambda d, lps: (-sum(lp.sum() for lp in lps), {"mine": 2.0})
                )
            else:
                result = client.forward_backward(data, "cross_entropy")
            client.optim_step(ADAM)
        found.append((result.result().metrics["loss:sum"], *logprobs_of(client, data)))
    assert result.result().metrics["mine"] == 2.0
    for one, two in zip(*found, strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-4)


def test_a_custom_loss_that_fails_harms_nobody(client):
    def fails(data, logprobs):
        raise RuntimeError("mine")

    failed = client.forward_backward_custom([datum(1)], fails)
    also = client.forward_backward_custom([datum(1)], lambda data, logprobs: (torch.tensor(1.0), {}))
    after = client.forward_backward([datum(1)], "cross_entropy")
    with pytest.raises(RuntimeError, match="mine"):
        failed.result()
    with pytest.raises(ThumbsError, match="depends on the logprobs"):
        also.result()
    assert after.result().metrics["loss:sum"] > 0


def test_a_sampler_stays_and_its_logprobs_are_those_of_training(client):
    prompt = types.ModelInput.from_ints([7, 8, 9])
    for _ in range(10):
        client.forward_backward([datum(1)], "cross_entropy")
        client.optim_step(ADAM)
    params = types.SamplingParams(max_tokens=6, seed=5, temperature=0.7, stop=[])
    sampler = client.save_weights_and_get_sampling_client()
    path = client.save_weights_for_sampler("now").result().path
    samples = sampler.sample(prompt, 3, params).result()
    assert len({tuple(sequence.tokens) for sequence in samples.sequences}) == 3
    saved = client.service.create_sampling_client(model_path=path).sample(prompt, 3, params).result()
    assert [s.tokens for s in saved.sequences] == [s.tokens for s in samples.sequences]
    whole = [7, 8, 9, *samples.sequences[0].tokens]
    (trained,) = logprobs_of(
        client, [types.Datum(types.ModelInput.from_ints(whole[:-1]), {"target_tokens": whole[1:]})]
    )
    ours = sampler.compute_logprobs(types.ModelInput.from_ints(whole)).result()
    assert ours[0] is None
    np.testing.assert_allclose(ours[1:], trained, atol=2e-5)
    client.forward_backward([datum(2)], "cross_entropy")
    client.optim_step(ADAM)
    again = sampler.sample(prompt, 3, params).result()
    assert [s.tokens for s in again.sequences] == [s.tokens for s in samples.sequences]
    base = (
        client.service.create_sampling_client(base_model="tiny")
        .compute_logprobs(types.ModelInput.from_ints(whole))
        .result()
    )
    assert np.abs(np.array(base[1:]) - trained).max() > 0.05


def test_temperature_stops_and_likeliest_tokens(client):
    sampler = client.save_weights_and_get_sampling_client()
    prompt = types.ModelInput.from_ints([7, 8, 9])
    cold = sampler.sample(prompt, 2, types.SamplingParams(max_tokens=5, temperature=0, stop=[]), topk_sample_logprobs=3)
    sequences = cold.result().sequences
    assert sequences[0].tokens == sequences[1].tokens
    assert [top[0][0] for top in sequences[0].topk_logprobs] == sequences[0].tokens
    stop = sequences[0].tokens[2]
    stopped = (
        sampler.sample(prompt, 1, types.SamplingParams(max_tokens=5, temperature=0, stop=[stop])).result().sequences[0]
    )
    assert stopped.tokens == sequences[0].tokens[: sequences[0].tokens.index(stop) + 1]
    assert (stopped.stop_reason, sequences[0].stop_reason) == ("stop", "length")


@pytest.mark.parametrize("optimizer", [True, False])
def test_resumed_is_as_uninterrupted(service, optimizer):
    client = service.create_lora_training_client("tiny", rank=4, seed=3, train_attn=False, user_metadata={"a": "b"})
    for _ in range(3):
        client.forward_backward([datum(1)], "cross_entropy")
        client.optim_step(ADAM)
    path = client.save_state("three", ttl_seconds=7200).result().path
    create = (
        service.create_training_client_from_state_with_optimizer
        if optimizer
        else service.create_training_client_from_state
    )
    other = create(path)
    assert other.get_info().lora_rank == 4
    np.testing.assert_array_equal(logprobs_of(other, [datum(2)]), logprobs_of(client, [datum(2)]))
    for each in (client, other):
        each.forward_backward([datum(1)], "cross_entropy")
        each.optim_step(ADAM)
    same = np.array_equal(logprobs_of(other, [datum(2)]), logprobs_of(client, [datum(2)]))
    assert same == optimizer
    client.load_state(path).result()
    np.testing.assert_array_equal(logprobs_of(client, [datum(2)]), logprobs_of(create(path), [datum(2)]))
    info = service.create_rest_client().get_weights_info_by_tinker_path(path).result()
    assert (info.base_model, info.lora_rank, info.train_attn, info.train_mlp) == ("tiny", 4, False, True)
    run = service.create_rest_client().get_training_run_by_tinker_path(path).result()
    assert run.user_metadata == {"a": "b"}
    assert run.last_checkpoint is not None
    assert run.last_checkpoint.expires_at is not None


def test_models_beyond_the_limit_wait_on_disk(backend, service):
    """Nine models where four have room: all of them learn as if they were alone."""
    clients = [service.create_lora_training_client("tiny", rank=4, seed=s) for s in range(9)]
    alone = service.create_lora_training_client("tiny", rank=4, seed=8)
    for _ in range(3):
        for seed, client in enumerate(clients):
            client.forward_backward([datum(seed)], "cross_entropy").result()
            client.optim_step(ADAM).result()
    assert backend.waiting()["models"] <= 4
    for _ in range(3):
        alone.forward_backward([datum(8)], "cross_entropy")
        alone.optim_step(ADAM)
    np.testing.assert_array_equal(logprobs_of(clients[8], [datum(1)]), logprobs_of(alone, [datum(1)]))


BAD = {
    "advantages": (datum(1, logprobs=[0.0] * 12), "ppo", {}),
    "datum 1": (datum(1, weights=[1.0]), "cross_entropy", {}),
    "NaN": (datum(1, weights=[float("nan")] * 12), "cross_entropy", {}),
    "ids are 0 to": (datum(1, target_tokens=[10**6] * 12), "cross_entropy", {}),
    "unknown loss_fn 'dpo'": (datum(1), "dpo", {}),
    "clip_low": (datum(1), "cross_entropy", {"clip_low_threshold": 0.8}),
    "context": (datum(1, 5000), "cross_entropy", {}),
}


@pytest.mark.parametrize("said", BAD)
def test_what_is_wrong_is_said_and_the_next_call_works(client, said):
    bad, loss, config = BAD[said]
    failed = client.forward_backward([datum(1), bad], loss, config)
    good = client.forward_backward([datum(1)], "cross_entropy")
    with pytest.raises(ThumbsError, match=said):
        failed.result()
    fresh = client.service.create_lora_training_client("tiny", rank=4, seed=3)
    fresh.forward_backward([datum(1)], "cross_entropy").result()
    assert good.result().metrics["loss:sum"] > 0
    assert client.optim_step(ADAM).result().metrics == fresh.optim_step(ADAM).result().metrics


def test_an_infinite_loss_takes_nothing_with_it(client):
    client.forward_backward([datum(1)], "cross_entropy").result()
    far = datum(1, logprobs=[-3e38] * 12, advantages=[3e38] * 12, weights=None)
    with pytest.raises(ThumbsError, match="loss became"):
        client.forward_backward([far], "importance_sampling").result()
    assert client.optim_step(ADAM).result().metrics["grad_norm"] > 0


def test_a_prompt_that_fills_the_context_has_logprobs_and_no_reply(client):
    """In the same way as the trainer sees its tokens."""
    full = datum(1, length=256)
    assert full.model_input.length == 256
    sampler = client.save_weights_and_get_sampling_client()
    whole = sampler.compute_logprobs(full.model_input).result()
    np.testing.assert_allclose(whole[1:], logprobs_of(client, [full])[0][:-1], atol=1e-4)
    with pytest.raises(ThumbsError, match="context of 256 leaves no room"):
        sampler.sample(full.model_input, 1, types.SamplingParams(max_tokens=2)).result()
    with pytest.raises(ThumbsError, match="context of 256 leaves no room"):
        sampler.compute_logprobs(full.model_input.append_int(1)).result()


def test_what_a_step_tells_fits_beside_a_loops_own_metrics(client):
    """Loops merge these into a row that has their own `step` and `learning_rate`."""
    client.forward_backward([datum(1)], "cross_entropy").result()
    assert client.optim_step(ADAM).result().metrics.keys() == {"grad_norm", "optimizer_step"}
    assert client.optim_step(ADAM).result().metrics["optimizer_step"] == 2.0


def test_one_advantage_goes_to_every_token(client, caplog):
    (q,) = logprobs_of(client, [datum(1)])
    with caplog.at_level(logging.WARNING):
        one = client.forward_backward([datum(1, logprobs=q, advantages=[2.0])], "importance_sampling").result()
    assert one.metrics["loss:sum"] == pytest.approx(-24, rel=1e-4)
    assert "advantages" in caplog.text


def test_unknown_names_are_errors_at_once(service):
    with pytest.raises(ThumbsError, match="supported: tiny"):
        service.create_lora_training_client("nobody/knows")
    with pytest.raises(ThumbsError, match="no checkpoint 'tinker://x/weights/y'"):
        service.create_training_client_from_state("tinker://x/weights/y")
    with pytest.raises(ThumbsError, match="no checkpoint"):
        service.create_sampling_client(model_path="tinker://x/weights/y")


def test_saving_twice_needs_overwrite(client):
    path = client.save_state("s").result().path
    with pytest.raises(ThumbsError, match="overwrite"):
        client.save_state("s").result()
    assert client.save_state("s", overwrite=True).result().path == path
    rest = client.service.create_rest_client()
    rest.delete_checkpoint_from_tinker_path(path).result()
    with pytest.raises(ThumbsError, match="no checkpoint"):
        client.load_state(path).result()


def test_coroutines_await_or_use_the_future(client):
    async def script() -> list[float]:
        first = client.forward_backward_async([datum(1)], "cross_entropy")
        submitted = await client.optim_step_async(ADAM)
        losses = [(await first.result_async()).loss]
        await submitted
        second = await client.forward_backward_async([datum(1)], "cross_entropy")
        losses.append((await second).loss)
        sampler = await client.save_weights_and_get_sampling_client_async()
        params = types.SamplingParams(max_tokens=3)
        asked = [sampler.sample_async(types.ModelInput.from_ints([7, 8]), 1, params) for _ in range(5)]
        for response in await asyncio.gather(*asked):
            assert 1 <= len(response.sequences[0].tokens) <= 3
        return losses

    losses = asyncio.run(script())
    assert losses[1] < losses[0]


def test_a_cancelled_sample_ends(client):
    sampler = client.save_weights_and_get_sampling_client()
    long = sampler.sample(types.ModelInput.from_ints([7]), 4, types.SamplingParams(stop=[]))
    assert long.cancel()
    short = sampler.sample(types.ModelInput.from_ints([7]), 1, types.SamplingParams(max_tokens=2)).result(20)
    assert len(short.sequences) == 1


def test_arrays_may_be_used_again_after_the_call(client):
    tokens = np.arange(6, 18)
    weights = np.ones(12, np.float32)
    expected = client.forward([datum(1, target_tokens=tokens.copy())], "cross_entropy").result()
    futures = [client.forward([datum(1, target_tokens=tokens, weights=weights)], "cross_entropy") for _ in range(3)]
    tokens[:], weights[:] = 7, 0
    for future in futures:
        assert future.result().metrics == expected.metrics


def test_a_checkpoint_of_another_kind_is_refused_in_words(service, client):
    other = service.create_lora_training_client("tiny", rank=8)
    path = other.save_state("other").result().path
    with pytest.raises(ThumbsError, match=r"rank 8, .* than this model \(.*rank 4"):
        client.load_state(path).result()


def test_a_damaged_checkpoint_is_named_as_the_client_knows_it(service, client, backend):
    path = client.save_state("damaged").result().path
    folder = backend.store.checkpoints.get(path).folder
    (folder / "adapter_model.safetensors").write_bytes(b"nothing")
    with pytest.raises(ThumbsError, match="damaged") as caught:
        client.load_state(path).result()
    assert str(folder) not in str(caught.value)


def test_saving_and_loading_wait_for_a_database_that_is_away(client, backend, monkeypatch):
    """The second try of a save finds that the first one came through, and only its answer was lost."""
    store, times = backend.store, Counter()

    def away(part, name, after):
        original = getattr(part, name)

        def call(*args, **options):
            times[name] += 1
            if times[name] in after:
                raise OperationalError("a query", {}, Exception("the database is away"))
            found = original(*args, **options)
            if -times[name] in after:
                raise OperationalError("a query", {}, Exception("the answer was lost"))
            return found

        monkeypatch.setattr(part, name, call)

    away(store.checkpoints, "_commit", {1, -2})
    path = client.save_state("patient").result().path
    assert times["_commit"] == 2
    away(store, "run", {1, 2})
    assert client.load_state(path).result().path == path
    assert times["run"] > 2


def test_passes_that_wait_are_bounded(client, monkeypatch):
    monkeypatch.setattr(client.service.backend._quota, "most", 100)
    taken, refused = [], 0
    for _ in range(40):
        try:
            taken.append(client.forward_backward([datum(1, 60)], "cross_entropy"))
        except FullError:
            refused += 1
    assert refused > 0
    for future in taken:
        future.result()
    assert client.forward_backward([datum(1, 60), datum(2, 60)], "cross_entropy").result().loss > 0


def test_samplers_of_checkpoints_outlive_the_process(tmp_path):
    folder = save_tiny_chat_model(tmp_path / "model")
    models, prompt = {"tiny": ModelConfig(name=str(folder), dtype="float32")}, types.ModelInput.from_ints([7, 8])
    params, drawn = types.SamplingParams(max_tokens=5, seed=1), []
    first = Backend(Store(tmp_path / "store"), models)
    service = ServiceClient(backend=first)
    client = service.create_lora_training_client("tiny", rank=4)
    client.forward_backward([datum(1)], "cross_entropy")
    client.optim_step(ADAM)
    saved = service.create_sampling_client(client.save_weights_for_sampler("s").result().path)
    unsaved = client.save_weights_and_get_sampling_client()
    drawn.append(saved.sample(prompt, 2, params).result())
    first.close()
    second = Backend(Store(tmp_path / "store"), models)
    drawn.append(second.samplers.sample(saved.sampler_id, SampleCall(prompt, 2, params)).result())
    assert [[s.tokens for s in each.sequences] for each in drawn[:1]] == [[s.tokens for s in drawn[1].sequences]]
    with pytest.raises(ThumbsError, match="is gone"):
        second.samplers.sample(unsaved.sampler_id, SampleCall(prompt, 1, params))
    second.store.finish_session(service.session_id, "success")
    second.samplers.close(saved.sampler_id)
    with pytest.raises(ThumbsError, match="is gone"):
        second.samplers.sample(saved.sampler_id, SampleCall(prompt, 1, params))
    second.close()
