"""The control process: the loop in the background, its state as JSON, and the dashboard, all from the same records.

What the page can do, the control API and the command line can do too.
"""
