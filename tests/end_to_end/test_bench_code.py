"""`corsa bench codeupdatearena`: taught on a tiny model, asked for programs, and these run."""

import json
import shutil
import tempfile
from pathlib import Path

import pytest

import arena
from calling import call
from corsa.answerers import ModelAnswerer, Reply
from corsa.bench.code import domain, humaneval
from corsa.bench.code.options import CodeOptions
from corsa.bench.code.records import read_arena
from corsa.bench.code.solutions import answer, outdated, question
from corsa.sandbox.environment import make_environment
from fakes import save_tiny

pytestmark = pytest.mark.sandbox

UPDATES = {update.id: update for update in read_arena(arena.UPDATES).updates}
BY_PROMPT = {question(t): (u, t) for u in UPDATES.values() for t in u.tasks}
HUMANEVAL = [
    {
        "task_id": f"HumanEval/{n}",
        "prompt": f'from typing import List\n\n\ndef add{n}(x: int) -> int:\n    """Add {n}."""\n',
        "entry_point": f"add{n}",
        "canonical_solution": f"    return x + {n}\n",
        "test": f"def check(candidate):\n    assert candidate(1) == {1 + n}\n",
    }
    for n in range(3)
]
SOLUTIONS = {humaneval._question(row): row for row in HUMANEVAL}
SET = [w for pair in ("rank=4", "drift=false", "stop=epochs", "epochs=1") for w in ("--set", pair)]
CODE = ["--code", "samples=3,tokens=24,humaneval=2"]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return str(save_tiny(tmp_path_factory.mktemp("models") / "tiny"))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "arena.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in arena.UPDATES), "utf-8")
    return path


@pytest.fixture(scope="module")
def plain():
    folder = Path(tempfile.mkdtemp(prefix="corsa-code-"))
    folder.chmod(0o755)
    yield make_environment(folder)
    shutil.rmtree(folder)


@pytest.fixture(autouse=True)
def _without_libraries(monkeypatch, plain):
    """The invented updates are of modules that every Python has."""
    monkeypatch.setattr(domain, "arena_environment", lambda *_: plain)


@pytest.fixture
def bench(tiny, data):
    def run(out, *words, methods="lora"):
        words = ("--methods", methods, "--model", tiny, "--out", out, *SET, *CODE, *words)
        return call("bench", "codeupdatearena", "--data", data, "--seeds", "0", *words)

    return run


def write_as(monkeypatch, edited, base):
    """A model that writes one thing before it is edited and another after it, and no HumanEval."""

    def samples(self, prompts, count, *_):
        write = base if self.adapter is None else edited
        asked = [BY_PROMPT[p] if p not in SOLUTIONS else None for p in prompts]
        texts = [[write(*of, n) if of else "no" for n in range(count)] for of in asked]
        return [[Reply(text, ()) for text in each] for each in texts]

    monkeypatch.setattr(ModelAnswerer, "samples", samples)


def tasks_file(folder):
    path = folder / "HumanEval.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in HUMANEVAL), "utf-8")
    return path


def reference(update, task, _):
    return f"Here it is:\n{answer(task.reference)}"


def test_who_writes_the_references_has_everything_right_and_who_writes_the_old_call_nothing(
    bench, tmp_path, monkeypatch
):
    def old(update, task, _):
        return answer(outdated(update, task) or "import math")

    write_as(monkeypatch, reference, old)
    code, text, err = bench(tmp_path / "out", "--rounds", 2, "--edits", 1, "--to", 2, "--json")
    assert code == 0, err
    document = json.loads(text)
    found = {name: value["mean"] for name, value in document["methods"]["lora"].items()}
    for k in (1, 2):
        assert found[f"upass@{k}"] == found[f"pass@{k}_new"] == 1
        assert found[f"pass@{k}_old"] == 0
        assert found[f"upass@{k}_base"] == found[f"pass@{k}_new_base"] == 0
        assert found[f"pass@{k}_old_base"] == 0.5  # of two updates one renames a function
    assert (found["accuracy"], found["upass@2.forgetting"], found["tasks"]) == (1, 0, 2)
    assert "upass@5" not in found
    assert document["dataset"]["tasks"] == document["dataset"]["tasks_usable"] == 6
    assert document["protocol"]["programs"].startswith("3 programs a task, T 0.8, top-p 0.7, 24 ")
    assert "; run in the sandbox, 15 s of a processor" in document["protocol"]["programs"]
    retention = (tmp_path / "out" / "retention.csv").read_text("utf-8").splitlines()
    assert {"lora,0,upass,1,1,1.0", "lora,0,upass,2,1,1.0", "lora,0,upass,2,2,1.0"} <= set(
        retention
    )
    lines = (tmp_path / "out" / "generations.jsonl").read_text("utf-8").splitlines()
    programs = [line for line in map(json.loads, lines) if line["kind"] == "task"]
    assert len(programs) == 3 * (2 + 1 + 2)  # base, after round 1, after round 2
    assert {line["verdict"]["passed"] for line in programs if line["after_round"]} == {2}


