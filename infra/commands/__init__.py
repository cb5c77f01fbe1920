"""The commands of the ``metering`` command line, by what they are about."""
