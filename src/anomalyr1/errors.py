"""The errors that users meet; a module of their own, so that the command line lists its verbs without loading
the records.
"""


class InputError(ValueError):
    """Bad input: the message names the file, what was expected, what came and what to do. Exit code 1."""


class SetupError(RuntimeError):
    """The environment lacks something: the message names what and the command that adds it. Exit code 3."""


class Stopped(Exception):
    """The user stopped a verb: the message says where, and how it goes on. Exit code 130."""
