"""Runs one program as told on standard input, and tells how it ended: a stranger's use of the sandbox.

A process of its own, so that it can be another user, and be killed.
"""

# ruff: noqa: T201
import base64
import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from corsa.errors import CorsaError
from corsa.sandbox import Limits, Sandbox, UnsafeRunner

task = json.load(sys.stdin)
environment = Path(task["environment"])
try:
    runner = {"sandbox": Sandbox, "unsafe": UnsafeRunner}[task["runner"]](environment)
    start = time.monotonic()
    ended = runner.run(task["program"], task["given"].encode(), Limits(**task["limits"]))
except CorsaError as error:
    print(json.dumps({"error": str(error)}))
    sys.exit(1)
print(
    json.dumps(
        {
            "why": ended.why,
            "status": ended.status,
            "output": base64.b64encode(ended.output).decode(),
            "errors": ended.errors.decode(errors="replace"),
            "seconds": time.monotonic() - start,
        }
    )
)
