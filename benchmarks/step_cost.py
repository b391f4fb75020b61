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
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
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

_MODEL = "smollm2"
_RATE, _CLIP, _RHO, _BETA = 5e-4, 1.0, 0.05, 0.1
_LAGGED = "corsa, lagged ascent"
_FILLER = [
    "It",
    "was",
    "a",
    "quiet",
    "day",
    "by",
    "the",
    "sea",
    "and",
    "nobody",
    "spoke",
    "of",
    "it.",
]


class Bill(NamedTuple):
    """What one step reports of itself."""

    losses: dict[str, float]
    tokens_forward: int
    tokens_backward: int


class Case(NamedTuple):
    """What a step is done on."""

    dtype: str
    examples: list[Example]
    rank: int = 32


class Contender(NamedTuple):
    """A way to do a step: `make` loads a model and gives back a function that does one."""

    name: str
    make: Callable[[Case], Callable[[], Bill]]


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


def corsa_contender(**settings: Any) -> Callable[[Case], Callable[[], Bill]]:
    """Our own step under some settings, through the trainer that every round uses."""

    def make(case: Case) -> Callable[[], Bill]:
        base, adapter, config = _model(case, settings)
        trainer = RoundTrainer(adapter, case.examples, config)
        meter = TokenMeter(base.hf)

        def step() -> Bill:
            with base.using(adapter.name):
                event = trainer._step()
            trainer.position.decay_from = None  # a constant rate, however long it goes on
            return meter.bill(event.losses)

        return step

    return make


def trl_sft(case: Case, *, defaults: bool = False) -> Callable[[], Bill]:
    """TRL's SFTTrainer, completion only."""
    from trl import SFTConfig, SFTTrainer

    base, _ = _plain_model(case)
    rows = [
        {
            "input_ids": [*e.chosen.prompt, *e.chosen.answer],
            "labels": [-100] * len(e.chosen.prompt) + list(e.chosen.answer),
        }
        for e in case.examples
    ]
    args = SFTConfig(**_trl_arguments(len(case.examples), defaults=defaults), packing=False)
    unread = _dataset([{"input_ids": r["input_ids"], "labels": r["labels"]} for r in rows])
    trainer = SFTTrainer(
        base._peft, args=args, train_dataset=unread, processing_class=base.tokenizer
    )
    return _trl_step(trainer, base, trainer.data_collator(rows), "sft")


def trl_dpo(case: Case, *, defaults: bool = False) -> Callable[[], Bill]:
    """TRL's DPOTrainer with the SFT term, reference by adapter off in every step."""
    from trl import DPOConfig, DPOTrainer

    base, adapter = _plain_model(case)
    texts = [{"prompt": "a", "chosen": " b", "rejected": " c"}] * len(case.examples)
    args = DPOConfig(
        **_trl_arguments(len(case.examples), defaults=defaults),
        beta=_BETA,
        loss_type=["sigmoid", "sft"],
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
        for e in case.examples
        if e.rejected is not None
    ]
    if "ref" in base._peft.peft_config:  # a copy of the adapter; the paper's reference is the base
        base._peft.delete_adapter("ref")
        base._peft.set_adapter(adapter.name)
    return _trl_step(trainer, base, trainer.data_collator(rows), "sft+dpo")


def authors(case: Case) -> Callable[[], Bill]:
    """The authors' way, from its description: everything padded, everything again in both phases.

    A phase runs the reference on both answers, the policy on both answers and once more on the chosen
    one, with all logits; the perturbed phase does the same again.
    """
    base, adapter = _plain_model(case)
    params = adapter.params
    optimizer = torch.optim.AdamW(params.values(), lr=_RATE, weight_decay=0.0)
    meter = TokenMeter(base.hf)
    both = [e.chosen for e in case.examples] + [
        e.rejected for e in case.examples if e.rejected is not None
    ]
    pairs, only = _padded(both, base), _padded(both[: len(case.examples)], base)

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
    Contender("TRL SFT, checkpointing (its default)", lambda case: trl_sft(case, defaults=True)),
    Contender("TRL DPO+SFT", trl_dpo),
    Contender(
        "TRL DPO+SFT, checkpointing (its default)", lambda case: trl_dpo(case, defaults=True)
    ),
    Contender("the authors' way", authors),
    Contender("lora", corsa_contender(method="lora")),
    Contender("sft+dpo", corsa_contender(method="sft+dpo")),
    Contender("corsa", corsa_contender(method="corsa")),
    Contender("corsa, recomputing", corsa_contender(method="corsa", recompute=True)),
    Contender(_LAGGED, corsa_contender(method="corsa", ascent="lagged")),
]


