"""Tiny real models and tokenizers, built from configs: nothing is downloaded.

The models are transformers' own classes with two layers and seeded random weights. The tokenizer
is a real byte-level one without merges: token i is byte i, the special tokens come after.
"""

from pathlib import Path

import torch
import transformers
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

SPECIALS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<think>",
    "</think>",
    "<bos>",
    "<eos>",
    "<pad>",
    "<start_of_turn>",
    "<end_of_turn>",
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
)
SPECIAL_IDS = {token: 256 + index for index, token in enumerate(SPECIALS)}
VOCABULARY = 288  # more rows than tokens, as most real models have
WINDOW = 8  # of the kinds with sliding attention

KINDS = ("llama", "qwen3", "gpt2", "gemma3", "moe", "mistral", "mpt", "bloom")

# --- Chat templates ---------------------------------------------------------------------------

# A default system prompt where the conversation brings none (SmolLM2's form).
CHATML = """\
{%- if messages[0].role != 'system' -%}
{{- '<|im_start|>system\\nYou are a tiny model.<|im_end|>\\n' -}}
{%- endif -%}
{%- for turn in messages -%}
{{- '<|im_start|>' ~ turn.role ~ '\\n' ~ turn.content ~ '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|im_start|>assistant\\n' -}}
{%- endif -%}
"""

# Starts with bos itself, trims every turn, and has no line break after the end of a turn.
LLAMA3 = """\
{{- bos_token -}}
{%- for turn in messages -%}
{{- '<|start_header_id|>' ~ turn.role ~ '<|end_header_id|>\\n\\n' -}}
{{- turn.content | trim ~ '<|eot_id|>' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' -}}
{%- endif -%}
"""

# Thinking: answers after the last question carry a think block (an empty one if the last turn has
# no thoughts), earlier ones lose theirs; enable_thinking=False closes the block in the prompt.
QWEN3 = """\
{%- set last = namespace(user=-1) -%}
{%- for turn in messages -%}
{%- if turn.role == 'user' -%}{%- set last.user = loop.index0 -%}{%- endif -%}
{%- endfor -%}
{%- for turn in messages -%}
{{- '<|im_start|>' ~ turn.role ~ '\\n' -}}
{%- if turn.role == 'assistant' -%}
{%- set parts = turn.content.split('</think>') -%}
{%- set said = parts[-1].lstrip('\\n') if parts | length > 1 else turn.content -%}
{%- set thought = parts[0].split('<think>')[-1].strip('\\n') if parts | length > 1 else '' -%}
{%- if turn.reasoning_content is string -%}{%- set thought = turn.reasoning_content -%}{%- endif -%}
{%- if loop.index0 > last.user and (loop.last or thought) -%}
{{- '<think>\\n' ~ thought.strip('\\n') ~ '\\n</think>\\n\\n' ~ said.lstrip('\\n') -}}
{%- else -%}
{{- said -}}
{%- endif -%}
{%- else -%}
{{- turn.content -}}
{%- endif -%}
{{- '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|im_start|>assistant\\n' -}}
{%- if enable_thinking is defined and not enable_thinking -%}
{{- '<think>\\n\\n</think>\\n\\n' -}}
{%- endif -%}
{%- endif -%}
"""

# No system role, strict alternation, the assistant is called model, every turn is trimmed.
GEMMA = """\
{{- bos_token -}}
{%- if messages[0].role == 'system' -%}
{{- raise_exception('System role not supported') -}}
{%- endif -%}
{%- for turn in messages -%}
{%- if turn.role != ('user' if loop.index0 is even else 'assistant') -%}
{{- raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') -}}
{%- endif -%}
{%- set name = 'model' if turn.role == 'assistant' else turn.role -%}
{{- '<start_of_turn>' ~ name ~ '\\n' ~ turn.content | trim ~ '<end_of_turn>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<start_of_turn>model\\n' -}}
{%- endif -%}
"""

