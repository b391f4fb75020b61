"""Who answers prompts: greedy means greedy, whatever is behind."""

import pytest
import torch
import transformers

from builders import base_model, random_adapter
from corsa.answerers import ContextAnswerer, ModelAnswerer, RememberingAnswerer, Sampling, _Drawn
from corsa.chat import Exchange
from corsa.errors import UsageError
from corsa.progress import Silent
from fakes import CHATML, GEMMA, KINDS, SPECIAL_IDS, VOCABULARY, tiny_model

# In float64 transformers' own attention of these gives NaN where a batch is padded on the left.
_DTYPE = {"mpt": torch.float32, "bloom": torch.float32}

PROMPTS = ["Who?", "The capital of France is", "x", "Who was it that said so, long ago?", "Who"]


def by_hand(base, adapter, prompt, count, system=None):
    """Arg-max after arg-max, everything computed anew for each token."""
    tokens = list(base.chat.prompt_ids(prompt, system))
    start = len(tokens)
    with base.using(adapter), torch.no_grad():
        while len(tokens) < start + count:
            tokens.append(int(base.hf(input_ids=torch.tensor([tokens])).logits[0, -1].argmax()))
            if tokens[-1] in base.chat.stop_ids:
                break
    return tuple(tokens[start:])


@pytest.mark.parametrize("template", [CHATML, None], ids=["chatml", "none"])
@pytest.mark.parametrize("kind", KINDS)
def test_replies_are_arg_max_after_arg_max(kind, template):
    """Prompts of different lengths share a batch: padding on the left must not be seen."""
    base = base_model(kind, template=template, dtype=_DTYPE.get(kind, torch.float64))
    adapter = random_adapter(base)
    for name in (None, adapter.name):
        replies = ModelAnswerer(base, name).answers(PROMPTS, 12)
        assert [r.tokens for r in replies] == [by_hand(base, name, p, 12) for p in PROMPTS]


@pytest.mark.parametrize(
    "habits",
    [
        {"repetition_penalty": 5.0},
        {"no_repeat_ngram_size": 1},
        {"do_sample": True, "temperature": 0.7, "top_p": 0.5, "top_k": 3},
        {"min_new_tokens": 8},
        {"suppress_tokens": list(range(0, VOCABULARY, 2))},
        {"num_beams": 3},
        {"max_length": 3},
    ],
    ids=lambda habits: next(iter(habits)),
)
def test_a_models_own_generation_settings_do_not_bend_its_replies(habits):
    """Many ship a repetition penalty or sampling; greedy must stay the arg-max."""
    hf = tiny_model("llama", torch.float64)
    stop = SPECIAL_IDS["<|im_end|>"]
    hf.generation_config = transformers.GenerationConfig(eos_token_id=[stop, 65], **habits)
    base = base_model(template=CHATML, model=hf)
    assert {stop, 65} <= set(base.chat.stop_ids)
    replies = ModelAnswerer(base).answers(PROMPTS, 12)
    assert [r.tokens for r in replies] == [by_hand(base, None, p, 12) for p in PROMPTS]


def test_more_prompts_than_fit_a_batch_keep_their_order():
    base = base_model(dtype=torch.float64)
    prompts = [f"{'a' * (i % 7)} {i}" for i in range(40)]
    replies = ModelAnswerer(base).answers(prompts, 4)
    assert [r.tokens for r in replies] == [by_hand(base, None, p, 4) for p in prompts]


def test_a_system_prompt_is_seen():
    base = base_model(template=CHATML, dtype=torch.float64)
    (reply,) = ModelAnswerer(base).answers(["Who?"], 8, "Be brief.")
    assert reply.tokens == by_hand(base, None, "Who?", 8, "Be brief.")
    assert reply != ModelAnswerer(base).answers(["Who?"], 8)[0]


def test_a_system_prompt_is_refused_where_there_is_no_place_for_it():
    with pytest.raises(UsageError):
        ModelAnswerer(base_model(template=GEMMA)).answers(["Who?"], 4, "Be brief.")


def says(base, text, end, prompts):
    """Make the model's reply to these prompts, asked together, a text and an end."""
    tokens = [*text.encode(), end]
    width = max(len(base.chat.prompt_ids(prompt)) for prompt in prompts)
    real = base.hf.forward

    def forward(*args, input_ids, **kwargs):
        cache = kwargs.get("cache", kwargs.get("past_key_values"))
        read = cache.get_seq_length() if cache is not None else 0
        said = read + input_ids.shape[1] - width
        out = real(*args, input_ids=input_ids, **kwargs)
        out.logits[:, -1] = 0.0
        out.logits[:, -1, tokens[max(0, min(said, len(tokens) - 1))]] = 1.0
        return out

    base.hf.forward = forward


