"""The edited model as one GGUF file: the base model's own, with other numbers where it was edited."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from corsa.export.card import write_documents
from corsa.export.gguf_base import base_file
from corsa.export.gguf_layout import GgufFile, Matrix, Weights, dequantised
from corsa.export.lora_files import LoraFiles
from corsa.export.modelfile import modelfile
from corsa.export.request import Request

if TYPE_CHECKING:
    from corsa.progress import Progress

FILE = "model.gguf"

# Of a change, by squared length: training beside neurons leaves more.
_NEARLY = 0.99


class Change(NamedTuple):
    """What becomes of a tensor.

    Attributes:
        to: from its numbers to others.
        alone: whether a few rows of it carry edits, each alone (neurons: `corsa.solving`). Half of eight
            bits' last step is nothing where all rows say a little of an edit; where one says it all, at
            a threshold, the edit can be lost by it.
    """

    to: Callable[[Matrix], Matrix]
    alone: bool = False


# By the name of a tensor.
Changes = Mapping[str, Change]


def write(request: Request, folder: Path) -> list[str]:
    """Write the model, a Modelfile and a card.

    Args:
        request: what is exported.
        folder: where to.

    Returns:
        What was checked.
    """
    path, source = base_file(request)
    base = GgufFile(path, source)
    changes = _changes(request, base)
    write_model(base, changes, request.type, folder / FILE, request.progress)
    (folder / "Modelfile").write_text(modelfile(base, FILE), "utf-8")
    checked = (
        f"the {len(changes)} changed matrices of {path.name} were the base model's, bit for bit"
    )
    alone = sum(change.alone for change in changes.values())
    kept = f" ({alone} matrices, of which few rows carry the edits, in F16)"
    write_documents(
        request,
        folder,
        library="gguf",
        what=f"A whole model for llama.cpp in {request.type.upper()}"
        f"{kept if alone and request.type == 'q8_0' else ''}, the edits merged into its weights.",
        loading="```\nllama-server -m model.gguf\n```\n\n"
        "With Ollama: `ollama create NAME -f Modelfile`.",
        checked=[checked],
    )
    return [checked]


def write_model(
    base: GgufFile, changes: Changes, type: str, path: Path, progress: Progress
) -> None:
    """Write a GGUF file with the metadata of another, some tensors changed.

    Matrices are written in one type, those whose rows carry edits alone in no less than f16; what is
    kept in float32 (norms, biases) stays in it.

    Args:
        base: the file that is taken over.
        changes: what becomes of which tensor.
        type: "f32", "f16" or "q8_0".
        path: the file to write.
        progress: told what goes on.
    """
    import gguf

    writer = gguf.GGUFWriter(path, base.architecture)
    _copy_metadata(base, writer, type)
    tensors = base.reader.tensors
    kinds = [_kind(tensor, type, changes.get(tensor.name)) for tensor in tensors]
    for tensor, kind in zip(tensors, kinds, strict=True):
        shape = tuple(int(size) for size in reversed(tensor.shape))
        dtype, size = _storage(shape, kind)
        if dtype == np.uint8:
            shape = gguf.quant_shape_to_byte_shape(shape, kind)
        writer.add_tensor_info(tensor.name, shape, dtype, size, kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    progress.begin("writing", len(tensors))
    for tensor, kind in zip(tensors, kinds, strict=True):
        numbers = dequantised(tensor)
        if tensor.name in changes:
            numbers = changes[tensor.name].to(numbers)
        writer.write_tensor_data(gguf.quantize(np.ascontiguousarray(numbers), kind))
        progress.advance()
    writer.close()


def _changes(request: Request, base: GgufFile) -> Changes:
    if request.round.kind == "matrix":
        return _other_weight(request, base)
    lora = LoraFiles(request.round.folder)
    changes: dict[str, Change] = {}
    request.progress.begin("placing the adapter's matrices", len(lora))
    for pair in lora.pairs():
        place = base.place(pair.module)

        def add(weight: Matrix, a: Matrix = pair.a, b: Matrix = pair.b[place.rows]) -> Matrix:
            return weight + np.float32(lora.scale) * (b @ a)

        changes[place.tensor] = Change(add, alone=_alone(pair.b @ pair.a, lora.rank))
        request.progress.advance()
    return changes


def _alone(delta: Matrix, rank: int) -> bool:
    """Whether as few rows as can be neurons are nearly all of a change."""
    squares = np.sort(np.square(delta).sum(axis=1))
    return rank < len(squares) and float(squares[-rank:].sum()) > _NEARLY * float(squares.sum())


def _other_weight(request: Request, base: GgufFile) -> Changes:
    changes: dict[str, Change] = {}
    for key, weight in Weights(request.round.folder).items():
        place = base.place(key.removesuffix(".weight"))
        rows = (weight.T if place.transposed else weight)[place.rows]
        changes[place.tensor] = Change(lambda _, rows=rows: rows)  # type: ignore[misc]
    return changes


def _copy_metadata(base: GgufFile, writer: Any, type: str) -> None:
    import gguf

    file_types = {
        "f32": gguf.LlamaFileType.ALL_F32,
        "f16": gguf.LlamaFileType.MOSTLY_F16,
        "q8_0": gguf.LlamaFileType.MOSTLY_Q8_0,
    }
    writer.add_file_type(file_types[type])
    if (alignment := base.value(gguf.Keys.General.ALIGNMENT)) is not None:
        writer.data_alignment = alignment
    own = (gguf.Keys.General.ARCHITECTURE, gguf.Keys.General.FILE_TYPE)
    for field in base.reader.fields.values():
        if field.name in own or field.name.startswith("GGUF."):
            continue
        kind = field.types[0]
        of = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(field.name, field.contents(), kind, sub_type=of)


def _kind(tensor: Any, type: str, change: Change | None) -> Any:
    """What a tensor is written in."""
    import gguf

    kinds = gguf.GGMLQuantizationType
    if tensor.tensor_type == kinds.F32 and change is None:
        return kinds.F32
    wanted = {"f32": kinds.F32, "f16": kinds.F16, "q8_0": kinds.Q8_0}[type]
    block = gguf.GGML_QUANT_SIZES[wanted][0]
    narrow = tensor.shape[0] % block or (change is not None and change.alone)
    return kinds.F16 if block > 1 and narrow else wanted


def _storage(shape: tuple[int, ...], kind: Any) -> tuple[Any, int]:
    """The array type of a tensor's bytes, and how many there are."""
    import gguf

    block, size = gguf.GGML_QUANT_SIZES[kind]
    plain: dict[Any, NDArray[Any] | type] = {
        gguf.GGMLQuantizationType.F32: np.float32,
        gguf.GGMLQuantizationType.F16: np.float16,
    }
    return np.dtype(plain.get(kind, np.uint8)), int(np.prod(shape)) // block * size
