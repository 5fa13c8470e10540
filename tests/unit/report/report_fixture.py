"""A made-up run folder with every file that the report reads, some of its texts hostile."""

import math
import random
from pathlib import Path

from thumbs.tracking import RunFolder, StageFolder, write_json

HOSTILE = (
    '<script>alert(1)</script><img src=x onerror=alert(2)> & "quotes" </div></main> {{ 7 * 7 }} ]]> -->',
    "abc \u202egnirts desrever\u202c zero\u200bwidth \x1b[31mred\x1b[0m nul\x00 half \ud83d",
    "👩\u200d🔬 emoji 🙂🏽 العربية: أهلاً וגם עברית\nnext line\ttab",
    "w" * 5000,
)
CONFIG = {
    "run": "runs/made-up",
    "seed": 0,
    "model": {"name": "smollm2-135m", "lora": {"rank": 16}},
    "sft": {"data": {"path": "builtin:demonstrations"}},
    "labels": {"prompts": {"path": "builtin:prompts_train"}},
    "reward_model": {},
    "ppo": {"kl": {"coef": 0.1, "target": 6.0}, "optim": {"learning_rate": 1e-4}},
    "evaluation": {"prompts": {"path": "builtin:prompts_heldout"}, "best_of": 16},
}
_ANSWERS = {
    "base": "A cover letter is a document. It is a document that you send with a document.",
    "sft": "Start with the role you want and one thing you did that fits it. Keep it short.",
    "best_of_n": "Good idea! Open with the role, show one thing you are proud of, and close kindly.",
    "ppo": "How exciting! Open with the role you would love, share one proud moment, and thank "
    "the reader warmly. You will do great!",
}


def write_made_up_run(path: Path) -> None:
    """Write the folder; numbers look like a good run whose replies grew too long."""
    rng = random.Random(0)
    with RunFolder(path).open(CONFIG) as run:
        _write_training(run, rng)
        _write_evaluation(run.stage("evaluation"))
        write_json(path / "summary.json", _SUMMARY)


COMPARISONS = [
    {"left": "ppo", "right": "best_of_n", "measure": "gold", "difference": 0.02, "low": -0.05, "high": 0.09}
    | {"verdict": "not better", "left_kl": 5.4, "right_kl": 1.84, "n": 16},
    {"left": "ppo", "right": "sft", "measure": "gold", "difference": 0.33, "low": 0.26, "high": 0.4}
    | {"verdict": "better", "left_kl": 5.4, "right_kl": 0.0},
]
_SUMMARY = {
    "reward.heldout_accuracy": 0.846,
    "sft.gold": 0.312,
    "ppo.gold": 0.640,
    "ppo.proxy": 2.41,
    "best_of_n.gold": 0.498,
    "ppo.kl": 5.4,
    "ppo.length_ratio": 1.36,
    "ppo.distinct2_ratio": 0.93,
    "ppo.win_rate": 0.78,
    "time_s.sft": 96.2,
    "time_s.labels": 141.0,
    "time_s.reward_model": 118.5,
    "time_s.ppo": 430.1,
    "time_s.evaluation": 52.3,
    "peak_rss_gib": 2.13,
}


