"""The report of a selection: one HTML file, PNG plots, and the table rows that it shares with the terminal."""

from damoc.report.html import render
from damoc.report.plots import save_plots
from damoc.report.table import RankingRow, ranking_rows

__all__ = ["RankingRow", "ranking_rows", "render", "save_plots"]
