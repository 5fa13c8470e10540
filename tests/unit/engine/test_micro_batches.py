"""How datums are laid end to end."""

import numpy as np
import pytest
import torch

from thumbs.engine.batch import micro_batches
from thumbs.models.prefixes import NEVER, WORTH
from thumbs.records import Example

CPU = torch.device("cpu")


def datum(length, first=0, **columns):
    tokens = np.arange(first, first + length + 1)
    return Example.next_token(tokens, weights=np.arange(length) + first, **columns)


@pytest.mark.parametrize("budget", [1, 10, 16, 1000])
def test_every_datum_comes_once_and_budgets_are_kept(budget):
    data = [datum(n, 100 * i) for i, n in enumerate([5, 3, 9, 1, 7, 3])]
    batches = micro_batches(data, CPU, budget)
    assert sorted(i for b in batches for i in b.order) == list(range(6))
    for batch in batches:
        assert sum(batch.lengths) <= budget or len(batch.order) == 1
        pieces = zip(batch.order, batch.split(batch.tokens), batch.split(batch.targets), strict=True)
        for index, tokens, targets in pieces:
            assert tokens.tolist() == data[index].inputs.tolist()
            assert targets.tolist() == data[index].targets.tolist()
        weights = [w.tolist() for w in batch.split(batch.columns["weights"])]
        assert weights == [data[i].columns["weights"].tolist() for i in batch.order]
        assert batch.tokens[batch.last].tolist() == [data[i].inputs[-1] for i in batch.order]
    if budget == 1000:
        assert len(batches) == 1


def test_similar_lengths_stand_together():
    batches = micro_batches([datum(n, first=20 * n) for n in [1, 9, 2, 8]], CPU, 17)
    assert [b.lengths for b in batches] == [[9, 8], [2, 1]]


def test_pairs_stay_together():
    data = [datum(n, unit=p, score=p + 0.5) for n, p in [(9, 0), (2, 1), (1, 0), (8, 1), (3, 2), (3, 2)]]
    for budget in (1, 10, 100):
        for batch in micro_batches(data, CPU, budget):
            pairs = batch.sequence_columns["unit"].tolist()
            assert all(pairs.count(p) == 2 for p in pairs)
            assert batch.sequence_columns["score"].tolist() == [p + 0.5 for p in pairs]
    assert [sorted(b.order) for b in micro_batches(data, CPU, 1)] == [[0, 2], [1, 3], [4, 5]]


def test_equal_sequences_count_once():
    data = [datum(4, first=i, unit=p) for p, (a, b) in enumerate([(0, 1), (1, 2), (2, 0)]) for i in (a, b)]
    (batch,) = micro_batches(data, CPU, 12)
    tree = batch.tree(NEVER)
    assert tree.lengths == [4, 4, 4]
    assert batch.tokens[tree.source][tree.places].tolist() == batch.tokens.tolist()
    assert len(micro_batches(data, CPU, 11)) > 1


def test_replies_to_one_prompt_stand_together_and_share_its_tokens():
    prompts = [list(range(10 * k, 10 * k + 8)) for k in range(3)]
    sequences = [[*prompt, 90 + n, *[7] * n] for n in range(3) for prompt in prompts]
    data = [Example(np.array(s), np.array(s)) for s in sequences]
    batches = micro_batches(data, CPU, 14)  # 8 + 1 + 2 + 3
    assert [sorted(b.order) for b in batches] == [[0, 3, 6], [1, 4, 7], [2, 5, 8]]
    assert [sum(b.tree(WORTH).lengths) for b in batches] == [14, 14, 14]
    assert len(micro_batches(data, CPU, 13)) > 3
    alone = micro_batches(data, CPU, 30, worth=NEVER)
    assert [sum(b.tree(NEVER).lengths) for b in alone] == [30, 30, 30]
    assert len(micro_batches(data, CPU, 29, worth=NEVER)) > 3