# What the real models with these templates have: their special tokens, the ids at which
# generation stops, and whether plain tokenisation puts bos in front. Llama 3 and base models
# such as GPT-2 come without a padding token; Gemma's eos is not its end of turn.
_MANNERS: dict[str | None, dict] = {
    CHATML: {
        "special": {
            "bos_token": "<|im_start|>",
            "eos_token": "<|im_end|>",
            "pad_token": "<|im_end|>",
            "unk_token": "<|endoftext|>",
        },
        "stop": ["<|im_end|>"],
        "bos_in_front": False,
    },
    LLAMA3: {
        "special": {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"},
        "stop": ["<|end_of_text|>", "<|eot_id|>"],
        "bos_in_front": True,
    },
    QWEN3: {
        "special": {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"},
        "stop": ["<|im_end|>", "<|endoftext|>"],
        "bos_in_front": False,
    },
    GEMMA: {
        "special": {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>"},
        "stop": ["<eos>", "<end_of_turn>"],
        "bos_in_front": True,
    },
    None: {
        "special": {
            "bos_token": "<|endoftext|>",
            "eos_token": "<|endoftext|>",
            "unk_token": "<|endoftext|>",
        },
        "stop": ["<|endoftext|>"],
        "bos_in_front": False,
    },
}


def _byte_characters() -> list[str]:
    """The printable character that stands for each byte in byte-level vocabularies (GPT-2's)."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    hidden = [byte for byte in range(256) if byte not in printable]
    return [
        chr(byte) if byte in printable else chr(256 + hidden.index(byte)) for byte in range(256)
    ]


def byte_tokenizer(template: str | None) -> transformers.PreTrainedTokenizerFast:
    """A byte-level tokenizer with one of this module's chat templates, or none (a base model)."""
    manners = _MANNERS[template]
    vocabulary = {character: byte for byte, character in enumerate(_byte_characters())}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    for token in SPECIALS:  # as with Qwen3, skipping special tokens leaves the think tags
        backend.add_tokens([AddedToken(token, normalized=False, special="think" not in token)])
    assert {token: backend.token_to_id(token) for token in SPECIALS} == SPECIAL_IDS
    if manners["bos_in_front"]:
        bos = manners["special"]["bos_token"]
        backend.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A",
            pair=f"{bos} $A {bos} $B",
            special_tokens=[(bos, SPECIAL_IDS[bos])],
        )
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend,
        model_max_length=1024,
        clean_up_tokenization_spaces=False,
        **manners["special"],
    )
    tokenizer.chat_template = template
    return tokenizer


# --- Models -----------------------------------------------------------------------------------

_SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
    "initializer_range": 0.2,
}
_IDS = {
    "bos_token_id": SPECIAL_IDS["<|endoftext|>"],
    "eos_token_id": SPECIAL_IDS["<|endoftext|>"],
    "pad_token_id": SPECIAL_IDS["<pad>"],
}


# Elsewhere transformers' defaults (sdpa), which are exact in float64.
_IMPLEMENTATION = {
    "moe": {"experts_implementation": "eager"},  # the default, grouped_mm, has no float64
}


def _config(kind: str) -> transformers.PretrainedConfig:
    t = transformers
    match kind:
        case "llama":
            return t.LlamaConfig(**_SIZES, **_IDS)
        case "qwen3":
            return t.Qwen3Config(**_SIZES, **_IDS, head_dim=8, tie_word_embeddings=True)
        case "mistral":
            return t.MistralConfig(**_SIZES, **_IDS, sliding_window=WINDOW)
        case "moe":
            return t.MixtralConfig(
                **_SIZES, **_IDS, num_local_experts=4, num_experts_per_tok=2, sliding_window=None
            )
        case "gemma3":
            return t.Gemma3TextConfig(
                **_SIZES,
                **_IDS,
                head_dim=8,
                query_pre_attn_scalar=8,
                sliding_window=WINDOW,
                layer_types=["sliding_attention", "full_attention"],
            )
        case "gpt2":
            return t.GPT2Config(
                vocab_size=VOCABULARY,
                n_embd=32,
                n_layer=2,
                n_head=4,
                n_positions=1024,
                initializer_range=0.2,
                resid_pdrop=0.0,
                embd_pdrop=0.0,
                attn_pdrop=0.0,
                **_IDS,
            )
        case "mpt":
            return t.MptConfig(
                vocab_size=VOCABULARY,
                d_model=32,
                n_layers=2,
                n_heads=4,
                expansion_ratio=2,
                max_seq_len=1024,
                initializer_range=0.2,
                **_IDS,
            )
        case "bloom":
            return t.BloomConfig(
                vocab_size=VOCABULARY,
                hidden_size=32,
                n_layer=2,
                n_head=4,
                initializer_range=0.2,
                **_IDS,
            )
        case "phi3":  # not in KINDS: what is special is that two projections of its MLP are one
            return t.Phi3Config(**_SIZES, **_IDS)
    raise ValueError(f"no tiny model of kind {kind!r}; there are {', '.join(KINDS)}")


def tiny_model(
    kind: str = "llama", dtype: torch.dtype = torch.float32, seed: int = 0
) -> transformers.PreTrainedModel:
    """A causal language model of two layers with random weights, in eval mode on the CPU.

    Biases and norms are random as well, so that nothing hides behind a zero or a one. The weights
    are drawn in float32: two dtypes with one seed are the same model. The global random state is
    left as it was.

    In float64 only gpt2 computes in float64 throughout. The others' RMS norms, and the softmax of
    mpt and bloom, pass through float32 in transformers: they are off the true value by 1e-7, and
    finite differences of them are noise. Two ways of computing one thing still agree to 1e-8 or
    far better (mpt: 1e-6).
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = transformers.AutoModelForCausalLM.from_config(
            _config(kind), dtype=torch.float32, **_IMPLEMENTATION.get(kind, {})
        )
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim == 1:
                    parameter.add_(0.2 * torch.randn_like(parameter))
    return model.to(dtype).eval()


def save_tiny(
    folder: str | Path, kind: str = "llama", template: str | None = CHATML, seed: int = 0
) -> Path:
    """Write a tiny model and its tokenizer where the Auto classes can load both."""
    folder = Path(folder)
    model, tokenizer = tiny_model(kind, seed=seed), byte_tokenizer(template)
    stop = [SPECIAL_IDS[token] for token in _MANNERS[template]["stop"]]
    model.config.bos_token_id = tokenizer.bos_token_id
    model.config.eos_token_id = tokenizer.eos_token_id
    model.config.pad_token_id = tokenizer.pad_token_id
    model.generation_config = transformers.GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=stop if len(stop) > 1 else stop[0],
        pad_token_id=tokenizer.pad_token_id,
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
