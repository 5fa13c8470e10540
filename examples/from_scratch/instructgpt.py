"""InstructGPT in one file: supervised fine-tuning, a reward model, PPO. Needs torch and matplotlib, nothing of thumbs.

    python examples/from_scratch/instructgpt.py --seed 0 --out runs/from-scratch

Read it from top to bottom: the recipe of Ouyang et al. (arXiv:2203.02155) at the size of a toy, 0.8M weights on bytes,
five questions with answers, four preferences. Where it departs from the paper a comment says so. Shapes: B rows,
N tokens, T = N - 1 targets (entry t belongs to token t + 1), D width. Logprobs and KL are in nats.
"""

import argparse
import copy
import json
import math
import time
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from statistics import mean

import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor, nn

# ---- Data: a byte is a token, [BOS] question [SEP] answer [EOS] ------------------------------------------------
DEMONSTRATIONS = [
    ("What is machine learning?", "Software that learns from data."),
    ("What is a neural network?", "Layers of simple learned units."),
    ("What is a reward model?", "A judge trained on preferences."),
    ("Why use a KL penalty?", "It keeps the policy near the start."),
    ("How do I learn to code?", "Write one small program every day."),
]
PREFERENCES = [  # question, better answer, worse answer: garbled twice, empty, cut short
    ("What is machine learning?", "Software that learns from data.", "Sofware lat thearns frain dat dat."),
    ("What is a neural network?", "Layers of simple learned units.", ""),
    ("What is a reward model?", "A judge trained on preferences.", "A jurned one traind prefs."),
    ("How do I learn to code?", "Write one small program every day.", "Write on"),
]
QUESTIONS = [question for question, _ in DEMONSTRATIONS]
PAD, BOS, SEP, EOS = 256, 257, 258, 259
VOCABULARY, CONTEXT = 260, 128
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
SFT_EPOCHS, SFT_BATCH, SFT_RATE = 60, 2, 3e-3
REWARD_EPOCHS, REWARD_BATCH, REWARD_RATE = 50, 2, 2e-3
PPO_STEPS, PPO_EPOCHS, ANSWERS_EACH, MINIBATCH, POLICY_RATE = 27, 2, 10, 17, 6e-4
CRITIC_EPOCHS, CRITIC_RATE, FROZEN = 6, 1e-3, 2  # epochs before PPO (then one per step); layers that PPO leaves alone
BETAS = (0.9, 0.95)  # Adam's; the second moment forgets fast, since there are only hundreds of steps
CLIP, GAMMA, LAMBDA, KL_COEF, NO_EOS_PENALTY = 0.2, 1.0, 0.95, 0.09, 1.0  # the last two: score per nat, score


def encode(question: str, answer: str | None = None) -> list[int]:
    """[BOS] question [SEP], and answer [EOS] where there is one."""
    return [BOS, *question.encode(), SEP, *([*answer.encode(), EOS] if answer is not None else [])]


def decode_answer(tokens: list[int]) -> str:
    """Text behind [SEP]; bytes that are not UTF-8 show as �."""
    return bytes(token for token in tokens[tokens.index(SEP) :] if token < 256).decode(errors="replace")


def pad(rows: list[list[int]]) -> Tensor:
    """Tokens [B, N], padded on the right: causal attention never looks there, so no attention mask is needed."""
    tensors = [torch.tensor(row, device=DEVICE) for row in rows]
    return nn.utils.rnn.pad_sequence(tensors, batch_first=True, padding_value=PAD)


def longest_answer() -> int:
    """Tokens that a sampled answer may have: those of the longest demonstration, and two to spare."""
    return max(len(answer.encode()) for _, answer in DEMONSTRATIONS) + 2


def answer_mask(tokens: Tensor) -> Tensor:
    """float [B, T]: 1 where the target belongs to an answer ([EOS] included), 0 in the question and in padding."""
    after_sep = (tokens == SEP).cumsum(1)[:, :-1] > 0
    return (after_sep & (tokens[:, 1:] != PAD)).float()


