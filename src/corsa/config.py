"""Every setting of a round: its default, its meaning and its limits, in one place.

Methods and presets are names for settings, not code. `lora`, `sam` and `sft+dpo` are the paper's
baselines: some of its switches off, and nothing of what `corsa` has beyond the paper. One switch of
training is ablated by a setting: `preset=trained sam=false` (a round that is solved for takes no step).
"""

from __future__ import annotations

import dataclasses
import re
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, Literal

from corsa.errors import ConfigError

# Names of `corsa.projection.WEIGHTS`, which cannot be asked without importing torch.
PROJECTIONS = ("pcgrad", "one-sided", "none")

# Every fact is trained, as code is.
_TRAINED: Mapping[str, Any] = {"solve": False, "rank": 32, "alpha": 64.0, "layers": "0.1-0.5"}

# Nothing beyond the paper: nothing replayed or kept but what an edit asks to keep, no fresh wordings,
# nothing told apart.
_PLAIN: Mapping[str, Any] = {
    "replay": 0,
    "remember": False,
    "keep_pool": 0,
    "keep_plain": 0,
    "positives": 0,
    "contrast": 0,
    "other_relations": 0.0,
    "ascent": "exact",
    "learning_rate": 5e-4,
    **_TRAINED,
    "layers": "all",
    "parts": "all",
}
_SFT_ALONE: Mapping[str, Any] = {"sft": True, "dpo": False, "projection": "none", "sam": False}

# A method without settings trains nothing.
METHODS: Mapping[str, Mapping[str, Any]] = {
    "corsa": {"sft": True, "dpo": True, "projection": "pcgrad", "sam": True},
    "lora": {**_SFT_ALONE, **_PLAIN},
    "sam": {**_SFT_ALONE, "sam": True, **_PLAIN},
    "sft+dpo": {**_SFT_ALONE, "dpo": True, **_PLAIN},
    # As in ROME's comparison. Rate and `ft_bound` are what the embedded model needs, whose weights are
    # large; ROME takes 5e-4 for both on GPT-2 XL.
    "ft-l": {**_SFT_ALONE, **_PLAIN, "learning_rate": 5e-3},
    "in-context": {},
    "retrieval": {},
}

PRESETS: Mapping[str, Mapping[str, Any]] = {
    "default": {},
    "trained": _TRAINED,
    # The authors' settings (arXiv 2602.03696 and their code): batch 8 × accumulation 4.
    "paper": {
        **_PLAIN,
        "beta": 0.1,
        "rho": 0.05,
        "learning_rate": 2e-4,
        "batch_size": 32,
        "micro_batch": 8,
        "stop": "epochs",
        "epochs": 10,
        "warmup_steps": 5,
        "clip": 1.0,
    },
}


def _setting(
    default: Any,
    help: str,
    *,
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] = (),
) -> Any:
    meta = {"help": help, "low": low, "high": high, "choices": choices}
    return field(default=default, metadata=meta)


