"""vLLM's CPU engine, compiled."""

from __future__ import annotations

import os

os.environ |= {"VLLM_LOGGING_LEVEL": "ERROR", "VLLM_CPU_KVCACHE_SPACE": "2", "VLLM_USE_V1": "1"}

from turns import Turns
from vllm import LLM, SamplingParams


def main() -> None:
    turns = Turns("vllm-cpu", "torch", "transformers")
    job = turns.job
    prompts = [[r["ids"] for r in batch] for batch in job["batches"]]
    llm = LLM(
        job["model"],
        dtype=job["dtype"],
        max_model_len=1024,
        max_num_seqs=max(map(len, prompts)),
        enable_prefix_caching=False,
        seed=0,
    )
    params = SamplingParams(
        temperature=1.0, top_p=1.0, top_k=0, max_tokens=job["new_tokens"], min_tokens=job["new_tokens"]
    )
    turns.ready()
    while True:
        turn = turns.next()
        requests = [{"prompt_token_ids": ids} for ids in prompts[turn]]
        found = llm.generate(requests, params, use_tqdm=False)
        turns.done(tokens=sum(len(answer.outputs[0].token_ids) for answer in found))


if __name__ == "__main__":
    main()
