"""Tiny random models of many architectures, with what thumbs does with each: the rows of docs/models.md."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM

from tiny_models import GRANITE, SHAPE, VOCABULARY

BARE: dict[str, Any] = {"vocab_size": VOCABULARY, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
EXPERTS_STAY = "yes, experts stay as they are"
EXPERTS: dict[str, Any] = {"num_experts_per_tok": 2, "moe_intermediate_size": 16}


@dataclass(frozen=True)
class Architecture:
    """One row. config: a class of transformers; refused: words of the message; whole: `values` is everything."""

    name: str
    config: str
    values: Mapping[str, Any] = field(default_factory=dict)
    refused: str = ""
    whole: bool = False
    adapters: str = "yes"
    """What the page says of its adapters."""

    def save(self, folder: Path) -> torch.nn.Module:
        """A random model in a folder, float32; returns it, through transformers."""
        values = dict(BARE if self.whole else SHAPE) | dict(self.values)
        torch.manual_seed(1)
        model = AutoModelForCausalLM.from_config(getattr(transformers, self.config)(**values)).float().eval()
        generator = torch.Generator().manual_seed(2)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.ndim >= 2:
                    parameter.copy_(0.15 * torch.randn(parameter.shape, generator=generator))
                elif "bias" in name:
                    parameter.copy_(0.05 * torch.randn(parameter.shape, generator=generator))
        model.save_pretrained(folder)
        return model


def _rope(kind: str, **settings: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 1e4, **settings}}


_ORIGINAL = {"original_max_position_embeddings": 32}
_LONG = {"short_factor": [1.0] * 4, "long_factor": [4.0] * 4, **_ORIGINAL}
_MAMBA = {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_n_groups": 1, "mamba_d_state": 8}
_STATE = "recurrent state|layers of the kind"

OURS = [
    Architecture("Llama", "LlamaConfig"),
    Architecture("Llama 3 (`rope_type: llama3`)", "LlamaConfig", _rope(
        "llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, **_ORIGINAL)),
    Architecture("Llama, linear rotary scaling", "LlamaConfig", _rope("linear", factor=4.0)),
    Architecture("Llama, YaRN", "LlamaConfig", _rope("yarn", factor=4.0, **_ORIGINAL)),
    Architecture("Mistral without a window", "MistralConfig", {"sliding_window": None}),
    Architecture("Qwen2, Qwen2.5", "Qwen2Config"),
    Architecture("Qwen3", "Qwen3Config", {"head_dim": 16}),
    Architecture("Mistral with a window", "MistralConfig", {"sliding_window": 8}),
    Architecture("Qwen2 with windows", "Qwen2Config", {
        "use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}),
    Architecture("Phi-3, Phi-4", "Phi3Config", {"sliding_window": 8}),
    Architecture("OLMo 2", "Olmo2Config"),
    Architecture("SmolLM3", "SmolLM3Config", {"no_rope_layers": [1, 0]}),
    Architecture("Granite", "GraniteConfig", GRANITE),
]  # fmt: skip
"""Computed by our decoder."""

THROUGH_TRANSFORMERS = [
    Architecture("Llama with biases", "LlamaConfig", {"attention_bias": True, "mlp_bias": True}),
    Architecture("Llama, dynamic rotary scaling", "LlamaConfig", _rope("dynamic", factor=4.0)),
    Architecture("Mixtral", "MixtralConfig", {"num_local_experts": 4, "num_experts_per_tok": 2}, adapters=EXPERTS_STAY),
    Architecture("Qwen2 MoE", "Qwen2MoeConfig", {
        "num_experts": 4, "shared_expert_intermediate_size": 16, **EXPERTS}, adapters=EXPERTS_STAY),
    Architecture("Qwen3 MoE", "Qwen3MoeConfig", {"head_dim": 16, "num_experts": 4, **EXPERTS}, adapters=EXPERTS_STAY),
    Architecture("GPT-OSS", "GptOssConfig", {
        "head_dim": 16, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 8,
        "layer_types": ["sliding_attention", "full_attention"]}, adapters=EXPERTS_STAY),
    Architecture("DeepSeek V3", "DeepseekV3Config", {
        "n_routed_experts": 4, "n_shared_experts": 1, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1,
        "kv_lora_rank": 16, "q_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 16,
        "num_key_value_heads": 4, **EXPERTS}, adapters=EXPERTS_STAY),
    Architecture("Gemma", "GemmaConfig", {"head_dim": 16}),
    Architecture("Gemma 2 without a cap on logits", "Gemma2Config", {
        "head_dim": 16, "sliding_window": 8, "final_logit_softcapping": None}),
    Architecture("Gemma 3 (text)", "Gemma3TextConfig", {
        "head_dim": 16, "sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]}),
    Architecture("Phi-3 with longrope", "Phi3Config", _rope("longrope", **_LONG)),
    Architecture("StableLM", "StableLmConfig"),
    Architecture("StarCoder2", "Starcoder2Config"),
    Architecture("GLM-4", "Glm4Config", {"head_dim": 16}),
    Architecture("Nemotron", "NemotronConfig", {"head_dim": 16}),
    Architecture("EXAONE 4", "Exaone4Config", {"sliding_window": 8, "sliding_window_pattern": 2}),
    Architecture("ERNIE 4.5", "Ernie4_5Config", {"head_dim": 16}),
    Architecture("GPT-2", "GPT2Config", {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}, whole=True),
    Architecture("GPT-NeoX, Pythia", "GPTNeoXConfig"),
    Architecture("OPT", "OPTConfig", {
        "hidden_size": 32, "word_embed_proj_dim": 32, "ffn_dim": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
        "max_position_embeddings": 64}, whole=True),
    Architecture("BLOOM", "BloomConfig", {"hidden_size": 32, "n_layer": 2, "n_head": 4}, whole=True),
    Architecture("Falcon", "FalconConfig", {
        "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}, whole=True),
    Architecture("MPT", "MptConfig", {
        "d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": 64}, whole=True),
    Architecture("Granite MoE", "GraniteMoeConfig", {
        "num_local_experts": 4, "num_experts_per_tok": 2}, adapters=EXPERTS_STAY),
    Architecture("Cohere", "CohereConfig", {"logit_scale": 0.25}),
    Architecture("Cohere 2", "Cohere2Config", {"logit_scale": 0.25, "sliding_window": 8}),
    Architecture("Phi-1, Phi-2", "PhiConfig", {"num_key_value_heads": 4}),
    Architecture("GPT-J", "GPTJConfig", {
        "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "rotary_dim": 8}, whole=True),
    Architecture("CodeGen", "CodeGenConfig", {
        "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "n_ctx": 64, "rotary_dim": 4}, whole=True),
    Architecture("GPT BigCode (StarCoder)", "GPTBigCodeConfig", {
        "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}, whole=True),
    Architecture("GPT-NeoX Japanese", "GPTNeoXJapaneseConfig"),
    Architecture("XGLM", "XGLMConfig", {
        "d_model": 32, "ffn_dim": 48, "num_layers": 2, "attention_heads": 4, "max_position_embeddings": 64},
        whole=True),
    Architecture("BioGPT", "BioGptConfig"),
    Architecture("OLMo", "OlmoConfig"),
    Architecture("OLMo 3", "Olmo3Config", {"sliding_window": 8}),
    Architecture("OLMoE", "OlmoeConfig", {"num_experts": 4, "num_experts_per_tok": 2}, adapters=EXPERTS_STAY),
    Architecture("FlexOlmo", "FlexOlmoConfig", {"num_experts": 4, "num_experts_per_tok": 2}, adapters=EXPERTS_STAY),
    Architecture("GLM", "GlmConfig", {"head_dim": 16}),
    Architecture("GLM-4 MoE", "Glm4MoeConfig", {
        "head_dim": 16, "n_routed_experts": 4, "n_shared_experts": 1, "n_group": 1, "topk_group": 1,
        "first_k_dense_replace": 1, **EXPERTS}, adapters=EXPERTS_STAY),
    Architecture("ERNIE 4.5 MoE", "Ernie4_5_MoeConfig", {
        "moe_num_experts": 4, "moe_k": 2, "moe_intermediate_size": 16}, adapters=EXPERTS_STAY),
    Architecture("JetMoE", "JetMoeConfig", {
        "num_local_experts": 4, "num_experts_per_tok": 2, "kv_channels": 8}, adapters=EXPERTS_STAY),
    Architecture("MiniMax M2", "MiniMaxM2Config", {
        "head_dim": 16, "num_local_experts": 4, "num_experts_per_tok": 2}, adapters=EXPERTS_STAY),
    Architecture("Ministral 3", "Ministral3Config", {"head_dim": 16}),
    Architecture("Apertus", "ApertusConfig"),
    Architecture("Arcee", "ArceeConfig"),
    Architecture("Aria (text)", "AriaTextConfig", {"moe_num_experts": 4, "moe_topk": 2}, adapters=EXPERTS_STAY),
    Architecture("CWM", "CwmConfig", {"head_dim": 16}),
    Architecture("DiffLlama", "DiffLlamaConfig"),
    Architecture("HyperCLOVA X", "HyperCLOVAXConfig"),
    Architecture("Jais 2", "Jais2Config"),
    Architecture("Persimmon", "PersimmonConfig"),
    Architecture("Seed-OSS", "SeedOssConfig", {"head_dim": 16}),
    Architecture("Gemma 4 (text)", "Gemma4TextConfig", {
        "head_dim": 16, "global_head_dim": 16, "final_logit_softcapping": None,
        "vocab_size_per_layer_input": VOCABULARY, "hidden_size_per_layer_input": 8, "num_kv_shared_layers": 0,
        "sliding_window": 8,
        "layer_types": ["sliding_attention", "full_attention"]}),
]  # fmt: skip
"""Computed by transformers; adapters are PEFT's."""

