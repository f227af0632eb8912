"""Mimicking: a client learns from the answers of S3, and does not ask what the mirror knows.

mimic         the way of a call of a boto3 client: to S3 or to the mirror
local         which calls the mirror answers, and how
forms         whether botocore refuses a call for its form
hooks         whether a program's hooks change what a call asks or is answered
accounts      whose list of buckets the mirror has
operations    what each operation of S3 does to what the mirror has
pages         pages of listings, and where they go on
learning      what S3's answers teach the mirror
reads         what S3 shows of an object, and the mirror learns
rememberedheads  what HEADs have said, and the calls that end it
settling      what is asked, doubted or forgotten where an answer does not say what there is now
shown         what answers and parameters show of objects
sent          what a call sends in the end: the size of its body, and its question
soleversions  listings of versions where there are none
transfers     which calls are those of s3transfer
uploads       multipart uploads that are under way
answers       answers in the form of boto3's, made from what the mirror has
conversation  one code for clients that block and for those that are awaited
session       a boto3 session whose clients mimic
"""
