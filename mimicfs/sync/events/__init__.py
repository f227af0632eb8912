"""What S3 tells us: messages about a bucket, and what the mirror makes of them.

messages  one parser for the messages of every source (pure)
source    what a source promises
sqs       an SQS queue
hearing   which records the mirror can leave alone, and what it asks S3 about the others
consumer  takes messages, has them heard, acknowledges them
"""
