"""Child processes that cannot outlive the process that started them."""

from __future__ import annotations

import os
import signal
import sys

__all__ = ["guarded"]

# Runs in the child before the real program: PR_SET_PDEATHSIG survives exec. The getppid() test closes the window in
# which the parent died before prctl. A trampoline instead of preexec_fn: Python code between fork and exec may deadlock
# in a process with threads (subprocess docs), and these tests are full of threads.
_TRAMPOLINE = """
import ctypes, os, sys
PR_SET_PDEATHSIG = 1
parent, number, argv = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, number, 0, 0, 0) != 0:
    sys.exit("prctl(PR_SET_PDEATHSIG): " + os.strerror(ctypes.get_errno()))
if os.getppid() != parent:
    sys.exit("the parent is gone")
os.execv(argv[0], argv)
"""


def guarded(argv: list[str], death: signal.Signals = signal.SIGKILL) -> list[str]:
    """Wrap a command (argv[0] an absolute path) so that the kernel sends it `death` when its parent dies, however.

    The pid stays the child's own: the wrapper execs. Hazard: "parent" is the *thread* that forks (prctl(2)), so spawn
    from one that lives as long as the child may.
    """
    return [sys.executable, "-I", "-S", "-c", _TRAMPOLINE, str(os.getpid()), str(int(death)), *argv]