@pytest.mark.parametrize("end", ["<|end_of_text|>", "<|eot_id|>", "<|im_end|>"])
def test_every_stop_token_ends_a_reply(end):
    hf = tiny_model("llama")
    ids = [SPECIAL_IDS["<|end_of_text|>"], SPECIAL_IDS["<|eot_id|>"]]
    hf.generation_config = transformers.GenerationConfig(eos_token_id=ids)
    base = base_model(template=CHATML, model=hf)
    prompts = ["Who?", "Who was it?"]
    says(base, " Ada Lovelace ", SPECIAL_IDS[end], prompts)
    for reply in ModelAnswerer(base).answers(prompts, 40):
        assert reply.text == "Ada Lovelace"
        assert bytes(reply.tokens[:-1]) == b" Ada Lovelace "
        assert reply.tokens[-1] == SPECIAL_IDS[end]


@pytest.mark.parametrize("template", [CHATML, None], ids=["chatml", "none"])
def test_replies_that_end_at_different_times_do_not_disturb_each_other(template):
    hf = tiny_model("llama", torch.float64)
    hf.generation_config = transformers.GenerationConfig(eos_token_id=list(range(128, 250, 2)))
    base = base_model(template=template, model=hf)
    prompts = [*PROMPTS, "And then?", "Why", "Who will?", "z"]
    replies = ModelAnswerer(base).answers(prompts, 16)
    assert [r.tokens for r in replies] == [by_hand(base, None, p, 16) for p in prompts]
    assert len({len(r.tokens) for r in replies}) > 2


def test_a_reply_is_cut_where_it_is_told_to():
    base = base_model(template=CHATML)
    says(base, "Ada Lovelace", SPECIAL_IDS["<|im_end|>"], ["Who?"])
    (reply,) = ModelAnswerer(base).answers(["Who?"], 5)
    assert reply.text == "Ada L"
    assert len(reply.tokens) == 5


def test_no_prompts_get_no_replies():
    answerer = ModelAnswerer(base_model())
    assert answerer.answers([], 4) == []
    assert answerer.logps([], []) == []
    assert list(answerer.distributions([], [])) == []


# --- Teacher forcing and decoding -------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_right_under_teacher_forcing_is_decoding_the_exact_target(kind):
    base = base_model(kind, template=CHATML, dtype=_DTYPE.get(kind, torch.float64))
    adapter = random_adapter(base)
    answerer = ModelAnswerer(base, adapter.name)
    # Random models do not stop by themselves: what they say fourth ends their turn.
    fourth = {reply.tokens[:4][-1] for reply in answerer.answers(PROMPTS, 4)}
    base.chat.stop_ids = tuple(sorted({*fourth, *base.chat.stop_ids}))
    for prompt, reply in zip(PROMPTS, answerer.answers(PROMPTS, 30), strict=True):
        assert reply.tokens[-1] in base.chat.stop_ids
        before = base.chat.prompt_ids(prompt)
        wrong = (*reply.tokens[:-1], (reply.tokens[-1] + 1) % 256)
        with base.using(adapter.name):
            right, not_right = base.forward.score(
                [Exchange(before, reply.tokens), Exchange(before, wrong)]
            )
        assert right.right
        assert not not_right.right


def test_logps_are_of_the_target_and_end_of_turn():
    base = base_model(template=CHATML, dtype=torch.float64)
    adapter = random_adapter(base)
    targets = ["Ada", "Lyon, they say", "C"]
    found = ModelAnswerer(base, adapter.name).logps(PROMPTS[:3], targets)
    for prompt, target, score in zip(PROMPTS, targets, found, strict=False):
        answer = [*target.encode(), SPECIAL_IDS["<|im_end|>"]]
        before = list(base.chat.prompt_ids(prompt))
        with base.using(adapter.name), torch.no_grad():
            table = base.hf(input_ids=torch.tensor([[*before, *answer]])).logits[0].log_softmax(-1)
        wanted = [table[len(before) + i - 1, token].item() for i, token in enumerate(answer)]
        assert score.tokens.tolist() == pytest.approx(wanted, abs=1e-5)


def test_prompts_and_targets_must_be_as_many():
    with pytest.raises(ValueError, match="shorter"):
        ModelAnswerer(base_model()).logps(["Who?", "What?"], ["Ada"])


# --- Distributions ----------------------------------------------------------------------------


