"""The first thing that runs inside: sets what the kernel limits, then becomes the program it was given.

This file is handed to the sandbox's interpreter as text and never imported here. It runs before anything
untrusted does, and a limit that was lowered cannot be raised again.

First it says that it is there and waits for an answer. bubblewrap ties its life to its parent's only once it
has begun: if that parent was killed just before, nobody answers, and nothing is run.
"""

# ruff: noqa
import json
import os
import resource
import sys

os.write(1, b"!")
if not os.read(0, 1):
    os._exit(1)
limits = json.loads(sys.argv[1])
for name, value in limits.items():
    resource.setrlimit(getattr(resource, name), (value, value))
sys.path.append(sys.prefix + "/packages")
program, sys.argv = sys.argv[2], ["program"]
exec(compile(program, "program", "exec"), {"__name__": "__main__", "__builtins__": __builtins__})
