"""Numbers about speech: NumPy in, numbers out; what each is stands in ``docs/metrics.md``.

>>> from vits_jax.metrics import read, score, selected
>>> recordings = [read("a.wav", text="One."), read("b.wav", text="Two.")]  # doctest: +SKIP
>>> clips = [read("spoken_a.wav", text="One.", reference=recordings[0])]  # doctest: +SKIP
>>> score(clips, recordings, selected("mel,mcd")).results["mel"].interval.mean  # doctest: +SKIP

JAX is not imported by anything in here, and what a metric needs beyond NumPy is imported when
it is taken.
"""

from vits_jax.metrics.built_in import METRICS, selected
from vits_jax.metrics.clips import Clip, read
from vits_jax.metrics.intervals import Interval, difference, interval
from vits_jax.metrics.metric import Metric, NotTaken
from vits_jax.metrics.plugins import plugin
from vits_jax.metrics.scoring import Result, Table, differences, score

__all__ = [
    "METRICS",
    "Clip",
    "Interval",
    "Metric",
    "NotTaken",
    "Result",
    "Table",
    "difference",
    "differences",
    "interval",
    "plugin",
    "read",
    "score",
    "selected",
]
