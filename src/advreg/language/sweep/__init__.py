"""The sweep: how attacks fail, and what that costs, for several adversarial shares and learning rates of one model."""
