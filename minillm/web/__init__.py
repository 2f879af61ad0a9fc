"""The page, to read the engine and to play with it.

read/     static pages from the sources: derivation, forward, backward, kernel     minillm read
play/     a local page with a model alive behind it                                minillm play
look/     what both share: style, and the parts of a page in plain JavaScript
page.py   one HTML file with all it needs inside
"""
