"""HTTP to S3 and back: imports nothing of the other rooms of s3.

answers      what of a body can be read
http         connections, with limits of time
plain        plain HTTP/1.1 in few steps; the rest is http.client's
wire         GetObject, HeadObject, PutObject and UploadPart, signed by ourselves
signing      AWS Signature Version 4, in headers
verbatim     Expires as it was written
filters      of notification rules, those of Ceph too
everywhere   signatures for all regions at once (multi-region access points)
express      sessions for directory buckets
regional     addresses presigned for the host that botocore's calls go to
calls        the types of a call
credentials  what requests are signed with, loaded anew when S3 calls it expired
traffic      what is asked, counted; slow requests, logged
backoff      how long to wait before a request is sent again
errors       from what botocore raises and S3 answers to the errors of mimicfs
advice       what to do about an error
"""
