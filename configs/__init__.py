"""What an operator may change: typed settings and the model catalogue."""
