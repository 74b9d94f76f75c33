"""Guards: what looks at a question before the model sees it, and at an answer before the caller does.

Pure and light: the gateway imports them, so nothing here loads numpy. One module a kind of guard; `guard_set` runs the
ones a version declares, `holding` cuts a streamed answer into pieces that can be judged.
"""
