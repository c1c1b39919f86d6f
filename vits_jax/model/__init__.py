"""The networks, in Flax: pure functions of parameters, inputs and `randomness`.

Each module is one part of VITS under Piper's names; `networks` has both networks whole.
"""
