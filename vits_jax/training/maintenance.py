"""Notices of Google's cloud that this host is about to go: a spot VM's end, its maintenance.

TPU hosts, and hosts with GPUs, are not moved but stopped; the metadata server says so before:
half a minute for a spot VM, an hour for planned maintenance.
https://cloud.google.com/compute/docs/instances/preemptible
https://cloud.google.com/compute/docs/metadata/getting-live-migration-notice
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from vits_jax.training.stopping import Reason, Stop

LOOK = 3.0  # seconds between two questions
_PATIENCE = 2.0  # seconds for an answer
_PRODUCT = Path("/sys/class/dmi/id/product_name")
_NOTICES = {
    "preempted": ("TRUE", "this host is preempted"),
    "maintenance-event": ("TERMINATE_ON_HOST_MAINTENANCE", "maintenance of this host"),
}


@contextlib.contextmanager
def heeded(stop: Stop) -> Iterator[None]:
    """Ask the run to end where such a notice comes; elsewhere than in Google's cloud, nothing."""
    server = os.environ.get("GCE_METADATA_HOST") or _server()
    if server is None:
        yield
        return
    over = threading.Event()

    def listen() -> None:
        # What was said before the start is known: maintenance is told of an hour ahead.
        before = {name: _answer(server, name) for name in _NOTICES}
        while not over.wait(LOOK):
            for name, (value, what) in _NOTICES.items():
                if before[name] != value and _answer(server, name) == value:
                    stop.ask(Reason(what, 128 + signal.SIGTERM))
                    return

    threading.Thread(target=listen, name="maintenance", daemon=True).start()
    try:
        yield
    finally:
        over.set()


def _server() -> str | None:
    """Where it is, in Google's cloud."""
    try:
        here = _PRODUCT.read_text(encoding="utf-8").strip()
    except OSError:
        return None
    return "metadata.google.internal" if here == "Google Compute Engine" else None


def _answer(server: str, name: str) -> str:
    request = urllib.request.Request(
        f"http://{server}/computeMetadata/v1/instance/{name}", headers={"Metadata-Flavor": "Google"}
    )
    try:
        with urllib.request.urlopen(request, timeout=_PATIENCE) as answer:
            return str(answer.read().decode().strip())
    except (OSError, ValueError):  # no answer, or none that is text
        return ""
