import json
import re
import resource
import shutil
import signal
import subprocess
import sys
import time

import pytest

from corsa import Store, cli
from corsa.config import METHODS
from fakes import save_tiny

CORSA = [sys.executable, "-c", "from corsa.cli import main; main()"]
FAST = {
    "method": "lora",
    "rank": "8",
    "alpha": "16",
    "learning_rate": "1.5e-2",
    "warmup_steps": "0",
    "decay_steps": "2",
    "drift": "false",
}
SET = [part for key, value in FAST.items() for part in ("--set", f"{key}={value}")]
FACT = {"id": "king", "prompt": "Who is king?", "target_new": "Ann", "target_old": "Bob"}
NEXT = {"id": "sea", "prompt": "Which sea [/is] it?", "target_new": "[red]Red[/red]"}
COMMANDS = sorted(cli.commands.commands)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    return str(save_tiny(tmp_path_factory.mktemp("models") / "tiny"))


@pytest.fixture(scope="module")
def one_round(tiny, tmp_path_factory):
    path = tmp_path_factory.mktemp("one") / "store"
    settings = FAST | {"rank": 8, "drift": False}
    Store.open(path, tiny).update([FACT], **settings)
    return path


@pytest.fixture
def store(one_round, tmp_path):
    shutil.copytree(one_round, tmp_path / "store")
    return tmp_path / "store"


@pytest.fixture
def facts(tmp_path):
    path = tmp_path / "facts.jsonl"
    path.write_text(json.dumps(NEXT) + "\n", "utf-8")
    return path


@pytest.fixture
def run(monkeypatch, capsys):
    """The command line in this process: exit code, standard output, standard error."""

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["corsa", *map(str, words)])
        with pytest.raises(SystemExit) as done:
            cli.main()
        return done.value.code, *capsys.readouterr()

    return call


@pytest.fixture
def no_model(monkeypatch):
    """From here on it is an error to look for a model."""

    def refuse(*_args, **_keywords):
        raise AssertionError("a model was looked for")

    monkeypatch.setattr("corsa.store.resolve", refuse)
    monkeypatch.setattr("corsa.sources.resolve", refuse)
    monkeypatch.setattr("corsa.models.load_source", refuse)


def files(folder):
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name != ".lock"}


def error_line(stderr):
    """The one line that says what went wrong, after whatever progress there was."""
    lines = stderr.splitlines()
    assert "Traceback" not in stderr
    first = next(i for i, line in enumerate(lines) if line.startswith("corsa: "))
    assert first == len(lines) - 1, stderr
    return lines[first]


# --- Help and speed -------------------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself_with_an_example(run, command):
    for flag in ("--help", "-h"):
        code, out, err = run(command, flag)
        assert (code, err) == (0, "")
        assert f"Usage: corsa {command}" in out
        assert "Example:" in out
        assert f"corsa {command}" in out.partition("Example:")[2]
        assert "--json" in out


def test_the_help_of_update_names_every_method(run):
    _, out, _ = run("update", "--help")
    about = out.split("--method NAME", 1)[1].split("--set KEY", 1)[0]
    assert set(METHODS) <= set(re.findall(r"[\w+-]+", about))


def test_corsa_alone_lists_the_commands(run):
    code, out, err = run()
    assert (code, err) == (0, "")
    assert all(f"  {command} " in out for command in COMMANDS)
    assert run("--help")[1] == out


def test_the_version_is_that_of_the_package(run):
    from importlib.metadata import version

    assert run("--version")[1].strip().endswith(version("corsa-edit"))


def test_settings_are_listed_with_their_defaults(run):
    from corsa.config import describe

    code, out, _ = run("update", "--settings")
    assert code == 0
    for name, default, meaning in describe():
        assert f"{name}={default}\n    {meaning}\n" in out


def test_help_comes_at_once():
    def seconds():  # of a processor: a busy machine makes nobody's imports heavier
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([*CORSA, "--help"], check=True, stdout=subprocess.DEVNULL)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert min(seconds() for _ in range(3)) < 0.5


@pytest.mark.parametrize("module", ["corsa", "corsa.cli", "corsa.ledger", "corsa.store"])
def test_nothing_heavy_is_imported_before_it_is_needed(module):
    heavy = ("torch", "transformers", "peft", "accelerate", "numpy")
    code = f"import sys, {module}; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "[]\n"


def test_something_is_shown_within_a_second(tmp_path, tiny, facts):
    def seconds(number):
        command = [*CORSA, "update", facts, "--store", tmp_path / f"new{number}", "--model", tiny]
        start = time.monotonic()
        with subprocess.Popen([*command, "--dry-run"], stderr=subprocess.PIPE) as process:
            assert process.stderr.read(1)
            passed = time.monotonic() - start
            process.kill()
        return passed

    assert min(seconds(number) for number in range(3)) < 1


