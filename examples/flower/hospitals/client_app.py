"""One hospital: trains on its own patients, and tests on those it holds out."""

from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from hospitals import task
from secagg.adapters.flower import PRIVACY, secure_mod

app = ClientApp(mods=[secure_mod()])


@app.train()
def train(message: Message, context: Context) -> Message:
    """Answer with the weights after some steps on this hospital's patients.

    Where noise hides each patient, with the sum of the patients' clipped gradients instead.
    """
    patients, _ = task.load(int(context.node_config["partition-id"]))
    if asked := message.content.config_records.get(PRIVACY):
        gradient = task.clipped_sum(_weights(message), patients, clip=float(asked["clip"]))
        records = {"arrays": ArrayRecord([gradient]), "metrics": MetricRecord({})}
        return Message(content=RecordDict(records), reply_to=message)
    weights = task.train(
        _weights(message),
        patients,
        steps=int(context.run_config["steps"]),
        learning_rate=float(context.run_config["learning-rate"]),
    )
    metrics = {"num-examples": len(patients), "train_loss": task.loss(weights, patients)}
    content = {"arrays": ArrayRecord([weights]), "metrics": MetricRecord(metrics)}
    return Message(content=RecordDict(content), reply_to=message)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Answer with the accuracy on this hospital's held-out patients."""
    _, held_out = task.load(int(context.node_config["partition-id"]))
    accuracy = task.accuracy(_weights(message), held_out)
    metrics = MetricRecord({"num-examples": len(held_out), "accuracy": accuracy})
    return Message(content=RecordDict({"metrics": metrics}), reply_to=message)


def _weights(message: Message) -> task.Array:
    return message.content.array_records["arrays"].to_numpy_ndarrays()[0]
