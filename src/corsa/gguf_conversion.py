"""A GGUF file as transformers reads it, written in the form everybody loads."""

from __future__ import annotations

import copy
from pathlib import Path

from corsa.errors import ModelError
from corsa.quiet import quiet_libraries


def write_safetensors(gguf: Path, folder: Path) -> None:
    """De-quantise a GGUF file to float32 and save model, tokenizer and generation config.

    Args:
        gguf: the file.
        folder: an empty folder to write to.

    Raises:
        ModelError: if transformers cannot read the file.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    where = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    with quiet_libraries():
        try:
            read = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32)
            tokenizer = AutoTokenizer.from_pretrained(**where)
        except (ValueError, OSError, RuntimeError, KeyError, NotImplementedError) as error:
            raise ModelError(
                f"transformers cannot read {gguf} ({error}): give a model in Hugging Face layout"
            ) from error
        # What was read from GGUF still counts as quantised and refuses to be saved: a fresh model of
        # the same config takes its weights.
        config = copy.deepcopy(read.config)
        del config.quantization_config
        clean = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        clean.load_state_dict(read.state_dict())
        clean.generation_config = read.generation_config
        clean.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    for path in folder.iterdir():
        path.chmod(0o644)