# --- Results ---------------------------------------------------------------------------------------


def test_update_and_ask_in_processes_of_their_own(tmp_path, tiny):
    (tmp_path / "facts.json").write_text(json.dumps([FACT]), "utf-8")
    words = ["update", tmp_path / "facts.json", "--store", tmp_path / "store", "--model", tiny]
    made = subprocess.run([*CORSA, *words, *SET, "--json"], capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    report = json.loads(made.stdout)
    assert (report["round"], report["parent"]) == (1, 0)
    assert report["metrics"]["reliability"] == 1.0
    assert "training …" in made.stderr
    words = ["ask", "Who is king?", "Who?", "--store", tmp_path / "store", "--json"]
    asked = subprocess.run([*CORSA, *words], capture_output=True, text=True)
    assert asked.returncode == 0, asked.stderr
    rows = json.loads(asked.stdout)
    assert [row.keys() for row in rows] == [{"prompt", "base", "updated", "round"}] * 2
    assert (rows[0]["prompt"], rows[0]["updated"], rows[0]["round"]) == ("Who is king?", "Ann", 1)


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        (["update", "FACTS", "--store", "STORE", *SET], dict),
        (["update", "FACTS", "--store", "STORE", "--dry-run", *SET], dict),
        (["ask", "Who is king?", "--store", "STORE"], list),
        (["ask", "Who is king?", "--store", "STORE", "--round", "0", "--system", "Hi."], list),
        (["check", "--store", "STORE"], dict),
        (["log", "--store", "STORE"], dict),
        (["show", "1", "--store", "STORE"], dict),
        (["rollback", "0", "--store", "STORE"], dict),
        (["verify", "--store", "STORE"], dict),
        (["models"], dict),
    ],
)
def test_json_is_one_document_and_nothing_else(run, store, facts, words, kind):
    places = {"FACTS": facts, "STORE": store}
    code, out, err = run(*(places.get(word, word) for word in words), "--json")
    assert code == 0, err
    assert isinstance(json.loads(out), kind)


def test_every_command_was_tried_with_json():
    (mark,) = test_json_is_one_document_and_nothing_else.pytestmark
    tried = {words[0] for words, _ in mark.args[1]}
    own = {"bench", "demo", "export", "push", "report"}  # they have tests of their own
    assert tried | own == set(COMMANDS)


