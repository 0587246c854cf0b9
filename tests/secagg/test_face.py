"""The names that ``import secagg`` gives, and nothing that leaks beside them."""

import secagg


def test_the_face_shows_its_names_and_no_others() -> None:
    assert dir(secagg) == sorted(secagg.__all__)
    assert all(hasattr(secagg, name) for name in secagg.__all__)
