"""Code written for tinker_cookbook finds its names here, or is told what to do instead."""

from __future__ import annotations

import importlib
import inspect
import subprocess
import sys

import pytest

import thumbs as mint
from thumbs.errors import ConfigError, ThumbsError
from thumbs.recipe import configs, names

# What scripts import, by the module names of tinker_cookbook.
IMPORTS = {
    "checkpoint_utils": "CheckpointManager CheckpointRecord get_last_checkpoint load_checkpoints_file save_checkpoint "
    "save_checkpoint_async resolve_renderer_name_from_checkpoint_or_default",
    "cli_utils": "LogdirBehavior check_log_dir model_name_from_argv runs_path",
    "completers": "MessageCompleter StopCondition TinkerMessageCompleter TinkerTokenCompleter TokenCompleter "
    "TokensWithLogprobs",
    "eval.evaluators": "Evaluator EvaluatorBuilder SamplingClientEvaluator SamplingClientEvaluatorBuilder "
    "TrainingClientEvaluator",
    "exceptions": "AllTrajectoriesFailedError CheckpointError ConfigurationError DataError DataFormatError "
    "DataValidationError RendererError TinkerCookbookError TrainingError",
    "hyperparam_utils": "get_lora_lr_over_full_finetune_lr get_lora_param_count get_lr",
    "model_info": "ModelAttributes get_model_attributes get_recommended_renderer_name get_recommended_renderer_names",
    "preference": "Comparison ComparisonDatasetBuilder LabeledComparison",
    "preference.comparison_policy_evaluator": "ComparisonEvaluator",
    "preference.dpo_datasets": "DPODatasetBuilderFromComparisons",
    "preference.preference_datasets": "ChatDatasetBuilderFromComparisons ComparisonBuilderFromJsonl "
    "ComparisonDatasetBuilder",
    "preference.train_dpo": "Config compute_dpo_loss main",
    "preference.types": "Comparison ComparisonRenderer ComparisonRendererFromChatRenderer LabeledComparison "
    "PreferenceModel PreferenceModelBuilder PreferenceModelBuilderFromChatRenderer PreferenceModelFromChatRenderer",
    "renderers": "ContentPart Message MessageDelta ParseTermination RenderContext Renderer Role StreamingMessageHeader "
    "StreamingTextDelta StreamingThinkingDelta TextPart ThinkingPart ToolCall ToolSpec TrainOnWhat UnparsedToolCall "
    "Utf8TokenDecoder classify_parse_failure ensure_text format_content_as_string get_registered_renderer_names "
    "get_renderer get_text_content is_renderer_registered parse_content_blocks register_renderer unregister_renderer",
    "renderers.base": "Message Renderer ToolCall ensure_list",
    "renderers.qwen3": "Qwen3Renderer",
    "rl": "Action Env EnvGroupBuilder FailFast Logs Metrics MinViableGroup Observation RLDataset RLDatasetBuilder "
    "RetryOnFailure RolloutError RolloutStrategy StepResult Trajectory TrajectoryGroup Transition",
    "rl.data_processing": "assemble_training_data compute_advantages trajectory_to_data",
    "rl.message_env": "EnvFromMessageEnv MessageEnv MessageStepResult",
    "rl.metric_util": "RLTestSetEvaluator compute_trajectory_metrics",
    "rl.metrics": "compute_kl_sample_train discounted_future_sum_vectorized",
    "rl.preference_envs": "PairwisePreferenceGroupBuilder PairwisePreferenceRLDatasetBuilder TournamentPattern",
    "rl.problem_env": "ProblemEnv ProblemGroupBuilder logger",
    "rl.rollout_limits": "ParseErrorPolicy RolloutLimits TerminationRewardPolicy",
    "rl.rollout_strategy": "FailFast MinViableGroup RetryOnFailure RolloutResult RolloutStrategy",
    "rl.rollouts": "do_group_rollout do_single_rollout",
    "rl.train": "AsyncConfig Config KLReferenceConfig StreamMinibatchConfig main",
    "rl.types": "ActionExtra InitialObservationOverflow RolloutError StopReason",
    "supervised": "ChatDatasetBuilder ChatDatasetBuilderCommonConfig FromConversationFileBuilder SupervisedDataset "
    "StreamingSupervisedDatasetFromHFDataset SupervisedDatasetBuilder SupervisedDatasetFromHFDataset "
    "compute_mean_nll conversation_to_datum datum_from_model_input_weights",
    "supervised.common": "compute_bpb compute_mean_nll datum_from_model_input_weights",
    "supervised.data": "HFDatasetSource InterleavedChatDatasetBuilder",
    "supervised.nll_evaluator": "NLLEvaluator",
    "supervised.train": "Config main",
    "tokenizer_utils": "Tokenizer get_registered_tokenizer_names get_tokenizer is_tokenizer_registered "
    "register_tokenizer unregister_tokenizer",
    "utils.git_rev": "recipe_user_metadata",
    "utils.logtree": "details log_formatter log_text scope_header table table_from_dict",
    "utils.lr_scheduling": "LRSchedule compute_schedule_lr_multiplier",
    "utils.ml_log": "JsonLogger Logger MultiplexLogger PrettyPrintLogger configure_logging_module dump_config "
    "setup_logging",
}