@dataclass(frozen=True)
class Config:
    """The settings of one round. `--set KEY=VALUE` on the command line, keywords in Python.

    Every setting is taken as given: `make_config` is what fills in those of a method or preset.

    Raises:
        ConfigError: if a value is out of range or two settings contradict each other.
    """

    method: str = _setting("corsa", "how the model is edited", choices=tuple(METHODS))
    preset: str = _setting(
        "default",
        "a named set of settings: paper, the authors'; trained, without closed forms",
        choices=tuple(PRESETS),
    )

    sft: bool = _setting(True, "train towards the new answer")
    dpo: bool = _setting(True, "train the new answer against the old one")
    projection: str = _setting(
        "pcgrad",
        "surgery between the two gradients; 'one-sided' is the authors' form",
        choices=PROJECTIONS,
    )
    sam: bool = _setting(True, "take the gradients a step uphill (sharpness-aware minimisation)")
    ascent: Literal["exact", "lagged"] = _setting(
        "lagged",
        "SAM's way uphill: found at every step as in the paper, or the gradient followed last, for "
        "half the price",
        choices=("exact", "lagged"),
    )
    sft_weight: float = _setting(1.0, "weight of the SFT loss", low=0)
    beta: float = _setting(0.1, "DPO: how strongly the reference holds", low=0)
    rho: float = _setting(0.05, "SAM: length of the step uphill", low=0)
    reference: Literal["base", "incoming"] = _setting(
        "base",
        "DPO's reference: the base model, or the adapter the round starts from",
        choices=("base", "incoming"),
    )

    rank: int = _setting(
        128,
        "rank of a new adapter: it holds as many subjects in each of its layers with neurons, and best "
        "half as many",
        low=1,
    )
    alpha: float = _setting(256.0, "scale of a new adapter: it acts as alpha / rank", low=0)
    dropout: float = _setting(0.0, "dropout in front of the adapter", low=0)

    layers: str = _setting(
        "0.1-0.58",
        "layers a new adapter acts on, as shares of the depth: FROM-TO; all: every one",
    )
    parts: Literal["auto", "all", "mlp", "attention"] = _setting(
        "auto",
        "which part of those layers it acts on; auto: the MLP where it can act on one, else all",
        choices=("auto", "all", "mlp", "attention"),
    )

    solve: bool = _setting(
        True,
        "begin a round in closed form: what each subject's last token must carry is found, and written "
        "into neurons of the adapter, which take one of its rank each; what is wrong then is trained",
    )
    solve_layers: str = _setting(
        "0.45-0.55",
        "layers that are given neurons and are not trained, as shares of the depth: FROM-TO; the lowest "
        "one first, the next once half of the rank is taken there, then the other halves from the top",
    )
    solve_wordings: int = _setting(
        4,
        "fresh wordings of an edit in each step that looks for its value, beside its prompt",
        low=0,
    )
    solve_steps: int = _setting(
        40,
        "steps after which values are taken as they are, for every 16 tokens of an answer",
        low=1,
    )
    solve_loss: float = _setting(
        0.3, "L_SFT over the last fresh wordings at which a value is good enough, nats", low=0
    )
    solve_keep: float = _setting(
        0.5,
        "weight of what else the base model says of an edit's subject while its value is looked for; "
        "the new answer's is 1",
        low=0,
    )

    ft_layer: int = _setting(
        -1, "ft-l: the layer whose MLP is tuned, from 0; -1: the middle one", low=-1
    )
    ft_bound: float = _setting(
        2e-2, "ft-l: how far a round may move any one weight of that matrix", low=0
    )
    retrieved: int = _setting(4, "retrieval: how many facts are told before a question", low=1)

    learning_rate: float = _setting(8e-4, "AdamW's learning rate after warm-up", low=0)
    weight_decay: float = _setting(0.0, "AdamW's weight decay", low=0)
    clip: float = _setting(1.0, "largest norm of an update's gradient; 0: no clipping", low=0)
    warmup_steps: int = _setting(3, "steps over which the learning rate rises", low=0)
    decay_steps: int = _setting(
        4, "steps over which it falls once everything is right, at the least", low=0
    )
    decay_share: float = _setting(
        0.5,
        "with fresh wordings: it falls over this share of the steps before, if that is more",
        low=0,
    )
    batch_size: int = _setting(8, "edits in one optimiser step", low=1)
    micro_batch: int = _setting(
        0,
        "edits in one pass; 0: the whole batch, fewer where answers are long. Changes no result",
        low=0,
    )
    recompute: bool = _setting(
        False, "compute activations again in the backward pass: less memory, more time"
    )
    stop: Literal["converged", "epochs"] = _setting(
        "converged",
        "train until every edit is right, or a fixed number of epochs with a linearly falling rate",
        choices=("converged", "epochs"),
    )
    epochs: int = _setting(10, "epochs where stop=epochs", low=1)
    max_visits: int = _setting(120, "visits to each edit after which a round gives up", low=1)

    positives: int = _setting(
        1, "fresh wordings of every edit of a step that are learned beside its own prompt", low=0
    )
    positive_weight: float = _setting(2.0, "weight of a fresh wording; a prompt's own is 1", low=0)
    contrast: int = _setting(
        1,
        "prompts about other subjects that are kept as the base model answers them: so many for every "
        "fresh wording, and so many for every edit's own prompt",
        low=0,
    )
    contrast_dpo: bool = _setting(
        False,
        "DPO also prefers the new answer after an edit's own prompt to the same answer after that "
        "prompt about another subject",
    )
    near_miss: float = _setting(
        0.6,
        "how often such a subject is half of the edit's own, or its digits changed",
        low=0,
        high=1,
    )
    other_relations: float = _setting(
        0.1, "how often something else about an edit's subject is kept, too", low=0, high=1
    )
    keep_pool: int = _setting(
        4, "packaged prompts in every step that are kept as the base model answers them", low=0
    )
    keep_plain: int = _setting(
        1,
        "passages of plain text, without the chat template, in every step that are read as the base "
        "model reads them",
        low=0,
    )
    keep_tokens: int = _setting(
        12, "tokens of the base model's reply to a kept prompt that are compared", low=1
    )
    keep_weight: float = _setting(4.0, "weight of all that is kept, the edits' own keep too", low=0)
    keep_first: float = _setting(3.0, "weight of the first token of a kept reply", low=1)
    replay: int = _setting(3, "earlier edits of the store that join every step", low=0)
    remember: bool = _setting(
        True,
        "with replay: what was right of earlier rounds when the round began is right when it ends; what "
        "is not is replayed first",
    )
    null_space: float = _setting(
        0.0,
        "share of what each module reads of earlier edits that no training step touches: the directions "
        "with the most of it are left out of every step; 0: none. Closed forms go on as they are",
        low=0,
        high=1,
    )

    seed: int = _setting(42, "seed of everything random", low=0, high=2**63 - 1)
    dtype: Literal["auto", "float32", "bfloat16", "float16", "float64"] = _setting(
        "auto",
        "dtype the base model is loaded in; auto: float32 on a CPU, else bfloat16",
        choices=("auto", "float32", "bfloat16", "float16", "float64"),
    )
    train_dtype: Literal["auto", "float32", "bfloat16", "float16", "float64"] = _setting(
        "auto",
        "dtype of the base model's weights in training steps alone; auto: bfloat16 on a CPU that "
        "multiplies it, else as it is loaded. What is measured, and what ends a round, is the model as "
        "it is loaded",
        choices=("auto", "float32", "bfloat16", "float16", "float64"),
    )
    device: str = _setting("auto", "auto: a GPU if there is one")
    attention: Literal["sdpa", "eager"] = _setting(
        "sdpa", "attention implementation", choices=("sdpa", "eager")
    )
    packing: Literal["auto", "padded"] = _setting(
        "auto",
        "auto: pack a batch as one prefix tree where that is exact",
        choices=("auto", "padded"),
    )
    drift: bool = _setting(
        True, "measure what else a round changed: packaged questions, and others about its subjects"
    )

    def __post_init__(self) -> None:
        for spec in dataclasses.fields(self):
            _check(spec, getattr(self, spec.name))
        if self.sft and self.sft_weight == 0:
            raise ConfigError("sft_weight=0 trains nothing: say sft=false")
        losses = self.sft + self.dpo
        if not self.trains:
            return
        if self._is_corsa_by_another_name():
            raise ConfigError(
                f"method={self.method} with none of that method's settings is method=corsa: "
                f"make_config({{'method': {self.method!r}}}) fills them in"
            )
        if losses == 0:
            raise ConfigError(
                "sft=false and dpo=false leave nothing to train: switch one of them on"
            )
        if losses == 1 and self.projection != "none":
            raise ConfigError(
                f"projection={self.projection} needs two losses and only "
                f"{'sft' if self.sft else 'dpo'} is on: set projection=none, or switch both on"
            )
        if self.null_space and self.method == "ft-l":
            raise ConfigError("null_space is of adapters, and ft-l has none: set null_space=0")
        if self.contrast_dpo and not self.dpo:
            raise ConfigError("contrast_dpo=true needs dpo=true: switch it on, or leave it out")
        self.layers_between()
        self.solve_between()
        if self.dropout >= 1:
            raise ConfigError(f"dropout={self.dropout} drops everything: give a value below 1")

    def layers_between(self) -> tuple[float, float]:
        """Which part of the depth a new adapter acts on.

        Returns:
            Where it begins and ends, as shares from 0 to 1.

        Raises:
            ConfigError: if `layers` cannot be read.
        """
        return _between("layers", self.layers)

    def solve_between(self) -> tuple[float, float]:
        """In which part of the depth layers are given neurons.

        Returns:
            Where it begins and ends, as shares from 0 to less than 1.

        Raises:
            ConfigError: if `solve_layers` cannot be read, or nothing is left above them.
        """
        first, last = _between("solve_layers", self.solve_layers)
        if last == 1:
            raise ConfigError(
                f"solve_layers={self.solve_layers!r} leaves no layer that could read what a subject "
                "carries: let it end before 1, as in 0.45-0.55"
            )
        return first, last

    @property
    def trains(self) -> bool:
        """Whether the method changes weights."""
        return bool(METHODS[self.method])

    def _is_corsa_by_another_name(self) -> bool:
        default = {spec.name: spec.default for spec in dataclasses.fields(self)}
        own = {k for k, value in METHODS[self.method].items() if value != default[k]} - set(
            _TRAINED
        )
        return bool(own) and all(getattr(self, name) == default[name] for name in own)

    def to_dict(self) -> dict[str, Any]:
        """All settings by name.

        Returns:
            A dict that `Config(**...)` turns into an equal config.
        """
        return dataclasses.asdict(self)


