"""What is trained: a model, its loss, whose examples, and how the result is measured.

A user's own come in the forms that a training script has them in, and leave here in one.
``module:factory`` names them where a command line cannot hold them.
"""

import copy
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, TypeAlias

from protocols.ckks import Engine
from secagg.extras import failed, missing, named

try:
    import torch
    from torch import Tensor, nn
    from torch.nn import functional
    from torch.utils.data import DataLoader, Dataset, TensorDataset
except ModuleNotFoundError as error:
    raise missing("secagg.training.tasks", "torch", extra="train") from error

from dp.errors import UnsoundModel
from protocols.primitives.shamir import majority
from secagg.errors import InputError
from secagg.rounds.aggregation import Bonawitz, Ckks, Plain, Protocol
from secagg.rounds.ckks import FLOODING, MODELS
from secagg.training.data import Examples, Federation
from secagg.training.devices import Devices
from secagg.training.optimizers import Rate, ServerOptimizer, describe_rate, rate_at
from secagg.training.settings import TrainingConfig
from secagg.vectors.arrays import model_digest
from secagg.vectors.vector import flatten

Loss: TypeAlias = Callable[[Any, Tensor], Tensor]
"""From the model's outputs and the targets of n examples to n losses, one an example."""

Metric: TypeAlias = Callable[[Any, Tensor], float | Tensor]
"""From all outputs and targets of the evaluation to one number; more is better."""

ClientData: TypeAlias = Any  # Dataset, DataLoader, or a pair of inputs and targets

Groups: TypeAlias = Any  # a text or an integer for each example of the evaluation

MAX_GROUPS: Final = 100  # in the evaluation
AT_ONCE: Final = 512  # examples that are evaluated together
SOFTMAX: Final = "softmax"  # the name of softmax regression, for data of one's own


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """The objects of a run, beside the settings that its folder holds.

    Attributes:
      model: the common model, which training moves.
      loss: None for the built-in model, whose gradients have a known bound.
      metric: None for the accuracy of a classification, and elsewhere the loss alone.
      protocol: None for that of the settings.
      learning_rate: of the clients, where it is a function of the round.
      stop_at: ends the run at such a metric or above, or without one at such a loss or below.
      devices: clients that train less than the settings say.
    """

    model: nn.Module
    federation: Federation
    loss: Loss | None = None
    metric: Metric | None = None
    protocol: Protocol | None = None
    optimizer: ServerOptimizer | None = None
    learning_rate: Rate | None = None
    stop_at: float | None = None
    devices: Devices = field(default_factory=dict)


def own_task(
    model: nn.Module,
    clients: Sequence[ClientData],
    loss: Loss | nn.Module,
    evaluation: ClientData | None,
    groups: Groups | None = None,
    **more: Any,
) -> Task:
    """The task of a user's own model and data. The model is copied.

    Raises:
      InputError: something is not of the kind that ``Trainer`` takes; a client is named by number.
    """
    optimizer = more.get("optimizer")
    if optimizer is not None and not isinstance(optimizer, ServerOptimizer):
        raise InputError(
            f"optimizer {optimizer!r:.80} must be one of secagg.training.optimizers: it moves the "
            "common model; clients take plain SGD steps"
        )
    if not isinstance(model, nn.Module):
        raise InputError(f"model is a {type(model).__name__}, must be a torch module")
    if not flatten(model).numel():
        raise InputError("no parameter of the model requires a gradient")
    if isinstance(clients, Dataset | DataLoader | Tensor) or not isinstance(clients, Sequence):
        raise InputError(
            f"clients is a {type(clients).__name__}, must be a list with the data of each client"
        )
    parts = tuple(examples(data, f"client {number}") for number, data in enumerate(clients))
    measured = Examples(features=(), labels=())
    if evaluation is not None:
        measured = examples(evaluation, "evaluation")
    return Task(
        model=copy.deepcopy(model),
        federation=Federation(
            clients=parts,
            evaluation=measured,
            groups=() if groups is None else _names(groups, len(measured)),
        ),
        loss=per_example(loss),
        **more,
    )


def _names(groups: Groups, count: int) -> tuple[str, ...]:
    """The group of each of so many examples, as text."""
    try:
        names = tuple(map(str, groups.tolist() if hasattr(groups, "tolist") else groups))
    except TypeError as error:
        raise InputError(
            f"groups is a {type(groups).__name__}, must name a group for each example"
        ) from error
    if len(names) != count:
        raise InputError(f"groups names {len(names)} examples, and the evaluation has {count}")
    distinct = set(names)
    if odd := [each for each in distinct if not (each.strip() and each.isprintable())]:
        raise InputError(f"groups has {odd[0]!r:.80}, must be a printable name")
    if len(distinct) > MAX_GROUPS or any(len(each) > MAX_GROUPS for each in distinct):
        raise InputError(
            f"groups has {len(distinct)} names, at most {MAX_GROUPS} of so many letters are told "
            "apart"
        )
    return names


