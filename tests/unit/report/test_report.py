"""The report of a made-up run: complete, self-contained, and deaf to what hostile text wants."""

import base64
import csv
import hashlib
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from report_fixture import HOSTILE, write_made_up_run

from thumbs.errors import CheckpointError, RunError
from thumbs.evaluation.replies import EvaluatedReply, write
from thumbs.records import Message
from thumbs.report.build import build_report
from thumbs.report.figures import calibration_figure
from thumbs.report.numbers import number
from thumbs.report.record import read_run
from thumbs.tracking import RunFolder, write_json


class Page(HTMLParser):
    """Tags, attributes and text of a page; `nesting` ends empty when every tag is closed in order."""

    VOID = ("meta", "br", "path", "use", "rect", "link", "img")

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.text = ""
        self.nesting: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in self.VOID:
            self.nesting.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.nesting.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def html(tmp_path_factory: pytest.TempPathFactory) -> str:
    run = tmp_path_factory.mktemp("runs") / "made-up"
    write_made_up_run(run)
    return build_report(run).read_text(encoding="utf-8")


def test_the_page_runs_one_script_and_loads_nothing(html: str) -> None:
    page = Page(html)
    assert page.nesting == []
    assert page.tags.count("script") == 1
    (script,) = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert not {"img", "iframe", "object", "embed", "link", "base", "form", "image"} & set(page.tags)
    for tag, name, value in page.attributes:
        assert not name.startswith("on"), (tag, name, value)
        if name in ("href", "src", "xlink:href", "action", "srcset"):
            assert value.startswith(("#", "data:text/csv;")), (tag, name, value)
    assert not re.search(r"@import|url\((?!#)", html)
    policy = [v for t, n, v in page.attributes if t == "meta" and v.startswith("default-src")]
    assert policy == [f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src 'sha256-{digest}'"]
    assert len(html) < 1_500_000


def test_hostile_text_is_shown_and_not_obeyed(html: str) -> None:
    assert "<script>alert" not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html
    assert not re.search("[\u202a-\u202e\u2066-\u2069\u200b\x00-\x08\x1b]", html)
    for code in ("U+202E", "U+200B", "U+001B", "U+0000"):
        assert f'<span class="codepoint">{code}</span>' in html
    assert "👩\u200d🔬" in html
    assert "{{ 7 * 7 }}" in html
    texts = re.findall(r'<div class="text ?\w*"( dir="auto")?>', html)
    assert texts
    assert all(texts)
    assert max(map(len, HOSTILE)) > 4000
    assert "more characters</span>" in html


def test_every_section_has_its_numbers(html: str) -> None:
    page = Page(html)
    assert "not run yet" not in page.text
    assert page.tags.count("svg") == 2 + 3 + 9 + 1 + 2
    for expected in (
        "PPO minus best of 16 (5.40 against 1.84 nats): +0.02 [−0.05, +0.09]: not better.",
        "Gold is “vader”. 100 held-out prompts, the same for all",
        "PPO78 %69 % to 85 %74 %64 % to 82 %",
        "at least 0.562 ✓ met",
        "0.700 to 1.30 no interval, no verdict",
        "Best of 16",
        "nats per sequence",
        "7 min 10 s",
        "learning_rate: 0.0001",
    ):
        assert expected in re.sub(r"\s+", " ", page.text), expected


def tables(html: str) -> dict[str, list[list[list[str]]]]:
    """The CSV files in a page by name, each as its rows."""
    found: dict[str, list[list[list[str]]]] = {}
    for href, name in re.findall(r'href="data:text/csv;charset=utf-8,([^"]*)" download="([^"]*)"', html):
        text = unquote(href).removeprefix("\ufeff")
        found.setdefault(name, []).append(list(csv.reader(io.StringIO(text))))
    return found


def test_the_values_of_each_figure_are_in_the_page_as_csv(html: str, tmp_path: Path) -> None:
    page = Page(html)
    assert len(re.findall('download="', html)) == page.tags.count("svg") == page.tags.count("figure")
    with RunFolder(tmp_path).open({"seed": 0}) as run:
        run.stage("sft").metrics.log(1, {"sft/loss": 2.5, "sft/heldout_loss": 2.25})
        run.stage("sft").metrics.log(2, {"sft/loss": float("inf")})
        run.stage("sft").metrics.log(3, {"sft/loss": -1.125})
    (loss,) = tables(build_report(tmp_path).read_text(encoding="utf-8"))["loss.csv"]
    assert loss == [
        ["series", "step", "nats per token"],
        ["training", "1.0", "2.5"],
        ["training", "2.0", ""],
        ["training", "3.0", "-1.125"],
        ["held out", "1.0", "2.25"],
    ]


def test_alarms_are_on_every_curve_of_their_stage_and_nowhere_else(tmp_path: Path) -> None:
    with RunFolder(tmp_path).open({"seed": 0, "iterations": 2, "ppo": {}}) as run:
        run.stage("sft").metrics.log(1, {"sft/loss": 2.5})
        for i in range(1, 4):
            run.stage("ppo").metrics.log(i, {"ppo/kl": i, "ppo/score": 0.5, "watch/gap": 0.0})
            (run.path / "iteration-2").mkdir(exist_ok=True)
            run.stage("iteration-2/ppo").metrics.log(i, {"ppo/kl": i + 10.0})
        run.stage("ppo").alarms.append(2, {"alarm": HOSTILE[0]})
        run.stage("ppo").alarms.append(2, {"alarm": "=HYPERLINK(1)"})
        run.stage("iteration-2/ppo").alarms.append(3, {"alarm": "the other"})
    html = build_report(tmp_path).read_text(encoding="utf-8")
    charts = re.findall(r'<svg role="img" aria-label="([^"]*)".*?</svg>', html, re.DOTALL)
    marked = re.findall(r'aria-label="([^"]*)" (?:(?!</svg>).)*?<title>alarm at step 2: &lt;script', html, re.DOTALL)
    assert len(charts) == 4
    assert sorted(marked) == sorted(name for name in charts if name.startswith("ppo"))
    assert html.count("<title>alarm at step 3: the other, iteration 2</title>") == 3
    (kl,) = tables(html)["kl-from-the-reference.csv"]
    assert ["training, iteration 2", "3.0", "13.0", ""] in kl
    assert all(not cell.startswith("=") for row in kl for cell in row)
    assert "1 step with an alarm</b>" in html
    assert "1 step with an alarm, iteration-2/ppo</b>" in html


def test_stages_stand_in_the_order_of_the_pipeline(html: str, tmp_path: Path) -> None:
    names = re.findall(r"<tr><td>([^<]*)</td><td class=\"n\">[^<]*</td><td class=\"bar-cell\">", html)
    assert names == ["SFT", "Labels", "Reward model", "PPO", "Evaluation"]
    RunFolder(tmp_path).open({"seed": 0, "iterations": 2}).close()
    told = ("evaluation", "iteration-2/ppo", "iteration-2/labels", "ppo", "labels", "sft", "reward_model")
    write_json(tmp_path / "summary.json", {f"time_s.{name}": 1.0 for name in told})
    order = ["sft", "labels", "reward_model", "ppo", "iteration-2/labels", "iteration-2/ppo", "evaluation"]
    assert list(read_run(tmp_path).seconds()) == order


def test_the_same_run_gives_the_same_bytes(tmp_path: Path) -> None:
    write_made_up_run(tmp_path)
    assert build_report(tmp_path).read_bytes() == build_report(tmp_path).read_bytes()


def test_a_run_that_just_started_says_what_is_missing(tmp_path: Path) -> None:
    RunFolder(tmp_path).open({"seed": 0, "sft": {}}).close()
    before = sorted(p.name for p in tmp_path.iterdir())
    page = Page(build_report(tmp_path).read_text(encoding="utf-8"))
    assert page.text.count("SFT: not run yet") == 1
    assert "Nothing yet." in page.text
    assert "no gold was given" in page.text
    assert "this is one run, with seed 0" in page.text
    assert "svg" not in page.tags
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([*before, "report.html"])


def test_an_interrupted_stage_shows_what_it_has(tmp_path: Path) -> None:
    with RunFolder(tmp_path).open({"seed": 0}) as run:
        run.stage("sft").metrics.log(1, {"sft/loss": float("nan")})
        run.stage("sft").metrics.log(2, {"sft/loss": 2.0})
    page = Page(build_report(tmp_path).read_text(encoding="utf-8"))
    assert "at step 2" in page.text
    assert page.tags.count("svg") == 1


def test_a_long_run_stays_a_small_file(tmp_path: Path) -> None:
    with RunFolder(tmp_path).open({"seed": 0}) as run:
        path = run.stage("sft").metrics.path
        record: dict[str, Any] = {"wall_s": 1.0, "sft/loss": 1.0, "sft/grad_norm": 0.5}
        path.write_text("".join(json.dumps({"step": i, **record}) + "\n" for i in range(50_000)))
    assert build_report(tmp_path).stat().st_size < 200_000


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="is not a run folder"):
        build_report(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"config\.json cannot be read"):
        build_report(tmp_path)


