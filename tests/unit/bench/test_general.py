import json
import math
from types import SimpleNamespace

import pytest
import torch

from builders import Scripted, base_model, random_adapter
from corsa.answerers import ContextAnswerer, ModelAnswerer
from corsa.bench import general
from corsa.bench.edited import Edited
from corsa.bench.general import mmlu, wikitext
from corsa.errors import UsageError
from fakes import GEMMA

TEXT = "".join(f" The year {year} was = no = other . \n" for year in range(1200, 1900))


def write(folder, *, text=TEXT, questions=()):
    for name in ("wikitext2", "mmlu"):
        (folder / name).mkdir(exist_ok=True)
    (folder / "wikitext2" / "wiki.test.tokens").write_text(text, "utf-8")
    lines = "".join(json.dumps(question) + "\n" for question in questions)
    (folder / "mmlu" / "test.jsonl").write_text(lines, "utf-8")
    return folder


# --- WikiText -----------------------------------------------------------------------------------


@pytest.mark.parametrize("template", [None, GEMMA])  # Gemma's tokenizer puts bos in front
def test_perplexity_and_divergence_agree_with_one_plain_pass_per_window(
    tmp_path, monkeypatch, template
):
    monkeypatch.setattr(general, "WINDOWS", 3)
    monkeypatch.setattr(general, "WINDOW_TOKENS", 50)
    base = base_model(template=template)
    adapter = random_adapter(base)
    numbers = wikitext(Edited(base, ModelAnswerer(base, adapter.name), [], data=write(tmp_path)))
    tokens = base.tokenizer(TEXT, add_special_tokens=False)["input_ids"]
    front = [base.tokenizer.bos_token_id] if template == GEMMA else []
    count = len(tokens)
    nll, nll_base, divergence = [], [], []
    for start in (0, count // 3, 2 * count // 3):
        window = torch.tensor(tokens[start : start + 50])
        ids = torch.cat([torch.tensor(front, dtype=torch.long), window])[None]
        rows = slice(len(front), -1)
        with torch.no_grad():
            before = base.hf(input_ids=ids).logits[0, rows].double().log_softmax(-1)
            with base.using(adapter.name):
                after = base.hf(input_ids=ids).logits[0, rows].double().log_softmax(-1)
        nll_base.append(-before.gather(1, window[1:, None]))
        nll.append(-after.gather(1, window[1:, None]))
        divergence.append((before.exp() * (before - after)).sum(1))
    ppl, ppl_base = (math.exp(torch.cat(parts).mean()) for parts in (nll, nll_base))
    assert numbers["wikitext_ppl"] == pytest.approx(ppl, rel=1e-4)
    assert numbers["wikitext_ppl_base"] == pytest.approx(ppl_base, rel=1e-4)
    assert numbers["wikitext_ppl_ratio"] == pytest.approx(ppl / ppl_base, rel=1e-4)
    assert numbers["wikitext_kl"] == pytest.approx(float(torch.cat(divergence).mean()), rel=1e-3)
    assert numbers["wikitext_kl"] > 0.01


def test_an_unedited_model_predicts_as_the_base_does(tmp_path):
    base = base_model()
    numbers = wikitext(Edited(base, ModelAnswerer(base), [], data=write(tmp_path)))
    assert numbers["wikitext_ppl_ratio"] == 1.0
    assert numbers["wikitext_kl"] == 0.0


def test_who_changes_no_weights_is_not_measured_on_plain_text(tmp_path):
    base = base_model()
    facts = ContextAnswerer(ModelAnswerer(base), [("p", "new")])
    assert set(wikitext(Edited(base, facts, [], data=write(tmp_path))).values()) == {None}


def test_a_text_shorter_than_a_window_gives_no_number(tmp_path):
    base = base_model()
    model = Edited(base, ModelAnswerer(base), [], data=write(tmp_path, text="short"))
    assert set(wikitext(model).values()) == {None}


# --- MMLU ---------------------------------------------------------------------------------------


def question(subject, number, answer=0):
    return {
        "subject": subject,
        "question": f" What is {subject} {number}?",
        "choices": ["one", "two", "three", "four"],
        "answer": answer,
    }


def prompt(subject, number):
    choices = "A. one\nB. two\nC. three\nD. four"
    return f"What is {subject} {number}?\n{choices}\nAnswer with one letter: A, B, C or D."


def saying(letters):
    """Prefers a letter per prompt, and would prefer D by its end-of-turn."""
    return Scripted(
        logps={
            (asked, letter): [-1.0 if letter == said else -2.0, 0.0 if letter == "D" else -9.0]
            for asked, said in letters.items()
            for letter in "ABCD"
        }
    )


def test_answers_that_changed_and_accuracy_worked_by_hand(tmp_path, monkeypatch):
    """Right, wrong, wrong, right before; right, right, wrong by another letter, right after."""
    rows = [question("art", i, answer) for i, answer in enumerate((0, 1, 2, 3))]
    before = saying(dict(zip((prompt("art", i) for i in range(4)), "AAAD", strict=True)))
    after = saying(dict(zip((prompt("art", i) for i in range(4)), "ABBD", strict=True)))
    monkeypatch.setattr(general, "ModelAnswerer", lambda base: before)
    base = SimpleNamespace(identity=lambda: ["worked by hand"])
    model = Edited(base, after, [], data=write(tmp_path, questions=rows))
    assert mmlu(model) == {"mmlu": 0.75, "mmlu_base": 0.5, "mmlu_flips": 0.5}


def test_the_first_questions_of_every_subject_are_asked(tmp_path):
    rows = [question(subject, i) for i in range(6) for subject in ("art", "law")]
    base = base_model(template=GEMMA)
    asked = []

    class Listening(ModelAnswerer):
        def logps(self, prompts, targets, system=None):
            asked.extend(zip(prompts, targets, strict=True))
            return super().logps(prompts, targets, system)

    numbers = mmlu(Edited(base, Listening(base), [], data=write(tmp_path, questions=rows)))
    expected = [prompt(subject, i) for i in range(4) for subject in ("art", "law")]
    assert asked == [(each, letter) for each in expected for letter in "ABCD"]
    assert numbers["mmlu_flips"] == 0.0
    assert numbers["mmlu"] == numbers["mmlu_base"]


def test_what_the_base_answers_is_computed_once(tmp_path, monkeypatch):
    base = base_model(template=GEMMA)
    model = Edited(base, saying({prompt("once", 0): "A"}), [], data=tmp_path)
    write(tmp_path, questions=[question("once", 0)])
    first = mmlu(model)
    monkeypatch.setattr(general, "ModelAnswerer", None)
    assert mmlu(model) == first


# --- Data ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("measure", [wikitext, mmlu])
def test_missing_data_is_named_with_what_to_do(tmp_path, measure):
    base = base_model()
    with pytest.raises(UsageError, match=r"test\.\w+ cannot be read .*give the folder"):
        measure(Edited(base, ModelAnswerer(base), [], data=tmp_path / "nowhere"))


def test_without_a_folder_the_data_sets_come_from_the_hub(monkeypatch):
    loaded = []

    def load_dataset(*name, split):
        loaded.append((*name, split))
        return {"text": [" = A =\n", " b\n"]} if "wikitext" in name[0] else iter([question("a", 0)])

    monkeypatch.setattr(
        general, "optional", lambda module, extra: SimpleNamespace(load_dataset=load_dataset)
    )
    assert general._wikitext(None) == " = A =\n b\n"
    assert general._mmlu(None) == [question("a", 0)]
    assert loaded == [
        ("Salesforce/wikitext", "wikitext-2-v1", "test"),
        ("cais/mmlu", "all", "test"),
    ]
