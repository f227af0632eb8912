"""The web page of a mount (--ui): plain HTML and SVG, made by the process that serves the mount.

It only shows; nothing can be changed by it. `markup` is the one place where text becomes HTML.
"""
