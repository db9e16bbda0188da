"""Whole questions: a process, a scenario, a grid of configurations, a published figure."""