def test_an_update_that_is_forgotten_is_seen(bench, tmp_path, monkeypatch):
    """What was taught first is written wrong after the second round: F = 1 − 0."""
    taught = []

    def samples(self, prompts, count, *_):
        if self.adapter is not None:
            taught.append(prompts)
        replies = []
        for place, prompt in enumerate(prompts):
            update, task = BY_PROMPT[prompt]
            newest = self.adapter is not None and place == len(prompts) - 1
            text = reference(update, task, 0) if newest else "no"
            replies.append([Reply(text, ())] * count)
        return replies

    monkeypatch.setattr(ModelAnswerer, "samples", samples)
    code, text, err = bench(tmp_path / "out", "--rounds", 2, "--edits", 1, "--json")
    assert code == 0, err
    found = json.loads(text)["methods"]["lora"]
    assert [len(prompts) for prompts in taught] == [1, 2]
    assert found["upass@2"]["mean"] == 0.5
    assert found["upass@2.newest"]["mean"] == 1
    assert found["upass@2.forgetting"]["mean"] == 1


def test_what_does_not_work_here_is_left_out_by_name(bench, tmp_path, monkeypatch):
    write_as(monkeypatch, reference, reference)
    code, _, err = bench(tmp_path / "out", "--rounds", 1, "--edits", 1)
    assert code == 0, err
    page = (tmp_path / "out" / "table.md").read_text("utf-8")
    assert "left out: never_fails: passes without the update, too" in page
    assert "left out: never_passes: 1 of 2 tests fail with the update" in page
    assert "tasks: 11, of which 6 work here in usable updates" in page
    assert "left out: added: has fewer than two tasks that work" in page


def test_every_way_to_teach_runs_for_real(bench, tmp_path):
    """A tiny model writes nonsense; nothing passes, and nothing breaks."""
    methods = (
        "old:corsa[rejected=old],docs:in-context[teach=docs],sft-docs:lora[teach=docs],"
        "both:lora[teach=both],sft+dpo"
    )
    words = ("--rounds", 1, "--edits", 1, "--to", 1, "--keep-stores", "--json")
    code, text, err = bench(tmp_path / "out", *words, methods=methods)
    assert code == 0, err
    document = json.loads(text)
    assert len(document["methods"]) == 5
    for numbers in document["methods"].values():
        assert numbers["upass@1"]["mean"] == 0
        assert numbers["unsolved"]["mean"] == 1
    stores = (tmp_path / "out" / "runs").glob("*.json")
    assert len(list(stores)) == 5

    update = arena.UPDATES[0]
    tasks = [task["prog_syn_id"] for task in update["prog_syn_examples"]]
    docs = f"{update['update']['update_id']}:docs"

    def taught(label):
        round = tmp_path / "out" / "stores" / f"{label}-seed0" / "rounds" / "0001"
        lines = (round / "edits.jsonl").read_text("utf-8").splitlines()
        return {edit["id"]: edit for edit in map(json.loads, lines)}

    examples = CodeOptions().examples
    assert len(tasks) > examples  # one at least is held out
    assert list(taught("sft+dpo")) == list(taught("old")) == tasks[:examples]
    assert list(taught("sft-docs")) == list(taught("docs")) == [docs]
    assert list(taught("both")) == [docs, *tasks[:examples]]
    told = taught("docs")[docs]["target_new"]
    assert update["update"]["docstring"] in told
    assert update["update"]["signature"] in told
    context = tmp_path / "out" / "stores" / "docs-seed0" / "rounds" / "0001" / "context.jsonl"
    assert json.loads(context.read_text("utf-8"))["target_new"] == told


