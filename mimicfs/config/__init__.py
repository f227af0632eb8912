"""What can be chosen, and what is in force.

values    the choices as frozen dataclasses, which every other room is given
options   each option: its names as a flag, after -o, in the environment, in the file
file      the configuration file, read and checked
settled   what is in force: flags before -o, the environment, the file, the defaults
"""
