"""Measurements. They print a table and assert nothing: a slow machine is not a fault."""
