"""What several modules do together, on tables in memory, moto and the local Stripe."""
