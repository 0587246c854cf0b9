"""The stages of a round, as everything above the protocols calls them."""

from enum import StrEnum


class Stage(StrEnum):
    """The stages of a round; a client that drops out at one never answers it."""

    ADVERTISE = "advertise"
    SHARE = "share"
    MASK = "mask"
    SIGN = "sign"  # only against an active server
    REVEAL = "reveal"


UNSIGNED = tuple(stage for stage in Stage if stage is not Stage.SIGN)
