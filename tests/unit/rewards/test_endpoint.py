"""A judge at an OpenAI-compatible service: what it is asked, what its answers mean, and that they are kept."""

from __future__ import annotations

import http.client
import json
import math
import threading
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from thumbs.errors import ConfigError, RewardError
from thumbs.records import Message
from thumbs.rewards.endpoint import CERTAIN, EndpointAnswers, KeptAnswers, read_odds
from thumbs.rewards.judge import Judge


class Service:
    """A chat service that likes the reply with the word `kind`, and a little what it reads first."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.failures: list[tuple[int, str]] = []
        self.probabilities = True
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                service.asked.append(body)
                service.keys.append(self.headers.get("Authorization"))
                status, answer = service.failures.pop(0) if service.failures else (200, service.answer(body))
                self.send_response(status)
                self.end_headers()
                self.wfile.write(answer.encode())

            def log_message(self, *_: Any) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"

    def answer(self, body: dict[str, Any]) -> str:
        question = body["messages"][0]["content"]
        lead = 2.0 * ("kind" in question.partition("Reply B:")[0]) - 2.0 * ("kind" in question.partition("Reply B:")[2])
        p = 1 / (1 + math.exp(-lead - 1.0))
        top = [{"token": "A", "logprob": math.log(p)}, {"token": " B", "logprob": math.log(1 - p)}]
        choice: dict[str, Any] = {"message": {"role": "assistant", "content": "A." if p > 0.5 else "B"}}
        if self.probabilities and body.get("logprobs"):
            choice["logprobs"] = {"content": [{"token": "A", "logprob": math.log(p), "top_logprobs": top}]}
        return json.dumps({"choices": [choice]})


@pytest.fixture
def service() -> Iterator[Service]:
    made = Service()
    thread = threading.Thread(target=made.server.serve_forever)
    thread.start()
    yield made
    made.server.shutdown()
    thread.join()
    made.server.server_close()


PAIR = ((Message("user", "q"),), "kind words", "other words")


def test_both_orders_by_the_probabilities_of_the_service(service: Service, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MY_KEY", "secret")
    judge = Judge(EndpointAnswers(service.url, "big", "MY_KEY"), "big")
    ((first, second),) = judge.both_orders([PAIR])
    assert (first, second) == pytest.approx((1 / (1 + math.exp(-3)), 1 / (1 + math.exp(-1))), abs=1e-6)
    assert {body["model"] for body in service.asked} == {"big"}
    assert {body["temperature"] for body in service.asked} == {0}
    assert service.keys == ["Bearer secret"] * 2


def test_without_probabilities_the_word_decides(service: Service):
    service.probabilities = False
    assert EndpointAnswers(service.url, "m").log_odds(["kind Reply B:", "Reply B: kind"], "A", "B") == [
        CERTAIN,
        -CERTAIN,
    ]


def test_a_service_that_knows_no_logprobs_is_asked_without(service: Service):
    service.failures = [(400, '{"error": "logprobs is not supported"}')]
    assert EndpointAnswers(service.url, "m").log_odds(["kind Reply B:"], "A", "B") == [CERTAIN]
    assert [("logprobs" in body, "top_logprobs" in body) for body in service.asked] == [(True, True), (False, False)]


def test_a_service_that_is_busy_is_asked_again_and_one_that_refuses_is_not(service: Service):
    service.failures = [(429, "slow down"), (503, "down")]
    assert EndpointAnswers(service.url, "m", wait_s=0.0).log_odds(["kind Reply B:"], "A", "B")[0] > 0
    assert len(service.asked) == 3
    service.failures = [(401, "no key")]
    with pytest.raises(ConfigError, match="refused the judge's question \\(401\\): no key"):
        EndpointAnswers(service.url, "m", wait_s=0.0).log_odds(["q"], "A", "B")
    service.failures = [(500, "broken")] * 9
    with pytest.raises(RewardError, match="no answer in 5 tries \\(500: broken\\)"):
        EndpointAnswers(service.url, "m", wait_s=0.0).log_odds(["q"], "A", "B")


@pytest.mark.parametrize(
    ("choice", "odds"),
    [
        ({"message": {"content": "A"}}, CERTAIN),
        ({"message": {"content": " **B**. It is shorter."}}, -CERTAIN),
        ({"message": {"content": "Both are fine."}}, None),
        ({"message": {"content": None}}, None),
        ({}, None),
        ({"logprobs": "none", "message": {"content": ["A"]}}, None),
        ({"logprobs": {"content": [{"top_logprobs": [{"token": "A"}]}]}, "message": {"content": "B"}}, -CERTAIN),
        ({"logprobs": {"content": [{"top_logprobs": [{"token": "A", "logprob": math.nan}]}]}}, None),
        ({"logprobs": {"content": [{"top_logprobs": [{"token": "A", "logprob": 900.0}]}]}}, None),
        ({"logprobs": {"content": []}, "message": {"content": "(B)"}}, -CERTAIN),
        ({"logprobs": {"content": [{"top_logprobs": [{"token": "A", "logprob": math.log(0.9)}]}]}}, math.log(9)),
        (
            {"logprobs": {"content": [{"top_logprobs": [
                {"token": "A", "logprob": math.log(0.5)}, {"token": " A", "logprob": math.log(0.3)},
                {"token": "B", "logprob": math.log(0.1)}, {"token": "The", "logprob": math.log(0.05)},
            ]}]}},
            math.log(8),
        ),
        (
            {"logprobs": {"content": [{"top_logprobs": [
                {"token": "A", "logprob": math.log(0.9)}, {"token": "The", "logprob": math.log(0.01)},
            ]}]}},
            math.log(90),
        ),
    ],
)  # fmt: skip
def test_what_an_answer_means(choice: dict[str, Any], odds: float | None):
    assert read_odds(choice, "A", "B") == (None if odds is None else pytest.approx(odds))


def test_unclear_answers_are_ties_and_counted(service: Service, caplog: pytest.LogCaptureFixture):
    service.failures = [(200, '{"choices": [{"message": {"content": "Neither."}}]}')]
    assert EndpointAnswers(service.url, "m").log_odds(["q"], "A", "B") == [0.0]
    assert "1 of 1 answers were neither A nor B" in caplog.text


def test_a_service_that_never_says_either_word_is_no_judge(service: Service):
    service.failures = [(200, '{"choices": [{"message": {"content": "I am a teapot."}}]}')] * 8
    with pytest.raises(RewardError, match=r"none of 8 answers was A or B .*teapot"):
        EndpointAnswers(service.url, "m").log_odds([f"q{i}" for i in range(8)], "A", "B")


@pytest.mark.parametrize("said", ["<html>", "[]", '{"choices": []}', '{"choices": ["A"]}', '{"choices": [{}]}'])
def test_what_is_no_answer_is_asked_again_and_then_named(service: Service, said: str):
    service.failures = [(200, said)] * 5
    with pytest.raises(RewardError, match="gave no answer in 5 tries"):
        EndpointAnswers(service.url, "m", wait_s=0.0).log_odds(["q"], "A", "B")
    assert len(service.asked) == 5


def test_a_connection_that_breaks_off_is_tried_again(service: Service, monkeypatch: pytest.MonkeyPatch):
    breaks = [http.client.IncompleteRead(b"{"), http.client.BadStatusLine("SSH-2.0"), TimeoutError("slow")]
    real = urllib.request.urlopen

    def urlopen(*args: Any, **settings: Any) -> Any:
        if breaks:
            raise breaks.pop()
        return real(*args, **settings)

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    assert EndpointAnswers(service.url, "m", wait_s=0.0).log_odds(["kind Reply B:"], "A", "B")[0] > 0


def test_what_was_answered_is_not_asked_again(service: Service, tmp_path: Path):
    def kept(name: str = "m") -> KeptAnswers:
        return KeptAnswers(EndpointAnswers(service.url, name, wait_s=0.0), tmp_path / "answers.jsonl", name)

    first = kept().log_odds(["one Reply B:", "kind Reply B:", "one Reply B:"], "A", "B")
    assert len(service.asked) == 2
    with (tmp_path / "answers.jsonl").open("a") as file:
        file.write('{"key": "torn')
    assert kept().log_odds(["kind Reply B:", "one Reply B:"], "A", "B") == [first[1], first[0]]
    assert len(service.asked) == 2
    kept("other").log_odds(["kind Reply B:"], "A", "B")
    kept().log_odds(["kind Reply B:"], "Yes", "No")
    assert len(service.asked) == 4


def test_answers_before_a_failure_are_kept(service: Service, tmp_path: Path):
    kept = KeptAnswers(EndpointAnswers(service.url, "m", wait_s=0.0), tmp_path / "a.jsonl", "m", batch=1)
    service.failures = [(200, service.answer({"messages": [{"content": "x"}]})), *[(500, "x")] * 5]
    with pytest.raises(RewardError):
        kept.log_odds(["1", "2"], "A", "B")
    assert len((tmp_path / "a.jsonl").read_text().splitlines()) == 1
