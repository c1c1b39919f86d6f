"""In place of JAX's coordination service, within one process."""

from __future__ import annotations

import threading

import jax


class Service:
    """Its keys and values, as its clients see them."""

    def __init__(self) -> None:
        self._values: dict[str, str] = {}
        self._change = threading.Condition()

    def key_value_set(self, key: str, value: str, allow_overwrite: bool = False) -> None:
        with self._change:
            if key in self._values and not allow_overwrite:
                raise jax.errors.JaxRuntimeError(f"ALREADY_EXISTS: {key}")
            self._values[key] = value
            self._change.notify_all()

    def blocking_key_value_get(self, key: str, timeout_in_ms: int) -> str:
        with self._change:
            if not self._change.wait_for(lambda: key in self._values, timeout_in_ms / 1000):
                raise jax.errors.JaxRuntimeError(f"DEADLINE_EXCEEDED: {key}")
            return self._values[key]

    def key_value_dir_get(self, directory: str) -> list[tuple[str, str]]:
        with self._change:
            return [(k, v) for k, v in self._values.items() if k.startswith(directory)]