def masked_mean(x: Tensor, mask: Tensor, dim: int | None = None) -> Tensor:
    return (x * mask).sum(dim) / mask.sum(dim)


# ---- Model: a small Llama (RMSNorm before each block, rotary positions, SwiGLU, no biases, no dropout)
WIDTH, LAYERS, HEADS, HALF, INNER, THETA = 128, 4, 4, 16, 352, 10000.0  # HALF: of a head
ANGLES = (torch.arange(CONTEXT)[:, None, None] * THETA ** (-torch.arange(HALF) / HALF)).to(DEVICE)
COS, SIN = ANGLES.cos(), ANGLES.sin()  # [CONTEXT, 1, HALF]


def rotate(x: Tensor, start: int) -> Tensor:
    """Rotary positions (arXiv:2104.09864) for x [B, N, heads, 2 HALF], of which the first position is `start`."""
    cos, sin = COS[start : start + x.shape[1]], SIN[start : start + x.shape[1]]
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)


class Block(nn.Module):
    """Attention, then a gated feed-forward network, each on normed input and added to the stream [B, N, D]."""

    def __init__(self) -> None:
        super().__init__()
        self.input_layernorm, self.post_attention_layernorm = (nn.RMSNorm(WIDTH, eps=1e-5) for _ in range(2))
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(4))
        self.gate_proj, self.up_proj = (nn.Linear(WIDTH, INNER, bias=False) for _ in range(2))
        self.down_proj = nn.Linear(INNER, WIDTH, bias=False)

    def forward(self, x: Tensor, start: int, cache: Tensor | None) -> Tensor:
        B, N, _ = x.shape
        y = self.input_layernorm(x)
        q, k, v = (p(y).view(B, N, HEADS, -1) for p in (self.q_proj, self.k_proj, self.v_proj))
        q, k = rotate(q, start), rotate(k, start)
        if cache is not None:
            cache[0, :, start : start + N], cache[1, :, start : start + N] = k, v
            k, v = cache[:, :, : start + N]
        # From the start on, each token looks to its left; behind it there is one new token, which may look everywhere.
        heads_first = (part.transpose(1, 2) for part in (q, k, v))
        mixed = F.scaled_dot_product_attention(*heads_first, is_causal=start == 0)
        x = x + self.o_proj(mixed.transpose(1, 2).reshape(B, N, WIDTH))
        y = self.post_attention_layernorm(x)
        return x + self.down_proj(F.silu(self.gate_proj(y)) * self.up_proj(y))


class GPT(nn.Module):
    """Byte-level language model; `seed` fixes its first weights. The output layer is the embedding itself (tied)."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(VOCABULARY, WIDTH)
        self.layers = nn.ModuleList(Block() for _ in range(LAYERS))
        self.norm = nn.RMSNorm(WIDTH, eps=1e-5)
        generator = torch.Generator().manual_seed(seed)
        for weight in self.parameters():
            if weight.dim() == 2:
                nn.init.normal_(weight, 0.0, 0.02, generator=generator)
        self.to(DEVICE)

    def hidden(self, tokens: Tensor, start: int = 0, cache: Tensor | None = None) -> Tensor:
        """Final states [B, N, D] of `tokens`, the first of them at position `start`; keys and values go to `cache`."""
        x = self.embed_tokens(tokens)
        for i, layer in enumerate(self.layers):
            x = layer(x, start, None if cache is None else cache[i])
        return self.norm(x)

    def logprobs(self, tokens: Tensor) -> Tensor:
        """[B, T]: log π(token t + 1 | tokens up to t)."""
        logits = self.hidden(tokens)[:, :-1] @ self.embed_tokens.weight.T
        return logits.log_softmax(-1).gather(-1, tokens[:, 1:, None]).squeeze(-1)


class Scorer(nn.Module):
    """A trunk with a scalar head. The critic reads every token's number, the reward model the mean over the answer."""

    def __init__(self, trunk: GPT) -> None:
        super().__init__()
        self.trunk, self.head = copy.deepcopy(trunk), nn.Linear(WIDTH, 1, device=DEVICE)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, tokens: Tensor) -> Tensor:  # [B, N], entry t has read the tokens up to t
        return self.head(self.trunk.hidden(tokens)).squeeze(-1)

    def score(self, tokens: Tensor) -> Tensor:  # [B]
        return masked_mean(self(tokens)[:, 1:], answer_mask(tokens), dim=1)