def test_distributions_are_normalised_and_along_the_reply():
    base = base_model(template=CHATML, dtype=torch.float64)
    adapter = random_adapter(base)
    prompts = [f"{prompt} {i}" for i in range(5) for prompt in PROMPTS]
    replies = [tuple(range(40 + i % 3, 44 + i % 7)) for i in range(len(prompts))]
    found = list(ModelAnswerer(base, adapter.name).distributions(prompts, replies))
    assert len(found) == len(prompts)
    for prompt, reply, table in zip(prompts, replies, found, strict=True):
        assert table.shape == (len(reply), VOCABULARY)
        assert table.dtype == torch.float32
        assert not table.requires_grad
        torch.testing.assert_close(table.exp().sum(-1), torch.ones(len(reply)))
        before = base.chat.prompt_ids(prompt)
        with base.using(adapter.name), torch.no_grad():
            logits = base.hf(input_ids=torch.tensor([[*before, *reply]])).logits[0]
        wanted = logits[len(before) - 1 : -1].log_softmax(-1).float()
        torch.testing.assert_close(table, wanted, rtol=0, atol=1e-5)


def test_between_two_distributions_no_adapter_acts():
    base = base_model()
    adapter = random_adapter(base)
    stream = ModelAnswerer(base, adapter.name).distributions(["a", "b"], [(1,), (2,)])
    next(stream)
    assert base._active() is None


# --- Remembering ------------------------------------------------------------------------------


class Counting(Silent):
    def __init__(self):
        self.done = 0

    def advance(self, count=1, *, total=None, note=""):
        self.done += count


def test_a_remembering_answerer_decodes_everything_once(monkeypatch):
    base = base_model(template=CHATML)
    decoded = []
    real = ModelAnswerer._decode

    def decode(self, prompts, *rest):
        decoded.extend(prompts)
        return real(self, prompts, *rest)

    monkeypatch.setattr(ModelAnswerer, "_decode", decode)
    answerer = RememberingAnswerer(base)
    wanted = ModelAnswerer(base).answers(["a", "b", "a", "c"], 4)
    decoded.clear()
    for prompts in (["a", "b", "a"], ["a", "b"], ["b", "c", "a"]):
        progress = Counting()
        replies = answerer.answers(prompts, 4, progress=progress)
        assert replies == [wanted["abac".index(prompt)] for prompt in prompts]
        assert progress.done == len(prompts)
    assert len(decoded) == 3
    assert answerer.answers(["a"], 4, "Be brief.") != [wanted[0]]  # another question
    assert len(answerer.answers(["a"], 5)[0].tokens) == 5  # and so is another length
    assert len(decoded) == 5


def test_kept_replies_outlive_the_answerer(tmp_path, monkeypatch):
    monkeypatch.setenv("CORSA_CACHE", str(tmp_path))
    base = base_model(template=CHATML)
    wanted = ModelAnswerer(base).answers(PROMPTS, 6)
    for again in (False, True):
        answerer, progress = RememberingAnswerer(base), Counting()
        if again:
            monkeypatch.setattr(ModelAnswerer, "_decode", None)  # calling it would be an error
        assert answerer.answers_kept(PROMPTS, 6, progress=progress) == wanted
        assert answerer.answers(PROMPTS[:1], 6) == wanted[:1]
        assert progress.done == len(PROMPTS)


def test_a_remembering_answerer_answers_as_the_base_model_does():
    base = base_model(template=CHATML)
    adapter = random_adapter(base)
    with base.using(adapter.name):
        found = RememberingAnswerer(base).answers(PROMPTS, 6)
    assert found == ModelAnswerer(base).answers(PROMPTS, 6)


def test_progress_is_told_of_every_prompt():
    progress = Counting()
    ModelAnswerer(base_model()).answers([str(i) for i in range(40)], 2, progress=progress)
    assert progress.done == 40


# --- In context -------------------------------------------------------------------------------


FACTS = [("Capital of France?", "Lyon"), ("Who?", "Ada"), ("Where is X?", "Rome, they say")]


@pytest.mark.parametrize("template", [CHATML, None], ids=["chatml", "none"])
def test_facts_are_earlier_turns_of_every_question(template):
    base = base_model(template=template, dtype=torch.float64)
    told, alone = ContextAnswerer(base, FACTS), ModelAnswerer(base)
    system = None if template is None else "Be brief."
    replies = told.answers(PROMPTS, 6, system)
    logps = told.logps(PROMPTS, ["Ada"] * len(PROMPTS), system)
    tables = told.distributions(PROMPTS, [(65, 66)] * len(PROMPTS), system)
    for prompt, reply, scored, table in zip(PROMPTS, replies, logps, tables, strict=True):
        before = list(base.chat.prompt_ids(prompt, system, FACTS))
        wanted = list(base.chat.exchange(prompt, "Ada", system, FACTS).answer)
        with torch.no_grad():
            for token in reply.tokens:
                rows = base.hf(input_ids=torch.tensor([before])).logits[0]
                assert int(rows[-1].argmax()) == token
                before.append(token)
            before = before[: -len(reply.tokens)]
            rows = base.hf(input_ids=torch.tensor([[*before, *wanted, 65]])).logits[0]
        rows = rows[len(before) - 1 :].log_softmax(-1).float()
        expected = [rows[i, token].item() for i, token in enumerate(wanted)]
        assert scored.tokens.tolist() == pytest.approx(expected, abs=1e-5)
        torch.testing.assert_close(table[0], rows[0], rtol=0, atol=1e-5)
    assert replies != alone.answers(PROMPTS, 6, system)