def test_settings_of_another_version_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    write_json(
        tmp_path / "config.json", {"run": "r", "model": {"name": "byte-tiny"}, "ppo": {"prompts": "a", "clip": 1}}
    )
    assert read_run(tmp_path).setting("ppo.clip") == 1
    (record,) = caplog.records
    assert "config.json: unknown key 'ppo.clip'" in record.message


def test_replies_that_the_length_limit_cut_are_marked(tmp_path: Path) -> None:
    with RunFolder(tmp_path).open({"seed": 0, "ppo": {}}) as run:
        run.stage("ppo").samples.append(1, {"prompt": "p", "text": "cut sho", "score": 0.1, "cut": True})
        run.stage("ppo").samples.append(2, {"prompt": "p", "text": "whole", "score": 0.1, "cut": False})
        reply = {"text": "also cut", "gold": None, "proxy": 0.1, "cut": True}
        systems = {"prompt": "q", "sft": reply, "ppo": {**reply, "text": "not cut", "cut": False}}
        write_json(run.stage("evaluation").path / "results.json", {"samples": [systems]})
    html = build_report(tmp_path).read_text(encoding="utf-8")
    marked = re.findall(r'<div class="text " dir="auto">([^<]*)</div><p class="cut">✂', html)
    assert sorted(marked) == ["also cut", "cut sho"]


