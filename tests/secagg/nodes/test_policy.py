"""What a node agrees to: every line of its policy refuses by its name."""

import tomllib
from dataclasses import fields, replace
from fractions import Fraction
from pathlib import Path

import pytest
from between import ENTRIES, MAX_WEIGHT, MEAN, MODEL, SHAPES, noise_of

from dp.accounting.events import Unit
from dp.ledger.rules import composition_rule as named_policy
from secagg.adapters.testing import ANYTHING
from secagg.errors import InputError, RefusedError
from secagg.nodes.coordinator import SumSettings
from secagg.nodes.policy import TEMPLATE, NodePolicy
from secagg.nodes.proposal import Average, Noise, Proposal
from secagg.vectors.layout import Layout

KEY = bytes(range(32))


def proposed(
    content: Average | Noise | None = None,
    *,
    clients: int = 6,
    minimum: int | None = None,
    active: bool = False,
    protocol: str = "bonawitz",
) -> Proposal:
    content = content or MEAN.content("train", clients)
    segments = content.segments() if isinstance(content, Noise) else content.segments(ENTRIES)

    class Signed(SumSettings):
        @property
        def active(self) -> bool:
            return active

    params = Signed(protocol=protocol, corrupt_fraction=Fraction(1, 6)).params(
        clients, Layout(segments=segments, clients=clients), minimum
    )
    return Proposal(
        purpose="train",
        session=bytes(16),
        params=params,
        model_digest=MODEL,
        seed=bytes(32),
        shapes=SHAPES,
        content=content,
        roster_digest=bytes(32 if active else 0),
    )


def noised(unit: Unit = Unit.CLIENT) -> Proposal:
    mechanism = noise_of(6, unit=unit, batch=8 if unit is Unit.EXAMPLE else 1)
    return proposed(Noise(mechanism=mechanism), minimum=mechanism.minimum_survivors)


REFUSED = {
    "protocols": (proposed(protocol="threshold-ckks"), {"protocols": ("bonawitz",)}),
    "protocols ": (proposed(), {"protocols": ("threshold-ckks",)}),
    "minimum_cohort 5": (proposed(), {"minimum_cohort": 5}),
    "minimum_cohort 6": (
        proposed(protocol="threshold-ckks", minimum=5),
        {"minimum_cohort": 6},
    ),
    "minimum_threshold 5": (proposed(), {"minimum_threshold": 5}),
    "minimum_threshold 6": (proposed(protocol="threshold-ckks"), {"minimum_threshold": 6}),
    "corrupt_fraction": (proposed(), {"corrupt_fraction": "0.7"}),
    "corrupt_fraction ": (proposed(active=True), {"corrupt_fraction": 0.34, "operator": KEY}),
    "corrupt_fraction  ": (noised(), {"corrupt_fraction": "1/3"}),
    "allow_no_noise": (proposed(), {"allow_no_noise": False}),
    "units": (noised(), {"units": ("example",)}),
    "units ": (noised(Unit.EXAMPLE), {"units": ("client",)}),
    "examples": (noised(Unit.EXAMPLE), {"examples": None}),
    "graphs": (proposed(clients=100), {"graphs": ("complete",)}),
    "graphs ": (proposed(clients=200, minimum=100, active=True), {"operator": KEY}),
    "maximum_cohort 5": (proposed(), {"maximum_cohort": 5}),
    "clip 0.5": (proposed(), {"clip": 0.5}),
    "clip 2": (noised(), {"clip": 2.0}),
    "max_weight 99": (proposed(), {"max_weight": MAX_WEIGHT - 1}),
    "max_weight 101": (proposed(), {"max_weight": MAX_WEIGHT + 1}),
    "metrics": (proposed(), {"metrics": {}}),
    "metrics ": (proposed(), {"metrics": {"loss": 9.0}}),
    "metrics  ": (proposed(), {"metrics": {"accuracy": 10.0}}),
    "active": (proposed(), {"active": True, "operator": KEY}),
    "active ": (proposed(protocol="threshold-ckks"), {"active": True, "operator": KEY}),
    "operator": (proposed(active=True), {}),
}


@pytest.mark.parametrize("line", REFUSED)
def test_a_line_that_is_not_kept_refuses_by_its_name(line: str) -> None:
    proposal, change = REFUSED[line]
    with pytest.raises(RefusedError) as refusal:
        replace(ANYTHING, **change).check(proposal)  # type: ignore[arg-type]  # lines
    assert f"policy refuses ({line.strip()}): " in str(refusal.value)


@pytest.mark.parametrize(
    "proposal",
    [proposed(), proposed(protocol="threshold-ckks"), noised(), noised(Unit.EXAMPLE)],
    ids=["mean", "ckks", "clients", "examples"],
)
def test_what_keeps_every_line_is_not_refused(proposal: Proposal) -> None:
    ANYTHING.check(proposal)
    replace(ANYTHING, operator=KEY, active=True).check(proposed(active=True))


def test_a_node_may_take_part_in_sums_without_noise_alone() -> None:
    policy = replace(ANYTHING, units=())
    policy.check(proposed())
    with pytest.raises(RefusedError, match="units"):
        policy.check(noised())


# The file


