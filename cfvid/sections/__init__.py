"""The typed sections of a configuration, one for each stage and for each protocol of transfer."""