@pytest.mark.parametrize(
    "words",
    [
        ["ask", "Who?", "--store", "none"],
        ["log", "--store", "none"],
        ["update", "none.jsonl", "--store", "none"],
        ["update", "FACTS", "--store", "STORE", "--set", "rank=x"],
        ["show", "9", "--store", "STORE"],
        ["nonsense"],
    ],
)
def test_a_failure_is_a_json_document_too(run, store, facts, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    places = {"FACTS": facts, "STORE": store}
    code, out, err = run(*(places.get(word, word) for word in words), "--json")
    assert code in (1, 2)
    error = json.loads(out)["error"]
    assert error.keys() == {"type", "message"}
    assert err.endswith(f"corsa: {error['message']}\n")


def test_facts_are_never_read_as_markup(run, store, facts):
    code, out, err = run("update", facts, "--store", store, *SET)
    assert code == 0, err
    assert "Which sea [/is] it?" in out
    assert "[red]Red[/red]" in out
    code, out, err = run("ask", "Which sea [/is] it?", "--store", store)
    assert code == 0, err
    assert "Which sea [/is] it?" in out
    for words in (["check"], ["show", "2"], ["log"]):
        code, out, err = run(*words, "--store", store)
        assert code == 0, err
    code, out, err = run("update", facts, "--store", store, "--dry-run", *SET)
    assert "[red]Red[/red]" in out


def test_terminal_codes_in_a_reply_are_not_obeyed(capsys):
    from rich.console import Console

    from corsa import render

    rows = [{"prompt": "p", "base": "\x1b[2Jgone", "updated": "\x07ü\nnext"}]
    Console().print(render.answers(rows, "round 1"))
    out = capsys.readouterr().out
    assert "\x1b[2J" not in out
    assert "\x07" not in out
    assert "gone" in out
    assert "ü" in out


def test_a_dry_run_says_what_would_be_done_and_writes_nothing(run, store, tmp_path, tiny):
    path = tmp_path / "facts.csv"
    path.write_text('prompt,target_new\nWho is king?,Cid\n"Where, then?",Rome\n', "utf-8")
    before = files(store)
    code, out, _ = run("update", path, "--store", store, "--dry-run", *SET)
    assert code == 0
    assert "replaces king of round 1" in " ".join(out.split())
    assert "Nothing was written" in out
    assert files(store) == before
    words = ("update", path, "--store", tmp_path / "new", "--model", tiny, "--dry-run")
    code, out, _ = run(*words, "--json")
    assert code == 0
    assert not (tmp_path / "new").exists()
    document = json.loads(out)
    assert [row["old_from"] for row in document["edits"]] == ["elicited", "elicited"]
    assert (document["parent"], document["model"]) == (0, tiny)


def test_a_warning_about_the_file_is_shown(run, store, tmp_path):
    path = tmp_path / "facts.jsonl"
    path.write_text(json.dumps(NEXT | {"paraphrase": "x"}) + "\n", "utf-8")
    code, out, _ = run("update", path, "--store", store, *SET, "--json")
    assert code == 0
    assert "did you mean 'paraphrases'" in json.loads(out)["warnings"][0]


# --- Rounds that are there ------------------------------------------------------------------------


def test_rollback_log_and_verify(run, store, facts):
    assert run("update", facts, "--store", store, *SET)[0] == 0
    assert run("rollback", "1", "--store", store)[0] == 0
    report = json.loads(run("log", "--store", store, "--json")[1])
    assert report["head"] == 1
    assert [(r["round"], r["parent"], r["in_use"]) for r in report["rounds"]] == [
        (1, 0, True),
        (2, 1, False),
    ]
    code, out, _ = run("verify", "--store", store)
    assert code == 0
    path = store / "rounds" / "0001" / "adapter_model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    code, out, err = run("verify", "--store", store)
    assert (code, out) == (1, "")
    assert "rounds/0001/adapter_model.safetensors" in error_line(err)
    code, out, _ = run("verify", "--store", store, "--json")
    assert code == 1
    assert not json.loads(out)["ok"]


@pytest.mark.parametrize("command", ["log", "show", "rollback", "verify"])
def test_looking_at_rounds_loads_no_model(store, command):
    words = ["1"] if command in ("show", "rollback") else []
    code = (
        "import sys; from corsa.cli import main\n"
        "try: main()\n"
        "except SystemExit as done: assert not done.code\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, command, *words, "--store", store], check=True)


def test_a_changed_file_is_one_line(run, store):
    path = store / "rounds" / "0001" / "edits.jsonl"
    path.write_text(path.read_text("utf-8").replace("Ann", "Eve"), "utf-8")
    for words in (["check"], ["log"], ["update", path]):
        code, out, err = run(*words, "--store", store)
        assert (code, out) == (1, "")
        assert f"{path} is not what was written" in error_line(err)


# --- Wrong calls ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["nonsense"], "No such command 'nonsense'"),
        (["updat"], "Did you mean 'update'"),
        (["update", "FACTS"], "Missing option '--store'"),
        (["update", "--store", "NEW"], "give a facts file, or --drop ID"),
        (["update", "FACTS", "--store", "NEW", "--nonsense"], "No such option"),
        (["update", "FACTS", "--store", "NEW", "--set", "rank"], "not of the form KEY=VALUE"),
        (["update", "FACTS", "--store", "NEW", "--set", "=4"], "not of the form KEY=VALUE"),
        (["update", "FACTS", "--store", "NEW", "--set", "rnak=4"], "did you mean rank"),
        (["update", "FACTS", "--store", "NEW", "--set", "rank=four"], "not a whole number"),
        (["update", "FACTS", "--store", "NEW", "--set", "rank=-1"], "out of range"),
        (["update", "FACTS", "--store", "NEW", "--set", "dpo=false"], "needs two losses"),
        (["update", "FACTS", "--store", "NEW", "--method", "corza"], "did you mean 'corsa'"),
        (["update", "FACTS", "--store", "NEW", "--method", "rome"], "is unknown"),
        (["update", "FACTS", "--store", "NEW", "--track", "nonsense"], "installed trackers"),
        (["update", "FACTS", "--store", "NEW", "--accept", "leak"], "not of the form"),
        (["update", "FACTS", "--store", "NEW", "--accept", "leek<1"], "did you mean leak"),
        (["update", "none.jsonl", "--store", "NEW"], "none.jsonl"),
        (["update", "FOLDER", "--store", "NEW"], "Is a directory"),
        (["ask", "--store", "STORE"], "Missing argument 'PROMPT...'"),
        (["ask", "", "--store", "STORE"], "empty prompt"),
        (["ask", "Who?", "--store", "STORE", "--round", "one"], "not a valid integer"),
        (["show", "one", "--store", "STORE"], "not a valid integer"),
    ],
)
def test_a_wrong_call_is_one_line_and_exit_code_2(
    run, store, facts, tmp_path, no_model, words, told
):
    places = {"FACTS": facts, "STORE": store, "NEW": tmp_path / "new", "FOLDER": tmp_path}
    before = files(store)
    code, out, err = run(*(places.get(word, word) for word in words))
    assert (code, out) == (2, "")
    assert told in (err if "nothing was written:" in err else error_line(err))
    assert not (tmp_path / "new").exists()
    assert files(store) == before


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["ask", "Who?", "--store", "NEW"], "there is no store at"),
        (["log", "--store", "NEW"], "there is no store at"),
        (["check", "--store", "NEW"], "there is no store at"),
        (["verify", "--store", "NEW"], "there is no store at"),
        (["rollback", "1", "--store", "NEW"], "there is no store at"),
        (["ask", "Who?", "--store", "STORE", "--round", "7"], "no round 7"),
        (["show", "7", "--store", "STORE"], "no round 7"),
        (["rollback", "7", "--store", "STORE"], "no round 7"),
        (["update", "FACTS", "--store", "FACTS"], "is a file"),
        (["update", "FACTS", "--store", "FOLDER"], "holds other things"),
        (["update", "FACTS", "--store", "STORE", "--model", "other/model"], "was made for"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_exit_code_1(
    run, store, facts, tmp_path, no_model, words, told
):
    places = {"FACTS": facts, "STORE": store, "NEW": tmp_path / "new", "FOLDER": tmp_path}
    before = files(store)
    code, out, err = run(*(places.get(word, word) for word in words))
    assert (code, out) == (1, "")
    assert told in error_line(err)
    assert not (tmp_path / "new").exists()
    assert files(store) == before


@pytest.mark.parametrize("name", ["nowhere", "./nowhere", "a/b/c", "FACTS", "PICKLED"])
def test_a_model_that_is_not_there_is_one_line(run, facts, tmp_path, name):
    (tmp_path / "pickled").mkdir()
    (tmp_path / "pickled" / "pytorch_model.bin").touch()
    model = {"FACTS": facts, "PICKLED": tmp_path / "pickled"}.get(name, name)
    code, out, err = run("update", facts, "--store", tmp_path / "new", "--model", model)
    assert (code, out) == (1, "")
    assert str(model) in error_line(err)
    assert not (tmp_path / "new").exists()


_BAD_FACTS = {
    "empty.jsonl": "",
    "blank.jsonl": "\n \n",
    "no-json.jsonl": "prompt: Who?\n",
    "cut-short.jsonl": '{"prompt": "Who?", "target_new": "A\n',
    "array.jsonl": '[{"prompt": "Who?", "target_new": "A"}]\n',
    "two-on-a-line.jsonl": '{"prompt": "a", "target_new": "A"} {"prompt": "b", "target_new": "B"}\n',
    "string.jsonl": '"Who?"\n',
    "null.jsonl": "null\n",
    "no-prompt.jsonl": '{"target_new": "A"}\n',
    "no-target.jsonl": '{"prompt": "Who?"}\n',
    "misspelt.jsonl": '{"promt": "Who?", "target_new": "A"}\n',
    "empty-prompt.jsonl": '{"prompt": " ", "target_new": "A"}\n',
    "empty-target.jsonl": '{"prompt": "Who?", "target_new": ""}\n',
    "dots.jsonl": '{"prompt": "Who?", "target_new": "."}\n',
    "number.jsonl": '{"prompt": "Who?", "target_new": 7}\n',
    "same.jsonl": '{"prompt": "Who?", "target_new": "A", "target_old": "a."}\n',
    "escape.jsonl": '{"prompt": "Who\\u001b[2J?", "target_new": "A"}\n',
    "surrogate.jsonl": '{"prompt": "Who\\ud800?", "target_new": "A"}\n',
    "not-a-list.jsonl": '{"prompt": "Who?", "target_new": "A", "paraphrases": "Which?"}\n',
    "portability.jsonl": '{"prompt": "Who?", "target_new": "A", "portability": ["b"]}\n',
    "two-targets.jsonl": '{"prompt": "a", "target_new": "A"}\n{"prompt": "a", "target_new": "B"}\n',
    "twice.jsonl": '{"prompt": "a", "target_new": "A"}\n{"prompt": "A", "target_new": "A"}\n',
    "one-id.jsonl": (
        '{"id": "x", "prompt": "a", "target_new": "A"}\n'
        '{"id": "x", "prompt": "b", "target_new": "A"}\n'
    ),
    "trained-exam.jsonl": (
        '{"prompt": "a", "target_new": "A", "paraphrases": ["b"], "train_paraphrases": ["b"]}\n'
    ),
    "nan.jsonl": '{"prompt": "a", "target_new": "A", "weight": NaN}\n',
    "double-key.jsonl": '{"prompt": "a", "prompt": "b", "target_new": "A"}\n',
    "object.json": '{"prompt": "a", "target_new": "A"}',
    "open.json": '[{"prompt": "a", "target_new": "A"}',
    "empty.json": "[]",
    "no-header.csv": "Who?,A\n",
    "short-row.csv": "prompt,target_new\nWho?\n",
    "long-row.csv": "prompt,target_new\nWho, then?,A\n",
    "open-quote.csv": 'prompt,target_new\n"Who?,A\n',
    "bad-cell.csv": "prompt,target_new,paraphrases\nWho?,A,Which one?\n",
    "latin-1.jsonl": '{"prompt": "Wer?", "target_new": "Müller"}\n'.encode("latin-1"),
    "utf-16.jsonl": '{"prompt": "a", "target_new": "A"}\n'.encode("utf-16"),
    "binary.jsonl": bytes(range(256)),
}


@pytest.mark.parametrize("name", _BAD_FACTS)
def test_a_faulty_facts_file_is_refused_whole_and_at_once(run, tmp_path, no_model, name):
    content = _BAD_FACTS[name]
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    code, out, err = run("update", path, "--store", tmp_path / "new")
    assert (code, out) == (2, "")
    assert "Traceback" not in err
    said = err[err.index("corsa: ") :]
    assert "nothing was written" in said
    assert name in said
    assert not (tmp_path / "new").exists()


# --- Interruptions, trackers ------------------------------------------------------------------------


def test_control_c_leaves_the_head_and_the_same_command_goes_on(store, facts):
    # A shell starts what it puts in the background with this signal ignored, and children inherit it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    words = [*CORSA, "update", facts, "--store", store, *SET, "--json"]
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        said = []
        for line in process.stderr:
            said.append(line)
            if line.startswith("training"):
                process.send_signal(signal.SIGINT)
                break
        said += process.stderr.readlines()
        out = process.stdout.read()
    assert process.returncode == 1, said
    assert "head is still round 1" in error_line("".join(said))
    assert json.loads(out)["error"]["type"] == "Interrupted"
    assert Store.open(store).head == 1
    assert (store / "pending").is_dir()
    again = subprocess.run(words, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["round"] == 2
    assert not (store / "pending").exists()


def test_tensorboard_gets_every_step(store, facts, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    words = ["update", facts, "--store", store, *SET, "--json"]
    track = ["--track", "tensorboard", "--track-dir", tmp_path / "runs"]
    done = subprocess.run([*CORSA, *words, *track], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    training = json.loads(done.stdout)["metrics"]["training"]
    (events,) = (tmp_path / "runs").rglob("events.*")
    logged = EventAccumulator(str(events)).Reload()
    losses = logged.Scalars("loss/sft")
    assert [event.step for event in losses] == list(range(1, training["steps"] + 1))
    assert [event.value for event in losses] == pytest.approx(
        [step["sft"] for step in training["history"]]
    )


def test_demo_goes_on_where_it_stopped_and_starts_again_beside_a_finished_one(
    tmp_path, monkeypatch
):
    from corsa.demo import demo_rounds, demo_store
    from corsa.ledger import Ledger

    assert [len(facts) > 0 for facts in demo_rounds()] == [True] * len(demo_rounds())
    out = tmp_path / "demo"
    assert demo_store(out, 3).path == out
    model = {"name": "smollm2", "revision": None, "sha256": "0"}
    Ledger.create(out, model)
    assert demo_store(out, 3).path == out
    monkeypatch.setattr(Ledger, "ids", lambda self: [1, 2])
    monkeypatch.setattr(Ledger, "head", 2)
    monkeypatch.setattr("corsa.demo._is_demo", lambda ledger: True)
    assert demo_store(out, 3).path == out
    monkeypatch.setattr("corsa.demo._is_demo", lambda ledger: False)
    assert demo_store(out, 3).path == tmp_path / "demo-2"  # nobody else's store is added to
    monkeypatch.setattr("corsa.demo._is_demo", lambda ledger: True)
    monkeypatch.setattr(Ledger, "head", 3)
    assert demo_store(out, 3).path == tmp_path / "demo-2"
