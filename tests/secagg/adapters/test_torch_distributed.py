"""Ranks over gloo: sums and trainings as plain, and what goes wrong is raised on all alike."""

import re
from typing import Any

import numpy as np
import pytest
import rank_work as work
import torch
from ranks import MISSING, TIMEOUT, run

STEPS = 20
KINDS = ("ddp", "fsdp", "houses")
slow = pytest.mark.slow  # four processes that import torch: some stand for all in every run
ONE_OF_KINDS = ("ddp", *(pytest.param(kind, marks=slow) for kind in KINDS[1:]))
TRAININGS = {
    "ddp": work.ddp_plain_and_secure,
    "fsdp": work.fsdp_plain_and_secure,
    "houses": work.houses_plain_and_secure,
}
SAYS = {
    "nan": "1 with an entry that is NaN or infinite",
    "overflow": "1 with an entry beyond the agreed range",
    "one shard": "1 with an entry beyond the agreed range",
}


@pytest.fixture(scope="module")
def sums() -> list[dict[str, Any]]:
    return run(work.sums)


def exact(ranks: range = range(4)) -> torch.Tensor:
    return torch.stack([torch.linspace(-1, 1, 1001) * (rank + 1) / 4 for rank in ranks]).sum(0)


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("float32", 4 * 2.0**-19),
        ("float64", 4 * 2.0**-19),
        ("strided", 4 * 2.0**-19),
        ("two lanes", 4 * 2.0**-29),
        ("stochastic", 4 * 2.0**-18),
    ],
)
def test_a_sum_is_exact_to_half_a_step_of_each_rank(
    sums: list[dict[str, Any]], name: str, error: float
) -> None:
    for found in sums:
        assert found["bits"] == 19
        assert (found[name] - exact()).abs().max() <= error + 2.0**-22  # and one float32 rounding


def test_all_ranks_get_the_very_same_numbers(sums: list[dict[str, Any]]) -> None:
    for name in sums[0].keys() - {"pair", "bits", "words"}:
        for found in sums[1:]:
            assert torch.equal(found[name], sums[0][name])


def test_a_tensor_keeps_its_type_and_shape(sums: list[dict[str, Any]]) -> None:
    for found in sums:
        for dtype in (torch.bfloat16, torch.float16):
            name = str(dtype).removeprefix("torch.")
            assert found[name].dtype == dtype
            assert torch.allclose(found[name].float(), exact() / 4, atol=4e-3)
        assert found["matrix"].shape == (10, 100)
        assert torch.allclose(found["matrix"].reshape(-1), exact()[:1000], atol=1e-5)
        assert torch.allclose(found["one"], exact()[:1], atol=1e-5)


def test_words_add_up_modulo_two_to_the_64(sums: list[dict[str, Any]]) -> None:
    for found in sums:
        assert found["words"].tolist() == [0 + 1 + 2 + 3] * 5
        assert found["words"].dtype == np.uint64


