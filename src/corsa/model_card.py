"""The README.md of an adapter: what it is, and how to load it without corsa."""

from __future__ import annotations

from collections.abc import Mapping


def model_card(base: str, modules: Mapping[str, int], rank: int) -> str:
    """A model card; equal adapters get equal cards.

    Args:
        base: the base model's name, as the user gave it.
        modules: how many modules of each kind are adapted.
        rank: the adapter's rank.

    Returns:
        Markdown with the Hub's metadata block.
    """
    adapted = ", ".join(f"{count} {kind}" for kind, count in modules.items())
    return f"""---
base_model: {base}
library_name: peft
tags:
- lora
- knowledge-editing
- corsa
---

# Knowledge update for {base}

A LoRA adapter of rank {rank} on {adapted}. `edits.jsonl` beside it lists what it was taught,
`metrics.json` what was measured, with the protocol, `round.json` how it was made.

```python
from peft import PeftModel
from transformers import AutoModelForCausalLM

model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("{base}"), "this folder")
```
"""
