"""The requests of mimicfs to S3. Errors of S3 become ours.

client        each request, as a method
account       the account that the settings mean, remembered
sparing       what botocore does at its start, and nobody needs
clients       the boto3 clients, and the layers that each of their calls passes
layers        how these layers are put together
addressing    whether they name a bucket in the path or in the host
pool          the threads in which requests run, and how many at once
lister        LIST requests
listing       a page of a LIST, parsed and checked
versions      a page of a ListObjectVersions, parsed and checked
times         the times in answers          trail       where the tokens of a listing lead
past          S3 as it was at a moment      pastclient  a boto3 client of a moment
conditions    whether a server checks the conditions of writes
capabilities  what else a server can do     profiles    what providers are known to do
believing     which answers confirm something
hidden        objects that a server hides while it replaces them
copying       copies within S3, in one request or in parts
deleting      deletions of many keys
sending       bodies, each with a checksum  checksums   checksums of bodies and objects
together      requests of small objects that one thread sends together
putting       small objects, put so             getting     small objects, read ahead so
content       headers and metadata of an object
encryption    the KMS keys of objects, which copies must name
kept          what must not be lost when an object is written again
rules         what the options of a bucket add to a request
ownkeys       the keys that mimicfs makes and deletes again
examine       the checks of a server and the credentials, for `mimicfs doctor`
scratch       the checks of a server that write
borrowed      the requests of a sync, through another program's client
queue         an SQS queue of messages      queues      making and removing queues
"""
