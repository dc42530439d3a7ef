"""The stages of a selection, one function each; components and the command line call nothing else.

A stage reads its config by URI, gets and gives strings, and leaves files in the workspace. It runs measure, decide and
apply as steps of the step store, so that the same work is never done twice.
"""