@torch.no_grad()
def sample(model: GPT, questions: list[str], temperature: float, generator: torch.Generator | None = None) -> Tensor:
    """Tokens [B, N] of questions with sampled answers, [EOS] kept, padded on the right; temperature 0 is greedy.

    Inside its question a row reads its next token there, so lengths may differ. Cached keys make a step cost one token.
    """
    prompts = pad([encode(question) for question in questions])
    cache = torch.zeros(LAYERS, 2, len(prompts), CONTEXT, HEADS, WIDTH // HEADS, device=DEVICE)  # 2: keys and values
    tokens = new = prompts[:, : min(len(question.encode()) for question in questions)]
    ended = torch.zeros(len(prompts), dtype=torch.bool, device=DEVICE)
    while tokens.shape[1] < min(CONTEXT, prompts.shape[1] + longest_answer()) and not ended.all():
        logits = model.hidden(new, tokens.shape[1] - new.shape[1], cache)[:, -1] @ model.embed_tokens.weight.T
        logits[:, [PAD, BOS, SEP]] = -math.inf  # never part of an answer
        drawn = torch.multinomial((logits / max(temperature, 1e-6)).softmax(-1), 1, generator=generator).squeeze(1)
        N = tokens.shape[1]
        given = prompts[:, N] if prompts.shape[1] > N else torch.full_like(drawn, PAD)
        new = torch.where(given != PAD, given, drawn.masked_fill(ended, PAD))[:, None]
        ended |= new.squeeze(1) == EOS
        tokens = torch.cat([tokens, new], dim=1)
    return tokens


def descend(adam: torch.optim.Adam, loss: Tensor) -> float:
    """One step down the gradient of `loss`, clipped to norm 1; returns the loss."""
    adam.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(adam.param_groups[0]["params"], 1.0)
    adam.step()
    return loss.item()


def fit(
    name: str, model: nn.Module, rate: float, epochs: list[list], loss_of: Callable[[list], Tensor]
) -> tuple[list, nn.Module]:
    """Trains `model` in place, one batch per step; returns the losses and a copy of the model at half of the way."""
    adam = torch.optim.Adam(model.parameters(), rate, BETAS, fused=True)
    losses, steps, half = [], sum(map(len, epochs)), model
    warmup = round(0.1 * steps)  # without it a fresh model does not bear a peak of 3e-3
    for number, batches in enumerate(epochs, start=1):
        for batch in batches:
            step = len(losses)
            fall = 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))
            adam.param_groups[0]["lr"] = rate * ((step + 1) / (warmup + 1) if step < warmup else fall)
            losses.append(descend(adam, loss_of(batch)))
            half = copy.deepcopy(model) if step + 1 == steps // 2 else half
        print(f"    {name}, epoch {number:2} of {len(epochs)}: loss {mean(losses[-len(batches) :]):.4f}")
    return losses, half


def shuffled(rows: list, size: int, epochs: int, seed: int) -> list[list]:
    """The batches of each epoch, in an order of its own; the last batch of an epoch may be smaller."""
    generator = torch.Generator().manual_seed(seed)
    orders = [torch.randperm(len(rows), generator=generator) for _ in range(epochs)]
    return [[[rows[i] for i in part] for part in order.split(size)] for order in orders]


# ---- Stage 1: supervised fine-tuning -----------------------------------------------------------------------
def sft_loss(model: GPT, pairs: list[tuple[str, str]]) -> Tensor:
    """Mean cross-entropy of the answers' tokens, nats per token; the questions carry no loss."""
    tokens = pad([encode(*pair) for pair in pairs])
    return -masked_mean(model.logprobs(tokens), answer_mask(tokens))


