"""The messages of S3 about a bucket, and what the mirror does with them.

messages  one parser for the messages of every source (pure)
source    what a source promises
sqs, endpoint, redisqueue   the sources
hearing   which records the mirror can ignore, and what it asks S3 about the others
consumer  takes messages, applies them, acknowledges them
ledger    until when S3 has told of each bucket, and what was missed
looks     whether S3 is configured to tell the source of each bucket
claim     whether another store takes messages from the same source
election  which member of a store takes the messages
setup     makes S3 send messages to a queue; notification: the configuration of a bucket (pure)
"""
