"""What mimicfs itself asks of S3, with its errors as ours.

client      each request, as a method
account     which account settings mean, remembered
clients     the boto3 clients and our own wire that they go over
lister      LIST requests
listing     a page of a LIST, parsed and checked
conditions  whether a server looks at conditions of writes
copying     copies within S3, in one request or in parts
content     headers and metadata of what is stored
checksums   checksums of whole objects
rules       what the options of a bucket make of a request
examine     what a server and the credentials can do, for `mimicfs doctor`
borrowed    what a sync needs, over somebody else's client
"""