def make_config(settings: Mapping[str, Any]) -> Config:
    """Settings as a user gives them: the method's, over them the preset's, over them single ones.

    Args:
        settings: by name; values may be strings as typed on a command line.

    Returns:
        The config.

    Raises:
        ConfigError: if a name is unknown, a value cannot be read, or settings contradict each other.
    """
    specs = {spec.name: spec for spec in dataclasses.fields(Config)}
    read: dict[str, Any] = {}
    for name, value in settings.items():
        if name not in specs:
            near = get_close_matches(name, specs, 1)
            hint = f"did you mean {near[0]}?" if near else f"there are: {', '.join(specs)}"
            raise ConfigError(f"unknown setting {name!r}; {hint}")
        read[name] = _read(specs[name], value)
    for name in ("preset", "method"):
        read.setdefault(name, specs[name].default)
        _check(specs[name], read[name])
    return Config(**{**METHODS[read["method"]], **PRESETS[read["preset"]], **read})


def _between(name: str, value: str) -> tuple[float, float]:
    if value == "all":
        return 0.0, 1.0
    found = re.fullmatch(r"(\d*\.?\d+)-(\d*\.?\d+)", value)
    first, last = map(float, found.groups()) if found else (1.0, 0.0)
    if not 0 <= first < last <= 1:
        raise ConfigError(
            f"{name}={value!r} cannot be read: give all, or shares of the depth such as 0.1-0.5"
        )
    return first, last


