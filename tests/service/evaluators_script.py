"""Evaluates a served model with lm-evaluation-harness and inspect-ai, in an environment that has them.

Prints what they make of the server's replies, and what the harness makes of the same weights in process.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from inspect_ai import Task, eval  # type: ignore[import-not-found]
from inspect_ai.dataset import Sample  # type: ignore[import-not-found]
from inspect_ai.model import GenerateConfig, get_model  # type: ignore[import-not-found]
from inspect_ai.scorer import includes  # type: ignore[import-not-found]
from lm_eval.api.instance import Instance  # type: ignore[import-not-found]
from lm_eval.models.huggingface import HFLM  # type: ignore[import-not-found]
from lm_eval.models.openai_completions import (  # type: ignore[import-not-found]
    LocalChatCompletion,
    LocalCompletionsAPI,
)


def _requests(kind: str, arguments: list[Any]) -> list[Any]:
    return [Instance(kind, {}, tuple(each), number) for number, each in enumerate(arguments)]


def harness(url: str, model: str, folder: str, given: dict[str, Any]) -> dict[str, Any]:
    """Log-likelihoods with tokens, texts and several prompts a request; and greedy replies of both APIs."""
    here = HFLM(pretrained=folder, device="cpu", dtype="float32", batch_size=1, max_length=given["context"])
    pairs, texts = _requests("loglikelihood", given["pairs"]), _requests("loglikelihood_rolling", given["texts"])
    found: dict[str, Any] = {"in process": [here.loglikelihood(pairs), here.loglikelihood_rolling(texts)]}
    shared = {"model": model, "tokenizer": folder, "max_length": given["context"], "max_retries": 1}
    for name, options in {"tokens": {}, "texts": {"tokenized_requests": False}, "several": {"batch_size": 4}}.items():
        served = LocalCompletionsAPI(
            base_url=f"{url}/v1/completions", tokenizer_backend="huggingface", **shared, **options
        )
        rolling = served.loglikelihood_rolling(texts) if name != "texts" else []
        found[name] = [served.loglikelihood(pairs if rolling else pairs[:-1]), rolling]
    settings = {"until": ["\n", "zzz"], "max_gen_toks": 8, "do_sample": False, "temperature": 0.0}
    asked = _requests("generate_until", [(context, settings) for context, _ in given["pairs"][:2]])
    found["completions"] = served.generate_until(asked)
    found["completions here"] = here.generate_until(asked)
    chat = LocalChatCompletion(model=model, base_url=f"{url}/v1/chat/completions", max_retries=1)
    turns = [[{"role": "user", "content": context}] for context, _ in given["pairs"][:2]]
    asked = _requests("generate_until", [(chat.apply_chat_template(turn), settings) for turn in turns])
    found["chats"] = chat.generate_until(asked)
    return found


def inspect(url: str, model: str, folder: Path) -> dict[str, Any]:
    """A reply with logprobs, and a task with a scorer."""
    settings = GenerateConfig(max_tokens=8, temperature=0.0, logprobs=True, top_logprobs=2, seed=1, stop_seqs=["zzz"])
    served = get_model(f"openai-api/thumbs/{model}", base_url=f"{url}/v1", api_key="local", config=settings)
    reply = asyncio.run(served.generate("Hello"))
    rows = [row.model_dump() for row in reply.choices[0].logprobs.content]
    task = Task(dataset=[Sample(input="Hello", target=reply.completion)], scorer=includes())
    log = eval(task, model=served, log_dir=str(folder), display="none")[0]
    score = log.results.scores[0].metrics["accuracy"].value
    return {"reply": reply.completion, "rows": rows, "usage": reply.usage.total_tokens, "score": score}


def main() -> None:
    url, model, folder, scratch, given = sys.argv[1:]
    found = harness(url, model, folder, json.loads(given)) | {"inspect": inspect(url, model, Path(scratch))}
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main()
