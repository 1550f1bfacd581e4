"""Drives jobs over workers."""
