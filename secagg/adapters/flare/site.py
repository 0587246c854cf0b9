"""A site of a FLARE job: its node, and what stands between it and its program."""

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray
from nvflare.apis.executor import Executor
from nvflare.apis.fl_constant import FLContextKey, FLMetaKey, ReturnCode
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import ReservedHeaderKey, Shareable, make_reply
from nvflare.app_common.abstract.fl_model import FLModel, ParamsType
from nvflare.app_common.utils.fl_model_utils import FLModelUtils
from nvflare.collab import collab
from nvflare.collab.api.decorators import is_publish

from dp.accounting.events import Unit
from secagg.adapters.simulation import SIMULATED
from secagg.errors import InputError, NodeError
from secagg.nodes.carry import one_line
from secagg.nodes.messages import Request
from secagg.nodes.node import Node, new_folder
from secagg.nodes.policy import NodePolicy
from secagg.nodes.proposal import Average, Contribution, Failure, Proposal
from secagg.nodes.work import contribution, spoken
from secagg.stage import Stage
from secagg.vectors.arrays import Arrays, model_digest

RECORD: Final = "secagg"  # our field of a task and of its result
PRIVACY: Final = "secagg.privacy"  # in a model's meta, for a program whose examples noise hides
MODEL: Final = "DXO"  # in a task that brings one
SERVER: Final = "server"  # FLARE's name of the server among callers, which it authenticates
HOME: Final = "secagg"  # the node's folder, in the site's own "local"
STEPS: Final = FLMetaKey.NUM_STEPS_CURRENT_ROUND

Work: TypeAlias = Callable[[Proposal, dict[str, NDArray[Any]]], FLModel | None]
_log = logging.getLogger("secagg")


class Member:
    """The site's node in the process of one job: its folder, and what waits between two stages."""

    def __init__(self) -> None:
        self._state: bytes | None = None
        self._policy: NodePolicy | None = None
        self._lock = threading.Lock()

    def answer(
        self,
        fl_ctx: FLContext,
        data: object,
        params: object,
        work: Work,
        purpose: str | None = None,
    ) -> bytes | str:
        """An answer, or one line that says why there is none; it never raises.

        FLARE sends the server what is raised, and the lines that it came from.
        """
        try:
            if not isinstance(data, bytes):
                raise NodeError("this asks for a plain reply, and was not answered")
            request = Request.from_bytes(data)
            start = arrays_in(params) if request.stage is Stage.MASK else {}

            def compute(proposal: Proposal) -> Contribution | Failure:
                given = {name: array.copy() for name, array in start.items()}
                return _contribution(proposal, start, work(proposal, given))

            with self._lock:
                answer = self._node(fl_ctx).answer(
                    request,
                    self._state,
                    model=model_digest(start),
                    compute=compute,
                    purpose=purpose,
                )
                self._state = answer.state
            return answer.to_bytes()
        except Exception as error:  # noqa: BLE001  # see above
            said = spoken(error)
            _log.warning("secagg: no answer: %s", error if said == str(error) else repr(error))
            return one_line(said)

    def _node(self, fl_ctx: FLContext) -> Node:
        home = Path(fl_ctx.get_engine().get_workspace().get_site_config_dir()) / HOME
        if not home.exists() and fl_ctx.get_prop(FLContextKey.SIMULATE_MODE, False):
            new_folder(home)
            self._policy = SIMULATED
        return Node(home, self._policy)


class SecureSite:
    """A site of a Collab job. Make a class of it with ``train``, and ``evaluate`` if need be.

    Both get an ``FLModel`` and return one: arrays of the same names and shapes, ``FULL`` or
    ``DIFF``; the number of steps in ``meta``, 1 if it is not there; metrics. Of these the sum has
    what the server's ``WeightedMean`` names, and nothing else leaves the site. Where noise hides
    examples, ``meta["secagg.privacy"]`` says ``clip`` and ``sampling-rate``, and the arrays that
    are returned hold the sum of clipped gradients.

    A method that you publish beside them replies in clear.

    Raises:
      InputError: ``train`` or ``evaluate`` is published, so that anybody may have its reply.
    """

    def __init_subclass__(cls) -> None:
        if shown := [name for name in ("train", "evaluate") if is_publish(getattr(cls, name))]:
            raise InputError(f"{cls.__name__}.{shown[0]} is published: take @collab.publish away")

    def train(self, model: FLModel) -> FLModel:
        raise NotImplementedError

    def evaluate(self, model: FLModel) -> FLModel:
        raise NotImplementedError

    @collab.publish  # type: ignore[untyped-decorator]  # nvflare has no types
    def secagg_answer(self, request: bytes, params: object = None) -> bytes | str:
        """Answer one stage of a sum; for ``SecureSums`` alone."""
        if collab.caller != SERVER:  # FLARE lets every site call; one could begin sums of its own
            return "this node answers the server alone"
        member: Member = self.__dict__.setdefault("_member", Member())

        def work(proposal: Proposal, given: dict[str, NDArray[Any]]) -> FLModel:
            run = self.train if proposal.purpose.startswith("train") else self.evaluate
            meta = _privacy(proposal)
            return run(FLModel(params=given, params_type=ParamsType.FULL, meta=meta))

        return member.answer(collab.fl_ctx, request, params, work)


