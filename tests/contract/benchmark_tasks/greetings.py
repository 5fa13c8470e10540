"""A task of inspect-ai: whether a reply has an "e" in it."""

from inspect_ai import Task, task  # type: ignore[import-not-found]
from inspect_ai.dataset import Sample  # type: ignore[import-not-found]
from inspect_ai.model import GenerateConfig  # type: ignore[import-not-found]
from inspect_ai.scorer import includes  # type: ignore[import-not-found]


@task
def letters() -> Task:
    """Three names, greeted greedily."""
    samples = [Sample(input=name, target="e") for name in ("Ida", "Jon", "Kim")]
    return Task(dataset=samples, scorer=includes(), config=GenerateConfig(max_tokens=8, temperature=0.0))
