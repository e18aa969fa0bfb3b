"""Is this data fit to train on? Checks, published sizes and checksums, downloads."""
