"""The models, replies and rewards on which TRL 0.11.4 and our layer are compared: torch and safetensors alone, so that
both environments make the same ones.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

VOCABULARY, WIDTH, LAYERS, HEADS, KV_HEADS, INNER, POSITIONS = 97, 32, 2, 4, 2, 48, 64
BATCH = 8
STEPS = 10
SHARED = {"batch_size": BATCH, "mini_batch_size": 4, "learning_rate": 1e-3, "seed": 0}
CASES: dict[str, dict[str, Any]] = {
    "llama": {},
    "llama, minibatches accumulated, half the square, scores clipped, rewards whitened": {
        "mini_batch_size": 2,
        "gradient_accumulation_steps": 2,
        "kl_penalty": "mse",
        "score_clip": 0.5,
        "whiten_rewards": True,
        "target": 0.5,
        "horizon": 50,
    },
    "llama, absolute value, tokens left out": {
        "kl_penalty": "abs",
        "gamma": 0.99,
        "early_stopping": True,
        "target_kl": 0.02,
    },
    "gpt2, exact KL, fixed coefficient": {"kl_penalty": "full", "adap_kl_ctrl": False, "learning_rate": 5e-4},
}
STATISTICS = (
    "objective/kl", "objective/kl_coef", "objective/entropy", "ppo/mean_non_score_reward", "ppo/mean_scores",
    "ppo/std_scores", "ppo/loss/policy", "ppo/loss/value", "ppo/loss/total", "ppo/policy/entropy",
    "ppo/policy/approxkl", "ppo/policy/policykl", "ppo/policy/clipfrac", "ppo/policy/advantages_mean",
    "ppo/returns/mean", "ppo/returns/var", "ppo/val/vpred", "ppo/val/error", "ppo/val/clipfrac", "ppo/val/mean",
    "ppo/val/var", "ppo/val/var_explained", "ppo/learning_rate", "tokens/queries_len_mean", "tokens/queries_len_std",
    "tokens/responses_len_mean", "tokens/responses_len_std",
)  # fmt: skip


def settings(case: str) -> dict[str, Any]:
    """Keywords of PPOConfig."""
    return {**SHARED, **CASES[case]}


def write_model(case: str, folder: Path) -> Path:
    """A random model as a Hugging Face folder."""
    shapes, config = _gpt2() if case.startswith("gpt2") else _llama()
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for name, shape in sorted(shapes.items()):
        noise = 0.2 * torch.randn(shape, generator=generator)
        is_norm = name.endswith(("norm.weight", "ln_1.weight", "ln_2.weight", "ln_f.weight"))
        tensors[name] = 1 + noise if is_norm else noise
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def value_head() -> tuple[Tensor, Tensor]:
    """Weight [D] and bias [] of the value head."""
    generator = torch.Generator().manual_seed(1)
    return 0.1 * torch.randn(WIDTH, generator=generator), torch.tensor(0.05)


def batches(case: str) -> Iterator[tuple[list[Tensor], list[Tensor], list[Tensor], list[Tensor] | None]]:
    """Queries, responses, scores and response masks of each step."""
    generator = torch.Generator().manual_seed(2)

    def draw(low: int, high: int) -> list[Tensor]:
        lengths = torch.randint(low, high, (BATCH,), generator=generator).tolist()
        return [torch.randint(3, VOCABULARY, (length,), generator=generator) for length in lengths]

    for _ in range(STEPS):
        queries, responses = draw(2, 9), draw(4, 12)
        # Odd tokens are rewarded, so there is something to learn.
        scores = [(response % 2).float().mean() * 4 - 2 for response in responses]
        masks = [(torch.arange(len(r)) % 3 != 1).long() for r in responses] if "left out" in case else None
        yield queries, responses, scores, masks


def _llama() -> tuple[dict[str, tuple[int, ...]], dict[str, Any]]:
    head_dim = WIDTH // HEADS
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (VOCABULARY, WIDTH),
        "model.norm.weight": (WIDTH,),
    }
    for i in range(LAYERS):
        stem = f"model.layers.{i}"
        shapes |= {
            f"{stem}.self_attn.q_proj.weight": (HEADS * head_dim, WIDTH),
            f"{stem}.self_attn.k_proj.weight": (KV_HEADS * head_dim, WIDTH),
            f"{stem}.self_attn.v_proj.weight": (KV_HEADS * head_dim, WIDTH),
            f"{stem}.self_attn.o_proj.weight": (WIDTH, HEADS * head_dim),
            f"{stem}.mlp.gate_proj.weight": (INNER, WIDTH),
            f"{stem}.mlp.up_proj.weight": (INNER, WIDTH),
            f"{stem}.mlp.down_proj.weight": (WIDTH, INNER),
            f"{stem}.input_layernorm.weight": (WIDTH,),
            f"{stem}.post_attention_layernorm.weight": (WIDTH,),
        }
    return shapes, {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": VOCABULARY,
        "hidden_size": WIDTH,
        "intermediate_size": INNER,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "max_position_embeddings": POSITIONS,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10_000.0,
        "tie_word_embeddings": True,
        "hidden_act": "silu",
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": 2,
    }


def _gpt2() -> tuple[dict[str, tuple[int, ...]], dict[str, Any]]:
    shapes: dict[str, tuple[int, ...]] = {
        "transformer.wte.weight": (VOCABULARY, WIDTH),
        "transformer.wpe.weight": (POSITIONS, WIDTH),
        "transformer.ln_f.weight": (WIDTH,),
        "transformer.ln_f.bias": (WIDTH,),
    }
    for i in range(LAYERS):
        stem = f"transformer.h.{i}"
        shapes |= {f"{stem}.{norm}.{part}": (WIDTH,) for norm in ("ln_1", "ln_2") for part in ("weight", "bias")}
        for name, into, out in (
            ("attn.c_attn", WIDTH, 3 * WIDTH),
            ("attn.c_proj", WIDTH, WIDTH),
            ("mlp.c_fc", WIDTH, 4 * WIDTH),
            ("mlp.c_proj", 4 * WIDTH, WIDTH),
        ):
            shapes |= {f"{stem}.{name}.weight": (into, out), f"{stem}.{name}.bias": (out,)}
    return shapes, {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "vocab_size": VOCABULARY,
        "n_embd": WIDTH,
        "n_layer": LAYERS,
        "n_head": HEADS,
        "n_positions": POSITIONS,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": 2,
    }
