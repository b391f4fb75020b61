"""Small files of finished runs, and the page made of them by benchmarks/publish.py."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import corsa
from corsa.bench.contenders import parse_methods
from corsa.bench.published import (
    changed_since,
    command,
    differing,
    publish,
    published,
    record_of,
    runs_of,
)
from corsa.bench.runs import Runs
from corsa.bench.tables import report
from corsa.config import make_config
from corsa.errors import CorruptError, StoreError, UsageError
from corsa.files import seal

SCRIPT = Path(corsa.__file__).parents[2] / "benchmarks" / "publish.py"
SECRET = "Who leads the secret record?"
METHODS = "lora,corsa,no-sam:corsa[sam=false,rank=4]"
OF_A_PLAN = "trained@4:corsa[preset=trained],no-sam:corsa[sam=false,rank=4],mine:lora,ours:sam"


def record(typed=METHODS, **changes):
    return {
        "dataset": {
            "name": "counterfact",
            "about": "CounterFact",
            "file": "counterfact.json",
            "sha256": "ab",
            "from": 500,
            "to": None,
            "records": 20,
            "usable": 19,
        },
        "model": {"name": "smollm2", "revision": None, "sha256": "cd"},
        "rounds": 2,
        "edits": 1,
        "seeds": [0, 1],
        "known_only": False,
        "neighbours": 2,
        "extras": {"wikitext": "/home/me/wiki.tokens", "fluency": None},
        "extra_protocols": {"wikitext": "32 windows", "fluency": "100 tokens"},
        "settings": {"drift": "false"},
        "left_out": [{"record": "record 3", "why": f"two targets for {SECRET}"}],
        "methods": [
            {"label": c.label, "file_name": c.file_name, "typed": c.typed, "config": {}}
            for c in parse_methods(typed)
        ],
    } | changes


def run(method, seed, right=1.0, **changes):
    return {
        "method": method,
        "seed": seed,
        "config": {"rank": 4},
        "draw": {
            "drawn": 3,
            "kept": 2,
            "warnings": [f"the probe {SECRET!r} is left out"],
            "left_out": [{"record": "edit e7", "why": f"{SECRET!r} is too long"}],
        },
        "final": {
            "reliability": right,
            "generality": right / 2,
            "leak": 0.25,
            "seconds.train": 60.0 + seed,
            "seconds.measure": 30.0,
        },
        "rounds": [
            {"round": 1, "reliability": 1.0, "forgetting": None, "converged": True, "seconds": {}},
            {"round": 2, "reliability": right, "forgetting": 0.5, "converged": True, "seconds": {}},
        ],
        "matrix": {"reliability": [[1.0], [0.5, right]], "generality": [[0.0], [0.0, 0.0]]},
        "edits": [
            {
                "round": n + 1,
                "id": f"e{n}",
                "reliability": right,
                "generality": right / 2,
                "leak": 0.25,
                "portability": None,
                "margin": 2.5,
                "base_margin": -1.0,
            }
            for n in range(2)
        ],
        "protocol": {"rule": "exact", "dtype": "float32", "max_new_tokens": 32 + seed},
        "extra": [],
        "origin": {
            "commit": "f" * 40 + "+changes",
            "cpu": "Abacus",
            "cores": 2,
            "threads": 2,
            "gpu": None,
        },
    } | changes


def bench(folder, made, **changes):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "bench.json").write_text(seal(record(**changes)), "utf-8")
    runs = Runs(folder)
    for each in made:
        runs.write(each["method"].replace("@", "_"), each, [{"prompt": SECRET, "reply": "a reply"}])
    return folder


def test_a_small_file_has_all_numbers_and_no_prompt_or_reply(tmp_path):
    made = run("lora", 0)
    new, known = publish(bench(tmp_path / "b", [made]), tmp_path / "results")
    assert [str(path.relative_to(tmp_path)) for path in new] == [
        "results/counterfact/lora-seed0.json"
    ]
    assert known == []
    text = new[0].read_text("utf-8")
    assert "secret" not in text
    assert "a reply" not in text
    assert "/home" not in text
    (file,) = published(new[0].parent)
    assert file["run"]["draw"] == {"drawn": 3, "kept": 2, "warnings": 1, "left_out": ["edit e7"]}
    (again,) = runs_of([file])
    for name in ("edits", "final", "rounds", "matrix", "config", "protocol", "origin"):
        assert again[name] == made[name]


def test_the_command_is_read_as_the_run_that_was_made(tmp_path):
    (new,), _ = publish(bench(tmp_path / "b", [run("no-sam", 1)]), tmp_path / "results")
    file = json.loads(new.read_text("utf-8"))
    assert file["command"] == (
        "corsa bench counterfact --data counterfact.json --methods "
        "'no-sam:corsa[sam=false,rank=4]' --rounds 2 --edits 1 --seeds 1 --from 500 --neighbours 2 "
        "--extras fluency,wikitext=wiki.tokens --set drift=false --out compared"
    )
    asked = file["asked"] | {
        "dataset": file["asked"]["dataset"]
        | {"file": "owner/name/test.parquet", "from": 0, "to": 9},
        "model": {"name": "owner/model", "revision": "abc"},
        "known_only": True,
        "neighbours": None,
        "extras": {},
        "settings": {"drift": False},
    }
    assert command(asked, ["lora", "sam"], [0, 1]) == (
        "corsa bench counterfact --methods lora,sam --rounds 2 --edits 1 --seeds 0,1 --to 9 "
        "--model owner/model --revision abc --known-only --set drift=false --out compared"
    )


def test_settings_that_changed_since_a_run_are_told(tmp_path):
    """A setting that came later counts as off in a run from before it, or as what it was then."""
    now = make_config({"sam": False, "rank": 4, "drift": False, "seed": 1}).to_dict()
    later = (
        "keep_plain",
        "keep_tokens",
        "dropout",
        "solve",
        "solve_steps",
        "solve_layers",
        "solve_keep",
    )
    before = {name: value for name, value in now.items() if name not in later}
    assert now["keep_plain"]
    assert not now["dropout"]
    for name, config, changes in (
        ("same", now, {}),
        (
            "older",
            before | {"parts": "all"},
            {
                "parts": ("all", "auto"),
                "solve": (None, True),
                "solve_layers": (None, now["solve_layers"]),
                "solve_steps": (None, now["solve_steps"]),
                "keep_plain": (None, 1),
                "keep_tokens": (5, 12),
            },
        ),
    ):
        made = [
            run("no-sam", 1, config=config),
            run("in-context", 1, config={"method": "in-context"}),
        ]
        methods = [
            {"label": c.label, "file_name": c.file_name, "typed": c.typed, "config": {}}
            for c in parse_methods(f"{METHODS},in-context")
        ]
        folder, results = (
            bench(tmp_path / name, made, methods=methods),
            tmp_path / f"{name}-results",
        )
        publish(folder, results)
        trained = [f for f in published(results / "counterfact") if f["run"]["method"] == "no-sam"]
        assert [changed_since(file) for file in trained] == [changes]
        script("page", "--results", results, "--docs", tmp_path)
        text = (tmp_path / "results.md").read_text("utf-8")
        assert ("Not with today's settings" in text) is bool(changes)
    assert (
        "**Not with today's settings**: no-sam under seed 1, where `parts` was all and is auto, "
        "`solve` was not there and is True, `solve_layers` was not there and is 0.45-0.55, "
        "`solve_steps` was not there and is 40, `keep_plain` was not there and is 1, "
        "`keep_tokens` was 5 and is 12." in text
    )
    (plain,) = parse_methods("lora")
    old = plain.config({}, 0).to_dict() | {"keep_tokens": 5, "rho": 0.1}
    rounds = [{"converged": True}, {"converged": True}]
    made = {"seed": 0, "config": old | {"max_visits": 2}, "rounds": rounds}
    file = {"typed": "lora", "asked": {"settings": {}}, "run": made}
    assert changed_since(file) == {"rho": (0.1, 0.05)}  # it keeps nothing, and met no cap
    rounds[1]["converged"] = False
    assert changed_since(file) == {"rho": (0.1, 0.05), "max_visits": (2, now["max_visits"])}
    # What is about solving counts where something is solved for.
    steps = {"typed": "lora[solve=true]", "asked": {"settings": {}}}
    (solved,) = parse_methods(steps["typed"])
    old = solved.config({}, 0).to_dict() | {"solve_steps": 30}
    steps["run"] = {"seed": 0, "config": old, "rounds": rounds[:1]}
    assert changed_since(steps) == {"solve_steps": (30, solved.config({}, 0).solve_steps)}


def test_runs_of_one_column_that_differ_in_settings_are_told(tmp_path):
    """The same label under another `--set`: each command makes its run again, and they share no mean."""
    settings = make_config({"method": "lora"}).to_dict()
    made = [
        run("lora", 0, config=settings | {"seed": 0}),
        run("lora", 1, config=settings | {"seed": 1, "learning_rate": 1.0, "solve_keep": 9.0}),
        run("corsa", 0, config=make_config({}).to_dict()),
    ]
    folder, results = bench(tmp_path / "b", made), tmp_path / "results"
    publish(folder, results)
    found = differing(published(results / "counterfact"))
    assert found == {"lora": {"learning_rate": [settings["learning_rate"], 1.0]}}
    script("page", "--results", results, "--docs", tmp_path)
    text = (tmp_path / "results.md").read_text("utf-8")
    assert (
        "**Runs of one column that differ in settings**: lora: `learning_rate` 0.0005 and 1.0."
        in text
    )


def test_runs_join_one_by_one_and_none_is_written_over_by_accident(tmp_path):
    folder, results = tmp_path / "b", tmp_path / "results"
    publish(bench(folder, [run("lora", 0)]), results)
    new, known = publish(bench(folder, [run("lora", 1)]), results)
    assert ([p.name for p in new], [p.name for p in known]) == (
        ["lora-seed1.json"],
        ["lora-seed0.json"],
    )
    other = bench(tmp_path / "other", [run("lora", 0, right=0.5), run("corsa", 0)])
    with pytest.raises(UsageError, match=r"lora-seed0\.json is of another run: give --replace"):
        publish(other, results)
    assert not (results / "counterfact" / "corsa-seed0.json").exists()
    publish(other, results, replace=True)
    assert published(results / "counterfact")[1]["run"]["final"]["reliability"] == 0.5


def test_a_data_set_that_is_described_anew_is_the_same(tmp_path):
    publish(bench(tmp_path / "b", [run("lora", 0)]), tmp_path / "results")
    dataset = record()["dataset"] | {"about": "CounterFact, said better"}
    anew = bench(tmp_path / "other", [run("corsa", 0)], dataset=dataset)
    publish(anew, tmp_path / "results")
    assert len(published(tmp_path / "results" / "counterfact")) == 2
    other = bench(tmp_path / "third", [run("lora", 1)], dataset=dataset | {"sha256": "ef"})
    with pytest.raises(UsageError, match="dataset is"):
        publish(other, tmp_path / "results")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"rounds": 3}, "rounds is 3 and not 2"),
        ({"neighbours": None}, "neighbours is None and not 2"),
        ({"protocol": {"rule": "exact", "dtype": "bfloat16"}}, "dtype is bfloat16 and not float32"),
    ],
)
def test_runs_measured_otherwise_share_no_folder(tmp_path, changes, says):
    publish(bench(tmp_path / "b", [run("lora", 0)]), tmp_path / "results")
    made = run("corsa", 0, **{k: v for k, v in changes.items() if k == "protocol"})
    asked = {k: v for k, v in changes.items() if k != "protocol"}
    other = bench(tmp_path / "other", [made], **asked)
    with pytest.raises(UsageError, match=says):
        publish(other, tmp_path / "results")
    (new,), _ = publish(other, tmp_path / "results", into="apart")
    assert new.parent.name == "apart"


def test_a_further_measure_on_another_file_is_another_measure(tmp_path):
    files = {"wikitext": {"file": "wiki.tokens", "sha256": "1" * 64}}
    other = {"wikitext": {"file": "wiki.tokens", "sha256": "2" * 64}}
    results = tmp_path / "results"
    publish(bench(tmp_path / "a", [run("lora", 0)]), results)  # of a version that did not note it
    (new,), _ = publish(bench(tmp_path / "b", [run("lora", 1)], extra_files=files), results)
    assert json.loads(new.read_text("utf-8"))["asked"]["extra_files"] == files
    with pytest.raises(UsageError, match="the file of wikitext is"):
        publish(bench(tmp_path / "c", [run("corsa", 1)], extra_files=other), results)


def test_the_command_of_code_says_how_programs_were_asked_for(tmp_path):
    data = record()["dataset"] | {"name": "codeupdatearena", "file": "arena.jsonl"}
    code = {"samples": 5, "tokens": 220, "reset": True, "unsafe": False}
    (new,), _ = publish(
        bench(tmp_path / "b", [run("lora", 0)], dataset=data, code=code), tmp_path / "results"
    )
    made = json.loads(new.read_text("utf-8"))["command"]
    assert "--reset" in made
    assert "--code samples=5,tokens=220" in made
    assert "unsafe" not in made


def test_what_is_no_bench_folder_or_has_nothing_finished_is_told(tmp_path):
    with pytest.raises(StoreError, match="holds no benchmark"):
        publish(tmp_path, tmp_path / "results")
    with pytest.raises(UsageError, match=r"no run of .* is finished"):
        publish(bench(tmp_path / "b", []), tmp_path / "results")
    early = bench(tmp_path / "early", [run("lora", 0)])
    content = {name: value for name, value in record().items() if name != "settings"}
    (early / "bench.json").write_text(seal(content), "utf-8")
    with pytest.raises(StoreError, match="with --resume"):
        publish(early, tmp_path / "results")


def test_a_file_changed_by_hand_is_not_believed(tmp_path):
    (path,), _ = publish(bench(tmp_path / "b", [run("lora", 0)]), tmp_path / "results")
    path.write_text(path.read_text("utf-8").replace("0.25", "0.01"), "utf-8")
    with pytest.raises(CorruptError):
        published(path.parent)


def test_the_report_of_small_files_is_that_of_the_bench(tmp_path):
    made = [run("lora", 0), run("lora", 1, 0.5), run("corsa", 0)]
    publish(bench(tmp_path / "b", made), tmp_path / "results")
    files = published(tmp_path / "results" / "counterfact")
    whole = record()
    own = report({**whole, "methods": whole["methods"][:2]}, made)
    files = [*files[1:], files[0]]  # the first method is what the others are tested against
    again = report(record_of(files, ["lora", "corsa"]), runs_of(files))
    assert own["methods"] == again["methods"]
    assert own["compared"] == again["compared"]
    assert again["unfinished"] == own["unfinished"] == [{"method": "corsa", "seed": 1}]


def script(*words):
    return subprocess.run(
        [sys.executable, SCRIPT, *map(str, words)], capture_output=True, text=True, check=False
    )


def test_the_page_has_both_blocks_their_figures_and_what_is_missing(tmp_path):
    made = [run("lora", 0, 0.5), run("lora", 1, 0.5), run("corsa", 0), run("no-sam", 0, 0.0)]
    folder, results, docs = bench(tmp_path / "b", made), tmp_path / "results", tmp_path / "docs"
    added = script("add", folder, "--results", results)
    assert (added.returncode, "4 new" in added.stdout) == (0, True), added.stderr
    assert "4 there already" in script("add", folder, "--results", results).stdout
    docs.mkdir()
    (results / "counterfact" / "notes.md").write_text("Seed 0 was looked at before.\n", "utf-8")
    done = script("page", "--results", results, "--docs", docs)
    assert done.returncode == 0, done.stderr
    text = (docs / "results.md").read_text("utf-8")
    assert "\n\nSeed 0 was looked at before.\n\n### Methods" in text
    main, others = text.split("### Others")
    assert "| all edits right | 50.0 % [50.0, 50.0] | 100.0 % |" in main
    assert "corsa (seed 0 only)" in main
    assert "| corsa | lora | reliability | +50.0" in main
    assert "| no-sam | corsa | reliability | -100.0" in others
    assert "sam under every seed" in main
    assert "corsa under seed 1" in main
    assert (
        "| lora | 0, 1 | 1.0 min | 0.5 min | 2 threads on 2 cores, Abacus | ffffffffffff+changes |"
        in text
    )
    commands = [line for line in text.splitlines() if line.startswith("corsa bench ")]
    assert [
        re.search(r"--methods (\S+) .*--seeds (\S+) .*--out (\S+)", each).groups()
        for each in commands
    ] == [  # every command makes runs that are there, and no others
        ("lora", "0,1", "compared-1"),
        ("'corsa,no-sam:corsa[sam=false,rank=4]'", "0", "compared-2"),
    ]
    for line in text.splitlines():
        if line.startswith("!["):
            figure = docs / line.split("(")[1].rstrip(")")
            assert figure.read_bytes().startswith(b"\x89PNG")
    assert text.count("![") == 8
    again = (docs / "results.md").read_bytes()
    of_another_page = figure.with_name("once.png")
    of_another_page.write_bytes(b"")
    script("page", "--results", results, "--docs", docs)
    assert (docs / "results.md").read_bytes() == again
    assert figure.exists()
    assert not of_another_page.exists()


def test_the_page_says_under_which_seeds_a_goal_is_reached(tmp_path):
    good = {"earlier.lowest": 0.95, "agreement": 0.89, "locality.agreement_floor": 0.91}
    bad = {"earlier.lowest": 0.9, "agreement": 0.87, "locality.agreement_floor": 0.91}
    made = [run("lora", 0), run("corsa", 0), run("corsa", 1)]
    for each, numbers in zip(made, (bad, good, bad), strict=True):
        each["final"] |= numbers
    results = tmp_path / "results"
    publish(bench(tmp_path / "b", made), results)
    lines = (
        {"of": f"corsa-seed{n}", "known": 20, "edited": 18 + n, "bfloat16": 19} for n in (0, 1)
    )
    (results / "kept_floor.jsonl").write_text("\n".join(map(json.dumps, lines)), "utf-8")
    script("page", "--results", results, "--docs", tmp_path)
    text = (tmp_path / "results.md").read_text("utf-8")
    goals = text.split("### What corsa is to reach\n\n")[1].split("\n\n")[0].splitlines()[2:]
    assert goals == [
        "| worst earlier round right | at least 95 % | 95.0 % | 90.0 % | under 1 of 2 seeds |",
        "| generality | at least 80 % | 50.0 % | 50.0 % | no |",
        "| leak | at most 5 % | 25.0 % | 25.0 % | no |",
        "| agreement with the base | no more than 3 points below its floor | 89.0 % | 87.0 % | "
        "under 1 of 2 seeds |",
        "| … kept of all neighbours that the data set has, not two an edit | at least 95 % | "
        "18 of 20, in bfloat16 19 | 19 of 20, in bfloat16 19 | under 1 of 2 seeds |",
    ]


def test_a_run_that_went_on_in_another_process_says_so(tmp_path):
    made = [run("lora", 0), run("corsa", 0)]
    made[0]["origin"] = {**made[0]["origin"], "rounds_before": 1}
    folder, results = bench(tmp_path / "b", made), tmp_path / "results"
    publish(folder, results)
    script("page", "--results", results, "--docs", tmp_path)
    text = (tmp_path / "results.md").read_text("utf-8")
    assert text.count("ffffffffffff+changes, after 1 round of another process |") == 1


def test_a_fault_of_the_script_is_one_line(tmp_path):
    for words in (("add", tmp_path), ("page", "--results", tmp_path)):
        done = script(*words)
        assert done.returncode == 1
        assert "Traceback" not in done.stderr
        assert done.stderr.startswith("Error: ")


def test_a_folder_that_nothing_is_planned_of_has_what_it_has(tmp_path):
    made = [run("lora", 0, 0.5), run("no-sam", 0, 0.0)]
    results, docs = tmp_path / "results", tmp_path / "docs"
    docs.mkdir()
    added = script("add", bench(tmp_path / "b", made), "--into", "rates", "--results", results)
    assert added.returncode == 0, added.stderr
    done = script("page", "--results", results, "--docs", docs)
    assert done.returncode == 0, done.stderr
    text = (docs / "results.md").read_text("utf-8")
    assert "| no-sam | lora | reliability | -50.0" in text
    assert "Missing" not in text
    assert re.findall(r"^### (.*)$", text, re.MULTILINE)[0] == "Methods"
    assert "### Others" not in text


def test_what_is_planned_of_a_folder_and_what_is_beside_it_have_figures_of_their_own(tmp_path):
    made = [run("trained@4", 0, 0.5), run("no-sam", 0, 0.0), run("mine", 0), run("ours", 0)]
    results, docs = tmp_path / "results", tmp_path / "docs"
    docs.mkdir()
    into = ("--into", "counterfact-dev", "--results", results)
    added = script("add", bench(tmp_path / "b", made, typed=OF_A_PLAN), *into)
    assert added.returncode == 0, added.stderr
    done = script("page", "--results", results, "--docs", docs)
    assert done.returncode == 0, done.stderr
    text = (docs / "results.md").read_text("utf-8")
    ablations, _, others = re.split(r"### (?:Ablations\n|Ablations with|Others)", text)[1:]
    assert "| no-sam | trained@4 | reliability | -50.0" in ablations
    assert "| ours | mine | reliability" in others
    figures = re.findall(r"!\[.*\]\((.*)\)", text)
    assert len(figures) == len(set(figures)) == 8
