"""Sounds like speech: pulses through a few resonances, of known pitch; and recorded clips."""

from __future__ import annotations

import numpy as np
from scipy.signal import lfilter

RESONANCES = ((700, 90), (1220, 110), (2600, 170))  # hertz and bandwidth, of an open vowel


def glottal(
    seconds: float,
    rate: int = 16000,
    pitch: float = 120.0,
    noise: float = 0.0,
    resonances: tuple[tuple[float, float], ...] = RESONANCES,
) -> np.ndarray:
    """float32 ``[samples]``: syllables of a vowel, the pitch gliding a little, noise of a seed."""
    random = np.random.default_rng(0)
    time = np.arange(round(seconds * rate)) / rate
    glide = pitch * (1 + 0.1 * np.sin(2 * np.pi * 0.7 * time))
    phase = np.cumsum(glide) / rate
    audio = np.diff(np.floor(phase), prepend=0.0)  # a pulse each period
    for hertz, width in resonances:
        radius = np.exp(-np.pi * width / rate)
        audio = lfilter([1], [1, -2 * radius * np.cos(2 * np.pi * hertz / rate), radius**2], audio)
    audio *= 0.55 + 0.45 * np.sin(2 * np.pi * 2.5 * time)  # syllables
    audio = 0.5 * audio / np.abs(audio).max()
    return (audio + noise * random.normal(size=len(audio))).astype(np.float32)
