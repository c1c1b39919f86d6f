"""What of an installation works: packages, extras, devices, a training step (``vits-jax doctor``).

What may crash or hang runs in a process of its own (`probe`); this one imports none of it.
"""

from vits_jax.doctor.examination import Finding, examine

__all__ = ["Finding", "examine"]
