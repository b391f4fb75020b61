"""A PEFT adapter: the round's own weights, byte for byte, with a card."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from corsa.export.card import base_argument, base_hint, base_name, write_documents
from corsa.export.request import Request
from corsa.files import canonical_json

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"

# vLLM takes these for --max-lora-rank, and no others.
_VLLM_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)


def write(request: Request, folder: Path) -> list[str]:
    """Write the adapter and its card.

    Args:
        request: what is exported.
        folder: where to.

    Returns:
        What was checked: nothing, the weights are those of the round.
    """
    shutil.copyfile(request.round.folder / WEIGHTS, folder / WEIGHTS)
    config = json.loads((request.round.folder / CONFIG).read_text("utf-8"))
    config["base_model_name_or_path"] = base_name(request)  # no path of this machine
    (folder / CONFIG).write_text(canonical_json(config), "utf-8")
    write_documents(
        request,
        folder,
        library="peft",
        what=f"A LoRA adapter of rank {config['r']}: the base model with it gives the answers below.",
        loading=_loading(request, config["r"]),
        checked=(),
    )
    return []


def vllm_rank(rank: int) -> int:
    """What to give vLLM as --max-lora-rank.

    Args:
        rank: the adapter's.

    Returns:
        The smallest value vLLM takes that is enough; the rank itself where there is none.
    """
    return next((allowed for allowed in _VLLM_RANKS if allowed >= rank), rank)


def _loading(request: Request, rank: int) -> str:
    base = base_argument(request)
    revision = request.model["revision"]
    pinned = f', revision="{revision}"' if revision else ""
    return f"""{base_hint(request)}```python
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{base}"{pinned})
base = AutoModelForCausalLM.from_pretrained("{base}"{pinned})
model = PeftModel.from_pretrained(base, "this folder").eval()
```

With vLLM, the edited model under the name `round-{request.round.id}`, the base model beside it:

```
vllm serve {base} --enable-lora --max-lora-rank {vllm_rank(rank)} \\
    --lora-modules round-{request.round.id}=THIS_FOLDER
```"""
