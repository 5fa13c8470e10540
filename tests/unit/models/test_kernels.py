"""The compiled kernels against the same formulas in torch (float64 where rounding decides), forward and backward."""

from __future__ import annotations

import pytest
import torch

from compiled_kernels import NEEDS_COMPILER, assert_built
from thumbs.models import kernels
from thumbs.models.kv_cache import KVCache
from thumbs.models.operators import Angles, Heads, attend, attend_cached, rms_norm, swiglu
from thumbs.models.prepacked import linear, prepack
from thumbs.models.rows import Rows
from thumbs.rollout.draw import draw
from thumbs.rollout.sampler import DecodingParams

HEADS = Heads(6, 2, 32)
DTYPES = [torch.float32, torch.bfloat16]
FORESTS = {
    "one token": ([1], None),
    "sequences apart": ([5, 1, 40, 33], None),
    "replies to two prompts": ([37, 3, 70, 8, 9, 2, 31], [-1, 0, 0, 2, -1, 4, 4]),
}

pytestmark = NEEDS_COMPILER


@pytest.fixture(autouse=True)
def _compiled(monkeypatch: pytest.MonkeyPatch):
    assert_built(monkeypatch)


@pytest.fixture
def in_torch(monkeypatch: pytest.MonkeyPatch):
    """Runs a function without the kernels."""

    def run(function, *arguments):
        with monkeypatch.context() as patch:
            patch.setattr(kernels, "usable", lambda *_: False)
            return function(*arguments)

    return run


def both(in_torch, function, *inputs: torch.Tensor):
    """(output, gradients) of the kernels in the inputs' dtype, and of torch in float64."""
    results = []
    for run, dtype in ((lambda f, *a: f(*a), inputs[0].dtype), (in_torch, torch.float64)):
        leaves = [x.detach().to(dtype).requires_grad_() for x in inputs]
        out = run(function, *leaves)
        direction = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(inputs[0].dtype)
        results.append((out.detach(), torch.autograd.grad(out, leaves, direction.to(out.dtype))))
    return results


def assert_near(found: torch.Tensor, exact: torch.Tensor, dtype: torch.dtype):
    """Within a few roundings of the largest number."""
    unit = {torch.float32: 2e-6, torch.bfloat16: 1.2e-2}[dtype]
    assert found.dtype == dtype
    assert (found.double() - exact.double()).abs().max() <= unit * max(1.0, float(exact.abs().max()))


def check(in_torch, function, *inputs: torch.Tensor):
    (out, gradients), (exact_out, exact_gradients) = both(in_torch, function, *inputs)
    assert_near(out, exact_out, inputs[0].dtype)
    for gradient, exact in zip(gradients, exact_gradients, strict=True):
        assert_near(gradient, exact, inputs[0].dtype)


