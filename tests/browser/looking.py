"""What a page in the browser shows, asks for and complains of."""

import base64
import io
from typing import Any

import matplotlib.image


def pixels(browser: Any) -> Any:
    """What is seen, as RGB from 0 to 1."""
    shot = browser.call("Page.captureScreenshot", format="png")["data"]
    return matplotlib.image.imread(io.BytesIO(base64.b64decode(shot)))[..., :3]


def asked_for(events: list[dict[str, Any]]) -> list[str]:
    """Every address that a page asked for, whether or not it got an answer."""
    requests = [e["params"] for e in events if e["method"] == "Network.requestWillBeSent"]
    sockets = [e["params"] for e in events if e["method"] == "Network.webSocketCreated"]
    urls = [params["request"]["url"] for params in requests] + [one["url"] for one in sockets]
    return [url for url in urls if not url.startswith("data:")]


def complaints(events: list[dict[str, Any]]) -> list[Any]:
    """Of scripts, of the console, of the page's own policy."""
    methods = {
        *("Runtime.exceptionThrown", "Runtime.consoleAPICalled"),
        *("Log.entryAdded", "Audits.issueAdded"),
    }
    return [event["params"] for event in events if event["method"] in methods]