def test_y_minus_is_what_the_model_writes_or_the_old_call(bench, tmp_path, monkeypatch):
    write_as(monkeypatch, reference, reference)
    words = ("--rounds", 1, "--edits", 1, "--to", 1, "--keep-stores")
    code, _, err = bench(tmp_path / "out", *words, methods="sft+dpo,old:sft+dpo[rejected=old]")
    assert code == 0, err
    stores = tmp_path / "out" / "stores"
    for name, given in (("sft+dpo", False), ("old", True)):
        lines = (stores / f"{name}-seed0" / "rounds" / "0001" / "edits.jsonl").read_text("utf-8")
        for edit in map(json.loads, lines.splitlines()):
            assert ("math.sqrt(x)" in edit["target_old"]) is given
            assert (edit["corsa"]["old_from"] == "given") is given


def test_reset_goes_through_the_updates_by_seed(bench, tmp_path, monkeypatch):
    write_as(monkeypatch, reference, reference)
    code, _, err = bench(
        tmp_path / "out", "--reset", "--rounds", 1, "--edits", 1, "--seeds", "0,1", "--json"
    )
    assert code == 0, err
    drawn = [
        json.loads((tmp_path / "out" / "draws" / f"seed{seed}.json").read_text("utf-8"))
        for seed in (0, 1)
    ]
    assert {d["rounds"][0][0]["id"] for d in drawn} == {"renamed", "argument"}
    page = (tmp_path / "out" / "table.md").read_text("utf-8")
    assert "each in a run of its own (--reset)" in page
    code, _, err = bench(tmp_path / "two", "--reset", "--rounds", 2, "--edits", 1)
    assert (code, "--rounds 1 --edits 1" in err) == (2, True)
    words = ("--reset", "--rounds", 1, "--edits", 1, "--seeds", "1,2")
    code, _, err = bench(tmp_path / "three", *words)
    assert (code, "2 work here, give --seeds from 0 to 1" in err) == (2, True)


def test_without_a_sandbox_programs_run_if_that_is_asked_for_and_it_is_said(
    bench, tmp_path, monkeypatch
):
    """Only references are written here. What two methods write alike is run, and counted, once."""
    monkeypatch.setattr("corsa.sandbox.shutil.which", lambda *_, **__: None)
    write_as(monkeypatch, reference, reference)
    monkeypatch.setenv("CORSA_CACHE", str(tmp_path / "cache"))  # the base's replies are remembered
    words = ("--rounds", 1, "--edits", 1, "--to", 1, "--unsafe-no-sandbox", "--json")
    extras = ("--extras", f"humaneval={tasks_file(tmp_path)}")
    code, text, err = bench(tmp_path / "out", *words, *extras, methods="lora,sft+dpo")
    assert code == 0, err
    document = json.loads(text)
    first, second = (document["methods"][name] for name in ("lora", "sft+dpo"))
    assert first["upass@1"]["mean"] == second["upass@1"]["mean"] == 1
    assert first["programs_per_second"]["mean"] > 0
    assert "programs_per_second" not in second
    assert first["humaneval_pass@1"]["mean"] == second["humaneval_pass@1"]["mean"] == 0
    for name in ("programs", "humaneval"):
        assert "run without a sandbox (--unsafe-no-sandbox)" in document["protocol"][name]
    assert "without a sandbox" in (tmp_path / "out" / "table.md").read_text("utf-8")


def test_an_interrupted_run_asks_no_task_twice(bench, tmp_path, monkeypatch):
    asked = []

    def samples(self, prompts, count, *_):
        asked.append(self.adapter is not None)
        if len(asked) == 2:
            raise KeyboardInterrupt
        return [[Reply("no", ())] * count for _ in prompts]

    monkeypatch.setattr(ModelAnswerer, "samples", samples)
    words = ("--rounds", 2, "--edits", 1)
    code, _, err = bench(tmp_path / "out", *words)
    assert (code, "--resume goes on" in err) == (1, True)
    code, _, err = bench(tmp_path / "out", *words, "--resume")
    assert code == 0, err
    assert asked == [True, True, True, False]  # round 1, round 2 twice, the base model


