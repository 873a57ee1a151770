"""Runs the blocks of a page, where every worker is a simulated one."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import tomllib
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

import worker_adapters
from worker_adapters import Adapter, GenerateRequest
from worker_adapters.cli import main
from worker_adapters.cli.main import parser
from worker_adapters.cli.simulate import simulator as simulator_of
from worker_adapters.cli.simulate import tell
from worker_adapters.simulator import ENGINES, Simulator

from .pages import ROOT, Block

REAL = worker_adapters.connect
NOT_OURS = ("10.", "192.168.", "engine", "worker", "gateway", "triton", "vllm", "host", "example")
OURS = "127.0.0.1"


class Workers:
    """A simulated worker for each engine, started when the first block speaks of it."""

    def __init__(self) -> None:
        self._all: dict[str, Simulator] = {}
        self._at: dict[str, str] = {}  # what a page says of where a worker is, and where it really is
        self._shown: dict[str, str] = {}  # and the other way round
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def new_page(self) -> None:
        self._at.clear()
        self._shown.clear()

    def url(self, engine: str) -> str:
        served = engine if engine in ENGINES else "triton-vllm" if engine == "triton" else "vllm"
        if served not in self._all:
            self._all[served] = self._stack.enter_context(Simulator(served, seed=7))
        return self._all[served].url

    def serve(self, words: list[str]) -> str:
        """`worker-adapters simulate …` of a page, until the last page; what it says."""
        args = parser("worker-adapters").parse_args([*words, "--port", "0"])
        port = parser("worker-adapters").parse_args(words).port
        started = self._stack.enter_context(simulator_of(args))
        self._at[f"{OURS}:{port}"] = started.url
        self._shown[urlsplit(started.url).netloc] = f"{OURS}:{port}"
        with _terminal() as said:
            tell(args, started)
        return self.as_shown(said.getvalue())

    def as_shown(self, said: str) -> str:
        """What a command said, with the addresses of the page in it."""
        for really, shown in self._shown.items():
            said = said.replace(really, shown)
        return said

    def really(self, engine: str, url: str) -> str:
        """The URL of a page's worker, as it is here."""
        parts = urlsplit(url)
        if parts.netloc in self._at:
            return self._at[parts.netloc] + parts.path
        there = (parts.hostname or "").startswith(NOT_OURS) or parts.netloc == f"{OURS}:8080"
        if not there or engine == "mock":
            return url
        self._shown[urlsplit(self.url(engine)).netloc] = parts.netloc
        return self.url(engine) + parts.path

    def connect(self, engine: Any, url: str, *more: Any, **options: Any) -> Adapter:
        """`connect()`, for the time that pages are run."""
        name = engine if isinstance(engine, str) else engine.name
        return REAL(engine, self.really(name, url), *more, **options)


def names(workers: Workers) -> dict[str, Any]:
    """What a page may use without having made it: what it is about is not where these come from."""
    request = GenerateRequest(prompt="Once upon a time", max_tokens=8)
    return {
        "__name__": "__page__",
        **{name: getattr(worker_adapters, name) for name in worker_adapters.__all__ if name != "connect"},
        "connect": workers.connect,
        "url": "http://10.0.0.7:8000",
        "urls": ["http://10.0.0.7:8000", "http://10.0.0.8:8000"],
        "adapter": workers.connect("llamacpp", "http://10.0.0.7:8080"),
        "request": request,
        "requests": [GenerateRequest(prompt=text, max_tokens=4) for text in ("One", "Two", "Three")],
        "store": lambda *_: None,
    }


class BlockError(AssertionError):
    """A block of a page that does not do what it says."""


