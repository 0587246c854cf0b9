"""What one client of a training can carry, where it is less than the others do."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final, TypeAlias

from secagg.errors import InputError
from secagg.training.settings import TrainingConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """How one client trains, in place of what the settings say for all.

    Attributes:
      local_steps: batches of a round.
      sampling_rate: probability that an example is in a batch.
      trains: names of the parameters that it trains, or of modules that hold them; the others
        stay as they came. ``None``: all.
    """

    local_steps: int | None = None
    sampling_rate: float | None = None
    trains: Collection[str] | None = None

    def __post_init__(self) -> None:
        if self.trains is not None and (isinstance(self.trains, str) or not self.trains):
            raise InputError(f"trains {self.trains!r:.40} must be names, at least one")

    def applied(self, config: TrainingConfig) -> TrainingConfig:
        """The settings of this client."""
        given = {name: getattr(self, name) for name in ("local_steps", "sampling_rate")}
        return replace(config, **{name: v for name, v in given.items() if v is not None})

    def trained(self, names: Iterable[str]) -> list[bool]:
        """Whether each parameter of these names is trained.

        Raises:
          InputError: a name of ``trains`` stands for none of them.
        """
        known = list(names)
        if self.trains is None:
            return [True] * len(known)
        found = [False] * len(known)
        for asked in self.trains:
            held = [name == asked or name.startswith(f"{asked}.") for name in known]
            if not any(held):
                raise InputError(f"trains names {asked!r:.80}, no parameter that is trained")
            found = [one or other for one, other in zip(found, held, strict=True)]
        return found

    def describe(self) -> str:
        """What a run says of it, so that it is not resumed with another."""
        trains = None if self.trains is None else sorted(self.trains)
        said = {"steps": self.local_steps, "rate": self.sampling_rate, "trains": trains}
        return " ".join(f"{name} {value}" for name, value in said.items() if value is not None)


Devices: TypeAlias = Mapping[int, Device]
ALIKE: Final[Devices] = MappingProxyType({})


def settings_of(config: TrainingConfig, devices: Devices) -> list[TrainingConfig]:
    """The settings of each client.

    Raises:
      InputError: a device of no client, or one that noise or unit forbids.
    """
    if strange := sorted(devices.keys() - set(range(config.clients)), key=str):
        raise InputError(f"devices has {strange[0]!r}, clients are 0 to {config.clients - 1}")
    found = [config] * config.clients
    for client, device in devices.items():
        if not isinstance(device, Device):
            raise InputError(f"devices[{client}] is a {type(device).__name__}, must be a Device")
        if device.trains is not None and config.mode in ("local", "distributed"):
            raise InputError(
                f"devices[{client}] trains a part, and noise {config.noise} that hides an example "
                "is on all of a gradient; take unit client, or no noise"
            )
        try:
            found[client] = device.applied(config)
        except InputError as error:
            raise InputError(f"devices[{client}]: {error}") from error
    return found
