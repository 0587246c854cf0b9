"""What is said of the version at hand is what the code says."""

import re
from pathlib import Path

import pytest
from hatchling.metadata.core import ProjectMetadata
from hatchling.plugin.manager import PluginManager

from dp.ledger.ledger import SCHEMA_VERSION
from protocols.bonawitz import records as bonawitz
from protocols.bonawitz.params import VERSION as BONAWITZ
from protocols.ckks import records as ckks
from protocols.ckks.params import VERSION as CKKS
from secagg.nodes import identities, node, proposal

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "releasing.md").read_text("utf-8")


@pytest.fixture(scope="module")
def metadata() -> ProjectMetadata:
    return ProjectMetadata(str(ROOT), PluginManager())


def test_the_row_of_this_version_is_what_the_code_writes(metadata: ProjectMetadata) -> None:
    row = re.search(rf"^\| {re.escape(metadata.version)} \| (.*) \|$", PAGE, re.MULTILINE)
    assert row is not None
    labels = [BONAWITZ, CKKS, node.REQUESTED, bonawitz.RECORD, ckks.RECORD, node._STATE]
    masks, sealed, proposed, client, holder, sealed_state = (
        f"`{text.decode()}`" for text in labels
    )
    assert row[1].split(" | ") == [
        masks,
        sealed,
        f"{proposed}, {proposal.VERSION}",
        str(SCHEMA_VERSION),
        client,
        holder,
        sealed_state,
        f"`{identities.FORMAT.decode()}`",
    ]


def test_the_citation_is_of_this_version_and_licence(metadata: ProjectMetadata) -> None:
    citation = (ROOT / "CITATION.cff").read_text("utf-8").splitlines()
    assert f"version: {metadata.version}" in citation
    assert f"license: {metadata.core.license_expression}" in citation


def test_the_template_asks_the_five_questions() -> None:
    contributing = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    template = (ROOT / "docs" / "pull_request_template.md").read_text("utf-8")
    questions = re.findall(r"^\d\. .*\?$", contributing, re.MULTILINE)
    assert len(questions) == 5
    assert re.findall(r"^\d\. .*\?$", template, re.MULTILINE) == questions
