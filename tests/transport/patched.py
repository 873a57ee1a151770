"""Cases that run in a process whose standard library gevent or eventlet have patched: see test_patched.py.

They speak of threads and of time.sleep, which are greenlets and a switch there. The server runs in another process, and
does what the prompt says.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time

import attrs

from worker_adapters import TLS, CancelOutcome, Properties, Retry, Timeouts, as_completed, merge
from worker_adapters.runtime import AdapterConfig, EngineAdapter, reports
from worker_adapters.runtime import adapter as adapter_module
from worker_adapters.waiting import cooperative

from ..runtime.dialects import TINY, kinds, request, texts

WAYS = ("stream", "submit")
MANY = 20
LARGE = 8 * 1024 * 1024


def ask_nothing(_target):
    yield from ()
    return Properties(engine="tiny", observed_at=0.0, engine_version="v9")


SILENT = attrs.evolve(TINY, identify=ask_nothing)


def adapter(url, *, keep_alive=0.0, **config):
    dialect = attrs.evolve(SILENT, traits=attrs.evolve(SILENT.traits, keep_alive=keep_alive))
    return EngineAdapter(AdapterConfig(**{"dialect": dialect, "url": url, "retry": Retry(attempts=1), **config}))


class Ticks:
    """Another greenlet, which tells when it has had so many turns: what blocks the hub stops it."""

    def __init__(self, tell, count=50):
        self._tell, self._count = tell, count
        self._thread = threading.Thread(target=self._tick)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_exc):
        self._thread.join()

    def _tick(self):
        for _ in range(self._count):
            time.sleep(0.01)
        self._tell()


def connecting(url):
    """To tell a server in the other process by connecting to it."""
    host, _, port = url.rpartition("/")[2].rpartition(":")
    return lambda: socket.create_connection((host, int(port))).close()


def consumed(stream):
    events = []
    consumer = threading.Thread(target=lambda: events.extend(stream))
    consumer.start()
    return consumer, events


# --- the cases --------------------------------------------------------------------------------------------------------


def everyday(url):
    with adapter(url, keep_alive=4.0) as a:
        for _ in range(2):
            for way in WAYS:
                events = list(getattr(a, way)(request(prompt="good")))
                assert (kinds(events)[-1], texts(events)) == ("end", "ab")
            assert a.generate(request(prompt="good")).text == "ab"
            assert a.submit(request(prompt="good"), collect=True).result(5).text == "ab"
            assert a.health().ready
            assert a.properties().slots_total == 1
        assert a.drain(5)


def many(url):
    with adapter(url) as a:
        mixed = [event for _, event in merge(a.submit(request(prompt="good")) for _ in range(MANY))]
        assert (kinds(mixed).count("end"), sorted(texts(mixed))) == (MANY, sorted("ab" * MANY))
        ended = list(as_completed(a.submit(request(prompt="good")) for _ in range(MANY)))
        assert [stream.result(0).text for stream in ended] == ["ab"] * MANY


def cancels(url):
    for way in WAYS:
        for prompt, phase in (("silent", "queue"), ("hang", "decode")):
            with adapter(url) as a:
                stream = getattr(a, way)(request(prompt=prompt))
                consumer, events = consumed(stream)
                while stream._running.lifetime.phase != phase:
                    time.sleep(0.002)
                began = time.monotonic()
                assert stream.cancel() is CancelOutcome.CLOSED
                consumer.join(5)
                assert time.monotonic() - began < 15, (way, prompt)
                assert events[-1].finish_reason == "cancelled"


def timers(url):
    for way in WAYS:
        with adapter(url, timeouts=Timeouts(idle=0.1)) as a:
            began = time.monotonic()
            assert list(getattr(a, way)(request(prompt="hang")))[-1].reason == "IDLE_TIMEOUT"
            assert list(getattr(a, way)(request(prompt="silent", deadline=0.1)))[-1].reason == "DEADLINE"
            assert 0.19 < time.monotonic() - began < 15, way
        with adapter(url) as a, getattr(a, way)(request(prompt="hang")) as stream:
            assert [stream.get(5).kind, stream.get(5).kind] == ["started", "token"]
            try:
                stream.get(0.1)
            except TimeoutError:
                continue
            raise AssertionError(way)


def leaving(url):
    for way in WAYS:
        a = adapter(url)
        stream = getattr(a, way)(request(prompt="hang"))
        consumer, events = consumed(stream)
        while not events:
            time.sleep(0.002)
        assert not a.drain(0.05)
        adapter_module.CLOSE_SECONDS = 60.0
        began = time.monotonic()
        a.close()
        consumer.join(5)
        assert time.monotonic() - began < 15, way
        assert events[-1].finish_reason == "cancelled"
        assert a.in_flight == 0


def told_at_once(url):
    """What is done after a stream (callbacks, on the thread of reports) waits as all else does."""
    reports.LINGER = 120.0  # for the next report: longer than this process is given
    told, ticked = threading.Event(), threading.Event()
    with adapter(url) as a:
        stream = a.submit(request(prompt="good"), collect=True)
        stream.add_done_callback(lambda _stream: told.set())
        assert told.wait(30)
        with Ticks(ticked.set):
            assert ticked.wait(30)


def tls(url, ca):
    with adapter(url, tls=TLS(ca_bundle=ca)) as a:
        for way in WAYS:
            assert kinds(getattr(a, way)(request(prompt="good")))[-1] == "end"
        assert a.health().ready


def long_prompt(url, tell):
    """The server begins to read it when it is told."""
    with adapter(url) as a, Ticks(connecting(tell)):
        threads, events = zip(*[consumed(getattr(a, way)(request(prompt="x" * LARGE))) for way in WAYS], strict=True)
        for thread in threads:
            thread.join()
        assert [kinds(one)[-1] for one in events] == ["end", "end"]


def race(url, dead):
    """A name with an address that does not answer and one that does: both are tried."""
    port, dead_port = (int(one.rpartition(":")[2]) for one in (url, dead))
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", one)) for one in (dead_port, port)]
    socket.getaddrinfo = lambda *_args, **_named: found
    for way in WAYS:
        with adapter("http://two.test:1") as a:
            began = time.monotonic()
            assert kinds(getattr(a, way)(request(prompt="good")))[-1] == "end"
            assert 0.2 < time.monotonic() - began < 15, way


def waiting(url, silent, tell):
    """A stream each way waits for its next token, and a probe for an answer, which all come when the servers are told."""
    ended = []

    def read(way):
        with adapter(url) as a:
            ended.append(kinds(getattr(a, way)(request(prompt="slow")))[-1])

    def probe():
        with adapter(silent, timeouts=Timeouts(probe=60.0)) as a:
            ended.append(a.health().live)

    threads = [threading.Thread(target=read, args=(way,)) for way in WAYS] + [threading.Thread(target=probe)]
    with Ticks(connecting(tell)):
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(map(str, ended)) == ["True", "end", "end"]


def forked(url):
    """Greenlets survive a fork: what is the parent's loop must do nothing in the child, nor keep it from its own."""
    for way in WAYS:
        a = adapter(url)
        kept = getattr(a, way)(request(prompt="hang"))
        assert next(kept).kind == "started"
        child = os.fork()
        if not child:
            os.dup2(
                os.open(os.devnull, os.O_WRONLY), 2
            )  # that such a greenlet's thread is not known any more, gevent says
            signal.alarm(30)
            with adapter(url) as b:
                os._exit([texts(list(getattr(b, other)(request(prompt="good")))) for other in WAYS] != ["ab", "ab"])
        assert os.waitpid(child, 0)[1] == 0, way
        assert next(kept).text == "a"
        a.close()


def leave_the_process(url):
    """With streams under way, one of them nobody's."""
    a = adapter(url, keep_alive=4.0)
    assert kinds(a.stream(request(prompt="good")))[-1] == "end"
    open_ones = [getattr(a, way)(request(prompt="hang")) for way in WAYS]
    assert [next(stream).kind for stream in open_ones] == ["started", "started"]
    globals()["kept"] = open_ones


def run(cases, *args):
    assert cooperative()
    for case in cases.split():
        globals()[case](*args)
    sys.stdout.write(f"{cases}\n")
