"""The names that ``import secagg`` gives, and nothing that leaks beside them."""

import secagg
import secagg.errors
from protocols.errors import ProtocolError
from secagg import PrivacyError, SecaggError


def test_the_face_shows_its_names_and_no_others() -> None:
    assert dir(secagg) == sorted(secagg.__all__)
    assert all(hasattr(secagg, name) for name in secagg.__all__)


def test_every_error_of_the_top_package_is_on_the_face() -> None:
    errors = {
        name
        for name, value in vars(secagg.errors).items()
        if isinstance(value, type) and issubclass(value, SecaggError)
    }
    assert errors <= set(secagg.__all__)


def test_three_roots_hold_every_error_on_the_face() -> None:
    roots = (SecaggError, PrivacyError, ProtocolError)
    shown = [getattr(secagg, name) for name in secagg.__all__]
    found = [one for one in shown if isinstance(one, type) and issubclass(one, Exception)]
    assert len(found) >= 13
    assert all(issubclass(one, roots) for one in found)
