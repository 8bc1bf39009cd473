"""The action expert: frozen features of μ0 to chunks of actions (paper 3.4, B.4)."""
