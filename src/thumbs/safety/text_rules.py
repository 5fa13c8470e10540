"""What a text gives away, by rules: secrets, numbers of payment cards, e-mail addresses, words of a list.

Rules read the text as `plain` makes it: compatibility characters become usual ones (NFKC), and what is invisible is
gone. Every expression runs in time that grows with the length of the text, whatever the text is: repetitions are
bounded or possessive, and each run of characters is entered once.
"""

from __future__ import annotations

import itertools
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

MASK = "[hidden]"

_WORD = r"(?<![A-Za-z0-9_-])"
_KEYS = {
    "an AWS access key": _WORD + r"(?:AKIA|ASIA|ABIA|ACCA)[A-Z0-9]{16}(?![A-Za-z0-9])",
    "a GitHub token": _WORD + r"(?:gh[pousr]_[A-Za-z0-9]{36,255}|github_pat_[A-Za-z0-9_]{22,255})",
    "a GitLab token": _WORD + r"glpat-[A-Za-z0-9_-]{20,64}",
    "a Slack token": _WORD + r"xox[abeoprs]-[A-Za-z0-9-]{10,250}",
    "a Google key": _WORD + r"(?:AIza[A-Za-z0-9_-]{35}|ya29\.[A-Za-z0-9_-]{20,250})",
    "a Stripe key": _WORD + r"[rs]k_(?:live|test)_[A-Za-z0-9]{16,250}",
    "a Hugging Face token": _WORD + r"hf_[A-Za-z0-9]{30,64}",
    "an npm or PyPI token": _WORD + r"(?:npm_[A-Za-z0-9]{36}|pypi-[A-Za-z0-9_-]{50,250})",
    "a SendGrid key": _WORD + r"SG\.[A-Za-z0-9_-]{16,32}+\.[A-Za-z0-9_-]{16,64}",
    "a Telegram token": _WORD + r"\d{8,10}:AA[A-Za-z0-9_-]{33}",
    "a JSON web token": _WORD + r"eyJ[A-Za-z0-9_-]{8,2000}+\.eyJ[A-Za-z0-9_-]{8,4000}+\.[A-Za-z0-9_-]{8,2000}",
    "a password in an address": r"(?<![A-Za-z0-9+.-])[a-z][a-z0-9+.-]{1,20}+://[^\s:/@]{1,100}+:(?P<value>[^\s:/@]{3,100}+)@",
}
_LIKELY = {
    "an API key": _WORD + r"(?P<value>(?:sk|tml|pk|rk)-(?=[A-Za-z0-9_-]{0,40}[A-Za-z0-9]{16})[A-Za-z0-9_-]{20,250})",
    "a bearer token": r"(?i:bearer)\s{1,3}+(?P<value>[A-Za-z0-9_.~+/-]{16,1000}+=*)",
    "a secret that is set": (
        r"(?i:api[ _-]?key|secret(?:[ _-]?(?:access[ _-]?)?key)?|(?:auth|access|refresh)[ _-]?token|token|"
        r"passw(?:or)?d|passphrase)[\"'`]?\s{0,3}+(?:=>|:=|=|:|\bis\b)\s{0,3}+[\"'`]?(?P<value>[^\s\"'`,;<>()]{8,250}+)"
    ),
}
"""What is a secret only if its `value` looks drawn at random."""
_PEM = re.compile(r"-----BEGIN (?:[A-Z0-9]{1,20} ){0,3}PRIVATE KEY(?: BLOCK)?-----")
_EXACT = tuple((name, re.compile(form)) for name, form in _KEYS.items())
_GUESSED = tuple((name, re.compile(form)) for name, form in _LIKELY.items())
_PLACEHOLDER = re.compile(r"(?i)your|example|x{4}|\*{3}|\.{3}|placeholder|changeme|redacted|process\.env|environ|\$\{")

_ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~.-]"
_EMAIL = re.compile(
    rf"(?<!{_ATOM}){_ATOM}{{1,64}}+@(?:[A-Za-z0-9](?:[A-Za-z0-9-]{{0,61}}[A-Za-z0-9])?\.){{1,8}}[A-Za-z]{{2,24}}(?![\w-])",
    re.ASCII,
)
_SSH = re.compile(r":[\w~/]")
_RETINA = re.compile(r"\.(?:png|jpe?g|gif|svg|webp)$", re.IGNORECASE)

