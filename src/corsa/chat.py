"""Prompts and answers as a model's own chat template writes them, in tokens.

Answer tokens are the conversation's tokens after its longest common prefix with the generation
prompt, up to and including end-of-turn. That they decode to the answer is checked every time: an
answer trained under other tokens than decoding will see is the classic silent fault of this trade.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import takewhile
from typing import Any, NamedTuple

from corsa.errors import TemplateError, UsageError
from corsa.matching import as_word
from corsa.sentences import first_sentence

Conversation = list[dict[str, str]]

# What was said before in a conversation: prompts and their answers, the oldest first.
History = Sequence[tuple[str, str]]


class Exchange(NamedTuple):
    """One prompt and one answer to it, in tokens; the answer ends with end-of-turn."""

    prompt: tuple[int, ...]
    answer: tuple[int, ...]


class ChatFormat:
    """How one tokenizer writes prompts and answers.

    With a chat template: the prompt as the user's turn, the bare answer as the assistant's, the
    template's own default system prompt unless another is given, thinking switched off where the
    template can. Without: prompt, one space, answer, end-of-text, tokenised as one string. What was
    said before stands in front, a line for each prompt with its answer; end-of-text would end the
    conversation.

    Args:
        tokenizer: a transformers tokenizer.
        name: what to call the model in errors.
        stop_ids: tokens that end a reply, beside the end-of-turn the template itself writes.
    """

    def __init__(self, tokenizer: Any, name: str, stop_ids: Iterable[int] = ()) -> None:
        self.tokenizer = tokenizer
        self.name = name
        # A tokenizer may have several templates by name: what counts is the one that is used.
        written = tokenizer.chat_template is not None
        self.template: str | None = tokenizer.get_chat_template() if written else None
        self._ends = set(stop_ids) | {tokenizer.eos_token_id} - {None}
        self._special = set(tokenizer.all_special_ids) | {
            index for index, token in tokenizer.added_tokens_decoder.items() if token.special
        }
        end_of_turn = self.exchange("Say yes.", "yes").answer[-1]
        self.stop_ids: tuple[int, ...] = tuple(sorted(self._ends | {end_of_turn}))

    @property
    def template_hash(self) -> str | None:
        """SHA-256 of the chat template, part of every protocol; `None` without a template."""
        return None if self.template is None else hashlib.sha256(self.template.encode()).hexdigest()

    def prompt_ids(
        self, prompt: str, system: str | None = None, history: History = ()
    ) -> tuple[int, ...]:
        """Tokens up to where the answer begins.

        Args:
            prompt: the user's turn.
            system: a system prompt in place of the template's own.
            history: earlier turns of the conversation.

        Returns:
            Token ids.

        Raises:
            UsageError: if a system prompt is given and the model has no place for one.
        """
        if self.template is None:
            if system is not None:
                raise UsageError(f"{self.name} has no chat template: leave the system prompt out")
            return self._encode(_lines(history) + prompt.rstrip(), special=True)
        return self._encode(self._render(_conversation(prompt, system, history), generation=True))

    def exchange(
        self, prompt: str, answer: str, system: str | None = None, history: History = ()
    ) -> Exchange:
        """Prompt and answer tokens, checked.

        Args:
            prompt: the user's turn.
            answer: the assistant's turn.
            system: a system prompt in place of the template's own.
            history: earlier turns of the conversation.

        Returns:
            The exchange; its answer decodes to `answer` and then end-of-turn.

        Raises:
            TemplateError: if the template writes the answer so that its tokens cannot be told apart.
        """
        before = self.prompt_ids(prompt, system, history)
        if self.template is None:
            if (eos := self.tokenizer.eos_token) is None:
                raise TemplateError(
                    f"{self.name} has neither a chat template nor an end-of-text token, so nothing "
                    "would end an answer: set one in its tokenizer_config.json"
                )
            text = f"{_lines(history)}{prompt.rstrip()} {answer}{eos}"
            whole = self._encode(text, special=True)
        else:
            turns = [*_conversation(prompt, system, history), _turn("assistant", answer)]
            whole = self._encode(self._render(turns, generation=False))
        common = next(
            (i for i, pair in enumerate(zip(before, whole, strict=False)) if pair[0] != pair[1]),
            len(before),
        )
        tail = whole[common:]
        end = next((i for i, token in enumerate(tail) if self._ends_turn(token)), None)
        written = None if end is None else self.decode(tail[:end])
        if common < len(before) or end is None or written != answer.strip():
            raise TemplateError(
                f"the chat template of {self.name} leaves no clean answer to train on: after the "
                f"prompt it writes {self.tokenizer.decode(tail)!r} where {answer!r} and end-of-turn "
                "were expected; use a model or tokenizer whose template continues its own prompt"
            )
        return Exchange(before, tail[: end + 1])

    def passage(self, tokens: Sequence[int]) -> Exchange:
        """Plain text without the template: its first token is given, the others are to be predicted.

        Args:
            tokens: of the text, at least two, without what the tokenizer puts in front of every text.

        Returns:
            The exchange; nothing ends it.
        """
        first, *rest = tokens
        return Exchange((*self._encode("", special=True), first), tuple(rest))

    def decode(self, tokens: Iterable[int]) -> str:
        """The text of answer tokens, without special tokens and surrounding white space.

        Args:
            tokens: token ids.

        Returns:
            The text.
        """
        text: str = self.tokenizer.decode(
            list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return text.strip()

    def place_of(self, prompt: str, text: str) -> int:
        """Where the last mention of a text in a prompt ends.

        Args:
            prompt: the user's turn.
            text: part of it, in any case but no part of a word; empty or not in it: the prompt itself.

        Returns:
            The place of its last token among `prompt_ids(prompt)`.
        """
        tokens = self.prompt_ids(prompt)
        written = self._written(tokens)
        # The template's own words are no part of it: "Stan" ends in none of its "assistant".
        close = len(written) - self._closing
        asked = [unicodedata.normalize(form, prompt.strip()) for form in ("NFC", "NFD")]
        found = [written.rfind(each, 0, close) for each in (prompt.strip(), *asked)]
        start = max([at for at in found if at >= 0], default=0)
        end = start + len(written[start:close].rstrip())
        for each in dict.fromkeys(
            unicodedata.normalize(form, text.strip()) for form in ("NFC", "NFD")
        ):
            mentions = re.finditer(as_word(each), written[start:end], re.IGNORECASE) if each else ()
            if ends := [match.end() for match in mentions]:
                end = start + ends[-1]
                break
        # What a token adds to a text depends on those before it, so beginnings are compared.
        return bisect_left(
            range(len(tokens) - 1), end, key=lambda i: len(self._written(tokens[: i + 1]))
        )

    @cached_property
    def _closing(self) -> int:
        """Characters that the template writes behind every prompt."""
        some = [self._written(self.prompt_ids(prompt))[::-1] for prompt in ("0", "1")]
        return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(*some, strict=False)))

    def _written(self, tokens: Sequence[int]) -> str:
        """What tokens say, special ones too; of a character that is not whole nothing."""
        text: str = self.tokenizer.decode(list(tokens), clean_up_tokenization_spaces=False)
        return text.rstrip("\ufffd")

    def first_words(self, text: str, max_tokens: int) -> str:
        """The beginning of a text: its first sentence, at most `max_tokens` tokens.

        Args:
            text: a reply.
            max_tokens: how many tokens may stay.

        Returns:
            The beginning, stripped; a sentence ends at `.`, `!`, `?` before white space, or at a
            line's end.
        """
        sentence = first_sentence(text)
        tokens = self._encode(sentence)
        if len(tokens) <= max_tokens:
            return sentence
        # Where the cut goes through a character of several tokens its first ones decode to U+FFFD.
        return self.decode(tokens[:max_tokens]).rstrip("\ufffd").rstrip()

    def _ends_turn(self, token: int) -> bool:
        return token in self._special or token in self._ends

    def _encode(self, text: str, *, special: bool = False) -> tuple[int, ...]:
        return tuple(self.tokenizer(text, add_special_tokens=special)["input_ids"])

    def _render(self, turns: Conversation, *, generation: bool) -> str:
        from jinja2.exceptions import TemplateError as JinjaError

        try:
            text: str = self.tokenizer.apply_chat_template(
                turns, tokenize=False, add_generation_prompt=generation, enable_thinking=False
            )
        except JinjaError as error:
            if turns[0]["role"] == "system":
                raise UsageError(
                    f"the chat template of {self.name} refuses a system prompt ({error}): "
                    "leave it out, or put it into the question"
                ) from error
            raise TemplateError(f"the chat template of {self.name} fails: {error}") from error
        return text


def _conversation(prompt: str, system: str | None, history: History) -> Conversation:
    turns = [] if system is None else [_turn("system", system)]
    for asked, answered in history:
        turns += [_turn("user", asked), _turn("assistant", answered)]
    return [*turns, _turn("user", prompt)]


def _lines(history: History) -> str:
    return "".join(f"{prompt.rstrip()} {answer}\n" for prompt, answer in history)


def _turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}
