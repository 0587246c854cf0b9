"""What a SecureGrid does not send, what a mod does not answer, and what both agree on."""

from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
from engine import MEAN, START, Program, fit, grid_of, programs, record
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from hypothesis import strategies as st

from secagg.adapters.flower import SecureGrid, SumSettings, WeightedMean, digest, secure_mod
from secagg.adapters.testing import LocalGrid, carried
from secagg.errors import InputError
from secagg.nodes.node import new_folder

DEADLINE = 0.01  # seconds, after all who answer have answered


def messages(nodes: Any, kind: str = "train", **records: Any) -> list[Message]:
    content = RecordDict({"arrays": record(START), "config": ConfigRecord(), **records})
    return [Message(content, node, kind) for node in nodes]


# Apps without the mod


def test_a_program_without_the_mod_fails_before_it_has_seen_a_model(folder: Path) -> None:
    nodes = programs(5)
    grid = grid_of(nodes, folder)
    grid.apps = {**grid.apps, 104: nodes[104].app(None)}
    secured = SecureGrid(grid, MEAN, SumSettings(dropout="0.3"), deadline=DEADLINE)
    fit(secured)
    assert set(secured.history[0].survivors) == {100, 101, 102, 103}
    assert not any(
        message.content.array_records
        for message in grid.sent
        if message.metadata.dst_node_id == 104
    )
    replies = [reply for reply in grid.seen if reply.metadata.src_node_id == 104]
    assert [reply.has_error() for reply in replies] == [True]


def stubborn(message: Message, context: Context) -> Message:
    """A program that trains whatever it is sent."""
    arrays = record({"w": np.full((2, 3), 7.0, np.float32), "b": np.full(4, 7.0)})
    said = {"arrays": arrays, "metrics": MetricRecord({"num-examples": 50, "loss": 0.5})}
    return Message(RecordDict(dict(said)), reply_to=message)


def test_one_that_trains_on_nothing_has_replied_in_clear_and_is_not_read(folder: Path) -> None:
    """Not protected from: the reply was sent. It is in no sum, and reaches no strategy."""
    grid = grid_of(programs(5), folder)
    app = ClientApp()
    app.train()(stubborn)
    grid.apps = {**grid.apps, 104: app}
    secured = SecureGrid(grid, MEAN, SumSettings(dropout="0.3"), deadline=DEADLINE)
    replies = list(secured.send_and_receive(messages(grid.apps), timeout=DEADLINE))
    assert set(secured.history[0].survivors) == {100, 101, 102, 103}
    assert [reply.metadata.src_node_id for reply in replies] == [100]
    assert any("arrays" in reply.content for reply in grid.seen if not reply.has_error())


# Messages that ask for plain replies


@pytest.mark.parametrize("kind", ["train", "evaluate", "query"])
def test_a_node_with_the_mod_refuses_a_plain_message_by_its_type(kind: str, folder: Path) -> None:
    program = Program(node=100)
    grid = LocalGrid({100: program.app(new_folder(folder / "100"))})
    grid.apps[100].query()(stubborn)
    (reply,) = grid.send_and_receive(messages([100], kind))
    assert f"this {kind} message asks for a plain reply" in reply.error.reason
    assert not program.ran


def test_a_request_with_a_model_of_its_own_is_not_trained_on(folder: Path) -> None:
    """The server proposes one model and sends one node another."""
    nodes = programs(4)
    grid = grid_of(nodes, folder)

    def swapped(node: int, stage: str) -> bool:
        if (node, stage) == (101, "mask"):
            grid.sent[-1].content["arrays"] = record({key: 0 * a for key, a in START.items()})
        return False

    grid.lost = swapped
    secured = SecureGrid(grid, MEAN, SumSettings(dropout="0.3"), deadline=DEADLINE)
    fit(secured)
    (error,) = [reply for reply in grid.seen if reply.has_error()]
    assert "the model that came is not the one that was proposed" in error.error.reason
    assert not nodes[101].ran