def random(*shape: int, dtype: torch.dtype, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def angles_at(positions: torch.Tensor) -> Angles:
    turned = positions[:, None] * torch.linspace(1, 0.01, HEADS.width // 2).repeat(2)[None]
    return Angles(turned.cos(), turned.sin())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", [1, 5, 40])
def test_norm(in_torch, dtype, rows):
    x, weight = random(rows, 96, dtype=dtype) * 3, random(96, dtype=dtype, seed=1)
    check(in_torch, lambda x, w: rms_norm(x, w, 1e-5), x, weight)


@pytest.mark.parametrize("dtype", DTYPES)
def test_gated_product(in_torch, dtype):
    check(in_torch, swiglu, random(7, 96, dtype=dtype) * 4)


def test_gated_product_of_large_numbers(in_torch):
    """exp reaches neither infinity nor a number that is none."""
    x = torch.tensor([-1e4, -100.0, -88.0, -1.0, 0.0, 1.0, 88.0, 100.0] * 8)[None].repeat(2, 1)
    check(in_torch, swiglu, x)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("forest", FORESTS)
def test_attention(in_torch, dtype, forest):
    rows = Rows.of(FORESTS[forest][0], torch.device("cpu"), FORESTS[forest][1])
    angles = angles_at(rows.positions)
    mixed = random(len(rows.positions), HEADS.mixed, dtype=dtype)
    check(in_torch, lambda x: attend(x, angles, rows, HEADS), mixed)


def test_a_large_score_does_not_overflow(in_torch):
    """Scores of thousands: float32 knows them to a thousandth, and so the weights."""
    rows, mixed = Rows.of([20], torch.device("cpu")), random(20, HEADS.mixed, dtype=torch.float32) * 30
    (found, (gradient,)), (exact, (exact_gradient,)) = both(
        in_torch, lambda x: attend(x, angles_at(rows.positions), rows, HEADS), mixed
    )
    torch.testing.assert_close(found.double(), exact, atol=0.05, rtol=0)
    torch.testing.assert_close(gradient.double(), exact_gradient, atol=0.5, rtol=0)


def test_the_bits_of_a_sequence_do_not_depend_on_its_company():
    together = Rows.of([5, 40, 33], torch.device("cpu"))
    mixed = random(78, HEADS.mixed, dtype=torch.float32)
    whole = attend(mixed, angles_at(together.positions), together, HEADS)
    for own, length in ((slice(5, 45), 40), (slice(5, 30), 25)):  # alone, and its beginning alone
        rows = Rows.of([length], torch.device("cpu"))
        assert torch.equal(attend(mixed[own], angles_at(rows.positions), rows, HEADS), whole[own])


@pytest.mark.parametrize("dtype", DTYPES)
def test_cached_attention(in_torch, dtype):
    def cache() -> KVCache:
        made = KVCache(1, 3, HEADS.key, 24, HEADS.width, dtype, torch.device("cpu"))
        made.fill(
            0,
            random(3, HEADS.key, 20, HEADS.width, dtype=dtype, seed=1),
            random(3, HEADS.key, 20, 32, dtype=dtype, seed=2),
        )
        made.start(torch.tensor([20, 1, 7]))
        return made

    compiled, plain = cache(), cache()
    for step in range(2):
        mixed = random(3, HEADS.mixed, dtype=dtype, seed=10 + step)
        angles = angles_at(compiled.lengths)
        compiled.step(), plain.step()
        found = attend_cached(mixed, angles, compiled, 0, HEADS)
        assert_near(found, in_torch(attend_cached, mixed, angles, plain, 0, HEADS), dtype)
    assert_near(compiled.keys, plain.keys, dtype)
    assert torch.equal(compiled.values, plain.values)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "tokens"), [(1, 1), (5, 40), (9, 129), (300, 1003), (0, 64)])
def test_sums_over_the_vocabulary(dtype, rows, tokens):
    hidden, weight = random(rows, 96, dtype=dtype), random(tokens, 96, dtype=dtype, seed=1) / 4
    slope = random(rows, dtype=torch.float32, seed=2)
    normaliser, mean = kernels.FusedVocabulary().softmax(hidden, weight, 0.7)
    logits = hidden.double() @ weight.double().T / 0.7
    probs = logits.softmax(1)
    unit = {torch.float32: 2e-5, torch.bfloat16: 2e-2}[dtype]  # the products take p in that dtype
    torch.testing.assert_close(normaliser.double(), logits.logsumexp(1), atol=2e-5, rtol=0)
    torch.testing.assert_close(mean.double(), probs @ weight.double(), atol=unit, rtol=0)
    without_mean, nothing = kernels.FusedVocabulary().softmax(hidden, weight, 0.7, mean=False)
    assert nothing is None
    assert torch.equal(without_mean, normaliser)
    gradient = kernels.FusedVocabulary().weight_gradient(hidden, weight, normaliser, slope, 0.7)
    assert gradient.dtype == torch.float32
    torch.testing.assert_close(gradient.double(), (probs * slope[:, None]).T @ hidden.double(), atol=unit, rtol=0)


