"""Devices, memory, processes and progress."""