def dealt(setting: str, name: str, clients: int) -> tuple[Any, Any, Any]:
    """Clients, evaluation and its groups, from the factory that a user names."""
    made = load_factory(setting, name, clients)
    if not isinstance(made, tuple) or len(made) not in (2, 3):
        raise InputError(
            f"{setting} {name} must give (clients, evaluation), or (clients, evaluation, groups)"
        )
    return made if len(made) == 3 else (*made, None)


def named_task(
    data: str, model: str, *, clients: int, federation: Callable[[], Federation]
) -> Task:
    """The task that the options of a bench name; with ``softmax`` for a model it starts from zeros.

    ``federation`` deals the data sets that have no factory.

    Raises:
      InputError: data or model is not as ``secagg train`` takes it.
    """
    if ":" in data:
        parts, held_out, _ = dealt("--data", data, clients)
        if held_out is None:
            raise InputError(f"--data {data} must give (clients, evaluation)")
    else:
        found = federation()
        parts = [(each.features, each.labels) for each in found.clients]
        held_out = (found.evaluation.features, found.evaluation.labels)
    if model != SOFTMAX:
        made = load_factory("--model", model)
        module, loss = made if isinstance(made, tuple) and len(made) == 2 else (made, cross_entropy)
        return own_task(module, parts, loss, held_out)
    every = [examples(part, f"client {number}") for number, part in enumerate(parts)]
    every.append(examples(held_out, "evaluation"))
    if every[0].labels.is_floating_point():
        raise InputError(f"--data {data} has targets that are no classes; give --model too")
    inputs = every[0].features[0].numel()
    classes = max(int(each.labels.max()) for each in every) + 1
    return own_task(softmax(inputs, classes), parts, cross_entropy, held_out)


def softmax(inputs: int, classes: int) -> nn.Module:
    """Softmax regression from zeros, of inputs of any shape."""
    linear = nn.Linear(inputs, classes)
    with torch.no_grad():
        linear.weight.zero_()
        linear.bias.zero_()
    return nn.Sequential(nn.Flatten(), linear)


def rates_of(learning_rate: Rate, rounds: int) -> list[float]:
    """The step size of every round, each above 0."""
    if isinstance(rounds, bool) or not isinstance(rounds, int) or not 1 <= rounds <= 100_000:
        raise InputError(f"rounds {rounds!r} is not an int from 1 to 100000")
    last = rounds if callable(learning_rate) else 1
    rates = [rate_at(learning_rate, number) for number in range(1, last + 1)]
    if min(rates) <= 0:
        raise InputError("learning_rate must be above 0 in every round")
    return rates


def batch_settings(
    data: Federation,
    batch_size: float | None,
    local_epochs: float | None,
    settings: Mapping[str, Any],
) -> dict[str, Any]:
    """The settings that a size of batches and a number of passes stand for."""
    found: dict[str, Any] = {}
    if batch_size is not None:
        if "sampling_rate" in settings:
            raise InputError("batch_size and sampling_rate say the same; give one")
        examples = sum(map(len, data.clients))
        found["sampling_rate"] = min(1.0, batch_size * len(data.clients) / max(examples, 1))
    if local_epochs is not None:
        if "local_steps" in settings:
            raise InputError("local_epochs and local_steps say the same; give one")
        rate = found.get("sampling_rate", settings.get("sampling_rate", 1.0))
        if not (local_epochs > 0 and rate > 0):
            raise InputError(f"local_epochs {local_epochs} and the sampling rate must be above 0")
        found["local_steps"] = max(1, round(local_epochs / rate))
        noise, unit = settings.get("noise", "distributed"), settings.get("unit", "example")
        if found["local_steps"] > 1 and (noise, unit) == ("distributed", "example"):
            raise InputError(
                f"local_epochs {local_epochs:g}: distributed noise that hides an example is added "
                "at every step, so a round is one step; leave it out, or take unit client"
            )
    return found