class SecureExecutor(Executor):  # type: ignore[misc]  # nvflare has no types
    """Stands before the executor that trains, and answers the stages of sums.

    Args:
      work: id of the component that is that executor.
      allow_plaintext: tasks that pass as they are, unprotected.
    """

    def __init__(self, work: str, allow_plaintext: Sequence[str] = ()) -> None:
        super().__init__()
        self._work, self._allow_plaintext = work, list(allow_plaintext)
        self._member = Member()

    def requires_materialized_task_result(self, task_name: str) -> bool:
        """Whether we read the arrays of a result: FLARE then fetches them for us."""
        return True

    def execute(
        self, task_name: str, shareable: Shareable, fl_ctx: FLContext, abort_signal: Any
    ) -> Shareable:
        inner, data = fl_ctx.get_engine().get_component(self._work), shareable.pop(RECORD, None)
        if data is None and task_name in self._allow_plaintext:
            return inner.execute(task_name, shareable, fl_ctx, abort_signal)
        model = FLModelUtils.from_shareable(shareable) if MODEL in shareable else FLModel(params={})

        def work(proposal: Proposal, given: dict[str, NDArray[Any]]) -> FLModel | None:
            model.params = like(given, model.params)
            model.meta = {**(model.meta or {}), **_privacy(proposal)}
            asked = FLModelUtils.to_shareable(model)
            asked[ReservedHeaderKey.HEADERS] |= shareable[ReservedHeaderKey.HEADERS]
            result = inner.execute(task_name, asked, fl_ctx, abort_signal)
            done = result.get_return_code() == ReturnCode.OK
            return FLModelUtils.from_shareable(result) if done else None

        reply = make_reply(ReturnCode.OK)
        reply[RECORD] = self._member.answer(fl_ctx, data, model.params, work, purpose=task_name)
        return reply


def _contribution(
    proposal: Proposal, start: Arrays, said: FLModel | None
) -> Contribution | Failure:
    """What a program's reply brings: arrays, weight and metrics, and nothing else of it."""
    if said is None:
        return Failure.REPLIED
    numbers = {
        str(name): float(number)
        for name, number in (said.metrics or {}).items()
        if isinstance(number, int | float | np.number)
    }
    if isinstance(proposal.content, Average):
        numbers[proposal.content.weighted_by] = (said.meta or {}).get(STEPS, 1)
    if said.params_type == ParamsType.DIFF:
        start = {name: np.zeros_like(array) for name, array in start.items()}
    return contribution(proposal, start, arrays_in(said.params), numbers)


def _privacy(proposal: Proposal) -> dict[str, Any]:
    noise = proposal.noise
    if noise is None or noise.mechanism.unit is not Unit.EXAMPLE:
        return {}
    return {PRIVACY: {"clip": noise.mechanism.clip, "sampling-rate": noise.sampling_rate}}


def arrays_in(params: object) -> dict[str, NDArray[Any]]:
    """The arrays of an ``FLModel``, tensors among them, as numpy's.

    Raises:
      InputError: something is no array.
    """
    if params is not None and not isinstance(params, Mapping):
        raise InputError(f"params are a {type(params).__name__}, expected arrays by name")
    found = {}
    for name, value in (params or {}).items():
        try:
            array = np.asarray(value.detach().cpu() if hasattr(value, "detach") else value)
        except (TypeError, ValueError, RuntimeError) as error:
            raise InputError(f"{name!r:.40} is no array that numpy has: {error}"[:200]) from None
        if array.dtype.kind not in "fiub":
            raise InputError(f"{name!r:.40} holds {array.dtype}, no numbers")
        found[str(name)] = array
    return found


def like(arrays: Arrays, model: Mapping[str, Any]) -> dict[str, Any]:
    """The arrays as tensors where ``model`` has tensors."""
    if not any(hasattr(value, "detach") for value in model.values()):
        return dict(arrays)
    import torch

    tensors = {name for name, value in model.items() if hasattr(value, "detach")}
    return {n: torch.as_tensor(each) if n in tensors else each for n, each in arrays.items()}