def config_of(case: Case, settings: dict[str, Any]) -> Config:
    """What a contender of ours is set to: every default that makes a step another one is put back."""
    return make_config(
        {
            "dtype": case.dtype,
            "train_dtype": case.dtype,
            "rank": case.rank,
            "alpha": 2.0 * case.rank,
            "layers": "all",
            "parts": "all",
            "ascent": "exact",
            "warmup_steps": 0,
            "batch_size": len(case.examples),
            "replay": 0,
            "keep_pool": 0,
            "keep_plain": 0,
            "positives": 0,
            "contrast": 0,
        }
        | settings
    )


def _model(case: Case, settings: dict[str, Any]) -> tuple[BaseModel, Adapter, Config]:
    """The embedded model with an adapter that has moved a little, the same for everybody."""
    config = config_of(case, settings)
    base = load_model(_MODEL, config)
    adapter = base.new_adapter("default", config)  # TRL looks for this name
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, param in adapter.params.items():
            if ".lora_B." in name:  # at zero B every margin is zero and nothing can be compared
                param.copy_(1e-3 * torch.randn(param.shape, generator=generator))
    base._set_active(adapter.name)
    return base, adapter, config


def _plain_model(case: Case) -> tuple[BaseModel, Adapter]:
    """The same with peft's own arithmetic, as others use it."""
    base, adapter, _ = _model(case, {})
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


