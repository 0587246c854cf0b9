"""Attacks on what training releases, carried out: what an epsilon is worth against them.

| module | who attacks | what for |
|---|---|---|
| ``membership`` | whoever gets the model | was this example, or client, in the training? |
| ``canaries`` | its own auditor, who plants them | a bound on epsilon, or an estimate |
| ``inversion`` | whoever sees an update, or a sum | the pictures behind it |
| ``suite`` | all of them | what ``secagg bench attack`` shows |

Data is chosen by a seed; keys, noise and coins come from the system, whatever the seed. A weak
attack proves nothing good of the defence: numbers here are of these attacks on this data.
"""
