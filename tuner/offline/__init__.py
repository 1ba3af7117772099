"""Offline: job folders, measured on another machine that has the target and no compiler."""
