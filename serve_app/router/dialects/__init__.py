"""One file per wire format and direction, all to and from the canonical message type."""
