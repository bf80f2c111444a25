"""Centralised training: networks, the joint policy, algorithms, checkpoints and evaluation."""
