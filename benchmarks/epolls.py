"""Loops that an expert would write: one thread, one epoll, our codec; no events, timers or errors.

See `crowds.py` for what they are given and do.
"""

from __future__ import annotations

import json
import os
import select
import socket
import threading
from collections import deque
from collections.abc import Callable
from functools import partial
from itertools import chain
from queue import SimpleQueue

import msgspec

from clients import PATHS, body
from gauges import Gather, Note, Opened, Over
from load_server import ENDLESS
from worker_adapters.codec import SSEDecoder, Wire

__all__ = ["epoll", "epoll_and_queues", "epoll_beside", "epoll_openly"]


class _Text(msgspec.Struct):
    text: str = ""


class _Event(msgspec.Struct):
    choices: list[_Text] = []


decode = msgspec.json.Decoder(_Event).decode


class _Reading:
    """A stream."""

    def __init__(self, port: int, number: int, tokens: int) -> None:
        self.number = number
        sent = json.dumps({**body(tokens), "seed": max(number, 0)})
        head = f"POST {PATHS['vllm']} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json"
        self.connection = socket.create_connection(("127.0.0.1", port))
        self.connection.sendall(f"{head}\r\nContent-Length: {len(sent)}\r\n\r\n{sent}".encode())
        self.connection.setblocking(False)
        self.wire: Wire | None = None
        self.decoder = SSEDecoder()

    def texts(self) -> list[str]:
        """What has come."""
        data = self.connection.recv(65536)
        texts: list[str] = []
        if self.wire is None:  # the head comes in one piece from this server
            data = data.partition(b"\r\n\r\n")[2]
            self.wire = Wire(chunked=True, length=None)
        for payload in self.decoder.payloads(self.wire.feed(data)):
            if payload != b"[DONE]":
                event = decode(payload)
                if event.choices and event.choices[0].text:
                    texts.append(event.choices[0].text)
        return texts


class _Closing:
    """What other threads ask a loop to close."""

    def __init__(self) -> None:
        self.asked = deque[int]()
        self.descriptors: dict[int, int] = {}  # of each stream, by its number
        self.wakes = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def ask(self, number: int) -> None:
        self.asked.append(number)
        os.eventfd_write(self.wakes, 1)

    def close(self, open_: dict[int, _Reading]) -> None:
        """On the loop."""
        os.eventfd_read(self.wakes)
        while self.asked:
            connection = open_.pop(self.descriptors[self.asked.popleft()]).connection
            connection.shutdown(socket.SHUT_RDWR)
            connection.close()


def _epoll(
    port: int,
    streams: int,
    tokens: int,
    put: Callable[[int, list[str]], None],
    *,
    fast: int | None = None,
    closing: _Closing | None = None,
) -> None:
    """One thread, one epoll, our codec; no events, timers, cancel or errors. An empty list ends a stream."""
    poll = select.epoll()
    if closing is not None:
        poll.register(closing.wakes, select.EPOLLIN)
    open_: dict[int, _Reading] = {}
    for one in chain(
        [] if fast is None else [_Reading(fast, -1, ENDLESS)], (_Reading(port, n, tokens) for n in range(streams))
    ):
        open_[one.connection.fileno()] = one
        poll.register(one.connection.fileno(), select.EPOLLIN)
        if closing is not None:
            closing.descriptors[one.number] = one.connection.fileno()
    while open_:
        for fd, _ in poll.poll():
            if fd not in open_:
                if closing is not None and fd == closing.wakes:
                    closing.close(open_)
                continue
            one = open_[fd]
            if texts := one.texts():
                put(one.number, texts)
            if one.wire is not None and one.wire.over:
                put(one.number, [])
                poll.unregister(fd)
                one.connection.close()
                del open_[fd]


def _noting(note: Note) -> Callable[[int, list[str]], None]:
    def put(n: int, texts: list[str]) -> None:
        for text in texts:
            note(n, text)

    return put


def epoll(port: int, streams: int, tokens: int, note: Note) -> None:
    """The loop alone, which takes the texts itself."""
    _epoll(port, streams, tokens, _noting(note))


def epoll_openly(opened: Opened) -> Gather:
    """That closes, on its thread, what another thread asks it to."""

    def gather(port: int, streams: int, tokens: int, note: Note) -> None:
        closing = _Closing()
        for n in range(streams):
            opened(n, partial(closing.ask, n))
        try:
            _epoll(port, streams, tokens, _noting(note), closing=closing)
        finally:
            os.close(closing.wakes)

    return gather


def epoll_beside(other: int) -> Gather:
    """The loop alone, and a fast stream of another server in it, number -1."""

    def gather(port: int, streams: int, tokens: int, note: Note) -> None:
        _epoll(port, streams, tokens, _noting(note), fast=other)

    return gather


def epoll_and_queues(port: int, streams: int, tokens: int, note: Note, *, fast: int | None = None) -> None:
    """The loop, and a SimpleQueue for each consumer thread; for that of a fast stream, number -1, too."""
    queues = {n: SimpleQueue[list[str]]() for n in range(0 if fast is None else -1, streams)}
    left = threading.Event()

    def read(n: int) -> None:
        try:
            while texts := queues[n].get():
                for text in texts:
                    note(n, text)
        except Over:
            left.set()

    def put(n: int, texts: list[str]) -> None:
        if left.is_set():
            raise Over
        queues[n].put(texts)

    threads = [threading.Thread(target=read, args=(n,), daemon=True) for n in queues]
    for thread in threads:
        thread.start()
    try:
        _epoll(port, streams, tokens, put, fast=fast)
    finally:
        for queue in queues.values():
            queue.put([])
        for thread in threads:
            thread.join()