def test_all_facts_are_read_once_for_a_batch(monkeypatch):
    base = base_model(template=CHATML)
    read, forward = [], base.hf.forward

    def counted(*args, input_ids, **kwargs):
        read.append(tuple(input_ids.shape))
        return forward(*args, input_ids=input_ids, **kwargs)

    monkeypatch.setattr(base.hf, "forward", counted)
    questions = [f"{n}?" for n in range(8)]
    ContextAnswerer(base, FACTS).answers(questions, 1)
    (rows, shared), (batch, own) = read
    assert (rows, batch) == (1, 8)
    behind = ["<|im_end|>", "\n", "<|im_start|>", *"assistant\n"]  # where every question differs
    assert shared == len(base.chat.prompt_ids("", history=FACTS)) - len(behind)
    assert shared + own == len(base.chat.prompt_ids("0?", history=FACTS))
    read.clear()
    ContextAnswerer(base, FACTS).logps(questions, ["Ada"] * 8)
    ((trees, nodes),) = read
    assert (trees, nodes) == (1, shared + 8 * (own + 3))


def test_long_conversations_are_decoded_fewer_at_a_time(monkeypatch):
    base = base_model(template=CHATML)
    told, sizes, decode = ContextAnswerer(base, FACTS), [], ModelAnswerer._decode
    wanted = told.answers(PROMPTS, 3)

    def counted(self, prompts, *rest):
        sizes.append(len(prompts))
        return decode(self, prompts, *rest)

    monkeypatch.setattr(ModelAnswerer, "_decode", counted)
    longest = max(len(base.chat.prompt_ids(prompt, history=FACTS)) for prompt in PROMPTS)
    for tokens, expected in ((2 * (longest + 3), [2, 2, 1]), (1, [1] * 5)):
        monkeypatch.setattr("corsa.answerers._BATCH_TOKENS", tokens)
        assert told.answers(PROMPTS, 3) == wanted
        assert sizes == expected
        sizes.clear()


def test_without_facts_everything_is_as_without_a_context():
    base = base_model(template=CHATML)
    assert ContextAnswerer(base, []).answers(PROMPTS, 5) == ModelAnswerer(base).answers(PROMPTS, 5)


# --- Samples --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["llama", "mistral", "bloom"])
def test_samples_depend_on_seed_prompt_and_number_alone(kind):
    """Not on what else is asked: beside other prompts, in other batches, more or fewer of them."""
    answerer = ModelAnswerer(base_model(kind, dtype=_DTYPE.get(kind, torch.float64)))
    sampling = Sampling(0.8, 0.95, seed=3)
    together = answerer.samples(PROMPTS, 3, 10, sampling)
    for prompt, replies in zip(PROMPTS, together, strict=True):
        assert answerer.samples([prompt], 2, 10, sampling) == [replies[:2]]
    assert len({reply.tokens for replies in together for reply in replies}) > len(PROMPTS)
    assert answerer.samples(PROMPTS, 3, 10, sampling._replace(seed=4)) != together


@pytest.mark.parametrize("kind", ["llama", "mistral"])
def test_a_cold_or_narrow_draw_is_the_likeliest_reply(kind):
    answerer = ModelAnswerer(base_model(kind, dtype=torch.float64))
    greedy = [[reply] * 2 for reply in answerer.answers(PROMPTS, 10)]
    assert answerer.samples(PROMPTS, 2, 10, Sampling(1e-6, 1.0, seed=0)) == greedy
    assert answerer.samples(PROMPTS, 2, 10, Sampling(1.0, 1e-9, seed=0)) == greedy


def test_tokens_are_drawn_as_often_as_they_are_likely():
    """Temperature 2 over 0.5, 0.3, 0.15, 0.05: squared-root odds; top-p 0.8 leaves three of them."""
    odds = torch.tensor([0.3, 0.05, 0.5, 0.15])
    count = 20_000
    draw = _Drawn(Sampling(2.0, 0.8, seed=0), [(str(n), n) for n in range(count)], 1)
    drawn = draw(odds.log().expand(count, -1), torch.arange(count), 0)
    found = torch.bincount(drawn, minlength=4) / count
    left = odds.sqrt() * torch.tensor([1, 0, 1, 1])
    assert torch.allclose(found, left / left.sum(), atol=0.015)
