"""``vits-jax voice``: from recordings to a voice, command by command, each in its own process.

Nothing here touches a device: those are the commands'.
"""
