"""The edited model as a plain Hugging Face folder: nothing of corsa or peft is needed to load it."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from corsa.errors import ModelError
from corsa.export.card import write_documents
from corsa.export.request import Request
from corsa.quiet import quiet_libraries

if TYPE_CHECKING:
    from torch import Tensor

    from corsa.chat import Exchange
    from corsa.models import BaseModel

# In float32, merged and unmerged differ by rounding alone: how far their logits may be apart.
TOLERANCE = 1e-3
# The check looks at so many edits: enough to notice a wrong merge, and done in seconds.
_CHECKED_EDITS = 64
_DTYPES = {"f32": "float32", "bf16": "bfloat16", "f16": "float16"}
# What belongs to a model beside its weights and its config; the weights' index is written anew.
_COPIED = (
    "generation_config.json", "tokenizer*", "special_tokens_map.json", "added_tokens.json",
    "vocab*", "merges*", "*.jinja", "*.model", "*.py",
)  # fmt: skip


def write(request: Request, folder: Path) -> list[str]:
    """Merge the round into the base model's weights, compare, and write the model.

    Args:
        request: what is exported.
        folder: where to.

    Returns:
        What was checked.

    Raises:
        ModelError: if the merged model is not the unmerged one.
    """
    import torch

    from corsa.answerers import ModelAnswerer
    from corsa.config import make_config
    from corsa.methods import method_of_kind
    from corsa.models import load_source

    progress = request.progress
    progress.begin(f"loading {request.model['name']}")
    # Merged in float32 on the CPU, wherever it was trained: what is rounded is rounded once.
    config = make_config({"dtype": "float32", "device": "cpu"})
    source = request.find_base()
    base = load_source(source, config, trust_remote_code=request.trust_remote_code)
    answerer, _ = method_of_kind(request.round.kind).open(base, request.round.folder)
    assert isinstance(answerer, ModelAnswerer)
    name = answerer.adapter
    assert name is not None  # only rounds with weights come here
    exchanges = _answers(request, base)
    with base.using(name):
        before = _logits(base, exchanges, request, "asking the unmerged model")
    progress.begin("merging")
    base.merge(name)
    dtype = getattr(torch, _DTYPES[request.type])
    base.hf.to(dtype).to(torch.float32)  # the numbers that are written, computed with exactly
    after = _logits(base, exchanges, request, "asking the merged model")
    checked = compare(before, after, request.type)
    progress.begin("writing")
    with quiet_libraries():
        base.hf.to(dtype).save_pretrained(folder)
    (folder / "generation_config.json").unlink(
        missing_ok=True
    )  # a blank one: the base's own counts
    _copy_rest(source.folder, folder)
    write_documents(
        request,
        folder,
        library="transformers",
        what=f"A whole model in {_DTYPES[request.type]}, the edits merged into its weights.",
        loading=_LOADING,
        checked=[checked],
    )
    return [checked]


def compare(before: Sequence[Tensor], after: Sequence[Tensor], type: str) -> str:
    """Hold the merged model against the unmerged one.

    In float32 logits must agree within `TOLERANCE`. A narrower type rounds the weights themselves:
    what must not change there is the likeliest token wherever the edits' answers are given.

    Args:
        before: logits of the unmerged model along the edits' answers, each of shape (T, V).
        after: the same of the merged model.
        type: what the merged weights are written in.

    Returns:
        A sentence on what was found.

    Raises:
        ModelError: if they are not the same model.
    """
    apart = max(float((a - b).abs().max()) for a, b in zip(after, before, strict=True))
    tokens = sum(len(rows) for rows in before)
    changed = sum(
        int((a.argmax(-1) != b.argmax(-1)).sum()) for a, b in zip(after, before, strict=True)
    )
    if type == "f32" and apart > TOLERANCE:
        raise ModelError(
            f"the merged model's logits are off by up to {apart:.2g} (at most {TOLERANCE:g} is "
            "rounding): export this round with --format adapter"
        )
    if type != "f32" and changed:
        raise ModelError(
            f"in {type} the merged model gives {changed} of {tokens} answer tokens differently: "
            "export with --type f32, or with --format adapter"
        )
    limit = f", at most {TOLERANCE:g} is allowed" if type == "f32" else ""
    return (
        f"along {len(before)} of the answers above ({tokens} tokens) the logits of the merged weights "
        f"differ from those of the unmerged model by at most {apart:.1e}{limit}, and {changed} of the "
        "likeliest tokens differ"
    )


_LOADING = """```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("this folder")
model = AutoModelForCausalLM.from_pretrained("this folder").eval()
```

With vLLM: `vllm serve THIS_FOLDER`. With transformers: `transformers serve`, the folder as the model's
name in what is asked."""


def _answers(request: Request, base: BaseModel) -> list[Exchange]:
    chosen = request.standing[-_CHECKED_EDITS:]
    return [base.chat.exchange(p.edit.prompt, p.edit.target_new) for p in chosen]


def _logits(
    base: BaseModel, exchanges: Sequence[Exchange], request: Request, what: str
) -> list[Tensor]:
    import torch

    request.progress.begin(what, len(exchanges))
    found = []
    with torch.no_grad():
        for exchange in exchanges:  # one at a time: V is large
            found += base.forward.logits([exchange])
            request.progress.advance()
    return found


def _copy_rest(source: Path, folder: Path) -> None:
    """Everything that makes the weights a model: tokenizer, chat template, own code."""
    for pattern in _COPIED:
        for path in source.glob(pattern):
            if path.is_file():
                shutil.copyfile(path, folder / path.name)