def test_gold_and_proxies_are_drawn_in_deviations_of_the_reference(tmp_path: Path) -> None:
    """Six prompts, two replies each; by hand: gold of the reference has mean 1 and deviation 1."""
    scores = {"sft": ((0.0, 2.0),) * 6, "ppo": ((2.0, 2.0), (4.0, 4.0)) * 3, "ppo@1": ((1.0, 1.0),) * 6}
    rows = [
        EvaluatedReply(system, (Message("user", f"p{p}"),), f"p{p}", draw, "text", 3, False, gold, {"proxy": 10 * gold})
        for system, prompts in scores.items()
        for p, draws in enumerate(prompts)
        for draw, gold in enumerate(draws)
    ]
    RunFolder(tmp_path).open({"seed": 0, "evaluation": {"best_of": 2}}).close()
    write(tmp_path / "evaluation" / "replies.jsonl", rows)
    systems = {
        name: {"kl": kl, "gold": 0.0, "proxy": 0.0, "n": 2} for name, kl in (("sft", 0), ("ppo@1", 1), ("ppo", 4))
    }
    curve = [{"n": n, "kl": kl, "gold": 0.0, "low": 0.0, "high": 0.0, "proxy": 0.0} for n, kl in ((1, 0.0), (2, 0.19))]
    write_json(tmp_path / "evaluation" / "results.json", {"systems": systems, "reference": "sft", "best_of_n": curve})
    (found,) = tables(build_report(tmp_path).read_text(encoding="utf-8"))["gold-and-proxies-against-kl.csv"]
    kl, gain = "KL from the reference, nats per sequence", "gain, deviations of the reference"
    assert found[0] == ["series", "name", kl, gain, "low", "high"]
    by_hand = {
        ("PPO, gold", "SFT, gold"): ("0.0", "0.0"),
        ("PPO, gold", "PPO at 1 nats, gold"): ("1.0", "0.0"),
        ("PPO, gold", "PPO, gold"): ("4.0", "2.0"),
        ("PPO, proxy", "PPO, proxy"): ("4.0", "2.0"),
    }
    told = {(row[0], row[1]): (row[2], str(round(float(row[3]), 9))) for row in found[1:]}
    assert {key: told[key] for key in by_hand} == by_hand
    best = [(row[2], str(round(float(row[3]), 9))) for row in found if row[0] == "Best of n, gold"]
    assert best == [("0.0", "0.0"), ("0.19", "1.0")]  # the better of the two, 2, is one deviation above 1