def test_a_group_of_some_ranks_sums_those(sums: list[dict[str, Any]]) -> None:
    for rank, found in enumerate(sums):
        pair = range(2) if rank < 2 else range(2, 4)
        assert torch.allclose(found["pair"], exact(pair), atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_training_has_the_losses_of_a_plain_one(kind: str) -> None:
    for found in run(TRAININGS[kind], STEPS):
        for name in found.keys() - {"plain"}:
            assert np.abs(np.subtract(found[name], found["plain"])).max() <= 1e-6


def test_ranks_that_make_words_where_tensors_lie_sum_bit_for_bit_as_others_do() -> None:
    for found in run(work.as_on_a_device, 5):
        for suite in ("AES_128_CTR", "CHACHA20"):
            for there, here in zip(found[suite], found["here"], strict=True):
                assert torch.equal(there, here)
                assert there.dtype == here.dtype
        assert (found["strided"] - exact()).abs().max() <= 4 * 2.0**-19 + 2.0**-22
        assert (found["stochastic"] - exact()).abs().max() <= 4 * 2.0**-18
        for kind in ("ddp", "fsdp"):
            for name in found[kind].keys() - {"plain"}:
                assert np.abs(np.subtract(found[kind][name], found[kind]["plain"])).max() <= 1e-6
        assert SAYS["nan"] in found["nan"][1]
        assert SAYS["overflow"] in found["beyond"][1]


@slow
def test_gradients_of_several_passes_are_summed_once() -> None:
    for found in run(work.accumulated):
        for plain, secure in zip(found["plain"], found["secure"], strict=True):
            assert (plain - secure).abs().max() <= 2 * 2.0**-18


@slow
def test_gradients_of_several_passes_are_summed_once_in_shards() -> None:
    for found in run(work.accumulated_in_shards):
        for name in ("fsdp", "houses"):
            for plain, secure in zip(found["plain"], found[name], strict=True):
                assert (plain - secure).abs().max() <= 2 * 2.0**-18


@slow
def test_parameters_that_a_rank_does_not_use_add_zeros() -> None:
    for found in run(work.unused_parameters):
        for plain, secure in zip(found["plain"], found["secure"], strict=True):
            assert (plain is None) == (secure is None)
            assert plain is None or (plain - secure).abs().max() <= 2.0**-18


@slow
def test_several_models_and_groups_train_side_by_side() -> None:
    found = run(work.two_models)
    for losses in found:
        for model in losses:
            assert model[-1] < model[0]


@slow
def test_the_scale_of_mixed_precision_is_divided_out() -> None:
    """Gradients of 2^16 times the clip would be out of range, and of a coarser step."""
    for found in run(work.mixed_precision):
        assert np.abs(np.subtract(found["secure"], found["plain"])).max() <= 1e-6
        assert np.abs(np.subtract(found["fsdp secure"], found["fsdp plain"])).max() <= 1e-2


@pytest.mark.parametrize(
    "fault", ["nan", pytest.param("overflow", marks=slow), pytest.param("one shard", marks=slow)]
)
@pytest.mark.parametrize("kind", ONE_OF_KINDS)
def test_an_entry_that_cannot_be_summed_raises_on_every_rank_alike(kind: str, fault: str) -> None:
    found = run(work.goes_wrong, kind, fault, [0, 2])
    check_alike(kind, fault, found)


@slow
@pytest.mark.parametrize("kind", ["ddp static", "fsdp whole", "houses whole"])
def test_what_is_reduced_in_the_last_callback_of_a_pass_raises_too(kind: str) -> None:
    check_alike(kind, "one shard", run(work.goes_wrong, kind, "one shard", [0, 2]))


def check_alike(kind: str, fault: str, found: list[Any]) -> None:
    for *raised, weights in found:
        for name, text, _, still in raised:
            assert (name, still) == ("RankFailed", True)
            assert SAYS[fault] in text
        assert weights.isfinite().all()  # the steps after it
    if kind == "ddp":
        assert all(torch.equal(each[-1], found[0][-1]) for each in found)


@slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_rank_that_is_killed_raises_on_all_others(kind: str) -> None:
    check_lost(kind, run(work.goes_wrong, kind, "kill", [2]))


@pytest.mark.parametrize("kind", ONE_OF_KINDS)
def test_a_rank_that_is_stopped_raises_on_all_others_within_the_timeout(kind: str) -> None:
    """It is not dead: nothing but a timeout tells. gloo's own is half an hour."""
    check_lost(kind, run(work.goes_wrong, kind, "stop", [2], stops=1))


def check_lost(kind: str, found: list[Any], step: int = 2) -> None:
    assert found.pop(1) == MISSING
    # What FSDP gathers by itself, and the buckets that DDP agrees on before its second step, fail
    # with an error of torch.
    torchs = kind != "ddp" or step == 1
    for ((name, _, seconds, still),) in found:
        assert name == "PeerError" or (torchs and name == "RuntimeError")
        assert still
        assert seconds < TIMEOUT + 5


@pytest.mark.slow
@pytest.mark.parametrize("fault", [*SAYS, "kill", "stop"])
@pytest.mark.parametrize("kind", KINDS)
def test_whatever_goes_wrong_at_any_of_20_steps_moves_no_parameter(kind: str, fault: str) -> None:
    if fault in SAYS:
        check_alike(kind, fault, run(work.goes_wrong, kind, fault, range(STEPS)))
        return
    for step in range(STEPS):
        stops = int(fault == "stop")
        found = run(work.goes_wrong, kind, fault, [step], timeout=3.0, stops=stops)
        check_lost(kind, found, step)


@slow
def test_who_goes_on_after_an_error_trains_on_nan() -> None:
    assert run(work.swallowed) == [True] * 4


def test_keys_are_spent_by_an_error_until_all_renew_them() -> None:
    expected = ["RankFailed", "LocalProtocolError", "LocalProtocolError", "", "10.5"]
    assert run(work.spent_keys) == [expected] * 4


@slow
def test_a_rank_whose_own_work_fails_keeps_the_cause_to_itself() -> None:
    *others, own = run(work.fails_inside)
    for name, text, cause in others:
        assert (name, cause) == ("RankFailed", "NoneType")
        assert "secret" not in text
    assert own[2] == "MemoryError"


@slow
@pytest.mark.parametrize(
    "how",
    [
        {"clip": 2.0},
        {"bits": 18},
        {"lanes": 2},
        {"rounding": "stochastic"},
        {"public": b"another"},
    ],
    ids=str,
)
def test_ranks_that_agree_to_something_else_are_named_before_the_first_sum(
    how: dict[str, Any],
) -> None:
    found = run(work.disagrees, how)
    for rank, (name, text, seconds) in enumerate(found):
        assert name == "RemoteProtocolError"
        assert f"rank {0 if rank == 2 else 2} agrees to something else" in text
        assert seconds < TIMEOUT


@slow
def test_ranks_with_signed_keys_sum_as_others_do_and_refuse_who_has_none() -> None:
    for rank, found in enumerate(run(work.signed_sums)):
        assert found["all"] == pytest.approx(1.0, abs=1e-5)
        assert found["pair"] == pytest.approx(0.5, abs=1e-5)
        assert found["half"] == (
            "InputError",
            "identity and roster belong together: give both, or neither",
        )
        assert found["absent"] == ("InputError", "roster 1 has no client for rank 3")
        assert found["other"] == "RemoteProtocolError"
        # The thief itself sees that its identity is not the one of its rank.
        assert found["thief"] == ("InputError" if rank == 2 else "PeerError")


@pytest.mark.parametrize("fault", ["version", pytest.param("roster", marks=slow)])
def test_keys_of_another_version_or_roster_end_in_nothing_on_all_ranks(fault: str) -> None:
    check_agreed_wrongly(fault, run(work.agrees_wrongly, fault, 2))


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["version", "roster"])
def test_another_version_or_roster_at_each_of_20_steps_moves_no_parameter(fault: str) -> None:
    check_agreed_wrongly(fault, run(work.agrees_wrongly, fault, STEPS))