# ---- Stage 2: the reward model -------------------------------------------------------------------------------
def reward_loss(model: Scorer, triples: list[tuple[str, str, str]]) -> tuple[Tensor, Tensor]:
    """Bradley-Terry, -log sigmoid(score of the better - score of the worse), eq. 1 of Ouyang et al.; and accuracy."""
    rows = [encode(question, answer) for question, *answers in triples for answer in answers]
    gap = -model.score(pad(rows)).view(-1, 2).diff(dim=1).squeeze(1)
    return -F.logsigmoid(gap).mean(), (gap > 0).float().mean()


# ---- Stage 3: PPO --------------------------------------------------------------------------------------------
def gae(rewards: Tensor, values: Tensor, gamma: float = GAMMA, lam: float = LAMBDA) -> tuple[Tensor, Tensor]:
    """Advantages and returns [B, T], eq. 11 of arXiv:1506.02438: A_t = δ_t + γλ A_t+1, δ_t = r_t + γ V_t+1 - V_t.

    Rewards and values must be 0 behind an answer's last token, so that nothing flows back from the padding.
    """
    advantages, ahead, next_value = torch.zeros_like(rewards), 0.0, 0.0
    for t in reversed(range(rewards.shape[1])):
        ahead = rewards[:, t] + gamma * next_value - values[:, t] + gamma * lam * ahead
        advantages[:, t], next_value = ahead, values[:, t]
    return advantages, advantages + values


def show_gae(gamma: float = 0.99, lam: float = 0.95) -> None:
    """Prints the sum of `gae` by hand for two answers of five tokens: small KL prices, and the score at the end."""
    rewards = torch.tensor([[0, -0.01, -0.02, -0.03, 1.2], [0, -0.005, -0.015, -0.025, 0.8]])
    values = torch.tensor([[0, 0.8, 0.6, 0.4, 0.2], [0, 0.7, 0.5, 0.3, 0.1]])
    advantages, returns = gae(rewards, values, gamma, lam)
    deltas = rewards + gamma * F.pad(values, (0, 1))[:, 1:] - values
    print(f"GAE by hand: delta = r + {gamma} V' - V, A = delta + {gamma} * {lam} A', where ' is the next token's")
    for i in range(len(rewards)):
        print("    answer  t       r       V   delta       A  return")
        for t, row in enumerate(torch.stack([rewards[i], values[i], deltas[i], advantages[i], returns[i]]).T.tolist()):
            print(f"    {i + 1:6}{t + 1:3}" + "".join(f"{x:8.4f}" for x in row))


def policy_loss(new: Tensor, old: Tensor, advantages: Tensor, mask: Tensor) -> Tensor:
    """The clipped objective, eq. 7 of arXiv:1707.06347, with its sign turned; new and old logprobs [B, T]."""
    ratio = (new - old).exp()  # the gradient flows through here: detach it and nothing is learned
    return -masked_mean(torch.min(ratio * advantages, ratio.clamp(1 - CLIP, 1 + CLIP) * advantages), mask)


def value_loss(values: Tensor, returns: Tensor, mask: Tensor) -> Tensor:
    """Half the squared error, without PPO's clipping, which helps little (Andrychowicz et al., arXiv:2006.05990)."""
    return 0.5 * masked_mean((values - returns) ** 2, mask)


