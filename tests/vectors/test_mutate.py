"""What the count of removed checks leaves out is there, once, and has its reason."""

from collections import Counter

import pytest
from mutate import NO_PEER_CAN_TELL, SESSIONS, mutants
from test_vectors import PAGE


def test_each_check_of_which_no_peer_can_tell_is_one_of_the_code() -> None:
    found = Counter(mutant.name for mutant in mutants())
    assert {name: found[name] for name in NO_PEER_CAN_TELL} == dict.fromkeys(NO_PEER_CAN_TELL, 1)
    assert all(NO_PEER_CAN_TELL.values())


@pytest.mark.parametrize("page", ["bonawitz.md", "ckks.md"])
def test_each_page_says_how_many_there_are(page: str) -> None:
    sessions = page == "ckks.md"
    every = sum(mutant.file.startswith(SESSIONS) is sessions for mutant in mutants())
    left = sum(file.startswith(SESSIONS) is sessions for file, _ in NO_PEER_CAN_TELL)
    text = (PAGE.parent / page).read_text()
    assert f"Of {every} they notice {every - left}; of the other {left} no peer can tell" in text
