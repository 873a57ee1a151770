"""Instructions of a token that comes alone, and of a short request: counts, so no machine is too noisy for them.

    python benchmarks/wakeup_instructions.py [CONTENDER…]      exit 1 if a ratio is more than is promised

A client's process under valgrind's callgrind, all its threads included, from when it is warm on: until then nothing is
counted (`callgrind.h` has the switch), so neither the interpreter's start nor imports are. A token comes alone because the
client's process itself sends each, at the other end of its connection, and then reads it: of every contender that is part of
the figure. System calls and cold caches are not: those are `bench_paced.py`'s and `bench_short.py`'s, on a quiet machine. It
takes half a minute. Its figures differ by less than 1 % from run to run.
"""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from contest import server

TOKENS, REQUESTS, WARM = 1000, 60, 20
SHORT = 8  # tokens of a request
TOKEN = ["stream", "submit", "merge", "bare loop"]
REQUEST = ["stream", "submit", "http.client", "bare loop"]
PROMISED = {
    "token": [("stream", 1.4, "bare loop"), ("submit", 1.5, "stream"), ("merge", 2.1, "stream")],
    "request": [("stream", 1.05, "http.client"), ("submit", 1.2, "stream")],
}
SWITCH = """
#include <valgrind/callgrind.h>
void on(void) { CALLGRIND_START_INSTRUMENTATION; }
void off(void) { CALLGRIND_STOP_INSTRUMENTATION; }
"""


class CannotCountError(Exception):
    """There is nothing to count with."""


# --- in the process that is counted -----------------------------------------------------------------------------------


def texts_of(name: str, port: int) -> Iterator[str]:
    """The texts of one stream that never ends."""
    from clients import CLIENTS, PROMPT

    if name == "merge":
        from worker_adapters import GenerateRequest, Token, connect, merge

        with connect("vllm", f"http://127.0.0.1:{port}") as adapter:
            for _, event in merge([adapter.submit(GenerateRequest(prompt=PROMPT, max_tokens=9, seed=1))]):
                if type(event) is Token:
                    yield event.text
    else:
        with CLIENTS[name]("vllm", port) as client:
            yield from client.texts(9)


def answer(listener: socket.socket, begun: list[socket.socket], first: bytes) -> None:
    """Begin the stream that is asked for, which stays open; whatever else is asked is not there."""
    while not begun:
        connection, _ = listener.accept()
        data = b""
        while b"\r\n\r\n" not in data:
            data += connection.recv(65536)
        if data.startswith(b"POST"):
            connection.sendall(first)
            begun.append(connection)
        else:
            connection.sendall(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n")


def token_of(name: str) -> Callable[[], object]:
    """One token that is sent and then read."""
    from load_server import WIRES, chunk, completion, frame

    wire, token = WIRES["vllm"], chunk(frame(completion(0, 9, " word")))
    begun: list[socket.socket] = []
    listener = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=answer, args=(listener, begun, wire.head + token))
    thread.start()
    texts = texts_of(name, listener.getsockname()[1])
    next(texts)
    thread.join()
    send = begun[0].send

    def one() -> None:
        send(token)
        next(texts)

    return one


def request_of(name: str, port: int) -> Callable[[], object]:
    """One short request."""
    from clients import CLIENTS

    made = CLIENTS[name]("vllm", port)
    client = made.__enter__()

    def one(_held: object = made) -> None:  # which would be closed with its context
        assert sum(map(bool, client.texts(SHORT))) == SHORT

    return one


def run(switch: str, count: int, one: Callable[[], object]) -> None:
    """Have so many counted, once it is warm."""
    lib = ctypes.CDLL(switch)
    for _ in range(WARM):
        one()
    while any(thread.name == "worker-adapters-helper" for thread in threading.enumerate()):
        time.sleep(0.01)  # which asks for the version beside the first stream, and has requests loaded for that
    lib.on()
    for _ in range(count):
        one()
    lib.off()
    os._exit(0)  # the stream never ends


# --- counting ---------------------------------------------------------------------------------------------------------


def built(where: Path) -> str:
    """The library that switches the counting on and off. Raises CannotCountError."""
    if shutil.which("valgrind") is None:
        raise CannotCountError("valgrind is not installed")
    source, library = where / "switch.c", where / "switch.so"
    source.write_text(SWITCH, encoding="utf-8")
    command = [os.environ.get("CC", "cc"), "-O1", "-shared", "-fPIC", source, "-o", library]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CannotCountError(f"the switch does not build: {done.stderr.strip()[:500]}")
    return str(library)


def counted(switch: str, what: str, name: str, count: int, *more: object) -> float:
    """Instructions of one token, or request, of so many."""
    words = [sys.executable, __file__, "--counted", switch, what, name, str(count), *map(str, more)]
    command = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", "--instr-atstart=no", *words]
    env = {**os.environ, "PYTHONHASHSEED": "0"}
    done = subprocess.run(command, cwd=Path(__file__).parent, env=env, capture_output=True, text=True, check=False)
    found = re.search(r"Collected : (\d+)", done.stderr)
    if done.returncode or not found:
        raise RuntimeError(f"callgrind counted nothing: {done.stderr.strip()[-1000:]}")
    return int(found[1]) / count


def measured(names: list[str]) -> dict[str, dict[str, float]]:
    """Instructions of a token, and of a request, of each contender of those names, or of all. Raises CannotCountError."""
    with tempfile.TemporaryDirectory() as where, server("vllm") as port:
        switch = built(Path(where))
        return {
            "token": {one: counted(switch, "token", one, TOKENS) for one in TOKEN if not names or one in names},
            "request": {
                one: counted(switch, "request", one, REQUESTS, port) for one in REQUEST if not names or one in names
            },
        }


def broken(figures: dict[str, dict[str, float]]) -> list[str]:
    """The promises that are not kept, of those whose contenders were measured."""
    said = []
    for what, bounds in PROMISED.items():
        of = figures[what]
        for name, bound, other in bounds:
            if name in of and other in of and of[name] > bound * of[other]:
                said.append(
                    f"a {what} of {name} takes {of[name] / of[other]:.2f} times {other}'s, at most {bound:g} is promised"
                )
    return said


def main() -> int:
    """See the module's docstring."""
    if sys.argv[1:2] == ["--counted"]:
        _, _, switch, what, name, count, *port = sys.argv
        run(switch, int(count), token_of(name) if what == "token" else request_of(name, int(port[0])))
    try:
        figures = measured(sys.argv[1:])
    except CannotCountError as exc:
        print(f"instructions not counted: {exc}")
        return 0
    for what, of in figures.items():
        print(f"{what}: " + ", ".join(f"{name} {figure:,.0f}" for name, figure in of.items()))
    for said in broken(figures):
        print(said)
    return bool(broken(figures))


if __name__ == "__main__":
    sys.exit(main())
