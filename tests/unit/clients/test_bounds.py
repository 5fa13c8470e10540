"""What one request may ask for and what may wait, at the bound and one above it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Future

import numpy as np
import pytest

from thumbs.clients import sample_call, translate, types
from thumbs.clients.backend import Backend
from thumbs.clients.sampling import FullError
from thumbs.clients.service_client import ServiceClient
from thumbs.clients.store import Store
from thumbs.config.model import ModelConfig
from thumbs.errors import DataError
from thumbs.models.byte_lm import byte_shape
from thumbs.rollout.sampler import DecodingParams, SampleRequest
from thumbs.rollout.scheduler import SampleJob, Scheduler

VOCABULARY = byte_shape("byte-tiny").vocab_size
PROMPT = types.ModelInput.from_ints([72, 105, 33])


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceClient]:
    store = Store(tmp_path_factory.mktemp("store"))
    backend = Backend(store, {"b": ModelConfig(name="byte-tiny", dtype="float32")})
    with ServiceClient(backend=backend) as client:
        yield client
    backend.close()
    store.close()


def ask(service: ServiceClient, count: int = 1, tokens: int = 2, stop: object = None, **wanted: object) -> object:
    client = service.create_sampling_client(base_model="b")
    params = types.SamplingParams(max_tokens=tokens, seed=1, stop=[] if stop is None else stop)
    return client.sample(PROMPT, count, params, **wanted).result()


def test_samples_times_tokens(service: ServiceClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sample_call, "MOST_SAMPLE_TOKENS", 12)
    assert len(ask(service, 4, 3).sequences) == 4
    for count, tokens in ((13, 1), (5, 3)):
        with pytest.raises(DataError, match=f"num_samples {count} of max_tokens {tokens}"):
            ask(service, count, tokens)


def test_likeliest_tokens_of_samples(service: ServiceClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sample_call, "MOST_TOP_CELLS", 12)
    top = ask(service, 2, 2, topk_sample_logprobs=3).sequences[0].topk_logprobs_np
    assert top.token_ids.shape == (2, 3)
    with pytest.raises(DataError, match="topk_sample_logprobs 4"):
        ask(service, 2, 2, topk_sample_logprobs=4)


def test_likeliest_tokens_of_a_prompt(service: ServiceClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sample_call, "MOST_TOP_CELLS", 12)
    assert ask(service, topk_prompt_logprobs=4).topk_prompt_logprobs_np.token_ids.shape == (3, 4)
    with pytest.raises(DataError, match="topk_prompt_logprobs 5"):
        ask(service, topk_prompt_logprobs=5)


@pytest.mark.parametrize("asked", [VOCABULARY, VOCABULARY + 1, 10**8, 2**62])
def test_no_more_likeliest_tokens_than_there_are(service: ServiceClient, asked: int) -> None:
    """A request of two hundred bytes took gigabytes: a table as wide as was asked for."""
    answer = ask(service, topk_sample_logprobs=asked, topk_prompt_logprobs=asked)
    assert answer.sequences[0].topk_logprobs_np.token_ids.shape == (2, VOCABULARY)
    assert answer.topk_prompt_logprobs_np.token_ids.shape == (3, VOCABULARY)
    assert len(answer.topk_prompt_logprobs[1]) == VOCABULARY


def test_the_real_bound_refuses_what_would_take_gigabytes(service: ServiceClient) -> None:
    with pytest.raises(DataError, match="topk_sample_logprobs"):
        ask(service, 4096, 100, topk_sample_logprobs=10**8)


@pytest.mark.parametrize("name", ["topk_sample_logprobs", "topk_prompt_logprobs", "prompt_alt_tokens_k"])
def test_negative_counts(service: ServiceClient, name: str) -> None:
    with pytest.raises(DataError, match=f"{name} is -1"):
        ask(service, **{name: -1})


def test_stops(service: ServiceClient) -> None:
    most, long = sample_call.MOST_STOPS, sample_call.MOST_STOP_BYTES
    ask(service, stop=[f"stop {i}" for i in range(most)])
    ask(service, stop=[300] * most)
    ask(service, stop=["é" * (long // 2)])
    for stops in ([f"stop {i}" for i in range(most + 1)], [300] * (most + 1)):
        with pytest.raises(DataError, match=f"stop has {most + 1} entries"):
            ask(service, stop=stops)
    with pytest.raises(DataError, match=f"longer than {long} bytes"):
        ask(service, stop=["é" * (long // 2) + "a"])


def test_chosen_and_drawn_tokens_of_a_prompt(service: ServiceClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sample_call, "MOST_PROMPT_CELLS", 6)
    ids = np.zeros((2, 3), np.int64)
    assert ask(service, target_prompt_logprobs=types.TensorData.from_numpy(ids)).target_prompt_logprobs.shape == [2, 3]
    assert ask(service, prompt_alt_tokens_k=2).prompt_alt_tokens.tokens.shape == [2, 2]
    wide = types.TensorData([1], "int64", [2, 4], [0, 1, 1], [0])  # sparse: two numbers, and eight once it is dense
    with pytest.raises(DataError, match="target_prompt_logprobs asks for 8"):
        ask(service, target_prompt_logprobs=wide)
    with pytest.raises(DataError, match="prompt_alt_tokens_k asks for 9"):
        ask(service, prompt_alt_tokens_k=3)


def test_what_waits_is_bounded_in_tokens(service: ServiceClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service.backend.samplers.quota, "most", 20)
    client, go_on = service.create_sampling_client(base_model="b"), threading.Event()
    held = service.backend._worker.submit("held", lambda: _hold(go_on))
    params = types.SamplingParams(max_tokens=7, seed=1, stop=[])
    waiting = [client.sample(PROMPT, 1, params), client.sample(PROMPT, 1, params)]  # of ten tokens each
    with pytest.raises(FullError, match="20 tokens wait"):
        client.sample(PROMPT, 1, params)
    go_on.set()
    held.result()
    assert [len(each.result().sequences[0].tokens) for each in waiting] == [7, 7]
    client.sample(PROMPT, 9, params).result()  # alone, whatever its size


def test_what_waits_is_bounded_in_requests(service: ServiceClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service.backend.samplers, "max_queued", 2)
    client, go_on = service.create_sampling_client(base_model="b"), threading.Event()
    held = service.backend._worker.submit("held", lambda: _hold(go_on))
    params = types.SamplingParams(max_tokens=1, seed=1, stop=[])
    waiting = [client.sample(PROMPT, 1, params), client.sample(PROMPT, 1, params)]
    with pytest.raises(FullError, match="2 requests for samples wait already"):
        client.sample(PROMPT, 1, params)
    go_on.set()
    held.result()
    assert [len(each.result().sequences) for each in waiting] == [1, 1]
    assert client.sample(PROMPT, 1, params).result()


def _hold(go_on: threading.Event):
    go_on.wait()
    yield


def test_what_waits_has_drawn_nothing() -> None:
    """The numbers that samples are drawn with took gigabytes while they waited."""
    scheduler, job = (
        Scheduler(),
        SampleJob(SampleRequest([1], DecodingParams(10**6, ()), range(4096)), "c", None, 0, Future()),
    )
    scheduler.add(job)
    assert sum(row.u.nbytes for row in job.rows) == 0
    assert len(scheduler.admit([])) == len(job.rows) == 1  # longer than the cache, so it decodes alone


def test_targets_of_a_position(service: ServiceClient) -> None:
    client = service.create_lora_training_client("b", rank=2)

    def run(wide: int) -> object:
        row = types.TensorData([5], "int64", [2, wide], [0, 1, 1], [0])
        weights = types.TensorData([1.0], "float32", [2, wide], [0, 1, 1], [0])
        datum = types.Datum(types.ModelInput.from_ints([1, 2]), {"target_tokens": row, "weights": weights})
        return client.forward_backward([datum], "cross_entropy").result()

    run(VOCABULARY)
    with pytest.raises(DataError, match="more tokens per position than the vocabulary"):
        run(VOCABULARY + 1)


def test_every_target_of_a_pass_counts() -> None:
    """K targets a position take K times the room of one."""
    tokens = np.array([1, 2, 3])
    one = translate.Example(tokens, tokens, {"weights": np.ones(3, np.float32)})
    five = translate.Example(tokens, np.ones((3, 5), np.int64), {"weights": np.ones((3, 5), np.float32)})
    assert translate.cells([one, five]) == 3 + 15


def test_a_loss_input_that_is_not_known_is_refused(service: ServiceClient) -> None:
    """cross_entropy with `weight` would weigh every token alike, without a word."""
    client = service.create_lora_training_client("b", rank=2)
    inputs = {"target_tokens": [2, 3], "weights": [1.0, 0.0]}
    model_input = types.ModelInput.from_ints([1, 2])
    client.forward_backward([types.Datum(model_input, {**inputs, "mask": [1.0, 1.0]})], "cross_entropy").result()
    wrong = types.Datum(model_input, {"target_tokens": [2, 3], "weight": [1.0, 0.0]})
    with pytest.raises(DataError, match=r"'weight'.*are not known; cross_entropy reads .*weights"):
        client.forward_backward([wrong], "cross_entropy").result()


def test_stable_reinforce_says_what_to_set_instead(service: ServiceClient) -> None:
    client = service.create_lora_training_client("b", rank=2)
    datum = types.Datum(types.ModelInput.from_ints([1]), {"target_tokens": [2]})
    with pytest.raises(DataError, match="importance_sampling"):
        client.forward_backward([datum], "stable_reinforce").result()


def test_a_byte_model_has_a_tokenizer_as_transformers_loads_it(service: ServiceClient) -> None:
    client = service.create_lora_training_client("b", rank=2)
    tokenizer = client.get_tokenizer()
    for text in ("Hi!", "日本 é", ""):
        expected = list(text.encode())
        assert tokenizer.encode(text, add_special_tokens=True) == tokenizer.encode(text) == expected
        assert tokenizer.decode(expected) == text
    assert tokenizer.eos_token_id == 259
    folder = service.backend.bases["b"].tokenizer_folder
    assert (folder / "tokenizer.json").is_file()  # what the hub routes give out
    assert client.get_info().model_data.tokenizer_id == str(folder)