def _write_training(run: RunFolder, rng: random.Random) -> None:
    sft, reward, ppo = run.stage("sft"), run.stage("reward_model"), run.stage("ppo")
    for i in range(1, 61):
        values = {
            "sft/loss": 1.4 + 1.5 * math.exp(-i / 12) + rng.gauss(0, 0.09),
            "sft/grad_norm": 1 + rng.random(),
        }
        sft.metrics.log(i, values | ({"sft/heldout_loss": 1.5 + 1.4 * math.exp(-i / 14)} if i % 10 == 0 else {}))
    sft.mark_done({})
    run.stage("labels").mark_done({})
    for i in range(1, 81):
        rise = 1 - math.exp(-i / 18)
        values = {
            "reward/loss": 0.69 - 0.33 * rise + rng.gauss(0, 0.05),
            "reward/accuracy": min(1.0, 0.5 + 0.36 * rise + rng.gauss(0, 0.07)),
            "reward/score_gap": 2.2 * rise + rng.gauss(0, 0.2),
        }
        held = {"reward/heldout_loss": 0.69 - 0.29 * rise, "reward/heldout_accuracy": 0.5 + 0.345 * rise}
        reward.metrics.log(i, values | (held if i % 10 == 0 else {}))
    reward.mark_done({"score_mean": 0.1, "score_std": 1.2, "pairs": 1550, "heldout_pairs": 450, "audit": _AUDIT})
    for i in range(1, 41):
        ppo.metrics.log(i, _ppo_values(i, rng))
        if i % 5 == 0:
            for prompt in ("How do I write a cover letter?", HOSTILE[0]):
                text = HOSTILE[i // 5 % 4] if prompt in HOSTILE else _ANSWERS["ppo"]
                ppo.samples.append(i, {"prompt": prompt, "text": text, "score": i / 20})
    ppo.mark_done({})


def _ppo_values(i: int, rng: random.Random) -> dict[str, float]:
    rise = 1 - math.exp(-i / 14)
    return {
        "ppo/score": 0.3 + 2.1 * rise + rng.gauss(0, 0.14),
        "ppo/reward": 0.3 + 1.6 * rise + rng.gauss(0, 0.16),
        "ppo/kl": 6.3 * rise + rng.gauss(0, 0.3),
        "ppo/kl_coef": 0.1 + 0.02 * rise,
        "ppo/entropy": 1.9 - 0.7 * rise + rng.gauss(0, 0.04),
        "ppo/length": 46 + 14 * rise + rng.gauss(0, 2),
        "ppo/clip_fraction": 0.09 + 0.03 * rng.random(),
        "ppo/explained_variance": 0.75 * rise - 0.1 + rng.gauss(0, 0.05),
        "ppo/repetition": 0.03 + 0.02 * rng.random(),
    }


_AUDIT = {
    "accuracy": 0.846,
    "accuracy_low": 0.794,
    "accuracy_high": 0.887,
    "n": 228,
    "loss": 0.401,
    "ece": 0.034,
    "length_correlation": 0.21,
    "bins": [
        {"low": i / 10, "high": (i + 1) / 10, "predicted": i / 10 + 0.05, "observed": o, "n": n}
        for i, (o, n) in enumerate(
            zip(
                (0.07, 0.2, 0.22, 0.38, 0.47, 0.51, 0.61, 0.79, 0.82, 0.93),
                (41, 22, 18, 16, 17, 15, 19, 20, 21, 39),
                strict=True,
            )
        )
    ],
}


def _write_evaluation(stage: StageFolder) -> None:
    numbers = {
        "base": (0.18, -0.6, 9.7, 58.0, 0.71),
        "sft": (0.312, 0.35, 0.0, 47.1, 0.80),
        "best_of_n": (0.498, 1.22, 0.64, 49.0, 0.80),
        "ppo": (0.640, 2.41, 5.4, 64.0, 0.744),
    }
    systems = {
        name: {"gold": g, "gold_low": g - 0.06, "gold_high": g + 0.06, "proxy": p, "kl": kl}
        | {"length": length, "distinct2": d, "truncated": 0.04, "n": 100}
        for name, (g, p, kl, length, d) in numbers.items()
    }
    prompts = ("How do I write a cover letter?", *HOSTILE)
    samples = [
        {"prompt": prompt}
        | {
            name: {
                "text": HOSTILE[i - 1] if i else answer,
                "gold": numbers[name][0],
                "proxy": numbers[name][1],
            }
            for name, answer in _ANSWERS.items()
            if name != "best_of_n"
        }
        for i, prompt in enumerate(prompts)
    ]
    for name, (_, proxy, kl, _, _) in numbers.items():
        systems[name] |= {"proxy_low": proxy - 0.2, "proxy_high": proxy + 0.2}
        systems[name] |= {"kl_low": 0.9 * kl, "kl_high": 1.1 * kl, "draws": 16}
    systems |= {
        f"ppo@{i}": {**systems["ppo"], "kl": kl, "gold": g, "gold_low": g - 0.06, "gold_high": g + 0.06, "proxy": p}
        | {"proxy_low": p - 0.2, "proxy_high": p + 0.2}
        for i, kl, g, p in ((10, 1.6, 0.47, 1.2), (20, 3.4, 0.58, 1.8), (30, 4.6, 0.645, 2.2))
    }
    curve = [
        {"n": n, "kl": kl, "gold": g, "low": g - 0.05, "high": g + 0.05, "proxy": p}
        for n, kl, g, p in ((1, 0.0, 0.312, 0.35), (2, 0.19, 0.4, 0.8), (4, 0.64, 0.498, 1.22), (16, 1.84, 0.62, 1.7))
    ]
    results = {
        "systems": systems,
        "best_of_n": curve,
        "comparisons": COMPARISONS,
        "reference": "sft",
        "samples": samples,
        "judge": "vader",
    }
    even = {"value": 0.74, "low": 0.64, "high": 0.82}
    win_rate = {"rate": 0.78, "low": 0.69, "high": 0.85, "n": 100, "length_controlled": even}
    write_json(stage.path / "results.json", results | {"win_rates": {"ppo": win_rate}})
    stage.mark_done({})
