"""Budgets: what a scope may spend, and what it has spent."""
