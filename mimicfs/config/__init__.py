"""The options, and the settings in force.

values    the settings as frozen dataclasses, which all other rooms use
options   each option: its names as a flag, after -o, in the environment, in the file
aws       the endpoint that the files of the AWS configuration name
given     the words after -o and the variables of the environment, read and checked
file      the configuration file, read and checked
settled   the settings in force: flags override -o, the environment, the file, the defaults
rules     rules by pattern: the settings with which an object is stored, by its key
written   the form of these rules in the file
tags      the tags that S3 accepts for an object
classes   storage classes, and the right one for a misspelt one
sizes     a number of bytes as people write it
masking   takes out of texts what looks like a secret
limits    limits by time of day, and prices
moments   a moment as people write it
peers     the options of s3fs, rclone, mountpoint, goofys and JuiceFS, and ours for each
"""
