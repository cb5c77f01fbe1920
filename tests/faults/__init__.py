"""Random schedules under every fault, with a referee."""
