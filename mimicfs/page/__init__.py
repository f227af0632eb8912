"""The web page of a mount (--ui): plain HTML and SVG, made by the process that serves the mount.

It only shows, and can change nothing.

document  the page as a whole             sections  its sections
markup    HTML and SVG as values: text becomes markup only here
plots     plots of the last hour          hour      the samples of the last hour
meanings  the meanings of errors          warned    the last warnings of the log
"""
