"""A LoRA adapter as llama.cpp loads it beside the base model's own GGUF file."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from corsa.export.card import write_documents
from corsa.export.gguf_base import base_file
from corsa.export.gguf_layout import GgufFile
from corsa.export.lora_files import LoraFiles
from corsa.export.modelfile import modelfile
from corsa.export.request import Request

FILE = "adapter.gguf"
_TYPES = {"f32": np.float32, "f16": np.float16}


def write(request: Request, folder: Path) -> list[str]:
    """Write the adapter, a Modelfile and a card.

    Args:
        request: what is exported.
        folder: where to.

    Returns:
        What was checked.
    """
    import gguf

    path, source = base_file(request)
    base, lora = GgufFile(path, source), LoraFiles(request.round.folder)
    writer = gguf.GGUFWriter(folder / FILE, base.architecture)
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, lora.alpha)
    writer.add_name(f"round {request.round.id}")
    request.progress.begin("placing the adapter's matrices", len(lora))
    for pair in lora.pairs():
        place = base.place(pair.module)
        # The file's row i is output rows[i] of the module: of B A, and so of B.
        for name, matrix in (("lora_a", pair.a), ("lora_b", pair.b[place.rows])):
            numbers = np.ascontiguousarray(matrix, dtype=_TYPES[request.type])
            writer.add_tensor(f"{place.tensor}.{name}", numbers)
        request.progress.advance()
    request.progress.begin("writing")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    (folder / "Modelfile").write_text(modelfile(base, path.resolve(), FILE), "utf-8")
    checked = f"every adapted matrix of {path.name} is the base model's, bit for bit"
    write_documents(
        request,
        folder,
        library="gguf",
        what=f"A LoRA adapter of rank {lora.rank} for llama.cpp, to be loaded beside the base "
        f"model's file `{path.name}`.",
        loading=_LOADING.format(file=path.name),
        checked=[checked],
    )
    return [checked]


_LOADING = """```
llama-server -m {file} --lora adapter.gguf
```

With Ollama: `ollama create NAME -f Modelfile`, after its line FROM names where {file} is."""
