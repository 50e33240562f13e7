"""Frozen values: instants, machines, CPUs, cases, outcomes. No I/O happens here."""
