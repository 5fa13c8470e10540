"""Adapters against peft and transformers, and their gradients against an explicit W + s·B·A."""

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch.func import functional_call

from thumbs.config.losses import CROSS_ENTROPY
from thumbs.config.model import AdapterConfig, ModelConfig
from thumbs.engine.base import AdamStep, ModelSpec
from thumbs.engine.local import LocalEngine
from thumbs.errors import ConfigError, ModelError
from thumbs.models.causal_lm import load_decoder, merged_copy
from thumbs.models.decoder_config import read_config, write_config
from thumbs.models.lora import Lora
from thumbs.records import Example
from thumbs.tracking.files import write_json
from tiny_models import FAMILIES, load_reference, logits_of_each, random_sequences, save_random

SEQUENCES = random_sequences(5, [9, 4, 12])
CONFIGS = {
    "all": AdapterConfig(rank=3, alpha=5.0),
    "last layer": AdapterConfig(rank=3, alpha=5.0, layers=1),
    "query, value, down": AdapterConfig(rank=2, alpha=4.0, targets=("q_proj", "v_proj", "down_proj")),
    "up only": AdapterConfig(rank=4, alpha=4.0, targets=("up_proj",), layers=1),
}


@pytest.fixture(scope="module", params=["llama", "qwen2, biases", "qwen3, query and key norms"])
def folder(request, tmp_path_factory):
    return save_random(FAMILIES[request.param], tmp_path_factory.mktemp("base"))


@pytest.fixture(params=CONFIGS)
def config(request):
    return CONFIGS[request.param]


@pytest.fixture
def trained(folder, config):
    """An engine and a handle whose adapters have left the base."""
    engine = LocalEngine()
    handle = engine.create(ModelSpec("policy", ModelConfig(name=str(folder), lora=config, dtype="float32")))
    data = [Example.next_token(s, weights=[0.1] * (len(s) - 1)) for s in SEQUENCES]
    for _ in range(3):
        engine.forward_backward(handle, data, [CROSS_ENTROPY])
        engine.optim_step(handle, AdamStep(0.02, 0.0))
    return engine, handle


def with_random_adapter(folder, config):
    """Our decoder and an adapter with nothing at zero."""
    model = load_decoder(folder, torch.float32, master=False).requires_grad_(False)
    adapter = Lora(model.config, config, seed=1)
    generator = torch.Generator().manual_seed(2)
    for parameter in adapter.parameters():
        parameter.data = 0.2 * torch.randn(parameter.shape, generator=generator)
    return model, adapter


def packed_logits(model, adapter=None):
    lengths = [len(s) for s in SEQUENCES]
    hidden = model.forward_packed(torch.tensor([t for s in SEQUENCES for t in s]), lengths, adapter)
    return hidden @ model.head_weight().T


@torch.no_grad()
def test_peft_loads_a_saved_adapter_to_the_same_logits(folder, trained, tmp_path):
    engine, handle = trained
    engine.save(handle, tmp_path / "adapter")
    base = load_reference(folder)
    start = logits_of_each(base, SEQUENCES)
    theirs = logits_of_each(PeftModel.from_pretrained(base, str(tmp_path / "adapter")).eval(), SEQUENCES)
    assert (theirs[0] - start[0]).abs().max() > 0.05  # otherwise this test would show nothing
    outputs = engine.forward(handle, [Example.next_token(s) for s in SEQUENCES])
    for sequence, output, logits in zip(SEQUENCES, outputs, theirs, strict=True):
        wanted = logits.log_softmax(-1)[:-1].gather(1, torch.tensor(sequence[1:])[:, None])[:, 0]
        torch.testing.assert_close(torch.from_numpy(output.logprobs), wanted, atol=1e-5, rtol=0)
    torch.testing.assert_close(packed_logits(engine.snapshot(handle).loop.model), torch.cat(theirs), atol=1e-5, rtol=0)


@torch.no_grad()
def test_what_peft_saves_is_read(folder, config, tmp_path):
    """The names and shapes are PEFT's own, not only ones that it accepts."""
    model, adapter = with_random_adapter(folder, config)
    (tmp_path / "ours").mkdir()
    save_file(adapter.peft_state(), tmp_path / "ours" / "adapter_model.safetensors")
    write_json(tmp_path / "ours" / "adapter_config.json", adapter.peft_config(str(folder)))
    theirs = PeftModel.from_pretrained(load_reference(folder), str(tmp_path / "ours"))
    theirs.save_pretrained(str(tmp_path / "theirs"))
    saved = load_file(tmp_path / "theirs" / "adapter_model.safetensors")
    assert saved.keys() == adapter.peft_state().keys()
    again = Lora(model.config, config, seed=9)
    again.load_peft_state(saved)
    for name, tensor in adapter.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name


@torch.no_grad()
def test_merged_weights_equal_the_adapter_form_and_load_in_transformers(folder, config, tmp_path):
    model, adapter = with_random_adapter(folder, config)
    wanted = packed_logits(model, adapter)
    merged = merged_copy(model, adapter, torch.float32)
    torch.testing.assert_close(packed_logits(merged), wanted, atol=2e-5, rtol=0)
    for source in (merged.tensors(), model.tensors(adapter)):
        save_file(source, tmp_path / "model.safetensors", metadata={"format": "pt"})
        write_json(tmp_path / "config.json", write_config(model.config))
        theirs = logits_of_each(load_reference(tmp_path), SEQUENCES)
        torch.testing.assert_close(torch.cat(theirs), wanted, atol=2e-5, rtol=0)


