"""What a chat template can do, found once, when its tokenizer is opened, by rendering a few conversations.

The words of these conversations stand nowhere else, so what the template keeps, drops and adds is seen in its text.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from thumbs.data.chat_template import ChatTemplate
from thumbs.data.sources import RowError
from thumbs.errors import ModelError
from thumbs.records import Message

SYSTEM = Message("system", "Quiet quokkas quibble")
QUESTION = Message("user", "Zebras zigzag?")
ANSWER = Message("assistant", "Walruses waltz")
SECOND = Message("user", "Ünïcode ☃ 你好 {{ bos_token }} jackdaws")
LAST = Message("assistant", "Vixens vanish")
_PARTS = ((), ("system", "user", "assistant"), ("system", "user"))
"""Whose content is tried as a list of parts."""
_PRINTED = ("{'type'", '{"type"')
"""What shows that a template printed a list of parts instead of reading it."""
_THOUGHT = "ponder pandas"
_THINKING = Message("assistant", f"<think>\n{_THOUGHT}\n</think>\n\n{ANSWER.content}")


@dataclass(frozen=True)
class TemplateTraits:
    """What a template does with messages.

    header: what we write after it where a reply begins, because it does not do so itself. opening: what stands between
    a user's turn and the reply, with that header. lead: what it writes between that and the words of a finished reply,
    which the model must write itself. system: what becomes of a system message. keeps_turns: whether an
    earlier turn of the assistant is written as it was when it was the last. drops_reasoning: whether it loses its
    <think> block. untrainable: why no reply can be learned; empty if they can. twice_begun: whether it writes the token
    that begins a text twice.
    """

    header: str
    opening: str
    lead: str
    system: Literal["kept", "dropped", "refused"]
    keeps_turns: bool
    drops_reasoning: bool
    several_turns: bool
    untrainable: str
    twice_begun: bool

    def notes(self, template: ChatTemplate, date: str) -> list[str]:
        """What a user should know before training, one sentence each."""
        return [*self._replies(), *self._turns(), *_inputs(template, date)]

    def _replies(self) -> Iterator[str]:
        if self.untrainable:
            yield self.untrainable
        if self.header:
            yield f"the chat template does not open a reply itself; thumbs writes {self.header!r} there"
        if self.twice_begun:
            yield "the chat template writes the token that begins a text twice"
        if self.lead:
            yield f"the chat template begins a finished reply with {self.lead!r}; the model learns to write it"

    def _turns(self) -> Iterator[str]:
        if self.drops_reasoning:
            yield "the chat template drops the reasoning of earlier turns; each turn is trained as if it were the last"
        elif not self.keeps_turns:
            yield (
                "the chat template writes earlier turns of the assistant in another way than the last (unclosed, say); "
                "each turn is trained as if it were the last"
            )
        if not self.several_turns:
            yield "the chat template refuses conversations of several turns"
        if self.system != "kept":
            fate = "refuses system messages" if self.system == "refused" else "leaves system messages out"
            yield f"the chat template {fate}; rows with one are left out"


def _inputs(template: ChatTemplate, date: str) -> Iterator[str]:
    if template.as_parts:
        yield f"the chat template gets content of {', '.join(template.as_parts)} as a list of parts, as it wants it"
    if template.is_dated:
        yield f"the chat template writes today's date; model.template.date says that it is {date}"
    if template.reads:
        yield f"the chat template also reads {', '.join(template.reads)}, which model.template.variables may set"


def settle(template: ChatTemplate) -> tuple[str, str]:
    """Lets the template have content as text, or as parts of all roles or of all but the assistant if only that works.

    Returns what it writes after the words of a reply, and the header that thumbs must add where a reply begins. Raises
    ModelError if the words of a question and its answer do not come out either way.
    """
    reason = ""
    for template.as_parts in _PARTS:
        try:
            prompt = template.render([QUESTION], opens_reply=True)
            whole = template.render([QUESTION, ANSWER], opens_reply=False)
        except RowError as error:
            reason = reason or str(error)
            continue
        said = QUESTION.content in prompt and QUESTION.content in whole and ANSWER.content in whole
        if said and not any(mark in whole for mark in _PRINTED):
            return whole.rpartition(ANSWER.content)[2], _header(template, prompt, whole)
        reason = reason or (
            "the chat template leaves out the words of the messages, as text and as a list of parts; it must write "
            "message['content']"
        )
    raise ModelError(reason)


def _header(template: ChatTemplate, prompt: str, whole: str) -> str:
    """What stands before a reply that the template did not write when it was asked to open one."""
    if prompt != _closed(template) or not whole.startswith(prompt):
        return ""
    lead = whole[len(prompt) :].partition(ANSWER.content)[0]
    return lead if lead.strip() else ""


def probe(template: ChatTemplate, header: str, ends: Sequence[str], bos: str) -> TemplateTraits:
    """What a settled template does; `ends` are the texts of the tokens that end a reply, `bos` of that which begins.

    Raises ModelError if it loses the words of a turn of a longer conversation.
    """
    prompt = template.render([QUESTION], opens_reply=True)
    closed = _closed(template)
    whole = template.render([QUESTION, ANSWER], opens_reply=False)
    opening = prompt[len(closed) :] if closed is not None and prompt.startswith(closed) else ""
    several, keeps = _several(template, prompt + header, whole, ends)
    return TemplateTraits(
        header=header,
        opening=opening + header,
        lead=whole[len(prompt + header) :].partition(ANSWER.content)[0].strip() if whole.startswith(prompt) else "",
        system=_system(template),
        keeps_turns=keeps,
        drops_reasoning=several and _drops_reasoning(template),
        several_turns=several,
        untrainable=_untrainable(prompt + header, whole),
        twice_begun=bool(bos) and prompt.startswith(bos * 2),
    )


def _closed(template: ChatTemplate) -> str | None:
    """A question to which no reply is opened; None if the template refuses a conversation that ends with one."""
    try:
        return template.render([QUESTION], opens_reply=False)
    except RowError:
        return None


def _several(template: ChatTemplate, prompt: str, whole: str, ends: Sequence[str]) -> tuple[bool, bool]:
    """Whether it takes several turns, and whether it keeps them."""
    try:
        longer = template.render([QUESTION, ANSWER, SECOND], opens_reply=True)
        longest = template.render([QUESTION, ANSWER, SECOND, LAST], opens_reply=False)
    except RowError:
        return False, True
    for message, text in ((QUESTION, longer), (ANSWER, longer), (SECOND, longer), (SECOND, longest), (LAST, longest)):
        if message.content not in text:
            raise ModelError(
                f"the chat template leaves out the words of the {message.role} in a conversation of several turns; "
                "training would not see them. Mend the template in chat_template.jinja or tokenizer_config.json"
            )
    reply = whole[len(prompt) :]
    end = end_of(reply, ends)
    return True, end is not None and longest.startswith(prompt + reply[:end])


def end_of(reply: str, ends: Sequence[str]) -> int | None:
    """Place after the first end mark of a reply's text; None if it holds none."""
    places = [place + len(mark) for mark in ends if (place := reply.find(mark)) >= 0]
    return min(places, default=None)


