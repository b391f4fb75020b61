"""Where a GGUF file keeps the matrices of a model, found by numbers.

GGUF files are llama.cpp's: tensors have other names there, and of some architectures another order of
rows (q and k of the llama architecture, for the sake of its rotary embedding). Names come from the gguf
library. The order is not looked up by architecture but tried: the file's own numbers, de-quantised, must
be the base model's in that order, bit for bit. What fits no known order is refused, not guessed.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from corsa.errors import ModelError
from corsa.sources import ModelSource

if TYPE_CHECKING:
    from torch import Tensor

Matrix = NDArray[np.float32]


class Place(NamedTuple):
    """Where a module's weight is in a GGUF file.

    Attributes:
        tensor: its name there.
        rows: for each of the file's rows, which output of the module it is; shape (out,).
        transposed: whether the module keeps its weight as (in, out).
    """

    tensor: str
    rows: NDArray[np.intp]
    transposed: bool


class GgufFile:
    """A base model's GGUF file, beside the same weights as transformers reads them.

    Args:
        path: the file.
        source: the model converted from it.

    Raises:
        ModelError: if the gguf library does not know its architecture.
    """

    def __init__(self, path: Path, source: ModelSource) -> None:
        import gguf

        self.path = path
        self.reader = gguf.GGUFReader(path)
        self.architecture = str(self.value("general.architecture"))
        known = {name: arch for arch, name in gguf.MODEL_ARCH_NAMES.items()}
        if self.architecture not in known:
            raise ModelError(self._unknown(f"its architecture {self.architecture!r} is unknown"))
        blocks = int(self.value(f"{self.architecture}.block_count"))
        self._names = gguf.get_tensor_name_map(known[self.architecture], blocks)
        self._tensors = {tensor.name: tensor for tensor in self.reader.tensors}
        self._weights = Weights(source.folder)

    def value(self, key: str) -> Any:
        """A value of the file's metadata.

        Args:
            key: its full name.

        Returns:
            The value; `None` if there is none.
        """
        field = self.reader.get_field(key)
        return None if field is None else field.contents()

    def place(self, module: str) -> Place:
        """Find a module's weight.

        Args:
            module: its full name in the transformers model.

        Returns:
            Where it is.

        Raises:
            ModelError: if it is not there, or in no order that is known.
        """
        name = self._names.get_name(module)
        tensor = None if name is None else self._tensors.get(f"{name}.weight")
        if tensor is None:
            raise ModelError(self._unknown(f"it has no tensor for {module}"))
        there, own = dequantised(tensor), self._weights[f"{module}.weight"]
        for transposed in (False, True):
            outputs = own.T if transposed else own
            if outputs.shape != there.shape:
                continue
            for rows in self._orders(len(outputs), module):
                if np.array_equal(outputs[rows], there):
                    return Place(tensor.name, rows, transposed)
        raise ModelError(self._unknown(f"{tensor.name} is in no order known for {module}"))

    def _orders(self, outputs: int, module: str) -> list[NDArray[np.intp]]:
        """As they are, or the halves of each head interleaved, as rotary embeddings of llama want it."""
        found = [np.arange(outputs)]
        for key in ("head_count", "head_count_kv"):
            heads = self.value(f"{self.architecture}.attention.{key}")
            if isinstance(heads, list):  # a number for each block
                block = next((int(part) for part in module.split(".") if part.isdecimal()), 0)
                heads = heads[block]
            if heads and outputs % (2 * heads) == 0:
                found.append(np.arange(outputs).reshape(heads, 2, -1).swapaxes(1, 2).ravel())
        return found

    def _unknown(self, reason: str) -> str:
        return (
            f"{self.path.name} is laid out in a way corsa does not know ({reason}): {converters()}"
        )


class Weights(Mapping[str, Matrix]):
    """The tensors of a folder's safetensors files, read one at a time.

    Args:
        folder: where they are.
    """

    def __init__(self, folder: Path) -> None:
        from safetensors import safe_open

        self._files: dict[str, Path] = {}
        for path in sorted(folder.glob("*.safetensors")):
            with safe_open(path, "pt") as file:
                self._files |= dict.fromkeys(file.keys(), path)

    def tensor(self, name: str) -> Tensor:
        """One tensor, in float32.

        Args:
            name: its name.

        Returns:
            The tensor.
        """
        from safetensors import safe_open

        with safe_open(self._files[name], "pt") as file:
            tensor: Tensor = file.get_tensor(name)
        return tensor.float()

    def __getitem__(self, name: str) -> Matrix:
        return np.asarray(self.tensor(name).numpy())

    def __iter__(self) -> Any:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)


def dequantised(tensor: Any) -> Matrix:
    """A tensor's numbers.

    Args:
        tensor: as a `GGUFReader` gives it.

    Returns:
        In float32, rows first.
    """
    import gguf

    found: Matrix = gguf.dequantize(tensor.data, tensor.tensor_type)
    return found


def converters() -> str:
    """Who converts what corsa does not.

    Returns:
        What to do, for the end of an error's text.
    """
    return (
        "export --format merged and run llama.cpp's convert_hf_to_gguf.py on that folder, or export "
        "--format adapter and run llama.cpp's convert_lora_to_gguf.py --base BASE_FOLDER on that one"
    )
