"""Rows as named projects keep them: pairs, rated and ranked replies, prompts with their answers."""

from __future__ import annotations

import json
import reprlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from thumbs.data.shapes import Format, Row, is_list
from thumbs.data.sources import RowError, parse_json
from thumbs.data.verdicts import chosen_axis, signed_vote, vote

_ARENA = {"model_a": 1.0, "model_b": 0.0, "tie": 0.5}
_BOTH_BAD = ("tie (bothbad)", "both_bad", "bothbad", "tie (both bad)")
_PKU = {"helpfulness": "better_response_id", "safety": "safer_response_id"}
_PKU_UNUSED = (
    "prompt_source response_0_source response_1_source response_0_harm_category response_1_harm_category "
    "response_0_severity_level response_1_severity_level response_0_sha256 response_1_sha256"
)
_HELPSTEER = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")


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
    verdict = vote(_choice(row.get("label"), {"A": 1.0, "B": 0.0, "Tie": 0.5}, "label"))
    names = {"prompt": "prompt_conversation", "chosen": "completion_A", "rejected": "completion_B"}
    return {new: sides[old] for new, old in names.items()} | {"judgements": [verdict]}


def _pku(row: Row) -> Sequence[Row]:
    key = chosen_axis("PKU-SafeRLHF", {name: key for name, key in _PKU.items() if key in row})
    return [vote(_choice(row[key], {0: 1.0, 1: 0.0, "tie": 0.5}, key))]


def _helpsteer3(row: Row) -> Sequence[Row]:
    people = row.get("individual_preference", [])
    if not is_list(people) or not all(isinstance(one, Mapping) and "score" in one for one in people):
        raise RowError("not_an_object", "'individual_preference' must be a list of objects with a score")
    return [
        signed_vote(one["score"], "score", f"HelpSteer3-{place}", one.get("reasoning"))
        for place, one in enumerate(people, start=1)
    ] or [signed_vote(row["overall_preference"], "overall_preference")]


def _arena(row: Row) -> Sequence[Row]:
    winner, judge = row["winner"], row.get("judge") or row.get("judge_hash")
    if isinstance(winner, str) and winner.lower() in _BOTH_BAD:
        return [{"verdict": "both_bad"} | ({} if judge is None else {"annotator": str(judge)})]
    return [vote(_choice(winner, _ARENA, "winner"), annotator=judge)]


def _arena_table(row: Row) -> Row:
    """LMSYS's table of one column a verdict; texts may be JSON lists of the turns."""
    prompts, first, second = (_json_turns(row[key], key) for key in ("prompt", "response_a", "response_b"))
    told = [better for name, better in _ARENA.items() if row.get(f"winner_{name}") in (1, "1")]
    if len(told) != 1:
        raise RowError("bad_label", "exactly one of winner_model_a, winner_model_b and winner_tie must be 1")
    if not len(prompts) == len(first) == len(second):
        raise RowError("missing_field", "prompt, response_a and response_b have different numbers of turns")
    whole = [
        [
            {"role": role, "content": text}
            for turns in zip(prompts, replies, strict=True)
            for role, text in zip(("user", "assistant"), turns, strict=True)
        ]
        for replies in (first, second)
    ]
    return {"chosen": whole[0], "rejected": whole[1], "judgements": [vote(told[0])]}


