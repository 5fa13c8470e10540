"""Decoder, adapters, the catalog of models and what opens them."""

__all__ = [
    "architectures", "base", "base_identity", "byte_lm", "catalog", "causal_lm", "checkpoint_files", "classifier",
    "content", "decoder_config", "decoding", "families", "gguf", "gguf_writer", "heads", "hf", "hf_lora", "invariant",
    "kernel_levels", "kernels", "kv_cache", "lora", "module_lm", "operators", "packed_attention", "peft_folder",
    "peft_settings", "precision", "prefixes", "prepacked", "quantised", "rope", "rows", "sampled_bases", "slices",
    "tensor_files", "trunk", "weights",
]  # fmt: skip
