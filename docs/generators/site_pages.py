"""Hooks of the documentation site: pages from outside docs/, links that lead out of it, and two languages.

The files are written for a code host; here the same links find the pages of the site.
"""

from __future__ import annotations

import os
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[2]
OUTSIDE = {
    "README.md": "overview.md",
    "README.zh.md": "zh/overview.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "examples/from_scratch/README.md": "from_scratch.md",
    "examples/from_scratch/README.zh.md": "zh/from_scratch.md",
}
"""File of the repository → page of the site."""

_SOURCE = {page: source for source, page in OUTSIDE.items()}
_TOKEN = re.compile(
    r"(?P<fence>^ *```.*?^ *```$)|(?P<code>`[^`\n]+`)"
    r"|(?<!!)\[(?P<label>(?:[^\[\]]|!\[[^\]]*\]\([^)]*\))*)\]\((?P<link>[^)#\s]+)(?P<anchor>#[^)\s]*)?\)",
    re.MULTILINE | re.DOTALL,
)
"""What is code, and left alone, or a link."""


def on_files(files: Files, config: Any) -> Files:
    for source, page in OUTSIDE.items():
        if (ROOT / source).exists():
            files.append(File.generated(config, page, content=(ROOT / source).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Any, files: Files, **_: Any) -> str:
    here = page.file.src_uri
    folder = posixpath.dirname(_SOURCE.get(here, f"docs/{here}"))

    def moved(match: re.Match[str]) -> str:
        label, link, anchor = match["label"], match["link"], match["anchor"] or ""
        if not link or "://" in link:
            return match[0]
        target = posixpath.normpath(posixpath.join(folder, link))
        inside = OUTSIDE.get(target) or target.removeprefix("docs/")
        if files.get_file_from_path(inside):
            return f"[{label}]({posixpath.relpath(inside, posixpath.dirname(here) or '.')}{anchor})"
        if not (ROOT / target).exists():
            return match[0]  # mkdocs reports it
        home = os.environ.get("THUMBS_REPOSITORY")
        return f"[{label}]({home.rstrip('/')}/blob/main/{target}{anchor})" if home else label

    return _TOKEN.sub(moved, markdown)


def on_page_context(context: Any, page: Any, config: Any, **_: Any) -> Any:
    """The words of the theme are those of the page's language, and the menu of languages leads to the same page."""
    here, files = page.file.src_uri, context["pages"]
    chinese = here.startswith("zh/")
    config.theme["language"] = "zh" if chinese else "en"
    urls = {file.src_uri: file.url for file in files}
    english = here.removeprefix("zh/")
    pairs = (("English", "en", english, "./"), ("简体中文", "zh", f"zh/{english}", "zh/"))
    config.extra["alternate"] = [
        {"name": name, "lang": lang, "link": urls.get(uri, otherwise)} for name, lang, uri, otherwise in pairs
    ]
    return context
