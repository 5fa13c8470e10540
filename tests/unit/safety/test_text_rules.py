"""Rules of texts, on a table of cases written by hand: what they find, what they let pass, and what they miss."""

from __future__ import annotations

import random
import string

import pytest

from thumbs.safety.text_rules import MASK, WordList, cards, emails, is_card, masked, plain, secrets

TOKEN = "Zk3vQ9xLm2Rt7Yb5Wc8Nd4Hf6Jg1Ps0Ua"  # noqa: S105

SECRETS = [
    "aws_access_key_id = AKIAIOSFODNN7EXAMPLE",
    "aws_secret_access_key: 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",
    f"ghp_{TOKEN}abcd",
    f"github_pat_{TOKEN}",
    f"glpat-{TOKEN[:20]}",
    "xoxb-123456789012-abcdefGHIJKL",
    f"AIza{TOKEN}xyz"[:39],
    "sk_live_4eC39HqLyjWDarjtT1zdp7dc",
    f"OPENAI_API_KEY=sk-proj-{TOKEN}",
    f"sk-ant-api03-{TOKEN}",
    f"Authorization: Bearer {TOKEN}",
    f"hf_{TOKEN}",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U",
    "postgres://admin:s3cret@db.internal:5432/app",
    "-----BEGIN RSA PRIVATE KEY-----\nMIIEowIBAAKCAQEA\n-----END RSA PRIVATE KEY-----\n",
    "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXk",
    "password: Tr0ub4dor&3x",
    '{"client_secret": "q8Zt5Lw2Xc9Vb4"}',
    "the password is hG7kP2mQ9z",
    "ＡＫＩＡＩＯＳＦＯＤＮＮ７ＥＸＡＭＰＬＥ",
    "AKIA\u200bIOSFODNN7EXAMPLE",
]
NO_SECRETS = [
    "Never share your password with anyone.",
    "api_key = 'your_api_key_here_1234'",
    "export TOKEN=${GITHUB_TOKEN1}",
    "password: xxxxxxxx1",
    "The token is usually a string of characters.",
    "The secret: start early, and write things down.",
    "sk-learn-style-names-with-hyphens-2024",
    "https://example.com:8080/path@2x",
    "commit 3f786850e387550fdab836ed7e6dc881de23001b",
    "550e8400-e29b-41d4-a716-446655440000",
    "-----BEGIN PUBLIC KEY-----\nMIIBIjANBg",
    "password = os.environ['PASSWORD1']",
    "AKIA is a prefix of keys",
]
MISSED_SECRETS = ["password: correcthorse", "my pin is 4711", "key (base64): d2h5IGFyZSB5b3UgcmVhZGluZyB0aGlz"]
"""Words without digits, short codes and names that the rule does not know."""

CARDS = [
    "4111111111111111",
    "4111 1111 1111 1111",
    "4111-1111-1111-1111",
    "4111.1111.1111.1111",
    "Pay with 5555 5555 5555 4444, please.",
    "3782 822463 10005",
    "2223003122003222",
    "6011111111111117 exp 12/27 cvv 123",
    "4111 1111 1111 1111 12 27 123",
    "3530111333300000",
    "30569309025904",
    "6200000000000005",
    "4 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1",
    "４１１１ １１１１ １１１１ １１１１",
    "卡号4111111111111111谢谢",
    "ends here: 4111111111111111.",
]
NO_CARDS = [
    "4111 1111 1111 1112",
    "1234567890123456",
    "0000 0000 0000 0000",
    "1 2 3 4 5 6 7 8 9 10 11 12 13",
    "2019 2020 2021 2022",
    "+44 7911 123456",
    "ISBN 978-0-306-40615-7",
    "1700000000000",
    "3.1415926535897932",
    "4111 1111 1111",
    "0.4111111111111111",
    "41111111111111111111111",
]
MISSED_CARDS = ["four one one one 1111 1111 1111", "4111\n1111\n1111\n1111"]

EMAILS = [
    "alice@example.com",
    "Write to Bob.Smith+news@mail.example.co.uk!",
    "<mailto:x_y@a-b.org>",
    "请联系wang@example.com谢谢",
    "ann＠example．com",
    "a\u200bnn@example.com",
    "ann@example.com.",
]
NO_EMAILS = [
    "@property",
    "git@github.com:org/repo.git",
    "icon@2x.png",
    "left-pad@1.3.0",
    "a@b",
    "user@localhost",
    "5 @ 3",
]
MISSED_EMAILS = ["ann at example dot com", "ann [at] example.com", "иван@пример.рф"]


@pytest.mark.parametrize(
    ("rule", "found", "clean"),
    [
        (secrets, SECRETS, NO_SECRETS + MISSED_SECRETS),
        (cards, CARDS, NO_CARDS + MISSED_CARDS),
        (emails, EMAILS, NO_EMAILS + MISSED_EMAILS),
    ],
    ids=["secrets", "cards", "emails"],
)
def test_what_a_rule_finds_and_what_it_lets_pass(rule, found, clean):
    assert [text for text in found if not list(rule(plain(text)))] == []
    assert [text for text in clean if list(rule(plain(text)))] == []


