"""Training: `loop.train` tells the story, `step` is the pure step, `objective` its losses.

Evaluators (`evaluation`) look at a run between epochs; `outputs` is all that it writes.
"""
