"""The way out of sandboxes: a proxy that reaches allowed hosts only, and calls that carry secrets programs never see."""