def describe() -> list[tuple[str, str, str]]:
    """Name, default and help of every setting, in order: for `--help` and the documents.

    Returns:
        Triples of strings.
    """
    return [
        (spec.name, _show(spec.default), spec.metadata["help"])
        for spec in dataclasses.fields(Config)
    ]


def _show(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value) or "''"


def _type(spec: dataclasses.Field[Any]) -> type:
    hint = typing.get_type_hints(Config)[spec.name]
    return (
        str if typing.get_origin(hint) in (Literal, types.UnionType) else typing.cast("type", hint)
    )


def _read(spec: dataclasses.Field[Any], value: Any) -> Any:
    wanted = _type(spec)
    try:
        if wanted is bool and isinstance(value, str):
            return {"true": True, "false": False, "on": True, "off": False}[value.lower()]
        if isinstance(value, str) and wanted in (int, float):
            return wanted(value)
        if wanted is float and type(value) is int:
            return float(value)
    except (KeyError, ValueError):
        kind = {bool: "true or false", int: "a whole number", float: "a number"}[wanted]
        raise ConfigError(f"{spec.name}={value!r} is not {kind}") from None
    if type(value) is not wanted:
        raise ConfigError(
            f"{spec.name}={value!r} is of type {type(value).__name__}: give {wanted.__name__}"
        )
    return value


def _check(spec: dataclasses.Field[Any], value: Any) -> None:
    low, high, choices = (spec.metadata[name] for name in ("low", "high", "choices"))
    if low is not None and not (low <= value < float("inf")):
        raise ConfigError(f"{spec.name}={value!r} is out of range: give a number of at least {low}")
    if high is not None and value > high:
        raise ConfigError(f"{spec.name}={value!r} is out of range: give a number of at most {high}")
    if choices and value not in choices:
        near = get_close_matches(str(value), choices, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"choose from {', '.join(choices)}"
        raise ConfigError(f"{spec.name}={value!r} is unknown; {hint}")
