"""MicroVMs: the hypervisor, its template, the guest and how to talk to it."""
