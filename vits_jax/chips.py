"""Accelerators by name: their peaks, and the compiler's picture of those that are not here.

XLA's compilers for TPU and GPU run on a processor. A description of the chips stands in for
them, and what comes out is the program that they would run: its memory, its operations.
Needs libtpu (the extra ``[tpu]``), or the plugin of JAX for CUDA (``[cuda]``); no chip.
"""

from __future__ import annotations

import importlib.util
import os
import re
from dataclasses import dataclass

import jax
from jax.experimental import topologies

from vits_jax.errors import UserError


@dataclass(frozen=True)
class Chip:
    """What the maker says of a chip.

    Attributes:
        flops: bfloat16 (dense), a second.
        bandwidth: bytes of its memory, a second.
        memory: bytes.
        links: bytes a second to the other chips, one way, over all links of the chip together.
    """

    flops: float
    bandwidth: float
    memory: int
    links: float


CHIPS = {
    "v4": Chip(275e12, 1228e9, 32 << 30, 6 * 45e9),
    "v5e": Chip(197e12, 819e9, 16 << 30, 4 * 45e9),
    "v5p": Chip(459e12, 2765e9, 95 << 30, 6 * 90e9),
    "v6e": Chip(918e12, 1640e9, 32 << 30, 4 * 90e9),
    "a100": Chip(312e12, 2039e9, 80_000_000_000, 300e9),
    "h100": Chip(989e12, 3350e9, 80_000_000_000, 450e9),
    "h200": Chip(989e12, 4800e9, 141_000_000_000, 450e9),
}
"""Cloud TPU's documentation, "How to Scale Your Model" (links of TPUs), NVIDIA's data sheets (SXM,
80 GB and 141 GB)."""

_KINDS = {"tpu v4": "v4", "tpu v5 lite": "v5e", "tpu v5": "v5p", "tpu v6 lite": "v6e"}

# What the CUDA compiler is told: the fields of XLA's GpuDeviceInfoProto.
_CUDA = """
gpu_device_info {{
  threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152
  shared_memory_per_core: {shared} threads_per_core_limit: 2048 core_count: {cores}
  fpus_per_core: {units} block_dim_limit_x: 2147483647 block_dim_limit_y: 65535
  block_dim_limit_z: 65535 memory_bandwidth: {bandwidth:.0f} l2_cache_size: {cache}
  clock_rate_ghz: {clock} device_memory_size: {memory}
  shared_memory_per_block_optin: {most_shared} cuda_compute_capability {{ major: {major} }}
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
}}
platform_name: "CUDA" dnn_version_info {{ major: 9 minor: 28 }}
runtime_version {{ major: 12 minor: 9 patch: 0 }} device_description_str: "NVIDIA {name}"
"""
_HOPPER: dict[str, float] = {
    "shared": 233472,
    "most_shared": 232448,
    "cores": 132,
    "units": 128,
    "major": 9,
}
_HOPPER |= {"cache": 52428800, "clock": 1.98}
_AMPERE: dict[str, float] = {
    "shared": 167936,
    "most_shared": 166912,
    "cores": 108,
    "units": 64,
    "major": 8,
}
_AMPERE |= {"cache": 41943040, "clock": 1.41}
_GPUS = {"a100": _AMPERE, "h100": _HOPPER, "h200": _HOPPER}
_GPU = re.compile(rf"({'|'.join(_GPUS)})(?:x(\d+))?")
_TPU = re.compile(r"(v4|v5e|v5p|v6e):(\d+)x(\d+)(?:x(\d+))?")


def chip_of(device: jax.Device) -> Chip | None:
    """What is known of a device that is here, or of one described; None if it is not known."""
    kind = device.device_kind.lower()
    if (name := _KINDS.get(kind)) is None:
        name = next((name for name in CHIPS if name in kind), "")
    return CHIPS.get(name)


def described(target: str) -> list[jax.Device]:
    """Devices to compile for, ``"v5e:2x2"`` or ``"h100"`` or ``"a100x4"``.

    Changes the environment of this process: to be called before JAX has started.

    Raises:
        UserError: there is no such target, or what compiles for it is not installed.
    """
    if match := _TPU.fullmatch(target):
        if match[1] in ("v4", "v5p") and match[4] is None:
            raise UserError(f"{target}: a {match[1]} slice has three sizes, as in {match[1]}:2x2x1")
        _require("libtpu", target, "tpu")
        jax.config.update("jax_platforms", "cpu")
        os.environ |= {
            "TPU_SKIP_MDS_QUERY": "1",
            "TPU_WORKER_HOSTNAMES": "localhost",
            "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
        }
        options = {}
        if target == f"{match[1]}:1x1":
            options["chips_per_host_bounds"] = (1, 1, 1)
        topology = topologies.get_topology_desc(platform="tpu", topology_name=target, **options)
        return list(topology.devices)
    if match := _GPU.fullmatch(target):
        _require("jax_cuda12_plugin", target, "cuda")
        jax.config.update("jax_platforms", "cpu")
        os.environ |= {
            "CUDA_VISIBLE_DEVICES": "-1",
            "JAX_SKIP_CUDA_CONSTRAINTS_CHECK": "1",
            # Nothing can be timed here, and Triton's matmuls are chosen by timing them.
            "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} --xla_gpu_autotune_level=0 "
            "--xla_gpu_enable_triton_gemm=false",
        }
        topology = topologies.get_topology_desc(
            platform="cuda",
            topology_name="",
            target_config=_cuda(match[1]),
            topology=f"1x1x{match[2] or 1}",
        )
        return list(topology.devices)
    raise UserError(
        f"unknown target {target!r}: expected a TPU slice such as v5e:2x2 or v4:2x2x1, or GPUs "
        "such as h100, h100x4, h200 or a100"
    )


def _cuda(name: str) -> str:
    chip = CHIPS[name]
    about = _GPUS[name] | {"memory": chip.memory, "bandwidth": chip.bandwidth}
    return _CUDA.format(name=name.upper(), **about)


def _require(module: str, target: str, extra: str) -> None:
    if importlib.util.find_spec(module) is None:
        raise UserError(
            f"compiling for {target} needs {module}, which is not installed: "
            f'pip install "vits_jax[{extra}]" (no accelerator is needed)'
        )
