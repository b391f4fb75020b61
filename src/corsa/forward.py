"""Logits at answer tokens for a list of exchanges, in one pass: packed where that is exact.

Packing is exact only where every layer is softmax attention whose positions come from
`position_ids`. Some models ignore one or the other without a word, so what the config promises is
checked by numbers when a model is loaded; where they disagree, the batch is padded instead.
"""

from __future__ import annotations

import inspect
import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from corsa.chat import Exchange
from corsa.packing import PrefixTree, build_tree, chunks
from corsa.tree_attention import attending

logger = logging.getLogger(__name__)

# Layer types of transformers configs whose mask we can write for a tree.
_MASKABLE = {"full_attention", "sliding_attention"}
# A window longer than this is not probed at load; trees deeper than what was probed are padded.
_LONGEST_PROBE = 512

Windows = Mapping[str, int | None]


class AnswerLogps(NamedTuple):
    """What a model says of one given answer.

    Attributes:
        tokens: log-probability of each answer token, shape (T,), nats.
        greedy: whether each answer token is the arg-max under teacher forcing, shape (T,), bool.
        divergence: KL(teacher || model) at each answer token, shape (T,), nats; `None` without teacher.
    """

    tokens: Tensor
    greedy: Tensor
    divergence: Tensor | None = None

    @property
    def right(self) -> bool:
        """Every token is the arg-max, end-of-turn included: what greedy decoding would write."""
        return bool(self.greedy.all())


class PackingRule(NamedTuple):
    """How a model's batches are built.

    Attributes:
        windows: attention window by layer type (key "" where the model takes one mask); `None`: pad.
        max_depth: longest sequence for which packing was shown to be exact; `None`: any.
        reason: why, for the log and the protocol.
        by_blocks: attention may go block by block (see `corsa.tree_attention`).
    """

    windows: Windows | None
    max_depth: int | None
    reason: str
    by_blocks: bool = False


class Spot(NamedTuple):
    """A token of a prompt at which something is added or looked at.

    Attributes:
        place: of the token in the prompt, from 0.
        value: which of the values is about it.
    """

    place: int
    value: int


# By the prompt's tokens; several where it names several subjects.
Spots = Mapping[tuple[int, ...], Collection[Spot]]
# The tree if exchanges are packed, and for each the rows of its tokens in what passes.
_Arranged = tuple[PrefixTree | None, list[Sequence[int]]]


class Passed(NamedTuple):
    """What passed through some modules with some exchanges, a row for every token that was read.

    Attributes:
        inputs: of each module that was asked for, shape (N, its width); fewer rows of one that does not
            read every token, as experts do not.
        output: of the last layer that was asked for, shape (N, D).
        paths: for each exchange the rows of its tokens, in order; exchanges share rows where packed.
    """

    inputs: list[Tensor]
    output: Tensor
    paths: list[list[int]]

    def often(self) -> Tensor:
        """How many exchanges read each row, shape (N,); none: padding."""
        counts = Counter(row for path in self.paths for row in path)
        often = torch.zeros(len(self.output), dtype=torch.float64)
        often[list(counts)] = torch.tensor(list(counts.values()), dtype=torch.float64)
        return often.to(self.output.device)


class _Enough(Exception):  # noqa: N818 - no error: the layers above need not run
    """All that was asked for has passed."""


