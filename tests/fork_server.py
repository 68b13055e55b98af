"""Fork children for `tests.processes`: one request a line on standard input, one number a line on standard output."""

from __future__ import annotations

import atexit
import gc
import json
import os
import runpy
import sys
import traceback
from typing import Any

import torch

import advreg.cli.app
import advreg.evaluation
import advreg.sweep
import advreg.training  # noqa: F401

torch.set_num_threads(1)
torch.optim.SGD([torch.zeros(1)], lr=1.0)  # the first optimizer of a process imports a compiler


def serve() -> dict[str, Any]:
    """Answer requests until one makes this a child; return that request there."""
    for line in sys.stdin:
        wish: dict[str, Any] = json.loads(line)
        if "poll" in wish:
            pid, status = os.waitpid(wish["poll"], os.WNOHANG)
            print(status if pid else -1, flush=True)
            continue
        pid = os.fork()
        if pid == 0:
            return wish
        print(pid, flush=True)
    raise SystemExit


def become(wish: dict[str, Any]) -> None:
    """Turn this fork into the process of a request, with files for its output."""
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(f"{wish['folder']}/{name}", os.O_WRONLY | os.O_CREAT, 0o600), number)
    os.chdir(wish["cwd"])
    os.environ.clear()
    os.environ.update(wish["environment"])
    sys.path[0] = wish["cwd"]
    sys.argv = ["-c" if wish["code"] else "advreg", *wish["argv"]]


def work(wish: dict[str, Any]) -> int:
    """Run the code or the verb of a request; return the exit status that Python would."""
    try:
        if wish["code"]:
            exec(compile(wish["code"], "<string>", "exec"), {"__name__": "__main__"})
        else:
            runpy.run_module("advreg", run_name="__main__", alter_sys=True)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def main() -> None:
    """Serve; every request returns here once, as its own process."""
    gc.freeze()  # a collection in a child would copy every page of the parent
    request = serve()
    become(request)
    status = work(request)
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # taking a whole interpreter apart costs more than most children


if __name__ == "__main__":  # doctest imports every file of the tests
    main()
