"""The only room that knows DynamoDB, S3 and the AWS clients: what is kept, and how it is read and written.

For counting, billing, the portal, the handlers and the operator's tools; it knows the model alone.
"""