def test_a_request_of_another_type_than_proposed_is_not_trained_on(folder: Path) -> None:
    nodes = programs(4)
    grid = grid_of(nodes, folder)

    def swapped(node: int, stage: str) -> bool:
        if (node, stage) == (101, "mask"):
            grid.sent[-1].metadata.__dict__["_message_type"] = "evaluate"
        return False

    grid.lost = swapped
    fit(SecureGrid(grid, MEAN, SumSettings(dropout="0.3"), deadline=DEADLINE))
    (error,) = [reply for reply in grid.seen if reply.has_error()]
    assert "the message is of another type than the proposal" in error.error.reason


@pytest.mark.parametrize(
    "spoil",
    [
        {},
        {"request": "text"},
        {"request": b""},
        {"request": b"{}"},
        {"request": 0},
        {"more": b""},
    ],
    ids=str,
)
def test_a_request_that_is_none_is_refused(spoil: dict[str, Any], folder: Path) -> None:
    grid = grid_of(programs(4), folder)

    def spoilt(node: int, stage: str) -> bool:
        if (node, stage) == (101, "share"):
            ours = grid.sent[-1].content["secagg"]
            whole = ours.pop("request")
            ours.update(spoil)
            if "more" in spoil:
                ours["request"] = whole + b"0"
        return False

    grid.lost = spoilt
    secured = SecureGrid(grid, MEAN, SumSettings(dropout="0.3"), deadline=DEADLINE)
    fit(secured)
    assert set(secured.history[0].survivors) == {100, 102, 103}
    (error,) = [reply for reply in grid.seen if reply.has_error()]
    assert "Error" in error.error.reason  # by type


def test_an_answer_that_is_none_counts_as_none(folder: Path) -> None:
    grid = grid_of(programs(5), folder)
    spoils: list[Any] = [
        lambda content: content.pop("secagg"),
        lambda content: content["secagg"].clear(),
        lambda content: content["secagg"].update(record({"answer": np.arange(3)})),
        lambda content: content["secagg"].update(record({"answer": np.zeros(10**6)})),
        lambda content: content["secagg"].update(record({"answer": np.zeros(0)})),
        lambda content: content.update({"secagg": MetricRecord({"answer": 1})}),
    ]
    for spoil in spoils:

        class Spoiling(LocalGrid):
            def pull_messages(self, message_ids: Any, spoil: Any = spoil) -> Any:
                found = super().pull_messages(message_ids)
                for reply in found:
                    if reply.metadata.src_node_id == 104:
                        spoil(reply.content)
                return found

        secured = SecureGrid(
            Spoiling(grid.apps), MEAN, SumSettings(dropout="0.3"), deadline=DEADLINE
        )
        fit(secured)
        assert set(secured.history[0].survivors) == {100, 101, 102, 103}


# What a grid refuses


