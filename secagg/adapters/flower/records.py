"""What travels in Flower's messages: records of ours beside the application's own."""

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, RecordDict
from numpy.typing import NDArray

from protocols.wire import opaque
from secagg.errors import InputError

RECORD: Final = "secagg"  # name of our record in a message, and in a node's context
PRIVACY: Final = "secagg.privacy"  # what noise on examples needs its app to know
RAISED: Final = 2  # Flower's code of an app that raised an exception
REQUEST, STATE = "request", "state"  # keys of our records
PLAIN: Final = "its app has no secure_mod: this is a plain reply, and was not read"


def digest(content: RecordDict) -> bytes:
    """SHA-256 of all records, whatever order they came in.

    Args:
      content: what a message of Flower carries.
    """
    found = hashlib.sha256()
    for name in sorted(content):
        record = content[name]
        found.update(opaque(f"{type(record).__name__} {name}".encode()))
        for key in sorted(record):
            value = record[key]
            if isinstance(value, Array):
                head = [key, value.dtype, list(value.shape), value.stype, len(value.data)]
                found.update(opaque(json.dumps(head).encode()))
                found.update(value.data)
            else:
                said = json.dumps([key, value], default=lambda raw: {"bytes": raw.hex()})
                found.update(opaque(said.encode()))
    return found.digest()


def arrays_of(content: RecordDict) -> tuple[str, dict[str, NDArray[Any]]]:
    """The one ArrayRecord, and its name."""
    if len(records := content.array_records) != 1:
        raise InputError(f"{len(records)} ArrayRecords in a message, one can be averaged")
    ((name, record),) = records.items()
    return name, {key: array.numpy() for key, array in record.items()}


def size_of(content: RecordDict) -> int:
    """Bytes of all arrays and byte strings."""
    arrays = sum(
        len(array.data) for record in content.array_records.values() for array in record.values()
    )
    return arrays + sum(
        len(value)
        for record in content.config_records.values()
        for value in record.values()
        if isinstance(value, bytes)
    )


def request_in(content: RecordDict) -> bytes | None:
    """The bytes of a ``Request``; empty if its record holds none, and ``None`` without one."""
    if (record := content.config_records.get(RECORD)) is None:
        return None
    request = record.get(REQUEST)
    return request if isinstance(request, bytes) else b""


def with_request(content: RecordDict, request: bytes) -> RecordDict:
    """The records of a message, and ours; an error if one of them has its name."""
    records = RecordDict(dict(content.items()))
    records[RECORD] = ConfigRecord({REQUEST: request})
    return records


def answer_record(answer: bytes) -> RecordDict:
    """The bytes of an ``Answer`` as a reply; in an array, as Flower cuts those into chunks."""
    array = Array(dtype="uint8", shape=(len(answer),), stype=RECORD, data=answer)
    return RecordDict({RECORD: ArrayRecord({"answer": array})})


def answer_in(content: RecordDict) -> bytes | str:
    """The bytes of an answer, or why there are none."""
    record = content.array_records.get(RECORD)
    return PLAIN if record is None or "answer" not in record else record["answer"].data


def most_frequent(errors: Sequence[Message]) -> str:
    """Why nodes did not answer, if they said so."""
    if not (said := Counter(error.error.reason for error in errors)):
        return ""
    ((reason, count),) = said.most_common(1)
    return f"; {count} of {len(errors)} errors: {reason}"


def is_a_strangers(error: Error) -> bool:
    """Whether an app raised what none of ours raises; Flower writes ``<class 'secagg...``."""
    ours = any(f"'{name}." in (error.reason or "")[:40] for name in ("secagg", "dp", "protocols"))
    return error.code == RAISED and not ours
