"""What the count of removed checks leaves out is there, once, and has its reason."""

from collections import Counter

from mutate import NO_PEER_CAN_TELL, mutants
from test_vectors import PAGE


def test_each_check_of_which_no_peer_can_tell_is_one_of_the_code() -> None:
    found = Counter(mutant.name for mutant in mutants())
    assert {name: found[name] for name in NO_PEER_CAN_TELL} == dict.fromkeys(NO_PEER_CAN_TELL, 1)
    assert all(NO_PEER_CAN_TELL.values())


def test_the_page_says_how_many_there_are() -> None:
    every, left = len(list(mutants())), len(NO_PEER_CAN_TELL)
    page = PAGE.read_text()
    assert f"Of {every} they notice {every - left}; of the other {left} no peer can tell" in page