_DIGITS = re.compile(r"(?<!\d)(?<!\d[.,])\d++(?:[ .\-\u00b7_]{1,2}+\d++)*+(?![.,]?\d)")
_NETWORKS = (
    (re.compile(r"4"), (13, 16, 19)),  # Visa
    (re.compile(r"5[1-5]|2(?:2[3-9]|[3-6]\d|7[01]|22[1-9]|720)"), (16,)),  # Mastercard
    (re.compile(r"3[47]"), (15,)),  # American Express
    (re.compile(r"6011|64[4-9]|65"), (16, 17, 18, 19)),  # Discover
    (re.compile(r"35(?:2[89]|[3-8]\d)"), (16, 17, 18, 19)),  # JCB
    (re.compile(r"3(?:0[0-5]|[689])"), (14, 16, 19)),  # Diners Club
    (re.compile(r"62|81"), (16, 17, 18, 19)),  # UnionPay
    (re.compile(r"50(?:18|20|38)|5[678]|6304|67"), (12, 13, 14, 15, 16, 17, 18, 19)),  # Maestro
)
_MOST_GROUPS = 6


@dataclass(frozen=True)
class Span:
    """A place in a text, and what it gives away."""

    start: int
    end: int
    reason: str


def plain(text: str) -> str:
    """The text with compatibility characters as usual ones, and without what is invisible (Unicode's Cf)."""
    return "".join(c for c in unicodedata.normalize("NFKC", text) if unicodedata.category(c) != "Cf")


def secrets(text: str) -> Iterator[Span]:
    """Private keys, keys and tokens of known forms, and values of a name such as `password` that look random."""
    for found in _PEM.finditer(text):
        end = text.find("-----END", found.end())
        close = text.find("\n", end) if end >= 0 else -1
        yield Span(found.start(), close if close >= 0 else len(text), "a private key")
        if close < 0:
            break
    for name, form in _EXACT:
        for found in form.finditer(text):
            yield Span(*found.span("value" if "value" in form.groupindex else 0), name)
    for name, form in _GUESSED:
        for found in form.finditer(text):
            if _looks_random(found["value"]):
                yield Span(*found.span("value"), name)


def _looks_random(value: str) -> bool:
    """Letters and digits that no word is made of: at least 3 bits per character, and no placeholder."""
    counts, n = Counter(value), len(value)
    bits = -sum(count / n * math.log2(count / n) for count in counts.values())
    mixed = any(c.isdigit() for c in value) and any(c.isalpha() for c in value)
    return mixed and bits >= min(3.0, math.log2(n) - 0.5) and _PLACEHOLDER.search(value) is None


def emails(text: str) -> Iterator[Span]:
    """E-mail addresses; not the user of an SSH address (git@host:path), and not name@2x.png."""
    for found in _EMAIL.finditer(text):
        if not _SSH.match(text, found.end()) and not _RETINA.search(found[0]):
            yield Span(*found.span(), "an e-mail address")


def cards(text: str) -> Iterator[Span]:
    """Numbers of payment cards: digits, whole or in groups, that `is_card` takes.

    A long line of digits is looked through from group to group, so that a date or a code behind a number hides nothing.
    """
    for run in _DIGITS.finditer(text):
        groups = list(re.finditer(r"\d+", run[0]))
        end = 0
        for first, group in enumerate(groups):
            if group.start() < end:
                continue
            is_fraction = run[0][group.start() - 1 : group.start()] == "."
            digits = ""
            for last in range(first, len(groups)):
                digits += groups[last][0]
                if len(digits) > 19:
                    break
                whole = first == 0 and last == len(groups) - 1
                if len(digits) < 12 or (is_fraction and last == first):
                    continue
                if (whole or last - first < _MOST_GROUPS) and is_card(digits):
                    end = groups[last].end()
                    yield Span(run.start() + group.start(), run.start() + end, "a payment card number")
                    break


