"""What the backends that run images share: the places inside, a trial of every limit, work in threads."""
