"""When periodic tasks are due: a function of the schedule alone, without a clock, a store or a connection."""
