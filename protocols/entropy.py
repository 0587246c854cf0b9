"""The source of randomness: a function from a count to that many random bytes.

Protocols take one as an argument. ``system`` is the default everywhere; tests
and vectors hand in a counting one.
"""

import os
from collections.abc import Callable
from typing import TypeAlias

Entropy: TypeAlias = Callable[[int], bytes]

system: Entropy = os.urandom
