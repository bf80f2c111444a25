"""The host of a deployed team: its agents' processes, their links, one step after the other, and a link that fails."""
