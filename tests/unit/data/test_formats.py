"""Rows as other projects keep them: what a person reads in them, by hand, or the words of the refusal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from thumbs.data.conversations import read_conversation
from thumbs.data.formats import FORMATS, kind_of
from thumbs.data.lint import detect_kind, lint
from thumbs.data.preferences import preferred, read_preference
from thumbs.data.prompts import read_prompt
from thumbs.data.rankings import read_ranking
from thumbs.data.ratings import mean_rating, read_rating
from thumbs.data.reading import reading
from thumbs.data.replies import read_judged_reply
from thumbs.data.sources import RowError
from thumbs.records import Message

Q, GOOD, BAD = "How do I cook rice?", "Rinse it, then simmer it.", "No idea."


def user(text: str = Q) -> dict[str, str]:
    return {"role": "user", "content": text}


def said(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def human(text: str = Q) -> dict[str, str]:
    return {"from": "human", "value": text}


WHOLE = {text: [user(), said(text)] for text in (GOOD, BAD)}
HH = {text: f"\n\nHuman: {Q}\n\nAssistant: {text}" for text in (GOOD, BAD)}
SAFE = {"is_response_0_safe": True, "is_response_1_safe": False}
PKU = {"prompt": Q, "response_0": BAD, "response_1": GOOD, "better_response_id": 1, "safer_response_id": 0, **SAFE}
STEER = {
    "prompt": Q,
    "response": GOOD,
    "helpfulness": 4,
    "correctness": 3,
    "coherence": 4,
    "complexity": 1,
    "verbosity": 0,
}
STEER_PAIR = {
    "prompt": Q,
    "response_1": GOOD,
    "response_2": BAD,
    "preference_statement": "It is kinder.",
    "split": "train",
}
STEER3 = {"domain": "general", "language": "english", "context": [user()], "response1": BAD, "response2": GOOD}
ARENA = {"question_id": "q", "model_a": "m", "model_b": "n", "judge": "ana", "turn": 1, "tstamp": 1.5}
ARENA |= {"conversation_a": WHOLE[GOOD], "conversation_b": WHOLE[BAD]}
SHP = {
    "post_id": "p",
    "history": Q,
    "human_ref_A": GOOD,
    "human_ref_B": BAD,
    "score_A": 9,
    "score_B": 3,
    "score_ratio": 3.0,
}
WEBGPT = {"question": {"full_text": Q, "dataset": "eli5"}, "answer_0": BAD, "answer_1": GOOD, "quotes_0": {"title": []}}
SUMMARY = {"info": {"subreddit": "food", "title": "Rice", "post": "I burnt it."}, "batch": "b", "split": "train"}
SUMMARY |= {"summaries": [{"text": BAD, "policy": "sup"}, {"text": GOOD, "policy": "ref"}], "worker": "w7", "extra": {}}
COOKBOOK = {"comparison": {"prompt_conversation": [user()], "completion_A": [said(GOOD)], "completion_B": [said(BAD)]}}
FIELDS = {"prompt": Q, "response1": BAD, "response2": GOOD}
ARGILLA = {"id": "r", "status": "completed", "fields": FIELDS, "metadata": {}, "suggestions": {}, "vectors": {}}
OPTIONS = [{"id": 1, "text": GOOD}, {"id": 2, "text": BAD}]
ORCA = {
    "system": "Be brief.",
    "input": Q,
    "chosen": GOOD,
    "rejected": BAD,
    "rating": [9, 4],
    "chosen_score": 9.0,
    "order": ["x"],
}
BINARIZED = {"prompt": Q, "prompt_id": "x", "chosen": WHOLE[GOOD], "rejected": WHOLE[BAD], "messages": WHOLE[GOOD]}

FIRST, SECOND, TIE = 1.0, 0.0, 0.5
PAIRS: dict[str, tuple[dict[str, Any], tuple[str, str], list[float | str]]] = {
    "TRL": ({"prompt": [user()], "chosen": [said(GOOD)], "rejected": [said(BAD)]}, (GOOD, BAD), [FIRST]),
    "TRL, implicit": ({"chosen": WHOLE[GOOD], "rejected": WHOLE[BAD]}, (GOOD, BAD), [FIRST]),
    "Skywork": ({"chosen": WHOLE[GOOD], "rejected": WHOLE[BAD], "source": "s"}, (GOOD, BAD), [FIRST]),
    "hh-rlhf": ({"chosen": HH[GOOD], "rejected": HH[BAD]}, (GOOD, BAD), [FIRST]),
    "UltraFeedback, binarized": ({**BINARIZED, "score_chosen": 8.0, "score_rejected": 4.0}, (GOOD, BAD), [FIRST]),
    "label 0": ({"prompt": Q, "chosen": GOOD, "rejected": BAD, "label": 0}, (GOOD, BAD), [SECOND]),
    "label in words": ({"prompt": Q, "chosen": GOOD, "rejected": BAD, "label": "False"}, (GOOD, BAD), [SECOND]),
    "Orca pairs": ({"system": "", "question": Q, "chosen": GOOD, "rejected": BAD}, (GOOD, BAD), [FIRST]),
    "Orca pairs, a tie": ({**ORCA, "system": None, "status": "tie"}, (GOOD, BAD), [TIE]),
    "Orca pairs, swapped": ({**ORCA, "system": None, "status": "swapped"}, (GOOD, BAD), [FIRST]),
    "Argilla's flat pairs": (
        {"instruction": Q, "chosen_response": GOOD, "rejected_response": BAD, "chosen_avg_rating": 5.0},
        (GOOD, BAD),
        [FIRST],
    ),
    "OpenAI preference": (
        {"input": {"messages": [user()]}, "preferred_output": [said(GOOD)], "non_preferred_output": [said(BAD)]},
        (GOOD, BAD),
        [FIRST],
    ),
    "Stack Exchange": ({"question": Q, "response_j": GOOD, "response_k": BAD}, (GOOD, BAD), [FIRST]),
    "LLaMA-Factory": (
        {
            "conversations": [human()],
            "chosen": {"from": "gpt", "value": GOOD},
            "rejected": {"from": "gpt", "value": BAD},
        },
        (GOOD, BAD),
        [FIRST],
    ),
    "LLaMA-Factory, older": ({"instruction": Q, "input": "", "output": [GOOD, BAD]}, (GOOD, BAD), [FIRST]),
    "ms-swift": ({"messages": WHOLE[GOOD], "rejected_response": BAD}, (GOOD, BAD), [FIRST]),
    "axolotl": ({"messages": [user()], "chosen": said(GOOD), "rejected": said(BAD)}, (GOOD, BAD), [FIRST]),
    "Capybara": (
        {"conversation": [{"input": Q, "output": GOOD}], "chosen": WHOLE[GOOD], "rejected": WHOLE[BAD], "source": "c"},
        (GOOD, BAD),
        [FIRST],
    ),
    "cookbook A": ({**COOKBOOK, "label": "A"}, (GOOD, BAD), [FIRST]),
    "cookbook B": ({**COOKBOOK, "label": "B"}, (GOOD, BAD), [SECOND]),
    "cookbook Tie": ({**COOKBOOK, "label": "Tie"}, (GOOD, BAD), [TIE]),
    "cookbook, flat": ({**COOKBOOK["comparison"], "label": "B"}, (GOOD, BAD), [SECOND]),
    "PKU, one axis": ({k: v for k, v in PKU.items() if k != "safer_response_id"}, (BAD, GOOD), [SECOND]),
    "HelpSteer2": ({**STEER_PAIR, "preference_strength": -2}, (GOOD, BAD), [FIRST]),
    "HelpSteer2, a tie": ({**STEER_PAIR, "preference_strength": 0}, (GOOD, BAD), [TIE]),
    "HelpSteer3": ({**STEER3, "overall_preference": 3, "individual_preference": []}, (BAD, GOOD), [SECOND]),
    "HelpSteer3, votes": (
        {**STEER3, "overall_preference": 1, "individual_preference": [{"score": s} for s in (2, 1, -1)]},
        (BAD, GOOD),
        [SECOND, SECOND, FIRST],
    ),
    "arena a": ({**ARENA, "winner": "model_a"}, (GOOD, BAD), [FIRST]),
    "arena b": ({**ARENA, "winner": "model_b"}, (GOOD, BAD), [SECOND]),
    "arena tie": ({**ARENA, "winner": "tie"}, (GOOD, BAD), [TIE]),
    "arena, both bad": ({**ARENA, "winner": "tie (bothbad)"}, (GOOD, BAD), ["both_bad"]),
    "the arena's table": (
        {
            **{"id": 7, "prompt": json.dumps([Q]), "response_a": json.dumps([BAD]), "response_b": json.dumps([GOOD])},
            **{"winner_model_a": 0, "winner_model_b": 1, "winner_tie": 0},
        },
        (BAD, GOOD),
        [SECOND],
    ),
    "SHP, A": ({**SHP, "labels": 1}, (GOOD, BAD), [FIRST]),
    "SHP, B": ({**SHP, "labels": 0}, (GOOD, BAD), [SECOND]),
    "WebGPT": ({**WEBGPT, "score_0": -1, "score_1": 1}, (BAD, GOOD), [SECOND]),
    "WebGPT, by halves": ({**WEBGPT, "score_0": -0.5, "score_1": 0.0}, (BAD, GOOD), [SECOND]),
    "WebGPT, the first by halves": ({**WEBGPT, "score_0": 0.5, "score_1": 0.0}, (BAD, GOOD), [FIRST]),
    "WebGPT, a tie": ({**WEBGPT, "score_0": 0, "score_1": 0}, (BAD, GOOD), [TIE]),
    "Prodigy": ({"text": Q, "options": OPTIONS, "accept": [2], "answer": "accept"}, (GOOD, BAD), [SECOND]),
    "Prodigy, both": ({"text": Q, "options": OPTIONS, "accept": [1, 2], "answer": "accept"}, (GOOD, BAD), [TIE]),
    "Prodigy, ignored": ({"text": Q, "options": OPTIONS, "accept": [1], "answer": "ignore"}, (GOOD, BAD), ["skip"]),
    "Argilla 2": (
        {
            **ARGILLA,
            "responses": {"preference": [{"value": v, "user_id": v} for v in ("response2", "response1", "tie")]},
        },
        (BAD, GOOD),
        [SECOND, FIRST, TIE],
    ),
    "Argilla 1": (
        {
            "fields": FIELDS,
            "responses": [
                {"user_id": "u", "status": "submitted", "values": {"better": {"value": "response2"}}},
                {"user_id": "v", "status": "draft", "values": {"better": {"value": "response1"}}},
            ],
        },
        (BAD, GOOD),
        [SECOND],
    ),
    "Argilla, ranked": (
        {
            "fields": FIELDS,
            "responses": {
                "order": [
                    {"value": [{"value": "response1", "rank": 2}, {"value": "response2", "rank": 1}], "user_id": "u"}
                ]
            },
        },
        (BAD, GOOD),
        [SECOND],
    ),
    "votes in judgements": (
        {
            **{"prompt": Q, "chosen": GOOD, "rejected": BAD},
            "judgements": [
                {"annotator": a, "verdict": "prefer", "strength": s} for a, s in (("x", -1), ("y", -2), ("z", 1))
            ],
        },
        (GOOD, BAD),
        [FIRST, FIRST, SECOND],
    ),
}


def votes_of(judgements: Any) -> list[float | str]:
    by_verdict: dict[str, float | str] = {"tie": TIE, "both_bad": "both_bad", "skip": "skip"}
    return [by_verdict.get(j.verdict, FIRST if j.strength < 0 else SECOND) for j in judgements]


@pytest.mark.parametrize("name", PAIRS)
def test_pairs_are_read_with_their_votes(name: str):
    row, texts, votes = PAIRS[name]
    assert kind_of(row) == "preferences"
    for keys in (list(row), sorted(row), sorted(row, reverse=True)):
        pair = read_preference({**{key: row[key] for key in keys}, "never_heard_of": None, "empty": []})
        assert pair.prompt == (Message("user", Q),)
        assert tuple(reply.text for reply in pair.replies) == texts
        assert votes_of(pair.judgements) == votes


@pytest.mark.parametrize("name", PAIRS)
def test_the_loser_is_never_a_demonstration(name: str):
    row, texts, _ = PAIRS[name]
    better = preferred(read_preference(row))
    if better is None or better == TIE:
        with pytest.raises(RowError, match="neither reply of the pair won"):
            read_conversation(row)
    else:
        assert read_conversation(row)[-1] == Message("assistant", texts[0] if better > 0.5 else texts[1])


def test_who_judged_and_why_and_how_strongly_is_kept():
    assert read_preference({**ARENA, "winner": "tie"}).judgements[0].annotator == "ana"
    steer = read_preference({**STEER_PAIR, "preference_strength": -3}).judgements[0]
    assert (steer.strength, steer.reason) == (-3, "It is kinder.")
    summary = read_preference({**SUMMARY, "choice": 1})
    assert votes_of(summary.judgements) == [SECOND]
    assert summary.judgements[0].annotator == "w7"
    assert summary.prompt[0].content == "SUBREDDIT: r/food\n\nTITLE: Rice\n\nPOST: I burnt it.\n\nTL;DR:"


@pytest.mark.parametrize(("axis", "first_is_better"), [("helpfulness", SECOND), ("safety", FIRST)])
def test_a_row_with_two_axes_needs_a_choice(axis: str, first_is_better: float):
    with pytest.raises(RowError, match=r"PKU-SafeRLHF judges on several axes \(helpfulness, safety\); choose one"):
        read_preference(PKU)
    with reading(axis):
        assert preferred(read_preference(PKU)) == first_is_better
    with (
        reading("style"),
        pytest.raises(RowError, match="there is no axis 'style' here; there are helpfulness, safety"),
    ):
        read_preference(PKU)


def test_ratings_on_several_axes():
    with reading("correctness"):
        assert mean_rating(read_rating(STEER)) == 3.0
    with reading("honesty"):
        rated = {"prompt": Q, "completion": GOOD, "ratings": {"honesty": 5, "style": 2}}
        assert mean_rating(read_rating(rated)) == 5.0
    with pytest.raises(RowError, match="HelpSteer judges on several axes"):
        read_rating(STEER)


def feedback(*texts_and_scores: tuple[str, float, str]) -> dict[str, Any]:
    items = [
        {"model": "m", "response": text, "overall_score": score, "annotations": {"honesty": {"Rating": rating}}}
        for text, score, rating in texts_and_scores
    ]
    return {"source": "evol", "instruction": Q, "models": ["m"], "completions": items, "correct_answers": ["None"]}


def test_rankings_of_named_projects():
    row = feedback((BAD, 2.0, "5"), (GOOD, 8.5, "N/A"), ("Boil it.", 8.5, "1"))
    assert read_ranking(row).judgements[0].ranks == (3, 1, 1)  # honesty is not given for all
    row = feedback((BAD, 2.0, "5"), (GOOD, 8.5, "4"))
    with reading("honesty"):
        assert read_ranking(row).judgements[0].ranks == (1, 2)
    with pytest.raises(RowError, match=r"UltraFeedback judges on several axes \(overall_score, honesty\)"):
        read_ranking(row)
    answers = [{"answer": BAD, "model": "m", "rank": 2.0}, {"answer": GOOD, "model": "n", "rank": 1.0}]
    nectar = read_ranking({"prompt": f"\n\nHuman: {Q}\n\nAssistant: ", "answers": answers, "turns": 1, "source": ["x"]})
    assert [reply.text for reply in nectar.replies] == [GOOD, BAD]
    assert nectar.judgements[0].ranks == (1, 2)


@pytest.mark.parametrize(
    ("row", "good"),
    [
        ({"instruction": Q, "input": "", "output": GOOD, "kto_tag": True}, True),
        ({"conversations": [human(), {"from": "gpt", "value": GOOD}], "kto_tag": False}, False),
        ({"messages": WHOLE[GOOD], "label": False}, False),
        ({"prompt": Q, "completion": GOOD, "label": "True"}, True),
        ({"prompt": [user()], "completion": [said(GOOD)], "label": "false"}, False),
        ({"instruction": Q, "output": GOOD, "score": 0}, False),
        ({"text": HH[GOOD], "label": 1}, True),
    ],
)
def test_single_replies_with_a_label(row: dict[str, Any], good: bool):
    assert kind_of(row) == "replies"
    found = read_judged_reply(row)
    assert (found.messages, found.desirable) == ((Message("user", Q), Message("assistant", GOOD)), good)
    if good:
        assert read_conversation(row) == found.messages
    else:
        with pytest.raises(RowError, match="its reply is bad"):
            read_conversation(row)


@pytest.mark.parametrize(
    "row",
    [
        {"messages": WHOLE[GOOD], "parallel_tool_calls": False, "tools": []},  # OpenAI's fine-tuning
        {"messages": json.dumps(WHOLE[GOOD])},
        {"conversation": [{"input": Q, "output": GOOD}]},
        {"conversation": WHOLE[GOOD]},
        {"instruction": Q, "context": "", "response": GOOD, "category": "qa"},  # Dolly
        {"instruction": Q, "input": "", "output": GOOD, "text": "Below is an instruction …"},  # Alpaca
        {"system_prompt": "", "question": Q, "response": GOOD},  # OpenOrca
        {"user": Q, "assistant": GOOD},
        {"prompt": Q, "messages": WHOLE[GOOD], "prompt_id": "x"},  # UltraChat
        {"text": HH[GOOD]},
    ],
)
def test_conversations_of_named_projects(row: dict[str, Any]):
    assert kind_of(row) == "conversations"
    assert read_conversation(row) == (Message("user", Q), Message("assistant", GOOD))


def test_prompts_of_named_projects():
    verl = {
        "data_source": "x",
        "prompt": [user()],
        "ability": "math",
        "reward_model": {"style": "rule", "ground_truth": "4"},
    }
    assert read_prompt(verl).answer == "4"
    assert kind_of({"prompt": Q, "answer": "4"}) == "prompts"
    gsm8k = {"question": Q, "answer": "so 4"}
    assert (read_prompt(gsm8k).messages, read_prompt(gsm8k).answer) == ((Message("user", Q),), "so 4")
    assert read_conversation(gsm8k)[-1].content == "so 4"


LABEL_STUDIO = {"id": 1, "data": {"prompt": Q, "a": GOOD, "b": BAD}, "annotations": [{"result": []}]}
MIN = {
    "id": 1,
    "prompt": Q,
    "answer1": BAD,
    "answer2": GOOD,
    "comparison": "right",
    "annotator": 1,
    "created_at": "2026",
}
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "Label Studio": (LABEL_STUDIO, "Label Studio's JSON: which side .* write rows with prompt, chosen and rejected"),
    "Label Studio, min": (MIN, "Label Studio's JSON_MIN: which side"),
    "Argilla, a text question": (
        {"fields": FIELDS, "responses": {"why": [{"value": "Because."}]}},
        "no answer to why names",
    ),
    "Argilla, nobody": ({"fields": FIELDS, "responses": {}}, "no submitted response says"),
    "OASST messages": ({"message_id": "m", "text": Q, "role": "prompter", "rank": 0}, "OpenAssistant's messages"),
    "OASST trees": ({"message_tree_id": "m", "prompt": {"text": Q, "replies": []}}, "OpenAssistant's trees"),
    "axolotl's segments": ({"segments": [{"label": True, "text": GOOD}]}, "axolotl's segments"),
    "cookbook without a label": (COOKBOOK, "label None; use one of A, B, Tie"),
    "arena without a winner": ({**ARENA, "winner": "model_c"}, "winner 'model_c'; use one of model_a, model_b, tie"),
    "PKU, renamed": (
        {"prompt": Q, "response_a": GOOD, "response_b": BAD, "better_id": 1},
        "a row needs 'chosen' and 'rejected'.*its keys are 'better_id', 'prompt', 'response_a', 'response_b'",
    ),
    "a winner beside": ({"prompt": Q, "chosen": GOOD, "rejected": BAD, "winner": "b"}, "'winner' would count too"),
    "scores the other way": (
        {"prompt": Q, "chosen": GOOD, "rejected": BAD, "score_chosen": 2, "score_rejected": 7},
        "is the rejected reply the better one",
    ),
    "a label and a tie": ({"prompt": Q, "chosen": GOOD, "rejected": BAD, "label": 1, "tie": True}, "'tie' is true"),
    "an unknown prompt key": ({"prompt_text": Q, "chosen": GOOD, "rejected": BAD}, "'prompt_text', 'rejected'"),
    "pictures": ({"prompt": Q, "chosen": GOOD, "rejected": BAD, "images": ["x.png"]}, "the row has 'images'"),
    "two system messages": (
        {"system": "Be brief.", "system_prompt": "Be long.", "prompt": Q, "chosen": GOOD, "rejected": BAD},
        "are two system messages",
    ),
    "ratings": (STEER, "this one is in the format of HelpSteer, which makes rated replies: use `form: ratings`"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_read_is_refused_by_name(name: str):
    row, words = REFUSED[name]
    with pytest.raises(RowError, match=words):
        read_preference(row)


ODD: list[dict[str, Any]] = [
    {"prompt": Q, "answers": [{"answer": GOOD, "rank": "x"}, {"answer": BAD, "rank": 1}]},
    {"fields": {"prompt": Q}, "responses": 3},
    {"instruction": Q, "completions": [{"response": GOOD, "annotations": 3}]},
    {"text": Q, "options": [1, 2], "accept": [1]},
    {"info": "x", "summaries": "y", "choice": 1},
    {**ARENA, "winner": ["model_a"]},
    {**COOKBOOK, "label": {"A": 1}},
    {"prompt": Q, "reply": GOOD, "judgements": {"x": 1}},
    {**STEER3, "overall_preference": "2", "individual_preference": [1]},
    {"prompt": 3, "chosen": 5, "rejected": [6]},
]
LISTS: list[Any] = [[], [GOOD, BAD], [{"text": GOOD}], [{"response": GOOD, "answer": GOOD, "rank": 1}, 3], GOOD]


@pytest.mark.parametrize("items", LISTS)
@pytest.mark.parametrize("key", ["completions", "answers"])
def test_a_list_of_other_things_is_not_another_projects_list(key: str, items: Any):
    row = {"instruction" if key == "completions" else "prompt": Q, key: items}
    named = [format.name for format in FORMATS if format.keys_of(row) is not None]
    assert not {"UltraFeedback", "Nectar"} & set(named)


@pytest.mark.parametrize("row", ODD)
@pytest.mark.parametrize("read", [read_conversation, read_preference, read_ranking, read_rating, read_judged_reply])
def test_values_of_the_wrong_kind_are_faults_of_the_row(row: dict[str, Any], read: Any):
    with pytest.raises(RowError):
        read(row)


COMPARISONS: list[dict[str, Any]] = [
    {"prompt": Q, "response_a": GOOD, "response_b": BAD, "choice": "a"},
    {"prompt": Q, "responseA": GOOD, "responseB": BAD, "winner": "A"},
    {"prompt": Q, "answer_left": GOOD, "answer_right": BAD, "verdict": "left"},
    {"question": Q, "answer1": GOOD, "answer2": BAD, "preferred": 2},
    {"prompt": Q, "responses": [GOOD, BAD], "preferred_index": 1},
    {"prompt": Q, "completion": GOOD, "completion_b": BAD, "label_b": 1},
    {"prompt": Q, "completion": BAD, "better_completion": GOOD},
    {"prompt": Q, "response": BAD, "accepted": False},
    {"messages": WHOLE[BAD], "rejected": True},
    {"messages": WHOLE[BAD], "is_safe": "no"},
    {"instruction": Q, "output": BAD, "unsafe": True},
    {"prompt": Q, "generations": [GOOD, BAD], "scores": [1, 2]},
]


@pytest.mark.parametrize("row", COMPARISONS)
def test_a_judgement_that_we_do_not_know_is_no_demonstration(row: dict[str, Any]):
    with pytest.raises(RowError, match="would count too"):
        read_prompt(row)
    with pytest.raises(RowError):
        read_conversation(row)
    assert kind_of(row) == "preferences"


def test_lint_names_the_format(tmp_path: Path):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({**LABEL_STUDIO, "id": i}) + "\n" for i in range(3)), encoding="utf-8")
    report = lint(path)
    assert (report.kind, report.rows_left, report.counts) == ("preferences", 0, {"wrong_format": 3})
    path.write_text("".join(json.dumps(PKU) + "\n" for _ in range(3)), encoding="utf-8")
    assert detect_kind(path) == "preferences"
    assert lint(path, axis="safety").rows_left == 3


def test_what_a_format_says_of_its_axes_is_said_as_it_is():
    row = {"prompt": "p", "response_0": "a", "response_1": "b", "better_response_id": 0, "safer_response_id": 1}
    with pytest.raises(RowError) as refused:
        read_preference(row)
    assert str(refused.value).startswith("PKU-SafeRLHF judges on several axes (helpfulness, safety); choose one")
