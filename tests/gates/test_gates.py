"""What no single test of a module would notice. Each gate is a few lines; the rows below are the map."""

import ast
import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

import corsa
from corsa.cli import commands
from corsa.config import Config

ROOT = Path(corsa.__file__).parent
README = ROOT.parents[1] / "README.md"

PUBLIC = [
    "Answer",
    "BadEditsError",
    "Config",
    "ConfigError",
    "CorruptError",
    "CorsaError",
    "Edit",
    "Export",
    "HubError",
    "Interrupted",
    "LockedError",
    "ModelError",
    "NotAcceptedError",
    "Plan",
    "Probe",
    "SandboxError",
    "Store",
    "StoreError",
    "TemplateError",
    "TrainingError",
    "Update",
    "UsageError",
    "read_edits",
    "write_bench_report",
    "write_report",
]

# A module imports from rows above its own, never from its own or one below.
ROWS = """
    errors progress sentences bench export sandbox.inside sandbox.limits sandbox.filter
    bench.code bench.code.harness
    sandbox.supervision
    sandbox
    optional quiet files layouts matching losses projection sharpness words model_card lean
    rewording allocator
    sandbox.environment metrics
    config edits chat acceptance checkpoints clock gguf_conversion render
    planning validation packing sources variations naming bench.statistics
    readers ledger tree_attention memory bench.tables bench.figures bench.overlap
    forward bench.runs report.facts report.timeline report.figures report.page
    giving_back pending results step models report.of_store
    null_space sparing siblings
    training answerers report.of_bench
    evaluation company methods values bench.finished bench.upstream report
    solving
    beginning
    methods.lora methods.in_context floors
    methods.ft_l methods.retrieval
    bench.datasets
    bench.code.records
    bench.code.programs bench.code.solutions
    bench.code.testing
    bench.code.references bench.code.passing bench.code.environments bench.code.options
    bench.code.asking bench.code.humaneval
    bench.probabilities bench.fluency bench.general bench.curvature bench.harness
    bench.extras
    examination
    export.request
    export.card export.gguf_layout export.hub
    export.adapter export.merged export.gguf_base export.modelfile
    export.lora_files
    export.gguf_lora export.gguf_merged
    export.formats
    session
    store
    __init__ demo
    bench.contenders bench.draws bench.origin bench.schedule
    bench.published bench.code.domain
    bench.runner
    cli
    __main__
""".strip().split("\n")
# The registry of methods opens one of its own files when it is asked for it.
LOOKED_UP = {("methods", f"methods.{name}") for name in ("lora", "ft_l", "in_context", "retrieval")}

# Which settings are read by `config` itself: a preset is a name for others, layers are told as shares.
RESOLVED_IN_CONFIG = {"preset", "solve_layers"}


def modules():
    for path in sorted(ROOT.rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        yield name.removesuffix(".__init__"), ast.parse(path.read_text("utf-8"))


MODULES = dict(modules())


def imported(tree):
    """Names of the corsa modules a module imports, in functions too; not for types alone."""
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            for child in ast.walk(node):
                child.for_types = True
    for node in ast.walk(tree):
        if getattr(node, "for_types", False):
            continue
        if isinstance(node, ast.Import):
            assert not any(alias.name.startswith("corsa") for alias in node.names)
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "corsa":
            package = node.module.removeprefix("corsa").lstrip(".")
            for alias in node.names:
                full = f"{package}.{alias.name}".lstrip(".")
                yield full if full in MODULES else package or "__init__"


def test_the_public_names_are_these_and_can_be_imported():
    assert sorted(corsa.__all__) == corsa.__all__ == sorted(PUBLIC)
    assert all(hasattr(corsa, name) for name in PUBLIC)


def test_every_module_stands_in_one_row():
    names = [name for row in ROWS for name in row.split()]
    assert len(names) == len(set(names))
    assert set(names) == set(MODULES)


@pytest.mark.parametrize("name", MODULES)
def test_no_module_imports_from_its_own_row_or_one_below(name):
    place = {module: number for number, row in enumerate(ROWS) for module in row.split()}
    wrong = [
        other
        for other in imported(MODULES[name])
        if place[other] >= place[name] and (name, other) not in LOOKED_UP
    ]
    assert not wrong


def test_every_setting_is_read_somewhere():
    read = {
        node.attr
        for name, tree in MODULES.items()
        if name != "config"
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and ast.unparse(node.value).endswith("config")
    }
    settings = {spec.name for spec in dataclasses.fields(Config)}
    assert settings - read == RESOLVED_IN_CONFIG


# These run inside the sandbox alone, where they are handed over as text; nothing imports them.
INSIDE = {"sandbox.inside", "bench.code.harness"}


def called(tree):
    return {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}


@pytest.mark.parametrize("name", sorted(MODULES.keys() - {"cli", *INSIDE}))
def test_only_the_command_line_prints_and_exits(name):
    forbidden = {"print", "exit", "quit", "input", "sys.exit", "os._exit", "SystemExit"}
    forbidden |= {"click.echo", "sys.stdout.write", "sys.stderr.write", "logging.basicConfig"}
    assert not called(MODULES[name]) & forbidden


@pytest.mark.parametrize("name", MODULES)
def test_nothing_imports_what_runs_inside_the_sandbox(name):
    assert not INSIDE & set(imported(MODULES[name]))


@pytest.mark.parametrize("name", sorted(MODULES.keys() - INSIDE))
def test_nothing_is_unpickled_or_evaluated(name):
    forbidden = {
        "eval",
        "exec",
        "compile",
        "torch.load",
        "torch.save",
        "pickle.load",
        "pickle.loads",
    }
    assert not called(MODULES[name]) & forbidden


_IMPORT_ALL = """
import importlib, logging, os, random, sys, warnings
import numpy, torch, transformers, peft, accelerate, click, safetensors, gguf, rich.progress

def state():
    return repr((
        random.getstate(), numpy.random.get_state(), torch.get_rng_state().tolist(),
        torch.get_default_dtype(), torch.get_num_threads(), torch.is_grad_enabled(),
        logging.root.handlers, logging.root.level, logging.getLogger("transformers").level,
        dict(os.environ), warnings.filters,
    ))

numpy.set_printoptions(threshold=10**6)
before = state()
for name in sys.argv[1:]:
    importlib.import_module(name)
assert state() == before, "importing changed the caller's process"
assert not [n for n in logging.Logger.manager.loggerDict if n.startswith("corsa")
            and getattr(logging.getLogger(n), "handlers", None)]
"""


def test_importing_seeds_nothing_and_sets_nothing_up():
    names = [f"corsa.{name}" for name in MODULES if name not in {"__init__", *INSIDE}]
    subprocess.run([sys.executable, "-c", _IMPORT_ALL, *names], check=True)


def test_the_package_runs_as_the_command():
    asked = [sys.executable, "-m", "corsa", "--version"]
    told = subprocess.run(asked, check=True, capture_output=True, text=True)
    assert told.stdout.startswith("corsa, version ")


def test_every_command_is_in_the_readme():
    text = README.read_text("utf-8")
    missing = [name for name in commands.commands if f"corsa {name}" not in text]
    assert not missing
