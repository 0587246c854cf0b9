"""How pages are made: markup that escapes, parts of a page, charts without a script, numbers.

Knows nothing of what a page says; each report lives with its subject.
"""

__all__: list[str] = []
