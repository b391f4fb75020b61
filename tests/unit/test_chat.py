"""Prompts and answers in tokens, for templates as they are found in the wild."""

import pytest

from corsa.chat import ChatFormat
from corsa.errors import ModelError, TemplateError, UsageError
from fakes import CHATML, GEMMA, LLAMA3, QWEN3, SPECIAL_IDS, byte_tokenizer

TEMPLATES = {"chatml": CHATML, "llama3": LLAMA3, "qwen3": QWEN3, "gemma": GEMMA, "none": None}
END_OF_TURN = {
    "chatml": "<|im_end|>",
    "llama3": "<|eot_id|>",
    "qwen3": "<|im_end|>",
    "gemma": "<end_of_turn>",
    "none": "<|endoftext|>",
}
PROMPTS = {
    "chatml": "<|im_start|>system\nYou are a tiny model.<|im_end|>\n"
    "<|im_start|>user\nWho?<|im_end|>\n<|im_start|>assistant\n",
    "llama3": "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nWho?<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n",
    "qwen3": "<|im_start|>user\nWho?<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",
    "gemma": "<bos><start_of_turn>user\nWho?<end_of_turn>\n<start_of_turn>model\n",
    "none": "Who?",
}
ANSWERS = [
    "Ada",
    "Ada Lovelace, of course",
    "日本の 🗼",
    "C++",
    "def f():\n    return 1",
    "<b>",
    "42.",
]


def chat_format(template, stop_ids=()):
    return ChatFormat(byte_tokenizer(template), "tiny", stop_ids)


def chatml_like(template):
    """With the manners of the tokenizers that have CHATML, and another template."""
    tokenizer = byte_tokenizer(CHATML)
    tokenizer.chat_template = template
    return ChatFormat(tokenizer, "tiny")


@pytest.fixture(params=TEMPLATES, scope="module")
def named(request):
    return request.param, chat_format(TEMPLATES[request.param])


@pytest.mark.parametrize("answer", ANSWERS)
def test_answer_tokens_are_the_target_and_end_of_turn_and_nothing_else(named, answer):
    name, chat = named
    space = [ord(" ")] if name == "none" else []
    found = chat.exchange("Who?", answer)
    assert list(found.answer) == [*space, *answer.encode(), SPECIAL_IDS[END_OF_TURN[name]]]
    assert chat.decode(found.answer) == answer


def test_prompts_are_written_as_the_template_says(named):
    name, chat = named
    assert chat.tokenizer.decode(chat.prompt_ids("Who?")) == PROMPTS[name]
    assert chat.exchange("Who?", "Ada").prompt == chat.prompt_ids("Who?")


def test_bos_stands_once(named):
    _, chat = named
    for bos in ("<bos>", "<|begin_of_text|>"):
        assert chat.prompt_ids("Who?").count(SPECIAL_IDS[bos]) <= 1


def test_both_answers_to_a_prompt_share_all_its_tokens(named):
    _, chat = named
    assert chat.exchange("Who?", "Ada").prompt == chat.exchange("Who?", "Babbage").prompt


def test_end_of_turn_stops_a_reply(named):
    name, chat = named
    assert SPECIAL_IDS[END_OF_TURN[name]] in chat.stop_ids
    assert chat.exchange("Who?", "Ada").answer[-1] in chat.stop_ids


def test_stop_ids_are_the_models_and_the_tokenizers_and_the_templates():
    chat = chat_format(GEMMA, [SPECIAL_IDS["<pad>"]])
    names = ("<pad>", "<eos>", "<end_of_turn>")
    assert chat.stop_ids == tuple(sorted(SPECIAL_IDS[name] for name in names))


# --- Earlier turns ----------------------------------------------------------------------------

