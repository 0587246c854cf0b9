"""Another implementation of the masks' protocol, tested against ours.

``peer`` answers requests as our clients and servers, ``process`` asks another program the same,
``play`` plays rounds with both, ``mutants`` changes their messages, ``fuzzer`` compares all of it.
"""

from secagg.interop.fuzzer import Difference, Report, fuzz
from secagg.interop.peer import Peer, serve
from secagg.interop.process import ForeignPeer, PeerError

__all__ = ["Difference", "ForeignPeer", "Peer", "PeerError", "Report", "fuzz", "serve"]
