"""The main job: ``secagg train``, a private federated training in one process.

``loop`` is the training, ``modes`` the ways to be private, ``data`` and ``settings`` what it runs
on, ``runs`` its folder, ``report``, ``description`` and ``threat_table`` what it tells people.
``loop`` and ``modes`` need the extra ``train``, so nothing is imported here; ``secagg.load_run``
reads a folder without it.
"""

__all__: list[str] = []
