"""The noise process without networks: schedule, samplers, guidance."""
