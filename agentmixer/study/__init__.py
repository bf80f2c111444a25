"""What judges training: comparisons over seeds, what a Policy Modifier does, equilibria of matrix games."""
