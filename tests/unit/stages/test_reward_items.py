"""What each form of row asks of the model, by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from byte_world import MAKER, pair, user
from thumbs.config.data import DataConfig
from thumbs.config.losses import HEAD_WEIGHTS
from thumbs.config.reward_model import RewardModelConfig
from thumbs.data.tokenizers import ByteTokenizer
from thumbs.errors import DataError
from thumbs.records import Ranking, RankJudgement, Rating, RatingJudgement, Reply, StepJudgement, SteppedReply
from thumbs.stages.reward_items import Row, Scale, check_informative, draw, item_data, rating_scale, read_items

TOKENIZER = ByteTokenizer()
FILE = DataConfig(path="unused")


def config(loss: Any, **more: Any) -> RewardModelConfig:
    pairs = loss.endswith("bradley_terry")
    return RewardModelConfig(loss=loss, data=None if pairs else FILE, **more)


def ranking(*ranks: tuple[int | None, ...]) -> Ranking:
    replies = tuple(Reply(word, MAKER) for word in ("a", "bb", "ccc"))
    return Ranking("r", user("q"), replies, tuple(RankJudgement(f"p{i}", "", of) for i, of in enumerate(ranks)))


def rating(*values: float) -> Rating:
    return Rating(
        "r", user("q"), Reply("a", MAKER), tuple(RatingJudgement(f"p{i}", "", v) for i, v in enumerate(values))
    )


def data_of(rows: list[Row], settings: RewardModelConfig, scale: Scale | None = None) -> list[Any]:
    return item_data(read_items(TOKENIZER, rows, settings, scale or Scale()))


def column(data: list[Any], name: str) -> list[float]:
    return [float(datum.columns[name]) for datum in data]


def test_each_annotator_ranks_once_and_the_row_weighs_one():
    data = data_of([ranking((1, 2, 2), (None, 1, None)), ranking((3, 2, 1))], config("plackett_luce"))
    assert column(data, "unit") == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert column(data, "rank") == [1, 2, 2, math.inf, 1, math.inf, 3, 2, 1]
    assert column(data, "unit_weight") == [0.25] * 6 + [0.5] * 3
    assert all(datum.columns["weights"].tolist() == [0] * (len(datum) - 1) + [1] for datum in data)


def test_a_pair_counts_as_much_as_its_weight():
    heavy = replace(pair("q", "good", "bad"), weight=3.0)
    data = data_of([heavy, pair("q", "fine", "poor")], config("bradley_terry"))
    assert column(data, "unit_weight") == [1.5, 1.5, 0.5, 0.5]


def test_all_pairs_of_a_ranking_are_one_row():
    data = data_of([ranking((1, 2, 2), (2, 2, 1)), ranking((3, 2, 1))], config("ranked_pairs"))
    assert column(data, "preferred")[::2] == [0.75, 0.5, 0.25, 0, 0, 0]
    assert column(data, "unit_weight") == pytest.approx([1 / 6] * 12)
    without = data_of([ranking((1, 2, 2))], config("ranked_pairs", ties="drop"))
    assert column(without, "unit_weight") == [0.5] * 4


def test_token_wise_pairs_begin_where_the_replies_part():
    data = data_of([pair("q", "abX", "abYZ"), pair("q", "ab", "abc")], config("token_bradley_terry"))
    # BOS q SEP a b X EOS
    assert [datum.columns["weights"].tolist() for datum in data] == [
        [0, 0, 0, 0, 0, 1, 1],
        [0, 0, 0, 0, 0, 1, 1, 1],
        [0, 0, 0, 0, 0, 1],
        [0, 0, 0, 0, 0, 1, 1],
    ]


def test_ratings_are_standardised_or_levels():
    rows: list[Row] = [rating(1, 3), rating(5)]
    scale = rating_scale(rows, 1.0)
    assert (scale.mean, scale.std) == pytest.approx((3, math.sqrt(8 / 3)))
    assert scale.levels == (1, 3, 5)
    assert scale.thresholds == pytest.approx((math.log(1.5 / 3), math.log(3 / 1.5)))  # 1.5 of 4.5, 3 of 4.5
    assert rating_scale(rows, 2.0).thresholds == pytest.approx(tuple(2 * x for x in scale.thresholds))
    found = data_of(rows, config("regression"), scale)
    labels = [datum.columns["labels"][-1] for datum in found]
    assert labels == pytest.approx([-2 / scale.std, 0, 2 / scale.std])
    assert [datum.columns["weights"][-1] for datum in found] == [0.25, 0.25, 0.5]
    levels = data_of([*rows, rating(4.4)], config("ordinal"), scale)
    assert [datum.columns["labels"][-1] for datum in levels] == [0, 1, 2, 2]


def test_steps_have_their_labels_at_their_ends():
    row = SteppedReply("s", user("q"), ("ab\n", "c\n", "d"), MAKER, (StepJudgement("p", "", (1.0, None, 0.0)),))
    (datum,) = data_of([row], config("process"))
    # BOS q SEP a b \n c \n d EOS
    assert datum.columns["weights"].tolist() == [0, 0, 0, 0, 0.5, 0, 0, 0, 0, 0.5]
    assert datum.columns["labels"][[4, 9]].tolist() == [1, 0]


def test_draws_belong_to_the_row_and_have_mean_one():
    items = read_items(TOKENIZER, [pair("q", "a", "b")] * 400, config("bradley_terry"), Scale())
    drawn = draw(items, [0, 1, 2], seed=5)
    np.testing.assert_array_equal(draw(items[7:9], [1], 5)[:, 0], drawn[7:9, 1])
    assert drawn.mean() == pytest.approx(1, abs=0.1)
    assert drawn.var() == pytest.approx(1, abs=0.15)
    assert (drawn[:, 0] != drawn[:, 1]).mean() > 0.4
    data = item_data(items[:2], drawn[:2])
    np.testing.assert_allclose(data[2].columns[HEAD_WEIGHTS], drawn[1] / 3)
    alone = item_data(items[:2], drawn[:2, :1])
    assert column(alone, "unit_weight") == pytest.approx(np.repeat(drawn[:2, 0] / 2, 2).tolist())
    assert HEAD_WEIGHTS not in alone[0].columns


@pytest.mark.parametrize(
    ("rows", "loss", "says"),
    [
        ([ranking((1, 1, 1)), ranking((2, 2, 2))], "plackett_luce", "none of 2 rankings says which reply is better"),
        ([rating(3, 3), rating(3)], "ordinal", r"all 2 ratings say \{3\}"),
        (
            [SteppedReply("s", user("q"), ("a",), MAKER, (StepJudgement("p", "", (1.0,)),))],
            "process",
            r"all 1 steps say \{1.0\}",
        ),
    ],
)
def test_rows_that_never_differ_are_refused(rows: list[Row], loss: str, says: str, tmp_path: Path):
    with pytest.raises(DataError, match=says):
        check_informative(rows, config(loss))
