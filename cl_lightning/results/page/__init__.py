"""Writes reports: one HTML file without scripts, and its figures as SVG and PNG. No torch here.

matplotlib draws the charts, which are embedded as SVG and follow the page's colours (light, dark, print). A charting
library in the browser would be larger than the rest of the page (plotly.js: 4 MB) and would show nothing without
scripts, in print, or to a screen reader. Each chart has a one-sentence description, a table of its numbers, and titles
on its marks for the mouse. matplotlib is imported when a chart is drawn.
"""
