"""Trainers: each a program of its own, run as `python -m`, so that torch never enters a serving process."""
