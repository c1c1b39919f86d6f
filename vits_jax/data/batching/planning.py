"""The batches of a run: planned once, kept with its checkpoints, and planned again from there.

A checkpoint says which data it was trained on and how batches were made of it, each by a
fingerprint of its own, and it holds the buckets: a release that would choose others goes on with
these.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from vits_jax.config import Config
from vits_jax.data.batching.balance import Shares
from vits_jax.data.batching.batches import Plan, lengths_of, make_plan, plan_in
from vits_jax.data.batching.buckets import Bucket, Schedule, round_up, schedule
from vits_jax.data.batching.first_buckets import choose_first_buckets, first_cost
from vits_jax.data.batching.speaker_weights import speaker_shares
from vits_jax.data.manifest import Dataset
from vits_jax.data.split import Split

_SHARES = "speaker_rows"


@dataclass(frozen=True)
class Planner:
    """Makes the plan of a run, new or as a checkpoint has it.

    Attributes:
        config: how batches are made.
        dataset: all utterances.
        parts: which of them are trained on.
        devices: that share the rows of a batch.
    """

    config: Config
    dataset: Dataset
    parts: Split
    devices: int

    def new(self) -> Plan:
        """The plan of a run that begins."""
        config = self.config
        return make_plan(
            self.dataset,
            self.parts.train,
            batch_size=self._asked["batch_size"],
            batch_frames=self._asked["batch_frames"],
            devices=self._cuts,
            hop_length=config.audio.hop_length,
            segment_frames=config.segment_frames,
            num_buckets=config.data.num_buckets,
            seed=config.run.seed,
            shares=self.shares,
        )

    @functools.cached_property
    def shares(self) -> Shares | None:
        """Rows of each speaker in an epoch; None: each utterance is in it once.

        Raises:
            UserError: ``--speaker-weights`` cannot be used.
        """
        asked = self.config.data.speaker_weights
        return None if asked is None else speaker_shares(asked, self.dataset, self.parts.train)

    @property
    def _cuts(self) -> int:
        """Into so many equal parts the rows of an update are cut."""
        return self.devices * self.config.data.accumulate_grad_batches

    def batches_per_epoch(self, plan: Plan) -> int:
        """Batches of a plan's epoch that are trained on."""
        limit = self.config.run.fast_dev_run or self.config.run.limit_train_batches
        if isinstance(limit, float):
            return max(1, int(plan.steps_per_epoch * limit))
        return min(plan.steps_per_epoch, limit)

    def identity(self, plan: Plan) -> dict[str, Any]:
        """What a checkpoint keeps: a position means the same where all of it is the same."""
        return {
            "data": self._data_digest.hexdigest()[:16],
            "utterances": len(self.dataset),
            "plan": _plan_digest(plan),
            "buckets": _describe(plan),
            "batches_per_epoch": self.batches_per_epoch(plan),
            **self._asked,
        }

    def same_data(self, identity: Mapping[str, Any]) -> bool:
        """Whether a checkpoint's utterances are these."""
        if "data" in identity:
            return identity["data"] == self._data_digest.hexdigest()[:16]
        return "dataset" in identity and identity["dataset"] == self._first_digest(self._widened)

    def same_shares(self, identity: Mapping[str, Any]) -> bool:
        """Whether speakers had the same rows of an epoch in a checkpoint."""
        return identity.get(_SHARES) == self._asked.get(_SHARES)

    def again(self, identity: Mapping[str, Any]) -> Plan | None:
        """The plan of a checkpoint over the same data; None where these flags, these devices or
        this release make other batches."""
        if "data" not in identity:
            if self.shares is not None:
                return None
            plan = self._widened
            return plan if identity == self._first_identity(plan) else None
        if any(identity.get(name) != value for name, value in self._asked.items()):
            return None
        stored = identity["buckets"]
        buckets = tuple(Bucket(b["phonemes"], b["frames"], b["rows"]) for b in stored)
        if any(bucket.rows % self._cuts for bucket in buckets):
            return None
        batches, carries = zip(*((b["batches"], b["carries"]) for b in stored))
        cost = sum(n * bucket.rows * bucket.cost for n, bucket in zip(batches, buckets))
        try:
            plan = self._in(buckets, Schedule(batches, carries, cost), self.shares)
        except ValueError:  # an utterance fits none of them: others are trained on now
            return None
        if list(plan.counts) != [b["utterances"] for b in stored]:
            return None
        return plan if self.identity(plan) == identity else None

    @property
    def _asked(self) -> dict[str, Any]:
        """What decides buckets, sizes those of an update: with others a run makes new ones."""
        data = self.config.data
        times = data.accumulate_grad_batches
        # Not there without: checkpoints of before do not have it either.
        shares = {} if self.shares is None else {_SHARES: _digest(self.shares.each)}
        return {
            "batch_size": data.batch_size and data.batch_size * times,
            "batch_frames": data.batch_frames and data.batch_frames * times,
            "num_buckets": data.num_buckets,
            "segment_frames": self.config.segment_frames,
            **shares,
        }

    def _in(
        self,
        buckets: tuple[Bucket, ...],
        epoch: Schedule | None = None,
        shares: Shares | None = None,
    ) -> Plan:
        return plan_in(
            buckets,
            self.dataset,
            self.parts.train,
            hop_length=self.config.audio.hop_length,
            seed=self.config.run.seed,
            epoch=epoch,
            shares=shares,
        )

    @functools.cached_property
    def _data_digest(self) -> Any:
        """SHA-256 of what the utterances are."""
        dataset, digest = self.dataset, hashlib.sha256()
        for column in (dataset.keys, dataset.id_lengths, dataset.samples, dataset.speaker_ids):
            digest.update(np.ascontiguousarray(column).tobytes())
        for row in range(len(dataset)):
            digest.update(dataset.phoneme_ids(row).tobytes())
        # Of the audio a sample: its lengths are above, and reading all of it would take long.
        for row in np.linspace(0, len(dataset) - 1, num=8).astype(int):
            digest.update(dataset.audio(row).tobytes())
        return digest

    # Checkpoints of before buckets were kept: one digest of data and buckets together.

    @functools.cached_property
    def _widened(self) -> Plan:
        """The plan as it was then: the largest bucket has room for all that is held out."""
        config, parts = self.config, self.parts
        hop_length, rows = config.audio.hop_length, config.data.batch_size or self._cuts
        buckets = choose_first_buckets(
            *lengths_of(self.dataset, parts.train, hop_length),
            lambda frames: rows,
            config.data.num_buckets,
            config.segment_frames,
        )
        held_out = np.concatenate([parts.validation, parts.test])
        if not len(held_out):
            return self._as_first(buckets)
        lengths = lengths_of(self.dataset, held_out, hop_length)
        phonemes, frames = (int(round_up(some).max()) for some in lengths)
        *others, last = buckets
        widest = Bucket(max(last.phonemes, phonemes), max(last.frames, frames), last.rows)
        return self._as_first((*others, widest))

    def _as_first(self, buckets: tuple[Bucket, ...]) -> Plan:
        counts = tuple(map(len, self._in(buckets).members))
        return self._in(buckets, schedule(counts, buckets, first_cost))

    def _first_digest(self, plan: Plan) -> str:
        digest = self._data_digest.copy()
        for rows in plan.members:
            digest.update(rows.tobytes() + b"|")
        return digest.hexdigest()[:16]

    def _first_identity(self, plan: Plan) -> dict[str, Any]:
        return {
            "dataset": self._first_digest(plan),
            "utterances": len(self.dataset),
            "batch_size": self.config.data.batch_size,
            "seed": plan.seed,
            "batches_per_epoch": self.batches_per_epoch(plan),
        }


def _describe(plan: Plan) -> list[dict[str, Any]]:
    """A plan's buckets, and what an epoch makes of each."""
    counts = zip(plan.counts, plan.schedule.batches, plan.schedule.carries)
    return [
        {**asdict(bucket), "utterances": count, "batches": batches, "carries": carries}
        for bucket, (count, batches, carries) in zip(plan.buckets, counts)
    ]


def _digest(numbers: np.ndarray) -> str:
    return hashlib.sha256(numbers.astype(np.int64).tobytes()).hexdigest()[:16]


def _plan_digest(plan: Plan) -> str:
    """Of the first epoch as it is trained: shapes, rows, order. So it sees the seed, the split
    into parts, and a NumPy that shuffles in another way."""
    first, digest = plan.epoch(0), hashlib.sha256(repr(plan.buckets).encode())
    for array in (first.buckets, first.starts, first.rows):
        digest.update(array.astype(np.int64).tobytes())
    digest.update(first.weight.tobytes())
    return digest.hexdigest()[:16]
