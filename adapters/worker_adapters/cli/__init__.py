"""The command line, `worker-adapters COMMAND`: one module for each command, and what they share.

`connecting` and `asking` are the options of `connect()` and of requests, `output` is what is shown and where, `exits` the
exit statuses, `parsing` how a command declares itself.
"""

from __future__ import annotations

from .main import main

__all__ = ["main"]
