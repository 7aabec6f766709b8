"""Experiments -> `mi_report.html`, one page that opens offline, and every figure in it as PNG and PDF.

===============  ================================================
writing          writes the page and the figures
report_data      everything that a report is about, read once
sections         the numbers, tables and figures of every section
words            the findings in plain words
page.html.jinja  the page: its words, markup, style and script
===============  ================================================
"""