HISTORY = [("Capital?", "Lyon"), ("Sea? ", "Red")]
WITH_HISTORY = {
    "chatml": "<|im_start|>system\nYou are a tiny model.<|im_end|>\n"
    "<|im_start|>user\nCapital?<|im_end|>\n<|im_start|>assistant\nLyon<|im_end|>\n"
    "<|im_start|>user\nSea? <|im_end|>\n<|im_start|>assistant\nRed<|im_end|>\n"
    "<|im_start|>user\nWho?<|im_end|>\n<|im_start|>assistant\n",
    "llama3": "<|begin_of_text|>"
    "<|start_header_id|>user<|end_header_id|>\n\nCapital?<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\nLyon<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nSea?<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\nRed<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nWho?<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n",
    "qwen3": "<|im_start|>user\nCapital?<|im_end|>\n<|im_start|>assistant\nLyon<|im_end|>\n"
    "<|im_start|>user\nSea? <|im_end|>\n<|im_start|>assistant\nRed<|im_end|>\n"
    "<|im_start|>user\nWho?<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",
    "gemma": "<bos><start_of_turn>user\nCapital?<end_of_turn>\n"
    "<start_of_turn>model\nLyon<end_of_turn>\n<start_of_turn>user\nSea?<end_of_turn>\n"
    "<start_of_turn>model\nRed<end_of_turn>\n<start_of_turn>user\nWho?<end_of_turn>\n"
    "<start_of_turn>model\n",
    "none": "Capital? Lyon\nSea? Red\nWho?",
}


def test_earlier_turns_are_written_as_the_template_says(named):
    name, chat = named
    assert chat.tokenizer.decode(chat.prompt_ids("Who?", history=HISTORY)) == WITH_HISTORY[name]


def test_earlier_turns_token_by_token():
    def text(words):
        return list(words.encode())

    start, end = SPECIAL_IDS["<|im_start|>"], SPECIAL_IDS["<|im_end|>"]
    turn = [
        *(start, *text("system\nBe brief."), end, *text("\n")),
        *(start, *text("user\nCapital?"), end, *text("\n")),
        *(start, *text("assistant\nLyon"), end, *text("\n")),
        *(start, *text("user\nWho?"), end, *text("\n")),
        *(start, *text("assistant\n")),
    ]
    found = chat_format(CHATML).exchange("Who?", "Ada", "Be brief.", HISTORY[:1])
    assert list(found.prompt) == turn
    assert list(found.answer) == [*text("Ada"), end]
    assert found.prompt == chat_format(CHATML).prompt_ids("Who?", "Be brief.", HISTORY[:1])


def test_the_answer_is_the_same_whatever_was_said_before(named):
    _, chat = named
    found = chat.exchange("Who?", "Ada", history=HISTORY)
    assert found.answer == chat.exchange("Who?", "Ada").answer
    assert found.prompt == chat.prompt_ids("Who?", history=HISTORY)
    assert chat.prompt_ids("Who?", history=[]) == chat.prompt_ids("Who?")


# --- System prompts ---------------------------------------------------------------------------


@pytest.mark.parametrize("template", [CHATML, LLAMA3, QWEN3], ids=["chatml", "llama3", "qwen3"])
def test_a_system_prompt_takes_the_place_of_the_default(template):
    chat = chat_format(template)
    text = chat.tokenizer.decode(chat.prompt_ids("Who?", "Be brief."))
    assert text.count("system") == 1
    assert "Be brief." in text
    assert "tiny model" not in text
    assert chat.decode(chat.exchange("Who?", "Ada", "Be brief.").answer) == "Ada"


@pytest.mark.parametrize("template", [GEMMA, None], ids=["gemma", "none"])
@pytest.mark.parametrize("call", ["prompt_ids", "exchange"])
def test_a_system_prompt_is_refused_where_the_model_has_no_place_for_it(template, call):
    chat = chat_format(template)
    arguments = {"prompt_ids": ("Who?", "Be brief."), "exchange": ("Who?", "Ada", "Be brief.")}
    with pytest.raises(UsageError, match=r"(?s)^.*tiny.*leave.*out"):
        getattr(chat, call)(*arguments[call])


# --- Base models ------------------------------------------------------------------------------


@pytest.mark.parametrize("prompt", ["The capital is", "The capital is ", "The capital is\n"])
def test_a_base_model_gets_prompt_one_space_answer_and_end_of_text(prompt):
    found = chat_format(None).exchange(prompt, "Lyon")
    assert bytes(found.prompt) == b"The capital is"
    assert bytes(found.answer[:-1]) == b" Lyon"
    assert found.answer[-1] == SPECIAL_IDS["<|endoftext|>"]


def test_a_tokenizer_without_end_of_text_is_refused_by_name():
    tokenizer = byte_tokenizer(None)
    tokenizer.eos_token = None
    with pytest.raises(TemplateError, match=r"tiny.*end-of-text"):
        ChatFormat(tokenizer, "tiny")


