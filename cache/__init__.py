"""The store: keys, blobs, the index of results, locks. Knows steps by their records only."""