@torch.no_grad()
def test_a_snapshot_that_shares_the_weights_samples_as_a_merged_one_and_stays_as_it_was(folder, config):
    model, adapter = with_random_adapter(folder, config)
    found = []
    for frozen in (model.sharing(adapter), model.frozen(adapter)):
        cache = frozen.new_cache(len(SEQUENCES), 16)
        states = [frozen.prefill([list(map(int, s)) for s in SEQUENCES], cache)]
        states += [frozen.decode(torch.tensor([3] * len(SEQUENCES)), cache) for _ in range(2)]
        found.append(torch.cat([*states, frozen.forward_packed(torch.tensor([1, 2, 3]), [3])]))
    torch.testing.assert_close(*found, atol=2e-5, rtol=1e-4)
    sharing = model.sharing(adapter)
    before = packed_logits(sharing)
    for weights in adapter.parameters():
        weights += 1.0
    assert torch.equal(packed_logits(sharing), before)
    assert sharing.embedding.data_ptr() == model.embedding.data_ptr()


@torch.no_grad()
def test_a_fresh_adapter_changes_nothing(folder, config):
    model = load_decoder(folder, torch.float32, master=False)
    adapter = Lora(model.config, config, seed=1)
    assert torch.equal(packed_logits(model, adapter), packed_logits(model))
    assert any(a.abs().max() > 0 for a in adapter.down_maps.values())


def test_gradients_are_those_of_an_explicit_product(folder, config):
    """Slow: W + s·B·A as a leaf-by-leaf sum, run through transformers."""
    model, adapter = with_random_adapter(folder, config)
    direction = torch.randn(sum(map(len, SEQUENCES)), 97, generator=torch.Generator().manual_seed(3))
    (packed_logits(model, adapter) * direction).sum().backward()

    reference = load_reference(folder).requires_grad_(False)
    weights = dict(reference.named_parameters())
    leaves = {name: tensor.clone().requires_grad_() for name, tensor in adapter.peft_state().items()}
    for name in {name.split(".lora_")[0] for name in leaves}:
        target = name.removeprefix("base_model.model.") + ".weight"
        product = leaves[f"{name}.lora_B.weight"] @ leaves[f"{name}.lora_A.weight"]
        weights[target] = weights[target] + config.alpha / config.rank * product
    outputs = [
        functional_call(reference, weights, (), {"input_ids": torch.tensor([s]), "use_cache": False}).logits[0]
        for s in SEQUENCES
    ]
    (torch.cat(outputs) * direction).sum().backward()

    ours = gradients_by_peft_name(adapter)
    assert ours.keys() == leaves.keys()
    for name, leaf in leaves.items():
        scale = leaf.grad.abs().max()
        torch.testing.assert_close(ours[name] / scale, leaf.grad / scale, atol=2e-5, rtol=0, msg=name)


def gradients_by_peft_name(adapter):
    """The adapter's gradients under PEFT's names."""
    gradients = {name: parameter.grad for name, parameter in adapter.named_parameters()}
    assert all(g is not None for g in gradients.values())
    for name, parameter in adapter.named_parameters():
        parameter.data = gradients[name]
    return adapter.peft_state()


def test_adapters_stand_on_the_last_layers_and_chosen_projections():
    raw = FAMILIES["llama"].to_dict() | {"architectures": ["LlamaForCausalLM"], "num_hidden_layers": 6}
    shape = read_config(raw)
    names = Lora(shape, AdapterConfig(layers=2, targets=("k_proj", "o_proj")), seed=0).peft_state()
    stem = "base_model.model.model.layers"
    assert {name.rsplit(".lora_", 1)[0] for name in names} == {
        f"{stem}.{i}.self_attn.{p}" for i in (4, 5) for p in ("k_proj", "o_proj")
    }
    assert Lora(shape, AdapterConfig(layers=9), seed=0).first == 0


def test_an_unknown_target_is_named(tiny_llama):
    model = load_decoder(tiny_llama, torch.float32, master=False)
    with pytest.raises(ConfigError, match=r"\['c_attn'\]; allowed are \['down_proj'"):
        Lora(model.config, AdapterConfig(targets=("q_proj", "c_attn")), seed=0)


STEM = "base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop(STEM), f"lacks '{STEM}'"),
        (lambda state: state.update(stray=torch.zeros(1)), "holds 'stray'"),
        (lambda state: state.update({STEM: state[STEM][:1]}), r"shape \(1, 32\); \(2, 32\) is needed"),
        (lambda state: state.update({STEM: torch.zeros(())}), r"shape \(\); \(2, 32\) is needed"),
        (lambda state: state.update({STEM: state[STEM] * float("inf")}), "NaN or infinity"),
        (lambda state: state.update({STEM: torch.full((2, 32), 1e300, dtype=torch.float64)}), "NaN or infinity"),
        (lambda state: state.update({STEM: state[STEM].to(torch.int8)}), "is int8; allowed: float32"),
        (lambda state: state.update({STEM: state[STEM].to(torch.complex64)}), "is complex64; allowed: float32"),
    ],
)
def test_a_state_that_is_not_this_adapter_is_refused_whole(change, message):
    raw = FAMILIES["llama"].to_dict() | {"architectures": ["LlamaForCausalLM"]}
    config = AdapterConfig(rank=2, targets=("q_proj", "up_proj"))
    adapter = Lora(read_config(raw), config, seed=0)
    before = {name: tensor.clone() for name, tensor in adapter.peft_state().items()}
    state = {name: torch.randn(tensor.shape) for name, tensor in before.items()}
    change(state)
    with pytest.raises(ModelError, match=message):
        adapter.load_peft_state(state)
    assert all(torch.equal(tensor, before[name]) for name, tensor in adapter.peft_state().items())
