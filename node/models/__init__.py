"""Inference: the worker process and what schedules it."""
