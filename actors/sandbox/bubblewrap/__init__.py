"""The embedded default of sandboxes: bubblewrap, cgroups and a system call filter of our own."""
