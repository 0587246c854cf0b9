"""What parties agree upon: numbers that promise something, and labels that never meet."""

import dataclasses
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.bonawitz import Agreement, Params, Rates
from protocols.errors import DecodeError, InputError
from protocols.primitives.prg import MAX_WORDS, Suite
from protocols.primitives.shamir import ORDER
from protocols.wire import Reader, opaque

PARAMS = Params(clients=10, threshold=6, minimum_survivors=7, words=100)
AGREEMENT = Agreement(params=PARAMS, session=bytes(16), round=1, public_digest=bytes(32))
ROSTER = bytes(range(32))
quick = settings(max_examples=60, derandomize=True, deadline=None)


def sparse(corrupt: str, dropout: str) -> Params:
    rates = Rates(corrupt_fraction=corrupt, dropout=dropout)
    return dataclasses.replace(PARAMS, threshold=None, rates=rates)


@st.composite
def some_params(draw: st.DrawFn) -> Params:
    sparse = draw(st.booleans())
    clients = draw(st.integers(4, 200) if sparse else st.integers(2, ORDER))
    active = draw(st.booleans())
    percent = st.integers(0, 25).map(lambda value: f"0.{value:02}")
    corrupt = draw(st.none() | st.integers(0, clients - 2)) if active and not sparse else None
    against = (clients // 3 if corrupt is None else corrupt) if active else 0
    least = (clients + against) // 2 + 1 if active else 2  # two rosters may not both reach it
    return Params(
        clients=clients,
        threshold=None if sparse else draw(st.integers(least, clients)),
        rates=Rates(corrupt_fraction=draw(percent), dropout=draw(percent)) if sparse else None,
        minimum_survivors=draw(st.integers(2, clients)),
        words=draw(st.integers(1, MAX_WORDS - 1)),
        suite=draw(st.sampled_from(list(Suite))),
        active=active,
        max_corrupt=corrupt,
    )


agreements = st.builds(
    Agreement,
    params=some_params(),
    session=st.binary(min_size=16, max_size=16),
    round=st.integers(0, 2**32 - 1),
    public_digest=st.binary(min_size=32, max_size=32),
)


@given(agreements)
@quick
def test_an_agreement_comes_out_as_it_went_in(agreement: Agreement) -> None:
    reader = Reader(agreement.to_bytes())
    assert Agreement.read(reader) == agreement
    reader.finish()


@given(agreements, agreements, st.binary(min_size=32, max_size=32))
@quick
def test_two_agreements_are_one_encoding_only_if_equal(
    one: Agreement, other: Agreement, roster: bytes
) -> None:
    same = one == other
    assert (one.to_bytes() == other.to_bytes()) == same
    assert (one.context(roster).digest == other.context(roster).digest) == same


@pytest.mark.parametrize(
    "change",
    [
        {"clients": 1},
        {"clients": 0},
        {"clients": ORDER + 1},
        {"threshold": 1},
        {"threshold": 0},
        {"threshold": 11},
        {"minimum_survivors": 1},
        {"minimum_survivors": 0},
        {"minimum_survivors": 11},
        {"words": 0},
        {"words": -1},
        {"words": MAX_WORDS},
    ],
    ids=lambda change: "{}={}".format(*next(iter(change.items()))),
)
def test_numbers_that_promise_nothing_are_refused(change: dict[str, int]) -> None:
    with pytest.raises(InputError, match=next(iter(change))):
        dataclasses.replace(PARAMS, **change)  # type: ignore[arg-type]  # only integers are changed


@pytest.mark.parametrize(
    "change",
    [
        {"threshold": None},
        {"rates": Rates(corrupt_fraction=0, dropout=0)},
        {"threshold": None, "rates": Rates(corrupt_fraction=0.5, dropout=0.5)},
        {
            "threshold": None,
            "rates": Rates(corrupt_fraction=0, dropout=0),
            "active": True,
            "max_corrupt": 1,
        },
    ],
    ids=["neither", "both", "infeasible", "corrupt-twice"],
)
def test_a_threshold_or_feasible_rates_are_given_and_not_both(change: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        dataclasses.replace(PARAMS, **change)


@pytest.mark.parametrize("rates", [b"1/10", b"\x00\x00\x00\x030.1", b"\x00\x00\x00\x042/20"])
def test_rates_have_one_encoding(rates: bytes) -> None:
    good = sparse("0.1", "0.1").to_bytes()
    first = opaque(b"1/10")
    assert good.endswith(opaque(first + first))
    head = good[: -4 - 2 * len(first)]
    for content in (rates + first, first + rates, rates, first, first * 3):
        with pytest.raises(DecodeError):
            Params.read(Reader(head + opaque(content)))


@pytest.mark.parametrize(("place", "value"), [(20, 0), (21, 2), (21, 255), (22, 0), (25, 9)])
def test_a_byte_that_means_nothing_is_refused(place: int, value: int) -> None:
    with pytest.raises(DecodeError):
        Params.read(Reader(with_byte(PARAMS, place, value)))


def test_the_check_word_fits_behind_the_longest_vector() -> None:
    assert dataclasses.replace(PARAMS, words=MAX_WORDS - 1).words + 1 == MAX_WORDS


@pytest.mark.parametrize(
    "change",
    [{"session": bytes(15)}, {"round": -1}, {"round": 2**32}, {"public_digest": bytes(31)}],
)
def test_an_agreement_that_does_not_fit_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        dataclasses.replace(AGREEMENT, **change)


def with_byte(params: Params, place: int, value: int) -> bytes:
    """Its encoding with one byte changed: 20 is the suite, 21 whether the server is active."""
    data = bytearray(params.to_bytes())
    data[place] = value
    return bytes(data)


def test_a_suite_that_does_not_exist_is_refused() -> None:
    with pytest.raises(DecodeError, match="no suite has number 3"):
        Params.read(Reader(with_byte(PARAMS, 20, 3)))


@pytest.mark.parametrize(
    "change",
    [
        {"session": b"\x01" + bytes(15)},
        {"round": 2},
        {"public_digest": b"\x01" + bytes(31)},
        {"params": dataclasses.replace(PARAMS, clients=11)},
        {"params": dataclasses.replace(PARAMS, threshold=7)},
        {"params": dataclasses.replace(PARAMS, minimum_survivors=8)},
        {"params": dataclasses.replace(PARAMS, words=101)},
        {"params": dataclasses.replace(PARAMS, suite=Suite.CHACHA20)},
        {"params": dataclasses.replace(PARAMS, threshold=7, active=True)},
        {"params": dataclasses.replace(PARAMS, active=True, max_corrupt=0)},
        {"params": dataclasses.replace(PARAMS, threshold=7, active=True, max_corrupt=3)},
        {"params": sparse("0.1", "0.1")},
        {"params": sparse("0.1", "0.11")},
        {"params": sparse("0.11", "0.1")},
    ],
    ids=[
        "session", "round", "public_digest", "clients", "threshold", "minimum", "words", "suite",
        "active", "none-corrupt", "some-corrupt", "rates", "dropout", "corrupt",
    ],
)  # fmt: skip
def test_every_public_input_changes_every_label(change: dict[str, Any]) -> None:
    one = AGREEMENT.context(ROSTER)
    other = dataclasses.replace(AGREEMENT, **change).context(ROSTER)
    assert one.digest != other.digest
    assert one.pair(1, 2) != other.pair(1, 2)
    assert one.self_mask(1) != other.self_mask(1)
    assert one.seal(1, 2, ROSTER, ROSTER) != other.seal(1, 2, ROSTER, ROSTER)
    assert one.draw(1) != other.draw(1)
    assert one.survivors() != other.survivors()
    assert AGREEMENT.advertised_by()(1) != dataclasses.replace(AGREEMENT, **change).advertised_by()(
        1
    )


def test_another_roster_changes_every_label() -> None:
    assert AGREEMENT.context(ROSTER).digest != AGREEMENT.context(bytes(32)).digest


def test_no_two_uses_of_a_round_share_a_label() -> None:
    context = AGREEMENT.context(ROSTER)
    clients = (0, 1, 2, 256, 2**32 - 1)
    keys = (bytes(32), bytes(31) + b"\x01")
    labels = [context.self_mask(client) for client in clients]
    labels += [context.draw(client) for client in clients]
    labels += map(AGREEMENT.advertised_by(), clients)
    labels += [context.survivors()]
    labels += [context.pair(a, b) for a in clients for b in clients if a < b]
    labels += [
        context.seal(a, b, one, other)
        for a in clients
        for b in clients
        if a != b
        for one in keys
        for other in keys
    ]
    assert len(set(labels)) == len(labels)
    assert not any(a != b and a.startswith(b) for a in labels for b in labels)


def test_two_clients_share_one_label_and_each_direction_of_a_box_has_its_own() -> None:
    context = AGREEMENT.context(ROSTER)
    assert context.pair(1, 2) == context.pair(2, 1)
    assert context.seal(1, 2, ROSTER, ROSTER) != context.seal(2, 1, ROSTER, ROSTER)


@given(agreements, st.binary(min_size=32, max_size=32))
@quick
def test_a_label_names_version_usage_context_session_and_round(
    agreement: Agreement, roster: bytes
) -> None:
    context = agreement.context(roster)
    about = context.digest + agreement.session + agreement.round.to_bytes(4, "big")
    ends = (1).to_bytes(4, "big"), (2).to_bytes(4, "big")
    start = b"secagg/1 bonawitz "
    assert context.pair(2, 1) == start + b"pair " + about + b"".join(ends)
    assert context.self_mask(1) == start + b"self " + about + ends[0]
    assert context.draw(1) == start + b"draw " + about + ends[0]
    both = roster + bytes(32)
    assert context.seal(1, 2, roster, bytes(32)) == start + b"seal " + about + b"".join(ends) + both