def test_calibration_is_shown_next_to_what_chance_does(tmp_path: Path) -> None:
    bins = [{"low": 0.5, "high": 0.75, "predicted": 0.6, "observed": 0.8, "n": 10}]
    bins.append({"low": 0.75, "high": 1.0, "predicted": 0.9, "observed": 0.9, "n": 1000})
    figure = calibration_figure(bins)
    assert figure is not None
    rows = {(row["series"], row["confidence in the winner"]): row for row in figure.chart.rows}
    wide, narrow = rows["calibrated, by chance", 0.6], rows["calibrated, by chance", 0.9]
    # 95 % of binomials: 3 to 9 of 10 at 0.6; 881 to 918 of 1000 at 0.9
    assert (wide["low"], wide["high"]) == (0.3, 0.9)
    assert narrow["low"] == pytest.approx(0.881, abs=0.002)
    assert narrow["high"] == pytest.approx(0.918, abs=0.002)
    assert rows["reward model", 0.6]["fraction right"] == 0.8
    assert f"Expected calibration error {number(0.2 * 10 / 1010)};" in figure.caption
    assert calibration_figure([]) is None


def test_the_comparison_that_decides_comes_first_and_what_is_unsure_is_not_called_shown(html: str) -> None:
    text = re.sub(r"\s+", " ", Page(html).text)
    decides = "PPO minus best of 16 (5.40 against 1.84 nats): +0.02 [−0.05, +0.09]: not better."
    assert text.index(decides) < text.index("What this shows")
    shown, not_shown = text.index("ShownPPO minus SFT"), text.index("Not shownPPO minus best of 16")
    assert shown < not_shown
    assert "PPO raised" not in text
    assert "no watch with a second opinion was kept" in text[not_shown:]


def test_a_run_without_gold_says_so(tmp_path: Path) -> None:
    RunFolder(tmp_path).open({"seed": 3, "ppo": {}}).close()
    text = re.sub(r"\s+", " ", Page(build_report(tmp_path).read_text(encoding="utf-8")).text)
    assert "No gold was given; nothing was evaluated." in text
    assert "Systems on held-out prompts" not in text
    assert "No evaluation was asked for" in text
    assert "met" not in re.findall(r"[a-z]+", text.partition("Numbers")[2].partition("Reward model")[0])


def test_the_accuracy_stands_next_to_its_nulls_and_stages_that_were_not_asked_for_have_no_section(
    tmp_path: Path,
) -> None:
    RunFolder(tmp_path).open({"seed": 0, "reward_model": {}}).close()
    audit = {"accuracy": 0.7, "accuracy_low": 0.6, "accuracy_high": 0.8, "n": 90, "loss": 0.6, "ece": 0.1}
    nulls = {"longer": {"value": 0.65, "low": 0.55, "high": 0.75}, "first": {"value": 0.5, "low": 0.4, "high": 0.6}}
    write_json(tmp_path / "reward_model" / "done.json", {"audit": {**audit, "length_correlation": 0.3, "nulls": nulls}})
    html = build_report(tmp_path).read_text(encoding="utf-8")
    text = " ".join(re.sub("<[^>]+>", " ", html.partition("Audit on held-out pairs")[2]).split())
    assert "The longer reply is better 0.650 a null: 95 % interval 0.550 to 0.750" in text
    assert "The first reply is better 0.500 a null" in text
    assert '<section id="sft">' not in html
    assert '<section id="ppo">' not in html
