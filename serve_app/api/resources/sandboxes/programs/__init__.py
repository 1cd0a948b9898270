"""Programs in a sandbox: run, interpreted, listed, ended."""
