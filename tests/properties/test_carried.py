"""Whatever a request, an answer or a model holds, its bytes give it back, and nothing else does."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_st
from numpy.typing import NDArray

from protocols.errors import DecodeError
from secagg.nodes import Answer, AnswerReader, Request
from secagg.stage import Stage
from secagg.vectors.arrays import TYPES, arrays_of, model_digest, parts_of

SOME = st.binary(max_size=40)
REQUESTS = st.builds(
    Request,
    stage=st.sampled_from(Stage),
    client=st.integers(0, 2**32 - 1),
    **dict.fromkeys(("proposal", "message", "signature", "next_session", "next_roster"), SOME),
)
ANSWERS = st.builds(
    Answer,
    messages=st.lists(SOME, max_size=5).map(tuple),
    state=st.none(),
    examples=st.integers(0, 2**64 - 1),
    next_keys=SOME,
    next_shares=SOME,
)
MODELS = st.dictionaries(
    st.text(st.characters(codec="utf-8"), max_size=9),
    st.sampled_from([kind.decode() for kind in TYPES]).flatmap(
        lambda kind: arrays_st.arrays(kind, arrays_st.array_shapes(min_dims=0, min_side=0))
    ),
    max_size=4,
)


@given(REQUESTS)
def test_a_request_comes_back(request: Request) -> None:
    data = request.to_bytes()
    assert Request.from_bytes(data) == request
    for wrong in (data[:-1], data + b"\0"):
        with pytest.raises(DecodeError):
            Request.from_bytes(wrong)


@given(ANSWERS, st.data())
def test_an_answer_comes_back_however_it_is_cut(answer: Answer, draw: st.DataObject) -> None:
    data = answer.to_bytes()
    reader, at = AnswerReader(most=len(data)), 0
    while at < len(data):
        size = draw.draw(st.integers(1, len(data)))
        reader.feed(data[at : at + size])
        at += size
    assert reader.finish() == answer == Answer.from_bytes(data)
    with pytest.raises(DecodeError):
        Answer.from_bytes(data[:-1])
    with pytest.raises(DecodeError):
        reader.feed(b"\0")


@given(MODELS)
def test_a_model_comes_back_with_its_digest(model: dict[str, NDArray[np.generic]]) -> None:
    found = arrays_of(b"".join(parts_of(model)))
    assert sorted(found) == sorted(model)
    for name, array in model.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        assert found[name].tobytes() == array.tobytes()
    assert model_digest(found) == model_digest(model)


def test_two_requests_are_two_byte_strings() -> None:
    one = Request(stage=Stage.MASK, proposal=b"ab", client=1, message=b"c")
    other = Request(stage=Stage.MASK, proposal=b"a", client=1, message=b"bc")
    assert one.to_bytes() != other.to_bytes()
    assert one.signed() != other.signed()
