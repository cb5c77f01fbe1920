"""The whole way, on the deployed stack in the embedded AWS."""
