"""Keys of requests: each is read, or in a list of harmless ones with the reason, or refused by name. null is absent."""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Iterable, Mapping
from typing import Any

from thumbs.errors import DataError

HARMLESS: Mapping[str, str] = {
    "type": "every request of the SDKs says again what its address says",
    "retrieve_future.allow_metadata_only": "an answer may leave the result out; ours never does",
    "sessions/finish.detail": "words about the end of a session, which are not kept",
    "asample.record_stability_info": "asks to record what stable_reinforce needs; samples are the same without it",
    "save_weights_for_sampler.kind": "an inflight sampler may take newer weights on, and need not",
    "save_weights_for_sampler.sampling_session_seq_id": "with a name a checkpoint is saved, and no sampler is numbered",
    "forward_backward.model_input_spans": "provenance for stable_reinforce, which is not served",
    "forward_backward.loss_fn_input_spans": "provenance for stable_reinforce, which is not served",
}
"""Keys that the SDKs send and that change nothing here, `type` in every object, others by request."""

NOT_SERVED: Mapping[str, str] = {
    "rollout_correction_config": (
        "corrections of rollouts are not applied here; leave it out, and use the loss ppo, cispo or gspo, whose ratio "
        "to the sampler's logprobs is bounded, or mask and weight advantages in the client"
    ),
    "weights_access_token": "checkpoints of others are read once they are published, with the caller's own key",
    "stop_token_ids": "give the ids as stop",
    "use_dora": "adapters are plain LoRA",
    "lora_alpha": "every adapter has alpha 32",
}
"""Known keys that ask for what there is not, with what to do instead."""


class UnknownKeyError(DataError):
    """A request has a key that is none of its own."""


def check_keys(given: Iterable[str], allowed: Iterable[str], place: str = "") -> None:
    """Raises UnknownKeyError that names the first key that is not allowed, and the one that is nearest to it."""
    known = set(allowed)
    for key in given:
        if key in known or key == "type":
            continue
        where = f"{place}.{_short(key)}" if place else _short(key)
        if key in NOT_SERVED:
            raise UnknownKeyError(f"{where}: {NOT_SERVED[key]}")
        near = difflib.get_close_matches(str(key)[:64], known, 1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise UnknownKeyError(f"{where} is not a known field{hint}; allowed: {', '.join(sorted(known)) or 'none'}")


def present(given: Mapping[str, Any]) -> dict[str, Any]:
    """The mapping without keys whose value is null."""
    return {key: value for key, value in given.items() if value is not None}


def _short(key: object) -> str:
    return key if isinstance(key, str) and len(key) <= 64 else reprlib.repr(key)
