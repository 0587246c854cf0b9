"""The command line: words to calls, nothing computed here.

``main`` is the entry point, and each other module one command.
"""

__all__: list[str] = []
