"""The only room that makes AWS clients, and that speaks to DynamoDB and S3: what is kept, and how.

For counting, billing, the portal, the handlers and the operator's tools; it knows the model alone.
"""
