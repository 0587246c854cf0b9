"""The main job: ``secagg train``, a private federated training in one process.

``loop`` is the training, ``secagg.Trainer``: of the built-in model or of your own. ``modes`` are
the ways to be private, ``data``, ``settings`` and ``tasks`` what it runs on, ``devices`` which
clients do less, ``optimizers`` how the common model follows, ``books`` what was spent, ``runs`` its
folder, ``callbacks`` who else is told, ``report``, ``description`` and ``threat_table`` what it
tells people. Most need the extra ``train``, so nothing is imported here; ``secagg.load_run`` reads
a folder without it.
"""

__all__: list[str] = []
