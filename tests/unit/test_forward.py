"""Packed, padded and separate are three ways to one number, or packing is not done."""

import contextlib

import pytest
import torch

from builders import base_model, examples, exchange, random_adapter, separate_logits
from corsa.forward import Forward, find_packing
from corsa.packing import Blocks, build_tree
from fakes import KINDS, VOCABULARY, WINDOW, tiny_model

PACKED = ("llama", "qwen3", "gpt2", "gemma3", "moe", "mistral")
PAD = 0


def random_exchanges():
    """Ragged branches, shorter and longer than the window, some of them with a common beginning."""
    generator = torch.Generator().manual_seed(3)

    def ids(count):
        return torch.randint(VOCABULARY, (count,), generator=generator).tolist()

    system, one, other = ids(6), ids(2 * WINDOW), ids(2)
    return [
        exchange([*system, *one], ids(3)),
        exchange([*system, *one], ids(2 * WINDOW + 3)),
        exchange([*system, *other], ids(1)),
        exchange([*system, *other], ids(WINDOW)),
        exchange(ids(1), ids(3 * WINDOW)),
        exchange([*system, *one, *ids(2)], ids(5)),
    ]


def close(found, wanted, atol):
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=atol)


@pytest.mark.parametrize("packing", ["auto", "padded"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_is_its_sequences_one_by_one(kind, packing):
    hf = tiny_model(kind, torch.float64)
    forward = Forward(hf, PAD, packing)
    with torch.no_grad():
        close(forward.logits(random_exchanges()), separate_logits(hf, random_exchanges()), 1e-5)


@pytest.mark.parametrize("kind", PACKED)
def test_packing_is_used_where_it_is_exact(kind, monkeypatch):
    forward = Forward(tiny_model(kind, torch.float64), PAD)
    assert forward.rule.windows is not None
    monkeypatch.setattr(forward, "_padded", None)  # calling it would be an error
    forward.logits(random_exchanges())


@pytest.mark.parametrize("kind", sorted(set(KINDS) - set(PACKED)))
def test_packing_is_not_used_where_it_is_not_exact(kind):
    rule = Forward(tiny_model(kind), PAD).rule
    assert rule.windows is None
    assert "position_ids" in rule.reason


def test_padded_can_be_asked_for():
    forward = Forward(tiny_model("llama"), PAD, "padded")
    assert forward.rule.windows is None
    assert "asked for" in forward.rule.reason


@pytest.mark.parametrize(
    ("kind", "windows"),
    [
        ("llama", {"": None}),
        ("mistral", {"": WINDOW}),
        ("gemma3", {"full_attention": None, "sliding_attention": WINDOW}),
    ],
)
def test_masks_follow_the_layer_types(kind, windows):
    assert Forward(tiny_model(kind), PAD).rule.windows == windows


@pytest.mark.parametrize("kind", ["mistral", "gemma3"])
def test_a_branch_longer_than_the_window_needs_the_window(kind):
    """Without it the logits differ: the tests above would see a window that was forgotten."""
    hf = tiny_model(kind, torch.float64)
    forward = Forward(hf, PAD)
    tree = build_tree(random_exchanges())
    wide = dict.fromkeys(forward.rule.windows)
    with torch.no_grad():
        logits, rows = forward._packed(tree, wide, by_blocks=False)
        packed = logits[rows]
    assert (packed - torch.cat(separate_logits(hf, random_exchanges()))).abs().max() > 1e-2


@pytest.mark.parametrize("kind", PACKED)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_packing_is_found_to_be_exact_in_every_dtype(kind, dtype):
    assert Forward(tiny_model(kind, dtype), PAD).rule.windows is not None


def lying(config_says, model_does):
    """A Mistral whose own masks come from another window than its config tells everybody."""
    hf = tiny_model("mistral")
    hf.config.sliding_window = config_says
    inner = hf.model.forward

    def forward(*args, **kwargs):
        with _window(hf.config, model_does):
            return inner(*args, **kwargs)

    hf.model.forward = forward
    return hf


@contextlib.contextmanager
def _window(config, window):
    told, config.sliding_window = config.sliding_window, window
    try:
        yield
    finally:
        config.sliding_window = told


@pytest.mark.parametrize(
    ("config_says", "model_does"), [(12, 8), (8, 12), (None, 8), (8, None), (600, 20)]
)
def test_a_config_that_lies_about_the_window_is_caught_by_the_probe(config_says, model_does):
    hf = lying(config_says, model_does)
    forward = Forward(hf, PAD)
    assert forward.rule.windows is None
    assert "probe differs" in forward.rule.reason
    with torch.no_grad():
        close(forward.logits(random_exchanges()), separate_logits(hf, random_exchanges()), 1e-4)


def test_an_honest_model_of_the_same_make_is_packed():
    assert Forward(lying(12, 12), PAD).rule.windows == {"": 12}


def test_layers_that_are_no_attention_are_not_packed():
    hf = tiny_model("gemma3")
    hf.config.layer_types = ["linear_attention", "full_attention"]
    rule = _rule_of(hf)
    assert rule.windows is None
    assert "linear_attention" in rule.reason


def _rule_of(hf):
    """The rule alone: with these layer types the model itself would not run."""
    forward = Forward(tiny_model("gemma3"), PAD, "padded")
    forward.model = hf
    return find_packing(forward)


def test_sequences_longer_than_what_was_probed_are_padded(monkeypatch):
    hf = tiny_model("mistral")
    hf.config.sliding_window = 600
    forward = Forward(hf, PAD)
    assert forward.rule.max_depth == 520
    calls = []
    real = forward._padded
    monkeypatch.setattr(forward, "_padded", lambda g: calls.append(len(g)) or real(g))
    forward.logits([exchange([1] * 520, [2])])
    assert calls == []
    forward.logits([exchange([1] * 520, [2, 3])])
    assert calls == [1]


def test_the_padding_token_changes_nothing():
    hf = tiny_model("llama", torch.float64)
    one, other = (Forward(hf, pad, "padded") for pad in (0, 255))
    with torch.no_grad():
        close(one.logits(random_exchanges()), other.logits(random_exchanges()), 1e-12)


@pytest.mark.parametrize("kind", PACKED)
def test_gradients_of_packed_and_padded_batches_agree(kind):
    gradients = []
    for packing in ("auto", "padded"):
        base = base_model(kind, dtype=torch.float64, packing=packing)
        adapter = random_adapter(base)
        with base.using(adapter.name):
            logps = base.forward.answer_logps([example.chosen for example in examples()])
            loss = torch.cat([score.tokens for score in logps]).sum()
            gradients.append(torch.autograd.grad(loss, list(adapter.params.values())))
    # Where norms pass through float32 (everywhere but in gpt2) rounding differs in the last digits.
    tolerance = 1e-12 if kind == "gpt2" else 1e-6
    scale = max(float(g.abs().max()) for g in gradients[0])
    for packed, padded in zip(*gradients, strict=True):
        torch.testing.assert_close(packed, padded, rtol=0, atol=tolerance * scale)


# --- Log-probabilities ------------------------------------------------------------------------


@pytest.mark.parametrize("packing", ["auto", "padded"])
def test_log_probabilities_are_those_of_the_answer_tokens(packing):
    hf = tiny_model("llama", torch.float64)
    exchanges = random_exchanges()
    scores = Forward(hf, PAD, packing).answer_logps(exchanges)
    for score, logits, (_, answer) in zip(
        scores, separate_logits(hf, exchanges), exchanges, strict=True
    ):
        table = logits.log_softmax(-1)
        wanted = torch.stack([table[i, token] for i, token in enumerate(answer)])
        torch.testing.assert_close(score.tokens, wanted, rtol=0, atol=1e-6)
        assert score.greedy.tolist() == [int(row.argmax()) == t for row, t in zip(table, answer)]  # noqa: B905


@pytest.mark.parametrize("packing", ["auto", "padded"])
@pytest.mark.parametrize("limit", [1, 50, 10_000])
def test_distributions_are_those_at_the_answers_places(packing, limit):
    hf = tiny_model("llama", torch.float64)
    exchanges = random_exchanges()
    found = Forward(hf, PAD, packing, max_tokens=limit).distributions(exchanges)
    wanted = [logits.log_softmax(-1) for logits in separate_logits(hf, exchanges)]
    close(found, wanted, 1e-6)
    assert not any(table.requires_grad for table in found)
    assert Forward(hf, PAD, packing).distributions([]) == []


@pytest.mark.parametrize("packing", ["auto", "padded"])
def test_divergence_is_from_the_teacher_at_every_answer_token(packing):
    hf, other = tiny_model("llama", torch.float64), tiny_model("qwen3", torch.float64)
    exchanges = random_exchanges()
    teachers = Forward(other, PAD, packing).distributions(exchanges)
    given = [None if i % 2 else teacher for i, teacher in enumerate(teachers)]
    scores = Forward(hf, PAD, packing).answer_logps(exchanges, given)
    for score, logits, teacher in zip(scores, separate_logits(hf, exchanges), given, strict=True):
        if teacher is None:
            assert score.divergence is None
            continue
        wanted = torch.distributions.kl_divergence(
            torch.distributions.Categorical(logits=teacher),
            torch.distributions.Categorical(logits=logits),
        )
        torch.testing.assert_close(score.divergence, wanted, rtol=0, atol=1e-6)
        assert (score.divergence > 0).all()


def test_one_way_back_for_all_teachers_together():
    """Each of its own would be a tensor of all rows by V: 5 % of a step of the embedded model."""
    forward = Forward(tiny_model("llama", torch.float64).requires_grad_(True), PAD)
    exchanges = random_exchanges()
    teachers = forward.distributions(exchanges)

    def indexings(count: int) -> int:
        given = [*teachers[:count], *[None] * (len(teachers) - count)]
        scores = forward.answer_logps(exchanges, given)
        loss = torch.cat([s.divergence for s in scores if s.divergence is not None]).sum()
        seen, rest = set(), [loss.grad_fn]
        while rest:
            node = rest.pop()
            if node is not None and node not in seen:
                seen.add(node)
                rest += [before for before, _ in node.next_functions]
        return sum(node.name().startswith("Index") for node in seen)

    assert len(exchanges) > 3
    assert indexings(len(exchanges)) == indexings(1) >= 1


def test_right_needs_every_token():
    hf = tiny_model("llama", torch.float64)
    forward = Forward(hf, PAD)
    answer = []
    for _ in range(4):
        answer.append(int(separate_logits(hf, [exchange([5, 6], [*answer, 0])])[0][-1].argmax()))
    assert forward.score([exchange([5, 6], answer)])[0].right
    for place in range(4):
        wrong = [*answer]
        wrong[place] = (wrong[place] + 1) % VOCABULARY
        score = forward.score([exchange([5, 6], wrong)])[0]
        assert not score.right
        assert score.greedy[: place + 1].tolist() == [True] * place + [False]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_log_probabilities_of_half_precision_models_are_float32(dtype):
    forward = Forward(tiny_model("llama", dtype), PAD)
    tokens = forward.answer_logps(random_exchanges())[1].tokens
    assert tokens.dtype == torch.float32
    rounded = tokens.to(dtype).float()
    assert not torch.equal(tokens, rounded)


@pytest.mark.parametrize("packing", ["auto", "padded"])
def test_score_is_answer_logps_in_any_number_of_passes(packing):
    forward = Forward(tiny_model("llama", torch.float64), PAD, packing)
    whole = forward.answer_logps(random_exchanges())
    for limit in (1, 50, 10_000):
        forward.max_tokens = limit
        parts = forward.score(random_exchanges())
        close([p.tokens for p in parts], [w.tokens.detach() for w in whole], 1e-6)
        assert not any(p.tokens.requires_grad for p in parts)
    assert forward.score([]) == []


def test_attention_goes_by_blocks_where_every_layer_attends_fully():
    assert Forward(tiny_model("llama"), PAD).rule.by_blocks
    assert not Forward(tiny_model("mistral"), PAD).rule.by_blocks


@pytest.mark.parametrize("kind", PACKED)
def test_blocks_and_masks_give_the_same_logits_and_gradients(kind, monkeypatch):
    hf = tiny_model(kind, torch.float64)
    forward = Forward(hf, PAD)
    if not forward.rule.by_blocks:
        return
    monkeypatch.setattr(Blocks, "cheaper", True)
    found = []
    for by_blocks in (True, False):
        forward.rule = forward.rule._replace(by_blocks=by_blocks)
        logits = torch.cat(forward.logits(random_exchanges()))
        weight = hf.get_input_embeddings().weight.requires_grad_()
        found.append((logits.detach(), torch.autograd.grad(logits.square().sum(), weight)[0]))
    for by_block, by_mask in zip(*found, strict=True):
        assert (by_block - by_mask).abs().max() < 1e-10 * by_mask.abs().max()


def test_a_model_that_ignores_the_way_of_attending_is_given_a_mask():
    hf = tiny_model("llama")

    class Fixed(type(hf.config)):
        """A config that answers "sdpa" whatever it is told, as an older model's own code would."""

        @property
        def _attn_implementation(self):
            return "sdpa"

        @_attn_implementation.setter
        def _attn_implementation(self, value):
            pass

    hf.config.__class__ = Fixed
    rule = Forward(hf, PAD).rule
    assert rule.windows == {"": None}
    assert not rule.by_blocks


def test_the_way_of_attending_is_put_back_when_a_pass_fails():
    hf = tiny_model("llama")
    forward = Forward(hf, PAD)
    with pytest.raises(IndexError):
        forward.logits([exchange([10_000], [1])])
    assert hf.config._attn_implementation == "sdpa"


def test_a_tree_that_is_mostly_one_block_takes_a_mask(monkeypatch):
    forward = Forward(tiny_model("llama"), PAD)
    asked = []
    real = forward._packed
    monkeypatch.setattr(forward, "_packed", lambda *a, **k: asked.append(k) or real(*a, **k))
    some = [exchange([1, n, 3], [4, 5]) for n in range(8)]
    forward.logits(some)
    forward.logits([*some, exchange([1] * 60, [2])])
    forward.logits([*some * 4, *[exchange([1, n, *[5] * 20], [2]) for n in range(4)]])
    assert [use["by_blocks"] for use in asked] == [True, False, True]