REFUSED = [
    Architecture("Gemma 2", "Gemma2Config", {"head_dim": 16}, "caps or projects"),
    Architecture("Mamba", "MambaConfig", {
        "hidden_size": 32, "num_hidden_layers": 2, "state_size": 8}, _STATE, whole=True),
    Architecture("Mamba 2", "Mamba2Config", {
        "hidden_size": 32, "num_hidden_layers": 2, "state_size": 8, "num_heads": 4, "head_dim": 16, "n_groups": 1},
        _STATE, whole=True),
    Architecture("RWKV", "RwkvConfig", {
        "hidden_size": 32, "num_hidden_layers": 2, "context_length": 64}, _STATE, whole=True),
    Architecture("Jamba", "JambaConfig", {
        "attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2, "num_experts": 2,
        "num_experts_per_tok": 1, "mamba_d_state": 8, "use_mamba_kernels": False}, _STATE),
    Architecture("Bamba", "BambaConfig", {"attn_layer_indices": [1], **_MAMBA}, _STATE),
    Architecture("Falcon-H1", "FalconH1Config", {"mamba_d_ssm": 64, "head_dim": 16, **_MAMBA}, _STATE),
    Architecture("Granite 4 (hybrid)", "GraniteMoeHybridConfig", {
        "layer_types": ["mamba", "attention"], "num_local_experts": 2, "num_experts_per_tok": 1,
        "shared_intermediate_size": 16, "mamba_expand": 2, **_MAMBA}, _STATE),
    Architecture("LFM2", "Lfm2Config", {
        "layer_types": ["conv", "full_attention"], "block_auto_adjust_ff_dim": False}, _STATE),
    Architecture("RecurrentGemma", "RecurrentGemmaConfig", {
        "num_hidden_layers": 3, "attention_window_size": 8, "lru_width": 32}, _STATE),
    Architecture("Qwen3-Next", "Qwen3NextConfig", {
        "head_dim": 16, "layer_types": ["linear_attention", "full_attention"], "num_experts": 2,
        "shared_expert_intermediate_size": 16, "linear_num_key_heads": 2, "linear_num_value_heads": 4,
        "linear_key_head_dim": 8, "linear_value_head_dim": 8, **EXPERTS, "num_experts_per_tok": 1}, _STATE),
    Architecture("BERT and other encoders", "BertConfig", {
        "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4},
        "later ones|caps or projects", whole=True),
]  # fmt: skip
"""Refused when they are loaded."""
