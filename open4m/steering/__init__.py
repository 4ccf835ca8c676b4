"""Steering, measured: sweeps of a control, ensembles and their uncertainty, searched chains of intermediates."""
