"""`generate` of transformers, and its continuous batching."""

from __future__ import annotations

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig
from turns import Turns

turns = Turns("transformers", "torch")
job = turns.job
tokenizer = AutoTokenizer.from_pretrained(job["model"], padding_side="left")
tokenizer.pad_token = job["pad_token"]
model = AutoModelForCausalLM.from_pretrained(job["model"], dtype=getattr(torch, job["dtype"])).to(job["device"]).eval()
new = job["new_tokens"]
sampling = GenerationConfig(
    max_new_tokens=new,
    min_new_tokens=new,
    do_sample=True,
    temperature=1.0,
    top_k=0,
    top_p=1.0,
    pad_token_id=tokenizer.pad_token_id,
    cache_implementation=job.get("cache"),
    eos_token_id=None if job["kind"] == "continuous" else model.generation_config.eos_token_id,
)
if job.get("compile"):
    model.forward = torch.compile(model.forward)


@torch.no_grad()
def generate(prompts: list[list[int]]) -> int:
    batch = tokenizer.pad({"input_ids": prompts}, return_tensors="pt").to(model.device)
    out = model.generate(**batch, generation_config=sampling)
    return int(out.shape[0] * (out.shape[1] - batch["input_ids"].shape[1]))


def continuous(prompts: list[list[int]]) -> int:
    found = model.generate_batch(inputs=prompts, generation_config=sampling, progress_bar=False)
    return sum(len(output.generated_tokens) for output in found.values())


work = {"decode": generate, "continuous": continuous}[job["kind"]]
turns.ready()
while True:
    turn = turns.next()
    turns.done(tokens=work([r["ids"] for r in job["batches"][turn]]))
