"""Differential privacy: what a release costs, how much noise it needs, and the books on disk.

Nothing here talks, waits or tells the time. ``dp.events`` says what was released,
``dp.accountant`` what it costs, ``dp.calibrate`` how much noise a budget asks for, and
``dp.ledger`` keeps the account of every subject. ``dp.mechanisms`` hides a sum in shares of
noise from ``dp.sampling``, and ``dp.sgd`` is the one place that needs torch and Opacus.
``dp.audit`` bounds an epsilon from the other side, by what attacks got right.
"""
