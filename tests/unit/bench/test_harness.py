"""How the harness is called. That its real form answers like this was tried with lm-eval 0.4.13."""

import sys
from types import SimpleNamespace

import pytest

from builders import Scripted, base_model, finished, random_adapter
from corsa.answerers import ContextAnswerer, ModelAnswerer
from corsa.bench import harness as module
from corsa.bench.extras import check_files
from corsa.bench.harness import LIMIT, TASKS, harness
from corsa.errors import UsageError


@pytest.fixture
def edited(monkeypatch):
    """A run, and what the harness was asked, with the adapter that acted meanwhile."""
    base = base_model()
    adapter = random_adapter(base)
    asked = []

    def simple_evaluate(*, model, tasks, limit, bootstrap_iters):
        asked.append((model, tasks, limit, base._active()))
        right = 0.5 if base._active() else 0.25
        values = {"alias": "x", "acc,none": right, "acc_stderr,none": 0.1, "sample_len": 8}
        return {"results": dict.fromkeys(tasks, values)}

    def optional(name, extra):
        assert extra == "lm-eval"
        return SimpleNamespace(
            simple_evaluate=simple_evaluate, HFLM=lambda **given: (name, given["pretrained"])
        )

    monkeypatch.setattr(module, "optional", optional)
    return finished(base=base, after=ModelAnswerer(base, adapter.name)), asked


def test_the_edited_model_is_asked_in_memory(edited):
    run, asked = edited
    numbers = harness(run)
    before = {f"{task}/acc_base": 0.25 for task in TASKS}
    assert numbers == before | {f"{task}/acc": 0.5 for task in TASKS}
    model = ("lm_eval.models.huggingface", run.base.hf)
    assert asked == [(model, list(TASKS), LIMIT, who) for who in (None, "edited")]
    assert run.base._active() is None


def test_tasks_are_read_from_a_file(edited, tmp_path):
    run, asked = edited
    path = tmp_path / "tasks.txt"
    path.write_text("piqa\nmy/task.yaml\n", "utf-8")
    harness(finished(base=run.base, after=run.after, data=path))
    assert asked[0][1] == ["piqa", "my/task.yaml"]
    with pytest.raises(UsageError, match=r"nowhere cannot be read"):
        harness(finished(base=run.base, after=run.after, data=tmp_path / "nowhere"))


def test_who_changes_no_weights_is_not_asked(edited):
    run, asked = edited
    for after in (ContextAnswerer(run.base, [("p", "new")]), Scripted()):
        assert harness(finished(base=run.base, after=after)) == {}
    assert not asked


def test_a_missing_harness_is_named_before_anything_is_trained(monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(UsageError, match=r"pip install 'corsa-edit\[lm-eval\]'"):
        check_files({"lm-eval": None})
