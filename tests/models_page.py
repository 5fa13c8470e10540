"""docs/models.md: what thumbs does with which model, from the tables that the code and its tests use.

PYTHONPATH=src:tests python tests/models_page.py > docs/models.md
"""

from __future__ import annotations

import sys
from collections.abc import Iterable

import transformers
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from thumbs.models import peft_settings, quantised
from thumbs.models.decoder_config import FIXED
from thumbs.models.gguf import ARCHITECTURES as GGUF
from tiny_architectures import OURS, REFUSED, THROUGH_TRANSFORMERS, Architecture

INTRODUCTION = """# Models

Made from the tables in the source and the tests by `PYTHONPATH=src:tests python tests/models_page.py`; do not
edit by hand. Each row stands for a tiny random model, which `tests/unit/models/test_architectures.py` trains
whole and with adapters; then the logprobs of the trainer, the sampler, the model that was saved and read again,
and `transformers` on what is exported are at most 1e-4 nats apart in float32. Or it expects the refusal.

A model is a folder with `config.json`, `*.safetensors` and `tokenizer.json`, a `.gguf` file, a folder with an
adapter of PEFT, or a hub name of one of these. No code from a folder is run and no pickle is read.
"""

ARCHITECTURES = """## Architectures

"Adapters" is the default (`model.lora`); "whole" is training of every weight (`model.lora: null`). A model
whose `config.json` our decoder does not compute runs through `transformers`, which is slower, with the layers of
PEFT (`pip install 'thumbs[hf]'`). Families name their layers differently: the default targets of `model.lora`
mean every linear layer of the blocks, and any other target must be a name that the model has. Experts of MoE
models are one tensor for all in `transformers`; adapters leave them as they are, and whole training trains them.
"""

RULES = """### What decides

* Our decoder reads every key of `config.json`, or knows that it has no effect, or names it in the reason why
  the model runs through `transformers`. These keys must have one of the values that it computes: {fixed}. Keys
  that `transformers` does not know either are named in a warning.
* With the rotary scalings `dynamic` and `longrope` the angles of a whole batch depend on its longest sequence
  once that is longer than the first training. So sequences may not be longer than that:
  `max_position_embeddings`, or `original_max_position_embeddings` where it is given.
* Refused: encoder-decoders, models that are not causal, models that keep a recurrent state or anything other
  than keys and values, and models that cap or project before their logits (Gemma 2 unless
  `final_logit_softcapping` is null). Classes and `layer_types` say so before weights are read; then the model is
  tried out alone, in company and token by token.

### Files and tensors

* `model.safetensors` is read, else the files that `model.safetensors.index.json` names, as in `transformers`.
  Other safetensors files are named in a warning. An index that names a missing file, or one outside of the
  folder, is refused.
* Every tensor is used, or the error names it. Three kinds may be left over: `rotary_emb.inv_freq`,
  `masked_bias`, and `v_head.*` of TRL. A stored `lm_head.weight` of a tied model must equal the embedding.
* Tensors that are missing, of another shape, of an integer or 8-bit type without a quantisation, NaN or
  infinite are errors that name them.
* The end tokens of `generation_config.json` (or of `config.json` if there is no such file) stop replies, next
  to those of the chat template. A token beyond the embedding is an error in `thumbs plan` and whenever the
  model is opened; special tokens that no turn is written with are named in a warning.
* What is derived from files (GGUF conversions, adapters in their base) is kept under a hash of their content.
"""

QUANTISATION = """## Quantisation

Found in `quantization_config` of `config.json`, or in `quantize_config.json`, `quant_config.json` and
`hf_quant_config.json`. Weights that are a number times a scale are de-quantised exactly, in float32, before
anything else is done. Activations and caches are not quantised, so their scales have no effect. Everything else
is refused by name.
"""

