"""The cases of the suite that run over sockets: on the simulator, on replayed transcripts, or on a real engine."""

from __future__ import annotations

from ..api import End, Error, ErrorCode, Reason, Started
from .leaks import counted_connects
from .server import nobody_there
from .ways import WAYS, Ways, text_of

__all__ = ["OverSockets"]


class OverSockets(Ways):
    """Cases against `worker()`, whatever that is."""

    def test_the_ways_to_run_agree_over_sockets(self) -> None:
        """stream, submit and merge give the same text, and the same seed gives it again."""
        with self.worker() as url, self.connect(url) as adapter:
            texts = set()
            for way in WAYS:
                events = self.run(adapter, self.request(max_tokens=8), (way,))
                assert isinstance(events[0], Started), events[-1]
                assert isinstance(events[-1], End), events[-1]
                texts.add(text_of(events))
            assert len(texts) == 1

    def test_a_cancel_in_mid_stream_over_sockets(self) -> None:
        """Ours is gone at once; by closing the connection the engine is told, whatever `Traits.cancel` says of queues."""
        with self.worker() as url, self.connect(url) as adapter:
            for way in (adapter.submit, adapter.stream):
                with way(self.request(max_tokens=4096)) as stream:
                    assert isinstance(next(stream), Started)
                    stream.cancel()
                    last = list(stream)
                assert [type(e) for e in last] == [End]
                if self._wait_for is not None:
                    self._wait_for(active=0)

    def test_connections_are_kept_or_closed_as_the_traits_say(self) -> None:
        """One for all streams where the engine keeps them, one each where it does not; the caller sees no difference."""
        streams = 5
        with self.worker() as url, self.connect(url) as adapter:
            self.run(adapter, self.request(max_tokens=4))
            adapter.engine_version()  # whose probe would count otherwise
            with counted_connects() as connects:
                for _ in range(streams):
                    assert isinstance(self.run(adapter, self.request(max_tokens=4))[-1], End)
        assert connects.count in (0, streams if self.dialect.traits.keep_alive == 0 else 1)  # 0: in this process

    def test_probes_over_sockets(self) -> None:
        """Health is ready, and the version is the one in Started."""
        with self.worker() as url, self.connect(url) as adapter:
            health = adapter.health()
            assert health.live
            assert health.ready, health.detail
            assert adapter.properties().engine == self.dialect.name
            started = next(adapter.stream(self.request(max_tokens=2)))
            assert isinstance(started, Started)
            assert started.engine_version == adapter.engine_version()

    def test_nobody_there(self) -> None:
        """A worker that is gone: a typed error, and health says so without raising."""
        with nobody_there() as url, self.connect(url) as adapter:
            (error,) = self.run(adapter, self.request())
            assert isinstance(error, Error)
            assert (error.code, error.reason) == (ErrorCode.POOL_UNAVAILABLE, Reason.CONNECT)
            assert not adapter.health().live