def test_evaluate_without_named_metrics_is_left_out_and_says_so_once(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    secured = SecureGrid(grid := grid_of(programs(3), folder))
    caplog.set_level("WARNING", "flwr")
    result = fit(secured, rounds=2, fraction_evaluate=1.0)
    (line,) = [each for each in caplog.messages if "evaluate is left out" in each]
    for way in ("evaluate_metrics=", "fraction_evaluate=0", "allow_plaintext="):
        assert way in line
    assert len(result.train_metrics_clientapp) == 2
    assert not result.evaluate_metrics_clientapp
    assert {message.metadata.message_type for message in grid.sent} == {"train"}


def test_query_passes_only_if_that_is_meant(folder: Path) -> None:
    app = ClientApp()
    app.query()(stubborn)
    grid = LocalGrid(dict.fromkeys((100, 101), app))
    with pytest.raises(InputError, match=r"allow_plaintext=\['query'\]"):
        SecureGrid(grid, MEAN).send_and_receive(messages(grid.apps, "query"))
    assert not grid.sent
    asked = messages(grid.apps, "query")
    assert len(list(SecureGrid(grid, MEAN, allow_plaintext=["query"]).send_and_receive(asked))) == 2


def test_evaluate_in_clear_reaches_programs_whose_train_alone_has_the_mod(folder: Path) -> None:
    nodes = programs(3)
    apps = {}
    for node, each in nodes.items():
        apps[node] = ClientApp()
        mod = secure_mod(lambda context: folder / str(context.node_id))
        apps[node].train(mods=[mod])(each.train)
        apps[node].evaluate()(each.evaluate)
        policy = new_folder(folder / str(node)) / "policy.toml"
        lines = "units = []\nallow_no_noise = true\nminimum_cohort = 2\n"
        policy.write_text(lines, encoding="utf-8")
    secured = SecureGrid(LocalGrid(apps), MEAN, allow_plaintext=["evaluate"])
    result = fit(secured, fraction_evaluate=1.0)
    assert set(result.evaluate_metrics_clientapp[1]) == {"accuracy"}
    assert [report.purpose for report in secured.history] == ["train"]


@pytest.mark.parametrize("clear", [["train"], ["query", "train"], ["system"]], ids=str)
def test_nothing_else_may_pass_in_clear(clear: list[str]) -> None:
    with pytest.raises(InputError, match="may name evaluate and query alone"):
        SecureGrid(LocalGrid({}), MEAN, allow_plaintext=clear)


@pytest.mark.parametrize("kind", ["train", "train.other", "evaluate", "query"])
def test_protected_messages_are_not_pushed(kind: str, folder: Path) -> None:
    grid = grid_of(programs(3), folder)
    with pytest.raises(InputError, match=f"a {kind} message would be answered in clear"):
        SecureGrid(grid, MEAN).push_messages(messages([100], kind))
    assert not grid.sent


def test_what_may_pass_is_pushed_and_pulled() -> None:
    app = ClientApp()
    app.query("size")(stubborn)
    secured = SecureGrid(LocalGrid({100: app}), MEAN, allow_plaintext=["query"])
    names = list(secured.push_messages(messages([100], "query.size")))
    assert len(list(secured.pull_messages(names))) == 1


def test_what_one_sum_cannot_be_of_is_refused(folder: Path) -> None:
    grid = grid_of(programs(3), folder)
    secured = SecureGrid(grid, MEAN)
    train, other = messages([100, 101]), messages([102], "evaluate")
    with pytest.raises(InputError, match="of types evaluate, train"):
        secured.send_and_receive([*train, *other])
    different = messages([102], config=ConfigRecord({"lr": 0.5}))
    with pytest.raises(InputError, match="must have the same content"):
        secured.send_and_receive([*train, *different])
    with pytest.raises(InputError, match="named twice"):
        secured.send_and_receive([*train, *messages([100])])
    (refusal,) = secured.send_and_receive(messages([100]))  # nobody's fault: the others are away
    assert "1 nodes were named, 3 needed" in str(refusal.error.reason)
    for name in ("secagg", "secagg.privacy"):
        with pytest.raises(InputError, match=f"{name} are ours"):
            secured.send_and_receive(messages(grid.apps, **{name: ConfigRecord()}))
    with pytest.raises(InputError, match="2 ArrayRecords"):
        secured.send_and_receive(messages(grid.apps, control=record(START)))
    assert secured.send_and_receive([]) == []
    assert not grid.sent
    assert all(report.failure for report in secured.history)


def test_messages_of_the_same_content_need_not_share_it(folder: Path) -> None:
    secured = SecureGrid(grid_of(programs(3), folder), MEAN)
    each = [message for node in (100, 101, 102) for message in messages([node])]
    secured.send_and_receive(each, timeout=DEADLINE)
    assert len(secured.history[0].survivors) == 3


def test_the_rest_of_a_grid_passes_through(folder: Path) -> None:
    grid = grid_of(programs(3), folder)
    assert list(SecureGrid(grid, MEAN).get_node_ids()) == [100, 101, 102]


def test_evaluations_are_summed_without_arrays_coming_back(folder: Path) -> None:
    mean = WeightedMean(clip=0.1, max_weight=100, evaluate_metrics={"accuracy": 1.0})
    nodes = programs(3)
    secured = SecureGrid(grid_of(nodes, folder), mean)
    (reply,) = secured.send_and_receive(messages(nodes, "evaluate"), timeout=DEADLINE)
    weights = [each.examples for each in nodes.values()]
    values = [each.metrics("accuracy")["accuracy"] for each in nodes.values()]
    assert set(reply.content) == {"metrics"}
    assert reply.content["metrics"]["num-examples"] == sum(weights)
    assert reply.content["metrics"]["accuracy"] == pytest.approx(np.average(values, 0, weights))


# The digest of what was sent

VALUES = st.one_of(
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False),
    st.booleans(),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=6),
    st.binary(max_size=6),
    st.lists(st.integers(-9, 9), max_size=3),
    st.lists(st.floats(-1, 1), min_size=1, max_size=3),
    st.lists(st.sampled_from(["bytes", "01", "", "a"]), min_size=1, max_size=3),
    st.lists(st.binary(max_size=2), min_size=1, max_size=3),
)
NAMES = st.text('ab."\\ ]', min_size=1, max_size=3)
CONFIGS = st.dictionaries(NAMES, VALUES, max_size=3)
CONTENTS = st.dictionaries(NAMES, CONFIGS, max_size=3)


