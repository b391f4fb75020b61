"""The first thing that runs inside: sets what the kernel limits, then becomes the program it was given.

This file is handed to the sandbox's interpreter as text and never imported here. It runs before anything
untrusted does, and a limit that was lowered cannot be raised again.

In the sandbox it is the first process, with whose end the kernel ends all others, and the program is its child:
who rules the first process can untie all from whoever started it, and speak in its name. So nobody of its
user may trace it or open its memory and files (which the program inherits), no signal from inside reaches it,
and it holds no stream.

First it says that it is there and waits for an answer. bubblewrap ties its life to its parent's only once it
has begun: if that parent was killed just before, nobody answers, and nothing is run.
"""

# ruff: noqa
import ctypes
import json
import os
import resource
import signal
import sys

first = os.getpid() == 1
if first:
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    # PR_SET_PDEATHSIG, PR_SET_DUMPABLE
    if prctl(1, signal.SIGKILL, 0, 0, 0) or prctl(4, 0, 0, 0, 0):
        sys.exit(f"the first process cannot be guarded: {os.strerror(ctypes.get_errno())}")
    # The kernel keeps from it every signal for which it has no handler.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
os.write(1, b"!")
if not os.read(0, 1):
    os._exit(1)
if first:
    if child := os.fork():
        os.closerange(0, 3)
        while True:
            ended, status = os.wait()  # for orphans, too
            if ended == child:
                code = os.waitstatus_to_exitcode(status)
                os._exit(code if code >= 0 else 128 - code)
    signal.signal(signal.SIGINT, signal.default_int_handler)
limits = json.loads(sys.argv[1])
for name, value in limits.items():
    resource.setrlimit(getattr(resource, name), (value, value))
sys.path.append(sys.prefix + "/packages")
program, sys.argv = sys.argv[2], ["program"]
exec(compile(program, "program", "exec"), {"__name__": "__main__", "__builtins__": __builtins__})
