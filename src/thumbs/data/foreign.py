"""Pairs as named projects keep them."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from thumbs.data.shapes import Format, Row, is_list
from thumbs.data.sources import RowError, parse_json
from thumbs.data.verdicts import chosen_axis, signed_vote, vote

_ARENA = {"model_a": 1.0, "model_b": 0.0, "tie": 0.5}
_BOTH_BAD = ("tie (bothbad)", "both_bad", "bothbad", "tie (both bad)")
_AB = {"A": 1.0, "B": 0.0, "Tie": 0.5}


def _pair(prompt: object, first: object, second: object, *votes: Mapping[str, Any]) -> Row:
    """Canonical row of a pair whose first reply is `first`."""
    return {"prompt": prompt, "chosen": first, "rejected": second, "judgements": list(votes)}


def _choice(value: object, allowed: Mapping[Any, float], field: str) -> float:
    if isinstance(value, str | int | float) and value in allowed:
        return allowed[value]
    raise RowError("bad_label", f"{field} {reprlib.repr(value)}; use one of {', '.join(map(str, allowed))}")


def _number(row: Row, key: str) -> float:
    value = row[key]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise RowError("bad_label", f"{key!r} must be a number, got {reprlib.repr(value)}")
    return float(value)


def _comparison(row: Row) -> Row:
    sides = row.get("comparison", row)
    if not isinstance(sides, Mapping):
        raise RowError("not_an_object", f"'comparison' must be an object, got {type(sides).__name__}")
    for key in ("prompt_conversation", "completion_A", "completion_B"):
        if key not in sides:
            raise RowError("missing_field", f"a comparison without {key!r}")
    better = _choice(row.get("label"), _AB, "label")
    return _pair(sides["prompt_conversation"], sides["completion_A"], sides["completion_B"], vote(better))


def _pku(row: Row) -> Row:
    axes = {
        name: {0: 1.0, 1: 0.0}
        for name, key in (("helpfulness", "better_response_id"), ("safety", "safer_response_id"))
        if key in row
    }
    keys = {"helpfulness": "better_response_id", "safety": "safer_response_id"}
    key = chosen_axis("PKU-SafeRLHF", {name: keys[name] for name in axes})
    return _pair(row["prompt"], row["response_0"], row["response_1"], vote(_choice(row[key], {0: 1.0, 1: 0.0}, key)))


def _helpsteer_pair(row: Row) -> Row:
    strength = signed_vote(row["preference_strength"], "preference_strength", reason=row.get("preference_statement"))
    return _pair(row["prompt"], row["response_1"], row["response_2"], strength)


def _helpsteer3(row: Row) -> Row:
    people = row.get("individual_preference", [])
    if not is_list(people) or not all(isinstance(one, Mapping) and "score" in one for one in people):
        raise RowError("not_an_object", "'individual_preference' must be a list of objects with a score")
    votes = [
        signed_vote(one["score"], "score", f"HelpSteer3-{place}", one.get("reasoning"))
        for place, one in enumerate(people, start=1)
    ] or [signed_vote(row["overall_preference"], "overall_preference")]
    return _pair(row["context"], row["response1"], row["response2"], *votes)


def _arena(row: Row) -> Row:
    winner, judge = row["winner"], row.get("judge") or row.get("judge_hash")
    if isinstance(winner, str) and winner.lower() in _BOTH_BAD:
        verdict: dict[str, Any] = {"verdict": "both_bad"} | ({} if judge is None else {"annotator": str(judge)})
    else:
        verdict = vote(_choice(winner, _ARENA, "winner"), annotator=judge)
    return {"chosen": row["conversation_a"], "rejected": row["conversation_b"], "judgements": [verdict]}


def _arena_table(row: Row) -> Row:
    """LMSYS's table of one column a verdict; texts may be JSON lists of the turns."""
    sides = [_json_turns(row[key], key) for key in ("prompt", "response_a", "response_b")]
    told = [
        better
        for key, better in (("winner_model_a", 1.0), ("winner_model_b", 0.0), ("winner_tie", 0.5))
        if row.get(key) in (1, "1")
    ]
    if len(told) != 1:
        raise RowError("bad_label", "exactly one of winner_model_a, winner_model_b and winner_tie must be 1")
    prompts, first, second = sides
    if not len(prompts) == len(first) == len(second):
        raise RowError("missing_field", "prompt, response_a and response_b have different numbers of turns")
    whole = [
        [turn for asked, answer in zip(prompts, replies, strict=True) for turn in _turns(asked, answer)]
        for replies in (first, second)
    ]
    return {"chosen": whole[0], "rejected": whole[1], "judgements": [vote(told[0])]}