def train_ppo(policy: GPT, reward_model: Scorer, seed: int, steps: int) -> list[dict[str, float]]:
    """Trains `policy` in place; returns each step's mean reward and score (score units), KL (nats), length (tokens)."""
    generator, questions, history = torch.Generator(DEVICE).manual_seed(seed), QUESTIONS * ANSWERS_EACH, []
    reference, critic = copy.deepcopy(policy), Scorer(policy)
    # Adam moves every weight by its rate, noise or not: with all in training KL grows by four nats before the reward.
    for model in (policy, critic.trunk):
        nn.ModuleList([model.embed_tokens, model.layers[:FROZEN]]).requires_grad_(False)
    tokens = sample(reference, questions * 4, 1.0, generator)
    scores, mask = reward_model.score(tokens).detach(), answer_mask(tokens)
    average = scores.mean()  # a score has a free constant: the reference's mean becomes 0
    # A critic that explains nothing makes PPO a random walk, so it first learns what the reference's answers earn; and
    # on the policy's trunk, which knows how a beginning may go on: the paper's (the reward model's) has to relearn it.
    earned, batches = (scores - average)[:, None], shuffled([*range(len(tokens))], MINIBATCH, CRITIC_EPOCHS, seed)
    fit("critic", critic, CRITIC_RATE, batches, lambda i: value_loss(critic(tokens[i])[:, :-1], earned[i], mask[i]))
    policy_adam = torch.optim.Adam(policy.parameters(), POLICY_RATE, BETAS, fused=True)
    critic_adam = torch.optim.Adam(critic.parameters(), CRITIC_RATE, BETAS, fused=True)
    for step in range(steps):
        tokens = sample(policy, questions, 1.0, generator)
        mask = answer_mask(tokens)
        with torch.no_grad():
            old, old_values = policy.logprobs(tokens), critic(tokens)[:, :-1] * mask
            kl = (old - reference.logprobs(tokens)) * mask
            score = reward_model.score(tokens) - average
            score -= NO_EOS_PENALTY * (tokens != EOS).all(1).float()
        last = mask * (mask.cumsum(1) == mask.sum(1, keepdim=True))
        rewards = last * score[:, None] - KL_COEF * kl  # each token pays for leaving the reference, the last one earns
        advantages, returns = gae(rewards, old_values)
        advantages = advantages - masked_mean(advantages, mask)
        advantages = advantages / (masked_mean(advantages**2, mask).sqrt() + 1e-8)
        epochs = shuffled([*range(len(tokens))], MINIBATCH, PPO_EPOCHS, seed + step)
        policy_adam.param_groups[0]["lr"] = POLICY_RATE * (1 - step / steps)
        for i in chain.from_iterable(epochs):
            descend(policy_adam, policy_loss(policy.logprobs(tokens[i]), old[i], advantages[i], mask[i]))
        for i in epochs[0]:
            descend(critic_adam, value_loss(critic(tokens[i])[:, :-1], returns[i], mask[i]))
        sums = {"reward": rewards.sum(1), "score": score, "kl": kl.sum(1), "length": mask.sum(1)}
        history.append({name: x.mean().item() for name, x in sums.items()})
        line = "    PPO, step {:2} of {}: reward {reward:.2f}, score {score:.2f}, KL {kl:.2f}, length {length:.1f}"
        print(line.format(step + 1, steps, **history[-1]))
    return history


def show(title: str, model: GPT) -> list[str]:
    """Prints the most likely answers and returns them."""
    said = [decode_answer(row) for row in sample(model, QUESTIONS, 0.0).tolist()]
    print(title, *(f"    {question:28}{answer}" for question, answer in zip(QUESTIONS, said, strict=True)), sep="\n")
    return said


def use_rows(rows: dict[str, list[list[str]]]) -> None:
    """Puts other rows in the place of those above: {"demonstrations": [[question, answer]], "preferences": [[question,
    better answer, worse answer]]}; a question and an answer may have CONTEXT tokens together, a Chinese character 3.
    """
    demonstrations, preferences = (rows[name] for name in ("demonstrations", "preferences"))
    for question, *answers in (*demonstrations, *preferences):
        longest = max(len(encode(question, answer)) for answer in answers)
        if longest > CONTEXT:
            raise SystemExit(f"{question!r} and its answer are {longest} tokens; at most {CONTEXT} are allowed")
    DEMONSTRATIONS[:], PREFERENCES[:] = map(tuple, demonstrations), map(tuple, preferences)
    QUESTIONS[:] = [question for question, _ in DEMONSTRATIONS]


