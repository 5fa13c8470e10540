"""The report of a made-up run: complete, self-contained, and deaf to what hostile text wants."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from report_fixture import HOSTILE, write_made_up_run

from thumbs.errors import CheckpointError, RunError
from thumbs.report.build import build_report
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


def test_the_page_runs_and_loads_nothing(html: str) -> None:
    page = Page(html)
    assert page.nesting == []
    assert not {"script", "img", "iframe", "object", "embed", "link", "base", "form", "image"} & set(page.tags)
    for tag, name, value in page.attributes:
        assert not name.startswith("on"), (tag, name, value)
        if name in ("href", "src", "xlink:href", "action", "srcset"):
            assert value.startswith("#"), (tag, name, value)
    assert not re.search(r"@import|url\((?!#)", html)
    policy = [v for t, n, v in page.attributes if t == "meta" and v.startswith("default-src")]
    assert policy == ["default-src 'none'; style-src 'unsafe-inline'; img-src data:"]
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
        "PPO raised the mean gold score on held-out prompts from 0.312 to 0.640, 5.40 nats per sequence",
        "prefers its reply to SFT's on 78 % of them (95 % interval 69 % to 85 %, n = 100)",
        "at least 0.562 ✓ met",
        "0.700 to 1.30 ✗ not met",
        "Best of 4",
        "nats per sequence",
        "7 min 10 s",
        "learning_rate: 0.0001",
    ):
        assert expected in re.sub(r"\s+", " ", page.text), expected


def test_the_same_run_gives_the_same_bytes(tmp_path: Path) -> None:
    write_made_up_run(tmp_path)
    assert build_report(tmp_path).read_bytes() == build_report(tmp_path).read_bytes()


def test_a_run_that_just_started_says_what_is_missing(tmp_path: Path) -> None:
    RunFolder(tmp_path).open({"seed": 0}).close()
    before = sorted(p.name for p in tmp_path.iterdir())
    page = Page(build_report(tmp_path).read_text(encoding="utf-8"))
    assert page.text.count("SFT: not run yet") == 1
    assert page.text.count("Evaluation: not run yet") == 3
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
