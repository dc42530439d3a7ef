"""What people see in a terminal: progress bars, rankings, the data funnel, the list of filters."""

from damoc.terminal.selection import SelectionDisplay, print_selection

__all__ = ["SelectionDisplay", "print_selection"]
