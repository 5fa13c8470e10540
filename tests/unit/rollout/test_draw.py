"""Drawing one token, against loops in float64 and against the distribution itself."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from thumbs.rollout.draw import draw, restrict, tempered, uniforms
from thumbs.rollout.sampler import DecodingParams

BELOW_ONE = 1 - 2.0**-24  # the largest float32 that a generator gives


def params(**settings):
    return DecodingParams(max_new_tokens=1, stop_tokens=(), **settings)


def random_logits(rows, size, seed=0):
    return 2 * torch.randn(rows, size, generator=torch.Generator().manual_seed(seed))


def slow_probabilities(logits, temperature=1.0, top_k=0, top_p=1.0):
    """Probabilities of one row: the most likely tokens first, taken until either limit is reached."""
    weights = [math.exp(z / temperature) for z in logits]
    order = sorted(range(len(weights)), key=lambda i: -weights[i])
    if top_k:
        order = order[:top_k]
    total, mass, kept = sum(weights[i] for i in order), 0.0, []
    for i in order:
        if mass >= top_p:
            break
        kept.append(i)
        mass += weights[i] / total
    norm = sum(weights[i] for i in kept)
    return [weights[i] / norm if i in kept else 0.0 for i in range(len(weights))]


def slow_inverse(probabilities, u):
    """The first token at which the distribution function passes u."""
    reached = 0.0
    for token, probability in enumerate(probabilities):
        reached += probability
        if probability > 0 and reached > u:
            return token
    raise AssertionError("u is in [0, 1)")


@pytest.mark.parametrize("size", [1, 2, 97, 256, 257, 700])
@pytest.mark.parametrize("settings", [{}, {"temperature": 0.6}, {"top_k": 5}, {"top_p": 0.7}])
def test_draw_inverts_the_distribution_function(size, settings):
    logits = random_logits(40, size)
    u = torch.from_numpy(uniforms(11, 40))
    tokens, _ = draw(logits, u, params(**settings))
    rows = zip(logits.tolist(), u.tolist(), strict=True)
    assert tokens.tolist() == [slow_inverse(slow_probabilities(z, **settings), x) for z, x in rows]


@pytest.mark.parametrize("settings", [{}, {"temperature": 0.5}, {"top_k": 3}, {"top_p": 0.8, "temperature": 1.5}])
def test_frequencies_are_the_probabilities(settings):
    logits, n = random_logits(1, 9, seed=3), 20_000
    tokens, _ = draw(logits.expand(n, -1), torch.from_numpy(uniforms(5, n)), params(**settings))
    wanted = np.array(slow_probabilities(logits[0].tolist(), **settings))
    seen = np.bincount(tokens.numpy(), minlength=9)
    assert seen[wanted == 0].sum() == 0
    assert chisquare(seen[wanted > 0], n * wanted[wanted > 0]).pvalue > 0.01


@pytest.mark.parametrize("settings", [{"top_k": 1}, {"top_k": 4}, {"top_k": 500}, {"top_p": 1e-6}, {"top_p": 0.5}])
def test_restrict_keeps_what_the_loop_keeps(settings):
    logits = random_logits(20, 300, seed=1)
    kept = restrict(logits, params(**settings))
    for row, restricted in zip(logits, kept, strict=True):
        wanted = torch.tensor(slow_probabilities(row.tolist(), **settings)) > 0
        assert torch.equal(restricted > -torch.inf, wanted)
        assert torch.equal(restricted[wanted], row[wanted])


def test_top_p_is_taken_of_what_top_k_leaves():
    logits = torch.tensor([[0.4, 0.3, 0.2, 0.1]]).log()
    kept = restrict(logits, params(top_k=2, top_p=0.5))  # 4/7 of the remaining mass is the first token
    assert (kept > -torch.inf).tolist() == [[True, False, False, False]]


@pytest.mark.parametrize("temperature", [0.3, 1.0, 1.7])
def test_logprobs_are_at_the_temperature_and_before_top_k(temperature):
    logits = random_logits(30, 50)
    u = torch.from_numpy(uniforms(2, 30))
    for settings in ({}, {"top_k": 4, "top_p": 0.6}):
        tokens, logprobs = draw(logits, u, params(temperature=temperature, **settings))
        for row, token, logprob in zip(logits.tolist(), tokens.tolist(), logprobs.tolist(), strict=True):
            wanted = math.log(slow_probabilities(row, temperature)[token])
            assert logprob == pytest.approx(wanted, abs=1e-5)


def test_temperature_zero_takes_the_most_likely_token():
    logits = random_logits(30, 50)
    tokens, logprobs = draw(logits, torch.full((30,), BELOW_ONE), params(temperature=0))
    for row, token, logprob in zip(logits.tolist(), tokens.tolist(), logprobs.tolist(), strict=True):
        assert token == row.index(max(row))
        assert logprob == pytest.approx(math.log(slow_probabilities(row)[token]), abs=1e-5)


@pytest.mark.parametrize("size", [3, 256, 300, 1000])
def test_the_ends_of_the_unit_interval_never_give_an_impossible_token(size):
    logits = torch.full((2, size), -torch.inf)
    logits[:, size // 2] = 1.0
    logits[:, size // 2 + 1] = 0.5
    tokens, _ = draw(logits, torch.tensor([0.0, BELOW_ONE]), params())
    assert tokens.tolist() == [size // 2, size // 2 + 1]


def test_rounding_never_points_past_the_last_possible_token():
    """Where the float32 sum of a block is above the float64 one, u just below 1 aims beyond every token of it."""
    logits = random_logits(300, 600, seed=4)
    logits[:, 200:] = -torch.inf
    tokens, logprobs = draw(logits, torch.full((300,), BELOW_ONE), params())
    assert tokens.max() < 200
    assert logprobs.isfinite().all()


def test_logits_too_large_for_exp_are_no_matter():
    tokens, logprobs = draw(torch.tensor([[3000.0, 2999.0, -3000.0]]), torch.tensor([0.9]), params())
    assert tokens.tolist() == [1]  # 1 / (1 + 1/e) = 0.73 < 0.9
    assert logprobs.item() == pytest.approx(-1 - math.log1p(math.exp(-1)), abs=1e-3)


def test_uniforms_depend_on_the_seed_alone():
    assert np.array_equal(uniforms(7, 5), uniforms(7, 12)[:5])
    assert not np.array_equal(uniforms(7, 5), uniforms(8, 5))
    many = uniforms(2**63 - 1, 10_000)
    assert many.dtype == np.float32
    assert 0 <= many.min() < many.max() < 1


EDGES = [5e-324, 1e-310, 1e-45, 2.9e-39, 1e-38, 1e-30, 1e-8]


@pytest.mark.parametrize("temperature", EDGES)
@pytest.mark.parametrize("settings", [{}, {"top_k": 3}, {"top_p": 0.5}, {"top_p": 5e-324}])
def test_a_temperature_near_zero_takes_the_most_likely_token(temperature, settings):
    logits = random_logits(30, 300)
    logits[:, 290:] = -torch.inf  # as a vocabulary that is filled up
    tokens, logprobs = draw(logits, torch.from_numpy(uniforms(3, 30)), params(temperature=temperature, **settings))
    assert tokens.tolist() == logits.argmax(-1).tolist()
    torch.testing.assert_close(logprobs, torch.zeros(30), atol=1e-6, rtol=0)


@pytest.mark.parametrize("temperature", [1e5, 1e38, 1e39, 1.7e308])
def test_a_temperature_without_bound_draws_every_possible_token_alike(temperature):
    logits = random_logits(4000, 12)
    logits[:, 10:] = -torch.inf
    tokens, logprobs = draw(logits, torch.from_numpy(uniforms(3, 4000)), params(temperature=temperature))
    counts = torch.bincount(tokens, minlength=12)
    assert counts[10:].tolist() == [0, 0]
    assert chisquare(counts[:10].tolist()).pvalue > 1e-4
    torch.testing.assert_close(logprobs, torch.full((4000,), -math.log(10)), atol=1e-3, rtol=0)


@pytest.mark.parametrize("top_p", [5e-324, 1e-45, 1e-40, 1e-30])
@pytest.mark.parametrize("temperature", [1e-3, 0.7, 1.0, 3.0])
def test_a_top_p_near_zero_takes_the_most_likely_token(top_p, temperature):
    logits = random_logits(30, 300)
    logits[:, 290:] = -torch.inf
    u = torch.from_numpy(uniforms(3, 30))
    tokens, logprobs = draw(logits, u, params(temperature=temperature, top_p=top_p))
    assert tokens.tolist() == logits.argmax(-1).tolist()
    expected = (logits.double() / temperature).log_softmax(-1).amax(-1)
    torch.testing.assert_close(logprobs.double(), expected, atol=1e-5, rtol=1e-4)


def test_the_shifted_logits_are_the_divided_ones():
    logits = random_logits(5, 40)
    for edge in (1e-4, 1e4):
        inside, outside = tempered(logits, edge), tempered(logits, edge * (0.999999 if edge < 1 else 1.000001))
        torch.testing.assert_close(inside.log_softmax(-1), outside.log_softmax(-1), atol=0.2, rtol=1e-4)
