"""The work: pulls bases, plans, makes layers, runs steps in microVMs, writes images."""
