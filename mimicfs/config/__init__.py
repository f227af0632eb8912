"""The options, and the settings in force.

values    the settings as frozen dataclasses, which every other room is given
options   each option: its names as a flag, after -o, in the environment, in the file
aws       the endpoint that the files of the AWS configuration name
given     what users give after -o and in the environment, read and checked
file      the configuration file, read and checked
settled   the settings in force: flags override -o, the environment, the file, the defaults
rules     rules by pattern: what is stored with an object by its key
written   the form of these rules in the file
tags      what S3 takes as the tags of an object
classes   storage classes, and which a misspelt one may be
sizes     a number of bytes as people write it
masking   what looks like a secret, taken out of texts
limits    limits by time of day, and prices
moments   a moment as people write it
peers     the options of s3fs, rclone, mountpoint, goofys and JuiceFS, and ours for each
"""