class Forward:
    """Runs a causal language model on exchanges.

    Args:
        model: a transformers causal language model, with or without an adapter.
        pad_id: any token id, for padding.
        packing: "auto", or "padded" to never pack.
        max_tokens: nodes in one tree when nothing is trained.
    """

    def __init__(
        self, model: Any, pad_id: int, packing: str = "auto", max_tokens: int = 2048
    ) -> None:
        self.model = model
        self.pad_id = pad_id
        self.max_tokens = max_tokens
        self._shift: tuple[nn.Module, Spots, Callable[[], Tensor]] | None = None
        self.arguments = set(inspect.signature(model.forward).parameters)
        padded = PackingRule(None, None, "padded batches were asked for")
        self.rule = padded if packing == "padded" else find_packing(self)
        logger.info(
            "batches are %s: %s", "packed" if self.rule.windows else "padded", self.rule.reason
        )

    @property
    def device(self) -> torch.device:
        """Where the model's inputs go."""
        device: torch.device = self.model.get_input_embeddings().weight.device
        return device

    def logits(self, exchanges: Sequence[Exchange]) -> list[Tensor]:
        """Logits that predict the answer tokens, in one pass with gradients.

        Args:
            exchanges: B exchanges.

        Returns:
            For each exchange a tensor of shape (T, V), in the model's dtype.
        """
        logits, rows = self._run(exchanges)
        sizes = [len(answer) for _, answer in exchanges]
        return list(torch.split(logits[rows], sizes))

    def answer_logps(
        self, exchanges: Sequence[Exchange], teachers: Sequence[Tensor | None] = ()
    ) -> list[AnswerLogps]:
        """Log-probabilities of the given answers, in one pass with gradients.

        Args:
            exchanges: B exchanges.
            teachers: for each log-probabilities of shape (T, V) to compare the model's own with, or
                `None`; none at all: nothing is compared.

        Returns:
            One `AnswerLogps` per exchange, computed in float32 or wider.
        """
        logits, rows = self._run(exchanges)
        wide = _wide(logits)
        targets = torch.tensor([t for _, answer in exchanges for t in answer], device=wide.device)
        # Answers that begin alike share their first row: nothing as wide as V is copied for them.
        every = wide.log_softmax(-1)
        logps = every[rows, targets]
        greedy = wide.argmax(-1)[rows] == targets
        sizes = [len(answer) for _, answer in exchanges]
        scores = (
            torch.split(logps, sizes),
            torch.split(greedy, sizes),
            _divergences(every, torch.split(rows, sizes), teachers or [None] * len(sizes)),
        )
        return [AnswerLogps(*score) for score in zip(*scores, strict=True)]

    @torch.no_grad()
    def distributions(self, exchanges: Sequence[Exchange]) -> list[Tensor]:
        """Log-probabilities of every token at the given answers' places, without gradients.

        Args:
            exchanges: any number of exchanges; an answer's last token is not looked at.

        Returns:
            For each exchange a tensor of shape (T, V), float32 or wider, where the model is.
        """
        found: dict[int, Tensor] = {}
        for group in chunks(exchanges, self.max_tokens):
            rows = self.logits([exchanges[i] for i in group])
            found |= {i: _wide(row).log_softmax(-1) for i, row in zip(group, rows, strict=True)}
        return [found[i] for i in range(len(exchanges))]

    @torch.no_grad()
    def score(self, exchanges: Sequence[Exchange]) -> list[AnswerLogps]:
        """`answer_logps` without gradients, in as many passes as memory asks for.

        Args:
            exchanges: any number of exchanges.

        Returns:
            One `AnswerLogps` per exchange, on the CPU.
        """
        scores: list[AnswerLogps] = []
        for group in chunks(exchanges, self.max_tokens):
            part = self.answer_logps([exchanges[i] for i in group])
            scores += [AnswerLogps(score.tokens.cpu(), score.greedy.cpu()) for score in part]
        return scores

    def _run(
        self, exchanges: Sequence[Exchange], arranged: _Arranged | None = None
    ) -> tuple[Tensor, Tensor]:
        """One pass: logits of shape (R, V), and for every answer token in turn its row, (ΣT,)."""
        tree, paths = arranged or self._arranged(exchanges)
        with ExitStack() as stack:
            if self._shift is not None:
                stack.enter_context(_shifted(self._shift, exchanges, paths))
            if tree is None or self.rule.windows is None:
                return self._padded(exchanges)
            by_blocks = self.rule.by_blocks and tree.blocks.cheaper
            return self._packed(tree, self.rule.windows, by_blocks=by_blocks)

    def _arranged(self, exchanges: Sequence[Exchange]) -> _Arranged:
        windows, max_depth = self.rule.windows, self.rule.max_depth
        read = [len(prompt) + len(answer) - 1 for prompt, answer in exchanges]
        width = max(read)
        if windows is None or (max_depth is not None and width > max_depth):
            return None, [range(i * width, i * width + n) for i, n in enumerate(read)]
        tree = build_tree(exchanges, self.device)
        return tree, list(tree.paths)

    @contextmanager
    def shifting(
        self, layer: nn.Module, spots: Spots, values: Callable[[], Tensor]
    ) -> Iterator[None]:
        """Inside the block a value is added to what a layer says at some tokens.

        Args:
            layer: of the decoder.
            spots: where, and which value; prompts that are not among them pass as they are.
            values: gives the values, shape (E, D), at every pass.

        Yields:
            Nothing.
        """
        self._shift = layer, spots, values
        try:
            yield
        finally:
            self._shift = None

    @torch.no_grad()
    def passing(
        self, exchanges: Sequence[Exchange], modules: Sequence[nn.Module], layer: nn.Module
    ) -> Iterator[Passed]:
        """What some modules read, and what a layer at or above all of them says.

        Args:
            exchanges: any number; an answer's last token is not read.
            modules: whose inputs are wanted.
            layer: whose output is wanted; no layer above it runs.

        Yields:
            One for every pass, in the order of the exchanges.
        """
        for group in chunks(exchanges, self.max_tokens):
            part = [exchanges[i] for i in group]
            arranged = self._arranged(part)
            paths = arranged[1]
            seen: dict[int, Tensor] = {}
            said: list[Tensor] = []

            def note(module: nn.Module, args: tuple[Tensor, ...], seen: Any = seen) -> None:
                seen[id(module)] = args[0].flatten(0, -2)

            def end(_: nn.Module, __: Any, output: Any, said: Any = said) -> None:
                said.append(_hidden(output).flatten(0, -2))
                raise _Enough

            hooks = [module.register_forward_pre_hook(note) for module in modules]
            hooks.append(layer.register_forward_hook(end))
            try:
                self._run(part, arranged)
            except _Enough:
                pass
            finally:
                for hook in hooks:
                    hook.remove()
            nothing = said[0][:0]
            inputs = [seen.get(id(module), nothing) for module in modules]
            yield Passed(inputs, said[0], list(map(list, paths)))

    def _packed(
        self, tree: PrefixTree, windows: Windows, *, by_blocks: bool
    ) -> tuple[Tensor, Tensor]:
        nodes, rows = torch.unique(torch.cat(tree.rows), return_inverse=True)
        inputs = {"input_ids": tree.tokens[None], "position_ids": tree.positions[None]}
        if by_blocks:
            with attending(self.model, tree.blocks):
                # Any mask of four dimensions is passed on as it is; the blocks say who sees whom.
                nothing = torch.zeros(1, 1, 1, 1, dtype=torch.bool, device=self.device)
                logits = self._call(nodes, attention_mask=nothing, **inputs)
        else:
            dtype = self.model.get_input_embeddings().weight.dtype
            masks = {kind: tree.mask(window, dtype) for kind, window in windows.items()}
            logits = self._call(nodes, attention_mask=masks.get("", masks), **inputs)
        return logits.view(logits.shape[1:]), rows

    def _padded(self, exchanges: Sequence[Exchange]) -> tuple[Tensor, Tensor]:
        sequences = [[*prompt, *answer[:-1]] for prompt, answer in exchanges]
        width = max(map(len, sequences))
        tokens = torch.tensor([seq + [self.pad_id] * (width - len(seq)) for seq in sequences])
        lengths = torch.tensor([len(seq) for seq in sequences])
        mask = (torch.arange(width)[None] < lengths[:, None]).long()
        first = min(len(prompt) for prompt, _ in exchanges) - 1
        logits = self._call(
            torch.arange(first, width, device=self.device),
            input_ids=tokens.to(self.device),
            attention_mask=mask.to(self.device),
        )
        answers = [
            row[len(prompt) - 1 - first : len(prompt) - 1 - first + len(answer)]
            for row, (prompt, answer) in zip(logits, exchanges, strict=True)
        ]
        flat = torch.cat(answers)
        return flat, torch.arange(len(flat), device=flat.device)

    def _call(self, rows: Tensor, **inputs: Any) -> Tensor:
        """Logits of the given positions; the head runs on those alone where the model allows it."""
        if "logits_to_keep" in self.arguments:
            kept: Tensor = self.model(**inputs, use_cache=False, logits_to_keep=rows).logits
            return kept
        full: Tensor = self.model(**inputs, use_cache=False).logits
        return full[:, rows]


