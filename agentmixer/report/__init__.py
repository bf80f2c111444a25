"""What people look at: pages of bundles, runs and comparisons, in one HTML file each."""
