"""The built-in sample: small synthetic tasks in TRACE's formats, made in code."""
