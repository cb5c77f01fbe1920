"""One double of each thing; below all tests, whose kinds import no other kind."""
