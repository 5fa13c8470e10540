"""Variety of a set of texts, and how much of reference texts it holds."""

from __future__ import annotations

import re
from collections.abc import Sequence

from thumbs.errors import needs

_UNSPACED = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")


def distinct_n(texts: Sequence[str], n: int) -> float:
    """Different word n-grams over all word n-grams of the whole set, fraction; 0 for none (arXiv:1510.03055)."""
    grams: list[tuple[str, ...]] = []
    for text in texts:
        words = re.findall(r"\w+", text.lower())
        grams += [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
    return len(set(grams)) / len(grams) if grams else 0.0


def bleu(texts: Sequence[str], references: Sequence[str]) -> float:
    """Corpus BLEU of sacrebleu, 0 to 100 (arXiv:1804.08771); references that write no spaces go by characters."""
    with needs("eval", "BLEU"):
        from sacrebleu import corpus_bleu

    unspaced = any(_UNSPACED.search(reference) for reference in references)
    return corpus_bleu(list(texts), [list(references)], tokenize="zh" if unspaced else "13a").score


def rouge(texts: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """Mean F1 of rouge1, rouge2 and rougeL over the texts, 0 to 1, by rouge-score (Lin 2004, W04-1013).

    Its own tokenizer knows the letters a to z only; references in scripts without spaces go by characters and words.
    """
    with needs("eval", "ROUGE"):
        from rouge_score.rouge_scorer import RougeScorer
        from rouge_score.tokenizers import DefaultTokenizer

    unspaced = any(_UNSPACED.search(reference) for reference in references)
    names = ["rouge1", "rouge2", "rougeL"]
    # Its default is named, since the library says that it takes it, and sets up the program's logging to say so.
    scorer = RougeScorer(names, tokenizer=_Characters() if unspaced else DefaultTokenizer(use_stemmer=False))
    found = [scorer.score(reference, text) for text, reference in zip(texts, references, strict=True)]
    return {name: sum(scores[name].fmeasure for scores in found) / len(found) for name in names}


class _Characters:
    """Tokenizer for rouge-score: each character of a script without spaces, and words of the others."""

    def tokenize(self, text: str) -> list[str]:
        """The tokens, in lower case."""
        return re.findall(rf"{_UNSPACED.pattern}|[^\W\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]+", text.lower())