def test_specificity_is_pass_at_k_before_and_after(bench, tmp_path, monkeypatch):
    """The base model is right in all, the edited one in one of three samples; whole or body alone."""

    def samples(self, prompts, count, *_):
        if prompts[0] not in SOLUTIONS:
            return [[Reply("no", ())] * count for _ in prompts]
        replies = []
        for row in map(SOLUTIONS.__getitem__, prompts):
            whole = answer(row["prompt"].partition("\n\n\n")[2] + row["canonical_solution"])
            body = f"```python\n{row['canonical_solution']}```"
            wrong = answer("    return None")
            texts = [whole, body, body] if self.adapter is None else [wrong, wrong, body]
            replies.append([Reply(text, ()) for text in texts])
        return replies

    monkeypatch.setattr(ModelAnswerer, "samples", samples)
    words = ("--rounds", 1, "--edits", 1, "--extras", f"humaneval={tasks_file(tmp_path)}", "--json")
    code, text, err = bench(tmp_path / "out", *words)
    assert code == 0, err
    found = {n: v["mean"] for n, v in json.loads(text)["methods"]["lora"].items()}
    assert found["humaneval_pass@1_base"] == found["humaneval_pass@2_base"] == 1
    assert found["humaneval_pass@1"] == pytest.approx(1 / 3, abs=1e-5)
    assert found["humaneval_pass@2"] == pytest.approx(2 / 3, abs=1e-5)  # 1 − C(2,2)/C(3,2)
    assert found["humaneval_pass@1_change"] == pytest.approx(-2 / 3, abs=1e-5)


# --- What is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--code", "samples=0"], "give NAME=NUMBER"),
        (["--code", "colour=3"], "give NAME=NUMBER"),
        (["--known-only"], "are about facts"),
        (["--methods", "lora[teach=poems]"], "teach is one of examples, docs, both"),
    ],
)
def test_what_makes_no_sense_is_refused(bench, tmp_path, words, said):
    code, _, err = bench(tmp_path / "out", *words)
    assert code == 2
    assert said in err


def test_a_file_without_updates_is_refused_before_anything_is_installed(
    bench, tmp_path, monkeypatch
):
    monkeypatch.setattr(domain, "arena_environment", None)  # calling it would be an error
    path = tmp_path / "facts.jsonl"
    path.write_text('{"prompt": "Who?", "target_new": "Ann"}\n', "utf-8")
    code, _, err = bench(tmp_path / "out", "--data", path)
    assert (code, "has no usable update: record 0: is not in the layout" in err) == (2, True)
    code, _, err = bench(tmp_path / "out", "--from", 90)
    assert (code, "has no usable update in what --from and --to leave" in err) == (2, True)


def test_a_file_without_tasks_is_refused_before_any_reference_is_run(bench, tmp_path, monkeypatch):
    monkeypatch.setattr(domain, "arena_environment", None)
    path = tmp_path / "HumanEval.jsonl"
    path.write_text("", "utf-8")
    code, _, err = bench(tmp_path / "out", "--extras", f"humaneval={path}")
    assert (code, f"{path} holds no tasks" in err) == (2, True)


def test_without_a_file_or_a_sandbox_it_is_refused_and_said_why(bench, tmp_path, monkeypatch):
    code, _, err = call("bench", "codeupdatearena", "--out", tmp_path / "out")
    assert (code, "give it with --data FILE" in err) == (2, True)
    code, _, err = call("bench", "facts", "--methods", "lora[teach=docs]", "--out", tmp_path / "b")
    assert (code, "teach and rejected are for codeupdatearena" in err) == (2, True)
    monkeypatch.setattr("corsa.sandbox.shutil.which", lambda *_, **__: None)
    code, _, err = bench(tmp_path / "out")
    assert code == 1
    assert "bubblewrap is not installed" in err
    assert "--unsafe-no-sandbox runs them as yourself" in err


def test_a_further_measure_that_needs_a_sandbox_is_refused_before_anything_is_trained(
    tiny, tmp_path, monkeypatch
):
    monkeypatch.setattr("corsa.sandbox.shutil.which", lambda *_, **__: None)
    facts, tasks = tmp_path / "facts.jsonl", tmp_path / "HumanEval.jsonl"
    facts.write_text('{"prompt": "Who is king?", "target_new": "Ann"}\n', "utf-8")
    tasks.write_text(json.dumps(HUMANEVAL[0]) + "\n", "utf-8")
    words = ("--model", tiny, "--rounds", 1, "--edits", 1, "--seeds", 0, "--methods", "lora")
    extras = ("--extras", f"humaneval={tasks}", "--out", tmp_path / "out")
    code, _, err = call("bench", "facts", "--data", facts, *words, *extras)
    assert code == 1
    assert "bubblewrap is not installed" in err
    assert not list((tmp_path / "out").glob("stores/lora*"))
