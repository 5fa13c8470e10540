"""`thumbs.recipe` with the cookbook installed, in a process that imported no SDK."""

from __future__ import annotations

import asyncio
import copy
import importlib
import json
import pkgutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import chz
import pytest

import thumbs
from thumbs import recipe  # before the cookbook, which imports `tinker`
from thumbs.errors import ConfigError, ThumbsError

tinker: Any = importlib.import_module("tinker")
cookbook: Any = importlib.import_module("tinker_cookbook")

MINT = """renderers completers rl tool_use supervised distillation eval weights sandbox preference stores utils xmux
model_info recipes third_party datum_from_model_input_weights get_recommended_renderer_name Message EnvFromMessageEnv
MessageEnv MessageStepResult conversation_to_datum get_tokenizer"""
"""What `mint.recipe` of mindlab-toolkit has."""


@pytest.mark.parametrize("name", MINT.split())
def test_every_name_of_mint_recipe_is_there(name: str) -> None:
    assert getattr(recipe, name) is not None


def test_names_are_those_of_the_cookbook() -> None:
    from thumbs.recipe.rl import message_env, train
    from thumbs.recipe.supervised.data import conversation_to_datum

    theirs = importlib.import_module("tinker_cookbook.rl.message_env")
    assert message_env.MessageEnv is recipe.MessageEnv is theirs.MessageEnv
    assert recipe.rl.train is train
    assert train.main is importlib.import_module("tinker_cookbook.rl.train").main
    assert recipe.conversation_to_datum is conversation_to_datum
    assert dir(message_env) == dir(theirs)
    with pytest.raises(AttributeError, match=r"no tinker_cookbook.rl.trian"):
        _ = recipe.rl.trian
    with pytest.raises(ModuleNotFoundError, match=r"thumbs.recipe.rl.trian"):
        importlib.import_module("thumbs.recipe.rl.trian")


@pytest.mark.parametrize("module", ["supervised.train", "rl.train", "preference.train_dpo"])
def test_only_the_name_of_the_recipe_may_be_left_out(module: str) -> None:
    ours = importlib.import_module(f"thumbs.recipe.{module}").Config
    theirs = importlib.import_module(f"tinker_cookbook.{module}").Config
    assert issubclass(ours, theirs)
    assert ours is importlib.import_module(f"thumbs.recipe.{module}").Config
    assert list(chz.chz_fields(ours)) == list(chz.chz_fields(theirs))
    values: dict[str, Any] = {"log_path": "a", "model_name": "b", "dataset_builder": None, "learning_rate": 1e-3}
    values |= {"max_tokens": 4} if module == "rl.train" else {}
    assert vars(ours(**values)) == vars(theirs(**values, recipe_name="thumbs"))
    with pytest.raises(TypeError, match="recipe_name"):
        theirs(**values)


def test_formats_of_models_that_the_cookbook_does_not_list() -> None:
    assert recipe.get_recommended_renderer_name("Qwen/Qwen3-8B") == "qwen3"
    assert recipe.get_recommended_renderer_name("Qwen/Qwen3-0.6B") == "qwen3"
    assert recipe.model_info.get_recommended_renderer_name("byte-tiny") == "role_colon"
    chat = thumbs.ServiceClient().create_lora_training_client("Qwen/Qwen3-8B", rank=2).get_tokenizer()
    recipe.tokenizer_utils.register_tokenizer("mine", lambda: chat)
    assert recipe.get_recommended_renderer_name("mine") == "qwen3_instruct"


def test_tinker_is_this_process() -> None:
    assert tinker.Datum is tinker.types.Datum is thumbs.types.Datum
    assert issubclass(tinker.ServiceClient, thumbs.ServiceClient)
    assert issubclass(tinker.TinkerError, ThumbsError)
    assert not issubclass(tinker.BadRequestError, tinker.APIError)
    with pytest.raises(ConfigError, match="base_url='http://here', but recipes train in this process"):
        tinker.ServiceClient(base_url="http://here")


def test_every_module_of_the_cookbook_finds_what_it_imports_of_the_sdk() -> None:
    imported, missing = 0, {}
    for module in pkgutil.walk_packages(cookbook.__path__, "tinker_cookbook.", onerror=lambda _: None):
        if module.name.endswith(("_test", ".conftest", ".__main__")) or ".tests." in module.name:
            continue
        try:
            importlib.import_module(module.name)
            imported += 1
        except Exception as error:  # that other libraries are missing does not matter here
            if "tinker" in str(error).replace("tinker_cookbook", "").replace("tinker-cookbook", ""):
                missing[module.name] = str(error)
    assert missing == {}
    assert imported > 100


def test_pairs_of_a_file_with_a_byte_model(tmp_path: Path) -> None:
    """All of it by the names here: DPO, whose reference is the policy of the beginning."""
    from thumbs.recipe.preference import dpo_datasets, preference_datasets, train_dpo

    pair = {"prompt_conversation": [{"role": "user", "content": "Hi."}]}
    pair |= {
        f"completion_{side}": [{"role": "assistant", "content": text}] for side, text in (("A", "Yes."), ("B", "No."))
    }
    file = tmp_path / "pairs.jsonl"
    file.write_text(f"{json.dumps({'comparison': pair, 'label': 'A'})}\n" * 12, encoding="utf-8")
    common = recipe.supervised.types.ChatDatasetBuilderCommonConfig(
        model_name_for_tokenizer="byte-tiny", renderer_name="role_colon", max_length=64, batch_size=4
    )
    comparisons = preference_datasets.ComparisonBuilderFromJsonl(train_path=str(file))
    train_dpo.main(
        train_dpo.Config(
            log_path=str(tmp_path / "run"),
            model_name="byte-tiny",
            lora_rank=4,
            learning_rate=1e-2,
            lr_schedule="constant",
            renderer_name="role_colon",
            save_every=0,
            eval_every=0,
            infrequent_eval_every=0,
            dataset_builder=dpo_datasets.DPODatasetBuilderFromComparisons(
                common_config=common, comparison_builder=comparisons
            ),
        )
    )
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    losses = [row["dpo_loss"] for row in rows if "dpo_loss" in row]
    assert losses[0] == pytest.approx(0.6931, abs=1e-3)
    assert losses[-1] < 0.6


def test_a_tokenizer_works_for_many_threads_at_once() -> None:
    """Each call changes a setting of it, as the qwen3 renderers do."""
    tokenizer = recipe.get_tokenizer("Qwen/Qwen3-8B")
    texts = [f"text {number} " * 50 for number in range(300)]

    def through(text: str) -> str:
        return tokenizer.decode(tokenizer.encode(text, split_special_tokens=len(text) % 2 == 0))

    with ThreadPoolExecutor(16) as threads:
        assert list(threads.map(through, texts)) == texts
    assert copy.deepcopy(tokenizer).encode("a") == tokenizer.encode("a")


def test_a_client_in_the_settings_is_the_same_client_in_a_copy() -> None:
    @chz.chz
    class Holder:
        client: Any

    client = thumbs.ServiceClient()
    assert chz.asdict(Holder(client=client)) == {"client": client}


def test_a_future_is_a_coroutine_for_what_takes_no_other_awaitable() -> None:
    async def both() -> list[Any]:
        client = thumbs.ServiceClient().create_sampling_client(base_model="byte-tiny", record_stability_info=True)
        tokens = thumbs.ModelInput.from_ints(list(b"hello"))
        return await asyncio.gather(*(client.compute_logprobs(tokens).coroutine() for _ in range(2)))

    first, second = asyncio.run(both())
    assert first == second
    assert len(first) == 5