def run_sft(seed: int, epochs: int) -> tuple[GPT, GPT, dict]:
    model, results = GPT(seed), {}
    batches = shuffled(DEMONSTRATIONS, SFT_BATCH, epochs, seed)
    losses, half = fit("SFT", model, SFT_RATE, batches, lambda batch: sft_loss(model, batch))
    for name, stage, done in ("half", half, epochs // 2), ("whole", model, epochs):
        loss = sft_loss(stage, DEMONSTRATIONS).item()
        results[name] = {"loss": loss, "answers": show(f"SFT, {done} epochs: loss {loss:.3f}", stage)}
    return model, half, {"losses": losses, **results}


def run_reward_model(trunk: GPT, seed: int, epochs: int) -> tuple[Scorer, dict]:
    model, batches = Scorer(trunk), shuffled(PREFERENCES, REWARD_BATCH, epochs, seed)
    losses, _ = fit("reward model", model, REWARD_RATE, batches, lambda batch: reward_loss(model, batch)[0])
    loss, accuracy = (x.item() for x in reward_loss(model, PREFERENCES))
    print(f"Reward model, {epochs} epochs: loss {loss:.5f}, accuracy {accuracy:.2f}")
    return model, {"losses": losses, "loss": loss, "accuracy": accuracy}


def plot(results: dict, path: Path) -> None:
    history = results["ppo"]["history"]
    curves = {
        "SFT: loss (nats per token)": results["sft"]["losses"],
        "reward model: loss (nats per pair)": results["reward"]["losses"],
        "PPO: reward (score units)": [row["reward"] for row in history],
        "PPO: KL from the reference (nats)": [row["kl"] for row in history],
    }
    figure = Figure(figsize=(16, 3.5), layout="constrained")
    for axis, (title, values) in zip(figure.subplots(1, 4), curves.items(), strict=True):
        axis.plot(range(1, len(values) + 1), values)
        axis.set(title=title, xlabel="step")
    figure.savefig(path, dpi=100)


def main() -> None:
    parser = argparse.ArgumentParser(description="SFT, reward model and PPO of a byte model, from scratch.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--smoke", action="store_true", help="a few steps of everything, to see that it runs")
    parser.add_argument("--out", type=Path, default=Path("runs/from-scratch"), help="for curves.png and results.json")
    parser.add_argument("--rows", type=Path, help="a JSON file of your own demonstrations and preferences (README)")
    args, started = parser.parse_args(), time.monotonic()
    if args.rows is not None:
        use_rows(json.loads(args.rows.read_text(encoding="utf-8")))
    print(f"device: {DEVICE}; a row is {encode(*DEMONSTRATIONS[0])}")
    show_gae()
    sft_epochs, reward_epochs, ppo_steps = (2, 2, 4) if args.smoke else (SFT_EPOCHS, REWARD_EPOCHS, PPO_STEPS)
    # The model of all epochs knows its answers by heart and has nothing left to try. PPO needs variety, so its policy
    # and reference are the model of half of them, which still stumbles; the reward model gets the better trunk.
    trunk, policy, sft = run_sft(args.seed, sft_epochs)
    reward_model, reward = run_reward_model(trunk, args.seed, reward_epochs)
    history = train_ppo(policy, reward_model, args.seed, ppo_steps)
    first, final = history[: ppo_steps // 4], history[-(ppo_steps // 4) :]
    before, after, kl = (mean(r[k] for r in rows) for rows, k in ((first, "reward"), (final, "reward"), (final, "kl")))
    said = show(f"PPO: mean reward {before:.2f} in the first quarter, {after:.2f} in the last at {kl:.2f} nats", policy)
    ppo = {"history": history, "reward_first": before, "reward_last": after, "kl": kl, "answers": said}
    results = {"seed": args.seed, "time_s": time.monotonic() - started, "sft": sft, "reward": reward, "ppo": ppo}
    args.out.mkdir(parents=True, exist_ok=True)
    plot(results, args.out / "curves.png")
    (args.out / "results.json").write_text(json.dumps(results, indent=1), encoding="utf-8")
    print(f"{results['time_s']:.0f} s; curves.png and results.json are in {args.out}")


if __name__ == "__main__":
    main()
