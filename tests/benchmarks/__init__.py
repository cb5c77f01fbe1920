"""What things take, beside a floor of the same run."""
