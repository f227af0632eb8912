"""Mimicking: what S3 says is learned, and what the mirror knows is not asked.

mimic         the way of a call of a boto3 client: to S3 or to the mirror
local         which calls the mirror answers, and how
hooks         whether a program's hooks may change what a call asks
accounts      whose list of buckets the mirror has
operations    what each operation of S3 does to what the mirror has
pages         pages of listings, and where they go on
learning      what S3's answers teach the mirror
shown         what answers and parameters show of objects
sent          how large a body a call sends
uploads       multipart uploads that are under way
answers       answers in the form of boto3's, made from what the mirror has
conversation  one code for clients that block and for those that are awaited
session       a boto3 session whose clients mimic
"""
