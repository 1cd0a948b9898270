"""PostgreSQL: the one place that knows SQLAlchemy and SQL."""