def _turns(asked: str, answer: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]


def _json_turns(value: object, key: str) -> list[str]:
    """The texts of a JSON list, or the text itself."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        with suppress(ValueError):  # a text that begins with a bracket
            value = parse_json(value)
    texts = [value] if isinstance(value, str) else value
    if not is_list(texts) or not all(isinstance(text, str) for text in texts):  # type: ignore[union-attr]
        raise RowError("bad_text", f"{key!r} must be text or a JSON list of texts")
    return list(texts)  # type: ignore[arg-type]


def _shp(row: Row) -> Row:
    return _pair(
        row["history"], row["human_ref_A"], row["human_ref_B"], vote(_choice(row["labels"], {1: 1.0, 0: 0.0}, "labels"))
    )


def _webgpt(row: Row) -> Row:
    question = row["question"]
    asked = question.get("full_text") if isinstance(question, Mapping) else question
    if asked is None:
        raise RowError("missing_field", "WebGPT: 'question' without 'full_text'")
    gap = _number(row, "score_0") - _number(row, "score_1")
    return _pair(asked, row["answer_0"], row["answer_1"], vote(0.5 if gap == 0 else float(gap > 0)))


def _summaries(row: Row) -> Row:
    info, sides = row["info"], row["summaries"]
    if not isinstance(info, Mapping) or not is_list(sides) or len(sides) != 2:
        raise RowError("missing_field", "summarize-from-feedback: 'info' is an object, 'summaries' a list of two")
    parts = (("SUBREDDIT: r/", "subreddit"), ("TITLE: ", "title"), ("POST: ", "post"), ("ARTICLE: ", "article"))
    lines = [mark + str(info[key]).strip() for mark, key in parts if key in info]
    texts = [side.get("text") if isinstance(side, Mapping) else side for side in sides]
    verdict = vote(_choice(row["choice"], {0: 1.0, 1: 0.0}, "choice"), annotator=row.get("worker"))
    return _pair("\n\n".join([*lines, "TL;DR:"]), texts[0], texts[1], verdict)


def _prodigy(row: Row) -> Row:
    options, accepted, answer = row["options"], row["accept"], row.get("answer", "accept")
    who = row.get("_annotator_id") or row.get("_session_id")
    if len(options) != 2 or not all(isinstance(o, Mapping) and {"id", "text"} <= set(o) for o in options):
        raise RowError("wrong_format", f"Prodigy's choice is read with two options of id and text, got {len(options)}")
    names = [option["id"] for option in options]
    if answer != "accept":
        verdict: dict[str, Any] = {"verdict": "skip"} | ({} if who is None else {"annotator": str(who)})
    elif set(accepted) == set(names):
        verdict = vote(0.5, annotator=who)
    elif len(accepted) == 1 and accepted[0] in names:
        verdict = vote(float(accepted[0] == names[0]), annotator=who)
    else:
        raise RowError("bad_label", f"Prodigy's 'accept' is {reprlib.repr(accepted)}; the options are {names}")
    return _pair(row["text"], options[0]["text"], options[1]["text"], verdict)


def _distilabel(row: Row) -> Row:
    """Intel's Orca pairs as Argilla rated them again: a status says where the rater saw no difference."""
    pair = {"prompt": row["input"], "chosen": row["chosen"], "rejected": row["rejected"]}
    return pair | ({"tie": True} if row["status"] == "tie" else {})


