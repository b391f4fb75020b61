"""Constrained fine-tuning of one matrix (FT-L): the baseline of ROME and MEMIT.

Full fine-tuning of one layer's MLP down projection, no weight of which may leave a box around where the
round found it (Zhu et al. 2020, arXiv 2012.00363; Meng et al. 2022, `baselines/ft`). The loss is that of
every method here: all tokens of the bare answer in the chat template, where ROME writes running text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from corsa.answerers import Answerer, ModelAnswerer
from corsa.errors import ModelError
from corsa.methods import Outcome, Task
from corsa.methods.lora import train
from corsa.models import Adapter, BaseModel, adaptable_modules
from corsa.training import StepEvent

_FILE = "matrix.safetensors"
_TRAINED = "round"
_READ = "read"


class FtL:
    """Trains one matrix of the model; the matrix of the parent round is continued."""

    kind = "matrix"

    def edit(self, task: Task) -> Outcome:
        """Train until every edit is right, or the cap.

        Args:
            task: the round; the round it continues holds a matrix, too.

        Returns:
            The matrix, the model with it, and how training went.
        """
        base, config = task.base, task.config
        if task.incoming is None:
            module = down_projection(base, config.ft_layer)
            matrix = Matrix(base, _TRAINED, module)
        else:
            matrix = _load(base, _TRAINED, task.incoming.folder)
        start = matrix.state()

        def on_step(event: StepEvent) -> None:
            matrix.clamp(start, config.ft_bound)
            task.on_step(event)

        try:
            # The matrix is of the model's own dtype, and trained in it.
            config = replace(config, train_dtype=cast("Any", base.dtype))
            training = train(matrix, replace(task, on_step=on_step, config=config))
        except BaseException:
            matrix.drop()
            raise
        answerer = ModelAnswerer(base, matrix.name)
        return Outcome(self.kind, answerer, matrix.save, matrix.drop, training)

    def open(self, base: BaseModel, folder: Path) -> tuple[Answerer, Callable[[], None]]:
        """Read a saved matrix.

        Args:
            base: the model.
            folder: where it is.

        Returns:
            The model with it, and what forgets it.
        """
        matrix = _load(base, f"{_READ}-{folder.name}", folder)  # two rounds may be open
        return ModelAnswerer(base, matrix.name), matrix.drop


class Matrix(Adapter):
    """Another weight for one module of a `BaseModel`, trained and kept like an adapter.

    Args:
        base: the model.
        name: its name there.
        module: full name of the module.
        weight: its weight; `None`: a copy of the model's own.
    """

    def __init__(
        self, base: BaseModel, name: str, module: str, weight: Tensor | None = None
    ) -> None:
        super().__init__(base, name)
        self.module = module
        self.weight = base.attach_weight(name, module, weight)

    @property
    def params(self) -> dict[str, nn.Parameter]:
        """The weight, by its name in the model."""
        return {f"{self.module}.weight": self.weight}

    def modules(self) -> dict[str, int]:
        """What is adapted, as of an adapter.

        Returns:
            One, by the module's last name.
        """
        return {self.module.rpartition(".")[2]: 1}

    @torch.no_grad()
    def clamp(self, start: Mapping[str, Tensor], bound: float) -> None:
        """Move every entry back into a box: the constraint ‖W − W₀‖_∞ ≤ bound.

        Args:
            start: W₀, as `state` gave it.
            bound: half the width of the box.
        """
        for name, param in self.params.items():
            centre = start[name].to(param.device)
            param.clamp_(centre - bound, centre + bound)

    def save(self, folder: Path) -> None:
        """Write the weight under its name in the model, for anybody's `load_state_dict`.

        Args:
            folder: where to; it must exist.
        """
        from safetensors.torch import save_file

        weights = {name: value.contiguous() for name, value in self.state().items()}
        save_file(weights, folder / _FILE, metadata={"format": "pt"})


def down_projection(base: BaseModel, layer: int) -> str:
    """The matrix with which a layer's MLP writes into the residual stream.

    Args:
        base: the model.
        layer: counted from 0; -1: the middle one.

    Returns:
        Full name of the module.

    Raises:
        ModelError: if the model has no such matrix, or not so many layers.
    """
    # In every family the last projection of a layer, unless its experts are fused and only attention
    # has projections.
    last = {
        int(place[1]): name
        for name in adaptable_modules(base.hf)
        if (place := re.search(r"\.(\d+)\.", name))
    }
    number = len(last) // 2 if layer < 0 else layer
    if number not in last:
        raise ModelError(
            f"{base.source.name} has {len(last)} layers: give an ft_layer below, not {layer}"
        )
    if "att" in last[number].rpartition(".")[0].rpartition(".")[2]:
        raise ModelError(
            f"layer {number} of {base.source.name} has no MLP with a down projection that ft-l could "
            "tune: use another method"
        )
    return last[number]


def _load(base: BaseModel, name: str, folder: Path) -> Matrix:
    from safetensors.torch import load_file

    ((key, weight),) = load_file(folder / _FILE).items()
    return Matrix(base, name, key.removesuffix(".weight"), weight)