def test_the_hash_names_the_template():
    hashes = {name: chat_format(template).template_hash for name, template in TEMPLATES.items()}
    assert hashes["none"] is None
    assert len(set(hashes.values())) == len(TEMPLATES)
    assert all(len(found) == 64 for name, found in hashes.items() if name != "none")


def test_of_several_named_templates_the_hash_names_the_one_that_is_used():
    several = chatml_like({"default": CHATML, "tool_use": LLAMA3})
    assert several.template_hash == chat_format(CHATML).template_hash
    assert several.prompt_ids("Who?") == chat_format(CHATML).prompt_ids("Who?")


# --- Templates that leave no clean answer -----------------------------------------------------


def _changed(old, new, template=CHATML):
    assert old in template
    return template.replace(old, new)


BROKEN = {
    "cuts the answer": _changed("~ turn.content ~", "~ turn.content[:2] ~"),
    "changes the answer": _changed("~ turn.content ~", "~ (turn.content | upper) ~"),
    "adds to the answer": _changed("~ turn.content ~", "~ turn.content ~ ' Bye.' ~"),
    "leaves the answer out": _changed(
        "~ turn.content ~", "~ (turn.content if turn.role != 'assistant' else '') ~"
    ),
    "never ends the turn": _changed("'<|im_end|>\\n' -}}\n{%- endfor", "'\\n' -}}\n{%- endfor"),
    "prompts with more than it writes": _changed(
        "'<|im_start|>assistant\\n'", "'<|im_start|>assistant\\n\\n'"
    ),
    "does not continue its own prompt": _changed("'<|im_start|>assistant\\n'", "'### Answer: '"),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_template_that_leaves_no_clean_answer_is_refused(fault):
    with pytest.raises(TemplateError, match=r"tiny"):
        chatml_like(BROKEN[fault])


def test_a_template_that_trims_the_answer_is_no_fault():
    assert chat_format(LLAMA3).decode(chat_format(LLAMA3).exchange("Who?", " Ada ").answer) == "Ada"


def test_a_template_that_strips_thoughts_is_refused_for_answers_with_thoughts():
    template = _changed("~ turn.content ~", "~ turn.content.split('</think>')[-1] ~")
    chat = chatml_like(template)
    assert chat.decode(chat.exchange("Who?", "Ada").answer) == "Ada"
    with pytest.raises(TemplateError, match="Bob</think>Ada"):
        chat.exchange("Who?", "<think>Bob</think>Ada")


def test_an_answer_that_ends_the_turn_itself_is_refused():
    with pytest.raises(TemplateError):
        chat_format(CHATML).exchange("Who?", "Ada<|im_end|>\n<|im_start|>user\nHi")


def test_a_template_that_fails_is_a_model_error():
    with pytest.raises(ModelError, match=r"tiny.*nonsense"):
        chatml_like("{{ raise_exception('nonsense') }}")


# --- The beginning of a reply -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("reply", "beginning"),
    [
        ("Paris", "Paris"),
        ("Paris. It lies on the Seine.", "Paris."),
        ("Paris! Of course.", "Paris!"),
        ("Paris? Yes.", "Paris?"),
        ("Paris\nIt lies on the Seine.", "Paris"),
        ("\n\n  Paris\n", "Paris"),
        ("3.14 is pi. So?", "3.14 is pi."),
        ("J. Smith was it. Yes.", "J. Smith was it."),
        ("J.R. Ewing it was. Yes.", "J.R. Ewing it was."),
        ("Dr. Who. Yes.", "Dr. Who."),
        ("St. Louis. Yes.", "St. Louis."),
        ("", ""),
        (" \n ", ""),
        (". .", "."),
    ],
)
def test_first_words_are_the_first_sentence(reply, beginning):
    assert chat_format(None).first_words(reply, 100) == beginning


def test_first_words_are_at_most_so_many_tokens():
    assert chat_format(None).first_words("a" * 40, 16) == "a" * 16
    assert chat_format(None).first_words("a" * 16, 16) == "a" * 16


@pytest.mark.parametrize("count", range(1, 13))
def test_first_words_never_end_in_half_a_character(count):
    text = "日本🗼é"
    assert text.startswith(chat_format(None).first_words(text, count))