def examples_of(
    records: list[dict[str, Any]], dtype: str, *, before: int = 0, answer: int = 0
) -> list[Example]:
    """CounterFact records as examples, references under the base model included.

    Args:
        records: upstream rows.
        dtype: of the base model.
        before: words of other text in front of each prompt.
        answer: words that each answer is filled up to.
    """
    base = load_model(_MODEL, make_config({"dtype": dtype}))
    examples = []
    for number, edit in enumerate(map(edit_from_record, records)):
        filler = [f"({number})", *_FILLER]
        text = " ".join((filler * (before // len(filler) + 1))[:before])
        more = " ".join((filler * (answer // len(filler) + 1))[:answer])
        prompt = f"{text} {edit.prompt}".strip()
        chosen = base.chat.exchange(prompt, f"{edit.target_new} {more}".strip())
        rejected = base.chat.exchange(prompt, f"{edit.target_old} {more}".strip())
        plus, minus = (float(s.tokens.sum()) for s in base.forward.score([chosen, rejected]))
        examples.append(Example(chosen, rejected, (plus, minus)))
    return examples


def measure(contenders: Sequence[Contender], case: Case, turns: int) -> list[dict[str, Any]]:
    """Seconds of each contender's steps, taken in turns after one that warms up."""
    steps, bills = [], []
    for contender in contenders:
        steps.append(contender.make(case))
        bills.append(steps[-1]())  # from the same weights: the losses that are compared
        print(f"  {contender.name}: {bills[-1]}", file=sys.stderr, flush=True)
        steps[-1]()  # a step after the first is what is timed
    seconds: list[list[float]] = [[] for _ in steps]
    for _ in range(turns):
        for step, taken in zip(steps, seconds, strict=True):
            start = time.perf_counter()
            step()
            taken.append(time.perf_counter() - start)
    return [
        {
            "name": contender.name,
            "dtype": case.dtype,
            "batch": len(case.examples),
            "turns": turns,
            "threads": torch.get_num_threads(),
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


def peak_bytes(contender: Contender, case: Case) -> int:
    """The most memory this process held during two steps; for a process of its own."""
    step = contender.make(case)
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        step(), step()
        return int(torch.cuda.max_memory_allocated())
    Path("/proc/self/clear_refs").write_text("5")  # what loading took is forgotten
    step(), step()
    status = Path("/proc/self/status").read_text()
    return 1024 * int(next(line for line in status.splitlines() if "VmHWM" in line).split()[1])


def in_its_own_process(name: str, dtype: str, batch: int, options: argparse.Namespace) -> int:
    """`peak_bytes` of one contender."""
    asked = [sys.executable, __file__, "--counterfact", str(options.counterfact), "--peak"]
    asked += ["--skip", str(options.skip), "--dtype", dtype, "--batch", str(batch), "--only", name]
    done = subprocess.run(asked, check=True, capture_output=True, text=True)
    return int(done.stdout.split()[-1])


# What a step's cost is measured against, one thing at a time; the rest stays at its usual value.
SWEEPS: dict[str, tuple[int, ...]] = {
    "rank": (8, 32, 128),
    "words in the answer": (0, 10, 40),
    "words before the prompt": (0, 20, 80),
}


def sweep(records: list[dict[str, Any]], turns: int) -> Iterator[list[dict[str, Any]]]:
    """Our step and TRL's SFT step, batches of eight in float32, over one thing after the other."""
    chosen = [c for c in CONTENDERS if c.name in ("TRL SFT", "corsa", _LAGGED)]
    for what, values in SWEEPS.items():
        for value in values:
            examples = examples_of(
                records[:8],
                "float32",
                before=value if what == "words before the prompt" else 0,
                answer=value if what == "words in the answer" else 0,
            )
            case = Case("float32", examples, value if what == "rank" else 32)
            yield [{"over": what, "value": value, **row} for row in measure(chosen, case, turns)]


def plot(report: dict[str, Any], path: Path) -> None:
    """Ratios to TRL's SFT step: contenders as bars, sweeps as lines."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    swept = [row for row in report["rows"] if "over" in row]
    plain = [row for row in report["rows"] if "over" not in row]
    things = list(dict.fromkeys(row["over"] for row in swept))
    figure, axes = pyplot.subplots(
        1,
        1 + len(things),
        figsize=(8 + 3.2 * len(things), 4.5),
        squeeze=False,
        width_ratios=[2] + [1] * len(things),
    )
    names = list(dict.fromkeys(row["name"] for row in plain))
    groups = list(dict.fromkeys((row["dtype"], row["batch"]) for row in plain))
    bars, height = axes[0][0], 0.8 / max(1, len(groups))
    for place, group in enumerate(groups):
        of_group = [row for row in plain if (row["dtype"], row["batch"]) == group]
        spots = [names.index(row["name"]) + place * height for row in of_group]
        ratios = [row["ratio_to_sft"] for row in of_group]
        bars.barh(spots, ratios, height, label="{}, batch {}".format(*group))
    bars.set_yticks([i + 0.4 - height / 2 for i in range(len(names))], names)
    bars.axvline(1, color="grey", linewidth=0.8)
    bars.invert_yaxis()
    bars.set_xlabel("one step, in TRL SFT steps on the same batch")
    bars.legend(loc="lower right")
    for axis, what in zip(axes[0][1:], things, strict=True):
        for name in dict.fromkeys(row["name"] for row in swept):
            found = [row for row in swept if (row["over"], row["name"]) == (what, name)]
            values = [row["value"] for row in found]
            axis.plot(values, [row["ratio_to_sft"] for row in found], marker="o", label=name)
        axis.set_xlabel(what)
        axis.set_ylim(bottom=0)
        axis.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def main() -> None:
    """Measure and write what was asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--counterfact", type=Path, required=True)
    parser.add_argument("--skip", type=int, default=0, help="records to leave out at the front")
    parser.add_argument("--batch", type=int, nargs="*", default=[8, 32])
    parser.add_argument("--dtype", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--turns", type=int, default=10)
    parser.add_argument(
        "--sweep", type=int, default=0, metavar="TURNS", help="over lengths and rank"
    )
    parser.add_argument("--only", nargs="+", choices=[c.name for c in CONTENDERS])
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--peak", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path, help="rows are added to what is in it")
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    chosen = [c for c in CONTENDERS if not options.only or c.name in options.only]
    records = json.loads(options.counterfact.read_text("utf-8"))[options.skip :]
    if options.peak:
        examples = examples_of(records[: options.batch[0]], options.dtype[0])
        print(peak_bytes(chosen[0], Case(options.dtype[0], examples)))
        return
    rows: list[dict[str, Any]] = []
    for batch in options.batch:
        for dtype in options.dtype:
            case = Case(dtype, examples_of(records[:batch], dtype))
            for row in measure(chosen, case, options.turns):
                if not options.no_memory:
                    row["peak_bytes"] = in_its_own_process(row["name"], dtype, batch, options)
                print(json.dumps(row), flush=True)
                rows.append(row)
            keep(rows, options)
    for part in sweep(records, options.sweep) if options.sweep else ():
        rows += part
        keep(rows, options)
    report = keep(rows, options)
    if options.plot:
        plot(report, options.plot)


def keep(rows: list[dict[str, Any]], options: argparse.Namespace) -> dict[str, Any]:
    """All rows so far, written to the file; of a row that is there already the new one counts."""
    path, before = options.json, []
    if path and path.exists():
        before = json.loads(path.read_text("utf-8"))["rows"]
    merged = {_key(row): row for row in [*before, *rows]}
    report = {"protocol": protocol(options), "rows": list(merged.values())}
    if path:
        path.write_text(json.dumps(report, indent=1) + "\n", "utf-8")
    return report


def _key(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row.get(name) for name in ("name", "dtype", "batch", "over", "value"))


def protocol(options: argparse.Namespace) -> dict[str, Any]:
    """What the numbers rest on."""
    return {
        "model": _MODEL,
        "edits": f"CounterFact records from {options.skip}, y- = target_true",
        "adapter": "LoRA on all seven projections, rank 32, alpha 64, B moved a little",
        "optimiser": "AdamW, clipping at 1.0, in every step that is timed",
        "versions": {name: version(name) for name in ("torch", "transformers", "peft", "trl")},
    }


if __name__ == "__main__":
    main()
