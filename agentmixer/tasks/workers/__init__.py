"""Environments in worker processes, whatever simulates them: rows that they write, chunks of them, pools, and the task."""
