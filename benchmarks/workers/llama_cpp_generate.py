"""llama.cpp, by its C interface: all rows in one batch, each drawn from with llama.cpp's own sampler.

The weights are the same as everybody's, written into a GGUF file once per format: as they are, in float16, in float32,
and in 8 bits with a scale per 32 numbers.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import llama_cpp as lib
import numpy as np
from turns import Turns

turns = Turns("llama-cpp-python")
job = turns.job
NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def gguf_file(folder: Path, weights: str) -> Path:
    """The model of a Hugging Face folder with bfloat16 weights as a GGUF file without a tokenizer; written once."""
    path = Path(__file__).parent.parent / ".environments" / "llama_cpp" / f"{folder.name}-{weights}.gguf"
    kind = gguf.GGMLQuantizationType[weights.upper()]
    if path.exists():
        return path
    config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    partial = path.with_suffix(".part")
    writer = gguf.GGUFWriter(partial, "llama")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("none")
    data = np.memmap(folder / "model.safetensors", dtype=np.uint8, mode="r")
    begin = 8 + int(data[:8].view(np.uint64)[0])
    for name, about in json.loads(bytes(data[8:begin])).items():
        if name == "__metadata__":
            continue
        start, stop = (begin + offset for offset in about["data_offsets"])
        tensor = data[start:stop].view(np.uint16).reshape(about["shape"])
        for projection, count in (("q_proj", heads), ("k_proj", kv_heads)):
            if projection in name:  # llama.cpp rotates neighbours, Hugging Face halves
                tensor = tensor.reshape(count, 2, -1, tensor.shape[1]).swapaxes(1, 2).reshape(tensor.shape)
        numbers = (tensor.astype(np.uint32) << 16).view(np.float32)
        if tensor.ndim == 1:  # norms are kept in float32
            writer.add_tensor(named(name), numbers)
        else:
            writer.add_tensor(named(name), gguf.quants.quantize(numbers, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return partial.rename(path)


def named(name: str) -> str:
    """llama.cpp's name of a tensor."""
    stem = name.removesuffix(".weight")
    if stem.startswith("model.layers."):
        _, _, layer, rest = stem.split(".", 3)
        return f"blk.{layer}.{NAMES[rest]}.weight"
    return f"{NAMES[stem]}.weight"


def generate(prompts: list[list[int]]) -> int:
    """New tokens of all rows, at temperature 1 from the whole vocabulary."""
    lib.llama_memory_clear(lib.llama_get_memory(context), True)
    samplers = [lib.llama_sampler_init_dist(seed) for seed in range(len(prompts))]
    entries = [(token, place, row) for row, prompt in enumerate(prompts) for place, token in enumerate(prompt)]
    decode(entries, [place == len(prompts[row]) - 1 for _, place, row in entries])
    last = np.cumsum([len(prompt) for prompt in prompts]) - 1
    for step in range(job["new_tokens"]):
        drawn = [lib.llama_sampler_sample(s, context, int(i)) for s, i in zip(samplers, last, strict=True)]
        if step + 1 < job["new_tokens"]:
            places = [len(prompt) + step for prompt in prompts]
            decode(list(zip(drawn, places, range(len(prompts)), strict=True)), [True] * len(prompts))
            last = np.arange(len(prompts))
    for sampler in samplers:
        lib.llama_sampler_free(sampler)
    return len(prompts) * job["new_tokens"]


def decode(entries: list[tuple[int, int, int]], wanted: list[bool]) -> None:
    """Runs (token, position, row) through the model; logits where wanted."""
    batch.n_tokens = len(entries)
    for i, (token, place, row) in enumerate(entries):
        batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.logits[i] = token, place, 1, wanted[i]
        batch.seq_id[i][0] = row
    if lib.llama_decode(context, batch):
        raise RuntimeError("llama_decode failed")


rows = max(len(batch) for batch in job["batches"])
prompt_tokens = max(sum(len(row["ids"]) for row in batch) for batch in job["batches"])
lib.llama_backend_init()
model = lib.llama_model_load_from_file(
    str(gguf_file(Path(job["model"]), job.get("weights", "bf16"))).encode(), lib.llama_model_default_params()
)
settings = lib.llama_context_default_params()
settings.n_ctx = prompt_tokens + rows * (job["new_tokens"] + 8)
settings.n_batch = prompt_tokens
settings.n_seq_max = rows
settings.kv_unified = False
settings.n_threads = settings.n_threads_batch = job["threads"]
context = lib.llama_init_from_model(model, settings)
batch = lib.llama_batch_init(prompt_tokens, 0, 1)
turns.ready()
while True:
    turn = turns.next()
    turns.done(tokens=generate([r["ids"] for r in job["batches"][turn]]))
