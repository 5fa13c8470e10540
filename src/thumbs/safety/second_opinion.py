"""When a policy no longer earns what it is paid for, in the eyes of a reward model that it was not trained against.

An optimised score rises whether or not the replies become better (Gao et al. 2022, arXiv:2210.10760). A second reward
model, trained on other pairs, does not share the first one's noise, but it may share its blind spots, such as texts
that neither has ever seen. Those lie far from the reference. So the value of a policy is

    V = mean over prompts of  second score - price · log π(y) / π_reference(y)

in deviations of the second score. It rises while both opinions agree, and falls when only distance is gained. The
replies of all looks are drawn with the same random numbers, so looks are compared prompt by prompt.
"""

from __future__ import annotations

import numpy as np

SURE = 3.0
"""Standard errors that a fall must have."""


def is_certain_fall(before: np.ndarray, now: np.ndarray) -> bool:
    """Whether the mean of values [P] is lower than it was, by a paired test over prompts."""
    fall = np.asarray(before, dtype=np.float64) - np.asarray(now, dtype=np.float64)
    error = fall.std(ddof=1) / np.sqrt(len(fall))
    return bool(fall.mean() > SURE * error)


def is_over_optimised(start: np.ndarray, best: np.ndarray, now: np.ndarray, *, left: float = 0.0) -> bool:
    """Whether what training has won is lost again: values [P] that are certainly below the best ones so far, and of
    whose gain over the start at most the share `left` is left.

    A smaller fall is common in runs with nothing wrong (docs/log.md), and so is such a fall for one step: an alarm
    wants it at two looks in a row. The policy to return to is the one with the best value all the same.
    """
    bound = float(np.mean(start)) + left * float(np.mean(best) - np.mean(start))
    return is_certain_fall(best, now) and float(np.mean(now)) <= bound