def protocol_settings(protocol: Protocol, clients: int) -> dict[str, Any]:
    """The settings that a protocol holds."""
    if not isinstance(protocol, Protocol):
        raise InputError(f"unknown protocol {protocol!r}; known: Bonawitz(), Ckks(), Plain()")
    found: dict[str, Any] = {"minimum_survivors": protocol.minimum_survivors}
    match protocol:
        case Bonawitz():
            found |= {"protocol": "bonawitz", "threshold": protocol.threshold}
            if protocol.active and protocol.threshold is None:
                found["threshold"] = majority(clients, clients // 3)
        case Ckks():
            found["protocol"] = next(n for n, model in MODELS.items() if model is protocol.model)
        case Plain():
            found["protocol"] = "plain"
    return found


def check_accounted(config: TrainingConfig, protocol: Protocol | None) -> None:
    """Refuse what the price of distributed noise does not count."""
    if config.noise != "distributed":
        return
    if isinstance(protocol, Bonawitz) and protocol.rates is not None:
        raise InputError(
            "protocol Bonawitz(rates=...): only the server counts the survivors of a sparse graph; "
            "with distributed noise leave rates out"
        )
    if isinstance(protocol, Ckks) and protocol.engine is Engine.SEAL:
        raise InputError(
            "protocol Ckks(engine=Engine.SEAL): with distributed noise sums must be exact, and "
            "SEAL's are approximate; leave engine out"
        )
    if isinstance(protocol, Ckks) and protocol.flooding != FLOODING:
        raise InputError(
            f"protocol Ckks(flooding={protocol.flooding}): distributed noise is priced with "
            f"{FLOODING}; leave flooding out"
        )


def filled_protocol(config: TrainingConfig, given: Protocol | None) -> Protocol:
    """The protocol as handed in, or named, with the settings that were filled in."""
    minimum = config.minimum_survivors
    if given is not None:
        if isinstance(given, Bonawitz) and given.rates is None:
            return replace(given, threshold=config.threshold, minimum_survivors=minimum)
        return replace(given, minimum_survivors=minimum)
    match config.protocol:
        case "bonawitz":
            return Bonawitz(threshold=config.threshold, minimum_survivors=minimum)
        case "plain":
            return Plain(minimum_survivors=minimum)
        case name:
            return Ckks(model=MODELS[name], minimum_survivors=minimum)


def described(task: Task, rounds: int) -> str:
    """What the objects of a run say of themselves, so that it is not resumed with others."""
    said = [] if task.protocol in (None, Bonawitz()) else [repr(task.protocol)]
    if callable(task.learning_rate):
        said.append(f"learning rate {describe_rate(task.learning_rate, rounds)}")
    if task.optimizer is not None:
        said.append(task.optimizer.describe(rounds))
    if task.metric is not None:
        said.append(f"metric {getattr(task.metric, '__name__', type(task.metric).__name__)}")
    if task.stop_at is not None:
        said.append(f"stop_at {task.stop_at:g}")
    said += [f"client {number}: {each.describe()}" for number, each in sorted(task.devices.items())]
    held = (*task.federation.clients, task.federation.evaluation)
    return "; ".join([*said, f"data {data_digest(held).hex()[:16]}"])


def data_digest(parts: Sequence[Examples]) -> bytes:
    """SHA-256 of everybody's examples, one after the other in their order."""
    return model_digest(
        {
            f"{number:09} {name}": getattr(part, name)
            for number, part in enumerate(parts)
            for name in ("features", "labels")
        }
    )


def examples(data: ClientData, whose: str) -> Examples:
    """The tensors of a Dataset, of a DataLoader's dataset, or of a pair of arrays.

    Every item of a dataset is asked for once.
    """
    if isinstance(data, DataLoader):
        data = data.dataset
    if isinstance(data, TensorDataset):
        data = data.tensors
    if isinstance(data, Dataset):
        data = _stacked(data, whose)
    if not isinstance(data, tuple | list) or len(data) != 2:
        raise InputError(
            f"{whose} is a {type(data).__name__}, must be a Dataset or DataLoader of (input, "
            "target), or a pair of tensors"
        )
    inputs, targets = (_tensor(part, whose) for part in data)
    if not (inputs.ndim and targets.ndim and len(inputs) == len(targets) and len(inputs)):
        raise InputError(
            f"{whose} has inputs of shape {tuple(inputs.shape)} and targets of "
            f"{tuple(targets.shape)}, must be equally many, at least 1"
        )
    return Examples(features=inputs, labels=targets)


def _stacked(data: Any, whose: str) -> tuple[Any, Any]:
    try:
        items = [data[index] for index in range(len(data))]
    except (TypeError, NotImplementedError) as error:
        raise InputError(f"{whose} is a dataset without length and index; make a list of it") from (
            error
        )
    if not items or not all(isinstance(item, tuple | list) and len(item) == 2 for item in items):
        raise InputError(f"{whose}: every item must be a pair of input and target, at least one")
    try:
        inputs, targets = (
            torch.stack([torch.as_tensor(item[part]) for item in items]) for part in (0, 1)
        )
    except (RuntimeError, TypeError, ValueError) as error:
        told = str(error).splitlines()[0]
        raise InputError(f"{whose}: its examples are no tensors of one shape ({told})") from error
    return inputs, targets


def _tensor(part: Any, whose: str) -> Tensor:
    try:
        return torch.as_tensor(part).detach()
    except (RuntimeError, TypeError, ValueError) as error:
        raise InputError(f"{whose} holds a {type(part).__name__}, which is no tensor") from error


def per_example(loss: Loss | nn.Module) -> Loss:
    """A loss that gives one number an example.

    | given | then |
    |---|---|
    | a module with ``reduction``, such as ``nn.CrossEntropyLoss()`` | a copy with "none" |
    | a function that takes ``reduction``, such as those of ``torch.nn.functional`` | with "none" |
    | another callable | as it is |

    Several losses an example, as of ``mse_loss`` with several outputs, become their mean. A mean
    with weights of classes is no mean of examples: the weights then stay, the division goes.
    """
    if not callable(loss):
        raise InputError(
            f"loss is a {type(loss).__name__}, must be a function of output and target"
        )
    single: Callable[..., Any] = loss
    if isinstance(loss, nn.Module):
        module: Any = copy.deepcopy(loss)
        if hasattr(module, "reduction"):
            module.reduction = "none"
        single = module
    elif "reduction" in _parameters(loss):
        single = functools.partial(single, reduction="none")

    def losses(outputs: Any, targets: Tensor) -> Tensor:
        found: Tensor = single(outputs, targets)
        return found.flatten(1).mean(1) if found.ndim > 1 else found

    return losses


def _parameters(function: Callable[..., Any]) -> Sequence[str]:
    try:
        return list(inspect.signature(function).parameters)
    except (TypeError, ValueError):  # a builtin without one
        return []


def cross_entropy(outputs: Any, targets: Tensor) -> Tensor:
    """The loss of the built-in model, one number an example."""
    return functional.cross_entropy(outputs, targets, reduction="none")


def summed_loss(losses: Tensor, count: int) -> Tensor:
    """The sum over a batch, of one loss an example or of their mean."""
    if losses.ndim == 0:
        return losses * count
    if losses.shape != (count,):
        raise InputError(
            f"the loss of {count} examples has shape {tuple(losses.shape)}, must be ({count},), "
            "or () for their mean"
        )
    return losses.sum()


def measure(
    model: nn.Module, data: Examples, loss: Loss = cross_entropy, metric: Metric | None = None
) -> tuple[float | None, float]:
    """The metric, None where there is none, and the mean loss of a model in evaluation mode."""
    inputs, targets = tensors(data, model)
    training, outputs, total = model.training, [], 0.0
    model.eval()
    try:
        with torch.no_grad():
            for start in range(0, len(targets), AT_ONCE):
                wanted = targets[start : start + AT_ONCE]
                output = model(inputs[start : start + AT_ONCE])
                total += float(summed_loss(loss(output, wanted).double(), len(wanted)))
                outputs.append(output)
    finally:
        model.train(training)
    value = None
    if all(isinstance(output, Tensor) for output in outputs):
        value = (metric or accuracy)(torch.cat(outputs), targets)
    elif metric is not None:
        raise InputError("a metric needs a model whose output is one tensor")
    return None if value is None else float(value), total / len(targets)


def accuracy(outputs: Tensor, targets: Tensor) -> float | None:
    """The share of right classes; None where outputs and targets are no classification."""
    whole = not (targets.is_floating_point() or targets.is_complex())
    if not whole or targets.ndim != 1 or outputs.ndim != 2 or outputs.shape[1] < 2:
        return None
    return float((outputs.argmax(1) == targets).float().mean())


def tensors(data: Examples, model: nn.Module) -> tuple[Tensor, Tensor]:
    """Inputs and targets on the device of the model."""
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    return torch.as_tensor(data.features).to(device), torch.as_tensor(data.labels).to(device)


def check_on_zeros(model: nn.Module, data: Examples, loss: Loss) -> None:
    """Refuse on two examples of zeros what would fail on any.

    Raises:
      UnsoundModel: the model and its loss do not work on them.
    """
    inputs, targets = tensors(data, model)
    trial = copy.deepcopy(model).train()
    try:
        outputs = trial(torch.zeros_like(inputs[:1]).repeat(2, *[1] * (inputs.ndim - 1)))
        wanted = torch.zeros_like(targets[:1]).repeat(2, *[1] * (targets.ndim - 1))
        summed_loss(loss(outputs, wanted), 2).backward()  # type: ignore[no-untyped-call]  # torch
    except Exception as error:
        told = f"{error}".splitlines() or [type(error).__name__]
        raise UnsoundModel(
            f"the model and its loss fail on two examples of zeros: {told[0]}"
        ) from error


def load_factory(setting: str, name: str, *arguments: object) -> Any:
    """What ``module:factory`` gives when it is called; found from the current folder too.

    Raises:
      InputError: there is no such module or factory, or it fails. The message is one line.
    """
    factory = named(setting, name)
    try:
        return factory(*arguments)
    except Exception as error:
        raise failed(setting, name, error) from error
