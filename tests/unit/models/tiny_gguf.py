"""A random two-layer model and a small byte-level BPE, written as llama.cpp's converter would write them."""

import json
from pathlib import Path

import numpy as np
import torch
from gguf import GGUFWriter
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, LlamaConfig, PretrainedConfig, Qwen2Config, Qwen3Config

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TEXT = ["the cat sat on the mat, and the hat of the cat was flat. in 2024 it's there: naïve café\n\n  code"] * 20
SHAPE = {
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "rope_parameters": {"rope_type": "default", "rope_theta": 50_000.0},
    "pad_token_id": None,
}
CONFIGS = {
    "tied Llama": LlamaConfig(**SHAPE, tie_word_embeddings=True),
    "Llama": LlamaConfig(**SHAPE, tie_word_embeddings=False),
    "Qwen2": Qwen2Config(**SHAPE, tie_word_embeddings=False),
    "Qwen3": Qwen3Config(**SHAPE, tie_word_embeddings=True),
}
NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "model.layers": "blk",
}


def random_model(config: PretrainedConfig) -> torch.nn.Module:
    """Weights that bfloat16 holds exactly; norms and biases random too, so that a swap would show."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.randn(weight.shape).mul(0.2).bfloat16().float())
    return model.eval()


def small_tokenizer() -> Tokenizer:
    """SmolLM2's way to cut text, with its three first special tokens and a few merges."""
    tokenizer = Tokenizer(models.BPE())
    digits = pre_tokenizers.Digits(individual_digits=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [digits, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=SHAPE["vocab_size"], special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    return tokenizer


def interleave(weight: np.ndarray, heads: int) -> np.ndarray:
    """llama.cpp's order of the rows of a Llama query or key projection, one row at a time."""
    width = len(weight) // heads
    result = np.empty_like(weight)
    for head in range(heads):
        for pair in range(width // 2):
            for half in range(2):
                result[head * width + 2 * pair + half] = weight[head * width + half * (width // 2) + pair]
    return result


def write_gguf(path: Path, model: torch.nn.Module | None = None, **changes) -> Path:
    """Writes `model` (a tied Llama when None); `changes` replaces fields, None leaves one out."""
    model = model or random_model(LlamaConfig(**SHAPE, tie_word_embeddings=True))
    config, tokenizer = model.config, small_tokenizer()
    arch = config.model_type
    tokens = [tokenizer.id_to_token(i) for i in range(tokenizer.get_vocab_size())]
    merges = [" ".join(m) for m in json.loads(tokenizer.to_str())["model"]["merges"]]
    fields = {
        "general.architecture": arch,
        f"{arch}.context_length": config.max_position_embeddings,
        f"{arch}.embedding_length": config.hidden_size,
        f"{arch}.feed_forward_length": config.intermediate_size,
        f"{arch}.block_count": config.num_hidden_layers,
        f"{arch}.attention.head_count": config.num_attention_heads,
        f"{arch}.attention.head_count_kv": config.num_key_value_heads,
        f"{arch}.attention.key_length": 8,
        f"{arch}.attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        f"{arch}.rope.freq_base": config.rope_parameters["rope_theta"],
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3 if t in SPECIAL else 1 for t in tokens],
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.padding_token_id": 2,
        "tokenizer.chat_template": "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}{% endfor %}",
    } | changes
    writer = GGUFWriter(path, fields.pop("general.architecture"))
    for key, value in fields.items():
        add_field(writer, key, value)
    for name, weight in model.state_dict().items():
        if name != "lm_head.weight" or not config.tie_word_embeddings:
            writer.add_tensor(gguf_name(name), llama_cpp_order(name, weight.numpy(), config))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def add_field(writer: GGUFWriter, key: str, value) -> None:
    match value:
        case str():
            writer.add_string(key, value)
        case int():
            writer.add_uint32(key, value)
        case float():
            writer.add_float32(key, value)
        case list():
            writer.add_array(key, value)


def gguf_name(name: str) -> str:
    for ours, theirs in NAMES.items():
        name = name.replace(ours, theirs)
    return name


def llama_cpp_order(name: str, weight: np.ndarray, config: PretrainedConfig) -> np.ndarray:
    if config.model_type == "llama" and "q_proj" in name:
        return interleave(weight, config.num_attention_heads)
    if config.model_type == "llama" and "k_proj" in name:
        return interleave(weight, config.num_key_value_heads)
    return np.ascontiguousarray(weight)