FOREIGN: tuple[Format, ...] = (
    Format("comparisons of the Tinker cookbook", "preferences", ("comparison",), ("label",), convert=_comparison),
    Format(
        "comparisons of the Tinker cookbook",
        "preferences",
        ("prompt_conversation", "completion_A", "completion_B"),
        ("label",),
        convert=_comparison,
    ),
    Format(
        "PKU-SafeRLHF",
        "preferences",
        ("prompt", "response_0", "response_1", "better_response_id|safer_response_id"),
        ("better_response_id", "safer_response_id"),
        (
            *("is_response_0_safe", "is_response_1_safe", "prompt_source", "response_0_source", "response_1_source"),
            *("response_0_harm_category", "response_1_harm_category", "response_0_severity_level"),
            *("response_1_severity_level", "response_0_sha256", "response_1_sha256"),
        ),
        convert=_pku,
        prompt=("prompt",),
    ),
    Format(
        "HelpSteer2-preference",
        "preferences",
        ("prompt", "response_1", "response_2", "preference_strength"),
        ("preference_statement",),
        ("preference_elaboration", "three_most_similar_preferences", "all_preferences_unprocessed", "split"),
        convert=_helpsteer_pair,
        prompt=("prompt",),
    ),
    Format(
        "HelpSteer3",
        "preferences",
        ("context", "response1", "response2", "overall_preference|individual_preference"),
        ("overall_preference", "individual_preference"),
        ("domain", "language"),
        convert=_helpsteer3,
        prompt=("context",),
    ),
    Format(
        "chatbot arena",
        "preferences",
        ("conversation_a", "conversation_b", "winner"),
        ("judge", "judge_hash"),
        ("model_a", "model_b", "question_id", "turn", "language", "tstamp", "anony"),
        convert=_arena,
    ),
    Format(
        "the arena's table",
        "preferences",
        ("prompt", "response_a", "response_b", "winner_model_a|winner_model_b|winner_tie"),
        ("winner_model_a", "winner_model_b", "winner_tie"),
        ("model_a", "model_b"),
        convert=_arena_table,
        prompt=("prompt",),
    ),
    Format(
        "SHP",
        "preferences",
        ("history", "human_ref_A", "human_ref_B", "labels"),
        (),
        ("score_A", "score_B", "score_ratio", "post_id", "domain", "upvote_ratio", "seconds_difference"),
        convert=_shp,
        prompt=("history",),
    ),
    Format(
        "WebGPT comparisons",
        "preferences",
        ("question", "answer_0", "answer_1", "score_0", "score_1"),
        (),
        ("quotes_0", "quotes_1", "tokens_0", "tokens_1"),
        convert=_webgpt,
        prompt=("question",),
    ),
    Format(
        "summarize-from-feedback",
        "preferences",
        ("info", "summaries", "choice"),
        ("worker",),
        ("batch", "split", "extra"),
        convert=_summaries,
        prompt=("info",),
    ),
    Format(
        "Prodigy's choice",
        "preferences",
        ("text", "options", "accept"),
        ("answer", "_annotator_id", "_session_id"),
        ("_input_hash", "_task_hash", "_view_id", "_timestamp", "config"),
        lambda row: is_list(row["options"]) and is_list(row["accept"]),
        _prodigy,
    ),
    Format(
        "Orca pairs rated by distilabel",
        "preferences",
        ("input", "chosen", "rejected", "status"),
        (),
        (
            *("generations", "order", "labelling_model", "labelling_prompt", "raw_labelling_response", "rating"),
            *("rationale", "original_chosen", "original_rejected", "chosen_score", "in_gsm8k_train"),
        ),
        convert=_distilabel,
        prompt=("input",),
    ),
)