@pytest.mark.parametrize("module", IMPORTS)
def test_names_are_where_scripts_look_for_them(module: str) -> None:
    found = importlib.import_module(f"thumbs.recipe.{module}")
    assert [name for name in IMPORTS[module].split() if not hasattr(found, name)] == []
    at = mint.recipe
    for part in module.split("."):
        at = getattr(at, part)
    assert at is found


@pytest.mark.parametrize("path", names.ABSENT)
def test_absent_names_say_what_to_do_instead(path: str) -> None:
    parent, _, name = f"thumbs.recipe.{path}".rpartition(".")
    with pytest.raises(ImportError, match="is not there: ") as caught:
        getattr(importlib.import_module(parent), name)
    assert names.ABSENT[path] in str(caught.value)


def test_an_absent_module_cannot_be_imported() -> None:
    with pytest.raises(ImportError, match="weights is not there: `thumbs export`"):
        importlib.import_module("thumbs.recipe.weights")


def test_modules_that_nobody_knows_are_missing_as_ever() -> None:
    with pytest.raises(ModuleNotFoundError, match="nonsense"):
        importlib.import_module("thumbs.recipe.nonsense")
    assert not hasattr(mint.recipe, "nonsense")


def test_names_work_from_the_first_import_on() -> None:
    script = "from thumbs.recipe.utils import ml_log\nfrom thumbs.recipe.supervised.common import compute_bpb\n"
    subprocess.run([sys.executable, "-c", script], check=True)


def test_errors_are_caught_under_their_names() -> None:
    errors = importlib.import_module("thumbs.recipe.exceptions")
    assert errors.ConfigurationError is ConfigError
    assert issubclass(errors.AllTrajectoriesFailedError, errors.TrainingError)
    assert issubclass(errors.TrainingError, ThumbsError)


COOKBOOK = {
    "supervised.train": {"learning_rate": 1e-4, "submit_ahead": 1, "save_every": 20, "eval_every": 10, "lora_rank": 32},
    "rl.train": {"temperature": 1.0, "num_substeps": 1, "loss_fn": "importance_sampling", "eval_every": 20},
    "preference.train_dpo": {"learning_rate": 1e-5, "dpo_beta": 0.1, "adam_beta2": 0.95, "ttl_seconds": 604800},
}


@pytest.mark.parametrize("module", COOKBOOK)
def test_configs_have_the_defaults_that_scripts_rely_on(module: str) -> None:
    config = importlib.import_module(f"thumbs.recipe.{module}").Config
    fields = {"log_path": "x", "model_name": "y", "dataset_builder": None}
    if module == "rl.train":
        fields |= {"learning_rate": 1.0, "max_tokens": 1}
    made = configs.describe(config(**fields))
    assert {name: made[name] for name in COOKBOOK[module]} == COOKBOOK[module]
    main = importlib.import_module(f"thumbs.recipe.{module}").main
    assert next(iter(inspect.signature(main).parameters)) == "config"
