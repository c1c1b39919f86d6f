"""The commands: flags to a configuration, a configuration to one call of a room below.

Each module's ``main(argv)`` is one command; nothing else imports from here but the files
that start them (``vits_jax/train.py`` and its sisters, ``tools/``, the script ``vits-jax``).
"""
