"""How a run is asked to end, and where several processes do."""

from __future__ import annotations

import contextlib
import http.server
import threading
import time
from collections.abc import Iterator

import pytest

from tests.training.coordination import Service
from vits_jax.training import maintenance
from vits_jax.training.maintenance import heeded
from vits_jax.training.processes import Processes
from vits_jax.training.stopping import Reason, Stop, by_signal, ended_after

WHY = Reason("a test", 143)


def test_alone_at_once() -> None:
    stop = Stop()
    assert (stop.asked, stop.here, stop.step()) == (False, False, True)
    stop.ask(WHY)
    stop.ask(by_signal(2))
    assert (stop.asked, stop.here, stop.step(), stop.reason) == (True, True, False, WHY)


@pytest.mark.parametrize("asked_at", [[(0, 0)], [(2, 30)], [(1, 20), (3, 25)]])
def test_all_processes_stop_before_the_same_step(asked_at: list[tuple[int, int]]) -> None:
    """Each at a pace of its own; none goes on, and none stops, by itself."""
    service, count = Service(), 4
    stops = [Stop(Processes(index, count, service)) for index in range(count)]
    taken = [0] * count

    def run(index: int) -> None:
        while stops[index].step():
            taken[index] += 1
            if (index, taken[index]) in asked_at or (taken[index] == 1 and (index, 0) in asked_at):
                stops[index].ask(Reason(f"by {index}", index))
            time.sleep(0.001 * (1 + index))

    threads = [threading.Thread(target=run, args=[index]) for index in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert len(set(taken)) == 1, taken
    assert taken[0] >= asked_at[0][1]
    assert all(stop.here and not stop.step() for stop in stops)
    assert len({stop.reason for stop in stops}) == 1  # the first to have asked counts, for all


def test_a_process_that_waits_hears_of_it() -> None:
    """While nobody takes a step, as when all compile."""
    service = Service()
    stops = [Stop(Processes(index, 2, service)) for index in range(2)]
    assert not any(stop.here for stop in stops)
    stops[1].ask(WHY)
    deadline = time.monotonic() + 120
    while not all(stop.here for stop in stops):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert not any(stop.step() for stop in stops)


def test_after_so_long() -> None:
    stop = Stop()
    with ended_after("00:00:00:01", stop):
        begin = time.monotonic()
        while not stop.asked:
            assert time.monotonic() < begin + 120
            time.sleep(0.01)
        assert time.monotonic() - begin >= 0.9
    assert stop.reason == Reason("--max_time 00:00:00:01", 0)
    with ended_after(None, never := Stop()), ended_after("01:00:00:00", never):
        assert not never.asked


@contextlib.contextmanager
def metadata_server(answers: dict[str, str]) -> Iterator[str]:
    """Of a host in Google's cloud; its address."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name = self.path.removeprefix("/computeMetadata/v1/instance/")
            known = self.headers["Metadata-Flavor"] == "Google" and name in answers
            self.send_response(200 if known else 404)
            self.end_headers()
            self.wfile.write(answers.get(name, "").encode())

        def log_message(self, *arguments: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize(
    ("name", "value"),
    [("preempted", "TRUE"), ("maintenance-event", "TERMINATE_ON_HOST_MAINTENANCE")],
)
def test_a_notice_of_the_cloud(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    answers = {"preempted": "FALSE", "maintenance-event": "NONE"}
    monkeypatch.setattr(maintenance, "LOOK", 0.02)
    with metadata_server(answers) as address:
        monkeypatch.setenv("GCE_METADATA_HOST", address)
        with heeded(stop := Stop()):
            time.sleep(0.2)
            assert not stop.asked
            answers[name] = value
            deadline = time.monotonic() + 120
            while not stop.asked:
                assert time.monotonic() < deadline
                time.sleep(0.01)
    assert stop.reason is not None
    assert stop.reason.exit_code == 143


def test_elsewhere_nobody_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GCE_METADATA_HOST", raising=False)
    before = threading.active_count()
    with heeded(Stop()):
        assert threading.active_count() == before
