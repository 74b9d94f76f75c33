"""Stage 2, serve: answer one request. The data plane, a process of its own (`python -m trimtab.gateway`).

`app` says what is at which path; `answer` is the chain from a question to its reply; `server` and `upstream` speak HTTP
to clients and engines; `routes` says which version answers whom; `shapes` and `stream` translate; `keys` says who may
ask, `limits` and `ledger` how much. It needs a routes file and a journal folder (with keys, their file and a ledger),
nothing else: it keeps answering while control, training and MLflow are away. Nothing heavier than msgspec is imported.
"""
