"""The supervisor that runs inside every sandbox, as its first process; it imports nothing from outside this folder.

It starts in every sandbox before anybody needs it, so it imports only modules written in C; what an operation needs is
imported when the operation is first used. It runs under the oldest Python we support and under newer ones. The
attacker may take it over: nothing here is trusted by the host, and all here is meant to survive what runs beside it.
"""