def check_agreed_wrongly(fault: str, found: list[Any]) -> None:
    for *raised, weights in found:
        for name, _, seconds, spent, still in raised:
            assert name == ("DecodeError" if fault == "version" else "RemoteProtocolError")
            assert (spent, still) == ("LocalProtocolError", True)
            assert seconds < TIMEOUT
        assert torch.equal(weights, found[0][-1])


@slow
def test_a_rank_of_another_version_is_named() -> None:
    for rank, (name, text, _) in enumerate(run(work.other_version)):
        assert name == "DecodeError"
        assert f"the peer speaks version {1 if rank == 2 else 7}" in text


def test_ranks_whose_parameters_differ_agree_on_no_keys() -> None:
    for name, text, _ in run(work.other_weights):
        assert name == "RemoteProtocolError"
        assert "agrees to something else" in text


@slow
def test_a_child_of_a_rank_does_not_mask_with_its_keys() -> None:
    """Attack: without the check both would mask a vector with the same words."""
    assert set(run(work.after_a_fork)) == {"this group was made before a fork: make another here"}


def test_the_timeout_is_set_on_the_group_and_a_shorter_one_stays() -> None:
    assert run(work.timeouts, timeout=600) == [["0:10:00", "0:05:00", "0:00:03"]] * 4


REFUSED = {
    "buffers": "the buffers of rank 0",
    "statistics": "sends statistics of each rank's batch",
    "not sharded": "no module is under fully_shard",
    "in part": "parameter '1.weight' is not sharded",
    "two dimensions": "a mesh of 2 dimensions",
    "other ranks": "sharded over other ranks than those of this group",
    "one house": "two ranks of one house",
    "two": "of two ranks each has the other's part",
    "bits": "does not fit 3 lanes a word; use at most 19 bits",
    "lanes": "9 lanes a word",
    "integers": "cannot sum torch.int64",
    "empty": "0 entries",
}


def test_what_would_tell_of_one_rank_is_refused() -> None:
    for found in run(work.refused):
        assert found.keys() == REFUSED.keys()
        for case, says in REFUSED.items():
            name, text, _ = found[case]
            assert name == "InputError"
            assert re.search(says, text)


@slow
def test_a_rank_that_is_slow_is_waited_for() -> None:
    assert run(work.waits, 1.0) == [""] * 4


def test_every_start_agrees_fresh_keys() -> None:
    """Counters begin again at 0, and no mask with them."""
    starts = [run(work.contexts) for _ in range(2)]
    for found in starts:
        assert len(set(found)) == 1  # the same on all ranks
    assert len({context for found in starts for context in found[0]}) == 4
