"""How a voice begins again whose checkpoint lacks what training needs: what learns, when.

A voice that was published is decoder, flow, text encoder and durations. What it lacks is drawn at
random: the posterior encoder, the half of the duration predictor that training alone reads, the
discriminators. Their gradients would tear the rest apart before they mean anything
(docs/fine-tuning.md), so each part is let go of when those that it hears know enough:

1. Before the first step the missing halves are fitted to the voice as it is, and then posterior
   encoder, flow and decoder to the recordings, without discriminators (`fitting`).
2. A quarter of ``recover_steps``: discriminators learn to tell recordings from what the decoder
   makes of them, and do not yet push. The rest goes on.
3. What they say counts more and more, wholly from ``recover_steps`` on.
4. Text encoder and durations stay until four times ``recover_steps``, and then follow, more and
   more, within as many. Let go earlier they lower the divergence by saying less: words are lost.
"""

from __future__ import annotations

import logging

from vits_jax.checkpoints.source import UNHEARD
from vits_jax.checkpoints.warm_start import Transfer, hears_speaker
from vits_jax.config import Config
from vits_jax.model.networks import DISCRIMINATOR, GENERATOR

_LOGGER = logging.getLogger(__name__)

STEPS = 400

_PUSHES = 0.25  # what the discriminators say begins to count, in `recover_steps`
_TEXT_LETS_GO = 4.0  # of text encoder and durations, from then to twice that
PARTS = ("enc_p", "dp", "dp.post_*", "dp.flows.1.*")
"""Of which `factors` are, as `parts.parts_by_tensor` reads them."""


def missing(transfer: Transfer) -> frozenset[str]:
    """The generator's tensors that begin fresh, of those that speaking never reads: to fit."""
    return frozenset(name for name in _fresh(transfer) if name.startswith(UNHEARD))


def _fresh(transfer: Transfer) -> list[str]:
    prefix = f"{GENERATOR}."
    return [name.removeprefix(prefix) for name in transfer.fresh if name.startswith(prefix)]


def steps(config: Config, transfer: Transfer) -> int | None:
    """``recover_steps`` of a run that begins so: None where there is nothing to learn first.

    Args:
        config: what was asked for.
        transfer: what is taken of the checkpoint.
    """
    own, halves = _fresh(transfer), missing(transfer)
    judges = any(name.startswith(f"{DISCRIMINATOR}.") for name in transfer.fresh)
    others = [name for name in own if not hears_speaker(name) and name not in halves]
    asked = config.optimizer.recover_steps
    wanted = STEPS if asked is None else asked
    if config.run.recover == "off" or others or not (halves or judges) or not wanted:
        return None
    lacks = ["the posterior encoder"] * bool(halves) + ["discriminators"] * judges
    _LOGGER.info(
        "--recover auto: the checkpoint lacks %s: %d steps until discriminators count wholly",
        *(" and ".join(lacks), wanted),
    )
    return wanted


def factors(config: Config, step: int) -> dict[str, float]:
    """Of the learning rate, by part; of others it is 1.

    Args:
        config: of the run.
        step: updates done.
    """
    done = step / (config.optimizer.recover_steps or 1)
    others = min(1.0, max(0.0, done / _TEXT_LETS_GO - 1))
    return dict(zip(PARTS, (others, others, 1.0, 1.0)))


def adversarial(config: Config, step: int) -> float:
    """Of the weight of what the discriminators say to the generator."""
    done = step / (config.optimizer.recover_steps or 1)
    return min(1.0, max(0.0, (done - _PUSHES) / (1 - _PUSHES)))
