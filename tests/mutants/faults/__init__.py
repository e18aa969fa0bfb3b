"""Faults that `make mutants` plants, one at a time: the tests named must notice each of them."""

from tests.mutants.faults import methods, newer_methods, own_data, reports_and_exports, resuming, sharing

FAULTS = (
    *methods.FAULTS,
    *newer_methods.FAULTS,
    *own_data.FAULTS,
    *reports_and_exports.FAULTS,
    *resuming.FAULTS,
    *sharing.FAULTS,
)
