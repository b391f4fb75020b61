"""Ask a store for programs before and after its rounds, run them in the sandbox, and print what passes.

python check.py --references          the tests themselves: new calls pass, old ones fail
python check.py my-store              the base model and the updated one
"""

# ruff: noqa: T201
import argparse
import json
import sys
from importlib.metadata import version
from pathlib import Path

from corsa import CorsaError, Store, UsageError
from corsa.bench.code.options import open_pool
from corsa.bench.code.solutions import program_in
from corsa.bench.code.testing import Pool, Trial
from corsa.sandbox.environment import make_environment
from corsa.sources import cache_folder

HERE = Path(__file__).parent
TASKS = [json.loads(line) for line in (HERE / "tasks.jsonl").read_text("utf-8").splitlines()]


def check_numpy(installed: str) -> None:
    """Refuse a NumPy that still has the old call: what is taught could not be told from it."""
    major, minor = map(int, installed.split(".")[:2])
    if (major, minor) < (2, 4):
        raise UsageError(
            f"NumPy {installed} is installed, which still has np.trapz: old programs would pass. "
            "pip install 'numpy>=2.4' (Python 3.11 or later)"
        )


def open_here(cache: Path, *, unsafe: bool = False) -> Pool:
    """Where programs run: with the NumPy that is installed here."""
    check_numpy(version("numpy"))
    return open_pool(make_environment(cache, taken=["numpy"]), unsafe=unsafe)


def run(pool: Pool, programs: list[str]) -> list[str]:
    """What became of one program for each task."""
    trials = [
        Trial(tuple(f"{program}\n\n{test}\n" for test in task["tests"]))
        for task, program in zip(TASKS, programs, strict=True)
    ]
    return ["passes" if v.passes else v.reasons[0] for v in pool.check(trials)]


def main() -> None:
    """Print one line for each task."""
    arguments = argparse.ArgumentParser(description="Do the programs of a store run?")
    arguments.add_argument("store", nargs="?", help="a folder made by corsa update")
    arguments.add_argument("--references", action="store_true", help="run the tests' own solutions")
    arguments.add_argument("--unsafe-no-sandbox", action="store_true", help="run them unprotected")
    asked = arguments.parse_args()
    pool = open_here(cache_folder(), unsafe=asked.unsafe_no_sandbox)
    if asked.references:
        new = [task["reference"] for task in TASKS]
        columns = {"new call": new, "old call": [p.replace("trapezoid", "trapz") for p in new]}
    elif asked.store:
        prompts = [task["prompt"] for task in TASKS]
        answers = Store.open(asked.store).ask(prompts, max_new_tokens=160)
        columns = {
            "before": [program_in(answer.base) for answer in answers],
            "after": [program_in(answer.updated or "") for answer in answers],
        }
    else:
        arguments.error("give a store, or --references")
    results = {name: run(pool, programs) for name, programs in columns.items()}
    for place, task in enumerate(TASKS):
        kind = "taught" if task["taught"] else "held out"
        print(f"{task['id']} ({kind})")
        for name, found in results.items():
            print(f"    {name}: {found[place]}")


if __name__ == "__main__":
    try:
        main()
    except CorsaError as error:
        sys.exit(f"check.py: {error}")
