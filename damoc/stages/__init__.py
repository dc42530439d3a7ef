"""The stages of a selection, one function each; components and the command line call nothing else.

A stage reads its config by URI and leaves files in the workspace; what it is given and what it returns are URIs. It
runs measure, decide and apply as steps of the step store, so that the same work is never done twice.
"""