def is_card(digits: str) -> bool:
    """Whether a network has numbers with that beginning and length, and the last digit checks (Luhn, ISO/IEC 7812)."""
    if not any(begin.match(digits) and len(digits) in lengths for begin, lengths in _NETWORKS):
        return False
    doubled = (2 * int(c) for c in digits[-2::-2])
    return (sum(int(c) for c in digits[-1::-2]) + sum(d // 10 + d % 10 for d in doubled)) % 10 == 0


def masked(text: str) -> str:
    """The text as `plain` makes it, with a mark in place of secrets, card numbers and addresses; itself without any."""
    shown = plain(text)
    spans = sorted((span.start, span.end) for rule in (secrets, cards, emails) for span in rule(shown))
    if not spans:
        return text
    parts, at = [], 0
    for start, end in spans:
        if end > at:
            parts += [shown[at:start], MASK] if start >= at else []
            at = max(at, end)
    return "".join([*parts, shown[at:]])


_ALIKE = str.maketrans(dict(zip("абвгдекмнорстухіјѕԁԛԝαβεικνορτυχω", "abbrdekmhopctyxijsdqwabeikvoptuxw", strict=True)))
"""Cyrillic and Greek letters that look like Latin ones."""
_LEET = {"0": "o", "1": "i", "3": "e", "4": "a", "5": "s", "7": "t", "@": "a", "$": "s", "!": "i", "|": "i"}
_SPELLINGS = tuple(str.maketrans(_LEET | {"1": one, "!": one, "|": one}) for one in ("i", "l"))
_TOKEN = re.compile(r"[\w@$!|]+")
_DENSE = r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff"
_IS_DENSE = re.compile(f"[{_DENSE}\U00020000-\U0003ffff]")
_GAP = re.compile(rf"(?<=[{_DENSE}])[\s\W_]{{1,3}}(?=[{_DENSE}])")


class WordList:
    """Terms, found whatever their case, accents and look-alike letters; as whole words where a script has spaces."""

    def __init__(self, terms: Iterable[str]) -> None:
        self._dense: dict[int, dict[str, str]] = {}
        self._words: dict[tuple[str, ...], str] = {}
        for term in terms:
            folded = _folded(term)
            if _IS_DENSE.search(folded):
                packed = _GAP.sub("", folded)
                self._dense.setdefault(len(packed), {})[packed] = term
            elif words := tuple(re.findall(r"\w+", folded)):
                self._words[words] = term
        self._longest = max(map(len, self._words), default=0)

    def find(self, text: str) -> str | None:
        """A term that is in the text; None if none is."""
        folded = _folded(text)
        dense = _GAP.sub("", folded)
        for size, terms in self._dense.items():
            for at in range(len(dense) - size + 1):
                if (term := terms.get(dense[at : at + size])) is not None:
                    return term
        tokens = _TOKEN.findall(folded)
        readings = (_read(tokens, spelling) for spelling in (None, *_SPELLINGS))
        return next((term for words in readings if (term := self._among(words)) is not None), None)

    def _among(self, words: Sequence[str]) -> str | None:
        for at, size in itertools.product(range(len(words)), range(1, self._longest + 1)):
            if (term := self._words.get(tuple(words[at : at + size]))) is not None:
                return term
        return None


def _folded(text: str) -> str:
    """Lower case without accents, Cyrillic and Greek look-alikes as Latin letters where they stand among these."""
    apart = unicodedata.normalize("NFD", plain(text).casefold())
    bare = "".join(c for c in apart if unicodedata.category(c) != "Mn")
    return unicodedata.normalize("NFC", re.sub(r"\w+", lambda word: _latin(word[0]), bare))


def _latin(word: str) -> str:
    """A word of letters of two scripts is a disguise; one of a single script is what it is."""
    return word.translate(_ALIKE) if re.search(r"[a-z]", word) else word


def _read(tokens: Sequence[str], spelling: dict[int, str] | None) -> list[str]:
    """The words of tokens; with a spelling, digits and signs among letters stand for letters."""
    found = []
    for token in tokens:
        disguised = spelling is not None and re.search(r"[^\W\d_]", token) is not None
        found += re.findall(r"\w+", token.translate(spelling) if disguised and spelling else token)
    return found
