"""What more than one edge decides."""
