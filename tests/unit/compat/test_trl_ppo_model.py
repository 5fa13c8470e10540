"""The model class: forward against transformers, saving and loading, adapters, references, generation."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, GPT2Config

from thumbs.compat.trl_ppo import AutoModelForCausalLMWithValueHead, create_reference_model
from thumbs.compat.trl_ppo.core import respond_to_batch
from thumbs.compat.trl_ppo.model import base_reference
from thumbs.config.model import AdapterConfig, ModelConfig
from thumbs.engine.base import ModelSpec
from thumbs.engine.local import LocalEngine
from thumbs.errors import ConfigError, DataError, ModelError
from thumbs.records import Example
from tiny_models import FAMILIES, LLAMA, load_reference, save_random

GPT2 = GPT2Config(vocab_size=97, n_embd=32, n_layer=3, n_head=4, n_positions=64, eos_token_id=1, bos_token_id=0)
ROWS = torch.tensor([[2, 2, 5, 6, 7], [9, 10, 11, 12, 13]])
MASK = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])


def opened(source: object, **keywords: object) -> AutoModelForCausalLMWithValueHead:
    return AutoModelForCausalLMWithValueHead.from_pretrained(source, torch_dtype=torch.float32, **keywords)


def everything(model: AutoModelForCausalLMWithValueHead) -> tuple[torch.Tensor, torch.Tensor]:
    with torch.no_grad():
        logits, _, values = model(ROWS, attention_mask=MASK)
    return logits, values


def shaken(model: AutoModelForCausalLMWithValueHead) -> AutoModelForCausalLMWithValueHead:
    """Trained weights moved away from where they start."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn(parameter.shape))
    return model


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_random(LLAMA, tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_random(GPT2, tmp_path_factory.mktemp("gpt2"))


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_forward_gives_the_logits_of_transformers_and_a_linear_value(family: str, request: pytest.FixtureRequest):
    folder = request.getfixturevalue(family)
    model, reference = opened(folder, v_head_init_strategy="normal"), load_reference(folder)
    logits, loss, values = model(input_ids=ROWS, attention_mask=MASK, labels=ROWS.where(MASK == 1, -100))
    for row in range(2):
        kept = ROWS[row][MASK[row] == 1][None]
        theirs = reference(kept, output_hidden_states=True)
        torch.testing.assert_close(logits[row][MASK[row] == 1], theirs.logits[0], rtol=1e-4, atol=1e-4)
        state = theirs.hidden_states[-1][0]
        expected = state @ model.v_head.weight + model.v_head.bias
        torch.testing.assert_close(values[row][MASK[row] == 1], expected, rtol=1e-4, atol=1e-4)
    assert loss is not None
    by_hand = [
        -logits[i, t - 1].log_softmax(0)[ROWS[i, t]]
        for i, t in ((0, 2), (0, 3), (0, 4), *((1, t) for t in range(1, 5)))
    ]
    # The first kept target of row 0 is predicted from padding, whose state is zero here.
    assert loss.item() == pytest.approx(torch.stack(by_hand).mean().item(), rel=1e-4)
    assert float(values.detach().std()) > 0


def test_forward_has_gradients():
    model = opened("byte-tiny")
    logits, _, values = model(torch.tensor([[65, 66, 67]]))
    (logits.sum() + values.sum()).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_the_value_head_starts_at_zero_or_as_asked(llama: Path):
    assert float(opened(llama).v_head.weight.detach().abs().sum()) == 0
    wide = opened(llama, v_head_init_strategy="normal", v_head_initializer_range=3.0).v_head.weight
    assert 1.5 < float(wide.detach().std()) < 4.5


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_what_is_saved_comes_back(family: str, request: pytest.FixtureRequest, tmp_path: Path):
    model = shaken(opened(request.getfixturevalue(family), v_head_init_strategy="normal"))
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    model.save_pretrained(tmp_path)
    again = opened(tmp_path)
    for ours, theirs in zip(everything(model), everything(again), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    torch.testing.assert_close(plain(ROWS[1:]).logits[0], everything(model)[0][1], rtol=1e-4, atol=1e-4)
    assert (tmp_path / "notes.txt").read_text(encoding="utf-8") == "mine"
    assert not list(tmp_path.rglob("*.bin"))
    assert not list(tmp_path.glob(".*"))


def test_a_byte_model_comes_back_with_its_end_token(tmp_path: Path):
    model = shaken(opened("byte-tiny", v_head_init_strategy="normal"))
    model.save_pretrained(tmp_path)
    again = opened(tmp_path)
    assert again.config.eos_token_id == 259
    torch.testing.assert_close(everything(again), everything(model), rtol=0, atol=0)


def test_adapters_come_back_and_peft_reads_them(llama: Path, tmp_path: Path):
    from peft import LoraConfig as PeftConfig
    from peft import PeftModel

    config = PeftConfig(r=4, lora_alpha=8, lora_dropout=0.05, bias="none", task_type="CAUSAL_LM")
    with pytest.warns(UserWarning, match="lora_dropout"):
        model = opened(llama, peft_config=config)
    shaken(model)
    assert model.is_peft_model
    assert {
        name.rpartition("_")[0].rpartition("_")[2] for name, p in model.named_parameters() if "down_maps" in name
    } == {"q", "v"}
    model.save_pretrained(tmp_path)
    torch.testing.assert_close(everything(opened(tmp_path)), everything(model), rtol=0, atol=0)
    with pytest.warns(UserWarning, match="peft_config is ignored"):
        torch.testing.assert_close(everything(opened(tmp_path, peft_config={"r": 2})), everything(model))
    with pytest.raises(ConfigError, match="holds an adapter"):
        opened(llama).save_pretrained(tmp_path)
    adapted = PeftModel.from_pretrained(load_reference(llama), tmp_path)
    torch.testing.assert_close(adapted(ROWS[1:]).logits[0], everything(model)[0][1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "config",
    [
        AdapterConfig(rank=2, alpha=4, targets=("q_proj", "o_proj")),
        {"r": 2, "lora_alpha": 4, "target_modules": ["o_proj", "q_proj"]},
        SimpleNamespace(r=2, lora_alpha=4, target_modules={"q_proj", "o_proj"}, layers_to_transform=None),
    ],
    ids=["ours", "dictionary", "object"],
)
def test_adapters_are_described_in_any_form(llama: Path, config: object):
    model = opened(llama, peft_config=config)
    assert model.engine.model(model.handle).spec.model.lora == AdapterConfig(
        rank=2, alpha=4, targets=("q_proj", "o_proj")
    )


def test_adapters_on_the_last_layers_alone(llama: Path):
    model = opened(llama, peft_config={"r": 2, "lora_alpha": 4, "layers_to_transform": [1]})
    assert {name.split(".")[-1].split("_")[0] for name, p in model.named_parameters() if "down_maps" in name} == {"1"}
    with pytest.raises(ConfigError, match="only the last"):
        opened(llama, peft_config={"r": 2, "layers_to_transform": [0]})


@pytest.mark.parametrize(
    "config", [{"bias": "all"}, {"use_dora": True}, {"peft_type": "PREFIX_TUNING"}, {"target_modules": ["nonsense"]}]
)
def test_adapters_of_other_kinds_are_refused(llama: Path, config: dict):
    with pytest.raises(ConfigError):
        opened(llama, peft_config=config)


def test_the_adapter_of_a_stage_is_taken_and_can_be_the_reference(tmp_path: Path):
    engine = LocalEngine()
    config = ModelConfig(name="byte-tiny", lora=AdapterConfig(rank=2, alpha=4), dtype="float32")
    handle = engine.create(ModelSpec("sft", config, seed=5))
    with torch.no_grad():
        for parameter in engine.model(handle).trained().values():
            parameter.add_(torch.randn(parameter.shape))
    engine.save(handle, tmp_path / "model")
    model = opened(tmp_path / "model")
    targets = ROWS[1]
    (expected,) = engine.forward(handle, [Example.next_token(targets)])
    logprobs = everything(model)[0][1, :-1].log_softmax(1)[torch.arange(4), targets[1:]]
    torch.testing.assert_close(logprobs, torch.from_numpy(expected.logprobs), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(everything(create_reference_model(model)), everything(model))
    assert not torch.allclose(everything(base_reference(model))[0], everything(model)[0])


def test_the_head_of_a_folder_that_trl_saved_is_read(llama: Path, tmp_path: Path):
    save_random(LLAMA, tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    weight = torch.arange(32.0)
    save_file(
        tensors | {"v_head.summary.weight": weight[None], "v_head.summary.bias": torch.ones(1)},
        tmp_path / "model.safetensors",
    )
    head = opened(tmp_path).v_head
    assert torch.equal(head.weight.detach(), weight)
    assert head.bias.item() == 1.0
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80")
    with pytest.warns(UserWarning, match="pickle"):
        assert opened(tmp_path).v_head.bias.item() == 0.0


def test_a_transformers_model_is_taken(llama: Path):
    plain = load_reference(llama)
    torch.testing.assert_close(everything(opened(plain))[0][1], plain(ROWS[1:]).logits[0], rtol=1e-4, atol=1e-4)
    with pytest.raises(ConfigError, match="found again"):
        opened(plain, peft_config=AdapterConfig())


def test_a_reference_is_frozen_and_stays(llama: Path):
    model = opened(llama)
    reference = create_reference_model(model)
    before = everything(reference)[0]
    shaken(model)
    assert not any(parameter.requires_grad for parameter in reference.parameters())
    torch.testing.assert_close(everything(reference)[0], before, rtol=0, atol=0)
    assert not torch.allclose(everything(model)[0], before)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_shared_layers_are_held_once_and_frozen(family: str, request: pytest.FixtureRequest):
    model = opened(request.getfixturevalue(family))
    alone = sum(parameter.numel() for parameter in create_reference_model(model).parameters())
    reference = create_reference_model(model, num_shared_layers=1)
    own = {id(p) for p in model.parameters()}
    shared = [p for p in reference.parameters() if id(p) in own]
    frozen = [name for name, p in model.named_parameters() if not p.requires_grad]
    layer = "layers.0." if family == "llama" else "h.0."
    assert sum(p.numel() for p in reference.parameters()) == alone
    assert len(shared) == len(frozen) >= 6
    assert sum(layer in name for name in frozen) >= 5
    assert not any("layers.1." in name or "h.1." in name for name in frozen)
    before = everything(reference)[0]
    shaken(model)
    torch.testing.assert_close(everything(reference)[0], before, rtol=0, atol=0)


@pytest.mark.parametrize("count", [0, 2])
def test_shared_layers_must_leave_some(llama: Path, count: int):
    with pytest.raises(ConfigError, match="2 layers, so 1 to 1"):
        create_reference_model(opened(llama), num_shared_layers=count)


def test_wrong_keywords_of_from_pretrained(llama: Path):
    with pytest.raises(ConfigError, match="did you mean 'peft_config'"):
        opened(llama, peft_conf={})
    with pytest.raises(ConfigError, match="torch_dtype"):
        AutoModelForCausalLMWithValueHead.from_pretrained(llama, torch_dtype="int8")
    with pytest.warns(UserWarning, match="load_in_8bit"):
        opened(llama, load_in_8bit=True, device_map={"": 0})
    with pytest.raises(ModelError, match="unknown model"):
        opened("no-such-model")
    with pytest.raises(ConfigError, match="has no lm_head"):
        opened(save_random(GPT2, llama / "gpt2"), peft_config=AdapterConfig(targets=("lm_head",)))


def test_greedy_generation_is_that_of_transformers(llama: Path):
    model, reference = opened(llama), load_reference(llama)
    theirs = reference.generate(ROWS, attention_mask=MASK, max_new_tokens=6, do_sample=False, pad_token_id=2)
    ours = model.generate(ROWS, attention_mask=MASK, max_new_tokens=6, pad_token_id=2)
    assert torch.equal(ours, theirs)
    assert respond_to_batch(model, ROWS, txt_len=4).shape == (2, 4)


def test_the_sampler_follows_the_weights():
    model = opened("byte-tiny")
    first = model.pretrained_model.sampler()
    assert model.pretrained_model.sampler() is first
    shaken(model)
    assert model.pretrained_model.sampler() is not first


@pytest.mark.parametrize(
    ("keywords", "words"),
    [
        ({"max_new_token": 3}, "did you mean 'max_new_tokens'"),
        ({"repetition_penalty": 1.2}, "the policy's own distribution"),
        ({"num_beams": 4}, "the policy's own distribution"),
        ({"min_length": 20}, "forbids the end token"),
        ({"do_sample": True, "temperature": 0.0}, "above 0"),
        ({"max_length": 3}, "leaves no room"),
        ({"max_new_tokens": 0}, "greater than or equal to 1"),
    ],
)
def test_wrong_keywords_of_generate(keywords: dict, words: str):
    with pytest.raises(ConfigError, match=words):
        opened("byte-tiny").generate(ROWS, **keywords)


def test_an_empty_row_is_refused():
    with pytest.raises(DataError, match="row"):
        opened("byte-tiny")(ROWS, attention_mask=torch.zeros_like(ROWS))


def test_every_covered_family_opens(tmp_path: Path):
    for place, config in enumerate(FAMILIES.values()):
        folder = save_random(config, tmp_path / str(place))
        logits, values = everything(opened(folder))
        assert logits.shape == (2, 5, 97)
        assert values.shape == (2, 5)
