"""A report in one HTML file, which needs no network and is safe to send.

    model.py     what a page consists of: tables, bars, trees, lines
    figures.py   records, costs and rows as these
    lines.py     a column of a sweep over an axis
    timeline.py  a call in time, from its log
    parts.py     how a bar is cut
    page.py      a page as text, all of it escaped
    page.html, page.css, page.js   template, style and script

Data from files and processes is text or an attribute of the template, escaped by jinja2;
none of it is in the script.  The page's policy (Content-Security-Policy) lets a browser
run only that script and load nothing.
"""

from jaxmig.show.html.figures import calls, heading, rows_table
from jaxmig.show.html.lines import lines_over
from jaxmig.show.html.model import Bars, Cell, Lines, Page, Section, SortableTable, Tree
from jaxmig.show.html.page import render

__all__ = [
    "Bars",
    "Cell",
    "Lines",
    "Page",
    "Section",
    "SortableTable",
    "Tree",
    "calls",
    "heading",
    "lines_over",
    "render",
    "rows_table",
]
