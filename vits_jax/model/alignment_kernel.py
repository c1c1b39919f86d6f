"""Monotonic alignment as one kernel, forward search and the way back (Pallas, GPU and TPU).

Exactly the decisions of `alignment_loop`, whose `advance` they share. What the loop does
with one launch and more for each frame, each kernel does with one for the batch:

- **TPU** (Mosaic): a program takes up to 32 utterances side by side, sublanes full, phonemes in
  lanes. Scores stream in 32 frames at a time; the running row, and which phonemes were reached by
  a move, one bit each, stay in VMEM. The way back carries a one-hot row and adds it up.
- **GPU** (Triton): a program takes one utterance and ends with it, however long the batch is. The
  running row is in registers; each frame, threads hand it to their neighbours through memory that
  stays in the multiprocessor's cache. Eight frames' moves are a byte for each phoneme, and
  the next eight rows of scores are fetched while eight are worked on.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.experimental.pallas import triton as plgpu

from vits_jax.model.alignment_loop import FORBIDDEN, advance, first

_LANES, _SUBLANES = 128, 8
_WORD = 32  # frames whose moves are the bits of one number
_ROWS = 32  # utterances of one TPU program at most: four registers deep hides latency
_VMEM = 12 << 20  # bytes of it that a program may take; 16 MB is what Mosaic grants by itself
_UNROLL = 8  # frames for each turn of a loop
_BYTE = 8  # the same of a GPU program, whose moves are the bits of one byte
_WARP = 32  # threads, all of which have something to do
_WIDEST = 4096  # phonemes of a GPU program: 16 numbers a thread


def fits(shape: tuple[int, ...]) -> bool:
    """Whether both kernels take scores ``[B, F, P]`` of this shape.

    Up to 4,096 phonemes, and as many frames as leave the TPU's moves in 12 MB: 22,000 with 300
    phonemes, 6,000 with 1,344.
    """
    _, frames, phonemes = shape
    return phonemes <= _WIDEST and _vmem(_SUBLANES, frames, phonemes) <= _VMEM


def durations(scores: jax.Array, phonemes: jax.Array, frames: jax.Array) -> jax.Array:
    """Frames of each phoneme on the best path: see `alignment.durations`.

    Where it is lowered for a CPU it is the TPU's kernel, interpreted.
    """
    return lax.platform_dependent(
        scores,
        phonemes,
        frames,
        cpu=functools.partial(on_tpu, interpret=True),
        cuda=on_gpu,
        tpu=on_tpu,
    )


# TPU


def _vmem(rows: int, frames: int, phonemes: int) -> int:
    """Bytes: moves, two blocks of scores, and a dozen rows."""
    width = pl.cdiv(phonemes, _LANES) * _LANES
    return 4 * rows * width * (pl.cdiv(frames, _WORD) + 2 * _WORD + 12)


def _rows(batch: int, frames: int, phonemes: int) -> int:
    """Utterances of one program, a multiple of eight."""
    most = max(
        rows
        for rows in range(_SUBLANES, _ROWS + 1, _SUBLANES)
        if rows == _SUBLANES or _vmem(rows, frames, phonemes) <= _VMEM
    )
    programs = pl.cdiv(batch, most)
    return pl.cdiv(pl.cdiv(batch, programs), _SUBLANES) * _SUBLANES


def on_tpu(
    scores: jax.Array, phonemes: jax.Array, frames: jax.Array, *, interpret: bool = False
) -> jax.Array:
    """`durations` by Mosaic.

    Args:
        scores, phonemes, frames: as of `durations`.
        interpret: evaluate the kernel as JAX operations, anywhere.
    """
    batch, n_frames, n_phonemes = scores.shape
    rows = _rows(batch, n_frames, n_phonemes)
    words = pl.cdiv(n_frames, _WORD)
    width = pl.cdiv(n_phonemes, _LANES) * _LANES
    # What lies beyond the arrays is anything: no path of a row that is there meets it.
    return pl.pallas_call(
        _tpu_kernel,
        grid=(pl.cdiv(batch, rows), words),
        in_specs=[
            pl.BlockSpec((_WORD, rows, width), lambda row, word: (word, row, 0)),
            pl.BlockSpec((rows, 2), lambda row, word: (row, 0)),
        ],
        out_specs=pl.BlockSpec((rows, width), lambda row, word: (row, 0)),
        out_shape=jax.ShapeDtypeStruct((batch, n_phonemes), jnp.int32),
        scratch_shapes=[
            pltpu.VMEM((rows, width), scores.dtype),
            pltpu.VMEM((words, rows, width), jnp.int32),
        ],
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "arbitrary")),
        interpret=interpret,
        name="alignment",
    )(scores.swapaxes(0, 1), jnp.stack([phonemes, frames], axis=1).astype(jnp.int32))


def _tpu_kernel(scores: Any, lengths: Any, counted: Any, running: Any, moves: Any) -> None:
    """Scores ``[32, rows, width]``, phonemes and frames ``[rows, 2]``, the rest
    ``[(words,) rows, width]``."""
    word, words = pl.program_id(1), moves.shape[0]
    column = lax.broadcasted_iota(jnp.int32, running.shape, 1)
    start = column == 0
    width = running.shape[1]

    @pl.when(word == 0)
    def _() -> None:
        running[...] = jnp.full(running.shape, FORBIDDEN, running.dtype)

    def forward(turn: jax.Array, carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        best, bits = carry
        turn = turn.astype(jnp.int32)
        frame = word * _WORD + turn
        moved = jnp.where(start, first(frame, best.dtype), pltpu.roll(best, 1, 1))
        best, move = advance(best, moved, scores[turn], column, frame)
        return best, bits | jnp.where(move, lax.shift_left(jnp.int32(1), turn), 0)

    none = jnp.zeros(running.shape, jnp.int32)
    best, bits = lax.fori_loop(0, _WORD, forward, (running[...], none), unroll=_UNROLL)
    running[...] = best
    moves[word] = jnp.where(start, 0, bits)  # no path leaves phoneme 0 backwards

    @pl.when(word == words - 1)
    def _() -> None:
        phonemes, frames = lengths[:, :1], lengths[:, 1:]
        length = jnp.broadcast_to(frames, running.shape)
        at = jnp.where(column == phonemes - 1, 1, 0)

        def backward_word(
            turns: jax.Array, carry: tuple[jax.Array, jax.Array]
        ) -> tuple[jax.Array, jax.Array]:
            number = words - 1 - turns.astype(jnp.int32)
            bits = moves[number]

            def backward(
                turn: jax.Array, carry: tuple[jax.Array, jax.Array]
            ) -> tuple[jax.Array, jax.Array]:
                at, count = carry
                bit = _WORD - 1 - turn.astype(jnp.int32)
                here = jnp.where(number * _WORD + bit < length, at, 0)
                leaving = here & lax.shift_right_logical(bits, jnp.full_like(bits, bit))
                return (at ^ leaving) | pltpu.roll(leaving, width - 1, 1), count + here

            return lax.fori_loop(0, _WORD, backward, carry, unroll=_UNROLL)

        _, counted[...] = lax.fori_loop(0, words, backward_word, (at, none))


# GPU


def on_gpu(
    scores: jax.Array, phonemes: jax.Array, frames: jax.Array, *, interpret: bool = False
) -> jax.Array:
    """`durations` by Triton.

    Args:
        scores, phonemes, frames: as of `durations`.
        interpret: evaluate the kernel as JAX operations, anywhere.
    """
    batch, n_frames, n_phonemes = scores.shape
    width = max(pl.next_power_of_2(n_phonemes), _WARP)
    of_row = pl.BlockSpec((None, n_frames, n_phonemes), lambda row: (row, 0, 0))
    length = pl.BlockSpec((None,), lambda row: (row,))

    def own(*shape: int) -> pl.BlockSpec:
        return pl.BlockSpec((None, *shape), lambda row: (row, *(0 for _ in shape)))

    shapes = [
        ((n_phonemes,), jnp.int32),
        ((2, width), scores.dtype),
        ((pl.cdiv(n_frames, _BYTE), width), jnp.int8),
    ]
    counted, _, _ = pl.pallas_call(
        functools.partial(_gpu_kernel, barrier=_nothing if interpret else plgpu.debug_barrier),
        grid=(batch,),
        in_specs=[of_row, length, length],
        out_specs=[own(*shape) for shape, _ in shapes],
        out_shape=[jax.ShapeDtypeStruct((batch, *s), dtype) for s, dtype in shapes],
        compiler_params=plgpu.CompilerParams(num_warps=max(min(width // 128, 8), 1), num_stages=1),
        interpret=interpret,
        name="alignment",
    )(scores, phonemes.astype(jnp.int32), frames.astype(jnp.int32))
    return counted


def _nothing() -> None:
    """A barrier of one thread."""


def _gpu_kernel(
    scores: Any,
    phonemes: Any,
    frames: Any,
    counted: Any,
    exchanged: Any,
    moves: Any,
    *,
    barrier: Callable[[], None],
) -> None:
    """Scores ``[F, P]``, lengths ``[]``, counted ``[P]``, exchanged ``[2, width]``, moves
    ``[F / 8, width]``."""
    n_frames, n_phonemes = scores.shape
    width = exchanged.shape[1]
    column = lax.iota(jnp.int32, width)
    inside = column < n_phonemes
    length = frames[...]
    zero, one = jnp.int32(0), jnp.int32(1)

    def fetched(start: jax.Array) -> tuple[jax.Array, ...]:
        return tuple(
            plgpu.load(
                scores.at[jnp.minimum(start + turn, n_frames - 1), pl.ds(0, width)],
                mask=inside,
                other=0.0,
            )
            for turn in range(_BYTE)
        )

    def forward(byte: jax.Array, carry: Any) -> Any:
        best, rows = carry
        following = fetched((byte + 1) * _BYTE)
        bits = jnp.zeros(width, jnp.int32)
        for turn, score in enumerate(rows):
            frame = byte * _BYTE + turn
            # Two rows in turns: none is written while a thread may still read it.
            exchanged[turn % 2, :] = best
            barrier()
            before = exchanged.at[turn % 2, jnp.maximum(column - 1, 0)]
            moved = jnp.where(column == 0, first(frame, best.dtype), plgpu.load(before))
            best, move = advance(best, moved, score, column, frame)
            bits = bits | (move.astype(jnp.int32) << turn)
        moves[byte, :] = bits.astype(jnp.int8)
        return best, following

    best = jnp.full(width, FORBIDDEN, scores.dtype)
    lax.fori_loop(zero, (length + _BYTE - 1) // _BYTE, forward, (best, fetched(zero)))
    plgpu.store(counted.at[pl.ds(0, width)], jnp.zeros(width, jnp.int32), mask=inside)
    barrier()

    def backward(turn: jax.Array, carry: tuple[jax.Array, jax.Array]) -> Any:
        phoneme, count = carry
        frame = length - 1 - turn
        count = count + 1
        counted[phoneme] = count
        taken = (moves[frame // _BYTE, phoneme].astype(jnp.int32) >> (frame % _BYTE)) & 1
        leaving = taken & (phoneme > 0).astype(jnp.int32)
        return phoneme - leaving, count * (1 - leaving)

    lax.fori_loop(zero, length, backward, (phonemes[...] - one, zero))
