"""An object store on this machine, and a way to it that can be slow, closed, or cut."""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import time
import urllib.request
from typing import Any

import boto3
import pytest
from moto.server import ThreadedMotoServer

BUCKET = "voices"
ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_MAX_ATTEMPTS": "2",
}


class Way:
    """A proxy to a server; what goes through it is delayed, refused or cut, as it is told.

    Attributes:
        open: whether anything goes through.
        delay: seconds before each piece.
        cut_after: bytes that may still be sent to the server; then the connection ends.
    """

    def __init__(self, port: int):
        self.open, self.delay, self.cut_after = True, 0.0, 1 << 60
        self._port = port
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._server.getsockname()[1]
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._server.accept()
                if not self.open:
                    client.close()
                    continue
                server = socket.create_connection(("127.0.0.1", self._port))
                for pair in ((client, server, True), (server, client, False)):
                    threading.Thread(target=self._carry, args=pair, daemon=True).start()

    def _carry(self, source: socket.socket, target: socket.socket, sent: bool) -> None:
        with contextlib.suppress(OSError):
            while piece := source.recv(1 << 16):
                time.sleep(self.delay)
                if sent:
                    self.cut_after -= len(piece)
                if not self.open or self.cut_after < 0:
                    break
                target.sendall(piece)
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def close(self) -> None:
        self._server.close()


class Store:
    """The server, and `Way`s to it."""

    def __init__(self) -> None:
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self._server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
        self._server.start()
        _, self._port = self._server.get_host_and_port()
        reset = f"http://127.0.0.1:{self._port}/moto-api/reset"  # what the server before had
        urllib.request.urlopen(urllib.request.Request(reset, method="POST")).close()
        self.way = Way(self._port)
        self.client = self._client(self._port)
        self.client.create_bucket(Bucket=BUCKET)

    def environment(self) -> dict[str, str]:
        """Of processes that use it."""
        return ENVIRONMENT | {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.way.port}"}

    def names(self, folder: str) -> list[str]:
        """All files below a folder."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=folder)
        return [item["Key"] for page in pages for item in page.get("Contents", [])]

    def put(self, name: str, content: bytes) -> None:
        self.client.put_object(Bucket=BUCKET, Key=name, Body=content)

    def get(self, name: str) -> bytes:
        content: bytes = self.client.get_object(Bucket=BUCKET, Key=name)["Body"].read()
        return content

    def close(self) -> None:
        self.way.close()
        self._server.stop()

    def _client(self, port: int) -> Any:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in ENVIRONMENT.items():
                patch.setenv(name, value)
            return boto3.client("s3", endpoint_url=f"http://127.0.0.1:{port}")
