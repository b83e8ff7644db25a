"""The promises of the design (P1 …), each kept or broken by real processes and real signals."""
