"""What the fault proofs are made with: fast programs, a proxy that breaks answers, an embedded AWS."""
