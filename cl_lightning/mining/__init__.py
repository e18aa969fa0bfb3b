"""Mine sequences of conflicting tasks from a pool, by their gradients' cosines."""
