"""Architectures: one file each, and every timm model by name."""