def content_of(said: dict[str, dict[str, Any]]) -> RecordDict:
    return RecordDict({name: ConfigRecord(config) for name, config in said.items()})


def plain(said: dict[str, dict[str, Any]]) -> dict[str, dict[str, str]]:
    """With types: 1, 1.0 and True differ, and so do 0.0 and -0.0."""
    return {name: {key: repr(v) for key, v in config.items()} for name, config in said.items()}


@hypothesis.given(CONTENTS, CONTENTS)
def test_digests_are_equal_where_contents_are(one: Any, other: Any) -> None:
    same = plain(one) == plain(other)
    assert (digest(content_of(one)) == digest(content_of(other))) is same


@hypothesis.given(CONTENTS)
def test_a_digest_survives_the_way_and_every_order(said: Any) -> None:
    backwards = {name: dict(reversed(said[name].items())) for name in reversed(said)}
    expected = digest(content_of(said))
    assert digest(content_of(backwards)) == expected
    assert digest(carried(content_of(backwards))) == expected


def test_bytes_are_not_the_list_of_texts_that_they_once_were() -> None:
    texts, raw = ConfigRecord({"x": ["bytes", "01"]}), ConfigRecord({"x": b"\x01"})
    assert digest(RecordDict({"c": texts})) != digest(RecordDict({"c": raw}))


ONE = np.arange(6, dtype=np.float32)


@pytest.mark.parametrize(
    "other",
    [
        {"w": ONE.reshape(2, 3)},
        {"w": ONE.view(np.int32)},
        {"v": ONE},
        {"w": ONE, "v": ONE},
        {"w": ONE[:3], "w2": ONE[3:]},
        {"w": np.nextafter(ONE, np.float32(9))},
    ],
    ids=["shape", "type", "name", "two", "split", "value"],
)
def test_every_property_of_an_array_is_in_the_digest(other: dict[str, Any]) -> None:
    base = RecordDict({"arrays": record({"w": ONE})})
    assert digest(RecordDict({"arrays": record(other)})) != digest(base)


def test_kind_and_name_of_a_record_are_in_the_digest() -> None:
    contents = [
        RecordDict({"a": ConfigRecord({"x": 1})}),
        RecordDict({"b": ConfigRecord({"x": 1})}),
        RecordDict({"a": MetricRecord({"x": 1})}),
        RecordDict({"a": ConfigRecord(), "b": ConfigRecord({"x": 1})}),
        RecordDict({"a": ConfigRecord({"x": 1}), "b": ConfigRecord()}),
        RecordDict({"a": ConfigRecord()}),
        RecordDict({"a": MetricRecord()}),
        RecordDict({"a": ArrayRecord()}),
        RecordDict(),
    ]
    assert len({digest(content) for content in contents}) == len(contents)


def test_arrays_in_another_order_are_the_same_model(folder: Path) -> None:
    """Flower's records are maps; what the sum's vector holds follows the proposal."""

    class Reordering(Program):
        def train(self, message: Message, context: Context) -> Message:
            reply = super().train(message, context)
            arrays = reply.content["arrays"]
            reply.content["arrays"] = ArrayRecord(dict(reversed(list(arrays.items()))))
            return reply

    nodes = programs(3)
    nodes[101] = Reordering(node=101, examples=20)
    straight = fit(SecureGrid(grid_of(programs(3), folder / "straight"), MEAN))
    turned = fit(SecureGrid(grid_of(nodes, folder / "turned"), MEAN))
    for key in START:
        ours, theirs = turned.arrays[key].numpy(), straight.arrays[key].numpy()
        assert np.allclose(ours, theirs, rtol=0, atol=0.1 * 2**-11)
