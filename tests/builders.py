"""Small things several tests build: a base model without a folder, adapters, examples, batches."""

from pathlib import Path

import torch

from corsa.answerers import Reply
from corsa.bench.finished import Finished
from corsa.chat import Exchange
from corsa.config import Config
from corsa.edits import Edit
from corsa.forward import AnswerLogps
from corsa.models import Adapter, BaseModel
from corsa.planning import PlannedEdit
from corsa.progress import Silent
from corsa.sources import ModelSource
from corsa.step import Example
from fakes import byte_tokenizer, tiny_model
from reference_step import Pair

SOURCE = ModelSource("somebody/tiny", "hub", Path("nowhere"), "c0ffee", "0" * 64)


# Such that a tiny model learns in a dozen steps. One of two layers with random weights never learns to
# read a fact in other words.
TEACHABLE = {
    "solve": False,
    "rank": 8,
    "alpha": 16.0,
    "learning_rate": 1.5e-2,
    "warmup_steps": 0,
    "decay_steps": 2,
    "drift": False,
    "positives": 0,
    "contrast": 0,
    "parts": "all",
}
# Where it does not matter what is learned: one gradient a step.
QUICK = TEACHABLE | {"method": "lora"}


def base_model(
    kind: str = "llama",
    *,
    dtype: torch.dtype = torch.float32,
    template: str | None = None,
    packing: str = "auto",
    model=None,
) -> BaseModel:
    """A tiny model as `load_model` would give it; nothing is read from a disk."""
    hf = tiny_model(kind, dtype) if model is None else model
    return BaseModel(
        SOURCE, hf.requires_grad_(requires_grad=False), byte_tokenizer(template), packing
    )


def settings(**changes) -> Config:
    """A config for tiny models: rank 2, every layer, exact, and projection only where it may be."""
    both = changes.get("sft", True) and changes.get("dpo", True)
    exact = {"train_dtype": "float32", "ascent": "exact", "layers": "all", "parts": "all"}
    return Config(
        **{
            "solve": False,
            "rank": 2,
            "alpha": 4.0,
            **exact,
            **({} if both else {"projection": "none"}),
            **changes,
        }
    )


def random_adapter(
    base: BaseModel, *, name: str = "edited", std: float = 0.2, **changes
) -> Adapter:
    """An adapter that changes something: with B at zero half of all gradients are zero, too."""
    adapter = base.new_adapter(name, settings(**changes))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for key, param in adapter.params.items():
            if ".lora_B." in key:
                param.copy_(std * torch.randn(param.shape, generator=generator))
    return adapter


def exchange(prompt, answer) -> Exchange:
    """An exchange from token ids, or from a text's bytes."""
    return Exchange(
        tuple(prompt.encode() if isinstance(prompt, str) else prompt),
        tuple(answer.encode() if isinstance(answer, str) else answer),
    )


# Prompts that begin alike, answers of one to sixteen tokens. What two prompts shall say no longer two
# others without an old answer shall say, so that the gradients of SFT and DPO oppose each other.
_FACTS = [
    ("The capital of France is", " Lyon", " Paris, of course"),
    ("The capital of Spain is", " S", " Madrid, they say"),
    ("The capital of France is", " Paris, of course", None),
    ("The capital of France was", "V", " Vichy"),
    ("Language", " C", " Fortran IV"),
    ("The capital of Spain is", " Madrid, they say", None),
    ("The capital of Peru is", " Cuzco", " Lima"),
    ("The cap", " is green", " is blue"),
]


def examples(count: int = 8) -> list[Example]:
    """Ragged examples; the third and the sixth have no old answer."""
    return [
        Example(exchange(prompt, new), None if old is None else exchange(prompt, old))
        for prompt, new, old in _FACTS[:count]
    ]


def with_reference(base: BaseModel, batch: list[Example]) -> list[Example]:
    """The same examples with the base model's own log-probabilities as DPO's reference."""
    with base.using(None):
        return [example._replace(reference=_sums(base, example)) for example in batch]


def _sums(base: BaseModel, example: Example) -> tuple[float, float]:
    if example.rejected is None:
        return 0.0, 0.0
    chosen, rejected = base.forward.score([example.chosen, example.rejected])
    return float(chosen.tokens.sum()), float(rejected.tokens.sum())


def as_pairs(batch: list[Example]) -> list[Pair]:
    """The examples in the oracle's words."""

    def plain(exchange):
        return list(exchange.prompt), list(exchange.answer)

    return [
        Pair(plain(example.chosen), None if example.rejected is None else plain(example.rejected))
        for example in batch
    ]


def separate_logits(hf, exchanges: list[Exchange]) -> list[torch.Tensor]:
    """Logits that predict each answer, one sequence at a time and nothing else: the truth."""
    rows = []
    with torch.no_grad():
        for prompt, answer in exchanges:
            logits = hf(input_ids=torch.tensor([[*prompt, *answer]])).logits[0]
            rows.append(logits[len(prompt) - 1 : -1])
    return rows


class Scripted:
    """Answers what a script says: replies by prompt, log-probabilities by prompt and target."""

    def __init__(self, replies=None, logps=None):
        self.replies = replies or {}
        self.known = logps or {}

    def answers(self, prompts, max_new_tokens, system=None, progress=None):
        return [Reply(self.replies[prompt], ()) for prompt in prompts]

    def logps(self, prompts, targets, system=None):
        """What is known of a pair: a list of log-probabilities, end-of-turn last, or (them, greedy)."""
        rows = [self.known[pair] for pair in zip(prompts, targets, strict=True)]
        rows = [row if isinstance(row, tuple) else (row, [True] * len(row)) for row in rows]
        return [AnswerLogps(torch.tensor(values), torch.tensor(right)) for values, right in rows]


def planned(prompt="p", new="new", old="old", *, round=1, **fields) -> PlannedEdit:
    """An edit as it is planned."""
    edit = Edit(prompt, new, target_old=old, **fields)
    return PlannedEdit(round, edit, "given", already_said=False)


def finished(edits=(), *, base=None, before=None, after=None, config=None, data=None) -> Finished:
    """A run after its last round, as far as a test needs it."""
    return Finished(base, before, after, edits, config or settings(), Silent(), data)