def test_the_template_says_the_defaults_and_every_line(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_text(TEMPLATE)
    assert NodePolicy.read(path) == replace(NodePolicy(), allow_no_noise=True)
    said = tomllib.loads(TEMPLATE)
    hidden = {line[2:].split(" ")[0] for line in TEMPLATE.splitlines() if line.startswith("# ")}
    assert said.keys() | hidden >= {item.name for item in fields(NodePolicy)}
    assert said == {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in ((item.name, item.default) for item in fields(NodePolicy))
        if name in said
    } | {"allow_no_noise": True}  # said by the file, never by its absence


def test_a_missing_file_is_an_error_that_says_what_writes_one(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no policy at .*`secagg node new` writes one"):
        NodePolicy.read(tmp_path / "policy.toml")
    with pytest.raises(InputError, match="cannot be read"):
        NodePolicy.read(tmp_path)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("minimum_cohrt = 3", "unknown line 'minimum_cohrt'; known: active, allow_no_noise"),
        ("[server]\nkey = 3", "server|fromhex"),
        ('protocols = "bonawitz"', "protocols must be a list"),
        ("protocols = []", "must name some of bonawitz, threshold-ckks"),
        ('protocols = ["plain"]', "must name some of"),
        ("protocols = [[1]]", "protocols .* must name some of"),
        ("graphs = []", "graphs .* must name some of complete, sparse"),
        ('graphs = ["star"]', "graphs .* must name some of"),
        ('graphs = "complete"', "graphs must be a list"),
        ("maximum_cohort = 1", "maximum_cohort 1 is not an integer from 2"),
        ("maximum_cohort = 5.0", "maximum_cohort 5.0 is not an integer"),
        ("maximum_cohort = 2", "maximum_cohort 2 is below minimum_cohort 3"),
        ("sums_per_model = 0", "sums_per_model 0 is not an integer from 1"),
        ("sums_per_model = true", "sums_per_model True is not an integer"),
        ("max_weight = 0", "max_weight 0 is not an integer from 1"),
        ("max_weight = 1.5", "max_weight 1.5 is not an integer"),
        ("clip = 0", "clip 0 is not a number above 0"),
        ("clip = -0.5", "clip -0.5 is not a number"),
        ("clip = nan", "clip nan is not a number"),
        ("clip = inf", "clip inf is not a number"),
        ("clip = true", "clip True is not a number"),
        ('clip = "1"', "clip '1' is not a number"),
        ("metrics = 3", "metrics must be a table"),
        ('metrics = ["loss"]', "metrics must be a table"),
        ("metrics = { loss = 0 }", "metrics, 'loss', 0 is not a number above 0"),
        ('metrics = { loss = "10" }', "metrics, 'loss', '10' is not a number"),
        ("metrics = { loss = inf }", "metrics, 'loss', inf is not a number"),
        ('units = ["nothing"]', "must name some of example, client"),
        ("units = 1", "units must be a list"),
        ("units = []", r"units \[\] must name some of example, client"),
        ("allow_no_noise = 1", "allow_no_noise 1 is neither true nor false"),
        ("minimum_cohort = 1", "minimum_cohort 1 is not an integer from 2"),
        ("minimum_cohort = 3.0", "minimum_cohort 3.0 is not an integer"),
        ("minimum_cohort = true", "minimum_cohort True is not an integer"),
        ("minimum_threshold = 0", "minimum_threshold 0 is not an integer from 2"),
        ("maximum_epsilon = 0", "epsilon"),
        ("maximum_epsilon = inf", "epsilon"),
        ("maximum_epsilon = nan", "epsilon"),
        ("maximum_epsilon = true", "maximum_epsilon True is not a number"),
        ('maximum_epsilon = "8"', "is not a number"),
        ("delta = 1", "delta"),
        ("delta = 0.0", "delta"),
        ("corrupt_fraction = 1", "corrupt_fraction 1 is outside"),
        ("corrupt_fraction = -0.1", "corrupt_fraction -0.1 is outside"),
        ("corrupt_fraction = true", "corrupt_fraction 'True' is no decimal number"),
        ("active = 1", "active 1 is neither true nor false"),
        ("active = true", "active needs operator"),
        ('operator = "abcd"', "operator is not a public key of 32 bytes"),
        ('server = "key"', "server is not a public key of 32 bytes in hexadecimal"),
        ("server = 3", "server is not a public key"),
        ("examples = 0", "examples 0 is not an integer from 1"),
        ("examples = -3.5", "examples -3.5 is not"),
        ("delta = ", "cannot be read"),
        ("delta = 1e-5\ndelta = 1e-6", "cannot be read"),
    ],
)
def test_a_wrong_line_is_an_error_that_names_it(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "policy.toml"
    path.write_text(text)
    with pytest.raises(InputError, match=told) as error:
        NodePolicy.read(path)
    assert str(path) in str(error.value)


def test_a_file_that_is_no_text_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="cannot be read"):
        NodePolicy.read(path)


def test_keys_are_read_from_hexadecimal(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_text(f'operator = "{KEY.hex()}"\nserver = "{KEY.hex()}"\nactive = true\n')
    assert NodePolicy.read(path) == NodePolicy(operator=KEY, server=KEY, active=True)


# Its filter


@pytest.mark.parametrize(
    ("epsilon", "delta", "order"),
    [(8.0, 1e-5, 4), (1.0, 1e-5, 24), (0.01, 1e-5, 256), (1000.0, 1e-5, 2)],
)
def test_the_ledgers_filter_is_at_the_order_that_suits_the_budget(
    epsilon: float, delta: float, order: int
) -> None:
    policy = NodePolicy(maximum_epsilon=epsilon, delta=delta)
    assert policy.filter == f"RDP at order {order}"
    assert named_policy(policy.filter).text == policy.filter
    assert (policy.budget.epsilon, policy.budget.delta) == (epsilon, delta)
