"""The product API: HTTP and SSE in and out, one folder per noun."""
