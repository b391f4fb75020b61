r"""What a training step costs beside TRL's steps and the authors' way, on the same batch.

    python benchmarks/step_cost.py --counterfact counterfact.json --json cost.json --plot cost.png

Every contender does one whole optimiser step (gradients, clipping, AdamW) on the same edits from the
same adapter, with the same threads and dtype. They take turns in one process, so that a busy machine
slows all of them; what counts is the ratio to TRL's SFT step, its median over the turns. Each prints the
tokens it sends forward and backward and its losses on the batch, which must agree. Peak memory: one
process per contender.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from corsa.chat import Exchange
from corsa.config import Config, make_config
from corsa.models import Adapter, BaseModel, load_model
from corsa.step import Example
from corsa.training import RoundTrainer
from corsa.validation import edit_from_record

_RATE, _CLIP, _RHO, _BETA = 5e-4, 1.0, 0.05, 0.1


class Bill(NamedTuple):
    """What one step reports of itself."""

    losses: dict[str, float]
    tokens_forward: int
    tokens_backward: int


class Contender(NamedTuple):
    """A way to do a step: `make` loads a model and gives back a function that does one."""

    name: str
    make: Callable[[str, list[Example]], Callable[[], Bill]]


class TokenMeter:
    """Counts the token positions that go forward through a model, and backward."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.forward = self.backward = 0
        # A projection in the middle sees every position once a pass, whatever head or tail is saved.
        layers = [m for n, m in model.named_modules() if n.endswith("mlp")]
        layers[len(layers) // 2].register_forward_pre_hook(self._count)

    def _count(self, _: Any, inputs: tuple[Tensor]) -> None:
        (hidden,) = inputs
        positions = hidden.shape[:-1].numel()
        self.forward += positions
        if hidden.requires_grad and torch._C._current_graph_task_id() < 0:
            hidden.register_hook(lambda _: self._returned(positions))

    def _returned(self, positions: int) -> None:
        self.backward += positions

    def bill(self, losses: dict[str, float]) -> Bill:
        """What went through since the last bill."""
        bill = Bill(losses, self.forward, self.backward)
        self.forward = self.backward = 0
        return bill


def corsa_contender(**settings: Any) -> Callable[[str, list[Example]], Callable[[], Bill]]:
    """Our own step under some settings, through the trainer that every round uses."""

    def make(dtype: str, examples: list[Example]) -> Callable[[], Bill]:
        base, adapter, config = _model(dtype, {"batch_size": len(examples), **settings})
        trainer = RoundTrainer(adapter, examples, config)
        meter = TokenMeter(base.hf)

        def step() -> Bill:
            with base.using(adapter.name):
                event = trainer._step()
            trainer.position.decay_from = None  # a constant rate, however long it goes on
            return meter.bill(event.losses)

        return step

    return make


def trl_sft(dtype: str, examples: list[Example], *, defaults: bool = False) -> Callable[[], Bill]:
    """TRL's SFTTrainer, completion only."""
    from trl import SFTConfig, SFTTrainer

    base, _ = _plain_model(dtype)
    rows = [
        {
            "input_ids": [*e.chosen.prompt, *e.chosen.answer],
            "labels": [-100] * len(e.chosen.prompt) + list(e.chosen.answer),
        }
        for e in examples
    ]
    args = SFTConfig(**_trl_arguments(len(examples), defaults=defaults), packing=False)
    placeholder = _dataset([{"input_ids": r["input_ids"], "labels": r["labels"]} for r in rows])
    trainer = SFTTrainer(
        base._peft, args=args, train_dataset=placeholder, processing_class=base.tokenizer
    )
    return _trl_step(trainer, base, trainer.data_collator(rows), "sft")


def trl_dpo(dtype: str, examples: list[Example], *, defaults: bool = False) -> Callable[[], Bill]:
    """TRL's DPOTrainer with the SFT term, reference by adapter off in every step."""
    from trl import DPOConfig, DPOTrainer

    base, adapter = _plain_model(dtype)
    texts = [{"prompt": "a", "chosen": " b", "rejected": " c"}] * len(examples)
    args = DPOConfig(
        **_trl_arguments(len(examples), defaults=defaults), beta=_BETA, loss_type=["sigmoid", "sft"]
    )
    trainer = DPOTrainer(
        base._peft, args=args, train_dataset=_dataset(texts), processing_class=base.tokenizer
    )
    rows = [
        {
            "prompt_ids": list(e.chosen.prompt),
            "chosen_ids": list(e.chosen.answer),
            "rejected_ids": list(e.rejected.answer),
        }
        for e in examples
        if e.rejected is not None
    ]
    if "ref" in base._peft.peft_config:  # a copy of the adapter; the paper's reference is the base
        base._peft.delete_adapter("ref")
        base._peft.set_adapter(adapter.name)
    return _trl_step(trainer, base, trainer.data_collator(rows), "sft+dpo")


def authors(dtype: str, examples: list[Example]) -> Callable[[], Bill]:
    """The authors' way, from its description: everything padded, everything again in both phases.

    A phase runs the reference on both answers, the policy on both answers and once more on the chosen
    one, with all logits; the perturbed phase does the same again.
    """
    base, adapter = _plain_model(dtype)
    params = adapter.params
    optimizer = torch.optim.AdamW(params.values(), lr=_RATE, weight_decay=0.0)
    meter = TokenMeter(base.hf)
    both = [e.chosen for e in examples] + [e.rejected for e in examples if e.rejected is not None]
    pairs, only = _padded(both, base), _padded(both[: len(examples)], base)

    def logps(batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        tokens, seen, answers = batch
        logits = base.hf(input_ids=tokens, attention_mask=seen, use_cache=False).logits[:, :-1]
        picked = logits.float().log_softmax(-1).gather(-1, tokens[:, 1:, None]).squeeze(-1)
        return picked * answers[:, 1:]

    def phase() -> tuple[list[list[Tensor]], dict[str, float]]:
        with torch.no_grad(), base.using(None):
            plus_ref, minus_ref = logps(pairs).sum(1).chunk(2)
        with base.using(adapter.name):
            plus, minus = logps(pairs).sum(1).chunk(2)
            gain = (plus - plus_ref) - (minus - minus_ref)
            dpo = -torch.nn.functional.logsigmoid(_BETA * gain).mean()
            dpo_gradient = list(torch.autograd.grad(dpo, list(params.values())))
            sft = -logps(only).sum() / only[2].sum()
            sft_gradient = list(torch.autograd.grad(sft, list(params.values())))
        return [sft_gradient, dpo_gradient], {"sft": float(sft), "dpo": float(dpo)}

    def merge(gradients: list[list[Tensor]]) -> list[Tensor]:
        sft, dpo = gradients
        product = sum(float((a * b).sum()) for a, b in zip(sft, dpo, strict=True))
        length = sum(float((a * a).sum()) for a in sft)
        bend = min(0.0, product / length)
        return [(a + b - bend * a) / 2 for a, b in zip(sft, dpo, strict=True)]

    def step() -> Bill:
        gradients, losses = phase()
        merged = merge(gradients)
        scale = _RHO / sum(float((g * g).sum()) for g in merged) ** 0.5
        moves = [g * scale for g in merged]
        with torch.no_grad():
            for param, move in zip(params.values(), moves, strict=True):
                param.add_(move)
        gradients, _ = phase()
        with torch.no_grad():
            for param, move in zip(params.values(), moves, strict=True):
                param.sub_(move)
        for param, gradient in zip(params.values(), merge(gradients), strict=True):
            param.grad = gradient
        torch.nn.utils.clip_grad_norm_(list(params.values()), _CLIP)
        optimizer.step()
        optimizer.zero_grad()
        return meter.bill(losses)

    return step


CONTENDERS = [
    Contender("TRL SFT", trl_sft),
    Contender("TRL SFT, checkpointing (its default)", lambda d, e: trl_sft(d, e, defaults=True)),
    Contender("TRL DPO+SFT", trl_dpo),
    Contender(
        "TRL DPO+SFT, checkpointing (its default)", lambda d, e: trl_dpo(d, e, defaults=True)
    ),
    Contender("the authors' way", authors),
    Contender("lora", corsa_contender(method="lora")),
    Contender("sft+dpo", corsa_contender(method="sft+dpo")),
    Contender("corsa", corsa_contender(method="corsa")),
    Contender("corsa, lagged ascent", corsa_contender(method="corsa", ascent="lagged")),
]


def _model(dtype: str, settings: dict[str, Any]) -> tuple[BaseModel, Adapter, Config]:
    """The embedded model with an adapter that has moved a little, the same for everybody."""
    config = make_config(
        {"dtype": dtype, "replay": 0, "keep_pool": 0, "contrast": 0, "warmup_steps": 0, **settings}
    )
    base = load_model(_MODEL, config)
    adapter = base.new_adapter("default", config)  # TRL looks for this name
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, param in adapter.params.items():
            if ".lora_B." in name:  # at zero B every margin is zero and nothing can be compared
                param.copy_(1e-3 * torch.randn(param.shape, generator=generator))
    base._set_active(adapter.name)
    return base, adapter, config


def _plain_model(dtype: str) -> tuple[BaseModel, Adapter]:
    """The same with peft's own arithmetic, as others use it."""
    base, adapter, _ = _model(dtype, {})
    for layer in base._lora_layers():
        vars(layer).pop("forward", None)
    return base, adapter


def _trl_arguments(batch: int, *, defaults: bool) -> dict[str, Any]:
    common = {
        "output_dir": tempfile.mkdtemp(),
        "per_device_train_batch_size": batch,
        "learning_rate": _RATE,
        "max_grad_norm": _CLIP,
        "weight_decay": 0.0,
        "report_to": "none",
        "use_cpu": not torch.cuda.is_available(),
    }
    # bf16 would be autocast, whose state is one for a process; the dtype is the model's own here.
    return common | {"bf16": False} | ({} if defaults else {"gradient_checkpointing": False})


def _trl_step(
    trainer: Any, base: BaseModel, batch: dict[str, Tensor], name: str
) -> Callable[[], Bill]:
    model = trainer.model
    model.train()
    trainer.create_optimizer()
    trainer.current_gradient_accumulation_steps = 1  # as `train` sets it
    if trainer.args.gradient_checkpointing:
        model.gradient_checkpointing_enable(trainer.args.gradient_checkpointing_kwargs)
        model.enable_input_require_grads()
    meter = TokenMeter(base.hf)
    count = (batch["labels"] != -100).sum() if "labels" in batch else None

    def step() -> Bill:
        if count is None:
            loss = trainer.training_step(model, dict(batch))
        else:
            loss = trainer.training_step(model, dict(batch), num_items_in_batch=count)
        torch.nn.utils.clip_grad_norm_([p for p in model.parameters() if p.requires_grad], _CLIP)
        trainer.optimizer.step()
        trainer.optimizer.zero_grad()
        return meter.bill({name: float(loss)})

    return step


def _dataset(rows: list[dict[str, Any]]) -> Any:
    from datasets import Dataset

    return Dataset.from_list(rows)


def _padded(exchanges: Sequence[Exchange], base: BaseModel) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens, attention mask and answer mask of whole conversations, each of shape (B, L)."""
    rows = [[*prompt, *answer] for prompt, answer in exchanges]
    width = max(map(len, rows))
    tokens = torch.tensor([row + [base.chat.stop_ids[0]] * (width - len(row)) for row in rows])
    seen = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    answers = torch.zeros_like(seen)
    for row, (prompt, answer) in enumerate(exchanges):
        answers[row, len(prompt) : len(prompt) + len(answer)] = 1
    return tokens.to(base.device), seen.to(base.device), answers.to(base.device)


def examples_of(records: list[dict[str, Any]], dtype: str) -> list[Example]:
    """CounterFact records as examples, references under the base model included."""
    base = load_model(_MODEL, make_config({"dtype": dtype}))
    examples = []
    for edit in map(edit_from_record, records):
        chosen = base.chat.exchange(edit.prompt, edit.target_new)
        rejected = base.chat.exchange(edit.prompt, edit.target_old or "")
        plus, minus = (float(s.tokens.sum()) for s in base.forward.score([chosen, rejected]))
        examples.append(Example(chosen, rejected, (plus, minus)))
    return examples


def measure(
    contenders: Sequence[Contender], dtype: str, examples: list[Example], turns: int
) -> list[dict[str, Any]]:
    """Seconds of each contender's steps, taken in turns after one that warms up."""
    steps, bills = [], []
    for contender in contenders:
        steps.append(contender.make(dtype, examples))
        bills.append(steps[-1]())  # from the same weights: the losses that are compared
        print(f"  {contender.name}: {bills[-1]}", file=sys.stderr, flush=True)
    seconds: list[list[float]] = [[] for _ in steps]
    for _ in range(turns):
        for step, taken in zip(steps, seconds, strict=True):
            start = time.perf_counter()
            step()
            taken.append(time.perf_counter() - start)
    return [
        {
            "name": contender.name,
            "dtype": dtype,
            "batch": len(examples),
            "losses": bill.losses,
            "tokens_forward": bill.tokens_forward,
            "tokens_backward": bill.tokens_backward,
            "seconds_median": statistics.median(taken),
            # Neighbours in time are compared with one another.
            "ratio_to_sft": statistics.median(
                a / b for a, b in zip(taken, seconds[0], strict=True)
            ),
        }
        for contender, bill, taken in zip(contenders, bills, seconds, strict=True)
    ]


_MODEL = "smollm2"


def main() -> None:
    """Measure and write what was asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--counterfact", type=Path, required=True)
    parser.add_argument("--skip", type=int, default=0)
    parser.add_argument("--batch", type=int, nargs="+", default=[8])
    parser.add_argument("--dtype", nargs="+", default=["float32"])
    parser.add_argument("--turns", type=int, default=10)
    parser.add_argument("--only", nargs="+")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    chosen = [c for c in CONTENDERS if not options.only or c.name in options.only]
    records = json.loads(options.counterfact.read_text("utf-8"))[options.skip :]
    rows = []
    for dtype in options.dtype:
        for batch in options.batch:
            rows += measure(chosen, dtype, examples_of(records[:batch], dtype), options.turns)
    for row in rows:
        print(json.dumps(row))


if __name__ == "__main__":
    main()
