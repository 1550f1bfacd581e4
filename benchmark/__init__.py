"""Harness of the reference benchmark of backdoor defenses."""