def test_growing_logits_do_not_overflow():
    """Each block of tokens holds a larger logit than all before it; the last is far above."""
    hidden, weight = torch.ones(3, 32), torch.arange(1000.0)[:, None].repeat(1, 32) / 32
    normaliser, mean = kernels.FusedVocabulary().softmax(hidden, weight, 1.0)
    exact = (hidden.double() @ weight.double().T).logsumexp(1)
    torch.testing.assert_close(normaliser.double(), exact, atol=1e-3, rtol=0)
    torch.testing.assert_close(mean, (torch.arange(1000.0).softmax(0) @ weight).repeat(3, 1), atol=1e-3, rtol=0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_bits_of_a_sum_over_the_vocabulary_do_not_depend_on_the_other_rows(dtype):
    hidden, weight = random(300, 96, dtype=dtype), random(1003, 96, dtype=dtype, seed=1)
    normaliser, mean = kernels.FusedVocabulary().softmax(hidden, weight, 1.0)
    alone = kernels.FusedVocabulary().softmax(hidden[140:147], weight, 1.0)
    assert torch.equal(alone[0], normaliser[140:147])
    assert torch.equal(alone[1], mean[140:147])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", [1, 7, 300])
def test_products_with_a_packed_weight(dtype, rows):
    x, plus = random(rows, 96, dtype=dtype), random(rows, 192, dtype=dtype)
    weight = random(192, 96, dtype=dtype, seed=1)
    assert kernels.packable(weight)
    packed = kernels.pack(weight)
    exact = x.double() @ weight.double().T
    assert_near(kernels.linear(x, packed), exact, dtype)
    assert_near(kernels.linear(x, packed, plus), exact + plus.double(), dtype)
    assert torch.equal(kernels.linear(x, packed)[-1:], kernels.linear(x[-1:], packed))  # whatever its company
    torch.testing.assert_close(kernels.logits(x, packed).double(), exact, atol=1e-4, rtol=0)  # not rounded to the dtype


@pytest.mark.parametrize(("out", "width"), [(100, 96), (192, 90)])
def test_a_weight_that_does_not_fill_panels_is_packed_otherwise(out, width):
    weight = random(out, width, dtype=torch.float32)
    assert not kernels.packable(weight)
    x = random(5, width, dtype=torch.float32, seed=1)
    torch.testing.assert_close(linear(x, prepack(weight)), x @ weight.T, atol=1e-4, rtol=0)


def test_drawn_tokens_are_those_of_torch(in_torch):
    logits, u = random(200, 1008, dtype=torch.float32) * 3, torch.rand(200, generator=torch.Generator().manual_seed(3))
    for temperature in (2, 1.0, 0.7):  # whole numbers too: a kernel's float must not get one as an integer
        params = DecodingParams(max_new_tokens=1, stop_tokens=(), temperature=temperature)
        tokens, logprobs = draw(logits, u, params)
        expected, expected_logprobs = in_torch(draw, logits, u, params)
        assert (tokens == expected).float().mean() >= 0.99  # u within a rounding of a boundary may go either way
        exact = (logits.double() / temperature).log_softmax(-1).gather(1, tokens[:, None]).squeeze(1)
        torch.testing.assert_close(logprobs.double(), exact, atol=1e-5, rtol=0)
        same = tokens == expected
        torch.testing.assert_close(logprobs[same], expected_logprobs[same], atol=1e-5, rtol=0)


def test_drawing_at_the_ends():
    logits = torch.full((3, 496), -torch.inf)
    logits[:, [3, 400]] = 0.0
    params = DecodingParams(max_new_tokens=1, stop_tokens=())
    tokens, _ = draw(logits, torch.tensor([0.0, 0.4999, 1 - 2**-24]), params)
    assert tokens.tolist() == [3, 3, 400]


def test_a_number_that_is_none_stays_one():
    for dtype in DTYPES:
        x = torch.ones(1, 32, dtype=dtype)
        x[0, 3] = torch.nan
        assert swiglu(x)[0, 3].isnan()
