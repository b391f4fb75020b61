"""Ollama's Modelfile for an exported GGUF file.

Ollama writes its templates in another language than the chat template in the file, and finds the one it
thinks the nearest by itself. Where the file's template is plain ChatML, which is found by rendering it,
it is written down; elsewhere the choice is left to Ollama, and the Modelfile says so.
"""

from __future__ import annotations

from pathlib import Path

from corsa.export.gguf_layout import GgufFile

_CHATML = """{{ range .Messages }}<|im_start|>{{ .Role }}
{{ .Content }}<|im_end|>
{{ end }}<|im_start|>assistant
"""
_QUESTION = "¿?"


def modelfile(base: GgufFile, model: str | Path, adapter: str | None = None) -> str:
    """The Modelfile.

    Args:
        base: the base model's file, for its chat template.
        model: what FROM names.
        adapter: what ADAPTER names.

    Returns:
        Its text.
    """
    here = "./" if isinstance(model, str) else ""
    lines = [f"FROM {here}{model}"]
    if adapter:
        lines.insert(0, f"# The file this adapter was made for: {base.path.name}")
        lines.append(f"ADAPTER ./{adapter}")
    lines += ["# As it was measured: the likeliest token, nothing else.", "PARAMETER temperature 0"]
    lines.append("PARAMETER repeat_penalty 1")
    system = chatml_system(base.value("tokenizer.chat_template"))
    if system is None:
        lines.append("# No TEMPLATE: the file's own chat template is left to Ollama to recognise.")
    else:
        lines += ['PARAMETER stop "<|im_end|>"', f'TEMPLATE """{_CHATML}"""']
        lines += [f'SYSTEM """{system}"""'] if system else []
    return "\n".join(lines) + "\n"


def chatml_system(template: str | None) -> str | None:
    """The default system prompt of a chat template that is ChatML.

    Args:
        template: a Jinja template.

    Returns:
        The system prompt, "" if there is none; `None` if the template is not ChatML.
    """
    if not isinstance(template, str):
        return None
    from jinja2 import TemplateError
    from transformers.utils.chat_template_utils import render_jinja_template

    def render(*turns: tuple[str, str]) -> str:
        messages = [{"role": role, "content": content} for role, content in turns]
        texts, _ = render_jinja_template(
            # As edits are trained and asked: a template that can think is told not to.
            [messages],
            chat_template=template,
            add_generation_prompt=True,
            enable_thinking=False,
        )
        return str(texts[0])

    def chatml(*turns: tuple[str, str]) -> str:
        said = "".join(f"<|im_start|>{role}\n{content}<|im_end|>\n" for role, content in turns)
        return f"{said}<|im_start|>assistant\n"

    talk = (("user", _QUESTION), ("assistant", "yes"), ("user", _QUESTION))
    own = (("system", "be brief"), *talk)
    try:
        before = render(*talk).removesuffix(chatml(*talk))
        system = before.removeprefix("<|im_start|>system\n").removesuffix("<|im_end|>\n")
        default = [("system", system)] if before else []
        same = render(*talk) == chatml(*default, *talk) and render(*own) == chatml(*own)
    except TemplateError:
        return None
    return system if same and '"""' not in system else None
