"""Ollama's Modelfile: a template is written down only where it is the file's own."""

import pytest

from corsa.export.modelfile import chatml_system, modelfile
from fakes import CHATML, GEMMA, LLAMA3, QWEN3


class File:
    def __init__(self, template):
        self.template = template
        self.path = type("P", (), {"name": "base.gguf"})

    def value(self, key):
        assert key == "tokenizer.chat_template"
        return self.template


PLAIN = CHATML[CHATML.index("{%- for") :]


@pytest.mark.parametrize(
    ("template", "system"),
    [
        (CHATML, "You are a tiny model."),
        (PLAIN, ""),
        (PLAIN.replace("turn.content", "turn.content | trim ~ ' '"), None),
        (CHATML.replace("tiny", 'ti"""ny'), None),
        (CHATML.replace("system' -%}", "syst' -%}"), None),
        (LLAMA3.replace("bos_token", "'<s>'"), None),
        (GEMMA.replace("bos_token", "'<s>'"), None),
        (QWEN3, None),
        (None, None),
        ("{{ nonsense", None),
    ],
)
def test_chatml_is_recognised_by_what_it_renders(template, system):
    assert chatml_system(template) == system


def test_a_chatml_file_gets_template_stop_and_system_prompt():
    text = modelfile(File(CHATML), "model.gguf")
    assert text.startswith("FROM ./model.gguf\n")
    assert "<|im_start|>{{ .Role }}\n{{ .Content }}<|im_end|>\n" in text
    assert 'PARAMETER stop "<|im_end|>"' in text
    assert 'SYSTEM """You are a tiny model."""' in text


def test_another_template_is_left_to_ollama(tmp_path):
    text = modelfile(File(QWEN3), tmp_path / "base.gguf", "adapter.gguf")
    assert f"FROM {tmp_path / 'base.gguf'}\nADAPTER ./adapter.gguf\n" in text
    assert "TEMPLATE " not in text
    assert "# No TEMPLATE" in text
