"""A sequence classifier with one score, the form in which people publish reward models, run by `transformers`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import nn

from thumbs.data.tokenizers import Tokenizer, conversation_tokens, load_tokenizer
from thumbs.errors import ModelError, needs
from thumbs.models.catalog import resolve
from thumbs.models.checkpoint_files import COMPANIONS, SCORED_AT, read_json_object, weight_files
from thumbs.models.peft_folder import CONFIG as ADAPTER_CONFIG
from thumbs.models.peft_folder import base_name, fold, read_peft_config
from thumbs.models.precision import device, multiplies_bfloat16
from thumbs.models.weights import require_fit
from thumbs.records import Message

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_TOKENS = 8192
"""Tokens of a batch."""
_OUTPUT = ("lm_head.weight", "embed_out.weight")


@dataclass(frozen=True)
class Classifier:
    """A classifier with its own tokenizer.

    at_end: it is read at the token that ends the last reply, as thumbs trains; else after all that its chat template
    writes, as classifiers of other trainers are.
    """

    name: str
    model: PreTrainedModel
    tokenizer: Tokenizer
    at_end: bool

    def tokens(self, messages: Sequence[Message], *, cut: bool = False) -> np.ndarray:
        """What it reads of a conversation that ends in a reply; cut: the reply met a limit, so no token ends it (only
        classifiers that are read there know replies without an end).
        """
        if not self.at_end:
            return np.asarray(self.tokenizer.render(messages)[0], dtype=np.int64)
        tokens, _ = conversation_tokens(self.tokenizer, messages)
        return tokens[:-1] if cut else tokens

    @torch.no_grad()
    def scores(self, sequences: Sequence[np.ndarray]) -> np.ndarray:
        """Its logits, float64 [B]: those that `transformers` gives each sequence alone.

        Sequences of equal length share a batch, so nothing is padded and no score depends on its company.
        """
        lengths: dict[int, list[int]] = {}
        for place, tokens in enumerate(sequences):
            self._check(tokens)
            lengths.setdefault(len(tokens), []).append(place)
        found = np.zeros(len(sequences))
        # Without a padding token transformers takes one row at a time.
        alone = self.model.config.get_text_config().pad_token_id is None
        for length, places in lengths.items():
            rows = 1 if alone else max(1, _TOKENS // length)
            for start in range(0, len(places), rows):
                chosen = places[start : start + rows]
                tokens = torch.from_numpy(np.stack([sequences[i] for i in chosen])).to(self.model.device)
                logits = self.model(input_ids=tokens, attention_mask=torch.ones_like(tokens)).logits
                found[chosen] = logits[:, 0].double().cpu().numpy()
        return found

    def _check(self, tokens: np.ndarray) -> None:
        """Raises ModelError for tokens that the model cannot read."""
        config = self.model.config.get_text_config()
        rows = cast(nn.Embedding, self.model.get_input_embeddings()).num_embeddings
        longest = getattr(config, "max_position_embeddings", None)
        if len(tokens) and int(tokens.max()) >= rows:
            raise ModelError(f"{self.name}: its tokenizer gives token {int(tokens.max())}, and it has {rows}")
        if isinstance(longest, int) and len(tokens) > longest:
            raise ModelError(f"{self.name} reads at most {longest} tokens, and a conversation has {len(tokens)}")


def open_classifier(name: str) -> Classifier:
    """A local folder or a hub name of a sequence classifier with one label, or a folder with a LoRA adapter of one.

    Weights keep the format of the folder, or are float32 where the processor multiplies no other. Raises ModelError,
    which names what is there instead: a language model, several labels, tensors that are missing or unknown, a folder
    without a chat template.
    """
    folder = check_classifier(name)
    if _is_adapter(folder):
        return _open_adapter(name, folder)
    model = _load(folder, wanted=set(), spare=set())
    return Classifier(name, model, _tokenizer(folder), _read_at_end(folder))


def check_classifier(name: str) -> Path:
    """The folder of a classifier or its adapter; raises as `open_classifier`, as far as can be told without weights."""
    path = Path(name).expanduser()
    if _is_adapter(path):
        task = read_peft_config(path).get("task_type")
        if task != "SEQ_CLS":
            raise ModelError(f"{name} is an adapter for {task}, which gives no score; a reward model's says SEQ_CLS")
        _ = base_name(path)
        return path
    folder = resolve(name)
    _refuse_other_models(name, read_json_object(folder / "config.json"))
    _ = weight_files(folder)  # the words of our own reader where files are missing
    _refuse_other_files(folder)
    return folder


def _is_adapter(folder: Path) -> bool:
    return (folder / ADAPTER_CONFIG).is_file() and not (folder / "config.json").is_file()


def _refuse_other_models(name: str, config: dict[str, Any]) -> None:
    """Raises ModelError if config.json is of no sequence classifier with one label."""
    architecture = (config.get("architectures") or ["nothing"])[0]
    if not str(architecture).endswith("ForSequenceClassification"):
        raise ModelError(
            f"{name} holds {architecture}, which gives no score; a reward model is a sequence classifier with one "
            "label, or a run's `reward_model` folder"
        )
    labels = config.get("id2label")
    count = len(labels) if isinstance(labels, dict) else config.get("num_labels", 2)
    if count != 1:
        names = ", ".join(map(str, labels.values())) if isinstance(labels, dict) else "without names"
        raise ModelError(
            f"{name} has {count} labels ({names}), and which one is the reward is not said; a reward model has one. "
            "A Python function may score with this one: reward: [{function: module:name}]"
        )


def _open_adapter(name: str, folder: Path) -> Classifier:
    base = resolve(base_name(folder))
    head = {"score.weight"}
    model = _load(base, wanted=head, spare=set(_OUTPUT), num_labels=1, dtype=torch.float32)
    state = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    fresh = state["score.weight"].clone()
    fold(folder, state, str(base))
    if torch.equal(state["score.weight"], fresh):
        raise ModelError(f"{name} holds no score.weight; without its head a reward model scores nothing")
    model.load_state_dict(state)
    own = (folder / "tokenizer.json").is_file() or (folder / "tokenizer_config.json").is_file()
    tokenizer, at_end = _tokenizer(folder if own else base), _read_at_end(folder)
    if at_end:  # a base may pad with the very token that ends a reply, and the classifier would read what is before it
        model.config.pad_token_id = tokenizer.pad_id
    return Classifier(name, model, tokenizer, at_end)


def _load(folder: Path, *, wanted: set[str], spare: set[str], **options: Any) -> PreTrainedModel:
    """The classifier of a folder, which lacks exactly `wanted` and may hold `spare` besides."""
    with needs("hf", "a sequence classifier"):  # takes seconds, which a check of names does not need
        from transformers import AutoModelForSequenceClassification

    dtype = "auto" if multiplies_bfloat16() else torch.float32
    try:
        model, found = AutoModelForSequenceClassification.from_pretrained(
            folder,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
            **{"dtype": dtype} | options,
        )
    except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
        raise ModelError(f"transformers cannot load a sequence classifier from {folder}: {error}") from error
    missing, unknown = set(found["missing_keys"]) - wanted, set(found["unexpected_keys"]) - spare
    require_fit(missing, unknown, type(model).__name__, str(folder))
    return model.eval().requires_grad_(False).to(device())


def _refuse_other_files(folder: Path) -> None:
    """Raises ModelError if weights lie next to a classifier that belong to another form of model."""
    if other := [name for name in COMPANIONS if (folder / name).is_file()]:
        raise ModelError(f"{folder} holds a classifier and {', '.join(other)} next to it; which one scores is not said")


def _tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of a folder; raises ModelError if it says not how a conversation becomes text."""
    tokenizer = load_tokenizer(folder)
    settings = folder / "tokenizer_config.json"
    known = read_json_object(settings) if settings.is_file() else {}
    byte = known.get("thumbs_tokenizer") or known.get("tokenizer_class") == "ThumbsByteTokenizer"
    if not (byte or known.get("chat_template") or (folder / "chat_template.jinja").is_file()):
        raise ModelError(
            f"{folder} has no chat template, so how it reads a conversation is not known; put a chat_template.jinja "
            "there that writes one as in its training"
        )
    return tokenizer


def _read_at_end(folder: Path) -> bool:
    """Whether thumbs_reward.json says so; raises ModelError if it says anything else."""
    if not (folder / SCORED_AT).is_file():
        return False
    told = read_json_object(folder / SCORED_AT)
    if told != {"scored_at": "end_token"}:
        raise ModelError(f'{folder / SCORED_AT} says {told}; known is {{"scored_at": "end_token"}}')
    return True
