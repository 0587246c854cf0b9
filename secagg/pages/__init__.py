"""How pages are made: markup that escapes, charts without a script, numbers in words.

Knows nothing of what a page says; each report lives with its subject.
"""

__all__: list[str] = []
