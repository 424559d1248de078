"""Checks: what a Machinefile may say and probably should not. The rules and their names are BuildKit's."""