def _hidden(output: Any) -> Tensor:
    """The hidden states in what a decoder layer gives; some give more."""
    hidden: Tensor = output[0] if isinstance(output, tuple) else output
    return hidden


@contextmanager
def _shifted(
    shift: tuple[nn.Module, Spots, Callable[[], Tensor]],
    exchanges: Sequence[Exchange],
    paths: Sequence[Sequence[int]],
) -> Iterator[None]:
    """Inside the block values are added at rows of what passes."""
    layer, spots, values = shift
    # Each once: exchanges that begin alike share rows.
    found = {
        (path[spot.place], spot.value): None
        for exchange, path in zip(exchanges, paths, strict=True)
        for spot in spots.get(exchange.prompt, ())
    }

    def add(_: nn.Module, __: Any, output: Any) -> Any:
        hidden = _hidden(output)
        at, which = torch.tensor(list(found), device=hidden.device).T
        moved = hidden.flatten(0, -2).index_add(0, at, values()[which].to(hidden.dtype))
        moved = moved.view_as(hidden)
        return (moved, *output[1:]) if isinstance(output, tuple) else moved

    hook = layer.register_forward_hook(add) if found else None
    try:
        yield
    finally:
        if hook is not None:
            hook.remove()


def _wide(logits: Tensor) -> Tensor:
    return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits


def _divergences(
    every: Tensor, rows: Sequence[Tensor], teachers: Sequence[Tensor | None]
) -> list[Tensor | None]:
    """KL(teacher || model) at the rows of each exchange that has a teacher, nats."""
    given = [(at, t) for at, t in zip(rows, teachers, strict=True) if t is not None]
    if not given:
        return [None] * len(rows)
    # Taken out at once: on the way back every taking out is a tensor as large as all of `every`.
    own = iter(torch.split(every[torch.cat([at for at, _ in given])], [len(t) for _, t in given]))
    return [
        None if teacher is None else (teacher.exp() * (teacher - next(own))).sum(-1)
        for teacher in teachers
    ]


def find_packing(forward: Forward) -> PackingRule:
    """Decide by the config, then by numbers, whether a model's batches may be packed.

    Args:
        forward: the model; its own rule is not used.

    Returns:
        The rule. Without exact packing its `windows` are `None`.
    """
    config = forward.model.config.get_text_config()
    if "position_ids" not in forward.arguments:
        return PackingRule(None, None, "the model takes no position_ids")
    if config._attn_implementation not in ("sdpa", "eager"):
        return PackingRule(
            None, None, f"{config._attn_implementation} attention takes no tree mask"
        )
    types = set(getattr(config, "layer_types", None) or ())
    if types - _MASKABLE:
        return PackingRule(None, None, f"it has layers of type {', '.join(sorted(types))}")
    window = getattr(config, "sliding_window", None)
    reasons, sdpa = [], config._attn_implementation == "sdpa"
    for windows in _candidates(types, window):
        length = min([w for w in windows.values() if w] or [16])
        tested = min(length, _LONGEST_PROBE) + 8
        # On a GPU one kernel for the whole tree is the faster way.
        blocks = windows == {"": None} and forward.device.type == "cpu" and sdpa
        for by_blocks in (True, False) if blocks else (False,):
            difference, floor = _probe(forward, windows, tested, by_blocks=by_blocks)
            if difference <= 4 * floor + 1e-3:
                depth = None if length <= _LONGEST_PROBE else tested
                reason = f"probe differs by {difference:.1e} nats"
                return PackingRule(windows, depth, reason, by_blocks)
        reasons.append(f"probe differs by {difference:.1e} nats")
    return PackingRule(None, None, "; ".join(reasons))


def _candidates(types: set[str], window: int | None) -> list[Windows]:
    """Masks worth trying, the likeliest first."""
    if "sliding_attention" in types:
        windows: Windows = {"full_attention": None, "sliding_attention": window}
        single = [{"": window}] if types == {"sliding_attention"} else []
        return [windows, *single]
    # Without layer types a window acts on every layer (Mistral).
    return [{"": None if types else window}]


@torch.no_grad()
def _probe(
    forward: Forward, windows: Windows, length: int, *, by_blocks: bool
) -> tuple[float, float]:
    """Two branches longer than `length`, by blocks a second prompt too, against separate sequences.

    Returns:
        How far log-probabilities differ, and the floor: what padding alone makes of it, or the
        rounding of the model's dtype. Infinity where the model refuses the mask.
    """
    vocabulary = forward.model.get_input_embeddings().weight.shape[0]
    generator = torch.Generator().manual_seed(0)

    def random_tokens(count: int) -> tuple[int, ...]:
        return tuple(torch.randint(vocabulary, (count,), generator=generator).tolist())

    prompt = random_tokens(5)
    exchanges = [Exchange(prompt, random_tokens(length)) for _ in range(2)]
    shorter = Exchange(prompt, random_tokens(length // 2))
    if by_blocks:
        exchanges.append(Exchange((*prompt[:2], *random_tokens(2)), random_tokens(length)))
    alone = torch.cat([forward._padded([e])[0] for e in exchanges]).float().log_softmax(-1)
    padded = forward._padded([*exchanges, shorter])[0][: len(alone)].float().log_softmax(-1)
    # Padding may cost no rounding at all (it does not on a CPU) where another mask does.
    rounding = torch.finfo(forward.model.get_input_embeddings().weight.dtype).eps
    floor = max(_apart(padded, alone), rounding * float(alone.abs().mean()))
    try:
        tree = build_tree(exchanges, forward.device)
        logits, rows = forward._packed(tree, windows, by_blocks=by_blocks)
        packed = logits[rows].float().log_softmax(-1)
    except (RuntimeError, TypeError, ValueError, KeyError, IndexError, AttributeError) as error:
        logger.info("the model refuses a tree mask: %s", error)
        return float("inf"), floor
    return _apart(packed, alone), floor


def _apart(logps: Tensor, others: Tensor) -> float:
    """By how much the worst row differs, a mean over its tokens.

    Single tokens far down in the tail differ by a nat between two right ways in a narrow type; what is
    masked wrongly changes all of a row.

    Returns:
        Nats.
    """
    return float((logps - others).abs().mean(-1).max())
