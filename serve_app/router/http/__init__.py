"""HTTP/1.1 to providers: connections, the pool of them, and which addresses they may go to."""
