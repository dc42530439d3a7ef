"""DECIDE: the ranking, how sure it is, and the record of a selection."""
