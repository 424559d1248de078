"""The language: text in, a graph of resolved steps out. Pure: reads no network, starts nothing."""
