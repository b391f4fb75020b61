"""What evaluation talks to: somebody who answers prompts, whatever is behind.

A model with an adapter, the base model alone, or the base model told of the edits before it is asked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from corsa.chat import Exchange, History
from corsa.files import sha256_text
from corsa.forward import AnswerLogps
from corsa.memory import remembered
from corsa.models import BaseModel
from corsa.packing import shared_beginning
from corsa.progress import Progress, Silent

# Replies decoded at a time. On 2 cores 48 took 0.6 of the time of 16, and 96 no less than 48.
_BATCH = {"cpu": 48}
_BATCH_ELSEWHERE = 64
# Tokens of all prompts and replies decoded at a time: a row of the cache holds all of its conversation.
_BATCH_TOKENS = 1 << 16


class Sampling(NamedTuple):
    """How replies are drawn instead of taking the likeliest.

    Attributes:
        temperature: divides the logits.
        top_p: only the likeliest tokens that together have this probability can be drawn.
        seed: with the prompt and the number of the sample it decides a reply, whatever else is asked.
    """

    temperature: float
    top_p: float
    seed: int


class Reply(NamedTuple):
    """A reply.

    Attributes:
        text: without special tokens, stripped.
        tokens: as decoded, end-of-turn included if it was reached.
    """

    text: str
    tokens: tuple[int, ...]


class Answerer(Protocol):
    """Whoever answers prompts."""

    def answers(
        self,
        prompts: Sequence[str],
        max_new_tokens: int,
        system: str | None = None,
        progress: Progress | None = None,
    ) -> list[Reply]:
        """Greedy replies.

        Args:
            prompts: what is asked.
            max_new_tokens: where a reply is cut.
            system: a system prompt in place of the template's own.
            progress: told after each batch of replies.

        Returns:
            One reply per prompt.
        """
        ...

    def samples(
        self,
        prompts: Sequence[str],
        count: int,
        max_new_tokens: int,
        sampling: Sampling,
        progress: Progress | None = None,
    ) -> list[list[Reply]]:
        """Replies drawn at random, several to each prompt.

        Args:
            prompts: what is asked.
            count: replies to each.
            max_new_tokens: where a reply is cut.
            sampling: how they are drawn.
            progress: told after each batch of replies.

        Returns:
            For each prompt its replies.
        """
        ...

    def logps(
        self, prompts: Sequence[str], targets: Sequence[str], system: str | None = None
    ) -> list[AnswerLogps]:
        """Log-probabilities of given answers, end-of-turn included.

        Args:
            prompts: what is asked.
            targets: one answer to each.
            system: a system prompt in place of the template's own.

        Returns:
            One per prompt.
        """
        ...

    def distributions(
        self, prompts: Sequence[str], replies: Sequence[Sequence[int]], system: str | None = None
    ) -> Iterator[Tensor]:
        """Log-probabilities of every token along given replies.

        Args:
            prompts: what is asked.
            replies: tokens of one reply to each, at least one.
            system: a system prompt in place of the template's own.

        Yields:
            For each prompt a tensor of shape (T, V), float32, nats.
        """
        ...


class _Likeliest:
    """Takes the likeliest token."""

    def __call__(self, logits: Tensor, rows: Tensor, step: int) -> Tensor:  # noqa: ARG002
        return logits.argmax(-1)


class _Drawn:
    """Draws tokens by uniform numbers that depend on seed, prompt and sample alone.

    Args:
        sampling: how.
        keys: for each row its prompt and the number of the sample.
        steps: tokens of a reply at most.
    """

    def __init__(self, sampling: Sampling, keys: Sequence[tuple[str, int]], steps: int) -> None:
        self.sampling = sampling
        numbers = [
            np.random.default_rng(
                [sampling.seed, sample, int(sha256_text(prompt)[:16], 16)]
            ).random(steps)
            for prompt, sample in keys
        ]
        self._numbers = torch.tensor(np.stack(numbers), dtype=torch.float64)  # (rows, steps)

    def __call__(self, logits: Tensor, rows: Tensor, step: int) -> Tensor:
        """The tokens that come next, shape (rows,)."""
        scaled = logits.double() / self.sampling.temperature
        probabilities, order = scaled.softmax(-1).sort(dim=-1, descending=True, stable=True)
        before = probabilities.cumsum(-1) - probabilities
        kept = probabilities * (before < self.sampling.top_p)  # the likeliest one always
        reached = kept.cumsum(-1)
        wanted = self._numbers[rows.cpu(), step].to(logits.device) * reached[:, -1]
        place = (reached <= wanted[:, None]).sum(-1, keepdim=True)
        token: Tensor = order.gather(-1, place.clamp(max=order.shape[-1] - 1))[:, 0]
        return token


_Choice = Callable[[Tensor, Tensor, int], Tensor]


class ModelAnswerer:
    """A base model, with one of its adapters acting or none.

    Args:
        base: the model.
        adapter: the adapter's name; `None`: the base model alone.
    """

    def __init__(self, base: BaseModel, adapter: str | None = None) -> None:
        self.base = base
        self.adapter = adapter

    def history(self, prompt: str) -> History:  # noqa: ARG002
        """What was said before a question is asked: nothing, unless a subclass knows something.

        Args:
            prompt: the question.

        Returns:
            Earlier prompts and their answers.
        """
        return ()

    def answers(
        self,
        prompts: Sequence[str],
        max_new_tokens: int,
        system: str | None = None,
        progress: Progress | None = None,
    ) -> list[Reply]:
        """See `Answerer`; prompts of like length are decoded together.

        Returns:
            One reply per prompt.
        """
        return self._replies(prompts, max_new_tokens, lambda _: _Likeliest(), system, progress)

    def samples(
        self,
        prompts: Sequence[str],
        count: int,
        max_new_tokens: int,
        sampling: Sampling,
        progress: Progress | None = None,
    ) -> list[list[Reply]]:
        """See `Answerer`.

        Returns:
            For each prompt its replies.
        """
        keys = [(prompt, sample) for prompt in prompts for sample in range(count)]

        def choice(places: Sequence[int]) -> _Choice:
            return _Drawn(sampling, [keys[place] for place in places], max_new_tokens)

        asked = [prompt for prompt, _ in keys]
        replies = self._replies(asked, max_new_tokens, choice, None, progress)
        return [replies[i : i + count] for i in range(0, len(replies), count)]

    def _replies(
        self,
        prompts: Sequence[str],
        max_new_tokens: int,
        choice: Callable[[Sequence[int]], _Choice],
        system: str | None,
        progress: Progress | None,
    ) -> list[Reply]:
        """One reply per prompt; `choice` chooses the tokens of the prompts at some places."""
        progress = progress or Silent()
        tokens = [self._prompt_ids(prompt, system) for prompt in prompts]
        order = sorted(range(len(tokens)), key=lambda i: len(tokens[i]))
        longest = max(map(len, tokens), default=1) + max_new_tokens
        size = _BATCH.get(self.base.device.type, _BATCH_ELSEWHERE)
        size = max(1, min(size, _BATCH_TOKENS // longest))
        replies: dict[int, Reply] = {}
        with self.base.using(self.adapter):
            for start in range(0, len(order), size):
                group = order[start : start + size]
                decoded = self._decode([tokens[i] for i in group], max_new_tokens, choice(group))
                replies.update(zip(group, decoded, strict=True))
                progress.advance(len(group))
        return [replies[i] for i in range(len(prompts))]

    def logps(
        self, prompts: Sequence[str], targets: Sequence[str], system: str | None = None
    ) -> list[AnswerLogps]:
        """See `Answerer`.

        Returns:
            One per prompt.
        """
        pairs = zip(prompts, targets, strict=True)
        exchanges = [
            self.base.chat.exchange(prompt, target, system, self.history(prompt))
            for prompt, target in pairs
        ]
        with self.base.using(self.adapter):
            return self.base.forward.score(exchanges)

    @torch.no_grad()
    def distributions(
        self, prompts: Sequence[str], replies: Sequence[Sequence[int]], system: str | None = None
    ) -> Iterator[Tensor]:
        """See `Answerer`; a few prompts at a time, since V is large.

        Yields:
            One tensor per prompt.
        """
        exchanges = [
            Exchange(self._prompt_ids(prompt, system), tuple(reply))
            for prompt, reply in zip(prompts, replies, strict=True)
        ]
        for start in range(0, len(exchanges), 16):
            with self.base.using(self.adapter):
                parts = self.base.forward.logits(exchanges[start : start + 16])
            for logits in parts:
                yield logits.float().log_softmax(-1)

    def _prompt_ids(self, prompt: str, system: str | None) -> tuple[int, ...]:
        return self.base.chat.prompt_ids(prompt, system, self.history(prompt))

    @torch.no_grad()
    def _decode(
        self, prompts: Sequence[tuple[int, ...]], max_new_tokens: int, choice: _Choice
    ) -> list[Reply]:
        from transformers import GenerationConfig, LogitsProcessorList

        chat, device = self.base.chat, self.base.device
        shared = self._shared_prefix(prompts)
        rest = [list(prompt[shared:]) for prompt in prompts]
        width = max(map(len, rest))
        pad = chat.stop_ids[0]
        # Prompts end together: what pads the shorter ones stands after the shared beginning.
        rows = [
            [*prompt[:shared], *[pad] * (width - len(own)), *own]
            for prompt, own in zip(prompts, rest, strict=True)
        ]
        seen = [[1] * shared + [0] * (width - len(own)) + [1] * len(own) for own in rest]
        tokens = torch.tensor(rows, device=device)
        mask = torch.tensor(seen, device=device)
        if self._plain_cache():
            return self._extended(tokens, mask, shared, max_new_tokens, choice)

        def chosen(read: Tensor, scores: Tensor) -> Tensor:
            """The choice as the only token that is possible: `generate` takes the likeliest."""
            step, rows = read.shape[1] - tokens.shape[1], torch.arange(len(read))
            alone = torch.full_like(scores, -torch.inf)
            return alone.scatter(-1, choice(scores, rows, step)[:, None], 0.0)

        greedy = GenerationConfig(
            do_sample=False,
            max_new_tokens=max_new_tokens,
            pad_token_id=pad,
            eos_token_id=list(chat.stop_ids),
        )
        output = self.base.hf.generate(
            input_ids=tokens,
            attention_mask=mask,
            generation_config=greedy,
            logits_processor=LogitsProcessorList([chosen]),
        )
        return [self._reply(row[tokens.shape[1] :].tolist()) for row in output]

    def _extended(
        self, tokens: Tensor, mask: Tensor, shared: int, max_new_tokens: int, choice: _Choice
    ) -> list[Reply]:
        """Decoding that reads the shared beginning once and leaves off where a reply ends.

        `generate` carries every finished reply along until the longest is done, and after an edit most
        replies are a few tokens long.

        Returns:
            One reply per row of `tokens`.
        """
        from transformers import DynamicCache

        hf, stops = self.base.hf, torch.tensor(self.base.chat.stop_ids, device=tokens.device)
        cache = DynamicCache(config=hf.config)
        # transformers calls it `cache` from 5.24 on.
        name = "cache" if "cache" in self.base.forward.arguments else "past_key_values"
        remembered = {name: cache}
        if shared:
            hf(input_ids=tokens[:1, :shared], use_cache=True, **remembered)
            cache.batch_repeat_interleave(len(tokens))
        written: list[list[int]] = [[] for _ in tokens]
        alive = torch.arange(len(tokens), device=tokens.device)
        read = tokens[:, shared:]
        for step in range(max_new_tokens):
            logits = hf(
                input_ids=read,
                attention_mask=mask,
                position_ids=(mask.cumsum(1) - 1).clamp(min=0)[:, -read.shape[1] :],
                use_cache=True,
                logits_to_keep=1,
                **remembered,
            ).logits
            read = choice(logits[:, -1], alive, step)[:, None]
            for row, token in zip(alive.tolist(), read[:, 0].tolist(), strict=True):
                written[row].append(token)
            going = ~torch.isin(read[:, 0], stops)
            if not going.any():
                break
            if not going.all():
                left = going.nonzero().flatten()
                cache.batch_select_indices(left)
                alive, read, mask = alive[left], read[left], mask[left]
            mask = torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
        return [self._reply(row) for row in written]

    def _plain_cache(self) -> bool:
        """Every layer attends fully, from `position_ids`: a cache may have gaps and lose rows."""
        # A sliding window counts indices, so a gap would shift it.
        windows, arguments = self.base.forward.rule.windows, self.base.forward.arguments
        return windows == {"": None} and "logits_to_keep" in arguments

    def _shared_prefix(self, prompts: Sequence[tuple[int, ...]]) -> int:
        """Tokens that all prompts begin with; 0 where a cache cannot have a gap behind them."""
        if not self._plain_cache():
            return 0
        # Each prompt must have a token of its own left to ask by.
        return shared_beginning([prompt[:-1] for prompt in prompts])

    def _reply(self, tokens: list[int]) -> Reply:
        chat = self.base.chat
        end = next((i for i, token in enumerate(tokens) if token in chat.stop_ids), len(tokens))
        return Reply(chat.decode(tokens[:end]), tuple(tokens[: end + 1]))


class RememberingAnswerer(ModelAnswerer):
    """A base model whose replies are kept in memory: they never change, and every round needs them.

    Args:
        base: the model.
    """

    def __init__(self, base: BaseModel) -> None:
        super().__init__(base)
        self._known: dict[tuple[str, int, str | None], Reply] = {}

    def answers(
        self,
        prompts: Sequence[str],
        max_new_tokens: int,
        system: str | None = None,
        progress: Progress | None = None,
    ) -> list[Reply]:
        """See `Answerer`; only what was not asked before is decoded.

        Returns:
            One reply per prompt.
        """
        keys = [(prompt, max_new_tokens, system) for prompt in prompts]
        new = list(dict.fromkeys(key for key in keys if key not in self._known))
        replies = super().answers([key[0] for key in new], max_new_tokens, system, progress)
        self._known.update(zip(new, replies, strict=True))
        if progress is not None:
            progress.advance(len(prompts) - len(new))
        return [self._known[key] for key in keys]

    def answers_kept(
        self,
        prompts: Sequence[str],
        max_new_tokens: int,
        system: str | None = None,
        progress: Progress | None = None,
    ) -> list[Reply]:
        """`answers` that the user's cache remembers, too: for prompts that come again with every round.

        Args:
            prompts: what is asked, always the same together.
            max_new_tokens: where a reply is cut.
            system: a system prompt in place of the template's own.
            progress: told after each batch of replies.

        Returns:
            One reply per prompt.
        """
        progress = progress or Silent()
        asked: list[int] = []

        def ask() -> list[list[Any]]:
            asked.append(len(prompts))
            return [list(r) for r in self.answers(prompts, max_new_tokens, system, progress)]

        key = [*self.base.identity(), max_new_tokens, system, list(prompts)]
        replies = [Reply(text, tuple(tokens)) for text, tokens in remembered("replies", key, ask)]
        if not asked:
            progress.advance(len(prompts))
        self._known.update(
            ((prompt, max_new_tokens, system), reply)
            for prompt, reply in zip(prompts, replies, strict=True)
        )
        return replies


class ContextAnswerer(ModelAnswerer):
    """The base model told of changed facts before every question: no weights change.

    Args:
        base: the model.
        facts: pairs of a prompt and its new answer.
    """

    def __init__(self, base: BaseModel, facts: History) -> None:
        super().__init__(base)
        self.facts = tuple(facts)

    def history(self, prompt: str) -> History:  # noqa: ARG002
        """All facts, whatever the question.

        Args:
            prompt: the question.

        Returns:
            Prompts and new answers.
        """
        return self.facts
