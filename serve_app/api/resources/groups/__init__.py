"""Groups: users who share limits and budgets."""