def luhn(digits: str) -> bool:
    """The check as ISO/IEC 7812 words it: from the right, every second digit is doubled, and all digits are added."""
    total = 0
    for place, digit in enumerate(reversed(digits)):
        number = int(digit) * (2 if place % 2 else 1)
        total += sum(map(int, str(number)))
    return total % 10 == 0


def test_every_single_wrong_digit_and_most_exchanges_are_seen():
    rng = random.Random(3)
    for _ in range(300):
        body = "4" + "".join(rng.choices(string.digits, k=14))
        number = next(body + check for check in string.digits if luhn(body + check))
        assert is_card(number)
        for place in range(1, 16):
            other = number[:place] + str((int(number[place]) + rng.randint(1, 9)) % 10) + number[place + 1 :]
            assert not is_card(other)


def test_random_numbers_pass_rarely():
    rng = random.Random(7)
    found = sum(bool(list(cards("".join(rng.choices(string.digits, k=16))))) for _ in range(20_000))
    assert found / 20_000 < 0.04  # 1 in 10 by the check digit, and a quarter of the beginnings are some network's


def test_what_is_secret_is_masked_and_the_rest_stays():
    text = "Key AKIAIOSFODNN7EXAMPLE, card 4111 1111 1111 1111, mail ann@example.com. Bye."
    assert masked(text) == f"Key {MASK}, card {MASK}, mail {MASK}. Bye."
    assert masked("password: Tr0ub4dor&3x") == f"password: {MASK}"
    assert masked("nothing here ﬁne") == "nothing here ﬁne"
    key = "a\n-----BEGIN PRIVATE KEY-----\nMIIEow\n-----END PRIVATE KEY-----\nb"
    assert masked(key) == f"a\n{MASK}\nb"
    for secret in SECRETS[2:9]:
        assert TOKEN[4:20] not in masked(secret)


WORDS = WordList(["kill", "bomb making", "Arsch", "slut", "炸弹", "ばくだん", "폭탄", "убить", "straße"])


@pytest.mark.parametrize(
    ("text", "term"),
    [
        ("How do I KILL it?", "kill"),
        ("k\u200bi\u200bl\u200bl", "kill"),
        ("ｋｉｌｌ", "kill"),
        ("кill", "kill"),  # the first letter is Cyrillic
        ("k1ll", "kill"),
        ("ki11", "kill"),
        ("k!ll him", "kill"),
        ("kíll", "kill"),
        ("bomb-making", "bomb making"),
        ("b0mb\n  making", "bomb making"),
        ("ÄRSCH", "Arsch"),
        ("$lut", "slut"),
        ("怎么制造炸弹呢", "炸弹"),
        ("炸 弹", "炸弹"),
        ("炸。弹", "炸弹"),
        ("それはばくだんです", "ばくだん"),
        ("폭탄을 만드는", "폭탄"),
        ("как убить", "убить"),
        ("STRASSE", "straße"),
    ],
)
def test_terms_are_found_in_disguise(text, term):
    assert WORDS.find(text) == term


@pytest.mark.parametrize(
    "text",
    [
        "killing time",
        "skill",
        "overkill",
        "bomb",
        "making a bomb",
        "Kiil",
        "爆炸 物弹性",
        "100 11",
        "arschloch",
        "",
        "!!! 1 |",
    ],
)
def test_other_words_are_let_pass(text):
    assert WORDS.find(text) is None


HOSTILE = {
    "one letter": "a" * 100_000,
    "keys begun": "sk-" * 33_000,
    "tokens begun": "eyJ-" * 25_000,
    "tokens half": ("eyJ" + "a" * 60 + ".") * 1_600,
    "digits": "4" * 100_000,
    "digits apart": "4 " * 50_000,
    "pairs of digits": "41-" * 33_000,
    "at signs": "a@" * 50_000,
    "labels": "a@" + "a." * 50_000,
    "keys opened": "-----BEGIN PRIVATE KEY-----" * 3_700,
    "names of secrets": "password=" * 11_000,
    "schemes": "a://" * 25_000,
    "addresses": "http://a:b" * 10_000,
    "blanks": " " * 100_000,
    "bearers": "bearer " * 14_000,
    "spaced Chinese": "炸 " * 50_000,
    "signs": "a!" * 50_000,
    "accents": "a\u0301" * 50_000,
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_long_hostile_texts_are_read_to_their_end(text):
    """An expression that goes back over a text for each of its characters would take minutes here, not a second."""
    shown = plain(text)
    for rule in (secrets, cards, emails):
        assert len(list(rule(shown))) <= len(text)
    WORDS.find(text)