def _json_turns(value: object, key: str) -> list[str]:
    """The texts of a JSON list, or the text itself."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        with suppress(ValueError):  # a text that begins with a bracket
            value = parse_json(value)
    texts = [value] if isinstance(value, str) else value
    if not is_list(texts) or not all(isinstance(text, str) for text in texts):  # type: ignore[union-attr]
        raise RowError("bad_text", f"{key!r} must be text or a JSON list of texts")
    return list(texts)  # type: ignore[arg-type]


def _webgpt(row: Row) -> Row:
    question = row["prompt"]
    asked = question.get("full_text") if isinstance(question, Mapping) else question
    if asked is None:
        raise RowError("missing_field", "WebGPT: 'question' without 'full_text'")
    gap = _number(row, "score_0") - _number(row, "score_1")
    sides = {side: row[side] for side in ("chosen", "rejected")}
    return {"prompt": asked, **sides, "judgements": [vote(0.5 if gap == 0 else float(gap > 0))]}


def _summaries(row: Row) -> Row:
    info, sides = row["info"], row["summaries"]
    if not isinstance(info, Mapping) or not is_list(sides) or len(sides) != 2:
        raise RowError("missing_field", "summarize-from-feedback: 'info' is an object, 'summaries' a list of two")
    parts = (("SUBREDDIT: r/", "subreddit"), ("TITLE: ", "title"), ("POST: ", "post"), ("ARTICLE: ", "article"))
    lines = [mark + str(info[key]).strip() for mark, key in parts if key in info]
    first, second = (side.get("text") if isinstance(side, Mapping) else side for side in sides)
    verdict = vote(_choice(row["choice"], {0: 1.0, 1: 0.0}, "choice"), annotator=row.get("worker"))
    return {"prompt": "\n\n".join([*lines, "TL;DR:"]), "chosen": first, "rejected": second, "judgements": [verdict]}


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
    first, second = (option["text"] for option in options)
    return {"prompt": row["text"], "chosen": first, "rejected": second, "judgements": [verdict]}


def _distilabel(row: Row) -> Row:
    """Intel's Orca pairs as Argilla rated them again: a status says where the rater saw no difference."""
    pair = {name: row[name] for name in ("prompt", "chosen", "rejected")}
    return pair | ({"tie": True} if row["status"] == "tie" else {})


def _helpsteer_ratings(row: Row) -> Row:
    axis = chosen_axis("HelpSteer", {key: key for key in _HELPSTEER if key in row})
    return {"prompt": row["prompt"], "reply": row["reply"], "rating": row[axis]}


def _rated_on_axes(row: Row) -> Row:
    rating = chosen_axis("a reply rated on axes", row["ratings"])
    return {"prompt": row["prompt"], "reply": row["reply"], "rating": rating}


def _ultrafeedback(row: Row) -> Row:
    """The replies of a row with their order on one axis, equal numbers tied."""
    items = row["completions"]
    numbers = [_scores(item) for item in items]
    axes = {axis: axis for axis in numbers[0] if all(axis in one for one in numbers)}
    if not axes:
        raise RowError("bad_label", "UltraFeedback: no score or rating that every completion has")
    axis = chosen_axis("UltraFeedback", axes)
    values = [one[axis] for one in numbers]
    ranks = [1 + sum(other > value for other in values) for value in values]
    return {"prompt": row["prompt"], "replies": [item["response"] for item in items], "ranks": ranks}


def _scores(item: Mapping[str, Any]) -> dict[str, float]:
    """Numbers of a completion by axis: its scores, and the rating of each annotation."""
    found = {key: item[key] for key in ("overall_score", "fine-grained_score") if key in item}
    for axis, told in item.get("annotations", {}).items():
        rating = told.get("Rating", told.get("rating")) if isinstance(told, Mapping) else told
        if isinstance(rating, str | int | float):
            found[axis] = rating
    numbers = {}
    for axis, value in found.items():
        try:
            numbers[axis] = float(value)
        except (TypeError, ValueError):
            continue  # "N/A" stands where the annotator gave no rating
    return numbers


def _nectar(row: Row) -> Row:
    answers = sorted(row["answers"], key=lambda item: item["rank"])
    replies, ranks = [item["answer"] for item in answers], [int(item["rank"]) for item in answers]
    return {"prompt": row["prompt"], "replies": replies, "ranks": ranks}


def _verl(row: Row) -> Row:
    truth = row["reward_model"].get("ground_truth") if isinstance(row["reward_model"], Mapping) else None
    answer = truth if truth is None or isinstance(truth, str | int | float) else json.dumps(truth)
    return {"prompt": row["prompt"]} | ({} if answer is None else {"answer": answer})


def _objects(key: str, *wanted: str) -> Callable[[Row], bool]:
    """Whether a key holds a list of objects that have those keys."""
    return lambda row: bool(
        is_list(row[key]) and row[key] and all(isinstance(i, Mapping) and set(wanted) <= set(i) for i in row[key])
    )


