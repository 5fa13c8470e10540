"""A batch as a tree: nothing is lost, nothing stands twice, and the decoder computes the same numbers on it."""

import numpy as np
import pytest
import torch

from thumbs.models.byte_lm import build_byte_lm
from thumbs.models.prefixes import NEVER, prefix_tree, shared_length


def arrays(*sequences):
    return [np.array(s, dtype=np.int64) for s in sequences]


def random_sequences(seed, count=30, symbols=2):
    rng = np.random.default_rng(seed)
    return [rng.integers(symbols, size=rng.integers(1, 12)) for _ in range(count)]


def path_tokens(tree, segment, distinct):
    starts = np.cumsum([0, *tree.lengths])
    tokens = []
    while segment >= 0:
        tokens = [*distinct[starts[segment] : starts[segment + 1]], *tokens]
        segment = tree.parents[segment]
    return tokens


def test_shared_length():
    a, b, c = arrays([1, 2, 3], [1, 2, 4, 5], [1, 2])
    assert [shared_length(a, b), shared_length(a, c), shared_length(a, a), shared_length(b, a[:0])] == [2, 2, 3, 0]


def test_by_hand():
    tree = prefix_tree(arrays([5, 6, 7, 8], [5, 6, 9], [5, 6, 7, 8], [1]), worth=1)
    assert tree.lengths == [1, 2, 2, 1]  # 1 | 5 6 | 7 8 | 9
    assert tree.parents == [-1, -1, 1, 1]
    assert tree.ends == [2, 3, 2, 0]
    assert tree.source.tolist() == [11, 0, 1, 2, 3, 6]
    assert tree.places.tolist() == [1, 2, 3, 4, 1, 2, 5, 1, 2, 3, 4, 0]


def test_a_sequence_that_is_the_beginning_of_another():
    tree = prefix_tree(arrays([1, 2, 3], [1, 2]), worth=1)
    assert (tree.lengths, tree.parents, tree.ends) == ([2, 1], [-1, 0], [1, 0])


def test_a_beginning_is_shared_only_where_it_is_worth_a_row():
    sequences = arrays([1, 2, 3, 4], [1, 2, 3, 5], [1, 2, 3, 6])
    assert prefix_tree(sequences, worth=6).lengths == [3, 1, 1, 1]
    assert prefix_tree(sequences, worth=7).lengths == [4, 4, 4]


@pytest.mark.parametrize("seed", range(5))
def test_every_sequence_can_be_read_back(seed):
    sequences = random_sequences(seed)
    packed = np.concatenate(sequences)
    for worth in (1, 4, 8, NEVER):
        tree = prefix_tree(sequences, worth=worth)
        distinct = packed[tree.source]
        assert distinct[tree.places].tolist() == packed.tolist()
        for sequence, end in zip(sequences, tree.ends, strict=True):
            assert path_tokens(tree, end, distinct) == sequence.tolist()
        assert all(parent < place for place, parent in enumerate(tree.parents))


@pytest.mark.parametrize("seed", range(5))
def test_counts_of_distinct_tokens(seed):
    """Sharing everything leaves the nodes of a trie; sharing nothing leaves the distinct sequences."""
    sequences = random_sequences(seed)
    prefixes = {tuple(s[: n + 1]) for s in sequences for n in range(len(s))}
    assert sum(prefix_tree(sequences, worth=1).lengths) == len(prefixes)
    assert sum(prefix_tree(sequences, worth=NEVER).lengths) == sum(map(len, {tuple(s) for s in sequences}))


@pytest.fixture
def model():
    return build_byte_lm("byte-tiny", 0, torch.float32)


def test_states_and_gradients_are_those_of_sequences_alone(model):
    sequences = random_sequences(3, count=12, symbols=3)
    tree = prefix_tree(sequences, worth=2)
    assert any(parent >= 0 and tree.parents[parent] >= 0 for parent in tree.parents)  # three generations
    tokens = torch.from_numpy(np.concatenate(sequences))
    pull = torch.randn(len(tokens), model.width, generator=torch.Generator().manual_seed(1))

    alone = torch.cat([model.forward_packed(torch.from_numpy(s), [len(s)]) for s in sequences])
    (alone * pull).sum().backward()
    wanted = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    shared = model.forward_packed(tokens[tree.source], tree.lengths, None, tree.parents)[tree.places]
    (shared * pull).sum().backward()

    torch.testing.assert_close(shared, alone, rtol=1e-4, atol=1e-5)
    assert wanted
    for name, parameter in model.named_parameters():
        if name in wanted:
            torch.testing.assert_close(parameter.grad, wanted[name], rtol=1e-3, atol=1e-4, msg=name)


@torch.no_grad()
def test_prompts_under_one_system_prompt_fill_the_cache_as_if_alone(model):
    system = list(range(40, 52))
    prompts = [[*system, 1, 2, 3], [*system, 1, 9], system, [7, 8], [*system, 1, 2, 3]]
    cache = model.new_cache(len(prompts), 20)
    ends = model.prefill(prompts, cache)
    following = model.decode(torch.tensor([60, 61, 62, 63, 64]), cache)
    for row, prompt in enumerate(prompts):
        whole = model.forward_packed(torch.tensor([*prompt, 60 + row]), [len(prompt) + 1])
        torch.testing.assert_close(ends[row], whole[-2], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(following[row], whole[-1], rtol=1e-4, atol=1e-5)
