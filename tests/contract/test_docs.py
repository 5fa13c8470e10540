"""The pages that are made from the source are up to date, and name all that a person can set or read."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from cli_page import reference as commands
from config_page import reference

from thumbs.config.base import Frozen, build_config
from thumbs.config.data import DataConfig
from thumbs.config.environment import EnvironmentConfig
from thumbs.config.evaluation import EvaluationConfig
from thumbs.config.group import GroupConfig
from thumbs.config.labels import LabelsConfig
from thumbs.config.model import AdapterConfig, ModelConfig
from thumbs.config.optim import AdamConfig
from thumbs.config.pipeline import PipelineConfig
from thumbs.config.ppo import CriticConfig, KlConfig, PpoConfig
from thumbs.config.reward_model import RewardModelConfig
from thumbs.config.reward_parts import RewardPart
from thumbs.config.sampling import SamplingConfig
from thumbs.config.sft import SftConfig

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE = DOCS / "reference" / "config.md"
GUIDES = (
    "chat.md", "cluster.md", "direct.md", "evaluation.md", "group.md", "labels.md", "ppo.md", "python.md",
    "recipes.md", "rejection.md", "resume.md", "reward_model.md", "rlhf_pipeline.md", "safety.md", "sft.md",
    "trackers.md", "trl_ppo.md", "watching.md",
)  # fmt: skip
CLASSES = (
    PipelineConfig, ModelConfig, AdapterConfig, DataConfig, AdamConfig, SamplingConfig, SftConfig, LabelsConfig,
    RewardModelConfig, PpoConfig, KlConfig, CriticConfig, GroupConfig, EnvironmentConfig,
    RewardPart, EvaluationConfig,
)  # fmt: skip
STABLE_NAMES = (
    "sft.heldout_loss", "reward.heldout_accuracy", "reward.heldout_pairs", "reward.ece", "reward.length_correlation",
    "sft.gold", "ppo.gold", "ppo.proxy", "best_of_n.gold", "ppo.kl", "ppo.length_ratio", "ppo.distinct2_ratio",
    "ppo.win_rate", "time_s.", "compute_s", "peak_rss_gib",
)  # fmt: skip


def section(cls: type[Frozen]) -> str:
    return PAGE.read_text(encoding="utf-8").partition(f"\n## {cls.__name__}\n")[2].partition("\n## ")[0]


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_every_setting_is_on_the_page_with_its_meaning(cls: type[Frozen]):
    rows = dict(re.findall(r"^\| `(\w+)` \|(.*)\|$", section(cls), re.MULTILINE))
    assert list(rows) == list(cls.model_fields)
    assert [key for key, row in rows.items() if not row.rpartition("|")[2].strip()] == []


@pytest.mark.parametrize(
    ("cls", "row"),
    [
        (AdamConfig, "| `weight_decay` | number ≥ 0 | `0.0` |"),
        (SftConfig, "| `data` | [DataConfig](#dataconfig) | required |"),
        (PpoConfig, "| `score_clip` | number > 0 or null | `5.0` |"),
        (PpoConfig, "| `whiten_rewards` | true or false | `false` |"),
        (PpoConfig, "| `optim` | [AdamConfig](#adamconfig) | learning_rate: 0.0001, schedule: constant, "),
        (KlConfig, "| `estimator` | `k1` or `k2` or `k3` | `k1` |"),
        (AdapterConfig, "| `layers` | integer ≥ 1 or null | `null` |"),
        (SamplingConfig, "| `stop` | list of text | `[]` |"),
    ],
)
def test_types_bounds_and_defaults_are_those_of_the_source(cls: type[Frozen], row: str):
    assert row in section(cls)


def test_the_page_is_what_the_source_gives_now():
    assert PAGE.read_text(encoding="utf-8") == reference(), (
        "python docs/generators/config_page.py > docs/reference/config.md"
    )


def test_the_page_of_commands_is_what_they_print_now():
    assert (DOCS / "reference" / "cli.md").read_text(encoding="utf-8") == commands(), (
        "python docs/generators/cli_page.py > docs/reference/cli.md"
    )


def test_every_decision_is_in_the_list():
    listed = re.findall(r"\]\((.+?)\)", (DOCS / "decisions" / "README.md").read_text(encoding="utf-8"))
    assert listed == sorted(path.name for path in (DOCS / "decisions").glob("0*.md"))


def test_there_is_a_guide_for_each_capability():
    assert tuple(sorted(path.name for path in (DOCS / "guides").glob("*.md"))) == GUIDES


@pytest.mark.parametrize("name", GUIDES)
def test_the_settings_that_a_guide_shows_are_accepted(name: str):
    text = (DOCS / "guides" / name).read_text(encoding="utf-8")
    shown = re.findall(r"^```yaml\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert shown or name in ("python.md", "recipes.md", "rejection.md", "resume.md", "rlhf_pipeline.md")
    for block in shown:
        build_config(PipelineConfig, yaml.safe_load(block), source=name)


def test_the_page_of_the_demonstration_explains_every_stable_name():
    text = (DOCS / "demo.md").read_text(encoding="utf-8")
    assert [name for name in STABLE_NAMES if f"`{name}" not in text] == []