FOREIGN: tuple[Format, ...] = (
    Format("comparisons of the Tinker cookbook", "preferences", "comparison", "label", convert=_comparison),
    Format(
        "comparisons of the Tinker cookbook",
        "preferences",
        "prompt_conversation completion_A completion_B",
        "label",
        convert=_comparison,
    ),
    Format(
        "PKU-SafeRLHF",
        "preferences",
        "better_response_id|safer_response_id",
        "better_response_id safer_response_id",
        f"is_response_0_safe is_response_1_safe {_PKU_UNUSED}",
        names={"prompt": "prompt", "chosen": "response_0", "rejected": "response_1"},
        votes=_pku,
    ),
    Format(
        "PKU-SafeRLHF's marks of safety",
        "safety",
        "is_response_0_safe is_response_1_safe",
        "safer_response_id id",
        f"better_response_id {_PKU_UNUSED}",
        names={"prompt": "prompt", "first": "response_0", "second": "response_1"},
    ),
    Format(
        "HelpSteer2-preference",
        "preferences",
        "preference_strength",
        "preference_statement",
        "preference_elaboration three_most_similar_preferences all_preferences_unprocessed split",
        names={"prompt": "prompt", "chosen": "response_1", "rejected": "response_2"},
        votes=lambda row: [
            signed_vote(row["preference_strength"], "preference_strength", reason=row.get("preference_statement"))
        ],
    ),
    Format(
        "HelpSteer3",
        "preferences",
        "overall_preference|individual_preference",
        "overall_preference individual_preference",
        "domain language",
        names={"prompt": "context", "chosen": "response1", "rejected": "response2"},
        votes=_helpsteer3,
    ),
    Format(
        "chatbot arena",
        "preferences",
        "winner",
        "judge judge_hash",
        "model_a model_b question_id turn language tstamp anony",
        names={"chosen": "conversation_a", "rejected": "conversation_b"},
        votes=_arena,
    ),
    Format(
        "the arena's table",
        "preferences",
        "prompt response_a response_b winner_model_a|winner_model_b|winner_tie",
        "winner_model_a winner_model_b winner_tie",
        "model_a model_b",
        convert=_arena_table,
        prompt="prompt",
    ),
    Format(
        "SHP",
        "preferences",
        "labels",
        unused="score_A score_B score_ratio post_id domain upvote_ratio seconds_difference",
        names={"prompt": "history", "chosen": "human_ref_A", "rejected": "human_ref_B"},
        votes=lambda row: [vote(_choice(row["labels"], {1: 1.0, 0: 0.0}, "labels"))],
    ),
    Format(
        "WebGPT comparisons",
        "preferences",
        "score_0 score_1",
        unused="quotes_0 quotes_1 tokens_0 tokens_1",
        names={"prompt": "question", "chosen": "answer_0", "rejected": "answer_1"},
        convert=_webgpt,
    ),
    Format(
        "summarize-from-feedback",
        "preferences",
        "info summaries choice",
        "worker",
        "batch split extra",
        convert=_summaries,
        prompt="info",
    ),
    Format(
        "Prodigy's choice",
        "preferences",
        "text options accept",
        "answer _annotator_id _session_id",
        "_input_hash _task_hash _view_id _timestamp config",
        lambda row: is_list(row["options"]) and is_list(row["accept"]),
        convert=_prodigy,
    ),
    Format(
        "Orca pairs rated by distilabel",
        "preferences",
        "status",
        unused="generations order labelling_model labelling_prompt raw_labelling_response rating rationale "
        "original_chosen original_rejected chosen_score in_gsm8k_train",
        names={"prompt": "input", "chosen": "chosen", "rejected": "rejected"},
        convert=_distilabel,
    ),
    Format(
        "HelpSteer",
        "ratings",
        "|".join(_HELPSTEER),
        " ".join(_HELPSTEER),
        names={"prompt": "prompt", "reply": "response"},
        convert=_helpsteer_ratings,
    ),
    Format(
        "a reply rated on axes",
        "ratings",
        "ratings",
        "id",
        fits=lambda row: isinstance(row["ratings"], Mapping) and len(row["ratings"]) > 0,
        names={"prompt": "prompt", "reply": "response|completion|reply"},
        convert=_rated_on_axes,
    ),
    Format(
        "UltraFeedback",
        "rankings",
        "completions",
        unused="source models correct_answers incorrect_answers",
        fits=_objects("completions", "response"),
        names={"prompt": "instruction"},
        convert=_ultrafeedback,
    ),
    Format(
        "Nectar",
        "rankings",
        "answers",
        unused="turns num_responses source good_natured",
        fits=_objects("answers", "answer", "rank"),
        names={"prompt": "prompt"},
        convert=_nectar,
    ),
    Format(
        "prompts of verl",
        "prompts",
        "reward_model",
        unused="data_source ability extra_info agent_name",
        names={"prompt": "prompt"},
        convert=_verl,
    ),
)
