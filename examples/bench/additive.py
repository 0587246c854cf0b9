"""Additive shares among all clients: secagg bench costs --protocol additive:Additive.

Each client deals its vector out in random parts that add up to it, one for every client. Each
adds the parts it got, and the server adds those sums. The parts go through the server in the
open, so this one hides nothing from it: it shows how a protocol enters the bench.
"""

import os

import numpy as np

from secagg.bench import Case
from secagg.errors import InputError


class Additive:
    """One round: stage 0 deals the parts, stage 1 adds them."""

    stages, vector_stage = 2, 0

    def __init__(self, case: Case) -> None:
        if case.dropout:
            raise InputError("additive shares: a sum without one client's share is random")
        self.clients, self.sums = case.clients, []

    def client(self, client, stage, received, vector):
        if stage == 1:
            parts = np.frombuffer(received, np.uint64).reshape(self.clients, -1)
            return parts.sum(axis=0).tobytes()
        parts = np.frombuffer(os.urandom(8 * self.clients * len(vector)), np.uint64)
        parts = parts.reshape(self.clients, -1).copy()
        parts[0] += vector - parts.sum(axis=0)
        return parts.tobytes()

    def server(self, stage, sent):
        tables = [np.frombuffer(each, np.uint64) for each in sent.values()]
        if stage == 1:
            self.sums = tables
            return {}
        dealt = np.stack([table.reshape(self.clients, -1) for table in tables], axis=1)
        return {client: dealt[client].tobytes() for client in sent}

    def total(self):
        return np.sum(self.sums, axis=0, dtype=np.uint64)
