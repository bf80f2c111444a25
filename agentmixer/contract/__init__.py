"""What every stage agrees on: task specifications, manifests and digests. No torch, no tasks."""