def run_page(found: Iterator[Block], workers: Workers, name: str) -> int:
    """Run the blocks one after the other, in one namespace. Returns how many."""
    workers.new_page()
    space, count, printed = names(workers), 0, ""
    for block in found:
        if block.skipped or "\ndef test_" in block.text:  # tests are run by pytest: test_pages.py
            continue
        count += block.kind in ("python", "console")
        try:
            if block.kind == "console":
                _console(block.text, workers)
            elif block.kind == "shown":
                compare(block.text, printed)
            else:
                code = compile("\n" * block.line + block.text, name, "exec")
                with contextlib.redirect_stdout(io.StringIO()) as out:
                    exec(code, space)  # its own examples
                printed = out.getvalue()
        except BaseException as error:
            raise BlockError(f"{name}:{block.line}: {type(error).__name__}: {error}") from error
    return count


def compare(shown: str, said: str) -> None:
    """Raises BlockError where what was said is not what the page shows; see pages.py for its `…`."""
    rows = [row.rstrip() for row in shown.strip("\n").splitlines()]
    patterns = [r"(.*\n)*?" if row.strip() == "…" else ".+".join(map(re.escape, row.split("…"))) + "\n" for row in rows]
    plain = "".join(f"{row.rstrip()}\n" for row in said.strip("\n").splitlines())
    if re.fullmatch("".join(patterns), plain) is None:
        raise BlockError(f"it says\n{plain}and not\n{shown}")


def _console(text: str, workers: Workers) -> None:
    """Each command, and below it what it says."""
    for piece in re.split(r"^\$ ", text.replace("\\\n", " "), flags=re.MULTILINE)[1:]:
        line, _, shown = piece.partition("\n")
        fails = shown.startswith("worker-adapters: ") or "\nworker-adapters: " in shown
        said = _command(line.split(" #")[0].strip(), workers, fails=fails)
        if shown.strip():
            if said is None:
                raise BlockError(f"what {line!r} says is not known here, so nothing can be shown of it")
            compare(shown, said)


@contextlib.contextmanager
def _terminal() -> Iterator[io.StringIO]:
    """Output and error together, as somebody sees them."""
    with contextlib.redirect_stdout(io.StringIO()) as said, contextlib.redirect_stderr(said):
        yield said


def _command(line: str, workers: Workers, *, fails: bool) -> str | None:
    """Run it; what it says, where that is known. `fails`: whether it is to."""
    words = shlex.split(line.removesuffix("&").strip())
    if words[:3] in (["python", "-m", "worker_adapters"], ["python3", "-m", "worker_adapters"]):
        words = ["worker-adapters", *words[3:]]
    for beginning, what in _COMMANDS.items():
        if line.startswith(beginning):
            return what(words, workers, fails)
    raise BlockError(f"nobody knows how to run {line!r} here: say `not run: why`, or teach tests/docs/running.py")


def _ours(words: list[str], workers: Workers, fails: bool) -> str:
    if words[1] == "simulate":
        return workers.serve(words[1:])
    engine = words[words.index("--engine") + 1] if "--engine" in words else "llamacpp"
    there = [workers.really(engine, word) if word.startswith("http") else word for word in words[1:]]
    there = [_worker(word, workers) for word in there]
    with _terminal() as said:
        status = main(there)
    if bool(status) is not fails:
        raise BlockError(f"{' '.join(words)}: status {int(status)}: {said.getvalue()}")
    return workers.as_shown(said.getvalue())


def _worker(word: str, workers: Workers) -> str:
    """`vllm=http://…`, as some commands name a worker."""
    engine, equals, url = word.partition("=")
    return f"{engine}={workers.really(engine, url)}" if equals and url.startswith("http") else word


def _make(words: list[str], *_: object) -> None:
    targets = re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    for word in words[1:]:
        if "=" not in word and word not in targets:
            raise BlockError(f"make knows no {word}")


def _install(words: list[str], *_: object) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    for named in re.findall(r"worker-adapters\[([a-z,-]+)\]", " ".join(words)):
        if missing := set(named.split(",")) - set(extras):
            raise BlockError(f"there is no extra {', '.join(missing)}")


_COMMANDS: Mapping[str, Callable[[list[str], Workers, bool], str | None]] = {
    "worker-adapters ": _ours,
    "python -m worker_adapters ": _ours,
    "python3 -m worker_adapters ": _ours,
    "make ": _make,
    "pip install ": _install,
    "python -m pip install ": _install,
}
