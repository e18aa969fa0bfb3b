"""The report that people look at: one HTML file without scripts, and its figures as SVG and PNG. No torch here.

Charts are drawn by matplotlib and stand in the page as SVG, whose colours follow the page's (light, dark, paper). A
charting library in the browser would be larger than all else on the page (plotly.js: 4 MB) and would show nothing
where scripts are off, on paper, or to a screen reader. So each chart has a sentence that says what it shows, its
numbers as a table below it, and titles on its marks for the mouse. matplotlib is imported only where one is drawn.
"""
