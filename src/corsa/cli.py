"""The command line: arguments to calls, results to the terminal. The only place that prints or exits.

Nothing heavy is imported before a command needs it: `corsa --help` must answer at once.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from corsa.errors import CorsaError, StoreError, UsageError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from corsa.progress import Progress
    from corsa.results import Update

_SETTINGS_HELP = "a setting of the round, such as rank=16; 'corsa update --settings' lists them"


def main() -> None:
    """Run the command line; expected failures become one line and an exit code."""
    # Threads that spin for long while they wait made everything 5 times slower beside one other busy
    # process (docs/log.md). It must be said before torch is imported, and a library must not say it.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    try:
        code = commands.main(prog_name="corsa", standalone_mode=False) or 0
    except click.exceptions.Exit as done:
        code = done.exit_code
    except click.Abort:
        code = _fail(CorsaError("interrupted: nothing was changed"))
    except click.ClickException as error:
        context = error.ctx if isinstance(error, click.UsageError) else None
        hint = f" (see '{context.command_path} --help')" if context else ""
        code = _fail(UsageError(error.format_message() + hint))
    except CorsaError as error:
        code = _fail(error)
    except BrokenPipeError:
        sys.stderr.close()
        code = 1
    except OSError as error:
        what = (
            f"use {error.filename}" if error.filename else "write a file"
        )  # a full disk names none
        reason = error.strerror or error
        code = _fail(StoreError(f"cannot {what}: {reason}; mend it and run the command again"))
    except MemoryError:
        code = _fail(CorsaError("out of memory: ask fewer questions at a time, or free some"))
    sys.exit(code)


def _fail(error: CorsaError) -> int:
    click.echo(f"corsa: {error}", err=True)
    if "--json" in sys.argv[1:]:
        _emit({"error": {"type": type(error).__name__, "message": str(error)}})
    return error.exit_code


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    invoke_without_command=True,
)
@click.version_option(package_name="corsa-edit", prog_name="corsa")
@click.pass_context
def commands(context: click.Context) -> None:
    """Keep a language model's knowledge current: one adapter, revised round after round.

    \b
    Example:
      corsa update facts.jsonl --store my-facts
      corsa ask "Who is the CEO of Apple?" --store my-facts
    """  # noqa: D301
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


def _json_option(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option(
        "--json", "as_json", is_flag=True, help="print one JSON document and nothing else"
    )(command)


def _store_option(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option(
        "--store",
        required=True,
        metavar="DIR",
        type=click.Path(path_type=Path),
        help="the folder that holds the rounds",
    )(command)


def _trust_option(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option(
        "--trust-remote-code", is_flag=True, help="let the model's repository run its own code"
    )(command)


def _settings_option(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option(
        "--set", "settings", multiple=True, metavar="KEY=VALUE", help=_SETTINGS_HELP
    )(command)


@commands.command()
@click.option(
    "--out",
    default="corsa-demo",
    show_default=True,
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="where the demo's store goes",
)
@_json_option
def demo(out: Path, *, as_json: bool) -> None:
    """Teach the embedded model real facts it has wrong or outdated, and show what happened.

    \b
    Example:
      corsa demo --out corsa-demo
    """  # noqa: D301
    with _progress() as progress:
        from corsa.demo import demo_rounds, demo_store

        rounds = demo_rounds()
        store = demo_store(out, len(rounds))
        made = []
        for facts in rounds[store.head :]:
            # What everything else has become is asked once, at the end.
            last = facts is rounds[-1]
            made.append(store.update(facts, progress=progress, drift=last))
            if not as_json:
                progress.say(f"round {made[-1].round.id} of {len(rounds)} is done")
    if as_json:
        _emit([_update_document(update) for update in made])
        return
    for update in made:
        _show_update(update, store.path, as_json=False)
    from corsa import render

    retention = made[-1].metrics["retention"]
    click.echo("\nwhat the model after each round still answers of each round's edits:")
    _print(render.matrix(retention["reliability"], retention["rounds"]))


def _print_settings(context: click.Context, _: click.Parameter, value: bool) -> None:
    if not value or context.resilient_parsing:
        return
    from corsa.config import describe

    for name, default, meaning in describe():
        click.echo(f"{name}={default}\n    {meaning}")
    context.exit()


@commands.command()
@click.argument("facts", type=click.Path(path_type=Path), required=False)
@_store_option
@click.option(
    "--model", metavar="M", help="Hugging Face id, folder, .gguf file or smollm2 (default)"
)
@click.option("--revision", metavar="R", help="branch, tag or commit of a Hugging Face id")
@click.option(
    "--method",
    metavar="NAME",
    help="corsa (default), lora, sam, sft+dpo, ft-l, in-context, retrieval",
)
@_settings_option
@click.option("--dry-run", is_flag=True, help="say what would be done; write nothing")
@click.option(
    "--accept", metavar="WHAT", help="put into use only if e.g. 'reliability>=0.95,leak<=0.05'"
)
@click.option(
    "--drop", multiple=True, metavar="ID", help="give one edit back: the answer from before"
)
@click.option("--discard", is_flag=True, help="remove interrupted rounds of other edits")
@_trust_option
@click.option(
    "--track", metavar="NAME", help="log steps to an accelerate tracker, e.g. tensorboard"
)
@click.option(
    "--track-dir",
    default="runs",
    show_default=True,
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="where that tracker writes",
)
@click.option(
    "--settings",
    "list_settings",  # not the name of --set, whose values it would be given
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_settings,
    help="list all settings and exit",
)
@_json_option
def update(
    facts: Path | None,
    store: Path,
    model: str | None,
    revision: str | None,
    method: str | None,
    settings: Sequence[str],
    accept: str | None,
    drop: Sequence[str],
    track: str | None,
    track_dir: Path,
    *,
    dry_run: bool,
    discard: bool,
    trust_remote_code: bool,
    as_json: bool,
) -> None:
    """Teach the facts in a file (JSONL, JSON or CSV) as one round.

    \b
    Example:
      corsa update facts.jsonl --store my-facts
      corsa update facts.csv --store my-facts --method lora --set rank=16 --dry-run
      corsa update --store my-facts --drop wrong-fact
    """  # noqa: D301
    if facts is None and not drop:
        raise UsageError("there is nothing to do: give a facts file, or --drop ID")
    if dry_run and (drop or accept or discard or track):
        raise UsageError("--dry-run goes with a facts file and settings alone: leave the rest out")
    chosen = _read_settings(settings)
    if method is not None:
        chosen["method"] = method
    with _progress() as progress:
        from corsa.store import Store

        opened = Store.open(store, model, revision=revision, trust_remote_code=trust_remote_code)
        edits = facts or ()
        if dry_run:
            planned = opened.plan(edits, progress=progress, **chosen)
        else:
            with _trackers(track, track_dir) as trackers:
                made = opened.update(
                    edits,
                    progress=progress,
                    trackers=trackers,
                    accept=accept,
                    drop=drop,
                    discard=discard,
                    **chosen,
                )
    if dry_run:
        _show_plan(planned, as_json=as_json)
    else:
        _show_update(made, store, as_json=as_json)


@commands.command()
@click.argument("prompts", nargs=-1, required=True, metavar="PROMPT...")
@_store_option
@click.option(
    "--round", "round_id", type=int, metavar="N", help="as of that round; 0: the base model"
)
@click.option("--system", metavar="TEXT", help="a system prompt in place of the model's own")
@_trust_option
@_json_option
def ask(
    prompts: Sequence[str],
    store: Path,
    round_id: int | None,
    system: str | None,
    *,
    trust_remote_code: bool,
    as_json: bool,
) -> None:
    """Show the answers of base and updated model side by side.

    \b
    Example:
      corsa ask "Who is the CEO of Apple?" "Who runs Microsoft?" --store my-facts
    """  # noqa: D301
    with _progress() as progress:
        from corsa.store import Store

        opened = Store.open(store, trust_remote_code=trust_remote_code)
        answers = opened.ask(prompts, round=round_id, system=system, progress=progress)
    rows = [answer._asdict() for answer in answers]
    if as_json:
        _emit(rows)
        return
    from corsa import render

    name = f"round {answers[0].round}" if answers[0].round else "base (no round yet)"
    _print(render.answers(rows, name))


@commands.command()
@_json_option
def models(*, as_json: bool) -> None:
    """Show which models can be edited here without a download.

    Beside these, --model takes any Hugging Face id, a local folder, or a .gguf file.

    \b
    Example:
      corsa models
    """  # noqa: D301
    from corsa.sources import cache_folder, installed

    rows = list(installed())
    if as_json:
        _emit({"cache": str(cache_folder()), "models": rows})
        return
    from corsa import render

    cells = [
        (
            r["name"],
            r["kind"],
            "ready" if r["ready"] else "converted at first use",
            r.get("folder", r.get("problem", "")),
        )
        for r in rows
    ]
    _print(render.rows_table(("model", "kind", "state", "where"), cells))
    click.echo(
        "--model also takes a Hugging Face id (owner/name), a local folder or a .gguf file: any "
        "decoder-only\nmodel with .safetensors that transformers loads."
    )


@commands.command()
@_store_option
@click.option(
    "--round", "round_id", type=int, metavar="N", help="as of that round; default: the head"
)
@click.option("--system", metavar="TEXT", help="a system prompt in place of the model's own")
@_trust_option
@_json_option
def check(
    store: Path, round_id: int | None, system: str | None, *, trust_remote_code: bool, as_json: bool
) -> None:
    """Measure every edit of every round under the model as it is now, or was.

    \b
    Example:
      corsa check --store my-facts
    """  # noqa: D301
    with _progress() as progress:
        from corsa.store import Store

        report = Store.open(store, trust_remote_code=trust_remote_code).check(
            round=round_id, system=system, progress=progress
        )
    if as_json:
        _emit(report)
        return
    from corsa import render, words

    edits = [
        (e["round"], e["id"], e["prompt"], e["answer"] or "", e["state"]) for e in report["edits"]
    ]
    _print(render.rows_table(("round", "edit", "prompt", "answer", "state"), edits))
    _print(render.matrix(report["retention"]["reliability"], report["rounds"]))
    _print(render.told(words.tell(report)))


@commands.command()
@_store_option
@_json_option
def log(store: Path, *, as_json: bool) -> None:
    """List all rounds, of other branches too, and which one is in use.

    \b
    Example:
      corsa log --store my-facts
    """  # noqa: D301
    from corsa.store import Store

    report = Store.open(store).log()
    if as_json:
        _emit(report)
        return
    from corsa import render

    _print(render.log(report))


@commands.command()
@click.argument("round_id", type=int, metavar="ROUND")
@_store_option
@_json_option
def show(round_id: int, store: Path, *, as_json: bool) -> None:
    """Show one round: its edits, what was measured after it, and how it was made.

    \b
    Example:
      corsa show 1 --store my-facts
    """  # noqa: D301
    from corsa.store import Store

    made = Store.open(store).ledger.round(round_id)
    metrics = made.metrics()
    if as_json:
        _emit({"record": dict(made.record), "folder": str(made.folder), "metrics": metrics})
        return
    from corsa import render, words

    _print(render.update_report(metrics, words.tell(metrics)))
    config = " ".join(f"{key}={value}" for key, value in made.record["config"].items())
    click.echo(f"\nround {made.id} continues round {made.parent}; settings: {config}")
    click.echo(f"files: {made.folder}")


@commands.command()
@click.argument("round_id", type=int, metavar="ROUND")
@_store_option
@_json_option
def rollback(round_id: int, store: Path, *, as_json: bool) -> None:
    """Put another round into use; nothing is deleted. Round 0 is the base model.

    \b
    Example:
      corsa rollback 1 --store my-facts
    """  # noqa: D301
    from corsa.store import Store

    opened = Store.open(store)
    before = opened.ledger.head
    opened.rollback(round_id)
    if as_json:
        _emit({"head": round_id, "before": before})
        return
    click.echo(
        f"the head is round {round_id} (it was {before}); the next update branches from here"
    )


@commands.command()
@_store_option
@_json_option
def verify(store: Path, *, as_json: bool) -> None:
    """Recompute every hash of a store and of its base model.

    \b
    Example:
      corsa verify --store my-facts
    """  # noqa: D301
    from corsa.errors import CorruptError
    from corsa.store import Store

    opened = Store.open(store)
    problems = opened.verify()
    if as_json:
        _emit({"ok": not problems, "problems": [problem._asdict() for problem in problems]})
    if problems:
        listed = "; ".join(f"{problem.file}: {problem.what}" for problem in problems)
        error = CorruptError(f"{len(problems)} of {store} not as written: {listed}")
        if not as_json:
            raise error
        click.echo(f"corsa: {error}", err=True)
        sys.exit(error.exit_code)
    if as_json:
        return
    click.echo(f"{len(opened.ledger.ids())} rounds and the base model are as they were written")


@commands.command()
@click.option(
    "--store",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="report on this store",
)
@click.option(
    "--bench",
    "benchmark",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="report on this folder of 'corsa bench'",
)
@click.option(
    "--out",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="the file; default: report.html in DIR",
)
@_json_option
def report(store: Path | None, benchmark: Path | None, out: Path | None, *, as_json: bool) -> None:
    """Write one HTML file that says what was learned and what it cost; no model is loaded.

    It needs no network and no other file: send it, or open it by a double click. Needs
    pip install 'corsa-edit[report]'.

    \b
    Example:
      corsa report --store my-facts
      corsa report --bench compared --out compared.html
    """  # noqa: D301
    if (store is None) == (benchmark is None):
        raise UsageError("a report is about one thing: give --store DIR, or --bench DIR")
    with _progress() as progress:
        if store is not None:
            from corsa.report import write_report

            written = write_report(store, out, progress=progress)
        else:
            from corsa.report import write_bench_report

            assert benchmark is not None
            written = write_bench_report(benchmark, out, progress=progress)
    if as_json:
        _emit({"report": str(written)})
        return
    click.echo(f"the report is in {written}: open it in a browser")


@commands.command()
@_store_option
@click.option(
    "--round", "round_id", type=int, metavar="N", help="which round; default: the one in use"
)
@click.option(
    "--format",
    "format",
    default="adapter",
    show_default=True,
    type=click.Choice(["adapter", "merged", "gguf-lora", "gguf"]),
    help="PEFT adapter, whole Hugging Face model, or either for llama.cpp",
)
@click.option(
    "--type",
    "type_",
    metavar="TYPE",
    help="what numbers are written in: merged f32 (default), bf16, f16; gguf-lora f32 (default), "
    "f16; gguf f16 (default), f32, q8_0",
)
@click.option(
    "--out",
    required=True,
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="a folder that is new or empty",
)
@_trust_option
@_json_option
def export(
    store: Path,
    round_id: int | None,
    format: str,
    type_: str | None,
    out: Path,
    *,
    trust_remote_code: bool,
    as_json: bool,
) -> None:
    """Write a round as other programs load it: peft, transformers, vLLM, llama.cpp, Ollama.

    The gguf formats need a base model that came from a GGUF file, as the embedded one does.

    \b
    Example:
      corsa export --store my-facts --out adapter
      corsa export --store my-facts --format merged --out model
      corsa export --store my-facts --round 1 --format gguf --type q8_0 --out llama
    """  # noqa: D301
    with _progress() as progress:
        from corsa.store import Store

        opened = Store.open(store, trust_remote_code=trust_remote_code)
        made = opened.export(out, format, round=round_id, type=type_, progress=progress)
    if as_json:
        _emit(made._asdict() | {"folder": str(made.folder)})
        return
    for sentence in made.checked:
        click.echo(f"checked: {sentence}")
    click.echo(f"round {made.round} is in {made.folder}: {', '.join(made.files)}")
    click.echo(f"how to load it: {made.folder / 'README.md'}")


@commands.command()
@click.argument("repository", metavar="REPO_ID")
@_store_option
@click.option(
    "--round", "round_id", type=int, metavar="N", help="which round; default: the one in use"
)
@click.option(
    "--private", is_flag=True, help="make the repository private; refuse one that is public"
)
@_json_option
def push(
    repository: str, store: Path, round_id: int | None, *, private: bool, as_json: bool
) -> None:
    """Upload a round's adapter to the Hugging Face Hub: weights, card, edits and metrics.

    REPO_ID is OWNER/NAME. Whoever may read the repository can read the edits.

    \b
    Example:
      corsa push me/my-facts --store my-facts --private
    """  # noqa: D301
    with _progress() as progress:
        from corsa.store import Store

        where = Store.open(store).push(
            repository, round=round_id, private=private, progress=progress
        )
    if as_json:
        _emit({"repository": repository, "commit": where})
        return
    click.echo(f"uploaded: {where}")


@commands.command()
@click.argument("dataset")
@click.option(
    "--data",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="read this file in the upstream layout, not the one on the Hugging Face hub",
)
@click.option(
    "--methods",
    default="corsa,lora",
    show_default=True,
    metavar="LIST",
    help="NAME, NAME[key=value,...] or key=value, each as LABEL:... if you like; the first is what "
    "the others are tested against",
)
@click.option(
    "--rounds",
    type=click.IntRange(1),
    default=3,
    show_default=True,
    metavar="R",
    help="of each run",
)
@click.option(
    "--edits",
    type=click.IntRange(1),
    default=10,
    show_default=True,
    metavar="N",
    help="of each round",
)
@click.option(
    "--seeds",
    default="0,1,2",
    show_default=True,
    metavar="LIST",
    help="each draws its own edits, the same for every method, and seeds the training",
)
@click.option("--known-only", is_flag=True, help="draw only edits whose old answer the base gives")
@click.option(
    "--neighbours",
    type=click.IntRange(0),
    metavar="K",
    help="measure only K locality probes of each edit; default: all",
)
@click.option(
    "--from",
    "first",
    type=click.IntRange(0),
    default=0,
    metavar="K",
    help="draw from record K of the file on, counted from 0",
)
@click.option(
    "--to", "last", type=click.IntRange(1), metavar="K", help="… and before record K: a split"
)
@click.option(
    "--model", metavar="M", help="Hugging Face id, folder, .gguf file or smollm2 (default)"
)
@click.option("--revision", metavar="R", help="branch, tag or commit of a Hugging Face id")
@_settings_option
@click.option(
    "--extras",
    default="",
    metavar="LIST",
    help="further measures, NAME or NAME=FILE: counterfact, token-accuracy, fluency, wikitext, mmlu, "
    "curvature, lm-eval, humaneval",
)
@click.option(
    "--code",
    default="",
    metavar="LIST",
    help="how programs are asked for: samples=5,examples=2,held_out=1,tokens=512,humaneval=82",
)
@click.option("--reset", is_flag=True, help="codeupdatearena: one update a run, by its seed")
@click.option(
    "--unsafe-no-sandbox", is_flag=True, help="run what the model wrote as yourself, unprotected"
)
@click.option(
    "--out",
    required=True,
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="where runs, tables and figures go",
)
@click.option(
    "--resume", is_flag=True, help="go on with what is in DIR; methods and seeds may come"
)
@click.option("--keep-stores", is_flag=True, help="keep the adapters of finished runs")
@_trust_option
@_json_option
def bench(
    dataset: str,
    data: Path | None,
    methods: str,
    rounds: int,
    edits: int,
    seeds: str,
    neighbours: int | None,
    first: int,
    last: int | None,
    model: str | None,
    revision: str | None,
    settings: Sequence[str],
    extras: str,
    code: str,
    out: Path,
    *,
    reset: bool,
    unsafe_no_sandbox: bool,
    known_only: bool,
    resume: bool,
    keep_stores: bool,
    trust_remote_code: bool,
    as_json: bool,
) -> None:
    """Compare methods on a public data set: rounds of edits, seeds, intervals, tables and figures.

    For every method and seed, R rounds of N edits on a fresh store, measured after each. Needs
    pip install 'corsa-edit[bench]'.

    \b
    DATASET is one of
      counterfact           CounterFact; with --data EasyEdit's flat form of it, too
      zsre                  zsRE, MEND's evaluation split
      mquake                MQuAKE-Remastered CF-3k, cases of one rewrite; MQuAKE with --data
      knowedit-recent       KnowEdit's WikiRecent
      knowedit-counterfact  KnowEdit's WikiCounterfact
      codeupdatearena       CodeUpdateArena with --data: updates of libraries; programs are run
      facts                 a facts file of your own, with --data

    \b
    Example:
      corsa bench counterfact --methods 'corsa,lora,trained:preset=trained' --out compared
      corsa bench counterfact --methods corsa,lora,in-context --out compared --resume
      corsa bench codeupdatearena --data arena.jsonl --methods 'corsa,lora[teach=docs]' --out code
      corsa bench zsre --data zsre_mend_eval.json --rounds 5 --edits 20 --from 100 --out held-out
    """  # noqa: D301
    with _progress() as progress:
        from corsa.bench.contenders import parse_methods

        contenders = parse_methods(methods)
        shared = _read_settings(settings)
        numbers = _read_seeds(seeds)
        from corsa.bench.code.options import parse_code
        from corsa.bench.extras import parse_extras
        from corsa.bench.runner import Benchmark, run_benchmark
        from corsa.sources import EMBEDDED

        benchmark = Benchmark(
            dataset,
            contenders,
            rounds,
            edits,
            numbers,
            model=model or EMBEDDED,
            data=data,
            first=first,
            last=last,
            neighbours=neighbours,
            known_only=known_only,
            extras=parse_extras(extras),
            code=parse_code(code),
            reset=reset,
            unsafe=unsafe_no_sandbox,
            settings=shared,
            revision=revision,
            trust_remote_code=trust_remote_code,
        )
        document = run_benchmark(
            benchmark, out, resume=resume, keep_stores=keep_stores, progress=progress
        )
    if as_json:
        _emit(document)
        return
    from corsa import render
    from corsa.bench.tables import table

    _print(render.rows_table(*table(document)))
    drawn = ", ".join(map(str, document["seeds"]))
    click.echo(f"means over the seeds {drawn}; in brackets the {document['interval']}")
    if document["left_out"]:
        count = len(document["left_out"])
        what = "record or probe was" if count == 1 else "records or probes were"
        click.echo(f"{count} {what} left out: {out / 'report.json'} names each and why")
    click.echo(f"tables and every reply are in {out}, figures in {out / 'figures'}")


def _read_seeds(text: str) -> tuple[int, ...]:
    try:
        seeds = tuple(int(part) for part in text.split(","))
    except ValueError:
        seeds = ()
    if not seeds or min(seeds) < 0 or max(seeds) >= 2**63 or len(set(seeds)) < len(seeds):
        raise UsageError(f"--seeds {text!r}: give different whole numbers, such as 0,1,2")
    return seeds


def _show_update(made: Update, store: Path, *, as_json: bool) -> None:
    if as_json:
        _emit(_update_document(made))
        return
    from corsa import render, words

    for warning in made.warnings:
        click.echo(f"note: {warning}", err=True)
    _print(render.update_report(made.metrics, words.tell(made.metrics)))
    click.echo(f"\nround {made.round.id} is in {made.round.folder}, ready for plain peft and vLLM")
    click.echo(f'ask it:  corsa ask "…" --store {store}')


def _update_document(made: Update) -> dict[str, Any]:
    return {
        "round": made.round.id,
        "parent": made.round.parent,
        "folder": str(made.round.folder),
        "metrics": dict(made.metrics),
        "seconds": dict(made.seconds),
        "warnings": list(made.warnings),
    }


def _show_plan(plan: Any, *, as_json: bool) -> None:
    rows = [
        {
            "id": p.edit.id,
            "prompt": p.edit.prompt,
            "target_new": p.edit.target_new,
            "target_old": p.target_old,
            "old_from": p.old_from,
            "today": p.reply_before,
            "already_said": p.already_said,
            "trained": p.trained,
            "supersedes": [list(key) for key in p.supersedes],
            "repeats": list(p.repeats) if p.repeats else None,
        }
        for p in plan.edits
    ]
    if as_json:
        _emit(
            {
                "model": plan.model,
                "parent": plan.parent,
                "seconds": round(plan.seconds),
                "warnings": list(plan.warnings),
                "edits": rows,
            }
        )
        return
    from corsa import render
    from corsa.words import roughly

    cells = [(r["prompt"], r["today"], r["target_new"], _remark(r)) for r in rows]
    _print(render.rows_table(("prompt", "today", "to be", "remark"), cells))
    click.echo(
        f"on {plan.model}, continuing round {plan.parent}; about {roughly(plan.seconds)}. "
        "Nothing was written."
    )


def _remark(row: Mapping[str, Any]) -> str:
    if row["supersedes"]:
        rounds = ", ".join(f"{key} of round {number}" for number, key in row["supersedes"])
        return f"replaces {rounds}"
    if row["repeats"]:
        state = "trained again" if row["trained"] else "still right, nothing to do"
        return f"repeats {row['repeats'][1]} of round {row['repeats'][0]}: {state}"
    return "already said" if row["already_said"] else ""


def _read_settings(pairs: Sequence[str]) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise UsageError(f"--set {pair!r} is not of the form KEY=VALUE, such as --set rank=16")
        settings[key.strip()] = value.strip()
    return settings


@contextmanager
def _trackers(name: str | None, folder: Path) -> Iterator[list[Any]]:
    """The accelerate tracker of that name, finished when the block ends."""
    if name is None:
        yield []
        return
    from accelerate import PartialState
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

    PartialState()  # process information only: what trackers ask which process is the main one
    there = [str(tracker) for tracker in get_available_trackers()]
    if name not in there:
        raise UsageError(
            f"--track {name!r} is not available; installed trackers: {', '.join(there) or 'none'}"
        )
    kind = LOGGER_TYPE_TO_CLASS[name]
    tracker = (
        kind("corsa", logging_dir=folder) if kind.requires_logging_directory else kind("corsa")
    )
    if hasattr(tracker, "start"):
        tracker.start()
    try:
        yield [tracker]
    finally:
        tracker.finish()


@contextmanager
def _progress() -> Iterator[Progress]:
    """Progress on standard error, drawn before anything heavy is imported."""
    from rich.console import Console

    from corsa.render import TerminalProgress

    with TerminalProgress(Console(stderr=True)) as progress:
        yield progress


def _print(what: RenderableType) -> None:
    from rich.console import Console

    Console().print(what)


def _emit(document: Any) -> None:
    click.echo(json.dumps(document, ensure_ascii=False, indent=2))
