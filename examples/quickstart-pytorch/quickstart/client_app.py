"""One node: trains on its own images, and tests on those it holds out."""

from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from quickstart.task import Loader, Net, load_data
from quickstart.task import test as test_net
from quickstart.task import train as train_net

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    """Answer with the model after some epochs on this node's images."""
    net, (loader, _) = _net(message), _data(context)
    epochs, rate = context.run_config["local-epochs"], context.run_config["learning-rate"]
    loss = train_net(net, loader, int(epochs), float(rate))
    metrics = {"train_loss": loss, "num-examples": len(loader.dataset)}
    content = {"arrays": ArrayRecord(net.state_dict()), "metrics": MetricRecord(metrics)}
    return Message(content=RecordDict(content), reply_to=message)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Answer with loss and accuracy on this node's held-out images."""
    net, (_, loader) = _net(message), _data(context)
    loss, accuracy = test_net(net, loader)
    metrics = {"eval_loss": loss, "eval_acc": accuracy, "num-examples": len(loader.dataset)}
    return Message(content=RecordDict({"metrics": MetricRecord(metrics)}), reply_to=message)


def _net(message: Message) -> Net:
    net = Net()
    net.load_state_dict(message.content.array_records["arrays"].to_torch_state_dict())
    return net


def _data(context: Context) -> tuple[Loader, Loader]:
    return load_data(
        int(context.node_config["partition-id"]), int(context.run_config["batch-size"])
    )