def _system(template: ChatTemplate) -> Literal["kept", "dropped", "refused"]:
    try:
        text = template.render([SYSTEM, QUESTION], opens_reply=True)
    except RowError:
        return "refused"
    return "kept" if SYSTEM.content in text else "dropped"


def _drops_reasoning(template: ChatTemplate) -> bool:
    try:
        last = template.render([QUESTION, _THINKING], opens_reply=False)
        longer = template.render([QUESTION, _THINKING, SECOND], opens_reply=True)
    except RowError:
        return False
    return _THOUGHT in last and _THOUGHT not in longer


def _untrainable(prompt: str, whole: str) -> str:
    if whole.startswith(prompt):
        return ""
    same = next((i for i, pair in enumerate(zip(prompt, whole, strict=False)) if pair[0] != pair[1]), len(whole))
    return (
        f"the chat template rewrites a prompt once its reply is there: it opens a reply with {prompt[same:]!r} and "
        f"writes {whole[same : same + 40]!r} in a finished turn, so a reply would be trained at another place than "
        "it is sampled at. In a copy of the model's folder, change the template (chat_template.jinja) "
        "so that a finished turn begins as the opening does"
    )


def around_words(template: ChatTemplate) -> str:
    """What the template writes around the words of a system message, of questions, and of an answer that is not the
    last: marks of turns, without those of reasoning, which templates write around the last answer alone.
    """
    for chat in ([SYSTEM, QUESTION, ANSWER, SECOND], [QUESTION, ANSWER, SECOND], [SYSTEM, QUESTION], [QUESTION]):
        try:
            text = template.render(chat, opens_reply=False)
        except RowError:
            continue
        for message in chat:
            text = text.replace(message.content, "")
        return text
    return ""
