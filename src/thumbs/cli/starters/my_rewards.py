"""Rewards of your own: a config names them as `my_rewards:NAME`, and the run calls them with each reply."""


def short_and_finished(rollout):
    """1 for a reply that the model ended by itself, less 0.02 for each word above 25.

    `rollout` has the `text` of the reply, its `prompt` and its `stop_reason` ("stop" or "length").
    """
    words = len(rollout.text.split())
    return float(rollout.stop_reason == "stop") - 0.02 * max(words - 25, 0)
