"""Setting one key changes one key, whichever it is and however it is given; what is not understood is refused."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
import yaml
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from thumbs.config.base import Frozen, apply_overrides, build_config, is_nullable, load_config
from thumbs.config.model import AdapterConfig
from thumbs.config.optim import AdamConfig
from thumbs.config.pipeline import PipelineConfig
from thumbs.config.ppo import PpoConfig
from thumbs.errors import ConfigError

PROMPTS = {"path": "prompts.jsonl"}
WHOLE: dict[str, Any] = {
    "sft": {"data": {"path": "talks.jsonl"}},
    "labels": {"prompts": PROMPTS, "people": {}},
    "reward_model": {},
    "cost_model": {"data": {"path": "marks.jsonl"}},
    "direct": {"method": "online_dpo", "online": {"prompts": PROMPTS}},
    "ppo": {"prompts": PROMPTS, "environment": {"tools": ["a:b"]}, "constraint": {"limit": 0.1}},
    "group": {"prompts": PROMPTS, "environment": {"tools": ["a:b"]}},
    "rejection": {"prompts": PROMPTS},
    "safety": {"guard": {"model": "guard"}},
    "evaluation": {"prompts": PROMPTS},
}
"""Every section once, each with what it requires and nothing else."""

RANKS = {"engine.kind": "cluster"}
COMPANIONS: dict[str, dict[str, Any]] = {
    **{f"engine.{name}": RANKS for name in ("workers", "launcher", "threads_per_worker", "patience_s", "logs")},
    "engine.gpus_per_worker": RANKS,
    "engine.shard": RANKS,
    "engine.shard_group": RANKS | {"engine.shard": "hybrid", "engine.shard_group": 2, "engine.workers": 6},
    "engine.offload": RANKS | {"engine.shard": "full"},
    "engine.recompute": RANKS | {"engine.shard": "full"},
    **{f"rollout.{name}": {"rollout.kind": "vllm"} for name in ("tensor_parallel", "context", "cache_gib", "adapters")},
    "rollout.python": {"rollout.workers": 1},
    "ppo.importance": {"rollout.staleness": 1},
    "group.importance": {"rollout.staleness": 1},
    "labels.form": {"labels.people": None, "labels.prompts": None, "labels.data": PROMPTS},
    "labels.judge_model": {"labels.people": None},
    "direct.method": {"direct.method": "dpo", "direct.online": None},
    "direct.alpha": {"direct.divergence": "alpha"},
    **{
        f"direct.{name}": {"direct.method": method, "direct.online": None}
        for name, method in {
            "label_smoothing": "cdpo",
            "gamma": "simpo",
            "tau": "discopop",
            "desirable_weight": "kto",
            "undesirable_weight": "kto",
            "keep": "dpo",
        }.items()
    },
}
"""Settings without which another one has no meaning."""


def leaves(config: Frozen, path: str = "") -> Iterator[tuple[str, FieldInfo, Any]]:
    """(dotted key, field, value) of every setting under a config that is not a section itself."""
    for name, field in type(config).model_fields.items():
        value = getattr(config, name)
        if isinstance(value, Frozen):
            yield from leaves(value, f"{path}{name}.")
        elif not any(isinstance(option, type) and issubclass(option, Frozen) for option in get_args(field.annotation)):
            yield f"{path}{name}", field, value


def others(field: FieldInfo, value: Any) -> Iterator[Any]:
    """Other values that the setting might take."""
    options = [field.annotation, *get_args(field.annotation)]
    if any(option is bool for option in options):
        yield not value
    for option in options:
        if get_origin(option) is Literal:
            yield from (word for word in get_args(option) if word != value)
    if any(option in (int, float) for option in options):
        number = value or 0
        yield from (number + 1, number / 2, 0.3, 1, number * 2, 97)
    yield from ("other", ["other"], [0.7], {"path": "other.jsonl"}, [{"function": "a:b"}])
    yield from ("http://other", "ipo", "dr_grpo", "token_bradley_terry", "2025-02-03")


def flat(value: Any, path: str = "") -> dict[str, Any]:
    if isinstance(value, Mapping) and value:
        return {k: v for name, inner in value.items() for k, v in flat(inner, f"{path}.{name}".lstrip(".")).items()}
    return {path: value}


def with_companions(key: str) -> list[str]:
    return [
        f"{name}={yaml.safe_dump(value, default_flow_style=True)}" for name, value in COMPANIONS.get(key, {}).items()
    ]


LEAVES = {path: (field, value) for path, field, value in leaves(build_config(PipelineConfig, WHOLE))}


def test_the_whole_file_is_covered():
    assert len(LEAVES) > 150
    assert {path.partition(".")[0] for path in LEAVES} > {*WHOLE, "model", "seed"}


@pytest.mark.parametrize("key", LEAVES)
def test_one_key_on_the_command_line_changes_that_key(key: str):
    field, value = LEAVES[key]
    before = build_config(PipelineConfig, apply_overrides(WHOLE, with_companions(key)))
    tried = []
    for other in others(field, value):
        override = f"{key}={yaml.safe_dump(other, default_flow_style=True).removesuffix('...' + chr(10))}"
        try:
            after = build_config(PipelineConfig, apply_overrides(WHOLE, [*with_companions(key), override]))
        except ConfigError as error:
            tried.append(str(error))
            continue
        old, new = flat(before.model_dump(mode="json")), flat(after.model_dump(mode="json"))
        changed = {name for name in old | new if old.get(name) != new.get(name)}
        if not changed:
            continue
        assert all(name == key or name.startswith(f"{key}.") for name in changed)
        return
    pytest.fail(f"no other value was accepted for {key}: {tried}")


def test_yaml_python_and_the_command_line_agree(tmp_path: Path):
    (tmp_path / "a.yaml").write_text("ppo:\n  prompts: {path: p}\n  optim: {learning_rate: 5.0e-5}\n")
    (tmp_path / "b.yaml").write_text("ppo:\n  prompts: {path: p}\n")
    by_file = load_config(PipelineConfig, tmp_path / "a.yaml").ppo
    by_key = load_config(PipelineConfig, tmp_path / "b.yaml", ["ppo.optim.learning_rate=5e-5"]).ppo
    by_hand = PpoConfig.model_validate({"prompts": {"path": "p"}, "optim": {"learning_rate": 5e-5}})
    assert by_file == by_key == by_hand
    assert by_hand.optim == AdamConfig(learning_rate=5e-5, schedule="constant", warmup_fraction=0.0)


def test_a_section_that_the_file_repeats_by_name_is_changed_in_one_place(tmp_path: Path):
    (tmp_path / "c.yaml").write_text("sft: {data: &d {path: a}}\nppo: {prompts: *d}\n")
    config = load_config(PipelineConfig, tmp_path / "c.yaml", ["ppo.prompts.path=b"])
    assert config.ppo is not None
    assert config.sft is not None
    assert (config.sft.data.path, config.ppo.prompts.path) == ("a", "b")


def test_an_object_is_taken_as_it_is():
    given = AdamConfig(learning_rate=5e-5)
    assert PpoConfig.model_validate({"prompts": {"path": "p"}, "optim": given}).optim is given


def test_null_is_a_value_where_it_can_be_and_absent_elsewhere():
    raw = {"run": None, "model": {"name": None, "lora": {"rank": 4, "alpha": None}}, "ppo": None}
    config = build_config(PipelineConfig, raw)
    assert config == build_config(PipelineConfig, {"model": {"lora": {"rank": 4}}})
    ppo = {"prompts": PROMPTS, "optim": {"schedule": None, "head_learning_rate": None}, "kl": {"target": None}}
    read = build_config(PpoConfig, ppo)
    assert (read.optim.schedule, read.kl.target, read.kl.coef) == ("constant", None, 0.1)
    assert build_config(PipelineConfig, {"model": {"lora": None}}).model.lora is None
    with pytest.raises(ConfigError, match=r"prompts: this setting is required"):
        build_config(PpoConfig, {"prompts": None})


@pytest.mark.parametrize("key", [key for key in LEAVES if key not in flat(WHOLE)])
def test_null_never_makes_another_value_up(key: str):
    field, value = LEAVES[key]
    read = flat(build_config(PipelineConfig, apply_overrides(WHOLE, [f"{key}=null"])).model_dump())
    assert read[key] is None if is_nullable(field) else read[key] == value


def test_a_section_of_another_kind_starts_from_its_own_defaults():
    class Plain(Frozen):
        kind: Literal["plain"] = "plain"
        width: int = 1

    class Fancy(Frozen):
        kind: Literal["fancy"] = "fancy"
        depth: int = 2

    class Holder(Frozen):
        inner: Plain | Fancy = Plain(width=7)

    assert Holder.model_validate({"inner": {}}).inner == Plain(width=7)
    assert Holder.model_validate({"inner": {"kind": "fancy", "depth": 3}}).inner == Fancy(depth=3)


def number_fields() -> Iterator[tuple[type[Frozen], str]]:
    """Every setting of any config class that holds floats."""
    pending: list[type[Frozen]] = [Frozen]
    while pending:
        cls = pending.pop()
        pending += cls.__subclasses__()
        if cls.__module__.startswith("thumbs."):
            yield from ((cls, name) for name, field in cls.model_fields.items() if "float" in str(field.annotation))


@pytest.mark.parametrize(("cls", "name"), [pytest.param(c, n, id=f"{c.__name__}.{n}") for c, n in number_fields()])
@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf, "nan", "inf", "1e999"])
def test_no_number_is_nan_or_infinite(cls: type[Frozen], name: str, number: Any):
    listed = "tuple" in str(cls.model_fields[name].annotation)
    with pytest.raises(ValidationError) as refused:
        cls.model_validate({name: [number] if listed else number})
    assert any(item["loc"][0] == name for item in refused.value.errors())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed: 1\nrun: a\nseed: 2\n", "line 3: the key 'seed' stands twice"),
        ("model: {name: a, name: b}\n", "the key 'name' stands twice"),
        ("sft: 5\n", r"sft: expected a section of settings \(key: value\), got 5"),
        ("- a\n", "expected settings"),
        ("a: [", "not valid YAML"),
        ("modle: {}\n", "unknown key 'modle'; did you mean 'model'"),
    ],
)
def test_a_file_that_is_not_understood_is_refused(tmp_path: Path, text: str, message: str):
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_config(PipelineConfig, tmp_path / "c.yaml")


def test_what_cannot_be_read_is_named(tmp_path: Path):
    (tmp_path / "latin.yaml").write_bytes("run: caf\xe9".encode("latin-1"))
    for path in (tmp_path, tmp_path / "latin.yaml", tmp_path / "missing.yaml"):
        with pytest.raises(ConfigError, match=str(path)):
            load_config(PipelineConfig, path)


def test_an_override_opens_an_absent_section():
    assert apply_overrides({"evaluation": None}, ["evaluation.best_of=2"]) == {"evaluation": {"best_of": 2}}
    assert AdapterConfig.model_validate({"rank": 3}).alpha == AdapterConfig().alpha
    with pytest.raises(ConfigError, match="not valid YAML"):
        apply_overrides({}, ["a=[1"])
