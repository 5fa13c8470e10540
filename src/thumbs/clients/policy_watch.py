"""A watch for scripts that train through the clients, of this process or of the Tinker SDK.

    watch = PolicyWatch(prompts, proxy, second, reference, params)
    for step in range(steps):
        seen = watch.look(step, training_client)
        if seen.over:
            training_client.load_state(seen.best).result()
            break
        ...

It measures and judges as the watch of a run does (`safety/looks.py`), all but the mismatch of trainer and sampler.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from thumbs.safety.looks import VALUE, Look, judge
from thumbs.tracking.files import StepLog

ScoreReplies = Callable[[Sequence[Any]], Sequence[float]]
"""Scores of sampled sequences, one for each prompt, in the order of the prompts."""


@dataclass(frozen=True)
class PolicyLook:
    """The numbers of a look, and its alarms in words by their signs. best: path of the state with the highest value so
    far, for `load_state`. over: whether an alarm says that the reward is being gamed.
    """

    numbers: dict[str, float]
    alarms: dict[str, str]
    best: str

    @property
    def over(self) -> bool:
        return VALUE in self.alarms


@dataclass(frozen=True)
class PolicyWatch:
    """Looks at the policy of a training client, which a script asks for every so many steps, before the first one too.

    prompts: a fixed set, as the SDK's ModelInput; 128 are usual. proxy: what the policy is paid by. second: another
    opinion, or gold. reference: a sampling client of the weights that training began with. params: the sampling
    parameters of each prompt by its number, at temperature 1, each with a seed of its own, so that looks have the same
    random numbers. kl_price: what a nat has to earn in the second opinion, 0 for gold. folder: gets alarms.jsonl.
    seen: what looks are compared with, plain data that a script may keep with its checkpoints.
    """

    prompts: Sequence[Any]
    proxy: ScoreReplies
    second: ScoreReplies
    reference: Any
    params: Callable[[int], Any]
    kl_price: float = 0.1
    folder: Path | None = None
    seen: dict[str, Any] = field(default_factory=dict)

    def look(self, step: int, client: Any) -> PolicyLook:
        """Samples a reply to each prompt, judges them, and saves the state of the client where its value is highest."""
        sampler = client.save_weights_and_get_sampling_client()
        asked = [sampler.sample(prompt, 1, self.params(row)) for row, prompt in enumerate(self.prompts)]
        replies = [each.result().sequences[0] for each in asked]
        wholes = [
            type(prompt).from_ints([*prompt.to_ints(), *reply.tokens])
            for prompt, reply in zip(self.prompts, replies, strict=True)
        ]
        known = [each.result() for each in [self.reference.compute_logprobs(whole) for whole in wholes]]
        logprobs = np.array([float(np.sum(reply.logprobs)) for reply in replies])
        theirs = [float(np.sum(row[-len(reply.tokens) :])) for row, reply in zip(known, replies, strict=True)]
        look = Look(
            proxy=np.array(self.proxy(replies), dtype=np.float64),
            second=np.array(self.second(replies), dtype=np.float64),
            log_ratios=logprobs - np.array(theirs),
            logprobs=logprobs,
            tokens=[list(reply.tokens) for reply in replies],
            ended=np.array([reply.stop_reason != "length" for reply in replies]),
        )
        judged = judge(look, step, self.seen, self.kl_price)
        if judged.is_best:
            self.seen["path"] = client.save_state(f"watch-{step:06d}").result().path
        if self.folder is not None:
            for sign, alarm in judged.alarms.items():
                StepLog(self.folder / "alarms.jsonl").append(step, {"sign": sign, "alarm": alarm})
        return PolicyLook(judged.numbers, judged.alarms, self.seen["path"])