ADAPTERS = """## Adapters of PEFT

A folder with `adapter_config.json` and `adapter_model.safetensors` is a model name: the base that it names,
with the adapter in the weights. Each case gives the logits of the model that PEFT saved
(`tests/unit/models/test_peft_folder.py`). Adapters of runs are trained, sampled and exported in the same
format. Every key of `adapter_config.json` is read, has no effect, or is refused.
"""


def page() -> str:
    """The Markdown page."""
    fixed = ", ".join(f"`{key}`" for key in sorted(FIXED))
    return "\n".join([
        INTRODUCTION, ARCHITECTURES, *_architectures(), "", RULES.format(fixed=fixed), QUANTISATION, *_quantisation(),
        "", ADAPTERS, *_adapters(), "", *_gguf(),
    ])  # fmt: skip


def _architectures() -> Iterable[str]:
    yield from _table(
        ("Model", "Class", "Computed by", "Whole", "Adapters", "Sampled and exported"),
        [
            *((row.name, _class(row), "thumbs", "yes", row.adapters, "yes") for row in OURS),
            *((row.name, _class(row), "transformers", "yes", row.adapters, "yes") for row in THROUGH_TRANSFORMERS),
            *((row.name, _class(row), "nothing", "refused", "refused", "refused") for row in REFUSED),
        ],
    )


def _class(row: Architecture) -> str:
    found = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[getattr(transformers, row.config).model_type]
    return f"`{found[0] if isinstance(found, tuple) else found}`"


def _quantisation() -> Iterable[str]:
    read = {
        "fp8": "E4M3 or E5M2 in blocks, or one scale for a tensor (DeepSeek, Qwen)",
        "fbgemm_fp8": "FP8, one scale for a row",
        "compressed-tensors": "FP8 and INT8 for a tensor, row, group or block; packed, sparse, rotated ones refused",
        "modelopt": "`FP8` and `FP8_PER_CHANNEL_PER_TOKEN`; other algorithms are refused",
    }
    yield from _table(
        ("Method", "What happens"),
        [*((f"`{name}`", f"read: {read[name]}") for name in quantised.KEYS),
         *((f"`{name}`", "refused by name") for name in quantised.REFUSED), ("any other", "refused by name")],
    )  # fmt: skip


def _adapters() -> Iterable[str]:
    read = [
        ("LoRA, rsLoRA, DoRA", "read"),
        ("`rank_pattern`, `alpha_pattern`, `layers_to_transform`, `layers_pattern`, `exclude_modules`", "read"),
        ("`modules_to_save`, `bias`, adapted embeddings and heads, `trainable_token_indices`", "read"),
        ("a tied base of which one embedding is changed", "read; the model is written untied"),
        ("a larger vocabulary, saved with embedding and head", "read"),
        ("`fan_in_fan_out` (GPT-2)", "read"),
        ("`init_lora_weights`: true, false, gaussian, eva, orthogonal", "read"),
        ("`init_lora_weights`: pissa, olora, corda, loftq, lora_ga and any other", "refused: the base was changed"),
    ]
    refused = [(f"`{key}`", f"refused: {reason}") for key, reason in peft_settings.REFUSED.items()]
    other = [("other kinds than LORA (X-LoRA, IA3, prefix tuning, …)", "refused by name")]
    yield from _table(
        ("What", "What happens"), [*read, *refused, *other, ("an unknown key that is set", "refused by name")]
    )


def _gguf() -> Iterable[str]:
    yield "## GGUF\n"
    yield (
        f"Files of the architectures {', '.join(GGUF)} with a byte-level BPE tokenizer are converted once, to\n"
        "bfloat16. Every field of the architecture and every tensor is read or refused by name; scaled rotary\n"
        "positions are refused."
    )


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> Iterable[str]:
    yield f"| {' | '.join(head)} |"
    yield "|" + "---|" * len(head)
    for row in rows:
        yield f"| {' | '.join(row)} |"


if __name__ == "__main__":
    sys.stdout.write(page() + "\n")
