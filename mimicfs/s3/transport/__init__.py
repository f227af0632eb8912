"""HTTP to S3 and back: imports nothing of the other rooms of s3.

answers      the part of a body that can be read
http         connections, with limits of time
proxies      which requests go to a proxy
plain        plain HTTP/1.1 in few steps; the rest is http.client's
wire         GetObject, HeadObject, PutObject and UploadPart, signed by ourselves
signing      AWS Signature Version 4, in headers
verbatim     the header Expires, as it was written
filters      the filters of notification rules, those of Ceph too
everywhere   signatures for all regions at once (multi-region access points)
express      sessions for directory buckets
regional     addresses presigned for the host that botocore's calls go to
calls        the types of a call
credentials  the keys that sign requests, loaded anew when S3 calls them expired
traffic      counts requests, and logs slow ones
backoff      how long to wait before a request is sent again
errors       turns errors of botocore and refusals of S3 into the errors of mimicfs
advice       what to do about an error
"""
