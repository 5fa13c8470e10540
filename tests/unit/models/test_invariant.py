"""States with the same bits in any company: equal to transformers', and to themselves whatever else is computed."""

import numpy as np
import pytest
import torch

from thumbs.config.model import ModelConfig
from thumbs.models.byte_lm import build_byte_lm
from thumbs.models.causal_lm import prepacked_layer
from thumbs.models.invariant import BLOCK, CHUNK, invariant_states
from thumbs.models.trunk import open_trunk
from tiny_models import FAMILIES, load_reference, random_sequences, save_random

LENGTHS = [BLOCK + 1, 3, BLOCK, 1, 2 * BLOCK, BLOCK - 1, 90]  # the tiny models see 2 · BLOCK positions


@pytest.fixture(scope="module", params=FAMILIES.values(), ids=FAMILIES.keys())
def folder(request, tmp_path_factory):
    return save_random(request.param, tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def trunk(folder):
    return open_trunk(ModelConfig(name=str(folder), dtype="float32"), seed=0)


def families(seed):
    """Sequences of which several begin alike, with a beginning that ends inside a block and one that crosses one."""
    first, second = random_sequences(seed, [20, BLOCK + 6])
    tails = random_sequences(seed + 1, [1, 30, 50, 5, 40, 58])
    return [
        np.array(head + tail) for head, tail in zip([first, first, first, second, second, second], tails, strict=True)
    ]


@pytest.mark.parametrize("stop", [1, 2])
def test_states_equal_those_of_transformers(folder, trunk, stop):
    sequences = [np.array(s) for s in random_sequences(0, LENGTHS)] + families(1)
    assert sum(map(len, sequences)) > 2 * CHUNK
    reference = load_reference(folder)
    reference.model.norm = torch.nn.Identity()  # which would be part of the last of its hidden states
    found = invariant_states(trunk, trunk.blocks[:stop], sequences)
    assert [len(states) for states in found] == [len(s) for s in sequences]
    for sequence, states in zip(sequences, found, strict=True):
        with torch.no_grad():
            wanted = reference(input_ids=torch.tensor(sequence[None]), output_hidden_states=True).hidden_states[stop][0]
        torch.testing.assert_close(states, wanted, rtol=1e-4, atol=1e-4)


def test_the_bits_of_a_token_depend_on_what_stands_before_it_alone(trunk):
    sequences, rng, layers = families(1), np.random.default_rng(0), [prepacked_layer(layer) for layer in trunk.blocks]
    known = invariant_states(trunk, layers, sequences)
    for trial in range(20):
        picked = rng.permutation(len(sequences))[: rng.integers(1, 7)]
        cut = [sequences[i][: rng.integers(1, len(sequences[i]) + 1)] for i in picked]
        others = [np.array(s) for s in random_sequences(trial, rng.integers(1, 129, size=rng.integers(0, 5)).tolist())]
        for i, states in zip(picked, invariant_states(trunk, layers, cut + others), strict=False):
            assert torch.equal(states, known[i][: len(states)])


@pytest.mark.parametrize("prepacked", [False, True])
def test_few_rows_have_the_bits_of_many(prepacked):
    """Plain products of 1 to 7 rows round otherwise than larger ones here, which is what the fixed shapes are for."""
    trunk = build_byte_lm("byte-tiny", 0, torch.float32).requires_grad_(False)
    layers = [prepacked_layer(layer) for layer in trunk.blocks] if prepacked else trunk.blocks
    sequence = np.random.default_rng(0).integers(0, 256, 200)
    (whole,) = invariant_states(trunk, layers, [sequence])
    for length in (*range(1, 10), 63, 64, 65, 150):
        assert torch.equal(invariant_states(trunk, layers, [sequence[:length]])[0], whole[:length])
