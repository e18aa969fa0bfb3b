"""Faults that `make mutants` plants, one at a time: the tests named must notice each of them."""

from tests.mutants.faults import methods, reports_and_exports

FAULTS = (*methods.FAULTS, *reports_and_exports.FAULTS)
