"""The evidence: what a deployed team does, held against what was trained."""
